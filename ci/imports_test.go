package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/waqasm86/llcuda-farm"

// allowed are the edges between the module's packages. Data runs one way, so do
// imports. Packages that do not exist yet are listed too, so that they come into
// being with their place known.
var allowed = map[string][]string{
	"matrix":            {},
	"matrix/spec":       {"matrix"},
	"matrix/patches":    {},
	"manifests":         {"manifests/measure", "matrix"},
	"manifests/measure": {},
	"bundler":           {"manifests", "manifests/measure", "manifests/archive", "matrix"},

	"docker/cuda12":      {},
	"docker/mirror":      {},
	"docker/cuda12/lock": {"docker/cuda12", "docker/mirror", "publisher/pypi"},
	"docker/cuda13":      {"docker/cuda12"},
	"docker/wheel":       {"docker/cuda12"},

	"ci":                         {"ci/internal/cli"},
	"ci/internal/cli":            {"ci/internal/bump", "ci/internal/engine", "ci/internal/engine/builtin", "ci/internal/failure", "ci/internal/farm", "ci/internal/gate", "ci/internal/release", "ci/internal/trial", "bundler", "manifests", "matrix", "matrix/patches", "matrix/spec", "publisher", "publisher/ghrelease", "publisher/hfhub", "publisher/cosign", "publisher/pointer", "publisher/provenance", "publisher/site", "publisher/wheel", "publisher/pypi", "publisher/installer", "publisher/changes", "ci/internal/goreleaser", "manifests/python", "manifests/fetch", "manifests/fetch/console", "manifests/fetch/hub", "manifests/fetch/transfer", "manifests/gguf", "manifests/measure", "manifests/sigverify"},
	"ci/internal/failure":        {},
	"ci/internal/release":        {"ci/internal/failure", "ci/internal/farm", "ci/internal/filestamp", "bundler", "manifests", "manifests/archive", "manifests/fetch", "manifests/fetch/transfer", "manifests/measure", "manifests/retry", "manifests/sigverify", "matrix", "matrix/spec", "publisher", "publisher/changes", "publisher/cosign", "publisher/provenance", "publisher/sbom", "publisher/wheel"},
	"ci/internal/engine":         {"manifests/measure", "ci/internal/engine/builtin", "ci/internal/engine/image", "ci/internal/engine/npm", "ci/internal/engine/pypi", "ci/internal/farm", "docker/cuda12", "docker/cuda13", "docker/wheel", "matrix"},
	"ci/internal/engine/builtin": {"manifests/measure"},
	"ci/internal/bump":           {"ci/internal/engine", "ci/internal/farm", "matrix", "matrix/patches", "matrix/spec"},
	"ci/internal/filestamp":      {},
	"ci/internal/engine/image":   {"manifests/measure", "ci/internal/filestamp", "docker/cuda12", "docker/mirror", "manifests/fetch/transfer", "publisher/pypi"},
	"ci/internal/engine/npm":     {"manifests/measure", "ci/internal/filestamp", "docker/mirror", "manifests/fetch/transfer", "manifests/retry"},
	"ci/internal/engine/pypi":    {"docker/mirror", "manifests/fetch/transfer", "publisher/pypi"},
	"ci/internal/goreleaser":     {},
	"ci/internal/gate":           {"ci/internal/failure", "bundler", "manifests", "manifests/archive", "manifests/variants"},
	"ci/internal/trial":          {"manifests/gguf/tinygguf", "manifests/variants"},
	"ci/internal/trial/try":      {"ci/internal/trial"},
	"ci/internal/farm":           {"manifests/measure", "docker/mirror", "bundler", "manifests", "manifests/archive", "manifests/fetch/transfer", "matrix", "matrix/patches"},

	"publisher":            {"publisher/changes", "manifests", "manifests/measure", "manifests/retry", "matrix"},
	"publisher/changes":    {"manifests", "manifests/measure", "matrix"},
	"publisher/ghrelease":  {"publisher", "manifests", "manifests/retry"},
	"publisher/hfhub":      {"publisher", "manifests", "manifests/measure", "manifests/retry", "matrix"},
	"publisher/cosign":     {"publisher", "manifests", "manifests/retry", "manifests/sigverify"},
	"publisher/sbom":       {"manifests", "matrix"},
	"publisher/installer":  {"manifests"},
	"publisher/site":       {"publisher", "manifests", "manifests/measure", "matrix"},
	"publisher/pypi":       {"publisher", "manifests/retry"},
	"publisher/wheel":      {"manifests", "manifests/measure"},
	"publisher/provenance": {"manifests", "matrix"},
	"publisher/pointer":    {"publisher", "manifests", "manifests/retry", "manifests/sigverify"},

	"manifests/fetch":                  {"manifests/measure", "manifests/fetch/detect", "manifests/fetch/home", "manifests/fetch/hub", "manifests/fetch/launch", "manifests/fetch/store", "manifests/fetch/transfer", "manifests/gguf", "manifests", "matrix"},
	"manifests/fetch/detect":           {"manifests/fetch/home", "manifests/fetch/launch", "manifests", "matrix"},
	"manifests/fetch/home":             {},
	"manifests/fetch/hub":              {"manifests/fetch/transfer", "manifests/retry", "manifests/gguf", "matrix"},
	"manifests/fetch/launch":           {"manifests/fetch/machine"},
	"manifests/fetch/machine":          {},
	"manifests/fetch/launch/earlyexec": {"manifests/fetch/launch", "manifests/fetch/home"},
	"manifests/fetch/serve":            {},
	"manifests/archive":                {"manifests"},
	"manifests/fetch/store":            {"manifests/archive", "manifests/fetch/home", "manifests/fetch/launch", "manifests/gguf/tinygguf", "manifests/variants", "manifests", "matrix"},
	"manifests/fetch/transfer":         {"manifests/measure", "manifests/retry"},
	"manifests/fetch/console":          {"manifests/measure"},
	"manifests/fetch/fetchcli":         {"manifests/fetch", "manifests/fetch/console", "manifests/fetch/launch", "manifests/fetch/serve", "manifests", "manifests/measure", "matrix"},
	"manifests/retry":                  {},
	"manifests/gguf":                   {},
	"manifests/python":                 {},
	"manifests/gguf/tinygguf":          {},
	"manifests/variants":               {"manifests/fetch/launch"},
	"manifests/sigverify":              {"manifests"},
	"manifests/cmd/llcuda-fetch":       {"manifests/fetch/fetchcli", "manifests/fetch/launch/earlyexec", "manifests/fetch", "manifests/sigverify", "manifests"},
}

// inTests are the edges that tests have beyond those of their package.
var inTests = map[string][]string{
	"manifests/fetch/machine":    {"manifests/goldentest"},
	"matrix/spec":                {"manifests/goldentest"},
	"ci":                         {"manifests/killtest", "publisher/cosigntest", "publisher/ghtest", "ci/internal/engine", "ci/internal/engine/builtin", "ci/internal/engine/image/imagetest", "ci/internal/farm", "manifests/gguf/tinygguf", "manifests/python/pythontest", "bundler", "manifests", "matrix", "matrix/spec"},
	"ci/internal/bump":           {"manifests/goldentest"},
	"ci/internal/engine":         {"manifests/gguf/tinygguf", "ci/internal/engine/image/imagetest", "bundler", "manifests", "matrix/spec"},
	"ci/internal/engine/image":   {"ci/internal/filestamp", "ci/internal/engine/image/imagetest", "manifests/retry"},
	"ci/internal/engine/pypi":    {"docker/wheel"},
	"bundler":                    {"matrix/spec"},
	"manifests":                  {"manifests/goldentest", "matrix/spec"},
	"manifests/archive":          {"manifests/fetch/fetchtest"},
	"manifests/fetch":            {"manifests/fetch/fetchtest", "manifests/fetch/transfer/transfertest", "manifests/sigverify"},
	"manifests/fetch/fetchcli":   {"manifests/fetch/console/consoletest", "manifests/fetch/fetchtest", "manifests/fetch/transfer/transfertest"},
	"manifests/fetch/hub":        {"publisher/hftest"},
	"manifests/fetch/console":    {"manifests/fetch/console/consoletest"},
	"manifests/fetch/detect":     {"matrix/spec"},
	"manifests/fetch/store":      {"manifests/fetch/fetchtest"},
	"publisher/hfhub":            {"manifests/goldentest", "manifests/killtest", "publisher/hftest"},
	"manifests/fetch/transfer":   {"manifests/fetch/transfer/transfertest"},
	"manifests/cmd/llcuda-fetch": {"manifests/goldentest", "manifests/fetch/fetchtest", "manifests/fetch/serve/servetest", "manifests/killtest", "manifests/fetch/store", "manifests/fetch/transfer/transfertest", "manifests/gguf/tinygguf", "publisher/hftest", "publisher/pointer", "matrix"},
	"publisher/cosign":           {"publisher/cosigntest"},
	"publisher/pypi":             {"manifests", "manifests/python/pythontest", "publisher/cosigntest"},
	"publisher/pointer":          {"publisher/cosign"},
	"publisher/changes":          {"manifests/goldentest", "matrix/spec"},
	"publisher/site":             {"manifests/goldentest"},
	"ci/internal/release":        {"manifests/fetch/fetchtest"},
	"ci/internal/gate":           {"manifests/fetch/fetchtest", "matrix"},
	"ci/internal/cli":            {"manifests/fetch/console/consoletest", "manifests/killtest", "manifests/python/pythontest", "manifests/gguf/tinygguf", "publisher/cosigntest", "publisher/ghtest", "publisher/hftest", "manifests/fetch/fetchtest"},
	"publisher":                  {"manifests/goldentest", "manifests/fetch/fetchtest"},
	"publisher/ghrelease":        {"manifests/killtest", "publisher/ghtest", "manifests/fetch/fetchtest", "matrix"},
}

// testOnly are packages that nothing but tests imports.
var testOnly = map[string][]string{
	"ci/internal/engine/image/imagetest":    {},
	"manifests/fetch/console/consoletest":   {"manifests/measure"},
	"manifests/fetch/fetchtest":             {"manifests", "matrix", "matrix/spec"},
	"manifests/fetch/serve/servetest":       {},
	"manifests/fetch/transfer/transfertest": {},
	"manifests/goldentest":                  {},
	"manifests/killtest":                    {},
	"manifests/python/pythontest":           {"publisher/prepared"},
	"manifests/python/tool":                 {"manifests/python/pythontest"},
	"publisher/prepared":                    {},
	"publisher/hftest":                      {"publisher/prepared"},
	"publisher/cosigntest":                  {"manifests", "publisher/prepared"},
	"publisher/ghtest":                      {"publisher/prepared"},
}

// confined are modules that one package alone may import: what they do is behind
// that package's own interface.
var confined = map[string][]string{
	"dagger.io/dagger":                       {"ci/internal/engine"},
	"go.yaml.in/yaml":                        {"matrix/spec"},
	"github.com/google/go-github":            {"publisher/ghrelease"},
	"github.com/getkin/kin-openapi":          {"publisher/ghtest"},
	"github.com/sigstore/sigstore-go":        {"publisher/cosign", "manifests/sigverify"},
	"github.com/spf13/cobra":                 {"ci/internal/cli", "manifests/fetch/console", "manifests/fetch/fetchcli"},
	"golang.org/x/term":                      {"manifests/fetch/console"},
	"github.com/google/go-containerregistry": {"ci/internal/engine/image", "ci/internal/engine/image/imagetest"},
}

// confinedInTests are what tests may import beyond that.
var confinedInTests = map[string][]string{
	"go.yaml.in/yaml": {"ci/internal/cli"}, // they read the workflows, to hold their commands to the program's own
}

// standardOnly import nothing from outside the standard library and the module:
// they are linked into the client, or are pure data.
var standardOnly = []string{"matrix", "manifests", "manifests/measure", "manifests/fetch/home", "manifests/fetch/launch", "manifests/fetch/launch/earlyexec", "manifests/fetch/machine"}

// goPackage is what is read of go list's answer.
type goPackage struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func TestImports(t *testing.T) {
	for _, pkg := range packages(t) {
		name := strings.TrimPrefix(strings.TrimPrefix(pkg.ImportPath, module), "/")
		mine, listed := allowed[name]
		if !listed {
			mine, listed = testOnly[name]
		}
		if !listed {
			t.Errorf("%s is not in the map of packages: add it with what it may import", name)
		}
		for _, imported := range pkg.Imports {
			checkImport(t, name, imported, mine, nil)
		}
		for _, imported := range slices.Concat(pkg.TestImports, pkg.XTestImports) {
			checkImport(t, name, imported, slices.Concat(mine, inTests[name], []string{name}), confinedInTests)
		}
		if slices.Contains(standardOnly, name) {
			for _, imported := range pkg.Imports {
				if first, _, _ := strings.Cut(imported, "/"); strings.Contains(first, ".") && !under(imported, module) {
					t.Errorf("%s may import the standard library only, not %s", name, imported)
				}
			}
		}
	}
}

func checkImport(t *testing.T, name, imported string, may []string, beyond map[string][]string) {
	t.Helper()
	if inner, ok := strings.CutPrefix(imported, module+"/"); ok {
		if !slices.Contains(may, inner) {
			t.Errorf("%s may not import %s", name, inner)
		}
		return
	}
	for outer, users := range confined {
		if under(imported, outer) && !slices.Contains(users, name) && !slices.Contains(beyond[outer], name) {
			t.Errorf("%s may not import %s: that is for %s", name, imported, strings.Join(users, ", "))
		}
	}
}

// The rules that an edge more in the map could break.
func TestMapOfImports(t *testing.T) {
	for name, imports := range allowed {
		for _, imported := range imports {
			if _, listed := allowed[imported]; !listed {
				t.Errorf("%s may import %s, which is not in the map", name, imported)
			}
			if under(imported, "ci") && !under(name, "ci") {
				t.Errorf("%s may not import %s: nothing outside ci imports ci", name, imported)
			}
			if reaches(imported, name) {
				t.Errorf("%s and %s import each other", name, imported)
			}
		}
		if under(name, "publisher") && reaches(name, "bundler") {
			t.Errorf("%s must not reach bundler", name)
		}
		if under(name, "manifests/cmd") {
			for _, heavy := range []string{"matrix/spec", "publisher", "bundler"} {
				if reaches(name, heavy) {
					t.Errorf("the client must not reach %s", heavy)
				}
			}
		}
	}
}

// reaches reports whether the map leads from one package to another.
func reaches(from, to string) bool {
	return slices.ContainsFunc(allowed[from], func(next string) bool { return next == to || reaches(next, to) })
}

// under reports whether path is parent or is below it. Major versions are part of a
// module's path: go-github/v66 is under go-github.
func under(path, parent string) bool {
	return path == parent || strings.HasPrefix(path, parent+"/")
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", module+"/...")
	cmd.Env = append(cmd.Environ(), "GOOS=linux")
	out, err := cmd.Output()
	if err != nil {
		if failed, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("go list: %v\n%s", err, failed.Stderr)
		}
		t.Fatal(err)
	}
	var list []goPackage
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var pkg goPackage
		if err := decoder.Decode(&pkg); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, pkg)
	}
}
