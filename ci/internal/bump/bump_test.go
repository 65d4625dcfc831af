package bump

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/ci/internal/engine"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/manifests/goldentest"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/matrix/patches"
)

func TestCompare(t *testing.T) {
	before := engine.Survey{
		Options: []string{"GGML_A", "GGML_B"}, Defaults: map[string]string{"GGML_A": "OFF", "GGML_B": "OFF"}, Unset: []string{"LLAMA_X"}, Programs: []string{"llama-a", "llama-b"}, CUDA: []string{"cublasA"},
		Renamed:  map[string]string{"LLAMA_OLD": "GGML_A", "LLAMA_ODD": "GGML_B"},
		Licenses: map[string]string{"LICENSE": "1", "vendor/a/LICENSE": "2", "vendor/b.h": "3"},
	}
	after := engine.Survey{
		Options: []string{"GGML_B", "GGML_C"}, Defaults: map[string]string{"GGML_B": "ON", "GGML_C": "ON"}, Unset: []string{"LLAMA_Y"}, Programs: []string{"llama-a", "llama-b", "llama-c"}, CUDA: []string{"cublasA", "cublasB"},
		Renamed:  map[string]string{"LLAMA_OLD": "GGML_A", "LLAMA_ODD": "GGML_C", "LLAMA_A": ""},
		Licenses: map[string]string{"LICENSE": "1", "vendor/a/LICENSE": "4", "vendor/c.h": "3"}, PageLicenses: []string{"MIT"},
	}
	want := Changes{
		Options: Delta{New: []string{"GGML_C=ON"}, Gone: []string{"GGML_A"}}, Defaults: map[string][2]string{"GGML_B": {"OFF", "ON"}}, Unset: Delta{New: []string{"LLAMA_Y"}, Gone: []string{"LLAMA_X"}},
		Renamed:  map[string]string{"LLAMA_ODD": "GGML_C", "LLAMA_A": ""},
		Programs: Delta{New: []string{"llama-c"}}, CUDA: Delta{New: []string{"cublasB"}},
		Licenses: Delta{New: []string{"vendor/c.h"}, Gone: []string{"vendor/b.h"}}, Reworded: []string{"vendor/a/LICENSE"}, PageLicenses: Delta{New: []string{"MIT"}},
	}
	if diff := cmp.Diff(want, Compare(before, after)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(Changes{Defaults: map[string][2]string{}, Renamed: map[string]string{}}, Compare(after, after)); diff != "" {
		t.Errorf("a tree and itself:\n%s", diff)
	}
}

// The text stays what it says, whatever the names are that come from upstream.
func TestText(t *testing.T) {
	pin := func(ref string, digit string) matrix.LlamaPin {
		return matrix.LlamaPin{Repository: "https://example.org/llama.cpp.git", Ref: ref, Version: strings.TrimPrefix(ref, "v"), Commit: strings.Repeat(digit, 40), Tree: strings.Repeat(digit, 39) + "0"}
	}
	var many []string
	for i := range maxListed + 2 {
		many = append(many, fmt.Sprintf("llama-%02d", i))
	}
	full := Bump{
		Before: pin("v0.5.0", "1"), After: pin("v0.6.0", "2"), Date: time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC),
		Notes: []string{"the tag v0.7.0 is too new"}, Upstream: []string{"0001-a.patch"},
		Problems: []error{
			&farm.SourceError{Given: "v0.6.0", Problem: "its CMake files have no option\nGGML_A", Hint: "give another"}, fmt.Errorf("patching: %w", &patches.ConflictError{Patch: "0002-b.patch", File: "b.c"}), errors.New("no"),
		},
		Changes: Changes{
			Options: Delta{New: []string{"GGML_C=ON"}, Gone: []string{"GGML_A"}}, Defaults: map[string][2]string{"GGML_B": {"OFF", ""}}, Renamed: map[string]string{"LLAMA_A": "GGML_C", "LLAMA_B": ""},
			Unset: Delta{New: []string{"LLAMA_X"}, Gone: []string{"LLAMA_Y"}}, Programs: Delta{New: many}, CUDA: Delta{New: []string{"cublasGemmEx"}, Gone: []string{"cudaFree"}},
			Linked: Delta{New: []string{"CUDA::cufft"}}, Licenses: Delta{New: []string{"vendor/`x`\n@y/LICENSE"}}, Reworded: []string{"LICENSE"}, PageLicenses: Delta{New: []string{"<b>MIT</b> | GPL"}},
		},
	}
	full.After.NPMPackage = "some-llama@1.2.3"
	goldentest.Check(t, filepath.Join("testdata", "full.golden.md"), []byte(full.Text()))
	same := Bump{Before: pin("v0.5.0", "1"), After: pin("v0.6.0", "2")}
	goldentest.Check(t, filepath.Join("testdata", "nothing.golden.md"), []byte(same.Text()))
	named := same
	named.After.Tree = named.Before.Tree
	if got, want := named.Text(), "Name the npm package of llama.cpp 0.6.0\n\n"; !strings.HasPrefix(got, want) {
		t.Errorf("the text is %q", got)
	}
}
