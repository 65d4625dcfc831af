package bundler

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// lockPoll is how often a folder's lock is tried again while another process holds it.
const lockPoll = 100 * time.Millisecond

// TryLockFolder takes the lock of a folder that files are written to, and says whether it could. The lock is on the
// folder itself, so it adds no file, and it ends with the process that holds it: who holds it may remove every
// unfinished file in the folder, because nobody is writing one.
func TryLockFolder(dir string) (unlock func(), ok bool, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, false, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, false, nil
		}
		return nil, false, fmt.Errorf("locking %s: %w", dir, err)
	}
	return func() { f.Close() }, true, nil // which gives the lock back
}

// LockFolder takes the lock of a folder, and waits for it while another process holds it.
func LockFolder(ctx context.Context, dir string) (unlock func(), err error) {
	for {
		unlock, ok, err := TryLockFolder(dir)
		if ok || err != nil {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}
