package hub

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/gguf"
)

// What Memory says is enough, and a MiB less is not.
func TestMemory(t *testing.T) {
	gemma := &gguf.Header{Layers: slices.Repeat([]int64{17 << 20}, 26), Output: 302 << 20, Context: 32768, HeadsKV: slices.Repeat([]int64{1}, 26), KeyLength: 256, ValueLength: 256, Vocabulary: 262144}
	need := Memory(gemma)
	if need != 2128 {
		t.Errorf("%d MiB", need)
	}
	if ngl, why := Layers(gemma, []int{need}, 0); ngl != AllLayers {
		t.Error(why)
	}
	if ngl, why := Layers(gemma, []int{need - 1}, 0); ngl != 25 {
		t.Error(why)
	}
}

// More memory never holds fewer layers.
func TestLayersGrow(t *testing.T) {
	model := &gguf.Header{Layers: []int64{64 << 20, 96 << 20, 0}, Output: 300 << 20, HeadsKV: []int64{2, 1, 0}, KeyLength: 64, ValueLength: 64, Vocabulary: 32000}
	last := 0
	for _, mib := range []int{0, 1, 1000, 1300, 100000, 1 << 40} {
		ngl, why := Layers(model, []int{mib}, 0)
		if ngl < last || why == "" {
			t.Errorf("%d MiB: %d layers, with less %d", mib, ngl, last)
		}
		last = ngl
	}
}

func TestLayers(t *testing.T) {
	// Of the shape of gemma-3-1b-it Q4_K_M: 26 layers, one key and value head of 256, 262144 tokens.
	gemma := &gguf.Header{Layers: slices.Repeat([]int64{17 << 20}, 26), Output: 302 << 20, Context: 32768, HeadsKV: slices.Repeat([]int64{1}, 26), KeyLength: 256, ValueLength: 256, Vocabulary: 262144}
	// Of the shape of Llama 3 70B Q4_K_M.
	large := &gguf.Header{Layers: slices.Repeat([]int64{500 << 20}, 80), Output: 822 << 20, Context: 8192, HeadsKV: slices.Repeat([]int64{8}, 80), KeyLength: 128, ValueLength: 128, Vocabulary: 128256}
	deep := &gguf.Header{Layers: make([]int64, 126), HeadsKV: make([]int64, 126)}
	tests := []struct {
		name   string
		model  *gguf.Header
		memory []int
		want   int
		why    string
	}{
		{"T4", gemma, []int{15360}, AllLayers, "all 26 layers fit: 744 MiB of weights, 104 MiB of KV cache for 4096 tokens and 512 MiB to compute in; 15360 MiB of memory, 768 MiB of it kept free"},
		{"2 GiB", gemma, []int{2048}, 22, "22 of 26 layers fit: 744 MiB of weights, 104 MiB of KV cache for 4096 tokens and 512 MiB to compute in; 2048 MiB of memory, 768 MiB of it kept free"},
		{"940M", gemma, []int{1024}, 0, "not one of 26 layers fits: 744 MiB of weights, 104 MiB of KV cache for 4096 tokens and 512 MiB to compute in; 1024 MiB of memory, 768 MiB of it kept free"},
		{"nothing", gemma, nil, 0, "no GPU memory was found"},
		{"not known", gemma, []int{0, -1}, 0, "no GPU memory was found"},
		{"4090", large, []int{24564}, 44, "44 of 80 layers fit: 40822 MiB of weights, 1280 MiB of KV cache for 4096 tokens and 250 MiB to compute in; 24564 MiB of memory, 768 MiB of it kept free"},
		{"two of them", large, []int{24564, 24564}, AllLayers, "all 80 layers fit: 40822 MiB of weights, 1280 MiB of KV cache for 4096 tokens and 250 MiB to compute in; 49128 MiB of memory, 1536 MiB of it kept free"},
		{"more than 99", deep, []int{8192}, 127, "all 126 layers fit: 0 MiB of weights, 0 MiB of KV cache for 4096 tokens and 0 MiB to compute in; 8192 MiB of memory, 768 MiB of it kept free"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, why := Layers(test.model, test.memory, 0)
			if got != test.want {
				t.Errorf("%d layers, want %d", got, test.want)
			}
			if diff := cmp.Diff(test.why, why); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The context that fits does, and the next larger one does not; what the model was trained with is enough.
func TestContextFit(t *testing.T) {
	gemma := &gguf.Header{Layers: slices.Repeat([]int64{17 << 20}, 26), Output: 302 << 20, Context: 32768, HeadsKV: slices.Repeat([]int64{1}, 26), KeyLength: 256, ValueLength: 256, Vocabulary: 262144}
	unknown := *gemma
	unknown.Context = 0
	short := *gemma
	short.Context = 100
	hostile := &gguf.Header{Layers: make([]int64, 1<<12), Context: 1 << 40, HeadsKV: slices.Repeat([]int64{1 << 16}, 1<<12), KeyLength: 1 << 16, ValueLength: 1 << 16}
	for _, test := range []struct {
		name   string
		model  *gguf.Header
		memory []int
		want   int64
	}{
		{"all of it", gemma, []int{15360}, 32768},
		{"some of it", gemma, []int{2200}, 6912},
		{"two GPUs", gemma, []int{1500, 1500}, 6144},
		{"not the weights", gemma, []int{1024}, 0},
		{"nothing", gemma, nil, 0},
		{"not known", &unknown, []int{15360}, DefaultContext},
		{"short", &short, []int{15360}, 100},
		{"hostile", hostile, []int{81920}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := ContextFit(test.model, test.memory)
			if got != test.want {
				t.Errorf("%d tokens, want %d", got, test.want)
			}
			if got > 0 {
				if ngl, why := Layers(test.model, test.memory, got); ngl < AllLayers {
					t.Error(why)
				}
			}
			if got > 0 && got < test.model.Context {
				if ngl, why := Layers(test.model, test.memory, got+256); ngl >= AllLayers {
					t.Error(why)
				}
			}
		})
	}
	if n := NeedsOf(hostile, 1<<40); n.Total <= 0 || n.Context != maxContext {
		t.Errorf("%+v", n)
	}
	if n := NeedsOf(gemma, 8192); n.Total != n.Weights+n.Cache+n.Compute+n.Reserve || n.Cache != 8192*26*512*2 || n.Weights != (302+26*17)<<20 {
		t.Errorf("%+v", n)
	}
}
