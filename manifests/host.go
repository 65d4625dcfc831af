package manifests

import (
	"cmp"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// A Host is what the client knows of a machine: its own, or one that a user described.
// `llcuda-fetch detect --json` prints it and `--as-host` reads it. What is not known is empty,
// never guessed.
type Host struct {
	// OS and Arch are Go's names: "linux", "amd64".
	OS   string `json:"os"`
	Arch string `json:"arch"`
	// Platform is "colab", "kaggle", "wsl", "container" or "local".
	Platform string `json:"platform"`
	// Kernel is what uname -r prints.
	Kernel string `json:"kernel"`
	// Distribution is ID and VERSION_ID of /etc/os-release: "ubuntu 22.04".
	Distribution string `json:"distribution"`
	// Glibc and GLIBCXX are the newest versions that the C and C++ libraries define which
	// programs get: "2.35", "3.4.30". Glibc is empty where the loader finds no GNU C library.
	Glibc   string `json:"glibc"`
	GLIBCXX string `json:"glibcxx"`
	// LibStdCXX is the C++ library that programs get, where LD_LIBRARY_PATH leads to it. It is
	// empty where the system's own is used.
	LibStdCXX string     `json:"libstdcxx"`
	CPU       CPU        `json:"cpu"`
	Driver    HostDriver `json:"driver"`
	CUDA      HostCUDA   `json:"cuda"`
	// GPUs are the GPUs that CUDA gives to a program, in CUDA's order where it was asked, else in
	// nvidia-smi's.
	GPUs []GPU `json:"gpus"`
	// CUDALibraries are CUDA's libraries that were found, in the order in which they are to be tried.
	CUDALibraries []CUDALibrary `json:"cuda_libraries"`
	// DiskFree is what the store's file system has left, in bytes; negative if it is not known.
	DiskFree int64 `json:"disk_free_bytes"`
}

// A CPU is the machine's processor.
type CPU struct {
	Model string `json:"model"`
	// Features are the flags of /proc/cpuinfo, ascending.
	Features []string `json:"features"`
}

// A HostDriver is NVIDIA's kernel driver.
type HostDriver struct {
	// Version is empty where no driver is loaded: "550.54.14".
	Version string `json:"version"`
	// CUDA is the newest CUDA version that the driver says it runs: "12.4".
	CUDA string `json:"cuda"`
}

// HostCUDA is what CUDA gives to programs, and why it gives them no GPU.
type HostCUDA struct {
	// Asked reports whether CUDA itself answered. Otherwise the GPUs are those of nvidia-smi or of
	// the kernel's files.
	Asked bool `json:"asked"`
	// Library is the libcuda.so.1 that programs get.
	Library string `json:"library"`
	// Error is CUDA's number of the error that it answered with, 0 for none, and Name its name:
	// "CUDA_ERROR_NO_DEVICE".
	Error int    `json:"error"`
	Name  string `json:"name"`
	// Environment are the variables that were set and decide which GPUs CUDA shows:
	// "CUDA_VISIBLE_DEVICES=0".
	Environment []string `json:"environment"`
	// Problem is why programs have no GPU, and Way what helps, for a person. Both are empty where
	// there is a GPU, and where nothing hints at one.
	Problem string `json:"problem"`
	Way     string `json:"way"`
}

// A GPU is one GPU of NVIDIA's, or one MIG slice of it.
type GPU struct {
	Index int `json:"index"`
	// UUID is empty where it is not known: "GPU-3de16fa6-…", "MIG-…".
	UUID string `json:"uuid"`
	Name string `json:"name"`
	// SM is 0 where it is not known.
	SM matrix.SM `json:"sm"`
	// MemoryMiB is what a program may have of it, 0 where that is not known.
	MemoryMiB int `json:"memory_mib"`
	// MIG reports whether it is a slice of a GPU, or a GPU that is split into slices of which no
	// more is known.
	MIG bool `json:"mig"`
}

// A CUDALibrary is one file of the CUDA runtime on the machine.
type CUDALibrary struct {
	// Name is the soname: "libcublas.so.12".
	Name string `json:"name"`
	Path string `json:"path"`
	// Source is where it was found: "environment", "pip", "toolkit" or "loader"; "store" is what
	// the client fetched.
	Source string `json:"source"`
}

// platforms are what Host.Platform may be.
var platforms = []string{"colab", "container", "kaggle", "local", "wsl"}

// Check reports everything wrong with a host, as matrix.Problems.
func (h Host) Check() error {
	var p matrix.Problems
	checkTexts(reflect.ValueOf(h), "", &p)
	if h.OS == "" {
		p.Addf("os", "empty: a Go name such as \"linux\"")
	}
	if h.Arch == "" {
		p.Addf("arch", "empty: a Go name such as \"amd64\"")
	}
	if !slices.Contains(platforms, h.Platform) {
		p.Addf("platform", "%q is none of %q", shorten(h.Platform), platforms)
	}
	for at, version := range map[string]string{
		"glibc": h.Glibc, "glibcxx": h.GLIBCXX, "driver.version": h.Driver.Version, "driver.cuda": h.Driver.CUDA,
	} {
		if version != "" {
			checkVersion(&p, at, version)
		}
	}
	if h.CUDA.Error < 0 {
		p.Addf("cuda.error", "%d is less than 0, which stands for none", h.CUDA.Error)
	}
	for i, variable := range h.CUDA.Environment {
		if name, _, ok := strings.Cut(variable, "="); !ok || name == "" {
			p.Addf(fmt.Sprintf("cuda.environment[%d]", i), "%q is not NAME=VALUE", shorten(variable))
		}
	}
	if h.CUDA.Problem != "" && len(h.GPUs) > 0 {
		p.Addf("cuda.problem", "given, and gpus lists %d that programs have", len(h.GPUs))
	}
	for i, gpu := range h.GPUs {
		at := fmt.Sprintf("gpus[%d]", i)
		if gpu.SM != 0 && !gpu.SM.Valid() {
			p.Addf(at+".sm", "%d is not a compute capability; 7.5 is 75, and 0 stands for one that is not known", int(gpu.SM))
		}
		if gpu.MemoryMiB < 0 {
			p.Addf(at+".memory_mib", "%d is less than 0, which stands for a size that is not known", gpu.MemoryMiB)
		}
	}
	for i, library := range h.CUDALibraries {
		if at := fmt.Sprintf("cuda_libraries[%d]", i); library.Name == "" || library.Source == "" {
			p.Addf(at, "name and source are required")
		}
	}
	slices.SortStableFunc(p, func(a, b matrix.Problem) int { return cmp.Compare(a.Path, b.Path) })
	return p.Err()
}

// CUDASet is the first source's libraries that are all that a toolkit's bundles need, as NVIDIA ships
// them: libraries from two sources may not load together. It is nil where no source has all.
func (h Host) CUDASet(t Toolkit) []CUDALibrary {
	names := t.CUDALibraries()
	found := map[string][]CUDALibrary{}
	for _, library := range h.CUDALibraries {
		if !slices.Contains(names, library.Name) || slices.ContainsFunc(found[library.Source], func(l CUDALibrary) bool { return l.Name == library.Name }) {
			continue
		}
		found[library.Source] = append(found[library.Source], library)
		if len(found[library.Source]) == len(names) {
			return found[library.Source]
		}
	}
	return nil
}

// Encode is the one way to write a host. It refuses one that Check refuses.
func (h Host) Encode() ([]byte, error) {
	if err := h.Check(); err != nil {
		return nil, fmt.Errorf("writing the host: %w", err)
	}
	return encode(h)
}

// DecodeHost reads a host and checks it. Every field must be there: a person who writes one down
// for --as-host says of each thing that it is not known by leaving it empty, not by leaving it out.
func DecodeHost(r io.Reader) (Host, error) {
	var h Host
	if err := decode(r, "the host", &h); err != nil {
		return Host{}, err
	}
	if err := h.Check(); err != nil {
		return Host{}, fmt.Errorf("reading the host: %w", err)
	}
	return h, nil
}
