package fetch

import (
	"context"
	"errors"
	"slices"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
)

// base is the installation that a new one takes the release from, where the user names none: the
// current one, else the newest that another kind of machine has in the store.
func (c *Client) base() (Install, bool) {
	if current, err := c.Store.Current(); err == nil {
		return current, true
	}
	list, err := c.Store.List()
	if err != nil || len(list) == 0 {
		return Install{}, false
	}
	return list[len(list)-1], true
}

// candidates are the installations that may serve this machine as it is now: the base first, then
// the others of its release, the newest first.
func (c *Client) candidates() []Install {
	base, have := c.base()
	if !have {
		return nil
	}
	list, _ := c.Store.List() // the base stands without it
	slices.Reverse(list)
	list = slices.DeleteFunc(list, func(i Install) bool { return i.ID == base.ID || i.Release != base.Release })
	return append([]Install{base}, list...)
}

// satisfies reports whether an installation is what the options ask for.
func (c *Client) satisfies(i Install, o Options) bool {
	switch {
	case o.Update, o.Force,
		o.Release != "" && o.Release != i.Release,
		// A user who asked for an SM before and asks for nothing now gets what is installed. A
		// bundle for the CPU alone does not satisfy, unless it was asked for.
		!o.Row.IsZero() && o.Row != i.Row,
		!o.AllowCPU && i.Through == manifests.ThroughCPU && !i.Asked.AllowCPU,
		!c.SkipSignature && i.SignedBy == "":
		return false
	}
	return true
}

// findInstalled is the installation that is what the options ask for, where the machine and the
// environment are as they were.
func (c *Client) findInstalled(o Options) (Install, bool) {
	now := c.Store.ThisMachine()
	for _, i := range c.candidates() {
		if c.satisfies(i, o) && i.Serves(now) && c.Store.Sound(i) == nil {
			return i, true
		}
	}
	return Install{}, false
}

// findReusable finds an installation in the store that serves what CUDA shows of the machine now.
// It goes by what the bundle says of itself, which was verified when it was installed; so it needs
// neither a network nor the release's documents. The installation is returned as it must be
// recorded, and recorded reports whether it already is. The error is that of a machine without a
// GPU.
func (c *Client) findReusable(o Options, host manifests.Host) (i Install, d manifests.Decision, recorded bool, err error) {
	now := c.Store.ThisMachine()
	for _, i := range c.candidates() {
		if !c.satisfies(i, o) || c.Store.Sound(i) != nil {
			continue
		}
		meta, err := c.Store.Metadata(i)
		if err != nil {
			continue
		}
		mine, onCPU := i.Machine.Kind == now.Kind, i.Through == manifests.ThroughCPU
		// Where there is a GPU that this bundle does not serve, another one may.
		allowCPU := len(host.GPUs) == 0 && (o.AllowCPU || mine && onCPU)
		d, err := manifests.Pick(releaseOf(meta), host, manifests.PickOptions{AllowCPU: allowCPU})
		if none, ok := errors.AsType[*manifests.NoBundleError](err); ok && (none.Lack == manifests.LackGPU || none.Lack == manifests.LackDriver) && o.Row.IsZero() && !o.AllowCPU {
			return Install{}, d, false, err
		}
		if err == nil && d.Through == manifests.ThroughCPU && !onCPU { // its CPU half will do
			i.Through = manifests.ThroughCPU
			return describeFor(i, now, d), d, false, nil
		}
		if err != nil || d.Through != i.Through || d.Absent() {
			continue
		}
		as := describeFor(i, now, d)
		recorded := covers(i, now) && (i.Every || slices.Equal(i.VisibleDevices, as.VisibleDevices))
		left := slices.ContainsFunc(d.GPUs, func(gpu manifests.GPUVerdict) bool { return !gpu.Served })
		other := slices.ContainsFunc(d.GPUs, func(gpu manifests.GPUVerdict) bool { return gpu.SM != i.Row.SM })
		chosen := slices.Equal(i.Devices, as.Devices) && slices.Equal(i.VisibleDevices, as.VisibleDevices) // of the same GPUs
		switch {
		case recorded && mine:
			return i, d, true, nil
		case mine && (onCPU || !left || chosen), !left && (i.Machine.Kind == launch.AnyKind || !other):
			return as, d, false, nil
		}
		// Another bundle may serve more of the GPUs, or serve them better.
	}
	return Install{}, manifests.Decision{}, false, nil
}

// covers reports whether an installation was made for a machine as it is now, but for GPUs that are
// hidden and that it serves.
func covers(i Install, now launch.Machine) bool {
	made := i.Machine
	if i.Every {
		made.Selection = now.Selection
	}
	return made.Same(now)
}

// describeFor gives an installation as a decision makes it for a machine.
func describeFor(i Install, now launch.Machine, d manifests.Decision) Install {
	i.Machine, i.Devices, i.GPUMemory, i.VisibleDevices = now, []string{}, []int{}, d.VisibleDevices
	i.Asked.AllowCPU = i.Asked.AllowCPU || d.Through == manifests.ThroughCPU // it never is without having been asked for
	i.Every = d.Through != manifests.ThroughCPU && (now.Selection == "" || now.Alike())
	for _, gpu := range d.GPUs {
		i.Devices = append(i.Devices, gpu.UUID)
		if gpu.Served {
			i.GPUMemory = append(i.GPUMemory, gpu.MemoryMiB)
		}
		i.Every = i.Every && gpu.Served
	}
	if d.Absent() {
		i.Machine, i.Every = launch.Machine{Kind: launch.AnyKind, Folders: []string{}}, false
	}
	return i
}

// releaseOf is a release that has nothing but a bundle that is here.
func releaseOf(m manifests.Metadata) manifests.Release {
	return manifests.Release{Release: m.Release, Assets: []manifests.Artifact{{
		Name: m.Name + "." + manifests.FormatTarZst, Kind: manifests.KindBundle, Format: manifests.FormatTarZst, Tar: &manifests.Digest{}, Release: m.Release,
		LlamaCPP: &m.LlamaCPP, Toolkit: &m.Toolkit, Row: m.Row, Architecture: m.Architecture, GPUs: m.GPUs, DeviceCode: &m.DeviceCode, Requires: &m.Requires,
	}}}
}

// takeOver makes an installation that findReusable found this machine's own, after its files were
// read and its programs tried.
func (w *installer) takeOver(ctx context.Context, i Install, d manifests.Decision) (Outcome, error) {
	installed := *w.client
	installed.SkipSignature = true // the signature was verified when it was installed
	if _, err := installed.verify(ctx, i); err != nil {
		return Outcome{}, err
	}
	w.client.step("trying the programs")
	here := w.client.Host == nil
	probe, err := store.TryPrograms(ctx, w.store.Programs(i), i.Through != manifests.ThroughCPU && here)
	if err == nil && here {
		probe.LeftOut, err = w.store.TryVariants(ctx, i)
	}
	if err != nil {
		return Outcome{}, err
	}
	i.LlamaCPP, i.Seen = probe.Version, probe.Devices
	i, err = w.store.Activate(i)
	return Outcome{Install: i, Decision: d, Probe: probe}, err
}

// answerReadOnly answers from a store that cannot be written to, by an installation that serves
// what CUDA shows of the machine. Where none does, refused is the error.
func (c *Client) answerReadOnly(ctx context.Context, o Options, refused error) (Outcome, error) {
	host, _, err := c.Detect(ctx)
	if err != nil {
		return Outcome{}, err
	}
	i, _, _, err := c.findReusable(o, host)
	if err != nil {
		return Outcome{}, err
	}
	if i.ID == 0 {
		return Outcome{}, refused
	}
	return Outcome{Install: i, Already: true}, nil
}
