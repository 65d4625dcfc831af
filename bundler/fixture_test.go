package bundler_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// The tests' bundles are real ELF files with real device code: gcc compiles a library or program
// out of a line of C, and the fatbins in testdata, which nvcc made, are put into their sections by
// the assembler.

const epoch = 1700000000

// buildFolder is where the fixtures are compiled, and so a path that must not leak.
const buildFolder = "/src/llama/"

func rules(sm matrix.SM) bundler.Rules { return rulesOf(matrix.Row{SM: sm}) }

func rulesOf(row matrix.Row) bundler.Rules {
	return bundler.Rules{
		Target: matrix.Target{
			SM: row.SM, Architecture: row.SM.Architecture(), GPUs: []string{"a GPU"}, Seed: true, PTX: row.PTX,
		},
		Toolkit:    matrix.Toolkit{CUDA: "12.4.1", NVCC: "12.4.131", DriverCubin: "525.60.13", DriverPTX: "550.54.14"},
		Floors:     matrix.Floors{Glibc: "2.35", GLIBCXX: "3.4.30"},
		BuildPaths: []string{buildFolder},
	}
}

func rulesFor(row matrix.Row) (bundler.Rules, error) { return rulesOf(row), nil }

func identity() bundler.Identity {
	return bundler.Identity{
		Release:  "v1.1.0-runtime",
		LlamaCPP: manifests.LlamaCPP{Version: "0.5.0", Commit: strings.Repeat("ab", 20), Build: 1},
		Build: manifests.Build{
			BuilderImage: "sha256:" + strings.Repeat("1", 64), HostImage: "sha256:" + strings.Repeat("1", 64), BaseImage: "sha256:" + strings.Repeat("2", 64),
			HostCMake: []string{"-DGGML_BACKEND_DL=ON"}, CUDACMake: []string{"-DGGML_CUDA=ON"},
			SourceDateEpoch: epoch, Engine: "test v1",
		},
	}
}

// A toolbox compiles fixtures in a folder of its own.
type toolbox struct {
	t   testing.TB
	dir string
}

func newToolbox(t testing.TB) *toolbox {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Fatal("these tests need gcc: their fixtures are compiled")
	}
	return &toolbox{t: t, dir: t.TempDir()}
}

func (b *toolbox) write(name, text string) string {
	b.t.Helper()
	p := filepath.Join(b.dir, name)
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
	return p
}

func (b *toolbox) gcc(args ...string) {
	b.t.Helper()
	if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		b.t.Fatalf("gcc %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// A module is a library or program to compile.
type module struct {
	source  string
	soname  string
	runPath string
	needs   []string // paths of the libraries to link with
	fatbin  string   // a file in testdata/fatbin
	flags   []string
	// unstripped keeps the symbol table and adds debug information.
	unstripped bool
}

// library compiles m to a path.
func (b *toolbox) library(out string, m module) {
	b.t.Helper()
	args := []string{"-shared", "-nostdlib"}
	if m.soname != "" {
		args = append(args, "-Wl,-soname,"+m.soname)
	}
	b.compile(out, m, args)
}

func (b *toolbox) program(out string, m module) {
	b.t.Helper()
	b.compile(out, m, []string{"-pie"})
}

func (b *toolbox) compile(out string, m module, args []string) {
	b.t.Helper()
	args = append(args, "-fPIC", "-o", out, b.write("source.c", m.source))
	if m.fatbin != "" {
		fatbins := ""
		records := ""
		for i, name := range strings.Fields(m.fatbin) {
			path, err := filepath.Abs(filepath.Join("testdata/fatbin", name))
			if err != nil {
				b.t.Fatal(err)
			}
			fatbins += fmt.Sprintf(".align 8\nfat%d: .incbin %q\n", i, path)
			records += fmt.Sprintf(".long 0x466243b1, 1\n.quad fat%d\n.quad 0\n", i)
		}
		asm := fmt.Sprintf(".section .nv_fatbin,\"a\"\n%s.section .nvFatBinSegment,\"aw\"\n.align 8\n%s.section .note.GNU-stack,\"\",@progbits\n", fatbins, records)
		args = append(args, b.write("fatbin.s", asm))
	}
	if m.runPath != "" {
		args = append(args, "-Wl,--enable-new-dtags", "-Wl,-rpath,"+m.runPath)
	}
	if m.unstripped {
		args = append(args, "-g")
	} else {
		args = append(args, "-s")
	}
	args = append(args, "-Wl,-z,noexecstack", "-Wl,--build-id=none", "-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined")
	args = append(args, m.needs...)
	b.gcc(append(args, m.flags...)...)
}

// stub compiles a stand-in for a library of the system that defines symbols under a version.
func (b *toolbox) stub(soname, version string, symbols ...string) string {
	b.t.Helper()
	out := filepath.Join(b.dir, soname)
	source := ""
	for _, s := range symbols {
		source += "void " + s + "(void) {}\n"
	}
	m := module{source: source, soname: soname}
	if version != "" {
		m.flags = []string{"-Wl,--version-script=" + b.write("versions", version+" { global: *; };\n")}
	}
	b.library(out, m)
	return out
}

// bundleTree compiles a complete bundle for an SM with the device code given.
func (b *toolbox) bundleTree(dir, fatbin string) {
	b.t.Helper()
	lib, bin := filepath.Join(dir, "lib"), filepath.Join(dir, "binaries/cuda12")
	for _, d := range []string{lib, bin} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
	versioned := func(name, source string, needs ...string) string {
		real := filepath.Join(lib, name+".0.5.0")
		b.library(real, module{source: source, soname: name + ".0", runPath: "$ORIGIN", needs: needs})
		b.link(name+".0.5.0", filepath.Join(lib, name+".0"))
		b.link(name+".0", filepath.Join(lib, name))
		return real
	}
	base := versioned("libggml-base.so", "int ggml_base(void) { return 1; }")
	ggml := versioned("libggml.so", "int ggml_base(void); int ggml(void) { return ggml_base(); }", base)
	llama := versioned("libllama.so", "int ggml(void); int llama(void) { return ggml(); }", ggml, base)
	mtmd := versioned("libmtmd.so", "int llama(void); int mtmd(void) { return llama(); }", llama, ggml, base)

	const backendPath = "$ORIGIN:$ORIGIN/../../lib"
	for _, variant := range []string{"haswell", "x64"} {
		name := "libggml-cpu-" + variant + ".so"
		b.library(filepath.Join(lib, name), module{source: "int ggml_base(void); int cpu(void) { return ggml_base(); }", soname: name, runPath: backendPath, needs: []string{base}})
	}
	b.library(filepath.Join(lib, "libggml-cuda.so"), b.cudaBackend(base, fatbin))
	for _, name := range []string{"llama-server", "llama-cli", "llama-bench", "llama-quantize"} {
		b.program(filepath.Join(bin, name), module{
			source:  "int mtmd(void); int llama(void); int main(void) { return mtmd() + llama(); }",
			runPath: "$ORIGIN/../../lib", needs: []string{mtmd, llama, ggml, base},
		})
	}
	for _, name := range []string{"libggml-cpu-haswell.so", "libggml-cpu-x64.so", "libggml-cuda.so"} {
		b.link("../../lib/"+name, filepath.Join(bin, name))
	}
	for _, name := range []string{"LICENSE", "THIRD_PARTY_LICENSES.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("terms\n"), 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
}

// cudaBackend is libggml-cuda.so with device code, against stand-ins for CUDA's libraries.
func (b *toolbox) cudaBackend(base, fatbin string) module {
	b.t.Helper()
	return module{
		source:  "int ggml_base(void); void cudaMalloc(void); void cuMemCreate(void); int cuda(void) { cudaMalloc(); cuMemCreate(); return ggml_base(); }",
		soname:  "libggml-cuda.so",
		runPath: "$ORIGIN:$ORIGIN/../../lib",
		needs:   []string{base, b.stub("libcudart.so.12", "libcudart.so.12", "cudaMalloc"), b.stub("libcuda.so.1", "", "cuMemCreate")},
		fatbin:  fatbin,
	}
}

func (b *toolbox) link(target, path string) {
	b.t.Helper()
	if err := os.Symlink(target, path); err != nil {
		b.t.Fatal(err)
	}
}

// Compiling a tree takes a second, so it is done once for each fatbin and copied.
var trees struct {
	sync.Mutex
	dir    string
	byName map[string]string
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "bundler-test-")
	if err != nil {
		panic(err)
	}
	trees.dir, trees.byName = dir, make(map[string]string)
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// newTree is a fresh copy of a complete bundle, to be changed at will.
func newTree(t testing.TB, fatbin string) string {
	t.Helper()
	trees.Lock()
	defer trees.Unlock()
	src, ok := trees.byName[fatbin]
	if !ok {
		src = filepath.Join(trees.dir, fmt.Sprint(len(trees.byName)))
		newToolbox(t).bundleTree(src, fatbin)
		trees.byName[fatbin] = src
	}
	dst := filepath.Join(t.TempDir(), "tree")
	if out, err := exec.Command("cp", "-a", src, dst).CombinedOutput(); err != nil {
		t.Fatalf("copying the tree: %v\n%s", err, out)
	}
	return dst
}

// open gives a folder as the fs.FS that the package wants.
func open(t testing.TB, dir string) fs.FS {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root.FS()
}

// describe audits a good tree and describes it.
func describe(t testing.TB, fsys fs.FS, r bundler.Rules) manifests.Metadata {
	t.Helper()
	report, err := bundler.Audit(fsys, r)
	if err != nil {
		t.Fatal(err)
	}
	meta, err := bundler.Describe(fsys, r, report, identity())
	if err != nil {
		t.Fatal(err)
	}
	return meta
}

// pack packs a good tree and returns the folder of its archives.
func pack(t testing.TB, dir string, sm matrix.SM) (string, []manifests.Artifact) {
	t.Helper()
	fsys := open(t, dir)
	out := filepath.Join(t.TempDir(), "dist")
	artifacts, err := bundler.Pack(context.Background(), fsys, describe(t, fsys, rules(sm)), out, bundler.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return out, artifacts
}

// findingsIn are the findings of an error as "path: rule", sorted, each once.
func findingsIn(t testing.TB, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var refused *bundler.AuditError
	if !errors.As(err, &refused) {
		t.Fatalf("error is not an AuditError: %v", err)
	}
	return keysOf(refused.Findings)
}

func keysOf(findings []bundler.Finding) []string {
	var keys []string
	for _, f := range findings {
		keys = append(keys, f.Path+": "+f.Rule)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}
