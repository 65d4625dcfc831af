package hub

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Remove removes a file of a snapshot from the cache, with its bytes and all other names that they have there. The
// repository's folder goes with its last file. What is not a snapshot's file is an error, and stays.
func (c *Client) Remove(file string) error {
	inside, err := filepath.Rel(c.Cache, file)
	parts := strings.Split(filepath.ToSlash(inside), "/")
	if err != nil || len(parts) < 4 || !strings.HasPrefix(parts[0], "models--") || parts[1] != "snapshots" {
		return fmt.Errorf("removing %s: it is not a model's file in the cache %s", file, c.Cache)
	}
	root := filepath.Join(c.Cache, parts[0])
	blob, err := filepath.EvalSymlinks(file)
	if err != nil {
		return fmt.Errorf("removing a model: %w", err)
	}
	blobs, err := filepath.EvalSymlinks(filepath.Join(root, "blobs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing a model: %w", err)
	}
	snapshots := filepath.Join(root, "snapshots")
	var folders []string
	err = filepath.WalkDir(snapshots, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			folders = append(folders, name)
			return err
		}
		if target, err := filepath.EvalSymlinks(name); err != nil || target != blob {
			return nil
		}
		return os.Remove(name)
	})
	if err == nil && filepath.Dir(blob) == blobs { // else the bytes were in the snapshot itself
		err = os.Remove(blob)
	}
	if err != nil {
		return fmt.Errorf("removing a model: %w", err)
	}
	for i := len(folders) - 1; i >= 0; i-- {
		os.Remove(folders[i]) // those that are not empty stay
	}
	os.Remove(filepath.Join(root, "blobs"))
	_, snapshotsErr := os.Lstat(snapshots)
	_, blobsErr := os.Lstat(filepath.Join(root, "blobs"))
	if !errors.Is(snapshotsErr, fs.ErrNotExist) || !errors.Is(blobsErr, fs.ErrNotExist) {
		return nil
	}
	return os.RemoveAll(root) // nothing but refs are left
}
