package bundler_test

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waqasm86/llcuda-farm/bundler"
)

func TestHideCubins(t *testing.T) {
	for name, test := range map[string]struct {
		fatbins string
		hidden  int
		problem string
	}{
		"cubin and PTX":       {fatbins: "sm89-ptx.fatbin", hidden: 1},
		"several":             {fatbins: "sm89-ptx.fatbin ptx75.fatbin sm89-ptx.fatbin", hidden: 2},
		"a cubin without PTX": {fatbins: "sm89-ptx.fatbin sm86.fatbin", problem: "the container has a cubin and no PTX"},
		"only PTX":            {fatbins: "ptx75.fatbin", problem: "it has no cubin"},
		"no device code":      {problem: "it has no section .nv_fatbin"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "libggml-cuda.so")
			newToolbox(t).library(path, module{source: "void f(void) {}\n", fatbin: test.fatbins})
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			file, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			hidden, err := bundler.HideCubins(file)
			after, readErr := os.ReadFile(path)
			if readErr != nil {
				t.Fatal(readErr)
			}
			if test.problem != "" {
				if err == nil || !strings.Contains(err.Error(), test.problem) || !bytes.Equal(before, after) {
					t.Errorf("it says %v, want %s, and no change", err, test.problem)
				}
				return
			}
			if err != nil || hidden != test.hidden {
				t.Fatalf("%d are hidden, want %d: %v", hidden, test.hidden, err)
			}
			library, err := elf.NewFile(bytes.NewReader(before))
			if err != nil {
				t.Fatal(err)
			}
			code := library.Section(".nv_fatbin")
			entries, err := bundler.ReadFatbin(code, int64(code.Size))
			if err != nil {
				t.Fatal(err)
			}
			// The header before each cubin now names another SM than the code, and nothing else has changed.
			if _, err := bundler.ReadFatbin(bytes.NewReader(after[code.Offset:code.Offset+code.Size]), int64(code.Size)); err == nil || !strings.Contains(err.Error(), "cubin for sm_50") {
				t.Errorf("the cubins can be read as %v", err)
			}
			const longestHeader = 256
			for _, e := range entries {
				if at := int64(code.Offset) + e.Offset; e.Kind == bundler.Cubin {
					copy(before[at-longestHeader:at], after[at-longestHeader:at])
				}
			}
			if !bytes.Equal(before, after) {
				t.Error("more than the headers of cubins was changed")
			}
		})
	}
}
