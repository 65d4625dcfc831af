// Package pointer publishes the release pointer: the small signed file by which clients find the current release.
//
// ci's command calls it. It takes a Place that has the pointer (a branch of a git repository, or a file that a web
// server serves), what the pointer shall say, and functions that sign and verify, and returns the pointer that is now
// public:
//
//	read the present one ──▶ verify it ──▶ its number + 1 ──▶ sign ──▶ verify as a client ──▶ change it, if it is still the one read
//
// The releases that were withdrawn are carried from pointer to pointer. The number grows with every pointer, whatever it
// names, because clients never go back. So no two pointers may share a number: a Place changes only from the state that
// was read, and the second of two concurrent writers reads again. The package does not look at releases: Options.Manifest
// answers whether there is one, and what its manifest is.
package pointer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/retry"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
)

// A State is what a Place had when it was read.
type State struct {
	// Signed is the pointer's file; nil if there is none.
	Signed []byte
	// Version tells this state from any other of the Place's.
	Version string
}

// ErrMoved is a Place that changed since it was read.
var ErrMoved = errors.New("somebody else published a release pointer meanwhile")

// A Place has a release pointer.
type Place interface {
	Read(ctx context.Context) (State, error)
	// Write replaces the pointer, if the Place is still as it was read. Its error is ErrMoved if it is not: then nothing was
	// written. What for is a line for people.
	Write(ctx context.Context, read State, signed []byte, what string) error
}

// A Verifier is a client's, with the policy for release pointers.
type Verifier interface {
	VerifyStatement(signed []byte) (sigverify.Statement, sigverify.Signer, error)
}

// Options say what to publish.
type Options struct {
	// Release is the tag to name; empty means the one that the present pointer names, to renew it.
	Release string
	// Manifest is required: the sha256 of a release's manifest.json, once the release was found and verified.
	Manifest func(ctx context.Context, release string) (sha256 string, err error)
	// Life is how long the pointer counts: 30 days.
	Life time.Duration
	// Back allows to name an older release than the present pointer does, or another one of the same tag.
	Back bool
	// Number is the pointer's; 0 is that of the present pointer and 1. With a number, a present pointer that cannot be
	// verified does not matter; what it said of withdrawn releases is lost.
	Number int64
	// Withdraw, if it names a release, is one to add to those withdrawn, or one whose reason changes; Restore is the tag of
	// one that is withdrawn no longer.
	Withdraw manifests.Withdrawal
	Restore  string
	// Sign is required: the Sigstore bundle with a statement.
	Sign func(ctx context.Context, statement []byte) ([]byte, error)
	// Verifier is required.
	Verifier Verifier
}

// DefaultLife is how long a pointer is valid by default. The farm renews it every week, so four weeks in a row must fail
// before a client notices.
const DefaultLife = 30 * 24 * time.Hour

// A PresentError is a pointer that is public and cannot be read as one of the farm's, so that its number is not known.
type PresentError struct{ Err error }

func (e *PresentError) Error() string { return "reading the present release pointer: " + e.Err.Error() }
func (e *PresentError) Unwrap() error { return e.Err }

// Hint says the way out.
func (e *PresentError) Hint() string {
	return "look who put it there; --number N replaces it by a pointer of that number, which must be greater than any that clients have seen"
}

// A BackError is a pointer that would go back.
type BackError struct{ Present, Next manifests.Pointer }

func (e *BackError) Error() string {
	if e.Present.Release == e.Next.Release {
		return fmt.Sprintf("release %s has another %s than the present release pointer says: sha256 %s, not %s", e.Next.Release, manifests.ManifestName, e.Next.Manifest, e.Present.Manifest)
	}
	return fmt.Sprintf("release %s is older than %s, which the present release pointer names", e.Next.Release, e.Present.Release)
}

// Hint says the way out.
func (e *BackError) Hint() string {
	return "to name it anyway, give --back: that is how a bad release is taken back, and clients follow"
}

// A NumberError is a number that clients would refuse.
type NumberError struct {
	Present manifests.Pointer
	Number  int64
}

func (e *NumberError) Error() string {
	return fmt.Sprintf("number %d does not come after %d, the present release pointer's", e.Number, e.Present.Number)
}

// Hint says the way out.
func (e *NumberError) Hint() string { return "leave --number out, and it is the next one" }

// A WithdrawError is a change of the withdrawn releases that contradicts them, or the release to be named.
type WithdrawError struct{ said, hint string }

func (e *WithdrawError) Error() string { return e.said }

// Hint says the way out.
func (e *WithdrawError) Hint() string { return e.hint }

// ErrNoPresent means that the pointer to renew does not exist.
var ErrNoPresent = errors.New("there is no release pointer yet")

const (
	// publishTries bounds how often another publisher may be faster.
	publishTries = 10
	// shortly is the longest random wait after a collision, so that the publishers do not collide again.
	shortly = 500 * time.Millisecond
)

// Publish makes the pointer and puts it into its place. It returns the pointer that is public then, and the one before,
// which is zero if there was none.
func Publish(ctx context.Context, place Place, o Options) (now, before manifests.Pointer, err error) {
	for range publishTries {
		now, before, err = publish(ctx, place, o)
		if !errors.Is(err, ErrMoved) {
			break
		}
		if err := retry.Sleep(ctx, rand.N(shortly)); err != nil {
			return manifests.Pointer{}, before, err
		}
	}
	if err != nil {
		return manifests.Pointer{}, before, fmt.Errorf("publishing the release pointer: %w", err)
	}
	return now, before, nil
}

func publish(ctx context.Context, place Place, o Options) (next, present manifests.Pointer, err error) {
	state, err := place.Read(ctx)
	if err != nil {
		return next, present, err
	}
	known := state.Signed != nil
	if known {
		if present, err = read(o.Verifier, state.Signed); err != nil && o.Number == 0 {
			return next, present, &PresentError{err}
		}
		known = err == nil
	}
	if next, err = o.next(ctx, present, known); err != nil {
		return next, present, err
	}
	statement, err := manifests.EncodePointer(next)
	if err != nil {
		return next, present, err
	}
	signed, err := o.Sign(ctx, statement)
	if err != nil {
		return next, present, err
	}
	switch again, err := read(o.Verifier, signed); {
	case err != nil:
		return next, present, fmt.Errorf("verifying what was signed just now, as clients will: %w", err)
	case !again.Equal(next):
		return next, present, fmt.Errorf("verifying what was signed just now: it says %+v, not %+v", again, next)
	}
	if len(signed) > manifests.MaxPointerSize {
		return next, present, fmt.Errorf("the signed pointer has %d bytes; clients read at most %d", len(signed), manifests.MaxPointerSize)
	}
	// The point of no return: from here on clients may have seen the number.
	return next, present, place.Write(ctx, state, signed, fmt.Sprintf("Pointer %d: %s, until %s", next.Number, next.Release, next.Expires.Format(time.RFC3339)))
}

// next is the pointer to publish after the present one, if that is known.
func (o Options) next(ctx context.Context, present manifests.Pointer, known bool) (manifests.Pointer, error) {
	next := manifests.Pointer{Release: o.Release}
	if next.Release == "" {
		if !known {
			return next, ErrNoPresent
		}
		next.Release = present.Release
	}
	var err error
	if next.Manifest, err = o.Manifest(ctx, next.Release); err != nil {
		return next, err
	}
	if known && !o.Back {
		order, ok := manifests.CompareTags(next.Release, present.Release)
		if ok && order < 0 || next.Release == present.Release && next.Manifest != present.Manifest {
			return next, &BackError{present, next}
		}
	}
	if next.Withdrawn, err = o.withdrawn(present.Withdrawn, next.Release); err != nil {
		return next, err
	}
	if known && o.Number != 0 && o.Number <= present.Number && taken(present, time.Now()) {
		return next, &NumberError{present, o.Number}
	}
	if next.Number, next.Issued, err = o.number(ctx, present); err != nil {
		return next, err
	}
	life := o.Life
	if life == 0 {
		life = DefaultLife
	}
	next.Expires = next.Issued.Add(life).Truncate(time.Second)
	return next, next.Check()
}

// taken reports whether clients accept a pointer, or accepted it before it expired. They refuse pointers issued too far in
// the future, so no client has recorded the numbers of those.
func taken(p manifests.Pointer, now time.Time) bool {
	return !p.Issued.After(now.Add(manifests.MaxClockLag))
}

// number is the number of the pointer after the present one, and when that is issued: now, unless the number is that of a
// later second. After a present pointer that clients refuse, and whose number is beyond what they take, it is now's.
func (o Options) number(ctx context.Context, present manifests.Pointer) (number int64, issued time.Time, err error) {
	number = cmp.Or(o.Number, present.Number+1)
	for {
		now := time.Now().UTC().Truncate(time.Second)
		latest := now.Add(manifests.MaxClockLag)
		switch earliest := time.Unix(number, 0).UTC(); {
		case !earliest.After(now), o.Number != 0 && earliest.After(latest):
			return number, now, nil
		case !earliest.After(latest):
			return number, earliest, nil
		case !taken(present, now):
			return now.Unix(), now, nil
		}
		// Clients take the present pointer since this very second, and one with the next number from the next second on.
		if err := retry.Sleep(ctx, time.Second); err != nil {
			return 0, now, err
		}
	}
}

// withdrawn are the releases that are withdrawn from now on.
func (o Options) withdrawn(present []manifests.Withdrawal, names string) ([]manifests.Withdrawal, error) {
	list := slices.Clone(present)
	at := func(release string) int {
		return slices.IndexFunc(list, func(w manifests.Withdrawal) bool { return w.Release == release })
	}
	if o.Restore != "" {
		i := at(o.Restore)
		if i < 0 {
			return nil, &WithdrawError{fmt.Sprintf("release %s is not withdrawn", o.Restore), "withdrawn are: " + tags(list)}
		}
		list = slices.Delete(list, i, i+1)
	}
	if w := o.Withdraw; w.Release != "" {
		if i := at(w.Release); i >= 0 {
			list = slices.Delete(list, i, i+1)
		}
		list = append(list, w)
		slices.SortFunc(list, func(a, b manifests.Withdrawal) int { return strings.Compare(a.Release, b.Release) })
	}
	if i := at(names); i >= 0 {
		way := "--restore " + names + " makes it a release like any other again"
		if o.Withdraw.Release == names {
			way = "name the one to use instead, too: --release TAG --back"
		}
		return nil, &WithdrawError{fmt.Sprintf("release %s cannot be the current one and withdrawn: %s", names, list[i].Reason), way}
	}
	return list, nil
}

func tags(list []manifests.Withdrawal) string {
	if len(list) == 0 {
		return "none"
	}
	var names []string
	for _, w := range list {
		names = append(names, w.Release)
	}
	return strings.Join(names, ", ")
}

// read verifies a pointer as clients do. It looks at no clock: one that expired has a number all the same.
func read(v Verifier, signed []byte) (manifests.Pointer, error) {
	statement, _, err := v.VerifyStatement(signed)
	if err != nil {
		return manifests.Pointer{}, err
	}
	return manifests.DecodePointer(statement.Payload)
}
