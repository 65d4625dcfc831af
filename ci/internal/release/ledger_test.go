package release

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// A file that was changed, replaced or moved is not the one that was noted, whatever its size and
// time say.
func TestLedger(t *testing.T) {
	artifact := manifests.Artifact{Name: "llcuda-bins-sm75.tar.gz", Kind: manifests.KindBundle, Size: 4, Row: matrix.Row{SM: 75}, GPUs: []string{"T4"},
		Tar: &manifests.Digest{SHA256: "ab", Size: 9}, Requires: &manifests.Requires{Glibc: "2.34"}, SourceDateEpoch: 7}
	for name, change := range map[string]func(file string) error{
		"nothing": nil,
		"a byte, with the old time": func(file string) error {
			info, err := os.Stat(file)
			if err != nil {
				return err
			}
			if err := os.WriteFile(file, []byte("1334"), 0o644); err != nil {
				return err
			}
			return os.Chtimes(file, time.Time{}, info.ModTime())
		},
		"another file": func(file string) error {
			if err := os.WriteFile(file+".x", []byte("1234"), 0o644); err != nil {
				return err
			}
			return os.Rename(file+".x", file)
		},
		"gone":   os.Remove,
		"a link": func(file string) error { return os.Symlink(file, file) },
	} {
		t.Run(name, func(t *testing.T) {
			l, err := OpenLedger(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), artifact.Name)
			if err := os.WriteFile(file, []byte("1234"), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, _, ok := l.Known(file); ok {
				t.Error("known before it was noted")
			}
			if err := l.Note(file, "made from x", artifact); err != nil {
				t.Fatal(err)
			}
			if name == "a link" {
				os.Remove(file)
			}
			if change != nil {
				time.Sleep(20 * time.Millisecond) // the kernel's times go in steps of up to 10 ms
				if err := change(file); err != nil {
					t.Fatal(err)
				}
			}
			got, key, ok := l.Known(file)
			if ok != (change == nil) {
				t.Fatalf("known: %v", ok)
			}
			if !ok {
				return
			}
			if diff := cmp.Diff(artifact, got); diff != "" || key != "made from x" {
				t.Errorf("key %q (-want +got):\n%s", key, diff)
			}
			// Reading it again does not forget what it was made from; another program knows nothing
			// of it.
			if err := l.Note(file, "", artifact); err != nil {
				t.Fatal(err)
			}
			if _, key, _ := l.Known(file); key != "made from x" {
				t.Errorf("then the key is %q", key)
			}
			if _, _, ok := (&Ledger{l.dir, "another"}).Known(file); ok {
				t.Error("another program takes it for known")
			}
		})
	}
}
