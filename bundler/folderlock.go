package bundler

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/gofrs/flock"
)

// TryLockFolder takes the lock of a folder that files are written to, and reports whether it could.
// The lock is on the folder itself, so it adds no file, and it ends with the process that holds it:
// the holder may remove every unfinished file in the folder, because no other process is writing one.
func TryLockFolder(dir string) (unlock func(), ok bool, err error) {
	return lockFolder(dir, (*flock.Flock).TryLock)
}

// LockFolder takes the lock of a folder, and waits for it while another process holds it.
func LockFolder(ctx context.Context, dir string) (unlock func(), err error) {
	const poll = 100 * time.Millisecond
	unlock, _, err = lockFolder(dir, func(lock *flock.Flock) (bool, error) { return lock.TryLockContext(ctx, poll) })
	return unlock, err
}

func lockFolder(dir string, take func(*flock.Flock) (bool, error)) (unlock func(), ok bool, err error) {
	lock := flock.New(dir, flock.SetFlag(os.O_RDONLY))
	if ok, err = take(lock); err != nil {
		err = fmt.Errorf("locking %s: %w", dir, err)
	}
	if !ok {
		lock.Close()
		return nil, false, err
	}
	return func() { lock.Close() }, true, nil
}
