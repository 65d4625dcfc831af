// Package fetch takes a machine to a verified, running llama.cpp: it is llcuda-fetch without flags and without a terminal.
//
// fetchcli calls it. In go a Client (the store, mirrors, whose signature counts) and what the user asked for; out come
// plans, installations and models, and errors that say by Classify what kind of trouble they are:
//
//	Resolve: release pointer ──▶ signature ──▶ SHA256SUMS ──▶ manifest.json      Plan: detect ──▶ manifests.Pick
//	Install: download ──▶ verify ──▶ unpack ──▶ link the CUDA libraries ──▶ try the programs ──▶ flip `current`
//	SelfUpdate: download ──▶ verify ──▶ unpack ──▶ try the client ──▶ put it in the place of the one that runs
//
// Nothing is used before what vouches for it was verified, in the order that package manifests gives. What is installed
// already is answered from the store, with no network. The package calls functions of the Client's to report progress; it
// never logs, prints or asks, and never sets the process's environment.
package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/detect"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/hub"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
)

// What callers see of the packages below.
type (
	// Progress says how far a download is.
	Progress = transfer.Progress
	// Install is one installation in the store.
	Install = store.Install
	// Holder is a process that changes the store.
	Holder = store.Holder
	// Finding is one thing that is wrong with an installed file.
	Finding = store.Finding
	// Item is something that Prune removes.
	Item = store.Item
	// Contents are what the store's folder holds.
	Contents = store.Contents
	// A LeftOut is a CPU variant that an installation does without.
	LeftOut = store.LeftOut
	// Source is one place that was asked about the machine.
	Source = detect.Source
)

// ErrNotInstalled is a store in which nothing is installed yet.
var ErrNotInstalled = store.ErrNotInstalled

// A Signer is who signed a release.
type Signer struct {
	// By is for a person: the identity, or that it was a key.
	By string
	// ID tells signers apart for certain, which By may not. The numbers of release pointers are kept by it.
	ID string
	// Tag is the tag that the signing workflow ran for; empty where a signature does not tell.
	Tag string
	// Commit is the commit that it ran for; empty where a signature does not tell.
	Commit string
}

// A Verifier says whose signature over SHA256SUMS counts.
type Verifier interface {
	// Verify returns who made the signature, given as a Sigstore bundle, or why it does not count.
	Verify(sums, signed []byte) (Signer, error)
}

// A PointerVerifier says whose release pointer counts.
type PointerVerifier interface {
	// VerifyPointer returns the statement in a release pointer, given as a Sigstore bundle, and who signed it, or why that
	// does not count.
	VerifyPointer(signed []byte) (statement []byte, by Signer, err error)
}

// A Client fetches. Its fields are not changed while it is used.
type Client struct {
	// Store and Detector are required.
	Store    *store.Store
	Detector detect.Detector
	// Host answers for another machine, if not nil.
	Host *manifests.Host
	// Verifier is required, unless SkipSignature is set: then whoever controls the mirrors decides what is installed.
	Verifier      Verifier
	SkipSignature bool
	// Pointers is required to look for the current release; not for one that is named.
	Pointers PointerVerifier
	// Mirrors are the addresses of folders with a release, tried in turn: http, https, file, or a path. "{release}" in one
	// stands for the release's tag, and for "current" where the release pointer is. Without any, they are those that the
	// installation remembers, else DefaultMirror. Whose signature counts is never remembered: whoever can write one file
	// of the store would decide it, for a program that may be replaced with the rights of another user.
	Mirrors []string
	// Offline keeps the client from using the network. Mirrors on this machine are used all the same.
	Offline bool
	// Transfer downloads; nil: its zero value.
	Transfer *transfer.Client
	// Hub is where models come from. Required for them.
	Hub *hub.Client
	// Own is the release that this program came with; empty if none did. It is what a machine without an installation takes
	// where the release pointer has expired and names nothing newer.
	Own string
	// AllowWithdrawn takes a release that is named, although the farm withdrew it.
	AllowWithdrawn bool
	// Patience bounds the time in which a release is found, from its pointer to its manifest; 0 is no bound. Downloads take
	// as long as they take.
	Patience time.Duration
	// Command is what others who wait for the store are told of: "llcuda-fetch install".
	Command string
	// Progress, Waiting and Step are told of what goes on, if not nil. Step is told a sentence at the beginning of each
	// thing that takes time and is no download; Warn one that the user must not miss. Resolved is told of each release that
	// a mirror gave, Detected of the machine, and Decided of what is going to be installed for it.
	Progress func(Progress)
	Waiting  func(Holder)
	Step     func(string)
	Warn     func(string)
	Resolved func(*Release)
	Detected func(manifests.Host)
	Decided  func(manifests.Decision)
}

func (c *Client) decided(d manifests.Decision) {
	if c.Decided != nil {
		c.Decided(d)
	}
}

func (c *Client) warn(format string, args ...any) {
	if c.Warn != nil {
		c.Warn(fmt.Sprintf(format, args...))
	}
}

func (c *Client) step(format string, args ...any) {
	if c.Step != nil {
		c.Step(fmt.Sprintf(format, args...))
	}
}

// patiently is the context for finding a release.
func (c *Client) patiently(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.Patience <= 0 {
		return ctx, func() {}
	}
	return withTimeout(ctx, c.Patience)
}

// share is the context for the first of so many places that are left to look in: where time is bounded, it has its part of
// it, so that one that does not answer leaves some for the others.
func share(ctx context.Context, left int) (context.Context, context.CancelFunc) {
	deadline, bounded := ctx.Deadline()
	if !bounded || left < 2 {
		return ctx, func() {}
	}
	return withTimeout(ctx, time.Until(deadline)/time.Duration(left))
}

func withTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("no answer within %s", d.Round(time.Millisecond)))
}

func (c *Client) transfer() *transfer.Client {
	if c.Transfer != nil {
		return c.Transfer
	}
	return &transfer.Client{}
}

// A TrustError is a release that cannot be believed. Nothing of it was installed.
type TrustError struct {
	Err  error
	hint string
}

func (e *TrustError) Error() string { return e.Err.Error() }
func (e *TrustError) Unwrap() error { return e.Err }

// Hint says what it may mean.
func (e *TrustError) Hint() string {
	var below interface{ Hint() string }
	if errors.As(e.Err, &below) {
		return below.Hint()
	}
	return e.hint
}

// An OfflineError is something that is not on this machine, where the network must not be used.
type OfflineError struct{ What string }

func (e *OfflineError) Error() string {
	return e.What + " is not on this machine, and the network must not be used"
}

// Hint says what helps.
func (e *OfflineError) Hint() string {
	return "run it once without --offline, LLCUDA_OFFLINE and HF_HUB_OFFLINE, or carry a folder of `llcuda-fetch export` here and use install --from DIR"
}

// A NameError is a name that stands for nothing. Known lists what there is.
type NameError struct {
	Kind, Name string
	Known      []string
}

func (e *NameError) Error() string {
	return fmt.Sprintf("there is no %s %q; there is %s", e.Kind, e.Name, strings.Join(e.Known, ", "))
}

// A Release is a release whose manifest was verified, as far as its Signer goes.
type Release struct {
	manifests.Release
	// Signer made the signature. It is zero where the signature was skipped.
	Signer Signer
	// Pointer named it as the current one; nil where the user named it, or a folder that has no pointer.
	Pointer *Pointer
	// Expired is the release pointer that was the newest to be had, where the release is Client.Own for want of a better one.
	Expired *manifests.PointerTimeError
	// From is the folder that it was read from; empty where it was the store.
	From      string
	Documents store.Documents
}

// maxSignature bounds the signature, in bytes; one has about 10 kB.
const maxSignature = 1 << 20

// Resolve finds a release by its tag, or, where the tag is empty, the current one, and verifies it. Offline it is one that
// was installed here before.
func (c *Client) Resolve(ctx context.Context, tag string) (*Release, error) {
	ctx, cancel := c.patiently(ctx)
	defer cancel()
	return c.resolveOrKept(ctx, tag, func(*Pointer) error { return nil })
}

// named is Resolve for a release that the user may have named, and that may have been withdrawn.
func (c *Client) named(ctx context.Context, tag string) (*Release, error) {
	ctx, cancel := c.patiently(ctx)
	defer cancel()
	if _, err := c.checkWithdrawn(ctx, tag); err != nil {
		return nil, err
	}
	return c.Resolve(ctx, tag)
}

// resolveOrKept is resolve for those who do not look for something newer: offline, where a folder that the installation
// remembers is gone, they go by what was installed from it.
func (c *Client) resolveOrKept(ctx context.Context, tag string, see func(*Pointer) error) (*Release, error) {
	r, err := c.resolve(ctx, tag, see)
	if c.Offline && is[*RememberedError](err) && !is[*TrustError](err) {
		if kept, err := c.kept(tag); err == nil {
			return kept, nil
		}
	}
	return r, err
}

// resolve is Resolve. see is told of a release pointer as soon as it counts, before anything that it names is looked at.
func (c *Client) resolve(ctx context.Context, tag string, see func(*Pointer) error) (*Release, error) {
	sources := c.sources()
	if c.Offline && len(sources) == 0 {
		return c.kept(tag)
	}
	what := "the newest release"
	if tag != "" {
		what = "release " + tag
	}
	// A slow source is left for the next one, and is waited for where none of the others does.
	client, patient := c, *c
	patient.Transfer = c.transfer().Patient()
	if len(sources) == 1 {
		client = &patient
	}
	var failed []error
	for len(sources) > 0 {
		var slow []source
		for i, s := range sources {
			from, cancel := share(ctx, len(sources)-i)
			r, err := client.from(from, s, tag, see)
			cancel()
			var tooSlow *transfer.SlowError
			switch {
			case err == nil:
				if c.Resolved != nil {
					c.Resolved(r)
				}
				return r, nil
			case !passes(err):
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

// replaced is what it may mean that a release is not the one that the pointer names.
const replaced = "the release was replaced, or the mirror withholds the one named or is still being updated; --release names one"

// passes says whether an error is of one source alone: one that does not answer, or is behind. The next one may do.
func passes(err error) bool {
	return is[*transfer.NetworkError](err) || is[*NoPointerError](err) || is[*manifests.PointerTimeError](err) || is[*manifests.PointerBackError](err)
}

// from finds a release in one source.
func (c *Client) from(ctx context.Context, s source, tag string, see func(*Pointer) error) (*Release, error) {
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
	documents, err := c.documents(ctx, folder)
	if err != nil {
		return nil, err
	}
	if p != nil {
		if err := p.CheckRelease(digestOf(documents.Manifest)); err != nil {
			return nil, &TrustError{err, replaced}
		}
	}
	r, err := c.believe(documents, tag)
	if err != nil {
		return nil, err
	}
	r.From, r.Pointer = folder, p
	return r, nil
}

// documents reads what vouches for a release from one folder.
func (c *Client) documents(ctx context.Context, folder string) (store.Documents, error) {
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
		if missing(err) && d.Sums != nil {
			return d, &TrustError{fmt.Errorf("the release at %s is not signed", withoutUser(folder)),
				"it may not be the farm's release, or it is still being published; --insecure-skip-signature trusts whoever controls that address"}
		}
	}
	d.Manifest = get(manifests.ManifestName, manifests.MaxSize)
	return d, err
}

// missing says whether a document is certainly not there, as opposed to not being reached.
func missing(err error) bool {
	var status *transfer.StatusError
	return errors.As(err, &status) && (status.Code == http.StatusNotFound || status.Code == http.StatusGone) || errors.Is(err, fs.ErrNotExist)
}

// believe verifies the documents in the order of trust, and returns the release that they describe.
func (c *Client) believe(d store.Documents, tag string) (*Release, error) {
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
		return nil, err // well signed: it is no lie, but a mistake of the farm's
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

// kept is a release that was installed here, verified again.
func (c *Client) kept(tag string) (*Release, error) {
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
	return c.believe(documents, tag)
}

// urls are the addresses of an asset: first where the release was read, then the other mirrors.
func (c *Client) urls(r *Release, a manifests.Artifact) ([]string, error) {
	folders, err := c.folders(r.Release.Release)
	if err != nil {
		return nil, err
	}
	if r.From != "" {
		folders = slices.DeleteFunc(folders, func(folder string) bool { return folder == r.From })
		folders = append([]string{r.From}, folders...)
	}
	for i := range folders {
		folders[i] += a.URL
	}
	return folders, nil
}
