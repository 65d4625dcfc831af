package archive_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/archive"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
)

// Bytes that are not the stream, or not the tar, that they should be.
func TestForgedStreams(t *testing.T) {
	inner := fetchtest.Tar(t, good())
	want := manifests.Digest{SHA256: fetchtest.SHA256(inner), Size: int64(len(inner))}
	longer := append(slices.Clone(inner), make([]byte, 512)...)
	zeros := fetchtest.Compress(t, make([]byte, 1<<20), manifests.FormatTarZst)
	named := func(change func(*gzip.Header)) []byte {
		var buf bytes.Buffer
		w := gzip.NewWriter(&buf)
		change(&w.Header)
		_, err := w.Write(inner)
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	const gz, zst = manifests.FormatTarGz, manifests.FormatTarZst
	pack := func(format string, data []byte, behind ...byte) []byte {
		return append(fetchtest.Compress(t, data, format), behind...)
	}
	flip := func(format string) []byte {
		data := pack(format, inner)
		data[len(data)/2] ^= 1
		return data
	}
	const another = "the tar inside has"
	for name, test := range map[string]struct {
		format string
		data   []byte
		tar    manifests.Digest
		want   string // "" is any finding
	}{
		"gz, empty":                    {gz, nil, want, ""},
		"zst, empty":                   {zst, nil, want, ""},
		"gz, another file":             {gz, []byte("<html>404</html>"), want, ""},
		"zst, another file":            {zst, []byte("<html>404</html>"), want, ""},
		"zst named gz":                 {gz, pack(zst, inner), want, ""},
		"another format":               {"zip", inner, want, `the format "zip" is not known`},
		"gz, cut off":                  {gz, pack(gz, inner)[:200], want, "unexpected EOF"},
		"zst, cut off":                 {zst, pack(zst, inner)[:200], want, "unexpected EOF"},
		"gz, flipped":                  {gz, flip(gz), want, ""},
		"zst, flipped":                 {zst, flip(zst), want, ""},
		"gz, bytes behind":             {gz, pack(gz, inner, []byte("hidden")...), want, "data follows"},
		"zst, bytes behind":            {zst, pack(zst, inner, []byte("hidden")...), want, "data follows"},
		"gz, a member behind":          {gz, pack(gz, inner, pack(gz, nil)...), want, "data follows"},
		"zst, a frame behind":          {zst, pack(zst, inner, zeros...), want, "data follows"},
		"zst, a skippable frame":       {zst, pack(zst, inner, 0x50, 0x2A, 0x4D, 0x18, 2, 0, 0, 0, 'h', 'i'), want, "data follows"},
		"zst, a skippable frame first": {zst, append([]byte{0x50, 0x2A, 0x4D, 0x18, 2, 0, 0, 0, 'h', 'i'}, pack(zst, inner)...), want, "not a frame"},
		"gz with a name":               {gz, named(func(h *gzip.Header) { h.Name = "x" }), want, "the gzip header"},
		"gz with a comment":            {gz, named(func(h *gzip.Header) { h.Comment = "x" }), want, "the gzip header"},
		"gz with extras":               {gz, named(func(h *gzip.Header) { h.Extra = []byte("x") }), want, "the gzip header"},
		"gz with a time":               {gz, named(func(h *gzip.Header) { h.ModTime = h.ModTime.AddDate(2000, 0, 0) }), want, "the gzip header"},
		"zeros behind the tar":         {zst, pack(zst, longer), manifests.Digest{SHA256: fetchtest.SHA256(longer), Size: want.Size + 512}, "512 bytes follow the end of the tar"},
		"a tar that is cut off":        {zst, pack(zst, inner[:600]), want, "unexpected EOF"},
		"more than was said":           {zst, pack(zst, inner), manifests.Digest{SHA256: want.SHA256, Size: want.Size - 1}, "more than"},
		"less than was said":           {zst, pack(zst, inner), manifests.Digest{SHA256: want.SHA256, Size: want.Size + 1}, another},
		"another tar":                  {zst, pack(zst, inner), manifests.Digest{SHA256: strings.Repeat("0", 64), Size: want.Size}, another},
	} {
		contents, _, err := read(t, test.data, archive.Options{Format: test.format, Top: "top", Tar: &test.tar}, test.tar.Size)
		if err != nil || len(contents.Findings) != 1 || !strings.Contains(contents.Findings[0].Detail, test.want) {
			t.Errorf("%s: %v, %v, want %q", name, contents, err, test.want)
		}
	}
}

// A bomb must cost neither memory nor disk, whether it is the file of an entry or what is passed
// over.
func TestBomb(t *testing.T) {
	const size = 80 << 20
	list := append(good(), fetchtest.Entry{Name: top + "zeros", Mode: 0o644, Body: make([]byte, size)})
	outside := append(good(), fetchtest.Entry{Name: "zeros", Mode: 0o644, Body: make([]byte, size)})
	for name, list := range map[string]entries{"inside": list, "passed over": outside} {
		data := fetchtest.Tar(t, list)
		for _, format := range []string{manifests.FormatTarGz, manifests.FormatTarZst} {
			contents, _, err := read(t, fetchtest.Compress(t, data, format), archive.Options{Format: format, Top: "top", All: true}, 65<<20)
			if err != nil || len(contents.Findings) == 0 || !strings.Contains(contents.Findings[len(contents.Findings)-1].Detail, "more than 400 times its own size") {
				t.Errorf("%s, %s: %v, %v", name, format, contents, err)
			}
		}
	}
}

// The error of the archive's own bytes is not a finding, and neither is one of the disk.
func TestErrors(t *testing.T) {
	const format = manifests.FormatTarZst
	packed := fetchtest.Compress(t, fetchtest.Tar(t, good()), format)
	lost := errors.New("connection lost")
	for at := range len(packed) {
		r := io.MultiReader(bytes.NewReader(packed[:at]), iotest.ErrReader(lost))
		if contents, err := archive.Read(t.Context(), r, archive.Options{Format: format, Top: "top", All: true}); err != lost {
			t.Fatalf("after %d bytes: %v, %v", at, contents, err)
		}
	}
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := root.Close(); err != nil { // every call fails from now on
		t.Fatal(err)
	}
	var write *archive.WriteError
	if contents, err := archive.Read(t.Context(), bytes.NewReader(packed), archive.Options{Format: format, Top: "top", Into: root}); !errors.As(err, &write) {
		t.Errorf("%v, %v", contents, err)
	}
}

// A cancelReader ends a context once all its bytes were read.
type cancelReader struct {
	*bytes.Reader
	cancel context.CancelCauseFunc
	cause  error
}

func (c *cancelReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if c.Len() == 0 {
		c.cancel(c.cause)
	}
	return n, err
}

// An interrupt ends reading although all bytes came, and a file of many is still to be written.
func TestInterrupt(t *testing.T) {
	list := append(good(), fetchtest.Entry{Name: top + "zeros", Mode: 0o644, Body: make([]byte, 60<<20)})
	data := fetchtest.Tar(t, list)
	cause := errors.New("interrupted")
	for _, format := range []string{manifests.FormatTarGz, manifests.FormatTarZst} {
		ctx, cancel := context.WithCancelCause(t.Context())
		r := &cancelReader{bytes.NewReader(fetchtest.Compress(t, data, format)), cancel, cause}
		if contents, err := archive.Read(ctx, r, archive.Options{Format: format, Top: "top"}); err != cause {
			t.Errorf("%s: %v, %v", format, contents, err)
		}
	}
}
