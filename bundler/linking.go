package bundler

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// The libraries of the machine that a bundle may need.
const (
	libc   = "libc.so.6"
	libcxx = "libstdc++.so.6"
	libgcc = "libgcc_s.so.1"
	driver = "libcuda.so.1"

	libpthread = "libpthread.so.0"
)

// isCUDA reports whether a library is one of those that the toolkit's runtimes have, under the name
// that the loader looks for.
func (t *tree) isCUDA(soname string) bool { return slices.Contains(t.toolkit.CUDALibraries(), soname) }

// isGlibc reports whether a library is a part of glibc, whose symbols all carry GLIBC versions.
func isGlibc(soname string) bool {
	switch soname {
	case libc, "libm.so.6", "libdl.so.2", libpthread, "librt.so.1", "ld-linux-x86-64.so.2":
		return true
	}
	return false
}

// isSystem reports whether every Linux that a bundle serves has the library.
func isSystem(soname string) bool {
	return isGlibc(soname) || soname == libcxx || soname == libgcc
}

// isAllowed reports whether a library may be needed although it is not in the bundle.
func (t *tree) isAllowed(soname string) bool {
	return isSystem(soname) || soname == driver || t.isCUDA(soname)
}

// givesUnversioned reports whether a library outside the bundle can define a symbol for which the
// linker recorded no version. The system's libraries version all of theirs; the CUDA ones are known
// by their prefixes.
func givesUnversioned(soname, symbol string) bool {
	switch name, _, _ := strings.Cut(soname, ".so."); name {
	case "libcuda":
		rest, ok := strings.CutPrefix(symbol, "cu")
		return ok && rest != "" && rest[0] >= 'A' && rest[0] <= 'Z'
	case "libcudart":
		return strings.HasPrefix(symbol, "cuda") || strings.HasPrefix(symbol, "__cuda")
	case "libcublas":
		return strings.HasPrefix(symbol, "cublas") && !strings.HasPrefix(symbol, "cublasLt")
	case "libcublasLt":
		return strings.HasPrefix(symbol, "cublasLt")
	}
	return false
}

// checkLinking checks that every library and symbol that a file needs will be there when it is
// loaded.
func (a *audit) checkLinking(n *node) {
	for _, needed := range n.elf.Needed {
		if a.library(needed) == nil && !a.isAllowed(needed) {
			a.add(RuleLibrary, n.path, "it needs %s, which is neither in lib under exactly that name, nor in the CUDA runtime asset, nor on every system; bundle it or build without it", needed)
		}
	}
	a.checkThreads(n)
	a.checkVersions(n)
	a.checkSymbols(n)
}

// checkThreads checks that a file that starts threads loads libpthread.so.0. glibc 2.34 made it a part
// of libc; before, libstdc++ refuses to start threads without it, and has no symbol that asks for it.
func (a *audit) checkThreads(n *node) {
	const starts, merged = "_ZNSt6thread15_M_start_thread", "2.34"
	if matrix.CompareVersions(a.rules.Floors.Glibc, merged) >= 0 || slices.Contains(n.elf.Needed, libpthread) {
		return
	}
	if slices.ContainsFunc(n.elf.Imports, func(i Import) bool { return strings.HasPrefix(i.Name, starts) }) {
		a.add(RuleLibrary, n.path, "it starts threads by std::thread and does not need %s, without which they do not start before glibc %s; link it with --no-as-needed", libpthread, merged)
	}
}

// checkVersions checks the symbol versions that a file needs: those of the system against the
// floors, those of the bundle's own libraries against what these define.
func (a *audit) checkVersions(n *node) {
	for _, v := range n.elf.Versions {
		if lib := a.library(v.Library); lib != nil {
			if lib.elf != nil && !slices.Contains(lib.elf.Defines, v.Name) {
				a.add(RuleSymbol, n.path, "it needs version %s of %s, which that library does not define; build both from the same source", v.Name, v.Library)
			}
			continue
		}
		if a.isCUDA(v.Library) && v.Name == v.Library || !a.isAllowed(v.Library) { // the latter is already a finding
			continue
		}
		floor, known := a.floorOf(v)
		if !known {
			a.add(RuleFloor, n.path, "it needs version %s of %s, which no rule knows", v.Name, v.Library)
		} else if _, version := v.splitVersion(); matrix.CompareVersions(version, floor) > 0 {
			a.add(RuleFloor, n.path, "it needs %s of %s%s, above the floor %s; link it with the libraries of the floors, or supply what is newer statically, as the builder does", v.Name, v.Library, n.elf.usersOf(v), floor)
		}
	}
}

// splitVersion splits a symbol version: GLIBC_2.34 is "GLIBC" and "2.34".
func (v SymbolVersion) splitVersion() (family, version string) {
	// What a file linked with -z pack-relative-relocs needs; glibc has it since 2.36.
	if v.Name == "GLIBC_ABI_DT_RELR" {
		return "GLIBC", "2.36"
	}
	i := strings.LastIndexByte(v.Name, '_')
	if i < 0 {
		return v.Name, ""
	}
	return v.Name[:i], v.Name[i+1:]
}

// floorOf is the newest version of a family that a bundle may need.
func (a *audit) floorOf(v SymbolVersion) (floor string, known bool) {
	family, version := v.splitVersion()
	if !matrix.IsVersion(version) {
		// Marks for 128-bit floats and transactional memory, in libstdc++ since GCC 4.7.
		return version, v.Name == "CXXABI_FLOAT128"
	}
	compiler := compilerOf(a.rules.Floors.GLIBCXX)
	switch {
	case family == "GLIBC" && isGlibc(v.Library):
		return a.rules.Floors.Glibc, true
	case family == "GLIBCXX" && v.Library == libcxx:
		return a.rules.Floors.GLIBCXX, true
	case family == "CXXABI" && v.Library == libcxx:
		return compiler.cxxabi, true
	case family == "CXXABI_TM" && v.Library == libcxx:
		return version, true
	case family == "GCC" && v.Library == libgcc:
		return compiler.gcc, true
	}
	return "", false
}

// A compiler's libraries come together: who has its libstdc++ has its ABI library and its libgcc.
// https://gcc.gnu.org/onlinedocs/libstdc++/manual/abi.html#abi.versioning
type compiler struct{ glibcxx, cxxabi, gcc string }

// compilerOf is the newest compiler whose libstdc++ does not pass a GLIBCXX version.
func compilerOf(glibcxx string) compiler {
	best := compiler{glibcxx: "3.4.25", cxxabi: "1.3.11", gcc: "8.9"}
	for _, c := range []compiler{
		{glibcxx: "3.4.28", cxxabi: "1.3.12", gcc: "9.3"},
		{glibcxx: "3.4.29", cxxabi: "1.3.13", gcc: "11.9"},
		{glibcxx: "3.4.30", cxxabi: "1.3.13", gcc: "12.9"},
		{glibcxx: "3.4.31", cxxabi: "1.3.14", gcc: "13.9"},
		{glibcxx: "3.4.33", cxxabi: "1.3.15", gcc: "14.9"},
	} {
		if matrix.CompareVersions(c.glibcxx, glibcxx) <= 0 {
			best = c
		}
	}
	return best
}

// usersOf names some symbols that require a version, which show what to look for in the source.
func (e *ELF) usersOf(v SymbolVersion) string {
	const shown = 3
	var names []string
	for _, i := range e.Imports {
		if i.Version == v.Name && i.Library == v.Library {
			names = append(names, i.Name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	list := strings.Join(names[:min(shown, len(names))], ", ")
	if len(names) > shown {
		list += fmt.Sprintf(" and %d more", len(names)-shown)
	}
	return " (for " + list + ")"
}

// checkSymbols checks that what a file imports is exported by a library that is loaded with it.
func (a *audit) checkSymbols(n *node) {
	const shown = 5
	loaded := a.closure(n)
	var missing []string
	for _, i := range n.elf.Imports {
		if !a.isProvided(i, loaded) {
			missing = append(missing, i.String())
		}
	}
	if len(missing) == 0 {
		return
	}
	slices.Sort(missing)
	list := strings.Join(missing[:min(shown, len(missing))], ", ")
	if len(missing) > shown {
		list += fmt.Sprintf(" and %d more", len(missing)-shown)
	}
	a.add(RuleSymbol, n.path, "no library that it is linked with gives %s; link what defines it, or build all libraries from the same source", list)
}

func (i Import) String() string {
	if i.Version == "" {
		return i.Name
	}
	return i.Name + "@" + i.Version
}

func (a *audit) isProvided(i Import, loaded []*node) bool {
	if i.Library != "" {
		lib := a.library(i.Library)
		if lib == nil {
			return true // outside the bundle: versions and linking have judged it
		}
		return lib.elf == nil || slices.Contains(lib.elf.Exports[i.Name], i.Version)
	}
	for _, lib := range loaded {
		if len(lib.elf.Exports[i.Name]) > 0 {
			return true
		}
		for _, needed := range lib.elf.Needed {
			if givesUnversioned(needed, i.Name) {
				return true
			}
		}
	}
	return false
}

// report sums up what the files of a tree hold and need.
func (t *tree) report(toolkit matrix.Toolkit) *Report {
	r := &Report{
		DeviceCode: t.deviceCode(),
		Requires:   manifests.Requires{Libraries: []string{}, CPUVariants: t.cpuVariants()},
	}
	outside := make(map[string]bool)
	for _, n := range t.nodes {
		if n.elf == nil {
			continue
		}
		for _, needed := range n.elf.Needed {
			if t.library(needed) == nil {
				outside[needed] = true
			}
		}
		for _, v := range n.elf.Versions {
			switch family, version := v.splitVersion(); {
			case !matrix.IsVersion(version):
			case family == "GLIBC":
				raise(&r.Requires.Glibc, version)
			case family == "GLIBCXX":
				raise(&r.Requires.GLIBCXX, version)
			}
		}
	}
	r.Requires.Libraries = slices.AppendSeq(r.Requires.Libraries, maps.Keys(outside))
	slices.Sort(r.Requires.Libraries)
	if len(r.DeviceCode.Cubin) > 0 {
		r.Requires.DriverMin.Cubin = toolkit.DriverCubin
	}
	if len(r.DeviceCode.PTX) > 0 {
		r.Requires.DriverMin.PTX = toolkit.DriverPTX
	}
	return r
}

// deviceCode is what the fatbins of all files hold, each target once, ascending.
func (t *tree) deviceCode() manifests.DeviceCode {
	code := manifests.DeviceCode{Cubin: []matrix.Code{}, PTX: []matrix.Code{}}
	for _, n := range t.nodes {
		if n.elf == nil {
			continue
		}
		for _, d := range n.elf.DeviceCode {
			switch {
			case d.Kind == Cubin && !slices.Contains(code.Cubin, d.Code()):
				code.Cubin = append(code.Cubin, d.Code())
			case d.Kind == PTX && !slices.Contains(code.PTX, d.Code()):
				code.PTX = append(code.PTX, d.Code())
			}
		}
	}
	slices.SortFunc(code.Cubin, matrix.Code.Compare)
	slices.SortFunc(code.PTX, matrix.Code.Compare)
	return code
}

func raise(highest *string, version string) {
	if matrix.CompareVersions(version, *highest) > 0 {
		*highest = version
	}
}

// cpuVariants are the CPU backends of a tree by name, ascending.
func (t *tree) cpuVariants() []string {
	variants := []string{}
	for _, n := range t.nodes {
		if v := cpuVariant(strings.TrimPrefix(n.path, libraryDir+"/")); v != "" && n.inLibraries() {
			variants = append(variants, v)
		}
	}
	slices.Sort(variants)
	return variants
}
