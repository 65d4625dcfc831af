package bump

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/ci/internal/engine"
)

func TestCompare(t *testing.T) {
	before := engine.Survey{
		Options: []string{"GGML_A", "GGML_B"}, Unset: []string{"LLAMA_X"}, Programs: []string{"llama-a", "llama-b"}, CUDA: []string{"cublasA"},
		Renamed:  map[string]string{"LLAMA_OLD": "GGML_A", "LLAMA_ODD": "GGML_B"},
		Licenses: map[string]string{"LICENSE": "1", "vendor/a/LICENSE": "2", "vendor/b.h": "3"},
	}
	after := engine.Survey{
		Options: []string{"GGML_B", "GGML_C"}, Unset: []string{"LLAMA_Y"}, Programs: []string{"llama-a", "llama-b", "llama-c"}, CUDA: []string{"cublasA", "cublasB"},
		Renamed:  map[string]string{"LLAMA_OLD": "GGML_A", "LLAMA_ODD": "GGML_C", "LLAMA_A": ""},
		Licenses: map[string]string{"LICENSE": "1", "vendor/a/LICENSE": "4", "vendor/c.h": "3"}, PageLicenses: []string{"MIT"},
	}
	want := Changes{
		Options: Delta{New: []string{"GGML_C"}, Gone: []string{"GGML_A"}}, Unset: Delta{New: []string{"LLAMA_Y"}, Gone: []string{"LLAMA_X"}},
		Renamed:  map[string]string{"LLAMA_ODD": "GGML_C", "LLAMA_A": ""},
		Programs: Delta{New: []string{"llama-c"}}, CUDA: Delta{New: []string{"cublasB"}},
		Licenses: Delta{New: []string{"vendor/c.h"}, Gone: []string{"vendor/b.h"}}, Reworded: []string{"vendor/a/LICENSE"}, PageLicenses: Delta{New: []string{"MIT"}},
	}
	if diff := cmp.Diff(want, Compare(before, after)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(Changes{Renamed: map[string]string{}}, Compare(after, after)); diff != "" {
		t.Errorf("a tree and itself:\n%s", diff)
	}
}
