package gguf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A file writes GGUF, the parts that tests need.
type file struct{ bytes.Buffer }

func (f *file) put(values ...any) {
	for _, v := range values {
		if s, ok := v.(string); ok {
			f.put(uint64(len(s)))
			f.WriteString(s)
			continue
		}
		if err := binary.Write(f, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
}

type pair struct {
	key    string
	kind   uint32
	values []any
}

type weight struct {
	name string
	dims []uint64
	size int
}

func u32(key string, n uint32) pair { return pair{key, 4, []any{n}} }

func encode(version uint32, pairs []pair, weights []weight) []byte {
	var f file
	f.WriteString("GGUF")
	f.put(version, uint64(len(weights)), uint64(len(pairs)))
	for _, p := range pairs {
		f.put(p.key, p.kind)
		f.put(p.values...)
	}
	offset := 0
	for _, w := range weights {
		f.put(w.name, uint32(len(w.dims)))
		for _, n := range w.dims {
			f.put(n)
		}
		f.put(uint32(0), uint64(offset))
		offset += w.size
	}
	f.Write(make([]byte, -f.Len()&31+offset))
	return f.Bytes()
}

// sample has two layers of 64 and 96 bytes.
func sample() ([]pair, []weight) {
	return []pair{
			{"general.architecture", 8, []any{"llama"}},
			{"general.name", 8, []any{"Sample"}},
			u32("general.file_type", 15),
			u32("llama.block_count", 2),
			{"llama.context_length", 10, []any{uint64(2048)}},
			u32("llama.embedding_length", 64),
			u32("llama.attention.head_count", 4),
			{"llama.attention.head_count_kv", 9, []any{uint32(5), uint64(2), int32(2), int32(1)}},
			{"llama.rope.freq_base", 6, []any{float32(10000)}},
			{"tokenizer.ggml.tokens", 9, []any{uint32(8), uint64(2), "a", "b"}},
			{"tokenizer.ggml.scores", 9, []any{uint32(6), uint64(2), float32(1), float32(2)}},
			{"nested", 9, []any{uint32(9), uint64(1), uint32(0), uint64(3), []byte("abc")}},
			{"tokenizer.chat_template", 8, []any{strings.Repeat("x", 10000)}},
		}, []weight{
			{"token_embd.weight", []uint64{64, 500}, 320},
			{"blk.1.ffn_down.weight", []uint64{8, 3}, 96},
			{"blk.0.attn_q.weight", []uint64{8}, 32},
			{"blk.0.attn_k.weight", []uint64{8}, 32},
			{"output_norm.weight", []uint64{64}, 32},
		}
}

func TestDecode(t *testing.T) {
	pairs, weights := sample()
	want := &Header{Architecture: "llama", Name: "Sample", FileType: 15, Parameters: 64*500 + 8*3 + 8 + 8 + 64, Layers: []int64{64, 96}, Output: 32 + 320, Context: 2048, Embedding: 64,
		HeadsKV: []int64{2, 1}, KeyLength: 16, ValueLength: 16, Vocabulary: 500, ChatTemplate: true, Metadata: map[string]any{
			"general.architecture": "llama", "general.name": "Sample", "general.file_type": uint64(15), "llama.block_count": uint64(2), "llama.context_length": uint64(2048),
			"llama.embedding_length": uint64(64), "llama.attention.head_count": uint64(4), "llama.rope.freq_base": float64(10000),
		}}
	for _, version := range []uint32{2, 3} {
		path := filepath.Join(t.TempDir(), "model.gguf")
		if err := os.WriteFile(path, encode(version, pairs, weights), 0o666); err != nil {
			t.Fatal(err)
		}
		got, err := Read(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	// With an output of its own, the embeddings stay where they are.
	want.Output = 32 + 640
	want.Parameters += 64 * 500
	data := encode(3, pairs, append(weights, weight{"output.weight", []uint64{64, 500}, 640}))
	got, err := Decode(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A single value is reported in its own type; lists and long texts are left out, as are numbers
// that JSON cannot represent.
func TestMetadata(t *testing.T) {
	pairs, weights := sample()
	pairs = append(pairs,
		pair{"x.bool", 7, []any{true}}, pair{"x.i8", 1, []any{int8(-8)}}, pair{"x.i16", 3, []any{int16(-16)}}, pair{"x.i32", 5, []any{int32(-32)}}, pair{"x.i64", 11, []any{int64(-1 << 62)}},
		pair{"x.u8", 0, []any{uint8(200)}}, pair{"x.u64", 10, []any{uint64(1<<64 - 1)}}, pair{"x.f32", 6, []any{float32(0.5)}}, pair{"x.f64", 12, []any{0.1}},
		pair{"x.nan", 6, []any{float32(math.NaN())}}, pair{"x.inf", 12, []any{math.Inf(-1)}}, pair{"x.empty", 8, []any{""}}, pair{"x.long", 8, []any{strings.Repeat("y", 257)}})
	data := encode(3, pairs, weights)
	got, err := Decode(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(got.Metadata, func(key string, _ any) bool { return !strings.HasPrefix(key, "x.") })
	want := map[string]any{"x.bool": true, "x.i8": int64(-8), "x.i16": int64(-16), "x.i32": int64(-32), "x.i64": int64(-1 << 62), "x.u8": uint64(200),
		"x.u64": uint64(1<<64 - 1), "x.f32": 0.5, "x.f64": 0.1, "x.empty": ""}
	if diff := cmp.Diff(want, got.Metadata); diff != "" {
		t.Error(diff)
	}
	pairs[12] = pair{"tokenizer.chat_template", 8, []any{""}}
	data = encode(3, pairs, weights)
	if got, err = Decode(bytes.NewReader(data), int64(len(data))); err != nil || got.ChatTemplate {
		t.Errorf("an empty template is one: %v", err)
	}
}

func TestHostile(t *testing.T) {
	pairs, weights := sample()
	whole := encode(3, pairs, weights)
	with := func(p ...pair) []byte { return encode(3, append(p, pairs...), weights) }
	const huge = uint64(1) << 62
	list := func(kind uint32, count uint64) pair { return pair{"list", 9, []any{kind, count}} }
	deep := pair{"deep", 9, nil}
	for range 100000 {
		deep.values = append(deep.values, uint32(9), uint64(1))
	}
	for name, test := range map[string]struct {
		data []byte
		want string
	}{
		"empty":             {nil, "past the end"},
		"another file":      {[]byte("#!/bin/sh\nexit 0\n# and so on"), "begin with GGUF"},
		"version 1":         {encode(1, pairs, weights), "version"},
		"big-endian":        {encode(3<<24, pairs, weights), "version"},
		"cut off, header":   {whole[:100], "past the end"},
		"cut off, weights":  {whole[:len(whole)-96], "cut off"},
		"many keys":         {append([]byte("GGUF\x03\x00\x00\x00"), bytes.Repeat([]byte{255}, 16)...), "claims"},
		"long list":         {with(list(0, huge)), "claims"},
		"long list of text": {with(list(8, huge)), "claims"},
		"unknown list":      {with(list(77, 1)), "unknown type"},
		"unknown type":      {with(pair{"x", 13, nil}), "unknown type"},
		"long text":         {with(pair{"x", 8, []any{huge}}), "past the end"},
		"nesting":           {with(deep), "nested"},
		"same key":          {with(u32("llama.block_count", 2)), "twice"},
		"no architecture":   {encode(3, pairs[1:], weights), "architecture"},
		"no layers":         {encode(3, pairs[:3], weights), "block_count"},
		"same tensor":       {encode(3, pairs, append(weights, weights[0])), "twice"},
		"five dimensions":   {encode(3, pairs, []weight{{"x", make([]uint64, 5), 32}}), "dimensions"},
		"empty tensor":      {encode(3, pairs, []weight{{"x", nil, 0}, {"y", nil, 32}}), "outside"},
		"foreign layer":     {encode(3, pairs, []weight{{"blk.2.x", nil, 32}}), "none of the 2 layers"},
		"negative layer":    {encode(3, pairs, []weight{{"blk.-1.x", nil, 32}}), "none of the 2 layers"},
		"alignment":         {with(u32("general.alignment", 0)), "alignment"},
		"too many layers":   {encode(3, []pair{pairs[0], u32("llama.block_count", 1<<30)}, weights), "limit"},
		"too many heads":    {with(u32("llama.attention.key_length", 1<<31)), "limit"},
		"one part":          {with(u32("split.count", 4)), "4 files"},
		"heads of a layer":  {encode(3, []pair{pairs[0], pairs[3], {"llama.attention.head_count_kv", 9, []any{uint32(4), uint64(1), uint32(8)}}}, weights), "1 numbers for 2"},
		"negative heads":    {encode(3, []pair{pairs[0], pairs[3], {"llama.attention.head_count_kv", 9, []any{uint32(5), uint64(1), int32(-8)}}}, weights), "out of range"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Decode(bytes.NewReader(test.data), int64(len(test.data)))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %+v, %v, want an error with %q", got, err, test.want)
			}
		})
	}
}

// llama.cpp's own vocabularies have no tensors.
func TestNoTensors(t *testing.T) {
	pairs, _ := sample()
	data := encode(3, pairs, nil)
	for _, cut := range []int{0, len(data) & 31} { // with and without padding up to where weights would begin
		got, err := Decode(bytes.NewReader(data[:len(data)-cut]), int64(len(data)-cut))
		if err != nil {
			t.Fatal(err)
		}
		want := &Header{Architecture: "llama", Name: "Sample", FileType: 15, Layers: []int64{0, 0}, Context: 2048, Embedding: 64, HeadsKV: []int64{2, 1}, KeyLength: 16, ValueLength: 16,
			ChatTemplate: true, Metadata: got.Metadata}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

// part writes one part as llama.cpp's gguf-split does: those after the first one have nothing but
// the keys of the split.
func part(no, count, tensors int, weights []weight) []byte {
	split := []pair{{"split.no", 2, []any{uint16(no)}}, {"split.count", 2, []any{uint16(count)}}, {"split.tensors.count", 5, []any{int32(tensors)}}}
	if no == 0 {
		pairs, _ := sample()
		split = append(pairs, split...)
	}
	return encode(3, split, weights)
}

func TestSplit(t *testing.T) {
	pairs, weights := sample()
	whole := encode(3, pairs, weights)
	want, err := Decode(bytes.NewReader(whole), int64(len(whole)))
	if err != nil {
		t.Fatal(err)
	}
	output := weight{"output.weight", []uint64{64, 500}, 640}
	for name, test := range map[string]struct {
		parts   [][]byte
		problem string // empty is none
	}{
		"two":                        {[][]byte{part(0, 2, 5, weights[:2]), part(1, 2, 5, weights[2:])}, ""},
		"three, the first one empty": {[][]byte{part(0, 3, 5, nil), part(1, 3, 5, weights[:4]), part(2, 3, 5, weights[4:])}, ""},
		"the embeddings last":        {[][]byte{part(0, 2, 5, weights[1:]), part(1, 2, 5, weights[:1])}, ""},
		"one":                        {[][]byte{part(0, 1, 5, weights)}, ""},
		"one of two":                 {[][]byte{part(0, 2, 5, weights[:2])}, "in 2 files, and this is one of them"},
		"the second of two":          {[][]byte{part(1, 2, 5, weights[2:])}, "in 2 files, and this is one of them"},
		"of other counts":            {[][]byte{part(0, 2, 5, weights[:2]), part(1, 3, 5, weights[2:])}, "in 3 files, and its name says 2"},
		"whole files":                {[][]byte{whole, whole}, "a whole model, and its name says that it is one of 2"},
		"the wrong way round":        {[][]byte{part(1, 2, 5, weights[:2]), part(0, 2, 5, weights[2:])}, "part 2 of 2, and its name says 1"},
		"the first one twice":        {[][]byte{part(0, 2, 5, weights[:2]), part(0, 2, 5, weights[2:])}, "part 1 of 2, and its name says 2"},
		"a tensor twice":             {[][]byte{part(0, 2, 5, weights[:3]), part(1, 2, 5, weights[2:])}, "an earlier part has the tensor"},
		"a tensor too few":           {[][]byte{part(0, 2, 5, weights[:2]), part(1, 2, 5, weights[3:])}, "has 5 tensors, and its 2 parts have 4"},
		"a tensor too many":          {[][]byte{part(0, 2, 5, weights[:2]), part(1, 2, 5, append([]weight{output}, weights[2:]...))}, "has 5 tensors, and its 2 parts have 6"},
		"a part that is cut off":     {[][]byte{part(0, 2, 5, weights[:2]), part(1, 2, 5, weights[2:])[:280]}, "cut off"},
	} {
		t.Run(name, func(t *testing.T) {
			var paths []string
			for i, data := range test.parts {
				paths = append(paths, filepath.Join(t.TempDir(), fmt.Sprint(i)))
				if err := os.WriteFile(paths[i], data, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			got, err := Read(paths[0], paths[1:]...)
			if test.problem == "" {
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Error(diff)
				}
				return
			}
			var split *SplitError
			if err == nil || !strings.Contains(err.Error(), test.problem) || !errors.As(err, &split) && test.problem != "cut off" {
				t.Errorf("%+v, %v (%T), want an error with %q", got, err, err, test.problem)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	pairs, weights := sample()
	whole := encode(3, pairs, weights)
	f.Add(whole)
	f.Add(encode(2, pairs, append(weights, weight{"output.weight", nil, 64})))
	f.Add(whole[:300])
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := Decode(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		sum := int64(0)
		for _, n := range g.Layers {
			if n < 0 {
				t.Fatalf("a layer has %d bytes", n)
			}
			sum += n
		}
		if sum > int64(len(data)) || g.Output < 0 {
			t.Errorf("%d bytes of weights in a file of %d", sum, len(data))
		}
	})
}

func TestQuantisation(t *testing.T) {
	for kind, want := range map[int]string{-1: "", 0: "F32", 1: "F16", 15: "Q4_K_M", 17: "Q5_K_M", 32: "BF16", 5: "type 5", 1 << 20: "type 1048576"} {
		if got := (&Header{FileType: kind}).Quantisation(); got != want {
			t.Errorf("file type %d is %q, want %q", kind, got, want)
		}
	}
}
