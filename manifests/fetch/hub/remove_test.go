package hub

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Remove takes a file away with its bytes, and nothing that is another file's.
func TestRemove(t *testing.T) {
	const a, b = "snapshots/1/a.gguf", "snapshots/2/sub/b.gguf"
	for name, test := range map[string]struct {
		remove []string
		want   []string
		failed string
	}{
		"one of two":           {[]string{a}, []string{"blobs/bb", "refs/main", b}, ""},
		"both":                 {[]string{a, b}, nil, ""},
		"a file of its own":    {[]string{"snapshots/2/plain.gguf"}, []string{"blobs/aa", "blobs/bb", "refs/main", a, "snapshots/2/again.gguf", b}, ""},
		"a blob":               {[]string{"blobs/aa"}, []string{"blobs/aa", "blobs/bb", "refs/main", a, "snapshots/2/again.gguf", b}, "is not a model's file"},
		"out of the cache":     {[]string{"../../other/snapshots/1/a.gguf"}, []string{"blobs/aa", "blobs/bb", "refs/main", a, "snapshots/2/again.gguf", b}, "is not a model's file"},
		"one that is not here": {[]string{"snapshots/1/none.gguf"}, []string{"blobs/aa", "blobs/bb", "refs/main", a, "snapshots/2/again.gguf", b}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			cache := t.TempDir()
			root := filepath.Join(cache, "models--org--m")
			for _, dir := range []string{"blobs", "refs", "snapshots/1", "snapshots/2/sub"} {
				if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for _, file := range []string{"blobs/aa", "blobs/bb", "refs/main"} {
				if err := os.WriteFile(filepath.Join(root, file), []byte(file), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			for link, target := range map[string]string{a: "../../blobs/aa", "snapshots/2/again.gguf": "../../blobs/aa", b: "../../../blobs/bb"} {
				if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
					t.Fatal(err)
				}
			}
			if strings.HasPrefix(name, "a file of its own") {
				if err := os.WriteFile(filepath.Join(root, "snapshots/2/plain.gguf"), []byte("x"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			var failed error
			for _, file := range test.remove {
				if err := (&Client{Cache: cache}).Remove(filepath.Join(root, file)); err != nil {
					failed = err
				}
			}
			if test.failed == "" && failed != nil || test.failed != "" && (failed == nil || !strings.Contains(failed.Error(), test.failed)) {
				t.Errorf("%v, want %q", failed, test.failed)
			}
			var got []string
			_ = filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
				if err == nil && !entry.IsDir() {
					inside, _ := filepath.Rel(root, path)
					got = append(got, inside)
				}
				return nil
			})
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
