package bundler_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/waqasm86/llcuda-farm/bundler"
)

func fatbin(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata/fatbin", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// summarize writes entries as "0 cubin sm_75 lz4".
func summarize(entries []bundler.FatbinEntry) []string {
	var lines []string
	for _, e := range entries {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%d %v %s %s", e.Container, e.Kind, e.Name(), e.Compression)))
	}
	return lines
}

func TestReadFatbin(t *testing.T) {
	join := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	zeros := func(n int) []byte { return make([]byte, n) }
	for name, test := range map[string]struct {
		data []byte
		want []string
	}{
		"empty":                      {nil, nil},
		"padding alone":              {zeros(24), nil},
		"cubin":                      {fatbin(t, "sm75.fatbin"), []string{"0 cubin sm_75"}},
		"compressed cubin":           {fatbin(t, "sm50-lz4.fatbin"), []string{"0 cubin sm_50 lz4"}},
		"PTX":                        {fatbin(t, "ptx75.fatbin"), []string{"0 PTX compute_75 lz4"}},
		"cubin of 9.0":               {fatbin(t, "sm90.fatbin"), []string{"0 cubin sm_90"}},
		"PTX of 9.0":                 {fatbin(t, "ptx90.fatbin"), []string{"0 PTX compute_90 lz4"}},
		"cubin of 8.9":               {fatbin(t, "sm89.fatbin"), []string{"0 cubin sm_89"}},
		"cubin and PTX":              {fatbin(t, "sm89-ptx.fatbin"), []string{"0 PTX compute_89 lz4", "0 cubin sm_89"}},
		"code for one chip":          {fatbin(t, "sm90a.fatbin"), []string{"0 PTX compute_90a lz4", "0 cubin sm_90a"}},
		"CUDA 13, compressed":        {fatbin(t, "sm100.fatbin"), []string{"0 cubin sm_100 zstd"}},
		"CUDA 13, for one chip":      {fatbin(t, "sm120a.fatbin"), []string{"0 cubin sm_120a zstd"}},
		"CUDA 13, for a family":      {fatbin(t, "sm120f.fatbin"), []string{"0 PTX compute_120f zstd", "0 cubin sm_120f"}},
		"a kind not known":           {fatbin(t, "lto75.fatbin"), []string{"0 device code of kind 8 sm_75 lz4"}},
		"containers back to back":    {join(fatbin(t, "sm75.fatbin"), fatbin(t, "sm86.fatbin")), []string{"0 cubin sm_75", "1 cubin sm_86"}},
		"padding between containers": {join(fatbin(t, "sm75.fatbin"), zeros(40), fatbin(t, "sm50-plain.fatbin"), zeros(3)), []string{"0 cubin sm_75", "1 cubin sm_50"}},
		"zstd":                       {zstdFatbin(t, ""), []string{"0 cubin sm_75 zstd"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := bundler.ReadFatbin(bytes.NewReader(test.data), int64(len(test.data)))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, summarize(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// zstdFatbin is sm75.fatbin as toolkits from 12.8 on would store it, the code behind what a
// decompressor skips.
func zstdFatbin(t testing.TB, skipped string) []byte {
	t.Helper()
	const container, entry = 16, 72
	data := fatbin(t, "sm75.fatbin")
	cubin := data[container+entry:]
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	var packed []byte
	if skipped != "" {
		const skippableFrame = 0x184D2A50 // RFC 8878, 3.1.2
		packed = le.AppendUint32(packed, skippableFrame)
		packed = le.AppendUint32(packed, uint32(len(skipped)))
		packed = append(packed, skipped...)
	}
	packed = enc.EncodeAll(cubin, packed)
	padded := (len(packed) + 7) / 8 * 8
	le.PutUint64(data[8:], uint64(entry+padded))
	head := data[container : container+entry]
	le.PutUint64(head[8:], uint64(padded))
	le.PutUint32(head[16:], uint32(len(packed)))
	le.PutUint64(head[40:], le.Uint64(head[40:])|0x8000)
	le.PutUint64(head[56:], uint64(len(cubin)))
	return append(append(data[:container+entry:container+entry], packed...), make([]byte, padded-len(packed))...)
}

func TestReadFatbinRefuses(t *testing.T) {
	const entry = 16 // where the first entry begins
	edit := func(name string, change func([]byte)) []byte {
		data := fatbin(t, name)
		change(data)
		return data
	}
	le := binary.LittleEndian
	plain := fatbin(t, "sm75.fatbin")
	for name, test := range map[string]struct {
		data []byte
		want string
	}{
		"magic":                 {edit("sm75.fatbin", func(d []byte) { d[0] = 0 }), "want a container"},
		"old magic":             {edit("sm75.fatbin", func(d []byte) { le.PutUint32(d, 0x1EE55A01) }), "want a container"},
		"version":               {edit("sm75.fatbin", func(d []byte) { d[4] = 2 }), "container of version 2"},
		"header size":           {edit("sm75.fatbin", func(d []byte) { d[6] = 24 }), "header of 24 bytes"},
		"truncated header":      {plain[:12], "too few for a container"},
		"truncated payload":     {plain[:len(plain)-8], "truncated"},
		"huge container":        {edit("sm75.fatbin", func(d []byte) { le.PutUint64(d[8:], 1<<63) }), "truncated"},
		"container too short":   {edit("sm75.fatbin", func(d []byte) { le.PutUint64(d[8:], 32) }), "too few for an entry"},
		"entry header":          {edit("sm75.fatbin", func(d []byte) { le.PutUint32(d[entry+4:], 8) }), "header of 8 bytes"},
		"long entry header":     {edit("sm75.fatbin", func(d []byte) { le.PutUint32(d[entry+4:], 1<<31) }), "entry has a header"},
		"huge entry":            {edit("sm75.fatbin", func(d []byte) { le.PutUint64(d[entry+8:], 1<<63) }), "truncated"},
		"data behind":           {append(slices.Clone(plain), 1, 2, 3), "follow the last container"},
		"more data behind":      {append(slices.Clone(plain), "not a container."...), "want a container"},
		"another SM":            {edit("sm75.fatbin", func(d []byte) { d[entry+28] = 86 }), "the code inside is for sm_75"},
		"another SM, PTX":       {edit("ptx75.fatbin", func(d []byte) { d[entry+28] = 86 }), "the code inside is for sm_75"},
		"another SM, LZ4":       {edit("sm50-lz4.fatbin", func(d []byte) { d[entry+28] = 52 }), "the code inside is for sm_50"},
		"PTX called cubin":      {edit("ptx75.fatbin", func(d []byte) { d[entry] = 2 }), "not a 64-bit ELF"},
		"cubin called PTX":      {edit("sm75.fatbin", func(d []byte) { d[entry] = 1 }), "no .target line"},
		"host code":             {edit("sm75.fatbin", func(d []byte) { le.PutUint16(d[entry+72+18:], 62) }), "machine 62"},
		"two compressions":      {edit("sm50-lz4.fatbin", func(d []byte) { le.PutUint64(d[entry+40:], 0xA011) }), "in two ways"},
		"compressed to nothing": {edit("sm50-lz4.fatbin", func(d []byte) { le.PutUint32(d[entry+16:], 0) }), "0 compressed bytes"},
		"bomb":                  {edit("sm50-lz4.fatbin", func(d []byte) { le.PutUint64(d[entry+56:], 1<<40) }), "claims to be"},
		"damaged LZ4":           {edit("sm50-lz4.fatbin", func(d []byte) { d[entry+72] = 0xff }), "LZ4"},
	} {
		t.Run(name, func(t *testing.T) {
			entries, err := bundler.ReadFatbin(bytes.NewReader(test.data), int64(len(test.data)))
			var damaged *bundler.FatbinError
			if !errors.As(err, &damaged) {
				t.Fatalf("got %v and %v", entries, err)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error does not say %q: %v", test.want, err)
			}
		})
	}
}

// TestFatbinPayload decompresses what nvcc compressed and compares it with what it did not.
func TestFatbinPayload(t *testing.T) {
	read := func(data []byte) []byte {
		t.Helper()
		r := bytes.NewReader(data)
		entries, err := bundler.ReadFatbin(r, int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		payload, err := entries[0].Open(r)
		if err != nil {
			t.Fatal(err)
		}
		defer payload.Close()
		code, err := io.ReadAll(payload)
		if err != nil {
			t.Fatal(err)
		}
		return code
	}
	if plain, packed := read(fatbin(t, "sm50-plain.fatbin")), read(fatbin(t, "sm50-lz4.fatbin")); !bytes.Equal(plain, packed) {
		t.Error("LZ4 gives other bytes than were compressed")
	}
	if plain, packed := read(fatbin(t, "sm75.fatbin")), read(zstdFatbin(t, "")); !bytes.Equal(plain, packed) {
		t.Error("zstd gives other bytes than were compressed")
	}
	if ptx := string(read(fatbin(t, "ptx75.fatbin"))); !strings.Contains(ptx, ".target sm_75") || !strings.HasSuffix(strings.TrimRight(ptx, "\n\x00"), "}") {
		t.Errorf("PTX is cut:\n%s", ptx)
	}
}

// A payload that ends early or late must be noticed, or a scan of it would have looked at something
// else.
func TestFatbinPayloadLength(t *testing.T) {
	for _, delta := range []int{-1, +1} {
		for name, data := range map[string][]byte{"lz4": fatbin(t, "sm50-lz4.fatbin"), "zstd": zstdFatbin(t, "")} {
			const rawSize = 16 + 56
			binary.LittleEndian.PutUint64(data[rawSize:], uint64(int(binary.LittleEndian.Uint64(data[rawSize:]))+delta))
			r := bytes.NewReader(data)
			entries, err := bundler.ReadFatbin(r, int64(len(data)))
			if err != nil {
				continue // the payload is so short that its prefix is all of it
			}
			payload, err := entries[0].Open(r)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, payload); err == nil {
				t.Errorf("%s: a size that is wrong by %+d went unnoticed", name, delta)
			}
			payload.Close()
		}
	}
}

func FuzzReadFatbin(f *testing.F) {
	names, err := filepath.Glob("testdata/fatbin/*.fatbin")
	if err != nil || len(names) == 0 {
		f.Fatal("no samples", err)
	}
	for _, name := range names {
		f.Add(fatbin(f, filepath.Base(name)))
	}
	f.Add(zstdFatbin(f, ""))
	f.Fuzz(func(t *testing.T, data []byte) {
		const enough = 1 << 20
		r := bytes.NewReader(data)
		entries, err := bundler.ReadFatbin(r, int64(len(data)))
		if err != nil {
			return
		}
		for _, e := range entries {
			if e.Offset < 0 || e.Size < 0 || e.Offset+e.Size > int64(len(data)) {
				t.Fatalf("entry outside of the section: %+v", e)
			}
			payload, err := e.Open(r)
			if err != nil {
				continue
			}
			if n, err := io.Copy(io.Discard, io.LimitReader(payload, enough)); err == nil && n < enough && n != e.Raw {
				t.Fatalf("%d bytes instead of %d: %+v", n, e.Raw, e)
			}
			payload.Close()
		}
	})
}

// A damaged library must lead to an error, not to a crash of the release.
func FuzzReadELF(f *testing.F) {
	b := newToolbox(f)
	out := filepath.Join(b.dir, "libggml-cuda.so")
	base := b.stub("libggml-base.so.0", "", "ggml_base")
	b.library(out, b.cudaBackend(base, "sm50-lz4.fatbin"))
	data, err := os.ReadFile(out)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := bundler.ReadELF(bytes.NewReader(data))
		if (e == nil) == (err == nil) {
			t.Fatalf("got %v and %v", e, err)
		}
	})
}

// TestReadFatbinAgainstCuobjdump reads what NVIDIA's own tool reads. LLCUDA_BUILDER_ROOT is an
// unpacked root file system with the CUDA toolkit, like that of the farm's builder image.
func TestReadFatbinAgainstCuobjdump(t *testing.T) {
	root := os.Getenv("LLCUDA_BUILDER_ROOT")
	if root == "" {
		t.Skip("LLCUDA_BUILDER_ROOT names no root file system with cuobjdump")
	}
	samples, err := filepath.Glob("testdata/fatbin/*.fatbin")
	if err != nil {
		t.Fatal(err)
	}
	libraries, err := filepath.Glob(filepath.Join(root, "usr/lib/x86_64-linux-gnu/libcublas*.so.12"))
	if err != nil {
		t.Fatal(err)
	}
	if len(libraries) == 0 {
		t.Errorf("no CUDA libraries under %s", root)
	}
	for _, name := range append(samples, libraries...) {
		t.Run(filepath.Base(name), func(t *testing.T) {
			want := cuobjdump(t, root, mustAbs(t, name))
			got := make(map[string]int)
			for _, e := range entriesOf(t, name) {
				switch e.Kind {
				case bundler.Cubin:
					got[strings.TrimPrefix(e.Name(), "sm_")+" cubin"]++
				case bundler.PTX:
					got[strings.TrimPrefix(e.Name(), "compute_")+" ptx"]++
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-cuobjdump +ReadFatbin):\n%s", diff)
			}
		})
	}
}

func entriesOf(t *testing.T, name string) []bundler.FatbinEntry {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if strings.HasSuffix(name, ".fatbin") {
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		entries, err := bundler.ReadFatbin(f, info.Size())
		if err != nil {
			t.Fatal(err)
		}
		return entries
	}
	e, err := bundler.ReadELF(f)
	if err != nil {
		t.Fatal(err)
	}
	var entries []bundler.FatbinEntry
	for _, d := range e.DeviceCode {
		entries = append(entries, d.FatbinEntry)
	}
	return entries
}

// cuobjdump counts what the tool lists: "75 cubin", "89 ptx". It runs with its root's own loader
// and libraries, so that neither a chroot nor the same glibc is needed.
func cuobjdump(t *testing.T, root, name string) map[string]int {
	t.Helper()
	lib := filepath.Join(root, "usr/lib/x86_64-linux-gnu")
	cmd := exec.Command(filepath.Join(lib, "ld-linux-x86-64.so.2"), "--library-path", lib, filepath.Join(root, "usr/bin/cuobjdump"), "-lelf", "-lptx", name)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("running cuobjdump: %v\n%s", err, out)
	}
	counts := make(map[string]int)
	for _, m := range regexp.MustCompile(`(?m)^(?:ELF|PTX) file .*\.sm_([0-9]+[af]?)\.(cubin|ptx)$`).FindAllStringSubmatch(string(out), -1) {
		counts[m[1]+" "+m[2]]++
	}
	return counts
}
