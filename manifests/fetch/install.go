package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
	"github.com/waqasm86/llcuda-farm/matrix"
)

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Options are what the user asks of a plan or an installation. The zero value is: whatever is best here.
type Options struct {
	// Release is a tag; empty is the one installed, else the newest.
	Release string
	// SM allows that bundle alone, and AllowCPU one that serves no GPU.
	SM       matrix.SM
	AllowCPU bool
	// Update looks for the newest release although one is installed.
	Update bool
	// Force downloads and unpacks anew what is installed.
	Force bool
	// AllowOlder takes a release that is older than the one installed, without its having been asked for by its tag.
	AllowOlder bool
	// Remember has the installation remember the client's Mirrors, even where it is all there already.
	Remember bool
}

// A Download is an archive that an installation needs.
type Download struct {
	Asset string `json:"asset"`
	Size  int64  `json:"size"`
	// Have is how many bytes of it are here already: all of them, or those of an interrupted run.
	Have int64    `json:"have"`
	URLs []string `json:"urls"`
}

// A Plan is what Install would do.
type Plan struct {
	Release  string `json:"release"`
	SignedBy string `json:"signed_by"`
	From     string `json:"from"`
	// Pointer named the release as the current one; nil where the user named it, or a folder that has no pointer.
	Pointer  *PlanPointer       `json:"pointer,omitempty"`
	Decision manifests.Decision `json:"decision"`
	// Libraries are the CUDA libraries found on this machine that the bundle would be linked to.
	Libraries []manifests.CUDALibrary `json:"libraries"`
	Downloads []Download              `json:"downloads"`
}

// A PlanPointer is the release pointer that a plan goes by.
type PlanPointer struct {
	Number   int64     `json:"number"`
	Issued   time.Time `json:"issued"`
	Expires  time.Time `json:"expires"`
	SignedBy string    `json:"signed_by"`
	From     string    `json:"from"`
}

// Detect says what the machine is: this one, or the one that the client answers for.
func (c *Client) Detect(ctx context.Context) (manifests.Host, []Source, error) {
	if c.Host != nil {
		host := *c.Host
		host.CUDALibraries = slices.DeleteFunc(slices.Clone(host.CUDALibraries), ofStore)
		if c.Detected != nil {
			c.Detected(host)
		}
		return host, []Source{{Name: "the file given", Gave: "everything"}}, nil
	}
	report, err := c.Detector.Detect(ctx)
	report.Host.CUDALibraries = slices.DeleteFunc(report.Host.CUDALibraries, ofStore)
	if err == nil && c.Detected != nil {
		c.Detected(report.Host)
	}
	return report.Host, report.Sources, err
}

// machine is the one that the client answers for, as the store tells them apart.
func (c *Client) machine() launch.Machine {
	if c.Host == nil {
		return launch.Here(os.LookupEnv)
	}
	data, _ := c.Host.Encode() // one that cannot be written down is told apart from those that can
	digest := digestOf(data)
	const digits = 12
	return launch.Machine{Kind: launch.DescribedKind + digest[:digits], Fingerprint: digest, Folders: []string{}}
}

// Plan says what Install would do, and changes nothing. Where no bundle fits, the error is a *manifests.NoBundleError,
// and the plan has its trace.
func (c *Client) Plan(ctx context.Context, o Options) (Plan, error) {
	host, _, err := c.Detect(ctx)
	if err != nil {
		return Plan{}, err
	}
	r, err := c.named(ctx, o.Release)
	if err != nil {
		return Plan{}, err
	}
	plan, _, err := c.plan(r, host, o)
	return plan, err
}

// parts are the archives that a plan is about.
type parts struct {
	bundle  manifests.Artifact
	runtime manifests.Artifact // the one of the release, needed or not
	fetch   bool               // it is needed
}

func (c *Client) plan(r *Release, host manifests.Host, o Options) (Plan, parts, error) {
	plan := Plan{Release: r.Release.Release, SignedBy: r.Signer.By, From: withoutUser(r.From), Downloads: []Download{}, Libraries: []manifests.CUDALibrary{}}
	if p := r.Pointer; p != nil {
		plan.Pointer = &PlanPointer{p.Number, p.Issued, p.Expires, p.Signer.By, p.From}
	}
	var err error
	plan.Decision, err = manifests.Pick(r.Release, host, manifests.PickOptions{SM: o.SM, AllowCPU: o.AllowCPU})
	if err != nil {
		return plan, parts{}, err
	}
	var p parts
	p.bundle, _ = r.Asset(plan.Decision.Asset)
	p.runtime, _ = r.Runtime(p.bundle)
	p.fetch = plan.Decision.Runtime != ""
	need := []manifests.Artifact{p.bundle}
	if p.fetch {
		need = append(need, p.runtime)
	} else if plan.Decision.Through != manifests.ThroughCPU {
		plan.Libraries = whole(host.CUDALibraries, runtimeNames(p.runtime))
	}
	for _, a := range need {
		urls, err := c.urls(r, a)
		if err != nil {
			return plan, p, err
		}
		d := Download{Asset: a.Name, Size: a.Size}
		for _, address := range urls {
			d.URLs = append(d.URLs, withoutUser(address))
		}
		if _, there := c.Store.Folder(a); there && !o.Force {
			d.Have = a.Size
		} else if info, err := os.Stat(c.Store.Partial(a.SHA256)); err == nil {
			d.Have = min(info.Size(), a.Size)
		}
		plan.Downloads = append(plan.Downloads, d)
	}
	return plan, p, nil
}

// runtimeNames are the libraries in a CUDA runtime.
func runtimeNames(a manifests.Artifact) []string {
	var names []string
	for _, file := range a.Libraries {
		if name := path.Base(file.Path); strings.Contains(name, ".so") {
			names = append(names, name)
		}
	}
	return names
}

// whole are the libraries of the first source that has all of them: of two sources, they may not load together.
func whole(found []manifests.CUDALibrary, names []string) []manifests.CUDALibrary {
	bySource := map[string][]manifests.CUDALibrary{}
	for _, library := range found {
		bySource[library.Source] = append(bySource[library.Source], library)
		if len(bySource[library.Source]) == len(names) {
			return bySource[library.Source]
		}
	}
	return nil
}

// An Outcome is what Install did.
type Outcome struct {
	Install Install
	// Already says that it was there, and nothing was done.
	Already bool
	// Decision says why, and Probe what the programs said. Both are empty where Already is set.
	Decision manifests.Decision
	Probe    store.Probe
}

// An OlderError is a release older than the one installed.
type OlderError struct{ Installed, Offered string }

func (e *OlderError) Error() string {
	return fmt.Sprintf("the mirror offers release %s, which is older than %s, the one installed", e.Offered, e.Installed)
}

// Hint says what it may mean.
func (e *OlderError) Hint() string {
	return "the mirror may be holding you at an old release; to install it anyway, give --release " + e.Offered + " or --allow-older"
}

// Install has a bundle installed and current. The second time it answers from the store, without network and lock.
func (c *Client) Install(ctx context.Context, o Options) (Outcome, error) {
	if err := c.Store.Trusted(); err != nil {
		return Outcome{}, err
	}
	mirrors, err := toRemember(c.Mirrors)
	if err != nil {
		return Outcome{}, err
	}
	if current, ok := c.installed(o); ok && (!o.Remember || slices.Equal(mirrors, current.Mirrors)) {
		c.warnWithdrawn(current)
		return Outcome{Install: current, Already: true}, nil
	}
	l, err := c.Store.Lock(ctx, c.Command, c.Waiting)
	if is[*store.HomeError](err) {
		return c.readOnly(ctx, o, err)
	}
	if err != nil {
		return Outcome{}, err
	}
	outcome, err := c.install(ctx, l, o, mirrors)
	if err == nil && o.Remember && !slices.Equal(mirrors, outcome.Install.Mirrors) {
		outcome.Install, err = l.Remember(outcome.Install, mirrors)
	}
	return outcome, errors.Join(err, l.Close())
}

func (c *Client) install(ctx context.Context, l *store.Locked, o Options, mirrors []string) (Outcome, error) {
	// Whoever had the lock may have installed the very thing.
	if current, ok := c.installed(o); ok {
		return Outcome{Install: current, Already: true}, nil
	}
	base, have := c.base()
	if !have || o != (Options{Remember: o.Remember}) { // else nothing may have to be done, and a program waits
		c.step("looking at this machine")
	}
	host, _, err := c.Detect(ctx)
	if err != nil {
		return Outcome{}, err
	}
	i, decision, recorded, err := c.reuse(o, host)
	switch {
	case err != nil:
		return Outcome{}, err
	case recorded:
		return Outcome{Install: i, Already: true}, nil
	case i.ID != 0:
		c.decided(decision)
		outcome, err := c.takeOver(ctx, l, i, decision)
		// What is damaged comes anew, and the machine's own CUDA libraries may have changed with it.
		if !is[*DamageError](err) && (!is[*store.ProbeError](err) || i.Runtime != "") {
			return outcome, err
		}
	}
	if o.SM == 0 && !o.AllowCPU {
		if none := host.NoGPU(); none != nil { // no network is needed to know
			return Outcome{}, none
		}
	}
	r, plan, p, err := c.choose(ctx, l, host, o)
	if err != nil {
		return Outcome{Decision: plan.Decision}, err
	}
	c.decided(plan.Decision)
	if current, err := c.Store.Current(); err == nil && !o.Force && c.same(current, r, plan, o) {
		return Outcome{Install: current, Already: true}, nil
	}
	bundle, err := c.adopt(ctx, l, r, p.bundle, runtimeNames(p.runtime), o.Force)
	if err != nil {
		return Outcome{}, err
	}
	i = describe(Install{
		Release: r.Release.Release, SourceDateEpoch: r.SourceDateEpoch, Bundle: plan.Decision.Bundle, SM: plan.Decision.SM,
		Through: plan.Decision.Through, Folder: c.Store.Relative(bundle), RuntimeNames: runtimeNames(p.runtime), Libraries: plan.Libraries,
		Asked: store.Asked{SM: o.SM, AllowCPU: o.AllowCPU}, SignedBy: r.Signer.By,
	}, c.Store.Here(), plan.Decision)
	if have && o.SM == 0 && base.Asked.SM == i.SM { // see planLike
		i.Asked.SM = i.SM
	}
	if i.Mirrors = mirrors; len(c.Mirrors) == 0 && have {
		i.Mirrors = append(i.Mirrors, base.Mirrors...)
	}
	switch {
	case r.Pointer != nil:
		i.Pointer, i.PointerBy = r.Pointer.Number, r.Pointer.Signer.ID
	case have && base.Release == i.Release: // the same once more
		i.Pointer, i.PointerBy = base.Pointer, base.PointerBy
	}
	if c.Host != nil {
		i.Libraries = here(i.Libraries)
	}
	probe, err := c.prepare(ctx, l, r, &i, p, o.Force)
	if err == nil && c.Host == nil {
		c.step("trying the CPU")
		probe.LeftOut, err = l.TryVariants(ctx, i)
	}
	if err != nil {
		if have && base.Folder == i.Folder && len(base.Libraries) > 0 { // the links of the one that stays
			_, back := l.Link(l.Dir(base), base.Libraries)
			err = errors.Join(err, back)
		}
		return Outcome{}, err
	}
	if err := l.Keep(r.Release.Release, r.Documents); err != nil {
		return Outcome{}, err
	}
	i.LlamaCPP, i.Seen = probe.Version, probe.Devices
	if i, err = l.Activate(i); err != nil {
		return Outcome{}, err
	}
	return Outcome{Install: i, Decision: plan.Decision, Probe: probe}, nil
}

// choose finds the release and what of it this machine needs. Where the user names no release and nothing newer, it is the
// one that is in the store: a repair, or other GPUs, are no reason for another one, nor for a network if all is there.
func (c *Client) choose(ctx context.Context, l *store.Locked, host manifests.Host, o Options) (*Release, Plan, parts, error) {
	base, have := c.base()
	repair := have && o.Release == "" && !o.Update
	if repair && !o.Force {
		if r, err := c.kept(base.Release); err == nil {
			plan, p, err := c.planLike(base, r, host, o)
			missing := slices.ContainsFunc(plan.Downloads, func(d Download) bool { return d.Have < d.Size })
			if err == nil && !missing {
				return r, plan, p, nil
			}
		}
	}
	tag := o.Release
	if repair && len(c.Mirrors) == 0 {
		tag = base.Release
	}
	ctx, cancel := c.patiently(ctx)
	defer cancel()
	named, err := c.checkWithdrawn(ctx, o.Release)
	if err != nil {
		return nil, Plan{}, parts{}, err
	}
	if named != nil && named.CheckTime(time.Now()) == nil {
		_ = l.SeePointer(named.Signer.ID, named.Pointer) // what was named is taken, whatever the record says
	}
	resolve := c.resolveOrKept
	if o.Update {
		resolve = c.resolve
	}
	r, err := resolve(ctx, tag, func(p *Pointer) error {
		c.step("release pointer %d names %s, until %s", p.Number, p.Release, p.Expires.Format(time.DateOnly))
		if err := l.SeePointer(p.Signer.ID, p.Pointer); err != nil {
			return &TrustError{err, ""}
		}
		return nil
	})
	if err != nil {
		return nil, Plan{}, parts{}, err
	}
	if have {
		c.warnWithdrawn(base)
	}
	if have && o.Release == "" && !o.AllowOlder && older(r.Release, base) && !withdrawn(base, r.Pointer) {
		return nil, Plan{}, parts{}, &TrustError{&OlderError{base.Release, r.Release.Release}, ""}
	}
	plan, p, err := c.planLike(base, r, host, o)
	return r, plan, p, err
}

// planLike is plan. What the user narrowed the choice to for an installation counts for its repair, and the bundle that was
// installed for machines that were not there is taken by those that it serves.
func (c *Client) planLike(base Install, r *Release, host manifests.Host, o Options) (Plan, parts, error) {
	mine := base.Machine.Kind == c.Store.Here().Kind || base.Machine.Kind == launch.AnyKind
	o.AllowCPU = o.AllowCPU || mine && base.Through == manifests.ThroughCPU
	if mine && o.SM == 0 && base.Asked.SM != 0 && !o.Update && !o.Force {
		narrow := o
		narrow.SM = base.Asked.SM
		plan, p, err := c.plan(r, host, narrow)
		if err == nil && !plan.Decision.Absent() && !slices.ContainsFunc(plan.Decision.GPUs, func(gpu manifests.GPUVerdict) bool { return !gpu.Served }) {
			return plan, p, nil
		}
	}
	return c.plan(r, host, o)
}

// here are the libraries of another machine that this one has as well.
func here(libraries []manifests.CUDALibrary) []manifests.CUDALibrary {
	return slices.DeleteFunc(slices.Clone(libraries), func(library manifests.CUDALibrary) bool {
		_, err := os.Stat(library.Path)
		return err != nil
	})
}

// same says whether an installation is what a plan leads to.
func (c *Client) same(current Install, r *Release, plan Plan, o Options) bool {
	bundle, _ := r.Asset(plan.Decision.Asset)
	dir, _ := c.Store.Folder(bundle)
	as := describe(current, c.Store.Here(), plan.Decision)
	return current.Release == r.Release.Release && current.Folder == c.Store.Relative(dir) && current.Through == plan.Decision.Through &&
		current.SignedBy == r.Signer.By && current.Machine.Same(as.Machine) && slices.Equal(current.VisibleDevices, as.VisibleDevices) &&
		current.Asked == store.Asked{SM: o.SM, AllowCPU: o.AllowCPU} && c.Store.Sound(current) == nil
}

// prepare links the bundle to CUDA libraries and tries its programs. Libraries that were found on the machine and do not
// do are given up for the farm's own: they may be of a CUDA 12 that is too old, or lack what they need themselves.
func (c *Client) prepare(ctx context.Context, l *store.Locked, r *Release, i *Install, p parts, force bool) (store.Probe, error) {
	onGPU := i.Through != manifests.ThroughCPU
	seen := onGPU && i.Machine.Kind != launch.AnyKind && c.Host == nil
	if !p.fetch && len(i.Libraries) > 0 {
		shared, err := l.Shared(*i)
		if err != nil {
			return store.Probe{}, err
		}
		if shared {
			c.step("another machine uses this bundle with other CUDA libraries: linking it to the farm's, which work on both")
			p.fetch = true
		}
	}
	if p.fetch {
		if err := c.useRuntime(ctx, l, r, i, p.runtime, force); err != nil {
			return store.Probe{}, err
		}
	}
	try := func() (store.Probe, error) {
		if len(i.Libraries) > 0 { // on the CPU alone, what other machines need of the bundle stays as it is
			var err error
			if i.Links, err = l.Link(l.Dir(*i), i.Libraries); err != nil {
				return store.Probe{}, err
			}
		}
		c.step("trying the programs")
		return store.TryPrograms(ctx, l.Programs(*i), seen)
	}
	probe, err := try()
	var failed *store.ProbeError
	if !errors.As(err, &failed) || p.fetch || !onGPU || len(i.Libraries) == 0 {
		return probe, err
	}
	c.step("the CUDA libraries from %s do not work (%s); downloading ours", i.Libraries[0].Source, failed.Problem)
	if err := c.useRuntime(ctx, l, r, i, p.runtime, force); err != nil {
		return store.Probe{}, err
	}
	return try()
}

// useRuntime has the farm's CUDA libraries in the store, and the installation use them.
func (c *Client) useRuntime(ctx context.Context, l *store.Locked, r *Release, i *Install, runtime manifests.Artifact, force bool) error {
	dir, err := c.adopt(ctx, l, r, runtime, nil, force)
	if err != nil {
		return err
	}
	i.Runtime, i.Libraries = c.Store.Relative(dir), nil
	for _, name := range i.RuntimeNames {
		i.Libraries = append(i.Libraries, manifests.CUDALibrary{Name: name, Path: path.Join(i.Runtime, launch.LibrariesDir, name), Source: "store"})
	}
	return nil
}

// adopt has an archive unpacked in the store. It is unpacked while it is downloaded, and counts when the digest of its
// bytes and every file in it are right.
func (c *Client) adopt(ctx context.Context, l *store.Locked, r *Release, a manifests.Artifact, runtimeNames []string, force bool) (string, error) {
	if dir, there := l.Folder(a); there && !force {
		findings, err := l.Verify(ctx, a, runtimeNames)
		switch {
		case ctx.Err() != nil:
			return "", ctx.Err()
		case err != nil:
		case len(findings) > 0:
			err = fmt.Errorf("%s: %s", findings[0].Path, findings[0].Detail)
		case a.Kind == manifests.KindBundle && !c.unpackedHere(c.Store.Relative(dir)):
			err = errors.New("no installation has it")
		default:
			return dir, nil
		}
		c.step("%s in the store is not as it was published (%v): unpacking it anew", a.Stem(), err)
	}
	urls, err := c.urls(r, a)
	if err != nil {
		return "", err
	}
	if len(urls) == 0 {
		return "", &OfflineError{a.Name}
	}
	stage, err := l.Stage(a)
	if err != nil {
		return "", err
	}
	partial := l.Partial(a.SHA256)
	var refused error
	follow := func(stream io.Reader) error {
		err := stage.Unpack(ctx, stream)
		if refused = nil; is[*store.ArchiveError](err) {
			// The bytes may turn out to be no archive of ours at all: the digest is heard first, and speaks for itself.
			refused = err
			_, err = io.Copy(io.Discard, stream)
		}
		return err
	}
	blob := transfer.Blob{Name: a.Name, Size: a.Size, SHA256: a.SHA256, URLs: urls, Transient: true}
	if err := c.transfer().Fetch(ctx, blob, partial, follow, c.Progress); err != nil {
		return "", errors.Join(c.blame(err), stage.Close())
	}
	// The archive is of no use any more. Gone before Adopt has the file system write, it is never written, nor takes the
	// room that what was unpacked from it may need.
	if err := errors.Join(refused, os.Remove(partial)); err != nil {
		return "", errors.Join(err, stage.Close())
	}
	c.step("writing %s to disk", a.Stem())
	dir, err := stage.Adopt(runtimeNames)
	return dir, errors.Join(err, stage.Close())
}

// unpackedHere says whether an installation has a bundle's folder, and the metadata.json in it is the one that was unpacked.
// The manifest vouches for the archive as a whole; what says of a folder which files it has lies in the folder itself.
func (c *Client) unpackedHere(folder string) bool {
	list, err := c.Store.List()
	return err == nil && slices.ContainsFunc(list, func(i Install) bool { return i.Folder == folder && c.Store.Unchanged(i) })
}

// older says whether a release is older than an installed one: by the numbers of its tag, else by the time of its source.
func older(r manifests.Release, installed Install) bool {
	if order, ok := manifests.CompareTags(r.Release, installed.Release); ok {
		return order < 0
	}
	return r.SourceDateEpoch < installed.SourceDateEpoch
}

// withdrawn says whether the farm took an installed release back: a pointer lists it as withdrawn, or named it, and a later
// one of the same signer names another. What the user chose himself is taken from him by the list alone.
func withdrawn(installed Install, p *Pointer) bool {
	return p != nil && p.CheckWithdrawn(installed.Release) != nil || p != nil && installed.Pointer > 0 && installed.PointerBy == p.Signer.ID && installed.Pointer < p.Number
}

// Rollback makes the installation before the current one the current one, once every file of it was verified.
func (c *Client) Rollback(ctx context.Context) (Install, error) {
	if _, err := c.Store.Previous(); err != nil {
		return Install{}, err
	}
	l, err := c.Store.Lock(ctx, c.Command, c.Waiting)
	if err != nil {
		return Install{}, err
	}
	i, err := l.Previous()
	if err == nil {
		_, err = c.verify(ctx, i)
	}
	if err == nil {
		err = l.Rollback(i)
	}
	return i, errors.Join(err, l.Close())
}

// Uninstall removes everything that the client put into the store, and the store itself.
func (c *Client) Uninstall(ctx context.Context) (store.Contents, error) {
	l, err := c.Store.Lock(ctx, c.Command, c.Waiting)
	if err != nil {
		return store.Contents{}, err
	}
	contents, err := l.Uninstall()
	return contents, errors.Join(err, l.Close())
}

// Prune removes what no installation needs that a machine uses.
func (c *Client) Prune(ctx context.Context) ([]Item, error) {
	l, err := c.Store.Lock(ctx, c.Command, c.Waiting)
	if err != nil {
		return nil, err
	}
	items, err := l.Prune()
	return items, errors.Join(err, l.Close())
}

// A DamageError is an installation whose files are not those that were installed.
type DamageError struct {
	Install  Install
	Findings []Finding
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("verifying %s of release %s: %d files are not as they were signed", e.Install.Bundle, e.Install.Release, len(e.Findings))
}

// Hint says what helps.
func (e *DamageError) Hint() string {
	return "llcuda-fetch install --force --release " + e.Install.Release + " repairs it; if nobody changed the files, the disk may be failing"
}

// Verify checks the current installation from the signature to the last byte, or, on a machine that has none, the newest
// installation in the store. It uses no network. A *DamageError lists what is wrong.
func (c *Client) Verify(ctx context.Context) (Install, *Release, error) {
	i, err := c.Store.Current()
	if errors.Is(err, ErrNotInstalled) {
		if base, have := c.base(); have {
			i, err = base, nil
		}
	}
	if err != nil {
		return Install{}, nil, err
	}
	r, err := c.verify(ctx, i)
	return i, r, err
}

// verify checks an installation.
func (c *Client) verify(ctx context.Context, i Install) (*Release, error) {
	kept := *c
	kept.SkipSignature = c.SkipSignature || i.SignedBy == ""
	r, err := kept.kept(i.Release)
	if err != nil {
		return nil, err
	}
	damage := &DamageError{Install: i}
	read := map[string]bool{"": true} // where libraries of the machine's own serve, there is no runtime
	for _, a := range slices.Concat(r.Bundles(), r.Runtimes()) {
		dir, _ := c.Store.Folder(a)
		if dir = c.Store.Relative(dir); dir != i.Folder && dir != i.Runtime {
			continue
		}
		read[dir] = true
		findings, err := c.Store.Verify(ctx, a, i.RuntimeNames)
		if err != nil {
			return r, err
		}
		for _, f := range findings {
			damage.Findings = append(damage.Findings, Finding{Path: dir + "/" + f.Path, Detail: f.Detail})
		}
	}
	if !c.Store.Unchanged(i) {
		damage.Findings = append(damage.Findings, Finding{Path: i.Folder + "/" + manifests.MetadataName, Detail: "it is not the one that was unpacked"})
	}
	for _, dir := range []string{i.Folder, i.Runtime} {
		if !read[dir] {
			damage.Findings = append(damage.Findings, Finding{Path: dir, Detail: "the release has no such archive"})
		}
	}
	if err := c.Store.Sound(i); err != nil && len(damage.Findings) == 0 {
		damage.Findings = append(damage.Findings, Finding{Path: i.Folder, Detail: err.Error()})
	}
	if len(damage.Findings) > 0 {
		return r, damage
	}
	return r, nil
}

// Environment are the variables that other programs find an installation by. LLAMA_SERVER_PATH and LLAMA_CPP_DIR are
// those of the Python package llcuda.
func (c *Client) Environment(i Install) [][2]string {
	dir, programs := c.Store.Dir(i), c.Programs(i)
	list := [][2]string{
		{"LLAMA_CPP_DIR", dir},
		{"LLAMA_SERVER_PATH", path.Join(programs, "llama-server")},
		{"LLCUDA_BIN_DIR", programs},
		{"LLCUDA_LIB_DIR", path.Join(dir, launch.LibrariesDir)},
		{"LLCUDA_INSTALLED_RELEASE", i.Release}, // LLCUDA_RELEASE and LLCUDA_SM ask for one
		{"LLCUDA_INSTALLED_SM", strconv.Itoa(int(i.SM))},
	}
	if len(i.VisibleDevices) > 0 {
		list = append(list, [2]string{"CUDA_VISIBLE_DEVICES", strings.Join(i.VisibleDevices, ",")})
	}
	return list
}

// Programs is the folder of an installation's programs.
func (c *Client) Programs(i Install) string { return path.Join(c.Store.Dir(i), launch.ProgramsDir) }

// Program is the path of one of an installation's programs.
func (c *Client) Program(i Install, name string) (string, error) {
	programs := c.Store.Programs(i)
	if program, ok := programs.Program(name); ok {
		return program, nil
	}
	entries, err := os.ReadDir(c.Programs(i))
	if err != nil {
		return "", err
	}
	var known []string
	for _, entry := range entries {
		if _, ok := programs.Program(entry.Name()); ok {
			known = append(known, entry.Name())
		}
	}
	return "", &NameError{Kind: "program", Name: name, Known: known}
}
