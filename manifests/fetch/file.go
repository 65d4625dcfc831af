package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
)

// lockFolder keeps other processes out of a folder that is being filled, by a lock on the folder
// itself: it leaves no file in it. Where the file system has no such locks there is none.
func (c *Client) lockFolder(ctx context.Context, dir string) (unlock func() error, err error) {
	const poll = 100 * time.Millisecond
	lock := flock.New(dir, flock.SetFlag(os.O_RDONLY))
	locked, err := lock.TryLock()
	if err == nil && !locked {
		if c.Waiting != nil {
			c.Waiting(Holder{})
		}
		_, err = lock.TryLockContext(ctx, poll)
	}
	var notOpened *fs.PathError
	if errors.As(err, &notOpened) || err != nil && ctx.Err() != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock.Close, nil
}

// fetchFile downloads a file of a known digest. It is there whole or not at all.
func (c *Client) fetchFile(ctx context.Context, name string, size int64, sha256 string, urls []string, target string) error {
	partial := target + ".partial"
	blob := transfer.Blob{Name: name, Size: size, SHA256: sha256, URLs: urls}
	if err := c.transfer().Fetch(ctx, blob, partial, nil, c.Progress); err != nil {
		return err
	}
	return os.Rename(partial, target)
}

// replaceFile writes a file atomically: a reader sees the old contents or the new ones, and nothing
// in between.
func replaceFile(target string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(target), "."+filepath.Base(target)+"-")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), target)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// digestOf returns the sha256 of some bytes, in hex.
func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
