package bundler_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/waqasm86/llcuda-farm/bundler"
)

// Scratch removes what a killed command left. It does not touch a running command's folder, or
// anything else in the folder for temporary files.
func TestScratch(t *testing.T) {
	parent := t.TempDir()
	t.Setenv("TMPDIR", parent)
	write := func(name string) {
		t.Helper()
		file := filepath.Join(parent, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	living, end, err := bundler.Scratch(t.Context(), "", "living")
	if err != nil {
		t.Fatal(err)
	}
	write(filepath.Base(living) + "/tree/file")
	write("llcuda-scratch-dead-1/tree/file")
	write("llcuda-scratch-file")
	write("llcuda-bins-sm75/lib/libllama.so")
	if err := os.Symlink("llcuda-bins-sm75", filepath.Join(parent, "llcuda-scratch-link")); err != nil {
		t.Fatal(err)
	}
	_, endOther, err := bundler.Scratch(t.Context(), "", "other")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(living, "tree/file")); err != nil {
		t.Errorf("the living command's file is gone: %v", err)
	}
	endOther()
	end()
	foreign := []string{"llcuda-bins-sm75", "llcuda-scratch-file", "llcuda-scratch-link"}
	if left := names(t, parent); !slices.Equal(left, foreign) {
		t.Errorf("left behind: %q, want %q", left, foreign)
	}
	if _, err := os.Stat(filepath.Join(parent, "llcuda-bins-sm75/lib/libllama.so")); err != nil {
		t.Errorf("a link was followed: %v", err)
	}
}

// Commands that start at the same time do not remove each other's folders.
func TestScratchAtOnce(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "not", "made")
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 50 {
				dir, remove, err := bundler.Scratch(t.Context(), parent, "x")
				if err == nil {
					err = os.WriteFile(filepath.Join(dir, "file"), nil, 0o644)
					remove()
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	if left := names(t, parent); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
