package changes

import (
	"regexp"
	"slices"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// compareFiles compares two lists of a bundle's files. Links are left out, as bills of materials
// leave them out, and so is metadata.json, which is another file in every release.
func compareFiles(before, after []manifests.File) *Files {
	digests := func(list []manifests.File) map[string]string {
		all := map[string]string{}
		for _, f := range list {
			if f.Link == "" && f.Path != manifests.MetadataName {
				all[f.Path] = f.SHA256
			}
		}
		return all
	}
	old, now := digests(before), digests(after)
	var files Files
	for _, path := range keysOf(old, now) {
		switch state(old[path], now[path]) {
		case StateNew:
			files.Added = append(files.Added, path)
		case StateGone:
			files.Gone = append(files.Gone, path)
		case StateChanged:
			files.Changed = append(files.Changed, path)
		case StateUnchanged:
			files.Same++
		}
	}
	files.pairRenamed()
	return &files
}

// versioned are the parts of a path that change with a version: of the library, as in
// libllama.so.0.5.0, and of the toolkit, as in binaries/cuda12.
var versioned = regexp.MustCompile(`^binaries/cuda[0-9]+/|\.so(\.[0-9]+)*$`)

// pairRenamed makes one of a file that is gone and the only one added under the same path but for
// versions.
func (f *Files) pairRenamed() {
	stem := func(path string) string { return versioned.ReplaceAllString(path, "*") }
	matching := func(list []string, stemmed string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(path string) bool { return stem(path) != stemmed })
	}
	var gone []string
	added := slices.Clone(f.Added)
	for _, path := range f.Gone {
		others := matching(f.Added, stem(path))
		if len(others) != 1 || len(matching(f.Gone, stem(path))) != 1 {
			gone = append(gone, path)
			continue
		}
		f.Renamed = append(f.Renamed, Rename{path, others[0]})
		added = slices.DeleteFunc(added, func(s string) bool { return s == others[0] })
	}
	if len(added) == 0 {
		added = nil
	}
	f.Added, f.Gone = added, gone
}
