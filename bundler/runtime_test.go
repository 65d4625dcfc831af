package bundler_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/manifests"
)

// runtimeTree is the CUDA runtime's tree, of stand-ins.
func runtimeTree(t testing.TB) string {
	t.Helper()
	b := newToolbox(t)
	dir := filepath.Join(t.TempDir(), "runtime")
	if err := os.MkdirAll(filepath.Join(dir, "lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"libcudart.so.12", "libcublas.so.12", "libcublasLt.so.12"} {
		if err := os.Rename(b.stub(name, name, "f"), filepath.Join(dir, "lib", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "LICENSE"), []byte("License Agreement for NVIDIA CUDA Toolkit\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func packRuntime(t testing.TB, dir string) (string, []manifests.Artifact) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "dist")
	artifacts, err := bundler.PackRuntime(context.Background(), open(t, dir), rules(75).Toolkit, out, bundler.PackOptions{})
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
		got, err := bundler.PackRuntime(context.Background(), open(t, dir), rules(75).Toolkit, out, bundler.PackOptions{Cache: cache})
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
			_, err := bundler.PackRuntime(context.Background(), open(t, dir), rules(75).Toolkit, out, bundler.PackOptions{})
			if diff := cmp.Diff(test.want, findingsIn(t, err)); diff != "" {
				t.Errorf("%s\n%v", diff, err)
			}
			if n := names(t, out); n != nil {
				t.Errorf("it wrote %v", n)
			}
		})
	}
}
