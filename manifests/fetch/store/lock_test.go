package store

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Whatever lies in the place of the lock is never written to, and no other file through it.
func TestLockInPlace(t *testing.T) {
	const theirs = "somebody's"
	for name, test := range map[string]struct {
		put     func(lock, file string) error
		problem string // of a *LockError; empty where the lock is taken all the same
	}{
		"a link":           {func(lock, file string) error { return os.Symlink(file, lock) }, "is a link"},
		"a dangling link":  {func(lock, file string) error { return os.Symlink(file+".new", lock) }, "is a link"},
		"a hard link":      {func(lock, file string) error { return os.Link(file, lock) }, ""},
		"a file of theirs": {func(lock, _ string) error { return os.WriteFile(lock, []byte(theirs), 0o644) }, ""},
		"a folder":         {func(lock, _ string) error { return os.Mkdir(lock, 0o755) }, "is not a file"},
		"a pipe":           {func(lock, _ string) error { return unix.Mkfifo(lock, 0o644) }, "is not a file"},
		"a socket": {func(lock, _ string) error {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: lock})
			if err != nil {
				return err
			}
			l.SetUnlinkOnClose(false)
			return l.Close()
		}, "is not a file"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "lock") // a socket's path has little room
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			home, file := filepath.Join(dir, "s"), filepath.Join(dir, "file")
			lock := filepath.Join(home, lockName)
			err = errors.Join(os.Mkdir(home, 0o755), os.WriteFile(filepath.Join(home, "llcuda-store"), []byte(markerText), 0o644), os.WriteFile(file, []byte(theirs), 0o644), test.put(lock, file))
			if err != nil {
				t.Fatal(err)
			}
			l, err := (&Store{Home: home}).Lock(t.Context(), "test", nil)
			var refused *LockError
			if test.problem == "" && err != nil || test.problem != "" && (!errors.As(err, &refused) || !strings.Contains(err.Error(), test.problem)) {
				t.Errorf("got %v, want a LockError with %q", err, test.problem)
			}
			if err == nil {
				l.Close()
			}
			if data, err := os.ReadFile(file); err != nil || string(data) != theirs {
				t.Errorf("the file holds %q, %v", data, err)
			}
			if test.problem == "" {
				if data, err := os.ReadFile(lock); err != nil || string(data) != theirs {
					t.Errorf("the lock holds %q, %v", data, err)
				}
			}
			if _, err := os.Lstat(file + ".new"); err == nil {
				t.Error("a file was made through the link")
			}
		})
	}
}

// A lock file that was removed while a process waited for it is worth nothing.
func TestLockRemoved(t *testing.T) {
	l := open(t)
	second := make(chan error)
	var other *Locked
	go func() {
		var err error
		other, err = l.Store.Lock(t.Context(), "second", nil)
		second <- err
	}()
	if err := os.Remove(l.path(lockName)); err != nil {
		t.Fatal(err)
	}
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*lockPoll)
	defer cancel()
	if _, err := l.Store.Lock(ctx, "third", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a third process has the lock beside the second: %v", err)
	}
}

// Where there is no flock, one process at a time has the lock, and the lock does not outlive its
// holder by much.
func TestNamedLock(t *testing.T) {
	n := namedLock{path: filepath.Join(t.TempDir(), "held"), beat: 10 * time.Millisecond, stale: time.Hour}
	var inside, most int
	var mu sync.Mutex
	count := func(by int) {
		mu.Lock()
		defer mu.Unlock()
		inside += by
		most = max(most, inside)
	}
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			unlock, err := n.take(t.Context(), Holder{PID: i + 1}, func(Holder) {})
			if err != nil {
				t.Error(err)
				return
			}
			count(1)
			time.Sleep(3 * n.beat)
			count(-1)
			if err := unlock(); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if most != 1 {
		t.Errorf("%d had the lock at once", most)
	}
	if left := tree(t, filepath.Dir(n.path)); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// The lock of a process that was killed is taken away by one of those who wait; that of a process
// that lives is not.
func TestNamedLockOfTheDead(t *testing.T) {
	dir := t.TempDir()
	n := namedLock{path: filepath.Join(dir, "held"), beat: 20 * time.Millisecond, stale: 500 * time.Millisecond}
	if err := os.WriteFile(n.path, []byte(`{"pid":4711,"command":"killed","since":"2026-01-02T03:04:05Z","host":"other","beat":3}`), 0o644); err != nil {
		t.Fatal(err)
	}
	var told []Holder
	unlock, err := n.take(t.Context(), Holder{PID: 1}, tellOnce(func(h Holder) { told = append(told, h) }))
	if err != nil || len(told) != 1 || told[0].PID != 4711 || told[0].Command != "killed" {
		t.Fatalf("%v, %v", told, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*n.stale)
	defer cancel()
	if _, err := n.take(ctx, Holder{PID: 2}, func(Holder) {}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second has it: %v", err)
	}
	// Taken for gone after all, it leaves the next one's lock alone.
	if err := os.Remove(n.path); err != nil {
		t.Fatal(err)
	}
	next, err := n.take(t.Context(), Holder{PID: 3}, func(Holder) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := unlock(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(n.path); err != nil {
		t.Error(err)
	}
	if err := next(); err != nil {
		t.Error(err)
	}
	if left := tree(t, dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
