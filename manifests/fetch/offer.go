package fetch

import (
	"context"
	"os"
	"path"
	"slices"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
)

// An offer is a release, and what of it a machine would get.
type offer struct {
	Plan
	release *Release
	bundle  manifests.Artifact
	runtime manifests.Artifact // that of the release, needed or not
}

// needsRuntime reports whether the machine lacks the CUDA libraries.
func (o offer) needsRuntime() bool { return o.Decision.Runtime != "" }

// makeOffer picks what of a release a machine would get.
func (c *Client) makeOffer(r *Release, host manifests.Host, o Options) (offer, error) {
	best := offer{release: r, Plan: Plan{Release: r.Release.Release, SignedBy: r.Signer.By, From: withoutUser(r.From), Downloads: []Download{}, Libraries: []manifests.CUDALibrary{}}}
	if p := r.Pointer; p != nil {
		best.Pointer = &PlanPointer{p.Number, p.Issued, p.Expires, p.Signer.By, p.From}
	}
	var err error
	best.Decision, err = manifests.Pick(r.Release, host, manifests.PickOptions{Row: o.Row, AllowCPU: o.AllowCPU})
	if err != nil {
		return best, err
	}
	best.bundle, _ = r.Asset(best.Decision.Asset)
	best.runtime, _ = r.Runtime(best.bundle)
	need := []manifests.Artifact{best.bundle}
	if best.needsRuntime() {
		need = append(need, best.runtime)
	} else if best.Decision.Through != manifests.ThroughCPU {
		best.Libraries = host.CUDASet(*best.bundle.Toolkit)
	}
	for _, a := range need {
		urls, err := c.urls(r, a)
		if err != nil {
			return best, err
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
		best.Downloads = append(best.Downloads, d)
	}
	return best, nil
}

// makeOfferLike is makeOffer for a machine that has an installation. What the user narrowed the
// choice to for that counts for its repair, and a bundle that was installed for machines that were
// not present is used by the machines that it serves.
func (c *Client) makeOfferLike(base Install, r *Release, host manifests.Host, o Options) (offer, error) {
	mine := base.Machine.Kind == c.Store.ThisMachine().Kind || base.Machine.Kind == launch.AnyKind
	o.AllowCPU = o.AllowCPU || mine && base.Through == manifests.ThroughCPU
	if mine && o.Row.IsZero() && !base.Asked.Row.IsZero() && !o.Update && !o.Force {
		narrow := o
		narrow.Row = base.Asked.Row
		best, err := c.makeOffer(r, host, narrow)
		if err == nil && !best.Decision.Absent() && !slices.ContainsFunc(best.Decision.GPUs, func(gpu manifests.GPUVerdict) bool { return !gpu.Served }) {
			return best, nil
		}
	}
	return c.makeOffer(r, host, o)
}

// choose finds the release and what of it this machine needs. Where the user asks neither for a
// release nor for anything newer, it is the release in the store: a repair or other GPUs are not a
// reason for another release, or for using the network if everything is there. Every release
// pointer that is followed is passed to see first, which refuses those that are older than one seen
// before.
func (c *Client) choose(ctx context.Context, host manifests.Host, o Options, see func(signer string, p manifests.Pointer) error) (offer, error) {
	base, have := c.base()
	repair := have && o.Release == "" && !o.Update
	if repair && !o.Force {
		if r, err := c.storedRelease(base.Release); err == nil {
			best, err := c.makeOfferLike(base, r, host, o)
			incomplete := slices.ContainsFunc(best.Downloads, func(d Download) bool { return d.Have < d.Size })
			if err == nil && !incomplete {
				return best, nil
			}
		}
	}
	tag := o.Release
	if repair && len(c.Mirrors) == 0 {
		tag = base.Release
	}
	ctx, cancel := c.withPatience(ctx)
	defer cancel()
	named, err := c.checkWithdrawn(ctx, o.Release)
	if err != nil {
		return offer{}, err
	}
	if named != nil && named.CheckTime(time.Now()) == nil {
		_ = see(named.Signer.ID, named.Pointer) // what was named is taken, whatever the record says
	}
	resolve := c.resolveOrStored
	if o.Update {
		resolve = c.resolve
	}
	r, err := resolve(ctx, tag, func(p *Pointer) error {
		c.step("release pointer %d names %s, until %s", p.Number, p.Release, p.Expires.Format(time.DateOnly))
		if err := see(p.Signer.ID, p.Pointer); err != nil {
			return &TrustError{err, ""}
		}
		return nil
	})
	if err != nil {
		return offer{}, err
	}
	if have {
		c.warnWithdrawn(base)
	}
	if have && o.Release == "" && !o.AllowOlder && isOlder(r.Release, base) && !isWithdrawn(base, r.Pointer) {
		return offer{}, &TrustError{&OlderError{base.Release, r.Release.Release}, ""}
	}
	return c.makeOfferLike(base, r, host, o)
}

// describeOffer returns an offer as the installation that it becomes.
func (c *Client) describeOffer(best offer, o Options, mirrors []string) Install {
	folder, _ := c.Store.Folder(best.bundle)
	i := describeFor(Install{
		Release: best.release.Release.Release, SourceDateEpoch: best.release.SourceDateEpoch, Bundle: best.Decision.Bundle, Row: best.Decision.Row,
		Through: best.Decision.Through, Folder: c.Store.Relative(folder), RuntimeNames: best.runtimeNames(), Libraries: best.Libraries,
		Asked: store.Asked{Row: o.Row, AllowCPU: o.AllowCPU}, SignedBy: best.release.Signer.By,
	}, c.Store.ThisMachine(), best.Decision)
	base, have := c.base()
	if have && o.Row.IsZero() && base.Asked.Row == i.Row { // see makeOfferLike
		i.Asked.Row = i.Row
	}
	if i.Mirrors = mirrors; len(c.Mirrors) == 0 && have {
		i.Mirrors = append(i.Mirrors, base.Mirrors...)
	}
	switch p := best.release.Pointer; {
	case p != nil:
		i.Pointer, i.PointerBy = p.Number, p.Signer.ID
	case have && base.Release == i.Release: // the same once more
		i.Pointer, i.PointerBy = base.Pointer, base.PointerBy
	}
	if c.Host != nil {
		i.Libraries = keepExisting(i.Libraries)
	}
	return i
}

// isInstalled reports whether an installation is what an offer leads to.
func (c *Client) isInstalled(best offer, current Install, o Options) bool {
	folder, _ := c.Store.Folder(best.bundle)
	as := describeFor(current, c.Store.ThisMachine(), best.Decision)
	return current.Release == best.release.Release.Release && current.Folder == c.Store.Relative(folder) && current.Through == best.Decision.Through &&
		current.SignedBy == best.SignedBy && current.Machine.Same(as.Machine) && slices.Equal(current.VisibleDevices, as.VisibleDevices) &&
		current.Asked == store.Asked{Row: o.Row, AllowCPU: o.AllowCPU} && c.Store.Sound(current) == nil
}

// isOlder reports whether a release is older than an installed one: by the numbers of its tag, else
// by the time of its source.
func isOlder(r manifests.Release, installed Install) bool {
	if order, ok := manifests.CompareTags(r.Release, installed.Release); ok {
		return order < 0
	}
	return r.SourceDateEpoch < installed.SourceDateEpoch
}

// isWithdrawn reports whether the farm withdrew an installed release: a pointer lists it as
// withdrawn, or named it, and a later one of the same signer names another. A release that the user
// named is withdrawn by the list alone.
func isWithdrawn(installed Install, p *Pointer) bool {
	return p != nil && p.CheckWithdrawn(installed.Release) != nil || p != nil && installed.Pointer > 0 && installed.PointerBy == p.Signer.ID && installed.Pointer < p.Number
}

// runtimeNames are the names under which the bundle may look for CUDA's libraries: of NVIDIA's own, and of those in the
// runtime.
func (o offer) runtimeNames() []string {
	names := o.bundle.Toolkit.CUDALibraries()
	for _, file := range o.runtime.Libraries {
		if name := path.Base(file.Path); path.Dir(file.Path) == launch.LibrariesDir && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// keepExisting are the libraries of another machine that this one has as well.
func keepExisting(libraries []manifests.CUDALibrary) []manifests.CUDALibrary {
	return slices.DeleteFunc(slices.Clone(libraries), func(library manifests.CUDALibrary) bool {
		_, err := os.Stat(library.Path)
		return err != nil
	})
}
