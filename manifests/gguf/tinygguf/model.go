// Package tinygguf writes a language model of a few megabytes with random weights, as a GGUF
// file of the llama architecture. Tests, the farm's checks of a finished bundle and the client's
// trial of an installation load it into the real programs: it computes through the kernels of
// real models (f16, bf16, q8_0, q4_0, q4_K, attention with grouped heads), on the CPU or with all
// layers on a GPU, without downloading anything.
//
// A seed goes in, the file comes out: the same seed gives the same bytes on every machine. What
// the model says has no meaning. It never ends a text by itself, so a run generates exactly as
// many tokens as it is asked for, and all of them are printable ASCII.
package tinygguf

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
)

// Options say which model to write; the zero value is a good one.
type Options struct {
	Seed   uint64
	Layers int // 0 means DefaultLayers, or as many as Types; each layer is about half a megabyte
	// Types are those of the layers' matrices, one layer after another and then from the first
	// again; the last is the output's as well. Without any, a layer has q8_0 and q4_0.
	Types []string
}

// Types are the names that Options.Types may have.
func Types() []string { return slices.Sorted(maps.Keys(encodings())) }

// DefaultLayers is enough for llama.cpp to split a model over devices.
const DefaultLayers = 4

// The shape of the model. Rows are whole multiples of every block size that llama.cpp's CUDA
// kernels know (the largest is 256), and heads have a size that its attention kernels have.
const (
	embedding   = 256
	feedForward = 768
	heads       = 4
	headsKV     = 2
	headSize    = embedding / heads
	context     = 2048
)

// A tensor's values are random with the deviation given, but for the rows that quiet names.
type tensor struct {
	name      string
	encoding  encoding
	shape     []int // the length of a row first, as in GGUF
	deviation float64
	quiet     func(row int) bool
}

func (t tensor) rows() int {
	rows := 1
	for _, n := range t.shape[1:] {
		rows *= n
	}
	return rows
}

func (t tensor) size() int { return t.rows() * t.encoding.rowSize(t.shape[0]) }

// tensors lists the model's tensors in the order of the file.
func tensors(layers int, vocabulary []token, types []encoding) []tensor {
	norm := func(name string) tensor {
		return tensor{name: name, encoding: ones, shape: []int{embedding}}
	}
	// A matrix of this deviation keeps the size of what it multiplies.
	matrix := func(name string, e encoding, in, out int) tensor {
		return tensor{name: name, encoding: e, shape: []int{in, out}, deviation: 1 / math.Sqrt(float64(in))}
	}
	list := []tensor{{name: "token_embd.weight", encoding: f16, shape: []int{embedding, len(vocabulary)}, deviation: 1}}
	attention, feed, last := q8_0, q4_0, q8_0
	for i := range layers {
		block := fmt.Sprintf("blk.%d.", i)
		if len(types) > 0 {
			attention = types[i%len(types)]
			feed, last = attention, attention
		}
		list = append(list,
			norm(block+"attn_norm.weight"),
			matrix(block+"attn_q.weight", attention, embedding, embedding),
			matrix(block+"attn_k.weight", attention, embedding, headsKV*headSize),
			matrix(block+"attn_v.weight", attention, embedding, headsKV*headSize),
			matrix(block+"attn_output.weight", attention, embedding, embedding),
			norm(block+"ffn_norm.weight"),
			matrix(block+"ffn_gate.weight", feed, embedding, feedForward),
			matrix(block+"ffn_up.weight", feed, embedding, feedForward),
			matrix(block+"ffn_down.weight", feed, feedForward, embedding),
		)
	}
	output := matrix("output.weight", last, embedding, len(vocabulary))
	output.deviation *= 2 // spreads the scores, so that sampling keeps to the high ones
	// A row of zeros scores 0, below half of all others: neither the end of the text nor a stray
	// byte is ever among the best.
	output.quiet = func(row int) bool { return vocabulary[row].kind != normal }
	return append(list, norm("output_norm.weight"), output)
}

// Write writes the model.
func Write(w io.Writer, opts Options) error {
	var types []encoding
	for _, name := range opts.Types {
		e, ok := encodings()[name]
		if !ok {
			return fmt.Errorf("writing a model: no type is called %q; there are %q", name, Types())
		}
		types = append(types, e)
	}
	layers := opts.Layers
	switch {
	case layers == 0 && len(types) > 0:
		layers = len(types)
	case layers == 0:
		layers = DefaultLayers
	}
	if layers < 0 {
		return fmt.Errorf("writing a model of %d layers: a model has at least one", layers)
	}
	vocabulary := newVocabulary()
	list := tensors(layers, vocabulary, types)

	out := &file{w: bufio.NewWriter(w)}
	out.header(len(list), metadata(layers, vocabulary))
	out.directory(list)
	random := rand.New(rand.NewPCG(opts.Seed, 0))
	for _, t := range list {
		out.align()
		for row := range t.rows() {
			deviation := t.deviation
			if t.quiet != nil && t.quiet(row) {
				deviation = 0
			}
			out.bytes(t.encoding.row(random, t.shape[0], deviation))
		}
	}
	out.align()
	if out.err == nil {
		out.err = out.w.Flush()
	}
	if out.err != nil {
		return fmt.Errorf("writing the model: %w", out.err)
	}
	return nil
}

// metadata is what llama.cpp wants to know of a model of this architecture.
func metadata(layers int, vocabulary []token) []pair {
	texts := make([]string, len(vocabulary))
	scores := make([]float32, len(vocabulary))
	kinds := make([]int32, len(vocabulary))
	for i, t := range vocabulary {
		texts[i], scores[i], kinds[i] = t.text, t.score, int32(t.kind)
	}
	return []pair{
		{"general.architecture", "llama"},
		{"general.name", "tiny random llama"},
		{"general.alignment", uint32(alignment)},
		{"general.quantization_version", uint32(2)},
		{"llama.vocab_size", uint32(len(vocabulary))},
		{"llama.context_length", uint32(context)},
		{"llama.embedding_length", uint32(embedding)},
		{"llama.block_count", uint32(layers)},
		{"llama.feed_forward_length", uint32(feedForward)},
		{"llama.attention.head_count", uint32(heads)},
		{"llama.attention.head_count_kv", uint32(headsKV)},
		{"llama.attention.layer_norm_rms_epsilon", float32(1e-5)},
		{"llama.rope.dimension_count", uint32(headSize)},
		{"tokenizer.ggml.model", "llama"},
		{"tokenizer.ggml.tokens", texts},
		{"tokenizer.ggml.scores", scores},
		{"tokenizer.ggml.token_type", kinds},
		{"tokenizer.ggml.unknown_token_id", uint32(unknownID)},
		{"tokenizer.ggml.bos_token_id", uint32(beginID)},
		{"tokenizer.ggml.eos_token_id", uint32(endID)},
		{"tokenizer.chat_template", chatTemplate},
	}
}
