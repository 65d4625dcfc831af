// Package gguf reads the header of a model's file: what the model is, and how its weights are
// spread over its layers.
//
// The client calls it to say how many layers a GPU holds, ci to describe what it publishes. The
// input is the files of one model, usually one; the output is a Header. A hostile file costs
// neither memory nor time. It reads no weights and never writes.
//
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
package gguf

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
)

// A Header is what a file says of its model.
type Header struct {
	Architecture string
	// Name is what the model's maker calls it; empty where the file does not say.
	Name string
	// FileType is the number of the quantization that most tensors have, llama.cpp's LLAMA_FTYPE;
	// -1 where the file does not say.
	FileType int
	// Parameters is the number of weights.
	Parameters int64
	// Layers has each repeating layer's weights, in bytes.
	Layers []int64
	// Output is the weights after the last layer, in bytes. Where the model has none of its own,
	// they are the token embeddings, which llama.cpp then holds twice.
	Output int64
	// Context is the number of tokens that the model was trained with; 0 where the file does not
	// say.
	Context int64
	// Embedding is the length of a token's embedding.
	Embedding int64
	// HeadsKV is the number of key and value heads of each layer; KeyLength and ValueLength are the
	// lengths of one. They are 0 in models without attention.
	HeadsKV                []int64
	KeyLength, ValueLength int64
	// Vocabulary is the number of tokens.
	Vocabulary int64
	// ChatTemplate says that the file says how a chat is put to the model.
	ChatTemplate bool
	// Metadata are the keys with one value: string, bool, int64, uint64 or float64. Long texts, and
	// numbers that are not finite, are left out, and so are those that say how a model lies in
	// files.
	Metadata map[string]any
}

// A model is a header in the making: the weights of its parts are added one after another.
type model struct {
	*Header
	embeddings int64 // the token embeddings, in bytes
	output     bool  // the model has an output of its own
}

func (m *model) finish() *Header {
	if !m.output {
		m.Output += m.embeddings
	}
	return m.Header
}

// A SplitError is a set of files that are not the parts of one model, in order.
type SplitError struct {
	Path    string
	Problem string
}

func (e *SplitError) Error() string { return fmt.Sprintf("reading %s: %s", e.Path, e.Problem) }

// Hint says what it means.
func (e *SplitError) Hint() string {
	return "llama.cpp takes the parts of a model by their names, and would refuse these; tell whoever named them"
}

// Read reads the header of a model: of its only file, or of all the parts that it was split into,
// in order. It gives a *SplitError where the files say that they are others than those.
func Read(path string, more ...string) (*Header, error) {
	paths := append([]string{path}, more...)
	var first *decoder
	var m *model
	var tensors uint64
	names := map[string]bool{}
	for i, path := range paths {
		d, err := readPart(path)
		if err != nil {
			return nil, fmt.Errorf("reading the header of %s: %w", path, err)
		}
		if problem := d.checkPlace(i, len(paths)); problem != "" {
			return nil, &SplitError{path, problem}
		}
		if i == 0 {
			first = d
			if m, err = d.model(); err != nil {
				return nil, fmt.Errorf("reading the header of %s: %w", path, err)
			}
		}
		for _, t := range d.tensors {
			if names[t.name] {
				return nil, &SplitError{path, fmt.Sprintf("an earlier part has the tensor %q, too", t.name)}
			}
			names[t.name] = true
		}
		tensors += uint64(len(d.tensors))
		if d.weights(m); d.err != nil {
			return nil, fmt.Errorf("reading the header of %s: %w", path, d.err)
		}
	}
	if want, ok := first.numbers["split.tensors.count"]; ok && len(paths) > 1 && want != tensors {
		return nil, &SplitError{paths[0], fmt.Sprintf("it says that the model has %d tensors, and its %d parts have %d", want, len(paths), tensors)}
	}
	return m.finish(), nil
}

func readPart(path string) (*decoder, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return decode(f, info.Size())
}

// checkPlace says why a file is not part i of so many, if it is not. A part counts from 0, and
// llama.cpp's own tool leaves the keys out where there is one part only.
func (d *decoder) checkPlace(i, parts int) string {
	count := max(d.numbers["split.count"], 1)
	no := d.numbers["split.no"]
	switch {
	case parts == 1 && count > 1:
		return fmt.Sprintf("the model lies in %d files, and this is one of them", count)
	case count == 1 && parts > 1:
		return fmt.Sprintf("it is a whole model, and its name says that it is one of %d files", parts)
	case count != uint64(parts):
		return fmt.Sprintf("it says that the model lies in %d files, and its name says %d", count, parts)
	case no != uint64(i):
		return fmt.Sprintf("it says that it is part %d of %d, and its name says %d", no+1, count, i+1)
	}
	return ""
}

// Decode reads the header of a model's only file, of so many bytes, from its start.
func Decode(r io.Reader, size int64) (*Header, error) {
	d, err := decode(r, size)
	if err != nil {
		return nil, err
	}
	if problem := d.checkPlace(0, 1); problem != "" {
		return nil, errors.New(problem)
	}
	m, err := d.model()
	if err != nil {
		return nil, err
	}
	if d.weights(m); d.err != nil {
		return nil, d.err
	}
	return m.finish(), nil
}

// number gives a key of the model's architecture, otherwise where the file has none.
func (d *decoder) number(key string, limit, otherwise int64) int64 {
	n, ok := d.numbers[d.architecture+"."+key]
	if !ok {
		return otherwise
	}
	if n > uint64(limit) {
		d.fail("%s is %d, the limit is %d", key, n, limit)
		return 0
	}
	return int64(n)
}

// model is the header without its weights.
func (d *decoder) model() (*model, error) {
	if d.architecture == "" {
		return nil, errors.New("it names no architecture")
	}
	g := &Header{Architecture: d.architecture, Name: d.title, FileType: -1, ChatTemplate: d.template, Metadata: d.values}
	if kind, ok := d.numbers["general.file_type"]; ok {
		g.FileType = int(min(kind, 1<<30))
	}
	maps.DeleteFunc(g.Metadata, func(key string, _ any) bool { return strings.HasPrefix(key, "split.") }) // of files, not of models
	layers := d.number("block_count", maxLayers, 0)
	if layers == 0 {
		d.fail("it names no number of layers (block_count)")
	}
	g.Layers = make([]int64, layers)
	g.Context = d.number("context_length", 1<<40, 0)
	g.Embedding = d.number("embedding_length", 1<<24, 0)
	d.heads(g)
	return &model{Header: g}, d.err
}

// heads reads what the size of the KV cache comes from. The defaults are llama.cpp's: as many
// key and value heads as heads, and heads that share the embedding.
func (d *decoder) heads(g *Header) {
	count := d.number("attention.head_count", maxNumber, 0)
	length := int64(0)
	if count > 0 {
		length = g.Embedding / count
	}
	g.KeyLength = d.number("attention.key_length", maxNumber, min(length, maxNumber))
	g.ValueLength = d.number("attention.value_length", maxNumber, min(length, maxNumber))
	if list, ok := d.lists[d.architecture+".attention.head_count_kv"]; ok {
		if len(list) != len(g.Layers) {
			d.fail("head_count_kv has %d numbers for %d layers", len(list), len(g.Layers))
		}
		g.HeadsKV = list
		return
	}
	g.HeadsKV = slices.Repeat([]int64{d.number("attention.head_count_kv", maxNumber, count)}, len(g.Layers))
}

// weights adds up the tensors of one file. A tensor reaches to the next one's offset, which needs
// no table of types and is true of types that this program does not know. A file without tensors is
// a vocabulary, or the first part of a model whose parts were made with --no-tensor-first-split.
func (d *decoder) weights(m *model) {
	alignment := uint64(32)
	if n, ok := d.numbers["general.alignment"]; ok {
		alignment = n
	}
	if alignment == 0 || alignment > 1<<20 {
		d.fail("its alignment is %d", alignment)
		return
	}
	start := (d.read + int64(alignment) - 1) / int64(alignment) * int64(alignment)
	data := uint64(max(0, d.size-start))
	slices.SortStableFunc(d.tensors, func(a, b tensor) int { return cmp.Compare(a.offset, b.offset) })
	for i, t := range d.tensors {
		m.Parameters += t.elements()
		end := data
		if i+1 < len(d.tensors) {
			end = d.tensors[i+1].offset
		}
		if end > data || t.offset >= end {
			d.fail("the tensor %q lies outside the file, which may be cut off", t.name)
			return
		}
		bytes := int64(end - t.offset)
		if rest, ok := strings.CutPrefix(t.name, "blk."); ok {
			number, _, _ := strings.Cut(rest, ".")
			n, err := strconv.Atoi(number)
			if err != nil || n < 0 || n >= len(m.Layers) {
				d.fail("the tensor %q belongs to none of the %d layers", t.name, len(m.Layers))
				return
			}
			m.Layers[n] += bytes
			continue
		}
		switch {
		case t.name == "token_embd.weight":
			m.embeddings = bytes
			if len(t.dims) == 2 && t.dims[1] <= 1<<24 {
				m.Vocabulary = int64(t.dims[1])
			}
		case strings.HasPrefix(t.name, "output"):
			m.output = m.output || t.name == "output.weight"
			m.Output += bytes
		}
	}
}
