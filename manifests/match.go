package manifests

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// A match is whether a bundle serves a GPU, and why or why not; oldDriver reports whether a newer
// driver would change that.
type match struct {
	served    bool
	reason    string
	oldDriver bool
}

// A candidate is one bundle, by the archive that would be downloaded.
type candidate struct {
	Artifact
	serves  []match // of each GPU of the host
	against string  // what keeps it from the host as a whole
	memory  int     // of the GPUs it serves, in MiB
	count   int
}

// reasonAgainst is why a bundle cannot run on the host at all, whatever its GPUs.
func (p *picker) reasonAgainst(c candidate) string {
	h, need := p.host, c.Requires
	switch {
	case !p.opts.Row.IsZero() && c.Row != p.opts.Row:
		return fmt.Sprintf("%s was asked for", p.opts.Row)
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

// oldVariants are llama.cpp's CPU backends for processors without AVX2, and the flags of
// /proc/cpuinfo that each needs. All others need AVX2.
// https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/CMakeLists.txt
var oldVariants = map[string][]string{
	"x64": {}, "sse42": {"sse4_2"}, "sandybridge": {"sse4_2", "avx"}, "ivybridge": {"sse4_2", "avx", "f16c"},
	"piledriver": {"sse4_2", "avx", "f16c", "fma", "xop"},
}

// runsOn reports whether a processor runs any of these CPU backends, as far as it is known.
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

// match says how a bundle serves one GPU. A driver's floor is a reason of its own: it can be
// updated, a GPU cannot.
func (p *picker) match(c candidate, gpu GPU) match {
	floors := c.Requires.DriverMin
	driver := p.host.Driver.Version
	tooOld := func(floor string) match {
		return match{reason: fmt.Sprintf("driver %s is too old; it needs %s or later", driver, floor), oldDriver: true}
	}
	if gpu.SM == 0 {
		// Drivers this old do not tell a compute capability, and would run nothing if it were
		// known.
		if driver != "" && matrix.CompareVersions(driver, floors.Any()) < 0 {
			return tooOld(floors.Any())
		}
		if !p.opts.Row.IsZero() && driver != "" {
			return match{served: true, reason: fmt.Sprintf("its compute capability is not known, and %s was asked for", p.opts.Row)}
		}
		return match{reason: "its compute capability is not known; --sm names a bundle by hand, and a newer driver tells it"}
	}
	reason := ""
	if cubin, ok := nearest(c.DeviceCode.Cubin, gpu.SM.RunsCubin); ok {
		reason = fmt.Sprintf("it runs code compiled for compute capability %s", cubin.SM.Capability())
	} else if ptx, ok := nearest(c.DeviceCode.PTX, gpu.SM.RunsPTX); ok && ptx.SM == gpu.SM {
		// The runtime of PTX lacks most of cuBLAS' kernels for this very SM: that of CUDA 12.4.1 has 465 in
		// libcublasLt_static.a, 94 of them with PTX.
		return match{reason: fmt.Sprintf("its PTX is for GPUs newer than compute capability %s", ptx.SM.Capability())}
	} else if ok {
		reason = fmt.Sprintf("its driver compiles the bundle's PTX of compute capability %s, once, at the first start", ptx.SM.Capability())
	} else {
		return match{reason: reasonNotServed(c, gpu)}
	}
	switch {
	case driver == "":
		return match{reason: "no NVIDIA driver is loaded"}
	case matrix.CompareVersions(driver, floors.Any()) < 0:
		return tooOld(floors.Any())
	}
	return match{served: true, reason: reason}
}

// through is how GPUs run the bundle's code.
func (c candidate) through() string {
	if c.Row.PTX {
		return ThroughPTX
	}
	return ThroughCubin
}

// nearest is the newest code that a GPU runs.
func nearest(code []matrix.Code, runs func(matrix.Code) bool) (matrix.Code, bool) {
	var best matrix.Code
	for _, c := range code {
		if runs(c) && c.SM > best.SM {
			best = c
		}
	}
	return best, best.SM != 0
}

// reasonNotServed says why no code of a bundle runs on a GPU.
func reasonNotServed(c candidate, gpu GPU) string {
	sm := c.Row.SM
	if sm > gpu.SM {
		return fmt.Sprintf("its code is for compute capability %s, and this GPU's is %s, which is older", sm.Capability(), gpu.SM.Capability())
	}
	if sm.Major() == gpu.SM.Major() {
		return fmt.Sprintf("its code uses features of compute capability %s alone, and this GPU is %s", sm.Capability(), gpu.SM.Capability())
	}
	return fmt.Sprintf("its code is for the %d.x generation alone, and this GPU is %s", sm.Major(), gpu.SM.Capability())
}
