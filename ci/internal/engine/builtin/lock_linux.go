package builtin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockPoll is how often a lock held by another process is tried again.
const lockPoll = 100 * time.Millisecond

// lockDir creates the folder if need be, locks it against other processes and
// returns what unlocks it. A folder, not a file in it, is locked: the holder
// may remove the folder and leave nothing behind. busy is called once if the
// lock is held by somebody else.
func lockDir(ctx context.Context, dir string, perm os.FileMode, busy func()) (unlock func(), err error) {
	for {
		if err := os.MkdirAll(dir, perm); err != nil {
			return nil, fmt.Errorf("locking %s: %w", dir, err)
		}
		f, err := os.Open(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed by its last holder in between
		}
		if err != nil {
			return nil, fmt.Errorf("locking %s: %w", dir, err)
		}
		for {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
			if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
				break
			}
			if busy != nil {
				busy()
				busy = nil
			}
			select {
			case <-ctx.Done():
				f.Close()
				return nil, fmt.Errorf("waiting for the lock on %s: %w", dir, context.Cause(ctx))
			case <-time.After(lockPoll):
			}
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", dir, err)
		}
		// The lock is worth something only while the path still leads to it.
		held, errHeld := f.Stat()
		current, errCurrent := os.Stat(dir)
		if errHeld == nil && errCurrent == nil && os.SameFile(held, current) {
			return func() { f.Close() }, nil
		}
		f.Close()
	}
}
