package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Commands that know nothing of each other build the steps of a release of both toolkits. A machine that can reach no engine
// makes of their parts the bytes that one command makes of all; of another tree's part it makes nothing.
func (f *farm) testParts(t *testing.T) {
	llama := copyTree(t, f.llama)
	change(t, llama, "ggml/src/ggml-cuda/common.cuh", unseen)
	change(t, llama, "src/llama.cpp", unseen)
	parts := t.TempDir()
	for _, only := range []string{"sm120,runtime-cu13", "host", "sm75,runtime-cu12-sm7x"} {
		f.build(t, llama, "75,120", parts, "--only", only).want(t, 0)
	}
	whole := t.TempDir()
	f.build(t, llama, "75,120", whole).want(t, 0)

	t.Setenv("_EXPERIMENTAL_DAGGER_RUNNER_HOST", "unix:///nowhere/engine.sock")
	collect := func(llama, out string) result {
		return f.run(t, "build", "--llama", llama, "--sm", "75,120", "--release", e2eRelease, "--parts", parts, "--out", out)
	}
	out := t.TempDir()
	collect(llama, out).want(t, 0)
	if diff := cmp.Diff(fileNames(t, whole), fileNames(t, out)); diff != "" {
		t.Errorf("files (-of one command +of parts):\n%s", diff)
	}
	for _, name := range fileNames(t, whole) {
		command(t, "", "cmp", filepath.Join(whole, name), filepath.Join(out, name))
	}
	f.run(t, "verify", out).want(t, 0)

	refused := t.TempDir()
	other := copyTree(t, f.llama) // another change of the same commit
	change(t, other, "src/llama.cpp", unseen)
	collect(other, refused).want(t, 3, "its source tree is", "hint: build it from this checkout")
	if names := fileNames(t, refused); len(names) > 0 {
		t.Errorf("it made %v", names)
	}
	damaged := filepath.Join(parts, "sm75.part.tar.zst")
	if err := os.Truncate(damaged, 1000); err != nil {
		t.Fatal(err)
	}
	collect(llama, refused).want(t, 3, "sm75.part.tar.zst is damaged", "--only sm75")
}
