package manifests

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/matrix"
)

var (
	nameForm   = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*$`)
	sha256Form = regexp.MustCompile(`^[0-9a-f]{64}$`)
	commitForm = regexp.MustCompile(`^([0-9a-f]{40}|sha256:[0-9a-f]{64})$`)
	labelForm  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]*$`)
)

const (
	// maxName is what file systems allow a name to have, in bytes.
	maxName = 255
	// maxPath bounds a path in a bundle, in bytes; the store it is unpacked into has its own path
	// in front of it.
	maxPath = 1024
	// maxHops is how many links Linux follows before it takes them for a loop.
	maxHops = 40
)

func checkName(p *matrix.Problems, at, name string) {
	if len(name) > maxName || !nameForm.MatchString(name) {
		p.Addf(at, "%q is not a name: letters, digits and ._- with no dot in front", shorten(name))
	}
}

func checkSHA256(p *matrix.Problems, at, digest string) {
	if !sha256Form.MatchString(digest) {
		p.Addf(at, "%q is not 64 lower-case hex digits", shorten(digest))
	}
}

func checkSize(p *matrix.Problems, at string, size, least int64) {
	if size < least || size > maxFileSize {
		p.Addf(at, "%d is not between %d and %d", size, least, int64(maxFileSize))
	}
}

func checkVersion(p *matrix.Problems, at, version string) {
	if !matrix.IsVersion(version) {
		p.Addf(at, "%q is not dotted numbers", shorten(version))
	}
}

func checkEpoch(p *matrix.Problems, at string, seconds int64) {
	// The latest time that fits the 11 octal digits of a tar header.
	const latest = 1<<33 - 1
	if seconds < 1 || seconds > latest {
		p.Addf(at, "%d is not between 1 and %d", seconds, latest)
	}
}

// checkAscending checks that a list is in ascending order, so that the same facts are the same
// bytes.
func checkAscending(p *matrix.Problems, at string, list []string) {
	for i := 1; i < len(list); i++ {
		if list[i] <= list[i-1] {
			p.Addf(fmt.Sprintf("%s[%d]", at, i), "%q comes after %q: the list ascends, each once", shorten(list[i]), shorten(list[i-1]))
		}
	}
}

// isTreePath reports whether name is a path below some folder, in its shortest form.
func isTreePath(name string) bool {
	return name != "" && len(name) <= maxPath && !strings.Contains(name, `\`) && path.Clean("/"+name) == "/"+name
}

func (l LlamaCPP) check() error {
	var p matrix.Problems
	if !labelForm.MatchString(l.Version) {
		p.Addf("version", "%q is not a version", shorten(l.Version))
	}
	if !commitForm.MatchString(l.Commit) {
		p.Addf("commit", "%q is neither a commit's 40 hex digits nor sha256: and 64", shorten(l.Commit))
	}
	if l.Build < 0 {
		p.Addf("build", "%d is negative", l.Build)
	}
	return p.Err()
}

func (t Toolkit) check() error {
	var p matrix.Problems
	checkVersion(&p, "cuda", t.CUDA)
	checkVersion(&p, "nvcc", t.NVCC)
	return p.Err()
}

// A facts value is what metadata.json and the manifest both say of a bundle.
type facts struct {
	name         string
	sm           matrix.SM
	architecture string
	gpus         []string
	code         DeviceCode
	requires     Requires
}

// check checks a bundle's name, SM, architecture and device code against each other: llcuda 1.x
// gave sm_50 code to every GPU.
func (f facts) check() error {
	var p matrix.Problems
	if !f.sm.Valid() {
		p.Addf("sm", "%d is not a compute capability", int(f.sm))
	}
	if want := BundleName(f.sm); f.name != want {
		p.Addf("name", "%q, but the bundle for %d is %s", shorten(f.name), f.sm, want)
	}
	if want := f.sm.Architecture(); want != "" && f.architecture != want {
		p.Addf("architecture", "%q, but %s is %s", shorten(f.architecture), f.sm.Capability(), want)
	} else if f.architecture == "" {
		p.Addf("architecture", "empty")
	}
	if len(f.gpus) == 0 {
		p.Addf("gpus", "empty")
	}
	seen := map[string]bool{"": true}
	for i, gpu := range f.gpus {
		if seen[gpu] {
			p.Addf(fmt.Sprintf("gpus[%d]", i), "%q is empty or stands here twice", shorten(gpu))
		}
		seen[gpu] = true
	}
	own := []matrix.Code{{SM: f.sm}}
	if len(f.code.Cubin) == 1 {
		own[0].Variant = f.code.Cubin[0].Variant
	}
	if !slices.Equal(f.code.Cubin, own) {
		p.Addf("device_code.cubin", "%v, but the bundle is for %v", f.code.Cubin, own)
	}
	if len(f.code.PTX) > 0 && !slices.Equal(f.code.PTX, own) {
		p.Addf("device_code.ptx", "%v, but the bundle is for %v", f.code.PTX, own)
	}
	p.Under("requires", f.requires.check(len(f.code.PTX) > 0))
	return p.Err()
}

func (r Requires) check(ptx bool) error {
	var p matrix.Problems
	checkVersion(&p, "driver_min.cubin", r.DriverMin.Cubin)
	if ptx {
		checkVersion(&p, "driver_min.ptx", r.DriverMin.PTX)
	} else if r.DriverMin.PTX != "" {
		p.Addf("driver_min.ptx", "%q, but there is no PTX", shorten(r.DriverMin.PTX))
	}
	checkVersion(&p, "glibc", r.Glibc)
	if r.GLIBCXX != "" {
		checkVersion(&p, "glibcxx", r.GLIBCXX)
	}
	for _, list := range []struct {
		at    string
		names []string
	}{{"libraries", r.Libraries}, {"cpu_variants", r.CPUVariants}} {
		for i, name := range list.names {
			if len(name) > maxName || !labelForm.MatchString(name) {
				p.Addf(fmt.Sprintf("%s[%d]", list.at, i), "%q is not a name", shorten(name))
			}
		}
		checkAscending(&p, list.at, list.names)
	}
	return p.Err()
}

// shorten is s as it may stand in quotes in a message.
func shorten(s string) string {
	const enough = 80
	if len(s) > enough {
		return s[:enough] + "…"
	}
	return s
}
