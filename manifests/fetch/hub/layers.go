package hub

import (
	"fmt"
	"slices"

	"github.com/waqasm86/llcuda-farm/manifests/gguf"
)

// AllLayers is the value of llama.cpp's -ngl that everybody writes for "all of them".
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

// needs is what the layers take, one after another, and what a GPU takes beside them.
func needs(g *gguf.Header) (layers []int64, weights, cache, fixed int64) {
	context := int64(DefaultContext)
	if g.Context > 0 {
		context = min(context, g.Context)
	}
	layers = make([]int64, len(g.Layers))
	for i, w := range g.Layers {
		kv := context * g.HeadsKV[i] * (g.KeyLength + g.ValueLength) * kvBytes
		layers[i] = w + kv
		weights += w
		cache += kv
	}
	return layers, weights, cache, g.Output + batch*g.Vocabulary*4
}

// Memory is how many MiB of one GPU's memory the whole model takes, by the sum that Layers makes.
func Memory(g *gguf.Header) int {
	_, weights, cache, fixed := needs(g)
	const mib = 1 << 20
	return int((weights + cache + fixed + reserve + mib - 1) / mib)
}

// Layers says how many of the model's layers GPUs with so much memory hold: llama.cpp's -ngl, AllLayers or more
// for the whole model, and a sentence that gives the reason. It is a recommendation: what other programs
// hold of the memory is not known to it.
//
// A layer takes its weights and its part of the KV cache for DefaultContext tokens. llama.cpp gives
// whole layers to each of several GPUs, in proportion to their memory, so with more than one the largest layer is kept free
// on each. The weights after the last layer count for any number of layers, because
// versions of llama.cpp differ in when they go to the GPU.
func Layers(g *gguf.Header, memoryMiB []int) (ngl int, why string) {
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
	context := int64(DefaultContext)
	if g.Context > 0 {
		context = min(context, g.Context)
	}
	layers, weights, cache, fixed := needs(g)
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
		(weights+g.Output)>>20, cache>>20, context, (batch*g.Vocabulary*4)>>20, found>>20, (found-room)>>20)
	switch fit {
	case len(layers):
		return max(AllLayers, len(layers)+1), fmt.Sprintf("all %d layers fit: %s", len(layers), sum)
	case 0:
		return 0, fmt.Sprintf("not one of %d layers fits: %s", len(layers), sum)
	}
	return fit, fmt.Sprintf("%d of %d layers fit: %s", fit, len(layers), sum)
}
