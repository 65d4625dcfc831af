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

func mustAbs(t testing.TB, name string) string {
	t.Helper()
	abs, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}
