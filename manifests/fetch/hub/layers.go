package hub

import (
	"fmt"
	"slices"
	"sort"

	"github.com/waqasm86/llcuda-farm/manifests/gguf"
)

// AllLayers is the value of llama.cpp's -ngl that is customary for "all of them".
const AllLayers = 99

const (
	// DefaultContext is the number of tokens that Layers leaves room for, where the model was trained
	// with so many. A user who wants more gives llama.cpp -c, and fewer layers.
	DefaultContext = 4096
	// kvBytes is one number of the KV cache, F16 where llama.cpp is not told otherwise.
	kvBytes = 2
	// batch is how many tokens llama.cpp computes at a time (-ub 512). The scores of each for the whole
	// vocabulary, in F32, are the largest part of its compute buffer.
	batch = 512
	// reserve is what one GPU's memory is not there for: the CUDA context and cuBLAS (200 to 350 MiB),
	// the rest of the compute buffer, and what a desktop may hold.
	reserve = 768 << 20
)

// maxContext bounds the contexts that are calculated with; no model was trained with so many
// tokens.
const maxContext = 1 << 24

// tokens are how many tokens of a context a sum is for: as many as asked for, or, where that is 0, DefaultContext.
func tokens(g *gguf.Header, asked int64) int64 {
	switch {
	case asked > 0:
		return min(asked, maxContext)
	case g.Context > 0:
		return min(DefaultContext, g.Context)
	}
	return DefaultContext
}

// needs is what the layers take, one after another, and all of it.
func needs(g *gguf.Header, context int64) (layers []int64, n Needs) {
	const more = 1 << 60 // bytes than there are; sums of hostile headers end here
	n = Needs{Context: context, Weights: g.Output, Compute: batch * g.Vocabulary * 4, Reserve: reserve}
	layers = make([]int64, len(g.Layers))
	for i, w := range g.Layers {
		kv := context * g.HeadsKV[i] * (g.KeyLength + g.ValueLength) * kvBytes
		layers[i] = w + kv
		n.Weights += w
		n.Cache = min(n.Cache+kv, more)
	}
	return layers, n
}

// Needs are what a whole model takes of one GPU's memory, in bytes, for a context of so many tokens.
type Needs struct {
	Context int64 `json:"context"`
	Weights int64 `json:"weights"`
	Cache   int64 `json:"kv"`
	Compute int64 `json:"compute"`
	Reserve int64 `json:"reserve"` // kept free
	Total   int64 `json:"total"`
}

// NeedsOf makes the sum that Layers makes. A context of 0 is DefaultContext.
func NeedsOf(g *gguf.Header, context int64) Needs {
	_, n := needs(g, tokens(g, context))
	n.Total = n.Weights + n.Cache + n.Compute + n.Reserve
	return n
}

// Memory is how many MiB of one GPU's memory the whole model takes with DefaultContext.
func Memory(g *gguf.Header) int {
	const mib = 1 << 20
	return int((NeedsOf(g, 0).Total + mib - 1) / mib)
}

// ContextFit is the largest context, up to what the model was trained with, with which all of its layers fit into GPUs with
// so much memory; 0 where they fit with none. Where the file does not say what the model was trained with, it is up to
// DefaultContext.
func ContextFit(g *gguf.Header, memoryMiB []int) int64 {
	const step = 256 // llama.cpp rounds up to it: GGML_PAD in src/llama-context.cpp
	most := tokens(g, g.Context)
	fits := func(context int64) bool {
		ngl, _ := Layers(g, memoryMiB, context)
		return ngl > len(g.Layers)
	}
	if fits(most) {
		return most
	}
	// The first number of steps that does not fit.
	return max(0, int64(sort.Search(int(most/step), func(i int) bool { return !fits(int64(i+1) * step) }))) * step
}

// Layers says how many of the model's layers GPUs with so much memory hold: llama.cpp's -ngl, AllLayers or more
// for the whole model, and a sentence that gives the reason. It is a recommendation: what other programs
// hold of the memory is not known to it.
//
// A layer takes its weights and its part of the KV cache for a context of so many tokens, DefaultContext for 0. llama.cpp gives
// whole layers to each of several GPUs, in proportion to their memory, so with more than one the largest layer is kept free
// on each. The weights after the last layer count for any number of layers, because
// versions of llama.cpp differ in when they go to the GPU.
func Layers(g *gguf.Header, memoryMiB []int, context int64) (ngl int, why string) {
	var found, room int64
	gpus := 0
	for _, mib := range memoryMiB {
		if mib <= 0 {
			continue
		}
		bytes := int64(mib) << 20
		found += bytes
		if bytes > reserve {
			room += bytes - reserve
			gpus++
		}
	}
	if found == 0 {
		return 0, "no GPU memory was found"
	}
	layers, n := needs(g, tokens(g, context))
	fixed := g.Output + n.Compute
	if gpus > 1 {
		fixed += int64(gpus) * slices.Max(layers)
	}
	// llama.cpp begins with the last layer.
	fit, need := 0, fixed
	for _, layer := range slices.Backward(layers) {
		if need += layer; need > room {
			break
		}
		fit++
	}
	sum := fmt.Sprintf("%d MiB of weights, %d MiB of KV cache for %d tokens and %d MiB to compute in; %d MiB of memory, %d MiB of it kept free",
		n.Weights>>20, n.Cache>>20, n.Context, n.Compute>>20, found>>20, (found-room)>>20)
	switch fit {
	case len(layers):
		return max(AllLayers, len(layers)+1), fmt.Sprintf("all %d layers fit: %s", len(layers), sum)
	case 0:
		return 0, fmt.Sprintf("not one of %d layers fits: %s", len(layers), sum)
	}
	return fit, fmt.Sprintf("%d of %d layers fit: %s", fit, len(layers), sum)
}
