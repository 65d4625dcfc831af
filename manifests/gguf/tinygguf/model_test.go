package tinygguf

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, opts Options) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, opts); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The bytes of a seed are a promise: a check of one machine's GPU can be compared with another's.
func TestSameSeedSameBytes(t *testing.T) {
	const want = "ab70b3d3ce32813e66344665a5b5750d2eb1d37440f7e06d38d54133a9d2b2e3"
	sum := sha256.Sum256(write(t, Options{}))
	if got := hex.EncodeToString(sum[:]); got != want {
		t.Errorf("seed 0 gives sha256 %s, want %s", got, want)
	}
	if bytes.Equal(write(t, Options{}), write(t, Options{Seed: 1})) {
		t.Error("seeds 0 and 1 give the same bytes")
	}
}

// The file is read back with a reader that knows only the format.
func TestReadBack(t *testing.T) {
	for _, layers := range []int{0, 1, 7} {
		t.Run(fmt.Sprint(layers), func(t *testing.T) {
			data := write(t, Options{Layers: layers})
			r := &reader{data: data}
			if got := string(r.take(4)); got != "GGUF" {
				t.Fatalf("magic is %q", got)
			}
			if got := r.u32(); got != 3 {
				t.Errorf("version is %d", got)
			}
			tensorCount, keyCount := r.u64(), r.u64()
			keys := map[string]any{}
			for range keyCount {
				key := r.str()
				if _, twice := keys[key]; twice {
					t.Errorf("key %s is there twice", key)
				}
				keys[key] = r.value(t, r.u32())
			}

			wantLayers := layers
			if layers == 0 {
				wantLayers = DefaultLayers
			}
			want := map[string]any{
				"general.architecture":                   "llama",
				"general.name":                           "tiny random llama",
				"general.alignment":                      uint32(32),
				"general.quantization_version":           uint32(2),
				"llama.vocab_size":                       uint32(512),
				"llama.context_length":                   uint32(2048),
				"llama.embedding_length":                 uint32(256),
				"llama.block_count":                      uint32(wantLayers),
				"llama.feed_forward_length":              uint32(768),
				"llama.attention.head_count":             uint32(4),
				"llama.attention.head_count_kv":          uint32(2),
				"llama.attention.layer_norm_rms_epsilon": float32(1e-5),
				"llama.rope.dimension_count":             uint32(64),
				"tokenizer.ggml.model":                   "llama",
				"tokenizer.ggml.unknown_token_id":        uint32(0),
				"tokenizer.ggml.bos_token_id":            uint32(1),
				"tokenizer.ggml.eos_token_id":            uint32(2),
				"tokenizer.chat_template":                chatTemplate,
			}
			for _, list := range []string{"tokens", "scores", "token_type"} {
				name := "tokenizer.ggml." + list
				if n := len(keys[name].([]any)); n != 512 {
					t.Errorf("%s has %d entries, want 512", name, n)
				}
				delete(keys, name)
			}
			if diff := cmp.Diff(want, keys); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}

			if want := uint64(3 + 9*wantLayers); tensorCount != want {
				t.Errorf("%d tensors, want %d", tensorCount, want)
			}
			type place struct{ start, end int }
			places := map[string]place{}
			last := place{}
			for range tensorCount {
				name := r.str()
				size := 1
				for i := range r.u32() {
					n := int(r.u64())
					if i == 0 && n%256 != 0 {
						t.Errorf("rows of %s have %d values, not a multiple of 256", name, n)
					}
					size *= n
				}
				switch id := r.u32(); id {
				case 0:
					size *= 4
				case 1:
					size *= 2
				case 2:
					size = size / 32 * 18
				case 8:
					size = size / 32 * 34
				default:
					t.Errorf("%s has type %d", name, id)
				}
				start := int(r.u64())
				if start%32 != 0 || start < last.end || start-last.end >= 32 {
					t.Errorf("%s starts at %d, the tensor before it ends at %d", name, start, last.end)
				}
				last = place{start, start + size}
				places[name] = last
			}
			begin := r.at + padding(r.at)
			if want := begin + last.end + padding(last.end); len(data) != want {
				t.Errorf("the file has %d bytes, its tensors end at %d", len(data), want)
			}
			norm := places["blk.0.attn_norm.weight"]
			for i := norm.start; i < norm.end; i += 4 {
				if got := math.Float32frombits(binary.LittleEndian.Uint32(data[begin+i:])); got != 1 {
					t.Fatalf("norm weight is %v, want 1", got)
				}
			}
			output := places["output.weight"]
			row := (output.end - output.start) / 512
			for token := range 512 {
				factor := binary.LittleEndian.Uint16(data[begin+output.start+token*row:])
				if quiet := token < 3+256; quiet != (factor == 0) {
					t.Errorf("token %d: factor of its output row is %#x", token, factor)
				}
			}
		})
	}
}

func TestVocabulary(t *testing.T) {
	list := newVocabulary()
	if len(list) != Tokens {
		t.Fatalf("%d tokens, want %d", len(list), Tokens)
	}
	seen := map[string]bool{}
	for i, token := range list {
		if seen[token.text] {
			t.Errorf("token %q is there twice", token.text)
		}
		seen[token.text] = true
		if token.kind != normal {
			continue
		}
		if token.score >= list[i-1].score {
			t.Errorf("token %q has score %v, not below the one before it", token.text, token.score)
		}
		for _, c := range strings.TrimPrefix(token.text, space) {
			if c < '!' || c > '~' {
				t.Errorf("token %q is not printable ASCII", token.text)
			}
		}
	}
}

func TestHalf(t *testing.T) {
	for _, test := range []struct {
		value float64
		want  uint16
	}{
		{0, 0x0000},
		{1, 0x3c00},
		{-2, 0xc000},
		{65504, 0x7bff},
		{1.0 / 3, 0x3555},
		{1 + 1.0/2048, 0x3c00}, // halfway: to even
		{1 + 3.0/2048, 0x3c02},
		{2 - 1.0/4096, 0x4000},       // carries into the exponent
		{math.Ldexp(1, -14), 0x0400}, // the smallest normal number
		{math.Ldexp(1, -15), 0x0000},
	} {
		if got := half(test.value); got != test.want {
			t.Errorf("half(%v) = %#04x, want %#04x", test.value, got, test.want)
		}
	}
}

func TestWriteErrors(t *testing.T) {
	if err := Write(&bytes.Buffer{}, Options{Layers: -1}); err == nil {
		t.Error("a model of -1 layers was written")
	}
	for _, room := range []int{0, 10, 5000, 2_000_000} {
		if err := Write(&fullDisk{room}, Options{}); !errors.Is(err, errFull) {
			t.Errorf("with room for %d bytes: error %v, want %v", room, err, errFull)
		}
	}
}

var errFull = errors.New("disk full")

type fullDisk struct{ room int }

func (d *fullDisk) Write(b []byte) (int, error) {
	if len(b) > d.room {
		return 0, errFull
	}
	d.room -= len(b)
	return len(b), nil
}

// reader reads GGUF's numbers and strings, and panics past the end.
type reader struct {
	data []byte
	at   int
}

func (r *reader) take(n int) []byte {
	r.at += n
	return r.data[r.at-n : r.at]
}

func (r *reader) u32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }
func (r *reader) str() string { return string(r.take(int(r.u64()))) }

func (r *reader) value(t *testing.T, id uint32) any {
	t.Helper()
	switch id {
	case 4:
		return r.u32()
	case 5:
		return int32(r.u32())
	case 6:
		return math.Float32frombits(r.u32())
	case 8:
		return r.str()
	case 9:
		element, list := r.u32(), []any{}
		for range r.u64() {
			list = append(list, r.value(t, element))
		}
		return list
	}
	t.Fatalf("value type %d", id)
	return nil
}
