package release

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/ci/internal/filestamp"
	"github.com/waqasm86/llcuda-farm/manifests"
)

// A Ledger knows archives that this very program wrote or read before, so that a build need not
// read them again: half a gigabyte of CUDA libraries, mostly. It goes by what make goes by, and
// more: an archive counts as the one that was noted while its file is the same one, with the same
// size and times, the time of its last change included. Whether its bytes are right is for verify
// to say, which knows no ledger. A nil Ledger knows nothing.
type Ledger struct {
	dir  string
	tool string // the program's own digest: another one may write and read archives differently
}

// A ledgerEntry is what is known of one archive.
type ledgerEntry struct {
	Tool     string             `json:"tool"`
	Stamp    string             `json:"stamp"`
	Key      string             `json:"key,omitempty"` // names what the archive was made from
	Artifact manifests.Artifact `json:"artifact"`
	// Libraries are what the archive takes from CUDA's libraries and gives of them, once that was read.
	Libraries *bundler.Libraries `json:"libraries,omitempty"`
}

// OpenLedger opens the ledger of a cache folder.
func OpenLedger(cache string) (*Ledger, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	sum, err := sumOf(program)
	if err != nil {
		return nil, fmt.Errorf("reading this program: %w", err)
	}
	l := &Ledger{filepath.Join(cache, "known"), sum}
	return l, os.MkdirAll(l.dir, 0o755)
}

// entry is the file that holds what is known of an archive.
func (l *Ledger) entry(archive string) (string, error) {
	abs, err := filepath.Abs(archive)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(abs))
	return filepath.Join(l.dir, hex.EncodeToString(sum[:16])+".json"), nil
}

// read is what was noted of this very file; nil if nothing was.
func (l *Ledger) read(archive string) *ledgerEntry {
	if l == nil {
		return nil
	}
	name, err := l.entry(archive)
	if err != nil {
		return nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	var e ledgerEntry
	if json.Unmarshal(text, &e) != nil || e.Tool != l.tool || e.Stamp == "" || e.Stamp != filestamp.Of(archive) || e.Artifact.Name != filepath.Base(archive) {
		return nil
	}
	return &e
}

// Known says what an archive is, and what it was made from, if that was noted of this very file.
func (l *Ledger) Known(archive string) (artifact manifests.Artifact, key string, ok bool) {
	e := l.read(archive)
	if e == nil {
		return manifests.Artifact{}, "", false
	}
	return e.Artifact, e.Key, true
}

// Libraries are what an archive takes from CUDA's libraries and gives of them; nil if that was not noted of this very
// file.
func (l *Ledger) Libraries(archive string) *bundler.Libraries {
	e := l.read(archive)
	if e == nil {
		return nil
	}
	return e.Libraries
}

// Note writes down what an archive is. Without a key, the one that was noted before stays.
func (l *Ledger) Note(archive, key string, artifact manifests.Artifact) error {
	e := ledgerEntry{Key: key, Artifact: artifact}
	if before := l.read(archive); before != nil {
		e.Libraries = before.Libraries
		if key == "" {
			e.Key = before.Key
		}
	}
	return l.write(archive, e)
}

// NoteLibraries writes down what an archive takes from CUDA's libraries and gives of them.
func (l *Ledger) NoteLibraries(archive string, artifact manifests.Artifact, libraries *bundler.Libraries) error {
	e := ledgerEntry{Artifact: artifact, Libraries: libraries}
	if before := l.read(archive); before != nil {
		e.Key = before.Key
	}
	return l.write(archive, e)
}

func (l *Ledger) write(archive string, e ledgerEntry) error {
	if l == nil {
		return nil
	}
	name, err := l.entry(archive)
	if err != nil {
		return err
	}
	e.Tool, e.Stamp = l.tool, filestamp.Of(archive)
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return WriteFile(name, text)
}
