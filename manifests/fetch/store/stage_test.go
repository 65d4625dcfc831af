package store

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/archive"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
)

func TestAdopt(t *testing.T) {
	r := fetchtest.New(t, fetchtest.Options{Padding: 1 << 20})
	for _, format := range []string{manifests.FormatTarZst, manifests.FormatTarGz} {
		l := open(t)
		a := r.Asset(t, "llcuda-bins-sm75."+format)
		dir := adopt(t, l, r, a.Name)
		if _, there := l.Folder(a); !there {
			t.Errorf("it does not lie in %s", dir)
		}
		if findings, err := l.Verify(t.Context(), a, names); err != nil || len(findings) > 0 {
			t.Errorf("%v %v", findings, err)
		}
		if left := tree(t, l.path(stagingDir)); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
		data, err := os.ReadFile(filepath.Join(dir, "binaries/cuda12/libggml-cuda.so")) // through its link
		if err != nil || !strings.HasPrefix(string(data), "device code for sm75") {
			t.Errorf("%.30q %v", data, err)
		}
		if info, err := os.Stat(filepath.Join(launch.ProgramsDir(dir), "llama-server")); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%v %v", info, err)
		}
	}
}

// Every way in which an archive of the right digest can be hostile. Each must be refused, and leave
// nothing outside the staging folder, nor in it when the next process has taken the lock.
func TestHostileArchives(t *testing.T) {
	const top = "llcuda-bins-sm75/"
	add := func(entries ...fetchtest.Entry) func([]fetchtest.Entry) []fetchtest.Entry {
		return func(list []fetchtest.Entry) []fetchtest.Entry { return append(list, entries...) }
	}
	change := func(name string, edit func(*fetchtest.Entry)) func([]fetchtest.Entry) []fetchtest.Entry {
		return func(list []fetchtest.Entry) []fetchtest.Entry {
			for i := range list {
				if list[i].Name == top+name {
					edit(&list[i])
				}
			}
			return list
		}
	}
	for name, test := range map[string]struct {
		edit func([]fetchtest.Entry) []fetchtest.Entry
		want string
	}{
		"link up":             {add(fetchtest.Entry{Name: top + "lib/evil", Link: "../../../evil"}), "leaves the archive"},
		"world-writable":      {change("LICENSE", func(e *fetchtest.Entry) { e.Mode = 0o666 }), "its mode is 0666"},
		"executable text":     {change("LICENSE", func(e *fetchtest.Entry) { e.Mode = 0o755 }), "its mode is 0755, and must be 0644"},
		"an extra file":       {add(fetchtest.Entry{Name: top + "lib/evil", Mode: 0o644, Body: []byte("evil")}), "it is not one of the files"},
		"a longer file":       {change("lib/libllama.so.0", func(e *fetchtest.Entry) { e.Body = []byte("longer") }), "it has 6 bytes, and must have 5"},
		"a changed file":      {change("lib/libllama.so.0", func(e *fetchtest.Entry) { e.Body = []byte("LLAMA") }), "its sha256 is"},
		"a changed link":      {change("lib/libllama.so", func(e *fetchtest.Entry) { e.Link = "libggml-cuda.so" }), "it links to"},
		"a missing file":      {func(l []fetchtest.Entry) []fetchtest.Entry { return l[1:] }, "it is missing"},
		"no metadata":         {func(l []fetchtest.Entry) []fetchtest.Entry { return l[:len(l)-1] }, "metadata.json"},
		"metadata of another": {change("metadata.json", func(e *fetchtest.Entry) { e.Body = bytes.ReplaceAll(e.Body, []byte("v1.1.0"), []byte("v1.0.0")) }), `release: it says "v1.0.0-runtime"`},
		"metadata, rewritten": {change("metadata.json", func(e *fetchtest.Entry) { e.Body = append(e.Body, '\n') }), "it is not written as it should be"},
		"metadata of another time": {change("metadata.json", func(e *fetchtest.Entry) {
			e.Body = bytes.ReplaceAll(e.Body, []byte("1790553600"), []byte("1790553601"))
		}), "source_date_epoch"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := fetchtest.New(t, fetchtest.Options{Edit: test.edit})
			l := open(t)
			stage, err := l.Stage(r.Asset(t, zst75))
			if err != nil {
				t.Fatal(err)
			}
			if err = stage.Unpack(t.Context(), bytes.NewReader(r.Read(t, zst75))); err == nil {
				err = stage.Adopt(names)
			}
			if written, most := diskUse(l.path(stagingDir)), r.Asset(t, zst75).Tar.Size; written > most {
				t.Errorf("%d bytes were written, and the tar has %d", written, most)
			}
			var refused *ArchiveError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an ArchiveError with %q", err, test.want)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			again, err := l.Store.Lock(t.Context(), "test", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			want := []string{"home", "home/bundles", "home/downloads", "home/installs", "home/links", "home/llcuda-store", "home/lock", "home/pointers", "home/releases", "home/runtimes", "home/staging"}
			if diff := cmp.Diff(want, tree(t, filepath.Dir(l.Home))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Bytes that are not the archive that the manifest describes, whatever their digest; and unpacked
// again, the right ones.
func TestArchivesOfAnotherSize(t *testing.T) {
	r := fetchtest.New(t, fetchtest.Options{})
	good := r.Asset(t, zst75)
	for name, test := range map[string]struct {
		tar  manifests.Digest
		data []byte
		want string
	}{
		"cut off":            {*good.Tar, r.Read(t, zst75)[:good.Size/2], "unexpected EOF"},
		"more than was said": {manifests.Digest{SHA256: good.Tar.SHA256, Size: good.Tar.Size - 1}, r.Read(t, zst75), "it unpacks to more than"},
		"another tar":        {manifests.Digest{SHA256: strings.Repeat("0", 64), Size: good.Tar.Size}, r.Read(t, zst75), "the tar inside has"},
	} {
		t.Run(name, func(t *testing.T) {
			a := good
			a.Tar = &test.tar
			stage, err := open(t).Stage(a)
			if err != nil {
				t.Fatal(err)
			}
			defer stage.Close()
			err = stage.Unpack(t.Context(), bytes.NewReader(test.data))
			var refused *ArchiveError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an ArchiveError with %q", err, test.want)
			}
			stage.asset = good
			if err := stage.Unpack(t.Context(), bytes.NewReader(r.Read(t, zst75))); err != nil {
				t.Errorf("again: %v", err)
			}
		})
	}
}

// An archive that would unpack to more than any is not even downloaded.
func TestStageRefuses(t *testing.T) {
	a := fetchtest.New(t, fetchtest.Options{}).Asset(t, zst75)
	a.Tar = &manifests.Digest{SHA256: a.Tar.SHA256, Size: archive.MaxUnpacked + 1}
	_, err := open(t).Stage(a)
	var refused *ArchiveError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "at most 4294967296 are allowed") {
		t.Errorf("got %v", err)
	}
}

// Unpacking, beside the tar program of the system on the same bytes.
func BenchmarkUnpack(b *testing.B) {
	r := fetchtest.New(b, fetchtest.Options{Padding: 64 << 20})
	data, a := r.Read(b, zst75), r.Asset(b, zst75)
	l := open(b)
	b.SetBytes(a.Tar.Size)
	for b.Loop() {
		stage, err := l.Stage(a)
		if err != nil {
			b.Fatal(err)
		}
		if err := stage.Unpack(b.Context(), io.MultiReader(bytes.NewReader(data))); err != nil {
			b.Fatal(err)
		}
		if err := stage.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
