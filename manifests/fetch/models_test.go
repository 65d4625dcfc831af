package fetch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/hub"
	"github.com/waqasm86/llcuda-farm/manifests/gguf"
)

// part is one part of a model with a layer of 64 bytes in each part but the first, as llama.cpp's
// gguf-split makes it with --no-tensor-first-split.
func part(t *testing.T, no, count int) []byte {
	t.Helper()
	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			if text, ok := v.(string); ok {
				v = append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...)
			}
			if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
				t.Fatal(err)
			}
		}
	}
	const number, text = uint32(4), uint32(8)
	tensors, keys := uint64(min(no, 1)), uint64(2)
	if no == 0 {
		keys = 6
	}
	put([]byte("GGUF"), uint32(3), tensors, keys, "split.no", number, uint32(no), "split.count", number, uint32(count))
	if no == 0 {
		put("general.architecture", text, "llama", "llama.block_count", number, uint32(count-1), "llama.embedding_length", number, uint32(64), "llama.attention.head_count", number, uint32(4))
	} else {
		put("blk."+string(rune('0'+no-1))+".ffn_down.weight", uint32(1), uint64(32), uint32(1), uint64(0))
	}
	b.Write(make([]byte, -b.Len()&31+64*int(tensors)))
	return b.Bytes()
}

// The advice for layers counts all parts of a model; parts that are not those of one model are an
// error.
func TestPullParts(t *testing.T) {
	r := fetchtest.New(t, fetchtest.Options{})
	c := newClient(t, r, r.Dir)
	c.Hub = &hub.Client{Cache: t.TempDir(), Endpoint: "http://127.0.0.1:1", Offline: true}
	if _, err := c.Install(t.Context(), Options{}); err != nil {
		t.Fatal(err)
	}
	commit := strings.Repeat("1", 40)
	cache := filepath.Join(c.Hub.Cache, "models--org--repo")
	for name, content := range map[string][]byte{
		"refs/main": []byte(commit),
		"snapshots/" + commit + "/m-Q8_0-00001-of-00003.gguf": part(t, 0, 3), "snapshots/" + commit + "/m-Q8_0-00002-of-00003.gguf": part(t, 1, 3), "snapshots/" + commit + "/m-Q8_0-00003-of-00003.gguf": part(t, 2, 3),
		"snapshots/" + commit + "/bad-Q4_0-00001-of-00002.gguf": part(t, 0, 3), "snapshots/" + commit + "/bad-Q4_0-00002-of-00002.gguf": part(t, 1, 3),
	} {
		path := filepath.Join(cache, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, content, 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	m, err := c.Pull(t.Context(), "", "org/repo:Q8_0")
	if err != nil {
		t.Fatal(err)
	}
	size := int64(0)
	for no := range 3 {
		size += int64(len(part(t, no, 3)))
	}
	if m.Layers != hub.AllLayers || !strings.HasPrefix(m.Why, "all 2 layers fit") || m.Size != size || !m.Cached || len(m.Parts) != 3 || m.SHA256 != "" {
		t.Errorf("%+v, want %d bytes", m, size)
	}
	if diff := cmp.Diff(m.Path, m.Parts[0]); diff != "" || !strings.HasSuffix(m.Path, "/m-Q8_0-00001-of-00003.gguf") {
		t.Errorf("%s %s", m.Path, diff)
	}
	_, err = c.Pull(t.Context(), "", "org/repo:Q4_0")
	var split *gguf.SplitError
	if !errors.As(err, &split) || len(Hints(err)) != 1 {
		t.Errorf("%v, %q", err, Hints(err))
	}
	_, err = c.Pull(t.Context(), "", "org/repo:Q2_K")
	wantClass(t, err, NotOffline, "its GGUF files are bad-Q4_0-00001-of-00002.gguf, m-Q8_0-00001-of-00003.gguf")
}
