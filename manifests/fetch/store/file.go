package store

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/manifests/archive"
)

// writeFile writes a file that is on disk when it returns.
func writeFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// replaceFile writes a file of the store atomically: a reader sees the old contents or the new
// ones. The file is on disk when it returns. A process killed meanwhile leaves what it wrote in
// staging, where clean removes it.
func (l *Locked) replaceFile(path string, data []byte) error {
	stage, err := os.MkdirTemp(l.path(stagingDir), "install-")
	if err != nil {
		return err
	}
	beside := filepath.Join(stage, "it")
	if err := writeFile(beside, data); err != nil {
		return err
	}
	return errors.Join(os.Rename(beside, path), SyncFolder(filepath.Dir(path)), os.Remove(stage))
}

// SyncFolder flushes the names in a folder to disk.
func SyncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	if errors.Is(err, unix.EINVAL) { // file systems that have no such thing
		err = nil
	}
	return errors.Join(err, f.Close())
}

// relink makes a link, replacing an existing one, by one rename.
func (l *Locked) relink(target, at string) error {
	stage, err := os.MkdirTemp(l.path(stagingDir), "link-")
	if err != nil {
		return err
	}
	beside := filepath.Join(stage, "it")
	return errors.Join(os.Symlink(target, beside), os.Rename(beside, at), os.Remove(stage))
}

// FileDigest is the sha256 of a file, in hex.
func FileDigest(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := archive.NewDigester(io.Discard)
	if _, err := io.Copy(sum, archive.WithContext(ctx, f)); err != nil {
		return "", err
	}
	return sum.Digest().SHA256, nil
}

// put moves a finished folder to its place. Where another one is there already, as in an
// installation that is repeated, the two are exchanged in one call, so that users of the place
// always find a whole one. Anything there that is not a folder does not belong to the store.
func (l *Locked) put(made, target string) error {
	if info, err := os.Lstat(target); err == nil && !info.IsDir() {
		return notFolder(target)
	}
	err := unix.Renameat2(unix.AT_FDCWD, made, unix.AT_FDCWD, target, unix.RENAME_EXCHANGE)
	switch {
	case err == nil:
		return l.discard(made)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS): // file systems that cannot
		if err := l.discard(target); err != nil {
			return err
		}
	case !errors.Is(err, unix.ENOENT):
		return err
	}
	return os.Rename(made, target)
}

// discard moves a folder to staging and removes it there, so that a folder that is only partly
// removed is cleared away later.
func (l *Locked) discard(path string) error {
	aside, err := os.MkdirTemp(l.path(stagingDir), "old-")
	if err != nil {
		return err
	}
	if err := os.Rename(path, filepath.Join(aside, "it")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(aside)
}
