package transfer

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// A DigestError is a file whose bytes all came and are not the ones wanted. It is a security error:
// the partial file is gone, and the mirror is not asked again.
type DigestError struct {
	Name   string // the blob's
	Mirror string // the address that gave the bytes, or the last of them
	// Algorithm is "sha256" or "sha512"; empty is "sha256".
	Algorithm string
	Want, Got string // lower-case hex
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("%s from %s has %s %s, not %s", e.Name, e.Mirror, cmp.Or(e.Algorithm, "sha256"), e.Got, e.Want)
}

// A NetworkError is a blob that no mirror gave. Err joins the last error of each.
type NetworkError struct {
	Name string
	Err  error
}

func (e *NetworkError) Error() string { return fmt.Sprintf("downloading %s: %v", e.Name, e.Err) }
func (e *NetworkError) Unwrap() error { return e.Err }

// IsMissing reports whether every mirror answered that it does not have the blob.
func (e *NetworkError) IsMissing() bool {
	each := []error{e.Err}
	if joined, ok := e.Err.(interface{ Unwrap() []error }); ok {
		each = joined.Unwrap()
	}
	return !slices.ContainsFunc(each, func(err error) bool {
		status, ok := errors.AsType[*StatusError](err)
		return !ok || status.Code != http.StatusNotFound && status.Code != http.StatusGone
	})
}

// A SpaceError is a file system that is full, or would be.
type SpaceError struct {
	Path       string
	Need, Free int64 // bytes; Need is what was still to come, negative if that is not known
	Err        error // what the system said, nil where the lack was seen beforehand
}

func (e *SpaceError) Error() string {
	if e.Need < 0 {
		return fmt.Sprintf("writing %s: the disk is full, %d bytes are free", e.Path, e.Free)
	}
	return fmt.Sprintf("writing %s: %d bytes are needed, %d are free", e.Path, e.Need, e.Free)
}
func (e *SpaceError) Unwrap() error { return e.Err }

// Is makes a lack that was seen beforehand what the system would have said.
func (e *SpaceError) Is(target error) bool { return target == unix.ENOSPC }

// A StatusError is an answer that is not the blob.
type StatusError struct {
	URL    string // without its password
	Code   int
	Status string
}

func (e *StatusError) Error() string { return e.URL + ": " + e.Status }

// A SizeError is a file of another size than was asked for.
type SizeError struct {
	URL       string // without its password
	Want, Got int64  // bytes; Got is negative where it is more than was wanted
}

func (e *SizeError) Error() string {
	if e.Got < 0 {
		return fmt.Sprintf("%s: has more than %d bytes", e.URL, e.Want)
	}
	return fmt.Sprintf("%s: has %d bytes, not %d", e.URL, e.Got, e.Want)
}

// A RangeError is an answer with other bytes than were asked for. They are not used.
type RangeError struct{ URL, Asked, Got string }

func (e *RangeError) Error() string {
	return fmt.Sprintf("%s: asked for %s, the server answered with %q", e.URL, e.Asked, e.Got)
}

// A SlowError is a mirror that was given up because it gave less than Client.SlowRate.
type SlowError struct {
	URL    string // without its password
	Rate   int64  // bytes a second
	Window time.Duration
}

func (e *SlowError) Error() string {
	return fmt.Sprintf("%s: too slow, %d bytes a second over the last %s", e.URL, e.Rate, e.Window)
}

// A localError is of this machine or of the caller: no other mirror helps.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// errChanged says that what the file holds is not the beginning of what the server has now.
var errChanged = errors.New("the file on the server is another one than before")

// errLags ends requests that are repeated because one of them is far slower than the others were.
var errLags = errors.New("one range is far slower than the others")
