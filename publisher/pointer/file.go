package pointer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
)

// A File is a Place for farms that have a web server, or a shared disk, of their own.
type File string

// Read implements Place.
func (f File) Read(context.Context) (State, error) { return f.read() }

func (f File) read() (State, error) {
	signed, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, nil
	}
	sum := sha256.Sum256(signed)
	return State{Signed: signed, Version: hex.EncodeToString(sum[:])}, err
}

// Write implements Place. Readers find the old file or the new one. A lock beside it keeps other writers away, as far as
// the file system has locks.
func (f File) Write(_ context.Context, read State, signed []byte, _ string) (err error) {
	dir := filepath.Dir(string(f))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	lock := flock.New(filepath.Join(dir, "."+filepath.Base(string(f))+".lock"))
	if err := lock.Lock(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	switch present, err := f.read(); {
	case err != nil:
		return err
	case present.Version != read.Version:
		return ErrMoved
	}
	beside, err := os.CreateTemp(dir, "."+filepath.Base(string(f))+".*.partial")
	if err != nil {
		return err
	}
	_, err = beside.Write(signed)
	if err = errors.Join(err, beside.Chmod(0o644), beside.Sync(), beside.Close()); err == nil {
		err = os.Rename(beside.Name(), string(f))
	}
	if err != nil {
		return errors.Join(err, os.Remove(beside.Name()))
	}
	return nil
}
