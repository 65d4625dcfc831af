package bundler

import (
	"cmp"
	"debug/elf"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// Rules are what a bundle is measured by. The layout's own rules are the same for all bundles and
// stand in the code.
type Rules struct {
	Target  matrix.Target
	Toolkit matrix.Toolkit
	Floors  matrix.Floors
	// BuildPaths are absolute folders of the builder, like "/src/", that no file may name.
	BuildPaths []string
}

// deviceCode is the kind of device code that the row's bundle has.
func (r Rules) deviceCode() CodeKind {
	if r.Target.PTX {
		return PTX
	}
	return Cubin
}

// codeName is the row's device code: "a cubin for sm_75", or "PTX for compute_90".
func (r Rules) codeName() string {
	if r.Target.PTX {
		return "PTX for compute_" + r.Target.Code().String()
	}
	return "a cubin for sm_" + r.Target.Code().String()
}

// A Report is what Audit read from the files of a tree.
type Report struct {
	DeviceCode manifests.DeviceCode
	Requires   manifests.Requires
}

// Audit checks a tree against every rule. Its error is an *AuditError where rules are broken; the
// report says what was read in any case, and is nil only where the tree could not be read at all.
func Audit(fsys fs.FS, rules Rules) (*Report, error) {
	name := manifests.BundleName(rules.Target.Row())
	t, err := readTree(fsys, toolkitIn(rules.Toolkit))
	if err != nil {
		return nil, fmt.Errorf("auditing %s: %w", name, err)
	}
	a := &audit{tree: t, rules: rules}
	a.checkPresence()
	a.checkPlaces()
	a.checkModes()
	for _, n := range t.nodes {
		if n.err != nil {
			a.add(RuleELF, n.path, "%v: the file is damaged or of a kind this program does not know; build it again", n.err)
		}
		if n.elf != nil {
			a.checkForm(n)
			a.checkRunPath(n)
			a.checkLinking(n)
			a.checkDeviceCode(n)
		}
	}
	if err := a.checkContents(); err != nil {
		return nil, fmt.Errorf("auditing %s: %w", name, err)
	}
	report := t.report(rules.Toolkit)
	if len(a.findings) > 0 {
		slices.SortStableFunc(a.findings, func(x, y Finding) int {
			return cmp.Or(strings.Compare(x.Path, y.Path), strings.Compare(x.Rule, y.Rule))
		})
		return report, &AuditError{Name: name, Findings: a.findings}
	}
	return report, nil
}

// An audit is one run of the rules over a tree.
type audit struct {
	*tree
	rules    Rules
	findings []Finding
}

func (a *audit) add(rule, path, format string, args ...any) {
	a.findings = append(a.findings, Finding{Rule: rule, Path: path, Detail: fmt.Sprintf(format, args...)})
}

// checkPresence looks for everything that a bundle must have.
func (a *audit) checkPresence() {
	for _, name := range programs() {
		p := path.Join(a.programDir, name)
		if n := a.at[p]; n == nil {
			a.add(RuleMissingFile, p, "the program is absent; build its target and put it there")
		} else if !n.isRegular() {
			a.add(RuleMissingFile, p, "a program must be a file of its own, not a %s", kindOf(n))
		} else if n.elf == nil && n.err == nil {
			a.add(RuleELF, p, "the program is not an ELF file")
		}
	}
	for _, stem := range libraries() {
		if !slices.ContainsFunc(a.nodes, func(n *node) bool {
			base := path.Base(n.path)
			return n.inLibraries() && (base == stem || strings.HasPrefix(base, stem+".")) && a.resolve(n.path) != nil
		}) {
			a.add(RuleMissingFile, path.Join(libraryDir, stem), "the library is absent; build its target and put it there")
		}
	}
	if len(a.cpuVariants()) == 0 {
		a.add(RuleMissingFile, path.Join(libraryDir, cpuPrefix+"*.so"), "no CPU backend; build with GGML_CPU_ALL_VARIANTS=ON")
	}
	for _, name := range []string{licenseName, noticeName} {
		if n := a.at[name]; n == nil || !n.isRegular() || n.info.Size() == 0 {
			a.add(RuleMissingFile, name, "every bundle carries its licences; copy them from the source")
		}
	}
}

// checkPlaces asks of everything in the tree why it is there.
func (a *audit) checkPlaces() {
	wanted := a.neededLibraries()
	for _, n := range a.nodes {
		dir, base := path.Split(n.path)
		dir = path.Clean(dir)
		switch {
		case n.info.IsDir():
			if n.path != libraryDir && n.path != a.programDir && n.path != path.Dir(a.programDir) {
				a.add(RuleUnexpected, n.path, "a bundle has no such folder; remove it")
			}
		case n.isLink() && dir == a.programDir && isBackendName(base):
			// backendLinks looks at it
		case n.isLink():
			a.versionLink(n, wanted)
		case dir == a.programDir:
			if !slices.Contains(programs(), base) {
				a.add(RuleUnexpected, n.path, "a bundle has the programs %s and no other; remove it", strings.Join(programs(), ", "))
			}
		case dir == libraryDir:
			a.libraryPlace(n, wanted)
		case n.path == licenseName || n.path == noticeName:
		case n.path == manifests.MetadataName:
			a.add(RuleUnexpected, n.path, "metadata.json is derived when the bundle is packed; remove it")
		default:
			a.add(RuleUnexpected, n.path, "a bundle has no such file; remove it")
		}
	}
	a.checkBackendLinks()
}

func (a *audit) libraryPlace(n *node, wanted map[*node]bool) {
	base := path.Base(n.path)
	if slices.ContainsFunc(a.toolkit.CUDALibraries(), func(l string) bool { return base == l || strings.HasPrefix(base, l+".") }) {
		a.add(RuleUnexpected, n.path, "CUDA's own libraries travel in the runtime asset; remove it")
		return
	}
	if n.isRegular() && n.elf == nil && n.err == nil {
		a.add(RuleELF, n.path, "the file is not an ELF library; remove it")
		return
	}
	if !n.isBackend() && !wanted[n] {
		a.add(RuleUnexpected, n.path, "no program or backend needs this library; remove it")
	}
}

// neededLibraries are the libraries that programs and backends load.
func (a *audit) neededLibraries() map[*node]bool {
	wanted := make(map[*node]bool)
	for _, n := range a.nodes {
		if n.elf == nil || path.Dir(n.path) != a.programDir && !n.isBackend() {
			continue
		}
		for _, lib := range a.closure(n) {
			wanted[lib] = true
		}
	}
	return wanted
}

// versionLink checks a link that is not a backend's: libllama.so → libllama.so.0 →
// libllama.so.0.5.0.
func (a *audit) versionLink(n *node, wanted map[*node]bool) {
	switch target := a.resolve(n.path); {
	case path.IsAbs(n.link):
		a.add(RuleLink, n.path, "the link to %s is absolute; make it relative", n.link)
	case escapes(n):
		a.add(RuleLink, n.path, "the link to %s leads out of the bundle", n.link)
	case target == nil:
		a.add(RuleLink, n.path, "the link to %s leads to no file", n.link)
	case !n.inLibraries() || strings.Contains(n.link, "/"):
		a.add(RuleLink, n.path, "the link to %s: only links between names of one library in lib, and those to backends in %s, belong in a bundle", n.link, a.programDir)
	case !wanted[target]:
		a.add(RuleUnexpected, n.path, "no program or backend needs the library it leads to; remove it")
	}
}

func escapes(n *node) bool {
	joined := path.Join(path.Dir(n.path), n.link)
	return joined == ".." || strings.HasPrefix(joined, "../")
}

// checkBackendLinks wants a link beside the programs for each backend, and no other.
func (a *audit) checkBackendLinks() {
	for _, n := range a.nodes {
		base := path.Base(n.path)
		switch {
		case n.isBackend():
			link := path.Join(a.programDir, base)
			if l := a.at[link]; l == nil || !l.isLink() {
				a.add(RuleLink, link, "a link to %s is needed here: llama.cpp looks for backends beside the executable", backendLink+base)
			} else if l.link != backendLink+base {
				a.add(RuleLink, link, "the link leads to %s and must lead to %s", l.link, backendLink+base)
			} else if a.resolve(link) == nil {
				a.add(RuleLink, link, "the link to %s leads to no file", l.link)
			}
		case n.isLink() && path.Dir(n.path) == a.programDir && isBackendName(base) && a.at[path.Join(libraryDir, base)] == nil:
			a.add(RuleLink, n.path, "the link to %s leads to no file: there is no such backend", n.link)
		}
	}
}

// checkModes refuses what an archive must not carry onto a user's machine.
func (a *audit) checkModes() {
	for _, n := range a.nodes {
		mode := n.info.Mode()
		switch {
		case !n.isRegular() && !n.isLink() && !n.info.IsDir():
			a.add(RuleMode, n.path, "a bundle holds files, folders and links, not a %s", kindOf(n))
		case n.isLink():
		case mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0:
			a.add(RuleMode, n.path, "mode %v has a setuid, setgid or sticky bit; clear it", mode)
		case mode.Perm()&0o002 != 0:
			a.add(RuleMode, n.path, "mode %v lets everybody write; clear that bit", mode)
		case n.isRegular() && path.Dir(n.path) == a.programDir && !isExecutable(mode):
			a.add(RuleMode, n.path, "mode %v: the program is not executable", mode)
		}
	}
}

func isExecutable(mode fs.FileMode) bool { return mode.Perm()&0o111 != 0 }

func kindOf(n *node) string {
	switch mode := n.info.Mode(); {
	case mode.IsDir():
		return "folder"
	case mode&fs.ModeSymlink != 0:
		return "link"
	case mode&fs.ModeNamedPipe != 0:
		return "pipe"
	case mode&fs.ModeSocket != 0:
		return "socket"
	case mode&fs.ModeDevice != 0:
		return "device"
	}
	return "file of another kind"
}

// loader is the one interpreter whose path is the same on every x86-64 Linux with glibc.
const loader = "/lib64/ld-linux-x86-64.so.2"

// checkForm checks that an ELF file is of the kind that its place asks for.
func (a *audit) checkForm(n *node) {
	e := n.elf
	if e.Machine != elf.EM_X86_64 || e.Class != elf.ELFCLASS64 {
		a.add(RuleELF, n.path, "the file is for %v, %v; a bundle is for x86-64", e.Machine, e.Class)
		return
	}
	if path.Dir(n.path) == a.programDir {
		if e.Type != elf.ET_DYN && e.Type != elf.ET_EXEC || e.Interpreter != loader {
			a.add(RuleELF, n.path, "want a program with the interpreter %s, found %v with interpreter %q", loader, e.Type, e.Interpreter)
		}
	} else {
		if e.Type != elf.ET_DYN || e.Interpreter != "" {
			a.add(RuleELF, n.path, "want a shared library, found %v with interpreter %q", e.Type, e.Interpreter)
		}
		a.checkSoname(n)
	}
	if len(e.Symbols) > 0 {
		a.add(RuleStripped, n.path, "it holds %s; strip it", strings.Join(e.Symbols, ", "))
	}
	if e.ExecStack {
		a.add(RuleExecStack, n.path, "it asks for an executable stack; link with -z noexecstack")
	}
}

// checkSoname checks that the loader, which looks for the SONAME that a program was linked with,
// finds this very file.
func (a *audit) checkSoname(n *node) {
	base := path.Base(n.path)
	switch {
	case n.isBackend():
		if n.elf.Soname != "" && n.elf.Soname != base {
			a.add(RuleSoname, n.path, "its SONAME is %s: the file was renamed; build it under its own name", n.elf.Soname)
		}
	case n.elf.Soname == "":
		a.add(RuleSoname, n.path, "it has no SONAME; link it as a shared library with one")
	case a.library(n.elf.Soname) != n:
		a.add(RuleSoname, n.path, "its SONAME is %s, and lib/%s is not this file; add the link", n.elf.Soname, n.elf.Soname)
	}
}

// openMPRuntime comes from the compiler's own package, linked without a RUNPATH, and needs nothing
// of the bundle.
const openMPRuntime = "libgomp.so.1"

// checkRunPath checks that libraries are looked for in the bundle and nowhere else.
func (a *audit) checkRunPath(n *node) {
	want := "$ORIGIN"
	switch {
	case path.Dir(n.path) == a.programDir:
		want = "$ORIGIN/../../lib"
	case n.isBackend():
		want = "$ORIGIN:$ORIGIN/../../lib" // it is loaded through its link beside the programs, and $ORIGIN is that folder
	case path.Base(n.path) == openMPRuntime && len(n.elf.RunPath) == 0:
		want = ""
	}
	if len(n.elf.RPath) > 0 {
		a.add(RuleRunPath, n.path, "it has the RPATH %q, which overrides the user's settings; link with --enable-new-dtags", strings.Join(n.elf.RPath, ":"))
	}
	if got := strings.Join(n.elf.RunPath, " and "); got != want {
		a.add(RuleRunPath, n.path, "RUNPATH is %q and must be %q", got, want)
	}
}

// checkDeviceCode checks that every fatbin holds the row's code, a cubin or PTX, and no other.
func (a *audit) checkDeviceCode(n *node) {
	want, kind := a.rules.Target.Code(), a.rules.deviceCode()
	foreign := make(map[string]int)
	why := make(map[string]string)
	type container struct {
		section string
		index   int
	}
	own, all := make(map[container]bool), make(map[container]bool)
	for _, d := range n.elf.DeviceCode {
		at := container{d.Section, d.Container}
		all[at] = true
		if d.Kind == kind && d.Code() == want {
			own[at] = true
			continue
		}
		what := fmt.Sprintf("%s for %s", d.Kind, d.Name())
		foreign[what]++
		why[what] = fmt.Sprintf("want nothing but %s; build with CMAKE_CUDA_ARCHITECTURES=%s", a.rules.codeName(), a.rules.Target.CMakeArchitectures())
		if d.Kind != PTX && d.Kind != Cubin {
			why[what] = "no rule allows it"
		}
	}
	for _, what := range slices.Sorted(maps.Keys(foreign)) {
		a.add(RuleDeviceCode, n.path, "it holds %s of %s: %s", count(foreign[what], "piece"), what, why[what])
	}
	if n.path == path.Join(libraryDir, cudaBackend) && len(all) == 0 {
		a.add(RuleDeviceCode, n.path, "it holds no device code at all: want %s; build it with nvcc", a.rules.codeName())
		return
	}
	if missing := len(all) - len(own); missing > 0 {
		a.add(RuleDeviceCode, n.path, "%s of %d without %s", count(missing, "container"), len(all), a.rules.codeName())
	}
}
