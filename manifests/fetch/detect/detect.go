// Package detect finds out what a machine is: its GPUs, driver, platform, C libraries, processor, CUDA libraries and disk.
//
// The fetch package calls it. In goes a Detector, which names the root folder and the environment to look at; out comes
// a Report: the manifests.Host that Pick reads, and for each part of it which source gave it, or why the source did not.
//
//	nvidia-smi → the driver's files under /proc and /sys → the PCI bus     the first that answers gives the GPUs
//
// Every source has a time limit, because nvidia-smi and network folders hang on real machines. What no source tells is
// left empty. The package runs nvidia-smi and nothing else; it loads no library, uses no network, writes nothing and
// never prints.
package detect

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// A Detector looks at one machine.
type Detector struct {
	// Root is the root folder: "/" where empty.
	Root string
	// Getenv gives the environment: os.Getenv where nil.
	Getenv func(string) string
	// Limit is the time that each source has: 10 seconds where 0.
	Limit time.Duration
	// Store are the folders of CUDA libraries that the client itself installed.
	Store []string
	// Disk is the folder whose file system's free space counts. It need not exist yet.
	Disk string
}

// A Report is a machine, and where each part of it was learnt.
type Report struct {
	Host    manifests.Host `json:"host"`
	Sources []Source       `json:"sources"`
}

// A Source is one place that was asked.
type Source struct {
	// Name is the place: "nvidia-smi", "/proc/driver/nvidia".
	Name string `json:"name"`
	// Gave is what was learnt there, and Problem why nothing, or not all, was.
	Gave    string `json:"gave,omitempty"`
	Problem string `json:"problem,omitempty"`
}

// DefaultLimit is the time that each source has. nvidia-smi takes up to 6 seconds where the persistence daemon is off and
// several GPUs have to be woken.
const DefaultLimit = 10 * time.Second

// Detect looks at the machine. It fails only with the context's error: what cannot be learnt is a Source's Problem.
func (d Detector) Detect(ctx context.Context) (Report, error) {
	d = d.withDefaults()
	// What is slow runs side by side; each part has the Host's fields of its own.
	smi, cuda := background(ctx, d.Limit, d.nvidiaSMI), background(ctx, d.Limit, d.cudaLibraries)
	environment := background(ctx, d.Limit, func(context.Context) cVersions { return d.cLibraries(d.environmentFolders()) })
	var r Report
	h := &r.Host
	h.OS, h.Arch = runtime.GOOS, runtime.GOARCH
	h.Kernel = d.text("proc/sys/kernel/osrelease")
	h.Platform = d.Platform()
	h.CPU = d.cpu()
	h.DiskFree = freeBytes(d.Disk)
	c := <-environment
	if c.late { // what is on a folder of LD_LIBRARY_PATH that does not answer is of no use to programs either
		r.add(Source{Name: cLibrariesName, Problem: fmt.Sprintf("the folders of LD_LIBRARY_PATH did not answer within %s", d.Limit)})
		c.value = d.cLibraries(nil)
	}
	r.add(c.value.source)
	h.Glibc, h.GLIBCXX = c.value.glibc, c.value.glibcxx

	answer := <-smi
	if err := ctx.Err(); err != nil {
		return Report{}, err
	}
	switch {
	case answer.late:
		r.add(Source{Name: smiName, Problem: fmt.Sprintf("no answer within %s", d.Limit)})
	default:
		r.add(answer.value.source)
		h.Driver, h.GPUs = answer.value.driver, answer.value.gpus
	}
	d.driverFiles(&r)
	d.pciBus(&r)

	libraries := <-cuda
	if err := ctx.Err(); err != nil {
		return Report{}, err
	}
	if libraries.late {
		r.add(Source{Name: "CUDA libraries", Problem: fmt.Sprintf("the folders did not answer within %s", d.Limit)})
	}
	h.CUDALibraries = libraries.value
	if h.GPUs == nil {
		h.GPUs = []manifests.GPU{}
	}
	if h.CUDALibraries == nil {
		h.CUDALibraries = []manifests.CUDALibrary{}
	}
	return r, nil
}

// Fingerprint changes when the machine's GPUs or their driver do. It costs a few reads of /proc and /sys, so that a
// second run can know without nvidia-smi that nothing changed. It is empty where the kernel shows neither, as on WSL.
func (d Detector) Fingerprint() string {
	d = d.withDefaults()
	parts := []string{}
	if version := d.text("sys/module/nvidia/version"); version != "" {
		parts = append(parts, version)
	}
	for _, device := range d.pciDevices() {
		parts = append(parts, fmt.Sprintf("%s=%04x", device.address, device.id))
	}
	return strings.Join(parts, " ")
}

func (d Detector) withDefaults() Detector {
	if d.Root == "" {
		d.Root = "/"
	}
	if d.Getenv == nil {
		d.Getenv = os.Getenv
	}
	if d.Limit == 0 {
		d.Limit = DefaultLimit
	}
	return d
}

func (r *Report) add(sources ...Source) { r.Sources = append(r.Sources, sources...) }

// An outcome is what a source gave in its time.
type outcome[T any] struct {
	value T
	late  bool
}

// background runs a source for at most limit. A source that never returns is left behind: a read of a dead network
// folder, or a child that the kernel does not let die, cannot be ended.
func background[T any](ctx context.Context, limit time.Duration, source func(context.Context) T) <-chan outcome[T] {
	// The child is ended at the limit; what is beyond is for those that do not end.
	const grace = time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	done := make(chan T, 1)
	go func() { done <- source(ctx) }()
	result := make(chan outcome[T], 1)
	go func() {
		defer cancel()
		select {
		case value := <-done:
			result <- outcome[T]{value: value}
		case <-time.After(limit + grace):
			result <- outcome[T]{late: true}
		}
	}()
	return result
}

func (d Detector) path(elements ...string) string {
	return filepath.Join(append([]string{d.Root}, elements...)...)
}

// text is a small file of /proc or /sys, without the newline at its end, or nothing.
func (d Detector) text(path string) string {
	data, err := os.ReadFile(d.path(path))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func (d Detector) exists(path string) bool {
	_, err := os.Stat(d.path(path))
	return err == nil
}

// freeBytes is what an ordinary user may still write to the folder's file system; negative if it is not known. Where the
// folder does not exist, the nearest one above it counts.
func freeBytes(folder string) int64 {
	if folder == "" {
		return -1
	}
	for {
		var fs unix.Statfs_t
		if err := unix.Statfs(folder, &fs); err == nil {
			return int64(fs.Bavail) * int64(fs.Bsize)
		}
		above := filepath.Dir(folder)
		if above == folder {
			return -1
		}
		folder = above
	}
}
