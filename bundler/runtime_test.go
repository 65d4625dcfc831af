package bundler_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

const nvidiaLicense = "License Agreement for NVIDIA CUDA Toolkit\n"

// gives is a stand-in for one of CUDA's libraries, with a function of a version, and device code.
func (b *toolbox) gives(path, soname, version, function, fatbin string) {
	b.t.Helper()
	b.library(path, module{source: "void " + function + "(void) {}\n", soname: soname, fatbin: fatbin,
		flags: []string{"-Wl,--version-script=" + b.write("versions", version+" { global: "+function+"; local: *; };\n")}})
}

// runtimeTree is the tree of NVIDIA's own libraries, of stand-ins.
func runtimeTree(t testing.TB) string {
	t.Helper()
	b := newToolbox(t)
	dir := filepath.Join(t.TempDir(), "runtime")
	if err := os.MkdirAll(filepath.Join(dir, "lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, fatbin := range map[string]string{"libcudart.so.12": "", "libcublas.so.12": "sm75.fatbin", "libcublasLt.so.12": "sm50-lz4.fatbin sm86.fatbin"} {
		b.gives(filepath.Join(dir, "lib", name), name, name, "f", fatbin)
	}
	if err := os.WriteFile(filepath.Join(dir, "LICENSE"), []byte(nvidiaLicense), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// linkedTree is the tree of a runtime that the farm linked, of stand-ins.
func linkedTree(t testing.TB) string { return linkedTreeOf(t, "sm75.fatbin") }

// linkedTreeOf is a runtime that the farm linked, with the code of a fatbin.
func linkedTreeOf(t testing.TB, fatbin string) string {
	t.Helper()
	b := newToolbox(t)
	dir := filepath.Join(t.TempDir(), "runtime")
	if err := os.MkdirAll(filepath.Join(dir, "lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.gives(filepath.Join(dir, "lib/libcudart.so.12"), "libcudart.so.12", "libcudart.so.12", "cudaMalloc", "")
	b.gives(filepath.Join(dir, "lib/libllcuda-blas.so.12"), "libllcuda-blas.so.12", "libcublas.so.12", "cublasCreate_v2", fatbin)
	b.link("libllcuda-blas.so.12", filepath.Join(dir, "lib/libcublas.so.12"))
	for name, text := range map[string]string{"LICENSE": nvidiaLicense, "NOTICE": "linked\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func packRuntime(t testing.TB, dir string) (string, []manifests.Artifact) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "dist")
	artifacts, err := bundler.PackRuntime(context.Background(), open(t, dir), rules(75), out, bundler.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return out, artifacts
}

func TestPackRuntime(t *testing.T) {
	dir := runtimeTree(t)
	out, artifacts := packRuntime(t, dir)
	base := "llcuda-cudart-cu12-" + artifacts[0].Tar.SHA256[:12]
	if diff := cmp.Diff([]string{base + ".tar.gz", base + ".tar.zst"}, names(t, out)); diff != "" {
		t.Error(diff)
	}
	var held []string
	for _, f := range artifacts[1].Libraries {
		held = append(held, f.Path)
	}
	if diff := cmp.Diff([]string{"LICENSE", "lib/libcublas.so.12", "lib/libcublasLt.so.12", "lib/libcudart.so.12", "metadata.json"}, held); diff != "" {
		t.Error(diff)
	}
	want := manifests.DeviceCode{Cubin: []matrix.Code{{SM: 50}, {SM: 75}, {SM: 86}}, PTX: []matrix.Code{}}
	if diff := cmp.Diff(&want, artifacts[0].DeviceCode); diff != "" {
		t.Errorf("device code: %s", diff)
	}
	_, bundle := pack(t, newTree(t, "sm75.fatbin"), 75)
	if _, err := manifests.New("v1.1.0-runtime", append(bundle, artifacts...), nil); err != nil {
		t.Errorf("a release cannot be made of the artifacts: %v", err)
	}

	// The next release has the same files with other times.
	for _, name := range held[:4] {
		if err := os.Chtimes(filepath.Join(dir, name), time.Now(), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	_, again := packRuntime(t, dir)
	if diff := cmp.Diff(artifacts, again); diff != "" {
		t.Errorf("the runtime's bytes changed: %s", diff)
	}
}

// With a cache, the runtime is compressed once for all folders, and a damaged cache is noticed.
func TestPackRuntimeCache(t *testing.T) {
	dir, cache := runtimeTree(t), filepath.Join(t.TempDir(), "cache")
	_, want := packRuntime(t, dir)
	packInto := func(out string) {
		t.Helper()
		got, err := bundler.PackRuntime(context.Background(), open(t, dir), rules(75), out, bundler.PackOptions{Cache: cache})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		for _, a := range want {
			data, err := os.ReadFile(filepath.Join(out, a.Name))
			if err != nil {
				t.Fatal(err)
			}
			if sha256Of(data) != a.SHA256 {
				t.Errorf("%s has other bytes than without a cache", a.Name)
			}
		}
	}
	packInto(t.TempDir())
	before, err := os.Stat(filepath.Join(cache, want[1].Name))
	if err != nil {
		t.Fatal(err)
	}
	packInto(t.TempDir())
	if after, err := os.Stat(filepath.Join(cache, want[1].Name)); err != nil || !os.SameFile(before, after) {
		t.Errorf("the cache was written again: %v", err)
	}
	if err := os.WriteFile(filepath.Join(cache, want[0].Name), []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	packInto(t.TempDir())
}

func TestPackRuntimeRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(t *testing.T, b *toolbox, lib string) error
		want   []string
	}{
		"missing library": {func(_ *testing.T, _ *toolbox, lib string) error {
			return os.Remove(filepath.Join(lib, "libcublas.so.12"))
		}, []string{"lib/libcublas.so.12: runtime"}},
		"link": {func(_ *testing.T, _ *toolbox, lib string) error {
			return errors.Join(os.Rename(filepath.Join(lib, "libcudart.so.12"), filepath.Join(lib, "libcudart.so.12.4.127")), os.Symlink("libcudart.so.12.4.127", filepath.Join(lib, "libcudart.so.12")))
		}, []string{"lib/libcudart.so.12.4.127: runtime", "lib/libcudart.so.12: runtime"}},
		"no device code": {func(_ *testing.T, b *toolbox, lib string) error {
			b.gives(filepath.Join(lib, "libcublas.so.12"), "libcublas.so.12", "libcublas.so.12", "f", "")
			b.gives(filepath.Join(lib, "libcublasLt.so.12"), "libcublasLt.so.12", "libcublasLt.so.12", "f", "")
			return nil
		}, []string{": runtime"}},
		"above the floor": {func(_ *testing.T, b *toolbox, lib string) error {
			libc := b.stub("libc.so.6", "GLIBC_2.99", "g")
			b.library(filepath.Join(lib, "libcudart.so.12"), module{source: "void g(void); void f(void) { g(); }", soname: "libcudart.so.12", needs: []string{libc}})
			return nil
		}, []string{"lib/libcudart.so.12: symbol-version"}},
		"another major version": {func(_ *testing.T, b *toolbox, lib string) error {
			return os.Rename(b.stub("libcudart.so.13", "", "f"), filepath.Join(lib, "libcudart.so.12"))
		}, []string{"lib/libcudart.so.12: runtime"}},
		"no library": {func(_ *testing.T, _ *toolbox, lib string) error {
			return os.WriteFile(filepath.Join(lib, "libcudart.so.12"), []byte("GROUP ( libcudart.so.12.4 )"), 0o644)
		}, []string{"lib/libcudart.so.12: runtime"}},
		"no licence": {func(_ *testing.T, _ *toolbox, lib string) error { return os.Remove(filepath.Join(lib, "../LICENSE")) }, []string{"LICENSE: runtime"}},
		"another licence": {func(_ *testing.T, _ *toolbox, lib string) error {
			return os.WriteFile(filepath.Join(lib, "../LICENSE"), []byte("MIT"), 0o644)
		}, []string{"LICENSE: runtime"}},
		"the driver": {func(_ *testing.T, b *toolbox, lib string) error {
			return os.Rename(b.stub("libcuda.so.1", "", "f"), filepath.Join(lib, "libcuda.so.1"))
		}, []string{"lib/libcuda.so.1: runtime"}},
		"needs what is not there": {func(_ *testing.T, b *toolbox, lib string) error {
			b.library(filepath.Join(lib, "libcudart.so.12"), module{source: "void g(void); void f(void) { g(); }", soname: "libcudart.so.12", needs: []string{b.stub("libodd.so.1", "", "g")}})
			return nil
		}, []string{"lib/libcudart.so.12: runtime"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := runtimeTree(t)
			if err := test.change(t, newToolbox(t), filepath.Join(dir, "lib")); err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(t.TempDir(), "dist")
			_, err := bundler.PackRuntime(context.Background(), open(t, dir), rules(75), out, bundler.PackOptions{})
			if diff := cmp.Diff(test.want, findingsIn(t, err)); diff != "" {
				t.Errorf("%s\n%v", diff, err)
			}
			if n := names(t, out); n != nil {
				t.Errorf("it wrote %v", n)
			}
		})
	}
}

// A library that nothing asks for is refused; one that cuBLAS needs is a part of the runtime.
func TestPackRuntimeWithWhatItNeeds(t *testing.T) {
	dir := runtimeTree(t)
	b := newToolbox(t)
	extra := b.stub("libextra.so.1", "", "g")
	inTree := filepath.Join(dir, "lib/libextra.so.1")
	if err := os.Rename(extra, inTree); err != nil {
		t.Fatal(err)
	}
	_, err := bundler.PackRuntime(t.Context(), open(t, dir), rules(75), t.TempDir(), bundler.PackOptions{})
	if diff := cmp.Diff([]string{"lib/libextra.so.1: runtime"}, findingsIn(t, err)); diff != "" {
		t.Error(diff)
	}
	b.library(filepath.Join(dir, "lib/libcublas.so.12"), module{source: "void g(void); void f(void) { g(); }", soname: "libcublas.so.12", fatbin: "sm75.fatbin", needs: []string{inTree}})
	packRuntime(t, dir)
}

// What the farm linked is named for the SM major of its machine code, or for its PTX, and keeps the link through which it
// is found.
func TestPackLinkedRuntime(t *testing.T) {
	for fatbin, name := range map[string]string{"sm75.fatbin": "sm7x", "ptx75.fatbin": "ptx75"} {
		t.Run(name, func(t *testing.T) { testPackLinkedRuntime(t, fatbin, name) })
	}
}

func testPackLinkedRuntime(t *testing.T, fatbin, name string) {
	dir := linkedTreeOf(t, fatbin)
	out, artifacts := packRuntime(t, dir)
	base := "llcuda-cudart-cu12-" + name + "-" + artifacts[0].Tar.SHA256[:12]
	if diff := cmp.Diff([]string{base + ".tar.gz", base + ".tar.zst"}, names(t, out)); diff != "" {
		t.Error(diff)
	}
	var held []string
	for _, f := range artifacts[0].Libraries {
		held = append(held, strings.TrimSuffix(f.Path+" -> "+f.Link, " -> "))
	}
	if diff := cmp.Diff([]string{"LICENSE", "NOTICE", "lib/libcublas.so.12 -> libllcuda-blas.so.12", "lib/libcudart.so.12", "lib/libllcuda-blas.so.12", "metadata.json"}, held); diff != "" {
		t.Error(diff)
	}
	for _, a := range artifacts {
		read, err := bundler.ReadArtifact(t.Context(), filepath.Join(out, a.Name))
		if diff := cmp.Diff(a, read); diff != "" || err != nil {
			t.Errorf("read again: %v %s", err, diff)
		}
		if verified, err := bundler.VerifyArchive(t.Context(), filepath.Join(out, a.Name), a, rulesFor); err != nil || len(verified.Findings) > 0 {
			t.Errorf("verified: %v, %v", verified.Findings, err)
		}
		other := a
		other.DeviceCode = &manifests.DeviceCode{Cubin: []matrix.Code{{SM: 75}, {SM: 80}}}
		if verified, err := bundler.VerifyArchive(t.Context(), filepath.Join(out, a.Name), other, rulesFor); err != nil || len(verified.Findings) == 0 {
			t.Errorf("code that is not in it: %v, %v", verified.Findings, err)
		}
	}
}

func TestPackLinkedRuntimeRefuses(t *testing.T) {
	const blas = "lib/libllcuda-blas.so.12"
	rebuild := func(m module) func(t *testing.T, b *toolbox, dir string) error {
		return func(t *testing.T, b *toolbox, dir string) error {
			version := b.write("versions", "libcublas.so.12 { global: cublas*; leaked; local: *; };\n")
			m.fatbin, m.flags = "sm75.fatbin", append(m.flags, "-Wl,--version-script="+version)
			if m.soname == "" {
				m.soname = "libllcuda-blas.so.12"
			}
			for i, name := range m.needs {
				m.needs[i] = b.stub(name, "", "g")
			}
			b.library(filepath.Join(dir, blas), m)
			return nil
		}
	}
	const source = "void cublasCreate_v2(void) {}\n"
	for name, test := range map[string]struct {
		change func(t *testing.T, b *toolbox, dir string) error
		want   []string
	}{
		"NVIDIA's SONAME": {rebuild(module{source: source, soname: "libcublas.so.12"}), []string{blas + ": runtime"}},
		"a RUNPATH":       {rebuild(module{source: source, runPath: "$ORIGIN"}), []string{blas + ": runpath"}},
		"a symbol table":  {rebuild(module{source: source, unstripped: true}), []string{blas + ": not-stripped"}},
		"another export":  {rebuild(module{source: source + "void leaked(void) {}\n"}), []string{blas + ": runtime"}},
		"cublasLt":        {rebuild(module{source: source + "void cublasLtCreate(void) {}\n"}), []string{blas + ": runtime"}},
		"another version": {func(_ *testing.T, b *toolbox, dir string) error {
			b.gives(filepath.Join(dir, blas), "libllcuda-blas.so.12", "libcublas.so.13", "cublasCreate_v2", "sm75.fatbin")
			return nil
		}, []string{blas + ": runtime"}},
		"a missing library": {rebuild(module{source: "void g(void); void cublasCreate_v2(void) { g(); }", needs: []string{"libodd.so.1"}}), []string{blas + ": runtime", blas + ": undefined-symbol"}},
		"a missing symbol":  {rebuild(module{source: "void g(void); void cublasCreate_v2(void) { g(); }"}), []string{blas + ": undefined-symbol"}},
		"a builder's path":  {rebuild(module{source: "const char *cublasPath = \"/src/llama/x.cu\";\n" + source}), []string{blas + ": build-path"}},
		"no link": {func(_ *testing.T, _ *toolbox, dir string) error {
			return os.Remove(filepath.Join(dir, "lib/libcublas.so.12"))
		}, []string{"lib/libcublas.so.12: runtime"}},
		"a link elsewhere": {func(_ *testing.T, b *toolbox, dir string) error {
			link := filepath.Join(dir, "lib/libcublas.so.12")
			return errors.Join(os.Remove(link), os.Symlink("libcudart.so.12", link))
		}, []string{"lib/libcublas.so.12: runtime"}},
		"a copy": {func(_ *testing.T, b *toolbox, dir string) error {
			link := filepath.Join(dir, "lib/libcublas.so.12")
			data, err := os.ReadFile(link)
			return errors.Join(err, os.Remove(link), os.WriteFile(link, data, 0o755))
		}, []string{"lib/libcublas.so.12: runtime"}},
		"PTX beside machine code": {func(_ *testing.T, b *toolbox, dir string) error {
			b.gives(filepath.Join(dir, blas), "libllcuda-blas.so.12", "libcublas.so.12", "cublasCreate_v2", "sm75.fatbin ptx75.fatbin")
			return nil
		}, []string{": runtime"}},
		"PTX of two SMs": {func(_ *testing.T, b *toolbox, dir string) error {
			b.gives(filepath.Join(dir, blas), "libllcuda-blas.so.12", "libcublas.so.12", "cublasCreate_v2", "ptx75.fatbin ptx90.fatbin")
			return nil
		}, []string{": runtime"}},
		"no device code": {func(_ *testing.T, b *toolbox, dir string) error {
			b.gives(filepath.Join(dir, blas), "libllcuda-blas.so.12", "libcublas.so.12", "cublasCreate_v2", "")
			return nil
		}, []string{": runtime"}},
		"no NOTICE": {func(_ *testing.T, _ *toolbox, dir string) error { return os.Remove(filepath.Join(dir, "NOTICE")) }, []string{"NOTICE: runtime"}},
		"NVIDIA's cublasLt beside it": {func(_ *testing.T, b *toolbox, dir string) error {
			b.gives(filepath.Join(dir, "lib/libcublasLt.so.12"), "libcublasLt.so.12", "libcublasLt.so.12", "f", "")
			return nil
		}, []string{"lib/libcublasLt.so.12: runtime"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := linkedTree(t)
			if err := test.change(t, newToolbox(t), dir); err != nil {
				t.Fatal(err)
			}
			_, err := bundler.PackRuntime(t.Context(), open(t, dir), rules(75), t.TempDir(), bundler.PackOptions{})
			if diff := cmp.Diff(test.want, findingsIn(t, err)); diff != "" {
				t.Errorf("%s\n%v", diff, err)
			}
		})
	}
}

// A bundle is measured by the runtime that serves it, symbol by symbol and version by version, whatever form that has.
func TestCheckServed(t *testing.T) {
	const cuda = "lib/libggml-cuda.so"
	calls := func(functions ...string) func(b *toolbox, m *module) {
		return func(b *toolbox, m *module) {
			source := ""
			for _, f := range functions {
				source += "void " + f + "(void);\n"
			}
			m.source = source + "void cudaMalloc(void); void cuMemCreate(void); int cuda(void) { cudaMalloc(); cuMemCreate(); "
			for _, f := range functions {
				m.source += f + "(); "
			}
			m.source += "return 0; }"
			m.needs = append(m.needs, b.stub("libcublas.so.12", "libcublas.so.12", functions...))
		}
	}
	for name, test := range map[string]struct {
		runtime func(testing.TB) string
		change  func(b *toolbox, m *module)
		want    []string
		detail  string
	}{
		"linked":               {linkedTree, calls("cublasCreate_v2"), nil, ""},
		"a function beyond it": {linkedTree, calls("cublasCreate_v2", "cublasSgemm_v2"), []string{cuda + ": undefined-symbol"}, "libcublas.so.12 of its CUDA runtime lacks cublasSgemm_v2@libcublas.so.12;"},
		"NVIDIA's without it":  {runtimeTree, calls("cublasCreate_v2"), []string{cuda + ": undefined-symbol"}, "libcublas.so.12 of its CUDA runtime lacks cublasCreate_v2@libcublas.so.12;"},
		"cublasLt by its name": {linkedTree, func(b *toolbox, m *module) {
			m.needs = append(m.needs, b.stub("libcublasLt.so.12", "libcublasLt.so.12", "cublasLtCreate"))
		}, []string{cuda + ": library"}, "it needs libcublasLt.so.12, which its CUDA runtime does not have"},
		"another version": {linkedTree, func(b *toolbox, m *module) {
			m.source = "void cublasCreate_v2(void); int cuda(void) { cublasCreate_v2(); return 0; }"
			m.needs = []string{m.needs[0], b.stub("libcublas.so.12", "libcublas.so.12.5", "cublasCreate_v2")}
		}, []string{cuda + ": undefined-symbol"}, "lacks cublasCreate_v2@libcublas.so.12.5"},
		"no version": {linkedTree, func(b *toolbox, m *module) {
			m.source = "void cublasDestroy_v2(void); int cuda(void) { cublasDestroy_v2(); return 0; }"
			m.needs = []string{m.needs[0], b.stub("libcublas.so.12", "", "cublasDestroy_v2")}
		}, []string{cuda + ": undefined-symbol"}, "lacks cublasDestroy_v2;"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newTree(t, "sm75.fatbin")
			b := newToolbox(t)
			m := b.cudaBackend(filepath.Join(dir, "lib/libggml-base.so.0.5.0"), "sm75.fatbin")
			test.change(b, &m)
			b.library(filepath.Join(dir, cuda), m)
			bundleDir, bundle := packUnaudited(t, dir)
			runtimeDir, runtime := packRuntime(t, test.runtime(t))
			read := func(dir string, a manifests.Artifact) *bundler.Libraries {
				libraries, err := bundler.ReadLibraries(t.Context(), filepath.Join(dir, a.Name))
				if err != nil {
					t.Fatal(err)
				}
				return libraries
			}
			findings := read(bundleDir, bundle[1]).CheckServed(read(runtimeDir, runtime[1]))
			if diff := cmp.Diff(test.want, keysOf(findings)); diff != "" {
				t.Errorf("%s\n%v", diff, findings)
			}
			if test.detail != "" && (len(findings) == 0 || !strings.Contains(findings[0].Detail, test.detail)) {
				t.Errorf("%v lacks %q", findings, test.detail)
			}
		})
	}
}

// packUnaudited packs a tree whatever the audit says of it.
func packUnaudited(t testing.TB, dir string) (string, []manifests.Artifact) {
	t.Helper()
	fsys := open(t, dir)
	report, err := bundler.Audit(fsys, rules(75))
	if report == nil {
		t.Fatal(err)
	}
	meta, err := bundler.Describe(fsys, rules(75), report, identity())
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "dist")
	artifacts, err := bundler.Pack(t.Context(), fsys, meta, out, bundler.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return out, artifacts
}
