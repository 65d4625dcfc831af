package transfer

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
)

const (
	// partialSuffix is added to the name of a file that Save is bringing.
	partialSuffix = ".partial"
	// partialKept is how long a partial file stays that no run resumes: long enough to come back
	// after a weekend.
	partialKept = 7 * 24 * time.Hour
)

// Save makes sure that dest is the blob and returns its size. An existing file that is not the blob
// is replaced; one that is the blob is left as it is, so processes that save the same blob share
// one download. Until the blob is whole, its bytes are in a partial file beside dest, where the
// next call resumes after an interruption.
//
// progress and errors are those of Fetch.
func (c *Client) Save(ctx context.Context, b Blob, dest string, progress func(Progress)) (int64, error) {
	partial, unlock, err := openPartial(ctx, dest+partialSuffix)
	if err != nil {
		return 0, fmt.Errorf("fetching %s: %w", b.Name, err)
	}
	defer unlock()
	// Another process may have brought it while this one waited.
	if size, err := b.SizeOf(dest); err != nil || size >= 0 {
		return size, errors.Join(err, os.Remove(partial.Name()))
	}
	if err := c.fetch(ctx, b, partial, nil, progress); err != nil {
		_, otherFile := errors.AsType[*SizeError](err)
		if info, statErr := partial.Stat(); otherFile || statErr == nil && info.Size() == 0 {
			os.Remove(partial.Name()) // nothing to resume from; already removed after a *DigestError
		}
		return 0, err
	}
	info, err := partial.Stat()
	if err != nil {
		return 0, err
	}
	if err := partial.Chmod(0o644); err != nil { // whatever the umask: a container engine tells files apart by their mode
		return 0, err
	}
	return info.Size(), os.Rename(partial.Name(), dest)
}

// RemoveStale removes the partial files in a folder that no run resumed for a week. What cannot be
// removed does no harm there, and the next run tries again.
func RemoveStale(dir string) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, file := range files {
		if !strings.HasSuffix(file.Name(), partialSuffix) {
			continue
		}
		if info, err := file.Info(); err == nil && time.Since(info.ModTime()) > partialKept {
			os.Remove(filepath.Join(dir, file.Name()))
		}
	}
}

// openPartial opens a partial file and waits until no other process has it.
func openPartial(ctx context.Context, path string) (f *os.File, unlock func(), err error) {
	const flags, mode = os.O_RDWR | os.O_CREATE | unix.O_NOFOLLOW, 0o666
	for {
		lock := flock.New(path, flock.SetFlag(flags), flock.SetPermissions(mode))
		_, err := lock.TryLockContext(ctx, lockPoll)
		switch {
		case ctx.Err() != nil:
			lock.Close()
			return nil, nil, context.Cause(ctx)
		// Some network file systems have no such locks: flock(2) names ENOLCK, Lustre gives ENOSYS,
		// others EOPNOTSUPP.
		case errors.Is(err, unix.ENOLCK), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP):
			lock.Close()
			f, err := os.OpenFile(path, flags, mode)
			return f, func() { f.Close() }, err
		case err != nil:
			lock.Close()
			return nil, nil, fmt.Errorf("locking %s: %w", path, err)
		}
		f, err := os.OpenFile(path, flags, mode)
		if err != nil {
			lock.Close()
			return nil, nil, err
		}
		// The process that had the lock may have renamed or removed its file meanwhile: this one is
		// then another.
		locked, lockedErr := lock.Stat()
		opened, openedErr := f.Stat()
		if err = cmp.Or(lockedErr, openedErr); err == nil && os.SameFile(locked, opened) {
			return f, func() { f.Close(); lock.Close() }, nil
		}
		f.Close()
		lock.Close()
		if err != nil {
			return nil, nil, err
		}
	}
}

func (t *transfer) isWhole() bool {
	if t.blob.Size >= 0 {
		return t.have == t.blob.Size
	}
	return t.have > 0 && t.blob.sum() != "" && t.digest() == t.blob.sum()
}

func (t *transfer) digest() string { return hex.EncodeToString(t.sum.Sum(nil)) }

// readPrefix goes over what the file holds.
func (t *transfer) readPrefix(ctx context.Context) error {
	info, err := t.file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", t.file.Name())
	}
	size := info.Size()
	if t.blob.Size >= 0 && size > t.blob.Size {
		size = 0
		if err := t.file.Truncate(0); err != nil {
			return err
		}
	}
	if t.from = size; size == 0 {
		return context.Cause(ctx)
	}
	buf := make([]byte, copyBuffer)
	for r := io.NewSectionReader(t.file, 0, size); ; {
		n, err := r.Read(buf)
		if n > 0 {
			t.sources[""] = true
			if err := t.feed(buf[:n]); err != nil {
				return err
			}
			t.report("", false)
		}
		if err == io.EOF {
			return nil
		}
		if err := cmp.Or(err, context.Cause(ctx)); err != nil {
			return err
		}
	}
}

// feed hands bytes that are in the file to the hash and the follower.
func (t *transfer) feed(b []byte) error {
	t.sum.Write(b)
	t.have += int64(len(b))
	if t.pipe != nil {
		if _, err := t.pipe.Write(b); err != nil {
			return fmt.Errorf("following %s: %w", t.blob.Name, err)
		}
	}
	return nil
}

// write puts the next bytes into the file.
func (t *transfer) write(b []byte, source string) error {
	if len(b) == 0 {
		return nil
	}
	if limit := t.blob.limit(); t.have+int64(len(b)) > limit {
		return &SizeError{URL: source, Want: limit, Got: -1}
	}
	t.meter.busy.Store(true)
	defer t.meter.busy.Store(false)
	if _, err := t.file.WriteAt(b, t.have); err != nil {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			free, _ := freeSpace(t.file.Name())
			err = &SpaceError{Path: t.file.Name(), Need: max(t.total-t.have, -1), Free: free, Err: err}
		}
		return &localError{err}
	}
	t.sources[source] = true
	if err := t.feed(b); err != nil {
		return &localError{err}
	}
	t.report(source, false)
	return nil
}

func (t *transfer) report(source string, last bool) {
	if now := time.Now(); t.progress != nil && (last || now.Sub(t.told) >= progressEvery) {
		t.told = now
		t.progress(Progress{Name: t.blob.Name, Done: t.have, Total: t.total, From: t.from, Source: source, Slow: t.meter != nil && t.meter.slow.Load()})
	}
}

// freeSpace is how many bytes are free where a file is.
func freeSpace(path string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}

// checkSpace refuses a blob that does not fit, before its bytes come.
func (t *transfer) checkSpace() error {
	if t.blob.Size < 0 {
		return nil
	}
	// A file system that does not say what is free is asked by writing to it.
	if free, err := freeSpace(t.file.Name()); err == nil && free < t.blob.Size-t.have {
		return &SpaceError{Path: t.file.Name(), Need: t.blob.Size - t.have, Free: free}
	}
	return nil
}

// finish checks the digest of all bytes.
func (t *transfer) finish(source string) error {
	if got, want := t.digest(), t.blob.sum(); want != "" && got != want {
		return &DigestError{Name: t.blob.Name, Mirror: cmp.Or(source, t.file.Name()), Algorithm: t.blob.algorithm(), Want: want, Got: got}
	}
	// A killed process may have left more than was read, where the size is not known.
	if err := t.file.Truncate(t.have); err != nil {
		return &localError{err}
	}
	if !t.blob.Transient {
		if err := t.file.Sync(); err != nil {
			return &localError{err}
		}
	}
	t.total = t.have
	t.report(source, true)
	return nil
}
