package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// A SeenPointer is the release pointer of the highest number that was seen of one signer.
type SeenPointer struct {
	Signer  string
	Pointer manifests.Pointer
}

// seenRecord is how it lies in the store. Statement is what manifests.EncodePointer writes.
type seenRecord struct {
	Signer    string          `json:"signer"`
	Statement json.RawMessage `json:"statement"`
}

// A PointerRecordError is a record of a release pointer that cannot be read. By itself, it is not a
// reason to start over: otherwise an attacker who can damage a file could roll a machine back.
type PointerRecordError struct {
	Path string
	Err  error
}

func (e *PointerRecordError) Error() string { return fmt.Sprintf("reading %s: %v", e.Path, e.Err) }
func (e *PointerRecordError) Unwrap() error { return e.Err }

// Hint says what helps.
func (e *PointerRecordError) Hint() string {
	return "the file records the newest release pointer seen, so that no older one is accepted; remove the file to start again with the next one, or name a release with --release TAG"
}

// pointerFile is where the pointer of a signer lies. Names of signers are addresses, or worse.
func pointerFile(signer string) string {
	sum := sha256.Sum256([]byte(signer))
	return filepath.Join(pointersDir, hex.EncodeToString(sum[:16])+".json")
}

// SeenPointer is the release pointer of the highest number that SeePointer was given of a signer;
// false if there is none.
func (s *Store) SeenPointer(signer string) (manifests.Pointer, bool, error) {
	path := s.path(pointerFile(signer))
	seen, err := readPointer(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return manifests.Pointer{}, false, nil
	case err == nil && seen.Signer != signer:
		err = &PointerRecordError{path, errors.New("it is of another signer")}
	}
	return seen.Pointer, err == nil, err
}

// SeenPointers are those of all signers that can be read. The error joins those of the others.
func (s *Store) SeenPointers() ([]SeenPointer, error) {
	files, _ := filepath.Glob(s.path(pointersDir, "*.json")) // the pattern is good
	var list []SeenPointer
	var damaged []error
	for _, file := range files {
		seen, err := readPointer(file)
		if err != nil {
			damaged = append(damaged, err)
			continue
		}
		list = append(list, seen)
	}
	return list, errors.Join(damaged...)
}

func readPointer(path string) (SeenPointer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return SeenPointer{}, err
	}
	var record seenRecord
	if err := json.Unmarshal(data, &record); err != nil {
		return SeenPointer{}, &PointerRecordError{path, err}
	}
	p, err := manifests.DecodePointer(record.Statement)
	if err != nil {
		return SeenPointer{}, &PointerRecordError{path, err}
	}
	return SeenPointer{record.Signer, p}, nil
}

// SeePointer remembers a release pointer of a signer, so that older ones are no longer followed. It
// refuses one that may not come after the one seen before, with a *manifests.PointerBackError.
func (l *Locked) SeePointer(signer string, p manifests.Pointer) error {
	seen, any, err := l.SeenPointer(signer)
	switch {
	case err != nil:
		return err
	case any && seen.Equal(p):
		return nil
	case any:
		if err := p.CheckAfter(seen); err != nil {
			return err
		}
	}
	statement, err := manifests.EncodePointer(p)
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(seenRecord{signer, statement}, "", "  ")
	if err != nil {
		return err
	}
	return l.replaceFile(l.path(pointerFile(signer)), append(data, '\n'))
}
