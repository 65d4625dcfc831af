package manifests

import (
	"cmp"
	"fmt"
	"io"
	"reflect"
	"slices"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// A Host is what the client knows of a machine: its own, or one that somebody
// wrote down. `llcuda-fetch detect --json` prints it and `--as-host` reads it.
// What is not known is empty, never guessed.
type Host struct {
	// OS and Arch are Go's names: "linux", "amd64".
	OS   string `json:"os"`
	Arch string `json:"arch"`
	// Platform is "colab", "kaggle", "wsl", "container" or "local".
	Platform string `json:"platform"`
	// Kernel is what uname -r prints.
	Kernel string `json:"kernel"`
	// Glibc and GLIBCXX are the newest versions that the machine's C and C++
	// libraries define: "2.35", "3.4.30". Glibc is empty on systems with another C library.
	Glibc   string     `json:"glibc"`
	GLIBCXX string     `json:"glibcxx"`
	CPU     CPU        `json:"cpu"`
	Driver  HostDriver `json:"driver"`
	// GPUs are all GPUs of NVIDIA's, in the driver's order.
	GPUs []GPU `json:"gpus"`
	// CUDALibraries are the CUDA 12 libraries found, in the order in which they are to be tried.
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

// A GPU is one GPU of NVIDIA's.
type GPU struct {
	Index int `json:"index"`
	// UUID is empty where only the PCI bus knows of the GPU: "GPU-3de16fa6-…".
	UUID string `json:"uuid"`
	Name string `json:"name"`
	// SM is 0 where it is not known.
	SM matrix.SM `json:"sm"`
	// MemoryMiB is 0 where it is not known.
	MemoryMiB int `json:"memory_mib"`
	// MIG says that the GPU is split: its memory is not for one program.
	MIG bool `json:"mig"`
}

// A CUDALibrary is one file of the CUDA runtime on the machine.
type CUDALibrary struct {
	// Name is the soname: "libcublas.so.12".
	Name string `json:"name"`
	Path string `json:"path"`
	// Source is where it was found: "environment", "store", "pip", "toolkit" or "loader".
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
	for i, gpu := range h.GPUs {
		at := fmt.Sprintf("gpus[%d]", i)
		if gpu.SM != 0 && !gpu.SM.Valid() {
			p.Addf(at+".sm", "%d is no compute capability; 7.5 is 75, and 0 stands for one that is not known", int(gpu.SM))
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

// Encode is the one way to write a host. It refuses one that Check refuses.
func (h Host) Encode() ([]byte, error) {
	if err := h.Check(); err != nil {
		return nil, fmt.Errorf("writing the host: %w", err)
	}
	return encode(h)
}

// DecodeHost reads a host and checks it. Every field must be there: a person who writes one down for --as-host says
// of each thing that it is not known by leaving it empty, not by leaving it out.
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
