package tinygguf

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// GGUF, version 3: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
const (
	magic     = "GGUF"
	version   = 3
	alignment = 32
)

// A pair is one key of the metadata. A value is a string, a number or a list of them.
type pair struct {
	key   string
	value any
}

// file writes GGUF's parts one after another and keeps the first error.
type file struct {
	w       *bufio.Writer
	written int
	err     error
}

func (f *file) bytes(b []byte) {
	if f.err != nil {
		return
	}
	var n int
	n, f.err = f.w.Write(b)
	f.written += n
}

func (f *file) value(v any) {
	var b bytes.Buffer
	if err := put(&b, v); err != nil && f.err == nil {
		f.err = err
	}
	f.bytes(b.Bytes())
}

func (f *file) align() {
	f.bytes(make([]byte, padding(f.written)))
}

// padding is how many bytes lie between an offset and the next aligned one.
func padding(offset int) int { return (alignment - offset%alignment) % alignment }

func (f *file) header(tensors int, keys []pair) {
	f.bytes([]byte(magic))
	f.value(uint32(version))
	f.value(uint64(tensors))
	f.value(uint64(len(keys)))
	for _, p := range keys {
		f.value(p.key)
		id, err := typeID(p.value)
		if err != nil && f.err == nil {
			f.err = fmt.Errorf("encoding %s: %w", p.key, err)
		}
		f.value(id)
		f.value(p.value)
	}
}

// directory lists the tensors with their offsets from the start of the data, which follows it.
func (f *file) directory(list []tensor) {
	offset := 0
	for _, t := range list {
		f.value(t.name)
		f.value(uint32(len(t.shape)))
		for _, n := range t.shape {
			f.value(uint64(n))
		}
		f.value(t.encoding.id)
		f.value(uint64(offset))
		offset += t.size()
		offset += padding(offset)
	}
}

// The numbers of GGUF's value types.
const (
	typeUint32  uint32 = 4
	typeInt32   uint32 = 5
	typeFloat32 uint32 = 6
	typeString  uint32 = 8
	typeArray   uint32 = 9
)

func typeID(value any) (uint32, error) {
	switch value.(type) {
	case uint32:
		return typeUint32, nil
	case float32:
		return typeFloat32, nil
	case string:
		return typeString, nil
	case []string, []float32, []int32:
		return typeArray, nil
	}
	return 0, fmt.Errorf("no GGUF type for %T", value)
}

// put writes a value as GGUF has it after the number of its type.
func put(w io.Writer, value any) error {
	switch v := value.(type) {
	case string:
		if err := binary.Write(w, binary.LittleEndian, uint64(len(v))); err != nil {
			return err
		}
		_, err := io.WriteString(w, v)
		return err
	case []string:
		if err := putArray(w, typeString, len(v)); err != nil {
			return err
		}
		for _, s := range v {
			if err := put(w, s); err != nil {
				return err
			}
		}
		return nil
	case []float32:
		if err := putArray(w, typeFloat32, len(v)); err != nil {
			return err
		}
	case []int32:
		if err := putArray(w, typeInt32, len(v)); err != nil {
			return err
		}
	}
	return binary.Write(w, binary.LittleEndian, value)
}

func putArray(w io.Writer, element uint32, length int) error {
	if err := binary.Write(w, binary.LittleEndian, element); err != nil {
		return err
	}
	return binary.Write(w, binary.LittleEndian, uint64(length))
}
