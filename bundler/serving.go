package bundler

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// Libraries are what the loader finds in an archive, and what that asks for.
type Libraries struct{ tree *tree }

// ReadLibraries reads the libraries of an archive: of a bundle, or of a CUDA runtime.
func ReadLibraries(ctx context.Context, name string) (*Libraries, error) {
	fail := func(err error) (*Libraries, error) {
		return nil, fmt.Errorf("reading the libraries in %s: %w", name, err)
	}
	dir, err := os.MkdirTemp("", "llcuda-libraries-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	a, err := readArchive(ctx, name, root)
	if err != nil {
		return fail(err)
	}
	if len(a.Findings) > 0 {
		return fail(&AuditError{Name: a.name, Findings: a.Findings})
	}
	t, err := readTree(root.FS(), manifests.Toolkit{}) // the programs' folder is of no interest
	if err != nil {
		return fail(err)
	}
	return &Libraries{t}, nil
}

// CheckServed checks a bundle against the CUDA runtime that is to serve it: each of CUDA's libraries
// that the bundle asks for is there, and gives each symbol that the bundle takes from it. No list of
// functions is kept anywhere: the bundle's own symbol table is what counts.
func (bundle *Libraries) CheckServed(runtime *Libraries, toolkit manifests.Toolkit) []Finding {
	const shown = 5
	var findings []Finding
	for _, n := range bundle.tree.nodes {
		if n.elf == nil {
			continue
		}
		for _, soname := range toolkit.CUDALibraries() {
			if !slices.Contains(n.elf.Needed, soname) {
				continue
			}
			given := runtime.tree.library(soname)
			if given == nil || given.elf == nil {
				findings = append(findings, Finding{Rule: RuleLibrary, Path: n.path, Detail: fmt.Sprintf("it needs %s, which its CUDA runtime does not have", soname)})
				continue
			}
			var missing []string
			for _, i := range n.elf.Imports {
				versions, there := given.elf.Exports[i.Name]
				if i.Library == soname && !slices.Contains(versions, i.Version) || i.Library == "" && givesUnversioned(soname, i.Name) && !there {
					missing = append(missing, i.String())
				}
			}
			if len(missing) == 0 {
				continue
			}
			slices.Sort(missing)
			list := strings.Join(missing[:min(shown, len(missing))], ", ")
			if len(missing) > shown {
				list += fmt.Sprintf(" and %d more", len(missing)-shown)
			}
			findings = append(findings, Finding{Rule: RuleSymbol, Path: n.path,
				Detail: fmt.Sprintf("%s of its CUDA runtime (%s) lacks %s; build both from the same source", soname, path.Base(given.path), list)})
		}
	}
	return findings
}
