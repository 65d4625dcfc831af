package goreleaser

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// checkout is the repository that the tests are of.
func checkout(t *testing.T) Checkout {
	t.Helper()
	c, err := Open(t.Context(), ".")
	if err != nil {
		t.Skipf("this is not a git checkout, so there is no commit to package: %v", err)
	}
	return c
}

// The working tree, packaged in two folders, produces the same two archives, with the contents that users should get.
func TestPackage(t *testing.T) {
	c := checkout(t)
	var stages []string
	archives := map[string][]byte{}
	for range 2 {
		dir, err := c.Package(t.Context(), Options{
			Release: "v1.2.3-runtime", WorkDir: t.TempDir(), Snapshot: true, RepositoryID: "495574555", OwnerID: "71096353",
			Probe: func(_ context.Context, source, dest string) error {
				_, err := os.Stat(filepath.Join(source, "probe.c"))
				return errors.Join(err, os.WriteFile(filepath.Join(dest, "llcuda-probe"), []byte("a program"), 0o700))
			},
			Stage: func(name string) func(error) {
				return func(err error) { stages = append(stages, fmt.Sprint(name, " ", err)) }
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, arch := range []string{"amd64", "arm64"} {
			name := "llcuda-fetch-linux-" + arch + ".tar.gz"
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if before, ok := archives[arch]; ok && !bytes.Equal(before, data) {
				t.Errorf("%s is not the same the second time", name)
			}
			archives[arch] = data
		}
	}
	if want := []string{"source <nil>", "probe <nil>", "licenses <nil>", "goreleaser <nil>", "package <nil>"}; !cmp.Equal(stages, slices.Concat(want, want)) {
		t.Errorf("the stages were %q", stages)
	}
	commit := ""
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		t.Run(arch, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "llcuda-fetch")
			unpack(t, archives[arch], program, arch == "amd64")
			checkProgram(t, program, machine, arch)
			if data, err := os.ReadFile(program); err != nil || !bytes.Contains(data, []byte("495574555")) || !bytes.Contains(data, []byte("71096353")) {
				t.Errorf("the program does not have the numbers of the repository and its owner: %v", err)
			}
			if arch != "amd64" {
				return
			}
			out, err := exec.Command(program, "--version").Output()
			if _, err := fmt.Sscanf(string(out), "llcuda-fetch version v1.2.3-runtime-snapshot, commit %s", &commit); err != nil {
				t.Errorf("--version prints %q: %v", out, err)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	// What it says it was built from is there, and is this working tree on top of its commit.
	parent, err := git(t.Context(), c.Root, nil, "rev-parse", commit+"^")
	if err != nil || parent != c.Commit {
		t.Errorf("it was built on %s, %v; want %s", parent, err, c.Commit)
	}
}

// unpack checks an archive's entries, one for one, and writes the program.
func unpack(t *testing.T, archive []byte, program string, probe bool) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	if !z.ModTime.IsZero() || z.Name != "" {
		t.Errorf("the gzip header has the time %s and the name %q", z.ModTime, z.Name)
	}
	var entries []string
	var times []time.Time
	var licensed []string
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, h.ModTime)
		if name, ok := strings.CutPrefix(h.Name, "licenses/"); ok {
			if text, err := io.ReadAll(r); err != nil || len(text) == 0 || h.Mode != 0o644 || h.Uname != "root" {
				t.Errorf("%s: %d bytes, mode %o of %s: %v", h.Name, len(text), h.Mode, h.Uname, err)
			}
			licensed = append(licensed, filepath.Dir(name))
			continue
		}
		entries = append(entries, fmt.Sprintf("%s %04o %s:%s %d:%d", h.Name, h.Mode, h.Uname, h.Gname, h.Uid, h.Gid))
		if h.Name == "llcuda-fetch" {
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(program, data, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := []string{
		"LICENSE 0644 root:root 0:0",
		"README.md 0644 root:root 0:0",
		"completions/_llcuda-fetch 0644 root:root 0:0",
		"completions/llcuda-fetch.bash 0644 root:root 0:0",
		"completions/llcuda-fetch.fish 0644 root:root 0:0",
		"llcuda-fetch 0755 root:root 0:0",
	}
	if probe {
		want = slices.Insert(want, len(want)-1, "llcuda-probe 0755 root:root 0:0")
	}
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	linked := []string{"golang.org/go"}
	for _, module := range info.Deps {
		linked = append(linked, module.Path)
	}
	for _, module := range linked {
		if !slices.Contains(licensed, module) {
			t.Errorf("the license of %s is not there", module)
		}
	}
	for _, dir := range licensed {
		if !slices.ContainsFunc(linked, func(module string) bool { return strings.HasPrefix(dir+"/", module+"/") }) {
			t.Errorf("%s is linked into nothing", dir)
		}
	}
	if diff := cmp.Diff(want, entries); diff != "" {
		t.Error(diff)
	}
	if len(slices.CompactFunc(times, time.Time.Equal)) != 1 {
		t.Errorf("not all entries have the commit's time: %v", times)
	}
}

// checkProgram expects a static, stripped program for an architecture that still lists the modules it is made of.
func checkProgram(t *testing.T, path string, machine elf.Machine, arch string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Machine != machine {
		t.Errorf("it is for %s", f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("it is not static: it has %s", p.Type)
		}
	}
	for _, name := range []string{".symtab", ".debug_info"} {
		if f.Section(name) != nil {
			t.Errorf("it is not stripped: it has %s", name)
		}
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Deps) < 10 {
		t.Errorf("it knows of %d modules only", len(info.Deps))
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	for key, want := range map[string]string{"GOARCH": arch, "GOOS": "linux", "CGO_ENABLED": "0", "-trimpath": "true", "vcs.revision": ""} {
		if settings[key] != want {
			t.Errorf("it was built with %s=%q, want %q", key, settings[key], want)
		}
	}
}

// goreleaser finds nothing to object to in its configuration.
func TestConfiguration(t *testing.T) {
	c := checkout(t)
	cmd := exec.CommandContext(t.Context(), "go", "tool", "-modfile="+ToolsModule, "goreleaser", "check")
	cmd.Dir = c.Root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// repository makes a repository with one commit.
func repository(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, arguments := range [][]string{
		{"init", "--quiet"}, {"-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--allow-empty", "-m", "one"}, {"tag", "v1"},
	} {
		if _, err := git(t.Context(), dir, nil, arguments...); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestOpen(t *testing.T) {
	dir := repository(t)
	below := filepath.Join(dir, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	c, err := Open(t.Context(), below)
	if err != nil || len(c.Changed) > 0 || len(c.Commit) != 40 || c.Root != dir {
		t.Errorf("%+v, %v", c, err)
	}
	if c.Tagged(t.Context(), "v1") != c.Commit || c.Tagged(t.Context(), "v2") != "" {
		t.Errorf("v1 is %q, v2 is %q", c.Tagged(t.Context(), "v1"), c.Tagged(t.Context(), "v2"))
	}
	if err := os.WriteFile(filepath.Join(below, "new"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if c, err := Open(t.Context(), dir); err != nil || !cmp.Equal(c.Changed, []string{"?? below/new"}) {
		t.Errorf("%+v, %v", c, err)
	}
	// What is built does not count: wherever it lies, and however the folder is given.
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(below, link); err != nil {
		t.Fatal(err)
	}
	for _, built := range []string{below, below + "/", link, filepath.Join(below, "..", "below")} {
		if c, err := Open(t.Context(), dir, built); err != nil || len(c.Changed) > 0 {
			t.Errorf("built into %s: %+v, %v", built, c, err)
		}
	}
	// Beside it everything does, and so does what lies in a folder with files of the commit, or in the whole checkout.
	for _, built := range []string{dir, filepath.Join(dir, "bel"), filepath.Join(dir, "nowhere"), t.TempDir(), "/"} {
		if c, err := Open(t.Context(), dir, built); err != nil || !cmp.Equal(c.Changed, []string{"?? below/new"}) {
			t.Errorf("built into %s: %+v, %v", built, c, err)
		}
	}
	for _, arguments := range [][]string{{"add", "below/new"}, {"-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "two"}} {
		if _, err := git(t.Context(), dir, nil, arguments...); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(below, "more"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if c, err := Open(t.Context(), dir, below); err != nil || !cmp.Equal(c.Changed, []string{"?? below/more"}) {
		t.Errorf("built beside files of the commit: %+v, %v", c, err)
	}
	if _, err := Open(t.Context(), "/"); err == nil || !strings.HasPrefix(err.Error(), "looking for the repository: git rev-parse") {
		t.Errorf("outside a repository the error is %v", err)
	}
}

// No program that packages can ask for a token in the name of the workflow.
func TestRunWithoutTokens(t *testing.T) {
	for _, name := range []string{"ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_RUNTIME_TOKEN"} {
		t.Setenv(name, "secret")
	}
	t.Setenv("NO_ACTIONS_HERE", "kept")
	out, err := run(t.Context(), ".", []string{"MORE=given"}, "env")
	if err != nil || strings.Contains(out, "secret") || !strings.Contains(out, "NO_ACTIONS_HERE=kept") || !strings.Contains(out, "MORE=given") {
		t.Errorf("%v\n%s", err, out)
	}
}

// A program that fails is shown with the end of what it said; one that is stopped ends.
func TestPackageFails(t *testing.T) {
	c, err := Open(t.Context(), repository(t))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Package(t.Context(), Options{Release: "v1", WorkDir: t.TempDir()})
	var command *CommandError
	if !errors.As(err, &command) || !strings.HasPrefix(err.Error(), "listing what is linked into llcuda-fetch: go list ") {
		t.Errorf("without a module the error is %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Package(ctx, Options{Release: "v1", WorkDir: t.TempDir()}); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped, the error is %v", err)
	}
}

// Linking code without a license is an error that names it, and other files beside licenses are not licenses.
func TestLicenseFiles(t *testing.T) {
	for name, want := range map[string]bool{
		"LICENSE": true, "license": true, "LICENCE.md": true, "License.txt": true, "COPYING": true, "NOTICE.txt": true, "PATENTS": true,
		"UNLICENSE": true, "COPYRIGHT.txt": true, "LICENSE-MIT": true, "LICENSE-APACHE-2.0": true, "LICENSE_third_party": true,
		"LICENSE.docs": false, "license.go": false, "licenses": false, "NOTICES.html": false, "COPYING.go": false, "README.md": false,
	} {
		if got := licenseForm.MatchString(name); got != want {
			t.Errorf("%s is a license: %v, want %v", name, got, want)
		}
	}
	clone, dest := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{
		"go.mod":                             "module example.org/client\n\ngo 1.24\n\nrequire example.org/module v1.0.0\n\nreplace example.org/module => ./module\n",
		"manifests/cmd/llcuda-fetch/main.go": "package main\n\nimport _ \"example.org/module/deep/inside\"\n\nfunc main() {}\n",
		"module/go.mod":                      "module example.org/module\n\ngo 1.24\n",
		"module/deep/inside/inside.go":       "package inside\n",
		"module/deep/LICENSE":                "of the deep",
		"module/unused/LICENSE":              "of nothing that is linked",
	} {
		path := filepath.Join(clone, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := licenses(t.Context(), clone, "amd64", dest); err == nil || !strings.Contains(err.Error(), "the license of example.org/module, which is linked into llcuda-fetch") {
		t.Errorf("a module without a license: %v", err)
	}
	if err := os.WriteFile(filepath.Join(clone, "module", "LICENSE.txt"), []byte("of the module"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := licenses(t.Context(), clone, "amd64", dest); err != nil {
		t.Fatal(err)
	}
	var names []string
	err := fs.WalkDir(os.DirFS(filepath.Join(dest, "example.org")), ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			names = append(names, name)
		}
		return err
	})
	if diff := cmp.Diff([]string{"module/LICENSE.txt", "module/deep/LICENSE"}, names); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
}
