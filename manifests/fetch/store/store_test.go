package store

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
)

const zst75 = "llcuda-bins-sm75.tar.zst"

// names are the libraries of the CUDA runtime.
var names = []string{"libcublas.so.12", "libcublasLt.so.12", "libcudart.so.12"}

func open(t testing.TB) *Locked {
	t.Helper()
	l, err := (&Store{Home: filepath.Join(t.TempDir(), "home")}).Lock(t.Context(), "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// adopt takes an asset of a release into the store.
func adopt(t testing.TB, l *Locked, r *fetchtest.Release, name string) string {
	t.Helper()
	stage, err := l.Stage(r.Asset(t, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := stage.Unpack(t.Context(), bytes.NewReader(r.Read(t, name))); err != nil {
		t.Fatal(err)
	}
	if err := stage.Adopt(names); err != nil {
		t.Fatal(err)
	}
	dir, _ := l.Folder(r.Asset(t, name))
	return dir
}

// tree lists all paths below a folder.
func tree(t testing.TB, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if name, _ := filepath.Rel(dir, path); name != "." {
			list = append(list, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// Each kind of damage is found, and named by its path.
func TestVerify(t *testing.T) {
	r := fetchtest.New(t, fetchtest.Options{})
	for name, test := range map[string]struct {
		damage func(dir string) error
		want   string
	}{
		"changed": {func(dir string) error { return os.WriteFile(dir+"/LICENSE", []byte("MIT?"), 0o644) }, "LICENSE"},
		"missing": {func(dir string) error { return os.Remove(dir + "/lib/libllama.so") }, "lib/libllama.so"},
		"extra":   {func(dir string) error { return os.WriteFile(dir+"/lib/libevil.so", nil, 0o644) }, "lib/libevil.so"},
		"mode":    {func(dir string) error { return os.Chmod(dir+"/LICENSE", 0o666) }, "LICENSE"},
		"relinked": {func(dir string) error {
			return errors.Join(os.Remove(dir+"/lib/libllama.so"), os.Symlink("/etc/passwd", dir+"/lib/libllama.so"))
		}, "lib/libllama.so"},
		"metadata":    {func(dir string) error { return os.WriteFile(dir+"/metadata.json", []byte("{}"), 0o644) }, "metadata.json"},
		"no metadata": {func(dir string) error { return os.Remove(dir + "/metadata.json") }, "metadata.json"},
		"metadata without end": {func(dir string) error {
			return errors.Join(os.Remove(dir+"/metadata.json"), syscall.Mkfifo(dir+"/metadata.json", 0o644))
		}, "metadata.json"},
	} {
		t.Run(name, func(t *testing.T) {
			l := open(t)
			if err := test.damage(adopt(t, l, r, zst75)); err != nil {
				t.Fatal(err)
			}
			findings, err := l.Verify(t.Context(), r.Asset(t, zst75), names)
			if err != nil || len(findings) != 1 || findings[0].Path != test.want {
				t.Errorf("%v %v", findings, err)
			}
		})
	}
}

// A caller that waits for the lock learns once which process has it.
func TestLock(t *testing.T) {
	l := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	var told []Holder
	_, err := l.Store.Lock(ctx, "second", func(h Holder) {
		told = append(told, h)
		time.AfterFunc(5*lockPoll, cancel)
	})
	if !errors.Is(err, context.Canceled) || len(told) != 1 || told[0].PID != os.Getpid() || told[0].Command != "test" {
		t.Errorf("%v %v", told, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := l.Store.Lock(t.Context(), "second", nil)
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}

func TestDocuments(t *testing.T) {
	l := open(t)
	want := Documents{Manifest: []byte("m"), Sums: []byte("s"), Signature: []byte("g")}
	for range 2 {
		if err := l.Keep("v1", want); err != nil {
			t.Fatal(err)
		}
	}
	want.Signature = nil
	if err := l.Keep("v1", want); err != nil {
		t.Fatal(err)
	}
	got, err := l.Documents("v1")
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(diff, err)
	}
	if _, err := l.Documents("v2"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
