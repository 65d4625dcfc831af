package manifests

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// PickOptions narrow what Pick chooses from. The zero value lets it choose freely.
type PickOptions struct {
	// Row allows the bundle of this row alone.
	Row matrix.Row
	// AllowCPU takes a bundle for its CPU half where no GPU can be served.
	AllowCPU bool
}

// How a GPU runs a bundle's device code.
const (
	ThroughCubin = "cubin" // machine code compiled for this GPU or an older one of its generation
	ThroughPTX   = "ptx"   // compiled by the driver at the first start, which takes minutes
	ThroughCPU   = "cpu"   // not at all: the bundle's CPU half
)

// A Decision is what Pick found: what to download for a host, and why. It is what `plan --json`
// prints.
type Decision struct {
	// Bundle is the bundle's name, and Asset the archive of it to download.
	Bundle string     `json:"bundle"`
	Asset  string     `json:"asset"`
	Row    matrix.Row `json:"sm"`
	// Through is ThroughCubin, ThroughPTX or ThroughCPU.
	Through string `json:"through"`
	// GPUs are all GPUs of the host, and what the choice means for each.
	GPUs []GPUVerdict `json:"gpus"`
	// VisibleDevices are the UUIDs for CUDA_VISIBLE_DEVICES. It is empty where nothing has to be
	// hidden.
	VisibleDevices []string `json:"visible_devices"`
	// Runtime is the CUDA runtime's archive to download; empty where the host has the libraries.
	Runtime string `json:"runtime"`
	// DownloadBytes is the size of the archives, DiskBytes what they and their contents take
	// together.
	DownloadBytes int64 `json:"download_bytes"`
	DiskBytes     int64 `json:"disk_bytes"`
	// Bundles are all bundles of the release, ascending by row, and what speaks for or against each.
	Bundles []BundleVerdict `json:"bundles"`
}

// A GPUVerdict reports whether the chosen bundle serves a GPU.
type GPUVerdict struct {
	GPU
	Served bool `json:"served"`
	// Reason is why or why not, for a person.
	Reason string `json:"reason"`
}

// A BundleVerdict reports whether a bundle was chosen.
type BundleVerdict struct {
	Bundle string     `json:"bundle"`
	Row    matrix.Row `json:"sm"`
	Chosen bool       `json:"chosen"`
	// Reason is why or why not, for a person.
	Reason string `json:"reason"`
}

// Lack is what keeps a host from having a bundle.
type Lack string

const (
	LackGPU    Lack = "gpu"    // no GPU of NVIDIA's
	LackDriver Lack = "driver" // a GPU, and no driver for it
	LackBundle Lack = "bundle" // no bundle of the release fits
	LackDisk   Lack = "disk"   // one fits, and the disk is too full for it
)

// Absent says that the bundle was picked by its row alone, for a GPU that this host does not have.
func (d Decision) Absent() bool {
	return d.Through != ThroughCPU && !slices.ContainsFunc(d.GPUs, func(v GPUVerdict) bool { return v.Served })
}

// A NoBundleError is a host that no bundle can be picked for. Decision has the whole trace.
type NoBundleError struct {
	Lack   Lack
	Reason string
	// Way is what helps, for a person; empty where the reason says it.
	Way      string
	Decision Decision
}

func (e *NoBundleError) Error() string { return "picking a bundle: " + e.Reason }

// Hint says what helps.
func (e *NoBundleError) Hint() string { return e.Way }

// Pick chooses the release's bundle for a host. It is pure: the same arguments give the same
// decision.
//
// A bundle serves a GPU by a cubin of the GPU's own SM, else by one of the same major and a lower
// minor; a bundle of PTX serves the GPUs newer than it, if the driver is new enough to compile it. The
// bundle that serves the most memory wins, then the one that serves the most GPUs, then machine code
// before PTX, then the newest SM.
//
// Without a GPU that can be served the error is a *NoBundleError. Two options change that: AllowCPU
// makes it the smallest bundle, and Row alone, where there is no GPU or no driver at all, the bundle
// of that row: an image is built for another machine's GPU.
func Pick(r Release, host Host, opts PickOptions) (Decision, error) {
	p := picker{release: r, host: host, opts: opts, candidates: []candidate{}}
	for _, bundle := range r.Bundles() {
		p.candidates = append(p.candidates, candidate{Artifact: bundle})
	}
	p.decision.GPUs = make([]GPUVerdict, len(host.GPUs))
	for i, gpu := range host.GPUs {
		p.decision.GPUs[i] = GPUVerdict{GPU: gpu, Reason: "no bundle was chosen"}
	}
	p.decision.VisibleDevices, p.decision.Bundles = []string{}, []BundleVerdict{}
	return p.pick()
}

type picker struct {
	release    Release
	host       Host
	opts       PickOptions
	candidates []candidate
	decision   Decision
}

func (p *picker) pick() (Decision, error) {
	best := -1
	for i := range p.candidates {
		c := &p.candidates[i]
		c.against = p.reasonAgainst(*c)
		for _, gpu := range p.host.GPUs {
			m := p.match(*c, gpu)
			c.serves = append(c.serves, m)
			if m.served {
				c.count++
				c.memory += gpu.MemoryMiB
			}
		}
		if c.against == "" && c.count > 0 && (best < 0 || isBetter(*c, p.candidates[best])) {
			best = i
		}
	}
	onCPU := best < 0 && p.opts.AllowCPU
	if onCPU {
		for i, c := range p.candidates {
			if c.against == "" && (best < 0 || c.Size < p.candidates[best].Size) {
				best = i
			}
		}
	}
	absent := best < 0 && !p.opts.Row.IsZero() && (len(p.host.GPUs) == 0 || p.host.Driver.Version == "")
	if absent {
		best = slices.IndexFunc(p.candidates, func(c candidate) bool { return c.against == "" })
	}
	if best >= 0 {
		p.choose(p.candidates[best], onCPU, absent)
	}
	p.explain(best, onCPU, absent)
	if best < 0 {
		none := p.explainLack()
		none.Decision = p.decision
		return p.decision, &none
	}
	if free := p.host.DiskFree; free >= 0 && free < p.decision.DiskBytes {
		reason := fmt.Sprintf("%s takes %s of disk while it is installed, and %s are free: make room, or choose another folder with --home",
			p.decision.Bundle, measure.Bytes(p.decision.DiskBytes), measure.Bytes(free))
		return p.decision, &NoBundleError{Lack: LackDisk, Reason: reason, Decision: p.decision}
	}
	return p.decision, nil
}

func isBetter(a, b candidate) bool {
	if order := cmp.Or(cmp.Compare(a.memory, b.memory), cmp.Compare(a.count, b.count)); order != 0 {
		return order > 0
	}
	if a.Row.PTX != b.Row.PTX {
		return b.Row.PTX
	}
	return a.Row.SM > b.Row.SM
}

// choose fills in what the choice of a bundle means.
func (p *picker) choose(c candidate, onCPU, absent bool) {
	d := &p.decision
	d.Bundle, d.Asset, d.Row, d.Through = c.Stem(), c.Name, c.Row, c.through()
	d.DownloadBytes, d.DiskBytes = c.Size, c.Size+c.Tar.Size
	for i, m := range c.serves {
		d.GPUs[i].Reason = m.reason
		d.GPUs[i].Served = m.served
	}
	switch {
	case onCPU:
		d.Through = ThroughCPU
		return // the CUDA backend is not loaded
	case !absent:
		d.VisibleDevices = visibleDevices(d.GPUs)
	}
	if runtime, ok := p.neededRuntime(c.Artifact); ok {
		d.Runtime = runtime.Name
		d.DownloadBytes += runtime.Size
		d.DiskBytes += runtime.Size + runtime.Tar.Size
	}
}

// visibleDevices are the UUIDs of the GPUs served, where others have to be hidden. A GPU without a
// UUID cannot be named; then nothing is hidden, as an incomplete list would hide good GPUs.
func visibleDevices(gpus []GPUVerdict) []string {
	list := []string{}
	for _, gpu := range gpus {
		if gpu.Served {
			list = append(list, gpu.UUID)
		}
	}
	if len(list) == len(gpus) || slices.Contains(list, "") {
		return []string{}
	}
	return list
}

// neededRuntime is the CUDA runtime that a bundle needs, if the host has not NVIDIA's own libraries.
func (p *picker) neededRuntime(bundle Artifact) (Artifact, bool) {
	if p.host.CUDASet(*bundle.Toolkit) != nil {
		return Artifact{}, false
	}
	return p.release.Runtime(bundle)
}
