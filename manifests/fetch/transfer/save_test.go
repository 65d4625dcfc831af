package transfer

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer/transfertest"
)

// What is in the folder before, what the mirrors do, and what comes of it: the file, or an error
// and what is left.
func TestSave(t *testing.T) {
	dir, data, sum := sample(t)
	long := sha512.Sum512(data)
	known := Blob{Name: "file", Size: size, SHA256: sum}
	unknown := Blob{Name: "file", Size: -1, Max: size, SHA512: hex.EncodeToString(long[:])}
	other := bytes.Repeat([]byte{7}, size)
	type files = map[string][]byte
	whole := files{"dest": data}
	for name, test := range map[string]struct {
		blob    Blob
		before  files
		mirrors mirrors
		sent    int64 // bytes; negative is not claimed
		after   files
		check   func(error) bool
	}{
		"nothing there":                 {known, nil, mirrors{{}}, size, whole, nil},
		"nothing there, size unknown":   {unknown, nil, mirrors{{}}, size, whole, nil},
		"there":                         {known, whole, mirrors{{Status: 500}}, 0, whole, nil},
		"there, size unknown":           {unknown, whole, mirrors{{Status: 500}}, 0, whole, nil},
		"cut short":                     {known, files{"dest": data[:size-1]}, mirrors{{}}, size, whole, nil},
		"damaged":                       {unknown, files{"dest": other}, mirrors{{}}, size, whole, nil},
		"interrupted":                   {known, files{"dest.partial": data[:1000]}, mirrors{{}}, size - 1000, whole, nil},
		"interrupted, size unknown":     {unknown, files{"dest.partial": data[:1000]}, mirrors{{}}, size - 1000, whole, nil},
		"whole but for its name":        {unknown, files{"dest.partial": data}, mirrors{{Status: 500}}, 0, whole, nil},
		"as long, and damaged":          {unknown, files{"dest.partial": other}, mirrors{{}}, size, whole, nil},
		"longer than the file":          {unknown, files{"dest.partial": append(other, other...)}, mirrors{{}}, size, whole, nil},
		"longer than the file, known":   {known, files{"dest.partial": append(other, other...)}, mirrors{{}}, size, whole, nil},
		"breaks once":                   {known, nil, mirrors{{Drop: 300000, Nth: 1}, {}}, size, whole, nil},
		"breaks, next mirror":           {known, nil, mirrors{{Drop: 300000, NoRanges: true}, {}}, 3*300000 + size - 300000, whole, nil},
		"breaks, next one, unknown":     {unknown, nil, mirrors{{Drop: 300000, NoRanges: true}, {}}, 3*300000 + size - 300000, whole, nil},
		"breaks always":                 {known, nil, mirrors{{Drop: size / 2, NoRanges: true}}, 3 * size / 2, files{"dest.partial": data[:size/2]}, is[*NetworkError]},
		"not there":                     {known, nil, mirrors{{Status: 404}}, 0, files{}, is[*StatusError]},
		"not there, and damaged before": {known, files{"dest": other}, mirrors{{Status: 404}}, 0, files{"dest": other}, is[*StatusError]},
		"other bytes":                   {unknown, nil, mirrors{{Flip: true}}, size, files{}, is[*DigestError]},
		"longer than it may be":         {Blob{Name: "file", Size: -1, Max: size - 1, SHA256: sum}, nil, mirrors{{}}, -1, files{}, is[*SizeError]},
		"shorter than it is":            {known, nil, mirrors{{Truncate: 5}}, -1, files{}, is[*SizeError]},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			for name, content := range test.before {
				if err := os.WriteFile(filepath.Join(folder, name), content, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			blob := test.blob
			var servers []*transfertest.Server
			for _, fault := range test.mirrors {
				s := transfertest.New(t, dir, fault)
				servers, blob.URLs = append(servers, s), append(blob.URLs, s.URL+"/file")
			}
			c := client()
			c.Streams = 1
			got, err := c.Save(t.Context(), blob, filepath.Join(folder, "dest"), nil)
			switch {
			case test.check == nil && (err != nil || got != size):
				t.Errorf("got %d, %v", got, err)
			case test.check != nil && (err == nil || !test.check(err)):
				t.Errorf("error %v is not the one wanted", err)
			}
			after := files{}
			entries, err := os.ReadDir(folder)
			if err != nil {
				t.Fatal(err)
			}
			for _, entry := range entries {
				if after[entry.Name()], err = os.ReadFile(filepath.Join(folder, entry.Name())); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(names(test.after), names(after)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			for name, content := range test.after {
				if !bytes.Equal(content, after[name]) {
					t.Errorf("%s has other bytes", name)
				}
			}
			var sent int64
			for _, s := range servers {
				sent += s.Sent()
			}
			if test.sent >= 0 && sent != test.sent {
				t.Errorf("%d bytes were sent, want %d", sent, test.sent)
			}
		})
	}
}

func names(files map[string][]byte) map[string]int {
	lengths := map[string]int{}
	for name, content := range files {
		lengths[name] = len(content)
	}
	return lengths
}

// Those who save the same blob at once share one download, and nothing else is left.
func TestSaveTogether(t *testing.T) {
	dir, data, sum := sample(t)
	s := transfertest.New(t, dir, transfertest.Fault{Rate: 16 << 20})
	dest := filepath.Join(t.TempDir(), "dest")
	failed := make(chan error)
	for range 4 {
		go func() {
			_, err := client().Save(t.Context(), Blob{Name: "file", Size: size, SHA256: sum, URLs: []string{s.URL + "/file"}}, dest, nil)
			failed <- err
		}()
	}
	for range 4 {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	got, err := os.ReadFile(dest)
	if err != nil || !bytes.Equal(got, data) || s.Sent() != size {
		t.Errorf("%d bytes came of %d that were sent, %v", len(got), s.Sent(), err)
	}
	if info, err := os.Stat(dest); err != nil || info.Mode() != 0o644 {
		t.Errorf("the mode is %v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(dest + ".*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// Partial files that were abandoned are removed; those that may be resumed, and all files with
// names of their own, stay.
func TestRemoveStale(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a [b] c")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, days := range map[string]int{"dead.partial": 8, "resting.partial": 6, "named": 400} {
		file, then := filepath.Join(dir, name), time.Now().AddDate(0, 0, -days)
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, then, then); err != nil {
			t.Fatal(err)
		}
	}
	RemoveStale(dir)
	RemoveStale(filepath.Join(dir, "none"))
	left, err := fs.Glob(os.DirFS(dir), "*")
	if diff := cmp.Diff([]string{"named", "resting.partial"}, left); diff != "" || err != nil {
		t.Errorf("left (-want +got):\n%s%v", diff, err)
	}
}
