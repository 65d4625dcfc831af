package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/archive"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
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
		if info, err := os.Stat(filepath.Join(dir, launch.ProgramsDir, "llama-server")); err != nil || info.Mode().Perm() != 0o755 {
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

func install(t testing.TB, l *Locked, r *fetchtest.Release) Install {
	t.Helper()
	a := r.Asset(t, zst75)
	adopt(t, l, r, zst75)
	i, err := l.Activate(Install{Release: r.Manifest.Release, Bundle: a.Stem(), SM: a.SM, Folder: folder(a)})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestActivateAndRollback(t *testing.T) {
	l := open(t)
	if _, err := l.Current(); !errors.Is(err, ErrNotInstalled) {
		t.Errorf("an empty store: %v", err)
	}
	if _, err := l.Previous(); !errors.Is(err, ErrNotInstalled) {
		t.Errorf("an empty store: %v", err)
	}
	one := install(t, l, fetchtest.New(t, fetchtest.Options{Tag: "v1.0.0-runtime"}))
	if _, err := l.Previous(); !errors.Is(err, ErrNoPrevious) {
		t.Errorf("one installation: %v", err)
	}
	newer := fetchtest.New(t, fetchtest.Options{Tag: "v1.1.0-runtime"})
	two := install(t, l, newer)
	again := install(t, l, newer) // repaired: what to go back to is still the first
	for what, want := range map[string]bool{
		"the second goes back to the first": two.Previous == one.ID,
		"so does its repair":                again.Previous == one.ID && again.ID != two.ID,
	} {
		if !want {
			t.Errorf("not true: %s", what)
		}
	}
	if current, err := l.Current(); err != nil || current.ID != again.ID || l.Sound(current) != nil {
		t.Errorf("%+v %v", current, err)
	}
	back, err := l.Previous()
	if err == nil {
		err = l.Rollback(back)
	}
	if err != nil || back.ID != one.ID {
		t.Errorf("%+v %v", back, err)
	}
	link, err := filepath.EvalSymlinks(l.path(launch.CurrentName, "none", launch.BundleName))
	if err != nil || link != l.Dir(one) {
		t.Errorf("current leads to %s: %v", link, err)
	}

	// Prune leaves the current one and that before it. Nothing is before the first.
	if _, err := l.Prune(); err != nil {
		t.Fatal(err)
	}
	if list, err := l.List(); err != nil || len(list) != 1 || list[0].ID != one.ID {
		t.Errorf("%+v %v", list, err)
	}
	if l.Sound(one) != nil {
		t.Error("prune removed what is in use")
	}
	if items, err := l.Prunable(); err != nil || len(items) > 0 {
		t.Errorf("%v %v", items, err)
	}
}

func TestLink(t *testing.T) {
	l := open(t)
	r := fetchtest.New(t, fetchtest.Options{})
	i := install(t, l, r)
	var runtime manifests.Artifact
	for _, a := range r.Manifest.Assets {
		if a.Kind == manifests.KindCUDART && a.Format == manifests.FormatTarZst {
			runtime = a
		}
	}
	adopt(t, l, r, runtime.Name)
	var libraries []manifests.CUDALibrary
	for _, name := range names {
		libraries = append(libraries, manifests.CUDALibrary{Name: name, Path: filepath.Join(folder(runtime), "lib", name)})
	}
	link := func(libraries []manifests.CUDALibrary) {
		t.Helper()
		links, err := l.Link(l.Dir(i), libraries)
		if err != nil {
			t.Fatal(err)
		}
		i.Libraries, i.Links = libraries, links
	}
	link(libraries)
	if err := l.Sound(i); err != nil {
		t.Error(err)
	}
	a := r.Asset(t, zst75)
	for _, asset := range []manifests.Artifact{a, runtime} {
		if findings, err := l.Verify(t.Context(), asset, names); err != nil || len(findings) > 0 {
			t.Errorf("%v %v", findings, err)
		}
	}
	if findings, _ := l.Verify(t.Context(), a, nil); len(findings) != 3 {
		t.Errorf("links nobody asked for: %v", findings)
	}

	// Unpacked again, the bundle has the libraries that it had.
	adopt(t, l, r, zst75)
	if err := l.Sound(i); err != nil {
		t.Error(err)
	}
	// The store can be moved as a whole.
	moved := &Store{Home: l.Home + "-moved"}
	if err := os.Rename(l.Home, moved.Home); err != nil {
		t.Fatal(err)
	}
	if err := moved.Sound(i); err != nil {
		t.Error(err)
	}
	if err := os.Rename(moved.Home, l.Home); err != nil {
		t.Fatal(err)
	}

	before := i
	link([]manifests.CUDALibrary{{Name: names[0], Path: "/usr/lib/" + names[0]}})
	if err := l.Sound(i); err == nil {
		t.Error("a link that leads nowhere is sound")
	}
	if err := l.Sound(before); err == nil {
		t.Error("an installation with other libraries is sound")
	}
	link(nil)
	if err := l.Sound(i); err != nil {
		t.Error(err)
	}

	stage, err := l.Stage(a)
	if err != nil {
		t.Fatal(err)
	}
	defer stage.Close()
	if err := stage.Unpack(t.Context(), bytes.NewReader(r.Read(t, zst75))); err != nil {
		t.Fatal(err)
	}
	if err := stage.Adopt([]string{"libllama.so.0"}); err == nil {
		t.Error("a file of the bundle was replaced")
	}
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

// Whoever waits for the lock is told whom for, once.
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

func TestTryPrograms(t *testing.T) {
	for name, test := range map[string]struct {
		script  string
		gpu     bool
		want    Probe
		problem string
	}{
		"good, no GPU asked": {"echo 'version: 0.5.0 (de3ff81)'", false, Probe{Version: "0.5.0 (de3ff81)"}, ""},
		"good": {"case $1 in --version) echo 'version: 1' >&2;; *) echo '  CUDA0: Tesla T4 (1 MiB, 1 MiB free)';; esac", true,
			Probe{Version: "1", Devices: []string{"CUDA0: Tesla T4 (1 MiB, 1 MiB free)"}}, ""},
		"exit code 0 and no GPU": {"echo 'Available devices:'; echo '  (none)'", true, Probe{}, "it sees no GPU"},
		"does not start":         {"echo 'libfoo.so.1: cannot open shared object file' >&2; exit 127", false, Probe{}, "exit status 127\nlibfoo.so.1"},
		"crashes":                {"kill -SEGV $$", false, Probe{}, "signal: segmentation fault"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.MkdirAll(filepath.Join(dir, launch.ProgramsDir), 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, launch.ProgramsDir, "llama-server"), []byte("#!/bin/sh\n"+test.script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			got, err := TryPrograms(t.Context(), launch.Installation{Bundle: dir}, test.gpu)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			var failed *ProbeError
			if (test.problem == "") != (err == nil) || err != nil && (!errors.As(err, &failed) || !strings.Contains(err.Error(), test.problem)) {
				t.Errorf("%v, want %q", err, test.problem)
			}
		})
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
