package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
)

// A Release is a release whose manifest was verified, as far as its Signer goes.
type Release struct {
	manifests.Release
	// Signer made the signature. It is zero where the signature was skipped.
	Signer Signer
	// Pointer named it as the current one; nil where the user named it, or a folder that has no
	// pointer.
	Pointer *Pointer
	// Expired is the newest release pointer available, where the release is Client.Own because
	// there was nothing better.
	Expired *manifests.PointerTimeError
	// From is the folder that it was read from; empty where it was the store.
	From      string
	Documents store.Documents
}

// maxSignature bounds the signature, in bytes; one has about 10 kB.
const maxSignature = 1 << 20

// Resolve finds a release by its tag, or, where the tag is empty, the current one, and verifies it.
// Offline it is one that was installed here before.
func (c *Client) Resolve(ctx context.Context, tag string) (*Release, error) {
	ctx, cancel := c.withPatience(ctx)
	defer cancel()
	return c.resolveOrStored(ctx, tag, func(*Pointer) error { return nil })
}

// resolveNamed is Resolve for a release that the user may have named, and that may have been
// withdrawn.
func (c *Client) resolveNamed(ctx context.Context, tag string) (*Release, error) {
	ctx, cancel := c.withPatience(ctx)
	defer cancel()
	if _, err := c.checkWithdrawn(ctx, tag); err != nil {
		return nil, err
	}
	return c.Resolve(ctx, tag)
}

// resolveOrStored is resolve for those who do not look for something newer: offline, where a folder
// that the installation remembers is gone, they go by what was installed from it.
func (c *Client) resolveOrStored(ctx context.Context, tag string, see func(*Pointer) error) (*Release, error) {
	r, err := c.resolve(ctx, tag, see)
	if c.Offline && is[*RememberedError](err) && !is[*TrustError](err) {
		if kept, err := c.storedRelease(tag); err == nil {
			return kept, nil
		}
	}
	return r, err
}

// withPatience is the context for finding a release.
func (c *Client) withPatience(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.Patience <= 0 {
		return ctx, func() {}
	}
	return withTimeout(ctx, c.Patience)
}

// shareTime is the context for the first of so many places that are left to look in: where time is
// bounded, the place gets its share, so that one that does not answer leaves time for the others.
func shareTime(ctx context.Context, left int) (context.Context, context.CancelFunc) {
	deadline, bounded := ctx.Deadline()
	if !bounded || left < 2 {
		return ctx, func() {}
	}
	return withTimeout(ctx, time.Until(deadline)/time.Duration(left))
}

func withTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("no answer within %s", d.Round(time.Millisecond)))
}

// resolve implements Resolve. It calls see with a release pointer as soon as the pointer counts,
// before it looks at anything that the pointer names.
func (c *Client) resolve(ctx context.Context, tag string, see func(*Pointer) error) (*Release, error) {
	sources := c.sources()
	if c.Offline && len(sources) == 0 {
		return c.storedRelease(tag)
	}
	what := "the newest release"
	if tag != "" {
		what = "release " + tag
	}
	// A slow source is abandoned for the next one, and waited for only where none of the others
	// works.
	client, patient := c, *c
	patient.Transfer = c.transfer().Patient()
	if len(sources) == 1 {
		client = &patient
	}
	var failed []error
	for len(sources) > 0 {
		var slow []source
		for i, s := range sources {
			from, cancel := shareTime(ctx, len(sources)-i)
			r, err := client.resolveFrom(from, s, tag, see)
			cancel()
			var tooSlow *transfer.SlowError
			switch {
			case err == nil:
				if c.Resolved != nil {
					c.Resolved(r)
				}
				return r, nil
			case !isOfOneSource(err):
				return nil, c.blame(err)
			case client == c && errors.As(err, &tooSlow):
				c.step("%v: trying the next mirror", tooSlow)
				slow = append(slow, s)
			default:
				failed = append(failed, err)
			}
		}
		sources, client = slow, &patient
	}
	err := errors.Join(failed...)
	if late := c.ownRelease(err); tag == "" && late != nil {
		c.warn("%v. It names nothing newer than %s, the release that this program came with: taking that", late, c.Own)
		r, err := c.resolve(ctx, c.Own, see)
		if err == nil && late.Pointer.Release == c.Own {
			if err := late.Pointer.CheckRelease(digestOf(r.Documents.Manifest)); err != nil {
				return nil, &TrustError{err, replaced}
			}
		}
		if err != nil {
			return nil, err
		}
		r.Expired = late
		return r, nil
	}
	return nil, c.blame(fmt.Errorf("looking for %s: %w", what, err))
}

// replaced says what it may mean when a release is not the one that the pointer names.
const replaced = "the release was replaced, or the mirror withholds the one named or is still being updated; --release names one"

// isOfOneSource reports whether an error is of one source alone: one that does not answer, or is
// behind. The next one may do.
func isOfOneSource(err error) bool {
	return is[*transfer.NetworkError](err) || is[*NoPointerError](err) || is[*manifests.PointerTimeError](err) || is[*manifests.PointerBackError](err)
}

// resolveFrom finds a release in one source.
func (c *Client) resolveFrom(ctx context.Context, s source, tag string, see func(*Pointer) error) (*Release, error) {
	var p *Pointer
	if tag == "" {
		var err error
		if p, err = c.pointer(ctx, s); err != nil {
			return nil, err
		}
	}
	if p != nil {
		if err := see(p); err != nil {
			return nil, err
		}
		tag = p.Release
	}
	folder, err := s.folder(tag)
	if err != nil {
		return nil, err
	}
	documents, err := c.fetchDocuments(ctx, folder)
	if err != nil {
		return nil, err
	}
	if p != nil {
		if err := p.CheckRelease(digestOf(documents.Manifest)); err != nil {
			return nil, &TrustError{err, replaced}
		}
	}
	r, err := c.verifyDocuments(documents, tag)
	if err != nil {
		return nil, err
	}
	r.From, r.Pointer = folder, p
	return r, nil
}

// fetchDocuments reads what vouches for a release from one folder.
func (c *Client) fetchDocuments(ctx context.Context, folder string) (store.Documents, error) {
	var d store.Documents
	var err error
	get := func(name string, limit int64) []byte {
		if err != nil {
			return nil
		}
		var data []byte
		data, _, err = c.transfer().Get(ctx, []string{folder + name}, limit)
		return data
	}
	d.Sums = get(manifests.SumsName, manifests.MaxSize)
	if !c.SkipSignature {
		d.Signature = get(manifests.SignatureName, maxSignature)
		if isMissing(err) && d.Sums != nil {
			return d, &TrustError{fmt.Errorf("the release at %s is not signed", withoutUser(folder)),
				"it may not be the farm's release, or it is still being published; --insecure-skip-signature trusts whoever controls that address"}
		}
	}
	d.Manifest = get(manifests.ManifestName, manifests.MaxSize)
	return d, err
}

// isMissing reports whether a document is certainly not there, as opposed to not being reached.
func isMissing(err error) bool {
	var status *transfer.StatusError
	return errors.As(err, &status) && (status.Code == http.StatusNotFound || status.Code == http.StatusGone) || errors.Is(err, fs.ErrNotExist)
}

// verifyDocuments verifies the documents in the order of trust, and returns the release that they
// describe.
func (c *Client) verifyDocuments(d store.Documents, tag string) (*Release, error) {
	r := &Release{Documents: d}
	if !c.SkipSignature {
		signer, err := c.Verifier.Verify(d.Sums, d.Signature)
		if err != nil {
			return nil, &TrustError{err, ""}
		}
		r.Signer = signer
	}
	const mixed = "the mirror mixes two releases, or its files were changed"
	sums, err := manifests.DecodeSums(strings.NewReader(string(d.Sums)))
	if err != nil {
		return nil, &TrustError{err, mixed}
	}
	listed := map[string]string{}
	for _, sum := range sums {
		listed[sum.Name] = sum.SHA256
	}
	if got := digestOf(d.Manifest); listed[manifests.ManifestName] != got {
		return nil, &TrustError{&transfer.DigestError{Name: manifests.ManifestName, Want: listed[manifests.ManifestName], Got: got}, mixed}
	}
	signedFor := func(tag string) error {
		if tag == "" || r.Signer.Tag == "" || r.Signer.Tag == tag {
			return nil
		}
		return &TrustError{fmt.Errorf("it was signed for tag %s, not for release %s", r.Signer.Tag, tag), "the mirror serves a different release under this tag"}
	}
	if r.Release, err = manifests.Decode(strings.NewReader(string(d.Manifest))); is[*manifests.VersionError](err) {
		return nil, cmp.Or[error](signedFor(tag), &newerManifestError{err, sums, cmp.Or(tag, r.Signer.Tag)})
	}
	if err != nil {
		return nil, err // well signed: it is not a lie, but a mistake of the farm's
	}
	for _, a := range r.Assets {
		if listed[a.Name] != a.SHA256 {
			return nil, &TrustError{fmt.Errorf("%s and %s do not agree on %s", manifests.SumsName, manifests.ManifestName, a.Name), mixed}
		}
	}
	if tag != "" && r.Release.Release != tag {
		return nil, &TrustError{fmt.Errorf("release %s was asked for, and the manifest is that of %s", tag, r.Release.Release),
			"the mirror has another release; install --update installs that one, --release names the one you want"}
	}
	if err := signedFor(r.Release.Release); err != nil {
		return nil, err
	}
	return r, nil
}

// storedRelease is a release that was installed here, verified again.
func (c *Client) storedRelease(tag string) (*Release, error) {
	if tag == "" {
		base, have := c.base()
		if !have {
			return nil, &OfflineError{"a release"}
		}
		tag = base.Release
	}
	documents, err := c.Store.Documents(tag)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &OfflineError{"release " + tag}
	}
	if err != nil {
		return nil, err
	}
	if documents.Signature == nil && !c.SkipSignature {
		return nil, &TrustError{fmt.Errorf("release %s was installed without its signature", tag), "give --insecure-skip-signature again to go on without it"}
	}
	return c.verifyDocuments(documents, tag)
}
