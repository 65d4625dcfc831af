package manifests

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// PickOptions narrow what Pick chooses from. The zero value lets it choose freely.
type PickOptions struct {
	// SM allows the bundle of this SM alone.
	SM matrix.SM
	// AllowCPU takes a bundle for its CPU half where no GPU can be served.
	AllowCPU bool
}

// How a GPU runs a bundle's device code.
const (
	ThroughCubin = "cubin" // machine code compiled for this GPU or an older one of its generation
	ThroughPTX   = "ptx"   // compiled by the driver at the first start, which takes minutes
	ThroughCPU   = "cpu"   // not at all: the bundle's CPU half
)

// A Decision is what Pick found: what to download for a host, and why. It is what `plan --json` prints.
type Decision struct {
	// Bundle is the bundle's name, and Asset the archive of it to download.
	Bundle string    `json:"bundle"`
	Asset  string    `json:"asset"`
	SM     matrix.SM `json:"sm"`
	// Through is ThroughCubin, ThroughPTX if any GPU served needs it, or ThroughCPU.
	Through string `json:"through"`
	// GPUs are all GPUs of the host, and what the choice means for each.
	GPUs []GPUVerdict `json:"gpus"`
	// VisibleDevices are the UUIDs for CUDA_VISIBLE_DEVICES. It is empty where nothing has to be hidden.
	VisibleDevices []string `json:"visible_devices"`
	// Runtime is the CUDA runtime's archive to download; empty where the host has the libraries.
	Runtime string `json:"runtime"`
	// DownloadBytes is the size of the archives, DiskBytes what they and their contents take together.
	DownloadBytes int64 `json:"download_bytes"`
	DiskBytes     int64 `json:"disk_bytes"`
	// Bundles are all bundles of the release, ascending by SM, and what speaks for or against each.
	Bundles []BundleVerdict `json:"bundles"`
}

// A GPUVerdict says whether the chosen bundle serves a GPU.
type GPUVerdict struct {
	GPU
	Served bool `json:"served"`
	// Reason is why or why not, for a person.
	Reason string `json:"reason"`
}

// A BundleVerdict says whether a bundle was chosen.
type BundleVerdict struct {
	Bundle string    `json:"bundle"`
	SM     matrix.SM `json:"sm"`
	Chosen bool      `json:"chosen"`
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

// Absent says that the bundle was picked by its SM alone, for a GPU that this host does not have.
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

// Pick chooses the release's bundle for a host. It is pure: the same arguments give the same decision.
//
// A bundle serves a GPU by a cubin of the GPU's own SM, else by one of the same major and a lower minor, else by PTX
// that is not newer than the GPU, if the driver is new enough to compile it. The bundle that serves the most memory
// wins, then the one that serves the most GPUs, then the one that serves more memory by cubin, then the newest SM.
//
// Without a GPU that can be served the error is a *NoBundleError. Two options change that: AllowCPU makes it the smallest
// bundle, and SM alone, where there is no GPU or no driver at all, the bundle of that SM: an image is built for another
// machine's GPU.
func Pick(r Release, host Host, opts PickOptions) (Decision, error) {
	p := picker{release: r, host: host, opts: opts, candidates: candidates(r)}
	p.decision.GPUs = make([]GPUVerdict, len(host.GPUs))
	for i, gpu := range host.GPUs {
		p.decision.GPUs[i] = GPUVerdict{GPU: gpu, Reason: "no bundle was chosen"}
	}
	p.decision.VisibleDevices, p.decision.Bundles = []string{}, []BundleVerdict{}
	return p.pick()
}

// A candidate is one bundle, by the archive that would be downloaded.
type candidate struct {
	Artifact
	serves  []match // of each GPU of the host
	against string  // what keeps it from the host as a whole
	memory  int     // of the GPUs it serves, in MiB
	cubin   int     // of those it serves by cubin
	count   int
}

// A match is how a bundle serves a GPU; through is empty where it does not, and oldDriver says that a newer driver
// would change that.
type match struct {
	through, reason string
	oldDriver       bool
}

// candidates are the release's bundles, ascending by SM. The smaller of a bundle's two archives stands for it.
func candidates(r Release) []candidate {
	bySM := map[matrix.SM]Artifact{}
	for _, a := range r.Assets {
		if have, ok := bySM[a.SM]; a.Kind == KindBundle && (!ok || smaller(a, have)) {
			bySM[a.SM] = a
		}
	}
	list := make([]candidate, 0, len(bySM))
	for _, a := range bySM {
		list = append(list, candidate{Artifact: a})
	}
	slices.SortFunc(list, func(a, b candidate) int { return cmp.Compare(a.SM, b.SM) })
	return list
}

// smaller orders archives of the same tar: the one to download comes first.
func smaller(a, b Artifact) bool {
	return cmp.Or(cmp.Compare(a.Size, b.Size), cmp.Compare(b.Format, a.Format)) < 0
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
		c.against = p.against(*c)
		for _, gpu := range p.host.GPUs {
			m := p.match(*c, gpu)
			c.serves = append(c.serves, m)
			if m.through == "" {
				continue
			}
			c.count++
			c.memory += gpu.MemoryMiB
			if m.through == ThroughCubin {
				c.cubin += gpu.MemoryMiB
			}
		}
		if c.against == "" && c.count > 0 && (best < 0 || better(*c, p.candidates[best])) {
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
	absent := best < 0 && p.opts.SM != 0 && (len(p.host.GPUs) == 0 || p.host.Driver.Version == "")
	if absent {
		best = slices.IndexFunc(p.candidates, func(c candidate) bool { return c.against == "" })
	}
	if best >= 0 {
		p.choose(p.candidates[best], onCPU, absent)
	}
	p.explain(best, onCPU, absent)
	if best < 0 {
		none := p.lack()
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

func better(a, b candidate) bool {
	return cmp.Or(cmp.Compare(a.memory, b.memory), cmp.Compare(a.count, b.count), cmp.Compare(a.cubin, b.cubin), cmp.Compare(a.SM, b.SM)) > 0
}

// against is why a bundle cannot run on the host at all, whatever its GPUs.
func (p *picker) against(c candidate) string {
	h, need := p.host, c.Requires
	switch {
	case p.opts.SM != 0 && c.SM != p.opts.SM:
		return fmt.Sprintf("%s was asked for", p.opts.SM)
	case h.OS != "linux" || h.Arch != "amd64":
		return fmt.Sprintf("it is for linux/amd64, and this machine is %s/%s", h.OS, h.Arch)
	case h.Glibc == "" && distribution(h) == "nixos":
		return fmt.Sprintf("it needs the GNU C library %s or later, and NixOS does not have it where programs built elsewhere look for it", need.Glibc)
	case h.Glibc == "":
		return fmt.Sprintf("it needs the GNU C library %s or later, and there is none where the loader looks", need.Glibc)
	case matrix.CompareVersions(h.Glibc, need.Glibc) < 0:
		return fmt.Sprintf("it needs glibc %s or later, and this system has %s; a newer distribution or container has it", need.Glibc, h.Glibc)
	case need.GLIBCXX != "" && matrix.CompareVersions(h.GLIBCXX, need.GLIBCXX) < 0:
		if h.GLIBCXX == "" {
			return "it needs the C++ library libstdc++.so.6, which this system lacks; its package is named libstdc++6 or libstdc++"
		}
		if h.LibStdCXX != "" {
			return fmt.Sprintf("it needs libstdc++ with GLIBCXX_%s, and %s, to which LD_LIBRARY_PATH leads, ends at %s", need.GLIBCXX, h.LibStdCXX, h.GLIBCXX)
		}
		return fmt.Sprintf("it needs libstdc++ with GLIBCXX_%s, and this system's ends at %s", need.GLIBCXX, h.GLIBCXX)
	case !runsOn(h.CPU, need.CPUVariants):
		return fmt.Sprintf("none of its CPU backends (%s) runs on this processor (%s)", strings.Join(need.CPUVariants, ", "), cmp.Or(h.CPU.Model, "of unknown model"))
	}
	return ""
}

// distribution is the first word of the host's distribution: "rhel".
func distribution(h Host) string {
	id, _, _ := strings.Cut(h.Distribution, " ")
	return id
}

// wayOfLibraries is what helps a host whose C or C++ library keeps it from every bundle.
func (p *picker) wayOfLibraries(c candidate) string {
	const container = "run it in a container with a newer distribution, such as nvidia/cuda's for Ubuntu 22.04"
	h, need := p.host, c.Requires
	switch {
	case h.OS != "linux" || h.Arch != "amd64":
	case h.Glibc == "" && distribution(h) == "nixos":
		return "programs.nix-ld.enable = true, with stdenv.cc.cc.lib in programs.nix-ld.libraries; or an FHS environment: steam-run llcuda-fetch, buildFHSEnv"
	case h.Glibc == "":
		return "musl systems such as Alpine need a container, or a chroot, of a distribution with glibc; gcompat is not enough for CUDA"
	case matrix.CompareVersions(h.Glibc, need.Glibc) < 0:
		return container
	case need.GLIBCXX == "" || matrix.CompareVersions(h.GLIBCXX, need.GLIBCXX) >= 0:
	case h.GLIBCXX == "":
		return "install libstdc++6 (Debian, Ubuntu) or libstdc++ (Fedora, RHEL and their family)"
	case h.LibStdCXX != "":
		return fmt.Sprintf("unset LD_LIBRARY_PATH, or take %s out of it", path.Dir(h.LibStdCXX))
	default:
		return "a newer libstdc++.so.6 in a folder of LD_LIBRARY_PATH does it, such as conda's: conda install -c conda-forge libstdcxx-ng, LD_LIBRARY_PATH=$CONDA_PREFIX/lib; or " + container
	}
	return "llcuda-fetch detect shows what was found out about this machine"
}

// oldVariants are llama.cpp's CPU backends for processors without AVX2, and the flags of /proc/cpuinfo that each needs.
// All others need AVX2. https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/CMakeLists.txt
var oldVariants = map[string][]string{
	"x64": {}, "sse42": {"sse4_2"}, "sandybridge": {"sse4_2", "avx"}, "ivybridge": {"sse4_2", "avx", "f16c"},
	"piledriver": {"sse4_2", "avx", "f16c", "fma", "xop"},
}

// runsOn says whether a processor runs any of these CPU backends, as far as it is known.
func runsOn(cpu CPU, variants []string) bool {
	if len(cpu.Features) == 0 || len(variants) == 0 {
		return true
	}
	return slices.ContainsFunc(variants, func(variant string) bool {
		needs, old := oldVariants[variant]
		if !old {
			needs = []string{"avx2"}
		}
		return !slices.ContainsFunc(needs, func(flag string) bool { return !slices.Contains(cpu.Features, flag) })
	})
}

// match says how a bundle serves one GPU. A driver's floor is a reason of its own: it can be updated, a GPU cannot.
func (p *picker) match(c candidate, gpu GPU) match {
	floors := c.Requires.DriverMin
	driver := p.host.Driver.Version
	tooOld := func(floor string) match {
		return match{reason: fmt.Sprintf("driver %s is too old; it needs %s or later", driver, floor), oldDriver: true}
	}
	if gpu.SM == 0 {
		// Drivers this old do not tell a compute capability, and would run nothing if it were known.
		if driver != "" && matrix.CompareVersions(driver, floors.Cubin) < 0 {
			return tooOld(floors.Cubin)
		}
		if p.opts.SM != 0 && driver != "" {
			return match{through: ThroughCubin, reason: fmt.Sprintf("its compute capability is not known, and %s was asked for", p.opts.SM)}
		}
		return match{reason: "its compute capability is not known; --sm names a bundle by hand, and a newer driver tells it"}
	}
	through, floor, reason := "", "", ""
	if cubin, ok := nearest(c.DeviceCode.Cubin, gpu.SM.RunsCubin); ok {
		through, floor = ThroughCubin, floors.Cubin
		reason = fmt.Sprintf("it runs code compiled for compute capability %s", cubin.Capability())
	} else if ptx, ok := nearest(c.DeviceCode.PTX, gpu.SM.RunsPTX); ok {
		through, floor = ThroughPTX, floors.PTX
		reason = fmt.Sprintf("its driver compiles the bundle's PTX of compute capability %s, once, at the first start", ptx.Capability())
	} else {
		return match{reason: notServed(c, gpu)}
	}
	switch {
	case driver == "":
		return match{reason: "no NVIDIA driver is loaded"}
	case matrix.CompareVersions(driver, floor) < 0:
		return tooOld(floor)
	}
	return match{through: through, reason: reason}
}

// nearest is the newest code that a GPU runs.
func nearest(code []matrix.SM, runs func(matrix.SM) bool) (matrix.SM, bool) {
	var best matrix.SM
	for _, sm := range code {
		if runs(sm) {
			best = max(best, sm)
		}
	}
	return best, best != 0
}

// notServed says why no code of a bundle runs on a GPU.
func notServed(c candidate, gpu GPU) string {
	if c.SM > gpu.SM {
		return fmt.Sprintf("its code is for compute capability %s, and this GPU's is %s, which is older", c.SM.Capability(), gpu.SM.Capability())
	}
	return fmt.Sprintf("its code is for the %d.x generation alone, and this GPU is %s", c.SM.Major(), gpu.SM.Capability())
}

// choose fills in what the choice of a bundle means.
func (p *picker) choose(c candidate, onCPU, absent bool) {
	d := &p.decision
	d.Bundle, d.Asset, d.SM, d.Through = c.Stem(), c.Name, c.SM, ThroughCPU
	d.DownloadBytes, d.DiskBytes = c.Size, c.Size+c.Tar.Size
	for i, m := range c.serves {
		d.GPUs[i].Reason = m.reason
		if m.through == "" {
			continue
		}
		d.GPUs[i].Served = true
		if d.Through == ThroughCPU || m.through == ThroughPTX {
			d.Through = m.through
		}
	}
	switch {
	case onCPU:
		return // the CUDA backend is not loaded
	case absent:
		d.Through = ThroughCubin
	default:
		d.VisibleDevices = visible(d.GPUs)
	}
	if runtime, ok := p.runtime(); ok {
		d.Runtime = runtime.Name
		d.DownloadBytes += runtime.Size
		d.DiskBytes += runtime.Size + runtime.Tar.Size
	}
}

// visible are the UUIDs of the GPUs served, where others have to be hidden. A GPU without a UUID cannot be named; then
// nothing is hidden, as an incomplete list would hide good GPUs.
func visible(gpus []GPUVerdict) []string {
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

// runtime is the CUDA runtime's archive, if no one source on the host has all of its libraries.
func (p *picker) runtime() (Artifact, bool) {
	var runtime Artifact
	for _, a := range p.release.Assets {
		if a.Kind == KindCUDART && (runtime.Name == "" || smaller(a, runtime)) {
			runtime = a
		}
	}
	if runtime.Name == "" {
		return Artifact{}, false
	}
	have := map[string]map[string]bool{}
	for _, library := range p.host.CUDALibraries {
		if have[library.Source] == nil {
			have[library.Source] = map[string]bool{}
		}
		have[library.Source][library.Name] = true
	}
	for _, names := range have {
		whole := true
		for _, file := range runtime.Libraries {
			if name := path.Base(file.Path); strings.Contains(name, ".so") && !names[name] {
				whole = false
			}
		}
		if whole {
			return Artifact{}, false
		}
	}
	return runtime, true
}

// explain says of every bundle why it was chosen or not.
func (p *picker) explain(best int, onCPU, absent bool) {
	for i, c := range p.candidates {
		v := BundleVerdict{Bundle: c.Stem(), SM: c.SM, Chosen: i == best, Reason: c.against}
		switch {
		case i == best && onCPU:
			v.Reason = "no GPU can be served, and the CPU was allowed; it is the smallest"
		case i == best && absent:
			v.Reason = fmt.Sprintf("it is for a GPU that is not here: %s was asked for, and %s", p.opts.SM, p.unserved(c))
		case i == best:
			v.Reason = fmt.Sprintf("it serves %s", served(c, p.host.GPUs))
		case c.against != "":
		case c.count > 0 && best >= 0:
			v.Reason = p.worse(c, p.candidates[best])
		case onCPU:
			v.Reason = "no GPU can be served, and another one is smaller"
		default:
			v.Reason = p.unserved(c)
		}
		p.decision.Bundles = append(p.decision.Bundles, v)
	}
}

func served(c candidate, gpus []GPU) string {
	var parts []string
	for i, m := range c.serves {
		if m.through != "" {
			parts = append(parts, fmt.Sprintf("%s: %s", title(gpus[i]), m.reason))
		}
	}
	return strings.Join(parts, "; ")
}

// title names a GPU for a person.
func title(gpu GPU) string {
	return cmp.Or(gpu.Name, fmt.Sprintf("GPU %d", gpu.Index))
}

// worse says why a bundle that would do was not chosen.
func (p *picker) worse(c, chosen candidate) string {
	name := chosen.Stem()
	switch {
	case c.memory < chosen.memory:
		return fmt.Sprintf("%s serves %d MiB of GPU memory, this one %d", name, chosen.memory, c.memory)
	case c.count < chosen.count:
		return fmt.Sprintf("%s serves %d GPUs, this one %d", name, chosen.count, c.count)
	case c.cubin < chosen.cubin:
		return fmt.Sprintf("%s has machine code where this one has PTX", name)
	}
	return fmt.Sprintf("it would run, and %s is for a newer generation of the same GPUs", name)
}

// unserved is why a bundle serves none of the host's GPUs.
func (p *picker) unserved(c candidate) string {
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

// allowCPU is the way out of every machine without a GPU that serves.
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

// lack is what to tell a host that gets nothing: the nearest thing that would help.
func (p *picker) lack() NoBundleError {
	allowed := slices.DeleteFunc(slices.Clone(p.candidates), func(c candidate) bool { return p.opts.SM != 0 && c.SM != p.opts.SM })
	if len(allowed) == 0 {
		var have []string
		for _, c := range p.candidates {
			have = append(have, c.SM.String())
		}
		return NoBundleError{Lack: LackBundle, Reason: fmt.Sprintf("release %s has no bundle for %s; it has %s", p.release.Release, p.opts.SM, strings.Join(have, ", ")),
			Way: "without --sm the best one for this machine is taken; --release names another release"}
	}
	if against := allowed[0].against; !slices.ContainsFunc(allowed, func(c candidate) bool { return c.against == "" }) {
		return NoBundleError{Lack: LackBundle, Reason: "no bundle runs here: " + against, Way: p.wayOfLibraries(allowed[0])}
	}
	if none := p.host.NoGPU(); none != nil {
		return *none
	}
	// Of the reasons, the one of the bundle that is nearest to the GPUs: where the driver alone is missing, that.
	for _, c := range slices.Backward(allowed) {
		if slices.ContainsFunc(c.serves, func(m match) bool { return m.oldDriver }) {
			return NoBundleError{Lack: LackBundle, Reason: p.unserved(c), Way: "update NVIDIA's driver; CUDA itself is not needed; " + allowCPU}
		}
	}
	way := "llcuda-fetch plan has the reason for each bundle; " + allowCPU
	if p.opts.SM != 0 {
		way = "without --sm the best one for this machine is taken; " + allowCPU
	}
	return NoBundleError{Lack: LackBundle, Reason: p.unserved(allowed[0]), Way: way}
}
