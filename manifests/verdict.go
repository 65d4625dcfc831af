package manifests

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// explain says of every bundle why it was chosen or not.
func (p *picker) explain(best int, onCPU, absent bool) {
	for i, c := range p.candidates {
		v := BundleVerdict{Bundle: c.Stem(), Row: c.Row, Chosen: i == best, Reason: c.against}
		switch {
		case i == best && onCPU:
			v.Reason = "no GPU can be served, and the CPU was allowed; it is the smallest"
		case i == best && absent:
			v.Reason = fmt.Sprintf("it is for a GPU that is not here: %s was asked for, and %s", p.opts.Row, p.reasonUnserved(c))
		case i == best:
			v.Reason = fmt.Sprintf("it serves %s", describeServed(c, p.host.GPUs))
		case c.against != "":
		case c.count > 0 && best >= 0:
			v.Reason = p.reasonNotChosen(c, p.candidates[best])
		case onCPU:
			v.Reason = "no GPU can be served, and another one is smaller"
		default:
			v.Reason = p.reasonUnserved(c)
		}
		p.decision.Bundles = append(p.decision.Bundles, v)
	}
}

func describeServed(c candidate, gpus []GPU) string {
	var parts []string
	for i, m := range c.serves {
		if m.served {
			parts = append(parts, fmt.Sprintf("%s: %s", title(gpus[i]), m.reason))
		}
	}
	return strings.Join(parts, "; ")
}

// title names a GPU for a person.
func title(gpu GPU) string {
	return cmp.Or(gpu.Name, fmt.Sprintf("GPU %d", gpu.Index))
}

// reasonNotChosen says why a bundle that would do was not chosen.
func (p *picker) reasonNotChosen(c, chosen candidate) string {
	name := chosen.Stem()
	switch {
	case c.memory < chosen.memory:
		return fmt.Sprintf("%s serves %d MiB of GPU memory, this one %d", name, chosen.memory, c.memory)
	case c.count < chosen.count:
		return fmt.Sprintf("%s serves %d GPUs, this one %d", name, chosen.count, c.count)
	case c.Row.PTX && !chosen.Row.PTX:
		return fmt.Sprintf("%s has machine code where this one has PTX", name)
	}
	return fmt.Sprintf("it would run, and %s is for a newer generation of the same GPUs", name)
}

// reasonUnserved is why a bundle serves none of the host's GPUs.
func (p *picker) reasonUnserved(c candidate) string {
	if len(p.host.GPUs) == 0 {
		return cmp.Or(p.host.CUDA.Problem, "there is no GPU")
	}
	var parts []string
	for i, m := range c.serves {
		if reason := fmt.Sprintf("%s: %s", title(p.host.GPUs[i]), m.reason); !slices.Contains(parts, reason) {
			parts = append(parts, reason)
		}
	}
	return strings.Join(parts, "; ")
}

// allowCPU is what helps every machine without a usable GPU.
const allowCPU = "--allow-cpu installs llama.cpp for the processor alone"

// NoGPU is why programs have no GPU on a host, whatever the release; nil where they have one.
func (h Host) NoGPU() *NoBundleError {
	switch {
	case h.CUDA.Problem != "":
		return &NoBundleError{Lack: LackGPU, Reason: h.CUDA.Problem, Way: cmp.Or(h.CUDA.Way, "llcuda-fetch doctor shows more") + "; " + allowCPU}
	case len(h.GPUs) == 0:
		return &NoBundleError{Lack: LackGPU, Reason: "no NVIDIA GPU was found; " + allowCPU,
			Way: "in a container, start it with --gpus all; on Colab and Kaggle, choose a GPU for the notebook; for the GPU of another machine, name it with --sm; llcuda-fetch doctor shows more"}
	case h.Driver.Version == "":
		return &NoBundleError{Lack: LackDriver, Reason: "there is an NVIDIA GPU, and no NVIDIA driver is loaded; install the driver, or use --allow-cpu",
			Way: "install NVIDIA's driver; CUDA itself is not needed; llcuda-fetch doctor shows what nvidia-smi answered"}
	}
	return nil
}

// explainLack says what to tell a host that gets no bundle: what would help most directly.
func (p *picker) explainLack() NoBundleError {
	allowed := slices.DeleteFunc(slices.Clone(p.candidates), func(c candidate) bool { return !p.opts.Row.IsZero() && c.Row != p.opts.Row })
	if len(allowed) == 0 {
		var have []string
		for _, c := range p.candidates {
			have = append(have, c.Row.String())
		}
		return NoBundleError{Lack: LackBundle, Reason: fmt.Sprintf("release %s has no bundle for %s; it has %s", p.release.Release, p.opts.Row, strings.Join(have, ", ")),
			Way: "without --sm the best one for this machine is taken; --release names another release"}
	}
	if against := allowed[0].against; !slices.ContainsFunc(allowed, func(c candidate) bool { return c.against == "" }) {
		return NoBundleError{Lack: LackBundle, Reason: "no bundle runs here: " + against, Way: p.wayOfLibraries(allowed[0])}
	}
	if none := p.host.NoGPU(); none != nil {
		return *none
	}
	// Of the reasons, the one of the bundle that is nearest to the GPUs: where the driver alone is
	// missing, that.
	for _, c := range slices.Backward(allowed) {
		if slices.ContainsFunc(c.serves, func(m match) bool { return m.oldDriver }) {
			return NoBundleError{Lack: LackBundle, Reason: p.reasonUnserved(c), Way: "update NVIDIA's driver; CUDA itself is not needed; " + allowCPU}
		}
	}
	way := "llcuda-fetch plan has the reason for each bundle; " + allowCPU
	if !p.opts.Row.IsZero() {
		way = "without --sm the best one for this machine is taken; " + allowCPU
	}
	return NoBundleError{Lack: LackBundle, Reason: p.reasonUnserved(allowed[0]), Way: way}
}
