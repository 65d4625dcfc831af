package bundler_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waqasm86/llcuda-farm/bundler"
)

// TestBuildPathAnywhere puts paths where the file is cut into chunks.
func TestBuildPathAnywhere(t *testing.T) {
	const chunk = 1<<20 + 201 // what is read at a time, and then a little less
	dir := newTree(t, "sm75.fatbin")
	fsys := open(t, dir)
	r := rules(75)
	for at := chunk - 220; at <= chunk+20; at += 3 {
		text := bytes.Repeat([]byte{' '}, 2*chunk)
		copy(text, buildFolder+"first.c ggml"+buildFolder+"relative.c -I"+buildFolder+"include")
		copy(text[at:], buildFolder+"second.c")
		if err := os.WriteFile(filepath.Join(dir, "LICENSE"), text, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := bundler.Audit(fsys, r)
		if err == nil || !strings.Contains(err.Error(), "names the build path "+buildFolder+"first.c (3 times)") {
			t.Errorf("a path at offset %d: %v", at, err)
		}
	}
}

// TestBuildPathInCompressedCode: compressed bytes can look like an absolute path. In cubins of CUDA 13, the compressor
// stored "/src/" and replaced the "ggml" before it by a reference to an earlier one.
func TestBuildPathInCompressedCode(t *testing.T) {
	file := filepath.Join(t.TempDir(), "looks-like-a-path.fatbin")
	if err := os.WriteFile(file, zstdFatbin(t, "\x00"+buildFolder+"mmq.cuh\x00"), 0o644); err != nil {
		t.Fatal(err)
	}
	name, err := filepath.Rel(mustAbs(t, "testdata/fatbin"), file)
	if err != nil {
		t.Fatal(err)
	}
	dir := newTree(t, name)
	library := filepath.Join(dir, "lib/libggml-cuda.so")
	if data, err := os.ReadFile(library); err != nil || !bytes.Contains(data, []byte(buildFolder+"mmq.cuh")) {
		t.Fatalf("the library does not hold the path (%v)", err)
	}
	if _, err := bundler.Audit(open(t, dir), rules(75)); err != nil {
		t.Error(err)
	}
	// What stands behind the code is text again.
	f, err := os.OpenFile(library, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(buildFolder + "last.cu"); err != nil {
		t.Fatal(err)
	}
	if _, err := bundler.Audit(open(t, dir), rules(75)); err == nil || !strings.Contains(err.Error(), "names the build path "+buildFolder+"last.cu; ") {
		t.Errorf("a path behind the device code: %v", err)
	}
}

func mustAbs(t testing.TB, name string) string {
	t.Helper()
	abs, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}
