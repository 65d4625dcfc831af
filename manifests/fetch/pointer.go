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

// A Pointer is a release pointer that counts: well signed, not expired, and not older than one seen before.
type Pointer struct {
	manifests.Pointer
	Signer Signer
	// From is the address that it was read from, without a name and a password.
	From string
}

// A NoPointerError is a place where a release pointer should be and is none.
type NoPointerError struct{ Addresses []string }

func (e *NoPointerError) Error() string {
	return "there is no release pointer at " + strings.Join(e.Addresses, ", nor at ")
}

// Hint says what it may mean.
func (e *NoPointerError) Hint() string {
	return "nothing says which release is the current one: none was published yet, or somebody hides it; --release TAG names one"
}

// pointer reads the release pointer of a source. It is nil for a source that is one folder with one release and has none:
// there, whoever filled the folder answers for its being new.
func (c *Client) pointer(ctx context.Context, s source) (*Pointer, error) {
	addresses, required, err := s.pointers()
	if err != nil || len(addresses) == 0 {
		return nil, err
	}
	if c.SkipSignature {
		if required {
			return nil, &TrustError{errors.New("nothing but a signature says which release is the current one"), "--release TAG names one"}
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

// firstPointer is the first release pointer that counts. Where there is none, for no other reason than that servers did not
// answer, unreached are the addresses to be asked with more patience.
func (c *Client) firstPointer(ctx context.Context, addresses []string, patient bool) (p *Pointer, unreached []string, err error) {
	var failed []error
	for _, address := range addresses {
		p, err := c.pointerAt(ctx, address, patient)
		switch {
		case err == nil:
			return p, nil, nil
		case missing(err):
			continue
		case !passes(err):
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
	if len(unreached) < len(failed) { // one is behind, or expired: no patience mends that
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

// pointerAt reads the release pointer at one address and holds it to everything that it can be held to by itself.
func (c *Client) pointerAt(ctx context.Context, address string, patient bool) (*Pointer, error) {
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
		return nil, &TrustError{err, "somebody passes another signed file of the farm's off as the release pointer"}
	}
	if err := p.CheckTime(time.Now()); err != nil {
		return nil, &TrustError{err, ""}
	}
	seen, any, err := c.Store.SeenPointer(signer.ID)
	if err != nil {
		return nil, err
	}
	if any {
		if err := p.CheckAfter(seen); err != nil {
			return nil, &TrustError{err, ""}
		}
	}
	return &Pointer{Pointer: p, Signer: signer, From: withoutUser(address)}, nil
}
