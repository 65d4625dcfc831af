package hub

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
)

// A repository is the folder of one repository in the cache.
type repository struct {
	cache, root, locks string
}

func (s repository) blob(etag string) string { return filepath.Join(s.root, "blobs", etag) }

func (s repository) pointer(commit, path string) string {
	return filepath.Join(s.root, "snapshots", commit, filepath.FromSlash(path))
}

func (s repository) ref(revision string) string {
	return filepath.Join(s.root, "refs", filepath.FromSlash(revision))
}

// commit is what a revision was when the Hub was asked last.
func (s repository) commit(revision string) (commit string, ok bool) {
	if isCommit(revision) {
		return revision, true
	}
	data, err := os.ReadFile(s.ref(revision))
	commit = strings.TrimSpace(string(data))
	return commit, err == nil && isCommit(commit)
}

// find looks for a file without the Hub. found says that there is one; unfit, why it is not the one
// wanted.
func (s repository) find(ref Ref, want Want) (result Result, found bool, unfit error) {
	commit, ok := s.commit(ref.Revision)
	if !ok {
		return Result{}, false, nil
	}
	path := s.pointer(commit, ref.Path)
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return Result{}, false, nil
	}
	return Result{Path: path, Commit: commit, Size: info.Size(), Cached: true}, true, fits(path, want)
}

// fits reports whether a file of the cache is the one wanted. A blob's name is the digest that was
// checked when it was put there; only where the name says nothing of a SHA-256 is the file read.
func fits(path string, want Want) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", path)
	}
	if want.Size > 0 && info.Size() != want.Size {
		return &MismatchError{Name: filepath.Base(path), Where: path, What: "size",
			Want: strconv.FormatInt(want.Size, 10), Got: strconv.FormatInt(info.Size(), 10)}
	}
	if want.SHA256 == "" {
		return nil
	}
	blob, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	got := filepath.Base(blob)
	if !sha256Hex.MatchString(got) {
		if got, err = digest(path, sha256.New()); err != nil {
			return err
		}
	}
	if got != want.SHA256 {
		return &MismatchError{Name: filepath.Base(path), Where: path, What: "sha256", Want: want.SHA256, Got: got}
	}
	return nil
}

// Verify reads a file that Download returned and compares its bytes with the digest that its blob
// is named by, and with what is wanted of it. It gives a *MismatchError if they differ.
func Verify(path string, want Want) error {
	if err := fits(path, want); err != nil {
		return err
	}
	blob, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	name, what, got := filepath.Base(blob), "sha256", ""
	switch {
	case sha256Hex.MatchString(name):
		got, err = digest(path, sha256.New())
	case sha1Hex.MatchString(name):
		what = "git blob id"
		got, err = gitBlob(path)
	default: // a cache without links; fits has read the file if its digest is known
		return nil
	}
	if err != nil {
		return err
	}
	if got != name {
		return &MismatchError{Name: filepath.Base(path), Where: path, What: what, Want: name, Got: got}
	}
	return nil
}

func digest(path string, h hash.Hash) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// gitBlob gives the id that git has for a file:
// https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
func gitBlob(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	h := sha1.New()
	fmt.Fprintf(h, "blob %d\x00", info.Size())
	return digest(path, h)
}

// The tag that keeps backups away from caches, https://bford.info/cachedir/
const cacheTag = `Signature: 8a477f597d28d172789f06886806bc55
# This file is a cache directory tag.
# For information about cache directory tags, see:
#	https://bford.info/cachedir/
`

// prepare makes the folders that a file goes to and writes down which commit the revision is.
func (s repository) prepare(ref Ref, file remote) error {
	for _, folder := range []string{filepath.Dir(s.blob(file.etag)), filepath.Dir(s.pointer(file.commit, ref.Path)), s.locks} {
		if err := os.MkdirAll(folder, 0o777); err != nil {
			return err
		}
	}
	if tag, err := os.OpenFile(filepath.Join(s.cache, "CACHEDIR.TAG"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666); err == nil {
		_, err := tag.WriteString(cacheTag)
		if err := errors.Join(err, tag.Close()); err != nil {
			return err
		}
	}
	return s.writeRef(ref.Revision, file.commit)
}

// writeRef notes the commit of a branch or tag. A commit needs no note.
func (s repository) writeRef(revision, commit string) error {
	if revision == commit {
		return nil
	}
	path := s.ref(revision)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, []byte(commit)) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	beside := path + "." + randomHex() + ".tmp"
	if err := os.WriteFile(beside, []byte(commit), 0o666); err != nil {
		return err
	}
	return os.Rename(beside, path)
}

// rememberMissing notes that a commit does not have a file, for the programs that ask the cache
// before they ask the Hub. Best effort, as in huggingface_hub.
func (s repository) rememberMissing(ref Ref, commit string) {
	if !isCommit(commit) {
		return
	}
	path := filepath.Join(s.root, ".no_exist", commit, filepath.FromSlash(ref.Path))
	if os.MkdirAll(filepath.Dir(path), 0o777) != nil {
		return
	}
	if f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o666); err == nil {
		f.Close()
		_ = s.writeRef(ref.Revision, commit)
	}
}

// link makes the snapshot's file. downloaded says that no other program can be using the blob yet.
func (s repository) link(etag, pointer string, noLinks, downloaded bool) error {
	blob := s.blob(etag)
	beside := pointer + "." + randomHex() + ".tmp"
	if !noLinks {
		target, err := filepath.Rel(filepath.Dir(pointer), blob)
		if err != nil {
			return err
		}
		if err = os.Symlink(target, beside); err == nil {
			if _, err = os.Stat(beside); err == nil { // a file system mounted with nosymfollow makes links that lead nowhere
				return os.Rename(beside, pointer)
			}
			err = errors.Join(err, os.Remove(beside))
		}
		// File systems without links say it with many errors (FAT with EPERM, SMB with EOPNOTSUPP,
		// FUSE with any), and huggingface_hub takes each for that, too.
		return withReason(s.place(blob, pointer, beside, downloaded), err)
	}
	return s.place(blob, pointer, beside, downloaded)
}

// place puts the file itself where its link would be.
func (s repository) place(blob, pointer, beside string, downloaded bool) error {
	if downloaded {
		return os.Rename(blob, pointer)
	}
	if err := copyFile(blob, beside); err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(beside)))
	}
	return os.Rename(beside, pointer)
}

// withReason adds to an error, if there is one, what had happened before.
func withReason(err, before error) error {
	if err == nil {
		return nil
	}
	return errors.Join(before, err)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}

// ownPartial stands where huggingface_hub has eight random hex digits in the names of its partial
// files: those are thrown away, while ours are resumed, which the lock makes safe.
const ownPartial = "6c6c6375"

// openPartial makes the partial file, or finds it to be writable. Where it belongs to another user,
// who shares the cache but not the right to write, this user gets a partial file of their own.
// Created here, the file has the mode that the umask gives, as huggingface_hub's have.
func (s repository) openPartial(partial string) (string, error) {
	f, err := os.OpenFile(partial, os.O_CREATE|os.O_RDWR, 0o666)
	if shared := "." + ownPartial + ".incomplete"; errors.Is(err, fs.ErrPermission) && strings.HasSuffix(partial, shared) {
		own := strings.TrimSuffix(partial, shared) + fmt.Sprintf(".%08x.incomplete", os.Getuid())
		if g, ownErr := os.OpenFile(own, os.O_CREATE|os.O_RDWR, 0o666); ownErr == nil {
			return own, g.Close()
		}
	}
	if err != nil {
		return "", err
	}
	return partial, f.Close()
}

const lockPoll = 200 * time.Millisecond

// lock takes the lock of a blob and names the partial file. It waits for the process that has it.
//
// The lock is flock(2), as in Python's filelock, which removes lock files when it releases them: a
// lock on a file that no longer exists keeps no other process out, and is taken again. On file
// systems without flock there is no lock, and the partial file gets a name of its own.
func (s repository) lock(ctx context.Context, etag string, waiting func(string)) (partial string, unlock func(), err error) {
	path := filepath.Join(s.locks, etag+".lock")
	for {
		lock := flock.New(path, flock.SetPermissions(0o664)) // huggingface_hub's mode: users who share a cache share its locks
		held, err := lock.TryLock()
		if err == nil && !held {
			if waiting != nil {
				waiting(path)
				waiting = nil
			}
			held, err = lock.TryLockContext(ctx, lockPoll)
		}
		switch {
		case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ENOLCK):
			partial := s.blob(etag) + "." + randomHex() + ".incomplete"
			return partial, func() { _ = os.Remove(partial) }, nil
		case err != nil:
			return "", nil, fmt.Errorf("locking %s: %w", path, err)
		}
		ours, err := lock.Stat()
		if err != nil {
			return "", nil, errors.Join(err, lock.Close())
		}
		theirs, err := os.Stat(path)
		if err == nil && os.SameFile(ours, theirs) {
			return s.blob(etag) + "." + ownPartial + ".incomplete", func() { _ = lock.Close() }, nil
		}
		if err := errors.Join(lock.Close(), ignoreMissing(err)); err != nil {
			return "", nil, fmt.Errorf("locking %s: %w", path, err)
		}
	}
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func randomHex() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the program instead
	return hex.EncodeToString(b[:])
}
