package fetchtest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// An Entry is one entry of an archive, by its whole name.
type Entry struct {
	Name string
	Mode int64
	Body []byte
	Link string
	Type byte // tar's; 0 is a file, or a link if Link is given
	// PAX are the records of an extended header, those of sparse files included.
	PAX map[string]string
	// Patch changes the entry's header block. The checksum is recomputed.
	Patch func(block []byte)
}

// Arrange gives entries the folders that they lie in below the top folder, and sorts them, as an archive must have them.
func Arrange(top string, entries []Entry) []Entry {
	have := map[string]bool{}
	for _, e := range entries {
		have[strings.TrimSuffix(e.Name, "/")] = true
	}
	list := slices.Clone(entries)
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name, "/")
		if name != path.Clean(name) || !strings.HasPrefix(name, top+"/") {
			continue
		}
		for dir := path.Dir(name); dir != "." && !have[dir]; dir = path.Dir(dir) {
			have[dir] = true
			list = append(list, Entry{Name: dir + "/", Mode: 0o755, Type: tar.TypeDir})
		}
	}
	slices.SortStableFunc(list, func(a, b Entry) int {
		return strings.Compare(strings.TrimSuffix(a.Name, "/"), strings.TrimSuffix(b.Name, "/"))
	})
	return list
}

// Tar writes entries as they are, good or not.
func Tar(t testing.TB, entries []Entry) []byte {
	t.Helper()
	data, err := MakeTar(entries)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// MakeTar is Tar for entries that no tar may be able to hold.
func MakeTar(entries []Entry) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		header := &tar.Header{Name: e.Name, Mode: e.Mode, Size: int64(len(e.Body)), Linkname: e.Link, Typeflag: e.Type, ModTime: time.Unix(1790553600, 0)}
		switch {
		case e.Type == tar.TypeXGlobalHeader:
			header = &tar.Header{Typeflag: e.Type}
		case e.Type != 0:
		case e.Link != "":
			header.Typeflag, header.Mode = tar.TypeSymlink, 0o777
		default:
			header.Typeflag = tar.TypeReg
		}
		if e.PAX != nil {
			header.PAXRecords = map[string]string{}
		}
		for record, value := range e.PAX {
			header.PAXRecords[strings.Replace(record, sparse, unsparse, 1)] = value
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if e.Patch != nil {
			patch(buf.Bytes()[buf.Len()-blockSize:], e.Patch)
		}
		if _, err := w.Write(e.Body); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return bytes.ReplaceAll(buf.Bytes(), []byte(unsparse), []byte(sparse)), err
}

const (
	blockSize = 512
	// archive/tar reads the records of sparse files and refuses to write them: they are written under other names of the
	// same length.
	sparse, unsparse = "GNU.sparse.", "GNU-sparse-"
)

// patch changes a header block and recomputes its checksum: the sum of all bytes, with those of the checksum taken as
// spaces.
func patch(block []byte, change func([]byte)) {
	change(block)
	checksum := block[148:156]
	copy(checksum, "        ")
	sum := 0
	for _, b := range block {
		sum += int(b)
	}
	copy(checksum, fmt.Sprintf("%06o\x00 ", sum))
}

// Compress gives a tar in a format of manifests.
func Compress(t testing.TB, data []byte, format string) []byte {
	t.Helper()
	var buf bytes.Buffer
	if format == manifests.FormatTarZst {
		w, err := zstd.NewWriter(&buf)
		if err != nil {
			t.Fatal(err)
		}
		return w.EncodeAll(data, nil)
	}
	w := gzip.NewWriter(&buf)
	w.ModTime = time.Unix(0, 0) // "no time is available" in RFC 1952
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
