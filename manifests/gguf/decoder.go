package gguf

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strings"
)

// Limits on what a header may claim. They are far above every model's and keep a hostile
// file from costing memory or time.
const (
	maxHeader  = 256 << 20 // bytes; the largest vocabularies take about 20 MiB
	maxKeys    = 1 << 16
	maxTensors = 1 << 16
	maxName    = 1 << 10 // bytes of a key's or a tensor's name; ggml's own limit for tensors is 64
	maxKept    = 256     // bytes of a text that is kept; longer ones are skipped
	maxLayers  = 1 << 12
	maxNumber  = 1 << 16 // heads and their lengths
	maxDims    = 4       // GGML_MAX_DIMS
	maxDepth   = 4       // of arrays in arrays
)

func decode(r io.Reader, size int64) (*decoder, error) {
	d := &decoder{r: bufio.NewReaderSize(r, 1<<16), size: size, left: min(size, maxHeader), numbers: map[string]uint64{}, lists: map[string][]int64{}, values: map[string]any{}}
	d.header()
	return d, d.err
}

// decoder reads the parts of a header one after another and keeps the first error.
type decoder struct {
	r    *bufio.Reader
	size int64 // of the file
	read int64
	left int64 // bytes that may still be read
	err  error

	architecture string
	title        string // the model's
	numbers      map[string]uint64
	lists        map[string][]int64
	values       map[string]any
	template     bool
	tensors      []tensor
}

type tensor struct {
	name   string
	dims   []uint64
	offset uint64
}

// elements is how many numbers the tensor has, 0 where that is more than any model's.
func (t tensor) elements() int64 {
	const limit = 1 << 46
	n := uint64(1)
	for _, dim := range t.dims {
		if dim > 0 && n > limit/dim {
			return 0
		}
		n *= dim
	}
	return int64(n)
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
}

// take counts bytes that are about to be read and reports whether they may be read.
func (d *decoder) take(n uint64) bool {
	if d.err == nil && n > uint64(d.left) {
		d.fail("the header goes on past the end of the file, or past %d MiB", maxHeader>>20)
	}
	if d.err != nil {
		return false
	}
	d.left -= int64(n)
	d.read += int64(n)
	return true
}

func (d *decoder) uint(size int) uint64 {
	var b [8]byte
	if !d.take(uint64(size)) {
		return 0
	}
	if _, err := io.ReadFull(d.r, b[:size]); err != nil {
		d.fail("the file ends in its header: %w", err)
		return 0
	}
	return binary.LittleEndian.Uint64(b[:])
}

func (d *decoder) skip(n uint64) {
	if !d.take(n) {
		return
	}
	if _, err := d.r.Discard(int(n)); err != nil {
		d.fail("the file ends in its header: %w", err)
	}
}

// text reads a text of at most limit bytes. A longer one is skipped and empty.
func (d *decoder) text(limit uint64) string {
	n := d.uint(8)
	if n > limit {
		d.skip(n)
		return ""
	}
	if !d.take(n) {
		return ""
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(d.r, b); err != nil {
		d.fail("the file ends in its header: %w", err)
	}
	return string(b)
}

func (d *decoder) name(what string) string {
	s := d.text(maxName)
	if s == "" {
		d.fail("the name of a %s is empty or longer than %d bytes", what, maxName)
	}
	return s
}

// The numbers of the types of values.
const (
	typeInt8   = 1
	typeInt16  = 3
	typeInt32  = 5
	typeBool   = 7
	typeString = 8
	typeArray  = 9
	typeInt64  = 11
)

// sizes has the bytes of a value of each type, 0 where it varies.
var sizes = [...]int{1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8}

const (
	typeFloat32 = 6
	typeFloat64 = 12
)

func (d *decoder) header() {
	if magic := d.uint(4); d.err == nil && magic != 0x46554747 {
		d.fail("it does not begin with GGUF")
	}
	if version := d.uint(4); d.err == nil && version != 2 && version != 3 {
		d.fail("its version is %d, known are 2 and 3", version)
	}
	tensors, keys := d.uint(8), d.uint(8)
	if tensors > maxTensors || keys > maxKeys {
		d.fail("it claims %d tensors and %d keys, the limits are %d and %d", tensors, keys, maxTensors, maxKeys)
	}
	seen := map[string]bool{}
	for range keys {
		key := d.name("key")
		if seen[key] {
			d.fail("the key %q is there twice", key)
		}
		seen[key] = true
		kind := d.uint(4)
		if d.err != nil {
			return
		}
		d.value(key, kind)
	}
	clear(seen)
	for range tensors {
		t := tensor{name: d.name("tensor")}
		if seen[t.name] {
			d.fail("the tensor %q is there twice", t.name)
		}
		seen[t.name] = true
		dims := d.uint(4)
		if dims > maxDims {
			d.fail("the tensor %q has %d dimensions", t.name, dims)
		}
		if d.err != nil {
			return
		}
		for range dims {
			t.dims = append(t.dims, d.uint(8))
		}
		d.uint(4) // its type; the offsets say its size
		t.offset = d.uint(8)
		if d.err != nil {
			return
		}
		d.tensors = append(d.tensors, t)
	}
}

func (d *decoder) value(key string, kind uint64) {
	switch {
	case kind == typeString:
		before := d.read
		s := d.text(maxKept)
		const length = 8 // bytes, before the text
		if s != "" || d.read-before == length {
			d.values[key] = s
		}
		switch key {
		case "general.architecture":
			d.architecture = s
		case "general.name":
			d.title = s
		case "tokenizer.chat_template":
			d.template = d.read-before > length
		}
	case kind == typeArray:
		d.array(key, 1)
	case kind < uint64(len(sizes)):
		n, ok := d.integer(kind)
		if ok {
			d.numbers[key] = n
		}
		if v := scalar(kind, n); v != nil {
			d.values[key] = v
		}
	default:
		d.fail("the key %q has the unknown type %d", key, kind)
	}
}

// scalar is a value of a type that has one, from its bits; nil where it is not a finite number.
func scalar(kind, bits uint64) any {
	f := float64(0)
	switch kind {
	case typeFloat32:
		f = float64(math.Float32frombits(uint32(bits)))
	case typeFloat64:
		f = math.Float64frombits(bits)
	case typeBool:
		return bits != 0
	case typeInt8:
		return int64(int8(bits))
	case typeInt16:
		return int64(int16(bits))
	case typeInt32:
		return int64(int32(bits))
	case typeInt64:
		return int64(bits)
	default:
		return bits
	}
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil
	}
	return f
}

// integer reads one value, or the bits of one; ok is false where it is not an integer or negative.
func (d *decoder) integer(kind uint64) (n uint64, ok bool) {
	n = d.uint(sizes[kind])
	switch kind {
	case typeFloat32, typeFloat64, typeBool:
		return n, false
	case typeInt8:
		return n, int8(n) >= 0
	case typeInt16:
		return n, int16(n) >= 0
	case typeInt32:
		return n, int32(n) >= 0
	case typeInt64:
		return n, int64(n) >= 0
	}
	return n, true
}

func (d *decoder) array(key string, depth int) {
	kind, count := d.uint(4), d.uint(8)
	switch {
	case d.err != nil:
	case kind >= uint64(len(sizes)):
		d.fail("the list %q has the unknown type %d", key, kind)
	case count > uint64(d.left): // every element takes a byte at least
		d.fail("the list %q claims %d elements", key, count)
	case kind == typeArray && depth == maxDepth:
		d.fail("the list %q is nested deeper than %d", key, maxDepth)
	case kind == typeArray:
		for range count {
			if d.array(key, depth+1); d.err != nil {
				return
			}
		}
	case kind == typeString:
		for range count {
			if d.skip(d.uint(8)); d.err != nil {
				return
			}
		}
	case depth == 1 && count <= maxLayers && strings.HasSuffix(key, ".attention.head_count_kv"):
		list := make([]int64, 0, count)
		for range count {
			n, ok := d.integer(kind)
			if !ok || n > maxNumber {
				d.fail("%s is out of range", key)
				return
			}
			list = append(list, int64(n))
		}
		d.lists[key] = list
	default:
		d.skip(count * uint64(sizes[kind])) // below 2^31, count being below maxHeader
	}
}
