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
	row          matrix.Row
	architecture string
	gpus         []string
	code         DeviceCode
	requires     Requires
}

// check checks a bundle's name, SM, architecture and device code against each other: llcuda 1.x
// gave sm_50 code to every GPU.
func (f facts) check() error {
	var p matrix.Problems
	sm := f.row.SM
	if !sm.Valid() {
		p.Addf("sm", "%d is not a compute capability", int(sm))
	}
	if want := BundleName(f.row); f.name != want {
		p.Addf("name", "%q, but the bundle for %s is %s", shorten(f.name), f.row.Short(), want)
	}
	if want := sm.Architecture(); want != "" && f.architecture != want {
		p.Addf("architecture", "%q, but %s is %s", shorten(f.architecture), sm.Capability(), want)
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
	f.checkCode(&p)
	p.Under("requires", f.requires.check(f.row.PTX))
	return p.Err()
}

// checkCode checks that a bundle has code of the row's SM, and of the row's kind alone.
func (f facts) checkCode(p *matrix.Problems) {
	// A list is one of the two lists of device code.
	type list struct {
		name  string
		codes []matrix.Code
	}
	own, other := list{"cubin", f.code.Cubin}, list{"ptx", f.code.PTX}
	if f.row.PTX {
		own, other = other, own
	}
	want := []matrix.Code{{SM: f.row.SM}}
	if len(own.codes) == 1 && !f.row.PTX {
		want[0].Variant = own.codes[0].Variant
	}
	if !slices.Equal(own.codes, want) {
		p.Addf("device_code."+own.name, "%v, but the bundle is for %v", own.codes, want)
	}
	if len(other.codes) > 0 {
		p.Addf("device_code."+other.name, "%v, but a bundle has machine code or PTX, and %s is of %s", other.codes, f.row, own.name)
	}
}

func (r Requires) check(ptx bool) error {
	var p matrix.Problems
	if ptx {
		checkVersion(&p, "driver_min.ptx", r.DriverMin.PTX)
		if r.DriverMin.Cubin != "" {
			p.Addf("driver_min.cubin", "%q, but there is no machine code", shorten(r.DriverMin.Cubin))
		}
	} else {
		checkVersion(&p, "driver_min.cubin", r.DriverMin.Cubin)
		if r.DriverMin.PTX != "" {
			p.Addf("driver_min.ptx", "%q, but there is no PTX", shorten(r.DriverMin.PTX))
		}
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
