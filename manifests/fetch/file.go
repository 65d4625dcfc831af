package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
)

// lockFolder keeps other processes out of a folder that is being filled, by a lock on the folder itself: it leaves no file
// in it. Where the file system has no such locks there is none.
func (c *Client) lockFolder(ctx context.Context, dir string) (unlock func() error, err error) {
	const poll = 100 * time.Millisecond
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for told := false; unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == unix.EWOULDBLOCK; {
		if c.Waiting != nil && !told {
			c.Waiting(Holder{})
		}
		told = true
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-time.After(poll):
		}
	}
	return f.Close, nil
}

// fetchFile brings bytes of a known digest to a file, which is there whole or not at all.
func (c *Client) fetchFile(ctx context.Context, name string, size int64, sha256 string, urls []string, target string) error {
	partial := target + ".partial"
	blob := transfer.Blob{Name: name, Size: size, SHA256: sha256, URLs: urls}
	if err := c.transfer().Fetch(ctx, blob, partial, nil, c.Progress); err != nil {
		return err
	}
	return os.Rename(partial, target)
}

// replaceFile writes a file that is there as it was, or as it shall be.
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

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
