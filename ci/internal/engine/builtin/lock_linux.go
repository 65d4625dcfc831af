package builtin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/gofrs/flock"
)

// lockPoll is how often a lock held by another process is tried again.
const lockPoll = 100 * time.Millisecond

// lockDir creates the folder if need be, locks it against other processes and
// returns what unlocks it. A folder, not a file in it, is locked: the holder
// may remove the folder and leave nothing behind. busy is called once if the
// lock is held by another process.
func lockDir(ctx context.Context, dir string, perm os.FileMode, busy func()) (unlock func(), err error) {
	for {
		if err := os.MkdirAll(dir, perm); err != nil {
			return nil, fmt.Errorf("locking %s: %w", dir, err)
		}
		lock := flock.New(dir, flock.SetFlag(os.O_RDONLY))
		locked, err := lock.TryLock()
		if err == nil && !locked {
			if busy != nil {
				busy()
				busy = nil
			}
			if _, err = lock.TryLockContext(ctx, lockPoll); err != nil && ctx.Err() != nil {
				err = fmt.Errorf("waiting for the holder: %w", context.Cause(ctx))
			}
		}
		if errors.Is(err, os.ErrNotExist) {
			continue // removed by its last holder in between
		}
		if err != nil {
			lock.Close()
			return nil, fmt.Errorf("locking %s: %w", dir, err)
		}
		// The lock is worth something only while the path still leads to it.
		held, errHeld := lock.Stat()
		current, errCurrent := os.Stat(dir)
		if errHeld == nil && errCurrent == nil && os.SameFile(held, current) {
			return func() { lock.Close() }, nil
		}
		lock.Close()
	}
}
