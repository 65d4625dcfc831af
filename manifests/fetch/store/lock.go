package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lockName = "lock"
	// heldSuffix is that of the file beside the lock where the file system has no flock(2), and
	// stealSuffix that of the file by which the lock of a process that has died is removed.
	heldSuffix, stealSuffix = ".held", ".steal"
	// maxRecord bounds what is read of who holds a lock, in bytes.
	maxRecord = 4096
	// lockPoll is how often a waiting process tries again.
	lockPoll = 100 * time.Millisecond
	// heldBeat is how often the holder of a named lock shows that it is alive, and heldStale is the
	// time without such a sign after which the others consider it dead. Network file systems show a
	// change up to 20 seconds late: sshfs(1), dcache_timeout.
	heldBeat, heldStale = 2 * time.Second, 40 * time.Second
)

// A Holder is a process that changes the store.
type Holder struct {
	PID     int       `json:"pid"`
	Command string    `json:"command"`
	Since   time.Time `json:"since"`
}

// A LockError is something in the place of the store's lock that cannot be one.
type LockError struct{ Path, Problem string }

func (e *LockError) Error() string { return e.Path + " " + e.Problem }

// Hint says what helps.
func (e *LockError) Hint() string {
	return "remove " + e.Path + " if nothing else needs it, or choose another folder with --home (LLCUDA_HOME)"
}

// lockFile takes the lock at a path and returns the function that releases it. While another
// process has it, waiting, if not nil, is called once for each such process.
//
// The lock is flock(2), which ends with the process. Network file systems that do not have it get a
// namedLock. Package flock would not do: it follows a link in the lock's place, and does not show
// who has the lock.
func lockFile(ctx context.Context, path string, me Holder, waiting func(Holder)) (unlock func() error, err error) {
	waiting = tellOnce(waiting)
	for {
		f, err := openLock(path)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch err {
		case nil:
			if isAt(f, path) {
				if err := writeHolder(f, me); err != nil {
					return nil, errors.Join(err, f.Close())
				}
				return f.Close, nil
			}
			err = unix.EINTR // it was removed meanwhile: a lock on it excludes no other process
		// flock(2) of NFS, Lustre and some FUSE file systems.
		case unix.ENOLCK, unix.ENOSYS, unix.EOPNOTSUPP:
			f.Close()
			return namedLock{path + heldSuffix, heldBeat, heldStale}.take(ctx, me, waiting)
		case unix.EWOULDBLOCK:
			waiting(readHolder(f))
		}
		f.Close()
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			return nil, &fs.PathError{Op: "flock", Path: path, Err: err}
		}
		if err := sleep(ctx, lockPoll); err != nil {
			return nil, err
		}
	}
}

// tellOnce reports each holder once.
func tellOnce(waiting func(Holder)) func(Holder) {
	var told *Holder
	return func(h Holder) {
		if waiting != nil && (told == nil || *told != h) {
			told = &h
			waiting(h)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// openLock opens the file of a lock, and nothing else that may be in its place: an attacker who can
// write to the folder could place a link there to a file that the attacker cannot write to.
func openLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o666)
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, &LockError{path, "is a link, which llcuda-fetch does not follow"}
	case errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENXIO): // ENXIO: a socket
		return nil, &LockError{path, "is not a file"}
	case err != nil:
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &LockError{path, "is not a file"}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// isAt reports whether an open file is the one at a path.
func isAt(f *os.File, path string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(mine, there)
}

// writeHolder notes in a locked file who has it, for those who wait. A file with any other
// contents, or with a second hard link, is not the store's: it serves as a lock, unchanged.
func writeHolder(f *os.File, me Holder) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Nlink != 1 || info.Size() > 0 && readHolder(f).PID == 0 {
		return nil
	}
	data, err := json.Marshal(me)
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(append(data, '\n'), 0)
	return err
}

// readHolder is who has a lock, as far as that is written down.
func readHolder(f *os.File) Holder {
	var h Holder
	if json.NewDecoder(io.NewSectionReader(f, 0, maxRecord)).Decode(&h) != nil {
		return Holder{}
	}
	return h
}

// A namedLock is a lock by the existence of a file: the process that creates the file has the lock.
// The holder keeps changing the file; once the changes stop, the other processes remove it. Only
// the process that created a second file beside it may remove it, so that no process removes the
// lock of the next holder.
type namedLock struct {
	path        string
	beat, stale time.Duration
}

// A heldRecord is what the file holds.
type heldRecord struct {
	Holder
	Host string `json:"host"`
	Beat int    `json:"beat"`
}

func (n namedLock) take(ctx context.Context, me Holder, waiting func(Holder)) (unlock func() error, err error) {
	var seen []byte
	since := time.Now()
	for {
		f, err := os.OpenFile(n.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
		if err == nil {
			return n.hold(f, me)
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		data, err := n.read()
		switch {
		case err != nil:
			return nil, err
		case seen == nil || !bytes.Equal(data, seen):
			seen, since = data, time.Now()
		case time.Since(since) > n.stale:
			if err := n.steal(seen); err != nil {
				return nil, err
			}
			seen = nil
			continue
		}
		var record heldRecord
		if json.Unmarshal(data, &record) == nil {
			waiting(record.Holder)
		}
		if err := sleep(ctx, lockPoll); err != nil {
			return nil, err
		}
	}
}

// read returns the contents of the file: nothing where it no longer exists.
func (n namedLock) read() ([]byte, error) {
	f, err := os.OpenFile(n.path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return []byte{}, nil
	}
	if err != nil {
		return nil, &LockError{n.path, "cannot be read: " + err.Error()}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return nil, &LockError{n.path, "cannot be read: " + err.Error()}
	}
	return data, nil
}

// steal removes the file if its contents are still those that did not change for so long.
func (n namedLock) steal(seen []byte) error {
	beside := n.path + stealSuffix
	f, err := os.OpenFile(beside, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if errors.Is(err, fs.ErrExist) { // for a moment, unless its process was killed in that
		if info, err := os.Lstat(beside); err == nil && time.Since(info.ModTime()) > time.Hour {
			return &LockError{beside, "was left by a process that was killed"}
		}
		return nil
	}
	if err != nil {
		return err
	}
	data, err := n.read()
	if err == nil && bytes.Equal(data, seen) {
		if err = os.Remove(n.path); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	return errors.Join(err, f.Close(), os.Remove(beside))
}

// hold keeps the lock by the file that was made for it.
func (n namedLock) hold(f *os.File, me Holder) (unlock func() error, err error) {
	record := heldRecord{Holder: me}
	record.Host, _ = os.Hostname() // for people
	beat := func() error {
		record.Beat++
		data, err := json.Marshal(record)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(append(data, '\n'), 0)
		return errors.Join(err, f.Sync())
	}
	if err := beat(); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(n.path))
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		ticker := time.NewTicker(n.beat)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				_ = beat() // the next one may be possible again
			}
		}
	}()
	return func() error {
		close(stop)
		<-stopped
		if !isAt(f, n.path) { // this process was taken for gone
			return f.Close()
		}
		return errors.Join(os.Remove(n.path), f.Close())
	}, nil
}
