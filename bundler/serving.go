package bundler

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Libraries are what an archive's files take from CUDA's libraries, and what those in it give.
type Libraries struct {
	Takes []Taken `json:"takes,omitempty"`
	// Gives are the symbols of each library in lib, by the name that the loader looks for.
	Gives map[string][]string `json:"gives,omitempty"`
}

// Taken are the symbols that a file takes from one library. Symbols are "name@version", or the name
// alone where the linker recorded no version.
type Taken struct {
	Path    string   `json:"path"`
	Library string   `json:"library"`
	Symbols []string `json:"symbols,omitempty"`
}

// ReadLibraries reads the libraries of an archive: of a bundle, or of a CUDA runtime.
func ReadLibraries(ctx context.Context, name string) (*Libraries, error) {
	var read *Libraries
	err := unpacked(ctx, name, func(a *packed, fsys fs.FS) error {
		artifact, _ := a.describe()
		if len(a.Findings) > 0 {
			return &AuditError{Name: a.name, Findings: a.Findings}
		}
		t, err := readTree(fsys, *artifact.Toolkit)
		if err != nil {
			return err
		}
		read = t.libraries()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the libraries in %s: %w", name, err)
	}
	return read, nil
}

// libraries are what the tree's files take from CUDA's libraries, and what those in it give.
func (t *tree) libraries() *Libraries {
	l := &Libraries{}
	for _, n := range t.nodes {
		if n.elf == nil || n.inLibraries() && t.isCUDA(path.Base(n.path)) {
			continue
		}
		for _, soname := range t.toolkit.CUDALibraries() {
			if !slices.Contains(n.elf.Needed, soname) || t.library(soname) != nil {
				continue
			}
			taken := Taken{Path: n.path, Library: soname}
			for _, i := range n.elf.Imports {
				if i.Library == soname || i.Library == "" && givesUnversioned(soname, i.Name) {
					taken.Symbols = append(taken.Symbols, i.String())
				}
			}
			slices.Sort(taken.Symbols)
			l.Takes = append(l.Takes, taken)
		}
	}
	for _, soname := range t.toolkit.CUDALibraries() {
		n := t.library(soname)
		if n == nil || n.elf == nil {
			continue
		}
		gives := []string{}
		for name, versions := range n.elf.Exports {
			for _, version := range versions {
				gives = append(gives, Import{Name: name, Version: version}.String())
			}
		}
		slices.Sort(gives)
		if l.Gives == nil {
			l.Gives = make(map[string][]string)
		}
		l.Gives[soname] = gives
	}
	return l
}

// CheckServed checks a bundle against the CUDA runtime that is to serve it: each of CUDA's libraries
// that the bundle asks for is there, and gives each symbol that the bundle takes from it. No list of
// functions is kept anywhere: the bundle's own symbol table is what counts.
func (bundle *Libraries) CheckServed(runtime *Libraries) []Finding {
	const shown = 5
	var findings []Finding
	for _, taken := range bundle.Takes {
		gives, there := runtime.Gives[taken.Library]
		if !there {
			findings = append(findings, Finding{Rule: RuleLibrary, Path: taken.Path, Detail: fmt.Sprintf("it needs %s, which its CUDA runtime does not have", taken.Library)})
			continue
		}
		missing := slices.DeleteFunc(slices.Clone(taken.Symbols), func(symbol string) bool {
			if strings.Contains(symbol, "@") {
				return slices.Contains(gives, symbol)
			}
			return slices.ContainsFunc(gives, func(g string) bool { return g == symbol || strings.HasPrefix(g, symbol+"@") })
		})
		if len(missing) == 0 {
			continue
		}
		list := strings.Join(missing[:min(shown, len(missing))], ", ")
		if len(missing) > shown {
			list += fmt.Sprintf(" and %d more", len(missing)-shown)
		}
		findings = append(findings, Finding{Rule: RuleSymbol, Path: taken.Path,
			Detail: fmt.Sprintf("%s of its CUDA runtime lacks %s; build both from the same source", taken.Library, list)})
	}
	return findings
}
