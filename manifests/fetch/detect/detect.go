// Package detect finds out what a machine is: its GPUs, driver, platform, C libraries, processor,
// CUDA libraries and disk.
//
// The fetch package calls it. The input is a Detector, which names the root folder and the
// environment to look at; the output is a Report: the manifests.Host that Pick reads, and for each
// part of it which source gave it, or why the source did not.
//
//	the probe (probe/probe.c), which asks CUDA        decides which GPUs programs have
//	nvidia-smi → the driver's files → the PCI bus     say why there are none, and serve where the probe cannot run
//
// A GPU that only the driver's files or the bus show is not one that programs have, unless
// everything that CUDA opens is there as well. Every source has a time limit, because drivers,
// nvidia-smi and network folders hang on real machines. What no source tells is left empty. The
// package runs the probe and nvidia-smi and nothing else; it loads no library, uses no network,
// writes nothing and never prints.
package detect

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// A Detector looks at one machine.
type Detector struct {
	// Root is the root folder: "/" where empty.
	Root string
	// Environ is the environment, as programs would have it: os.Environ() where nil.
	Environ []string
	// Limit is the time that each source has: 10 seconds where 0. The probe has three times as
	// much.
	Limit time.Duration
	// Probe is the program that asks CUDA. Where it does not exist, the other sources are used.
	Probe string
	// Disk is the store's folder, whose file system's free space counts. It need not exist yet.
	Disk string
}

// A Report is a machine, and where each part of it was learned.
type Report struct {
	Host    manifests.Host `json:"host"`
	Sources []Source       `json:"sources"`
}

// A Source is one place that was asked.
type Source struct {
	// Name is the place: "nvidia-smi", "/proc/driver/nvidia".
	Name string `json:"name"`
	// Gave is what was learned there, and Problem why nothing, or not all, was.
	Gave    string `json:"gave,omitempty"`
	Problem string `json:"problem,omitempty"`
}

// DefaultLimit is the time that each source has. nvidia-smi takes up to 6 seconds where the
// persistence daemon is off and several GPUs have to be woken.
const DefaultLimit = 10 * time.Second

// Detect looks at the machine. It fails only with the context's error: what cannot be learned is a
// Source's Problem.
func (d Detector) Detect(ctx context.Context) (Report, error) {
	d = d.withDefaults()
	// What is slow runs side by side; each part has the Host's fields of its own.
	cuda := background(ctx, d.Limit, d.cudaLibraries)
	environment := background(ctx, d.Limit, func(context.Context) cVersions { return d.cLibraries(d.environmentFolders()) })
	var r Report
	h := &r.Host
	h.OS, h.Arch = runtime.GOOS, runtime.GOARCH
	h.Kernel = d.readText("proc/sys/kernel/osrelease")
	h.Platform = d.Platform()
	h.Distribution = d.distribution()
	h.CPU = d.cpu()
	h.DiskFree = freeBytes(d.Disk)
	c := <-environment
	if c.late { // what is on a folder of LD_LIBRARY_PATH that does not answer is of no use to programs either
		r.add(Source{Name: cLibrariesName, Problem: fmt.Sprintf("the folders of LD_LIBRARY_PATH did not answer within %s", d.Limit)})
		c.value = d.cLibraries(nil)
	}
	r.add(c.value.source)
	h.Glibc, h.GLIBCXX, h.LibStdCXX = c.value.glibc, c.value.glibcxx, c.value.libstdcxx

	d.gpus(ctx, &r)
	if err := ctx.Err(); err != nil {
		return Report{}, err
	}

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

func (d Detector) withDefaults() Detector {
	if d.Root == "" {
		d.Root = "/"
	}
	if d.Environ == nil {
		d.Environ = os.Environ()
	}
	if d.Limit == 0 {
		d.Limit = DefaultLimit
	}
	return d
}

// lookup is a variable of the environment, and whether it is set.
func (d Detector) lookup(name string) (string, bool) {
	for _, pair := range slices.Backward(d.Environ) { // the last of several counts for exec.Cmd
		if value, ok := strings.CutPrefix(pair, name+"="); ok {
			return value, true
		}
	}
	return "", false
}

func (d Detector) getenv(name string) string {
	value, _ := d.lookup(name)
	return value
}

func (r *Report) add(sources ...Source) { r.Sources = append(r.Sources, sources...) }

// An outcome is what a source gave in its time.
type outcome[T any] struct {
	value T
	late  bool
}

// background runs a source for at most limit. A source that never returns is left behind: a read of
// a dead network folder, or a child that the kernel does not let die, cannot be ended.
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

// readText is a small file of /proc or /sys, without the newline at its end, or nothing.
func (d Detector) readText(path string) string {
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

// freeBytes is what an ordinary user may still write to the folder's file system; negative if it is
// not known. Where the folder does not exist, the nearest one above it counts.
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
