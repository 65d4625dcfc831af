package fetch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
)

// A Pointer is a release pointer that counts: well signed, not expired, and not older than one seen
// before.
type Pointer struct {
	manifests.Pointer
	Signer Signer
	// From is the address that it was read from, without a name and a password.
	From string
}

// A NoPointerError is a place where a release pointer is expected but missing.
type NoPointerError struct{ Addresses []string }

func (e *NoPointerError) Error() string {
	return "there is no release pointer at " + strings.Join(e.Addresses, ", nor at ")
}

// Hint says what it may mean.
func (e *NoPointerError) Hint() string {
	return "nothing names the current release: none was published yet, or the mirror hides it; --release TAG names one"
}

// pointer reads the release pointer of a source. It is nil for a source that is one folder with one
// release and has none: there, the person who filled the folder is responsible for its being
// current.
func (c *Client) pointer(ctx context.Context, s source) (*Pointer, error) {
	addresses, required, err := s.pointers()
	if err != nil || len(addresses) == 0 {
		return nil, err
	}
	if c.SkipSignature {
		if required {
			return nil, &TrustError{errors.New("only a signature can say which release is the current one"), "--release TAG names one"}
		}
		return nil, nil
	}
	p, unreached, err := c.firstPointer(ctx, addresses, len(addresses) == 1)
	if len(unreached) > 0 && len(addresses) > 1 {
		p, _, err = c.firstPointer(ctx, unreached, true)
	}
	if !required && is[*NoPointerError](err) {
		return nil, nil
	}
	return p, err
}

// firstPointer is the first release pointer that counts. Where there is none, for no other reason
// than that servers did not answer, unreached are the addresses to be asked with more patience.
func (c *Client) firstPointer(ctx context.Context, addresses []string, patient bool) (p *Pointer, unreached []string, err error) {
	var failed []error
	for i, address := range addresses {
		at, cancel := shareTime(ctx, len(addresses)-i)
		p, err := c.pointerAt(at, address, patient)
		cancel()
		switch {
		case err == nil:
			return p, nil, nil
		case isMissing(err):
			continue
		case !isOfOneSource(err):
			return nil, nil, err
		case is[*transfer.NetworkError](err):
			unreached = append(unreached, address)
		}
		failed = append(failed, err)
	}
	if len(failed) == 0 {
		e := &NoPointerError{}
		for _, address := range addresses {
			e.Addresses = append(e.Addresses, withoutUser(address))
		}
		return nil, nil, &TrustError{e, ""}
	}
	if len(unreached) < len(failed) { // one is behind, or expired: waiting longer does not help
		unreached = nil
	}
	return nil, unreached, errors.Join(failed...)
}

// pointers are the addresses of a source's release pointer, and whether there must be one.
func (s source) pointers() (addresses []string, required bool, err error) {
	switch {
	case s.own:
		return manifests.PointerURLs(), true, nil
	case s.byTag():
		const current = "current" // in the place of a tag
		folder, err := s.folder(current)
		return []string{folder + manifests.PointerName}, true, err
	case s.isLocal(): // a release that was carried here
		return nil, false, nil
	}
	folder, err := s.folder("")
	return []string{folder + manifests.PointerName}, false, err
}

// pointerAt reads the release pointer at one address and makes every check that needs only the
// pointer, the store and the clock.
func (c *Client) pointerAt(ctx context.Context, address string, patient bool) (*Pointer, error) {
	p, err := c.signedPointer(ctx, address, patient)
	if err != nil {
		return nil, err
	}
	seen, any, err := c.Store.SeenPointer(p.Signer.ID)
	if err != nil {
		return nil, err
	}
	if any {
		if err := p.CheckAfter(seen); err != nil {
			return nil, &TrustError{err, ""}
		}
	}
	if err := p.CheckTime(time.Now()); err != nil {
		return nil, &TrustError{err, ""}
	}
	return p, nil
}

// signedPointer reads the release pointer at one address, which is well signed, and of any time.
func (c *Client) signedPointer(ctx context.Context, address string, patient bool) (*Pointer, error) {
	t := c.transfer()
	if !patient { // another address is nearer than a server that wants to be left alone for minutes
		impatient := *t
		impatient.Tries, impatient.MaxRetryAfter, impatient.SlowRate = 2, 5*time.Second, 0
		t = &impatient
	}
	data, _, err := t.Get(ctx, []string{address}, manifests.MaxPointerSize)
	if err != nil {
		return nil, err
	}
	statement, signer, err := c.Pointers.VerifyPointer(data)
	if err != nil {
		return nil, &TrustError{fmt.Errorf("reading the release pointer at %s: %w", withoutUser(address), err), ""}
	}
	p, err := manifests.DecodePointer(statement)
	if is[*manifests.VersionError](err) {
		return nil, err // well signed: it is newer than this program
	}
	if err != nil {
		return nil, &TrustError{err, "the mirror serves another signed file in place of the release pointer"}
	}
	return &Pointer{Pointer: p, Signer: signer, From: withoutUser(address)}, nil
}

// ownRelease is what an empty store takes where every release pointer that could be read has
// expired and none names anything newer than the release that this program came with: that release.
// This way, an attacker cannot lead a machine to anything older than the release that its user got
// the program from. ownRelease returns nil where there is no such fallback.
func (c *Client) ownRelease(err error) *manifests.PointerTimeError {
	if c.Own == "" || is[*manifests.PointerBackError](err) {
		return nil
	}
	if _, have := c.base(); have {
		return nil // what is installed runs, and needs nothing
	}
	var newest *manifests.PointerTimeError
	for _, late := range errorsOf[*manifests.PointerTimeError](err) {
		order, ordered := manifests.CompareTags(late.Pointer.Release, c.Own)
		_, withdrawn := late.Pointer.Withdrawal(c.Own)
		if !late.Expired() || withdrawn || late.Pointer.Release != c.Own && !(ordered && order < 0) {
			return nil
		}
		if newest == nil || late.Pointer.Number > newest.Pointer.Number {
			newest = late
		}
	}
	return newest
}

// checkWithdrawn refuses a release that the user named, if the release pointer says that it was
// withdrawn. Where no pointer can be read the name counts, as it does without one. The pointer is
// returned for the store to remember; it may be nil.
func (c *Client) checkWithdrawn(ctx context.Context, release string) (*Pointer, error) {
	if release == "" || c.SkipSignature || c.Pointers == nil {
		return nil, nil
	}
	asking, cancel := shareTime(ctx, 2) // the other half is for the release
	defer cancel()
	p := c.newestPointer(asking)
	if p == nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil, ctx.Err()
		}
		return nil, nil
	}
	err := p.CheckWithdrawn(release)
	switch {
	case err == nil:
		return p, nil
	case c.AllowWithdrawn:
		c.warn("%v", err)
		return p, nil
	}
	return p, &TrustError{err, ""}
}

// newestPointer is the newest release pointer that can be read or was seen of the same signer, of
// any time; nil if none can be read.
func (c *Client) newestPointer(ctx context.Context) *Pointer {
	var newest *Pointer
	sources := c.sources()
	for i, s := range sources {
		addresses, _, err := s.pointers()
		if err != nil {
			continue
		}
		from, cancel := shareTime(ctx, len(sources)-i)
		defer cancel()
		for j, address := range addresses {
			at, cancel := shareTime(from, len(addresses)-j)
			p, err := c.signedPointer(at, address, false)
			cancel()
			if err != nil {
				continue
			}
			if newest == nil || p.Number > newest.Number {
				newest = p
			}
			break // the others of a source are copies
		}
	}
	if newest != nil {
		if seen, any, err := c.Store.SeenPointer(newest.Signer.ID); err == nil && any && seen.Number > newest.Number {
			newest.Pointer = seen
		}
	}
	return newest
}

// Withdrawn is what the release pointers seen on this machine say of a release that was withdrawn:
// a *manifests.WithdrawnError, or nil.
func (c *Client) Withdrawn(release string) error {
	seen, _ := c.Store.SeenPointers() // records that cannot be read are reported where pointers are followed
	for _, s := range seen {
		if err := s.Pointer.CheckWithdrawn(release); err != nil {
			return err
		}
	}
	return nil
}

// warnWithdrawn warns of an installation whose release was withdrawn.
func (c *Client) warnWithdrawn(i Install) {
	if w, ok := errors.AsType[*manifests.WithdrawnError](c.Withdrawn(i.Release)); ok {
		c.warn("%v; llcuda-fetch install --update takes %s", w, w.Instead)
	}
}
