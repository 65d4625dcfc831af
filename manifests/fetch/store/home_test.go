package store

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/home"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
)

// write makes a file that is not the store's, and its parent folders.
func write(t testing.TB, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Folders that are not store: nothing in them changes.
func TestForeignHomes(t *testing.T) {
	for name, test := range map[string]struct {
		home func(t *testing.T, dir string) string
		want string // of the error; empty where it becomes a store
	}{
		"missing": {func(_ *testing.T, dir string) string { return filepath.Join(dir, "a/b") }, ""},
		"empty":   {func(_ *testing.T, dir string) string { return dir }, ""},
		"a link to an empty folder": {func(t *testing.T, dir string) string {
			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(dir, link); err != nil {
				t.Fatal(err)
			}
			return link
		}, ""},
		"a killed beginning": {func(t *testing.T, dir string) string {
			if err := os.WriteFile(filepath.Join(dir, home.Marker), []byte(markerText[:9]), 0o644); err != nil {
				t.Fatal(err)
			}
			return dir
		}, ""},
		"a file in it":           {func(t *testing.T, dir string) string { write(t, dir+"/x"); return dir }, "is not empty"},
		"a folder named as ours": {func(t *testing.T, dir string) string { write(t, dir+"/staging/x"); return dir }, "is not empty"},
		"all folders named as ours": {func(t *testing.T, dir string) string {
			for folder := range folders {
				write(t, filepath.Join(dir, folder, "old-1234567890/x"))
			}
			return dir
		}, "is not empty"},
		"a hidden file": {func(t *testing.T, dir string) string { write(t, dir+"/.config"); return dir }, "is not empty"},
		"a lock":        {func(t *testing.T, dir string) string { write(t, dir+"/"+lockName); return dir }, "is not empty"},
		"the user's":    {func(t *testing.T, dir string) string { t.Setenv("HOME", dir); return dir }, "more than a store"},
		"a link to that": {func(t *testing.T, dir string) string {
			t.Setenv("HOME", dir)
			return filepath.Join(dir, "..", filepath.Base(dir)) + "/"
		}, "more than a store"},
		"the root":      {func(*testing.T, string) string { return "/" }, "more than a store"},
		"a newer store": {func(t *testing.T, dir string) string { write(t, dir+"/"+home.Marker); return dir }, "another llcuda-fetch"},
		"a marker's link": {func(t *testing.T, dir string) string {
			write(t, dir+"/real")
			_ = os.Symlink("real", dir+"/"+home.Marker)
			return dir
		}, "is not a file"},
		"a file for a home":  {func(t *testing.T, dir string) string { write(t, dir+"/file"); return dir + "/file" }, "not a directory"},
		"everybody's folder": {func(t *testing.T, dir string) string { _ = os.Chmod(dir, 0o777); return dir }, "everybody"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			home := test.home(t, dir)
			before := tree(t, dir)
			l, err := (&Store{Home: home}).Lock(t.Context(), "test", nil)
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				l.Close()
				if marker, err := os.ReadFile(filepath.Join(home, "llcuda-store")); string(marker) != markerText {
					t.Errorf("its marker is %q, %v", marker, err)
				}
				again, err := (&Store{Home: home}).Lock(t.Context(), "test", nil)
				if err != nil {
					t.Fatal(err)
				}
				again.Close()
				return
			}
			if err == nil {
				l.Close()
			}
			var hint interface{ Hint() string }
			if err == nil || !strings.Contains(err.Error(), test.want) || !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "--home") {
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// filled returns a store with an installation, and with foreign files whose names are like the
// store's.
func filled(t *testing.T) (l *Locked, foreign []string) {
	l = open(t)
	install(t, l, fetchtest.New(t, fetchtest.Options{}))
	if err := l.Keep("v1.1.0-runtime", Documents{Manifest: []byte("m"), Sums: []byte("s")}); err != nil {
		t.Fatal(err)
	}
	elsewhere := t.TempDir()
	write(t, elsewhere+"/precious")
	for _, name := range []string{"notes.txt", "old-1234567890/x", "downloads/film.partial", "downloads/" + strings.Repeat("a", 64) + ".partial/x", "staging/x",
		"staging/release-notes/x", "staging/old-2024/x", "staging/cuda/x", "staging/mine/x", "bundles/mine/x", "bundles/llcuda-bins-sm75-mine/x", "bundles/llcuda-bins-sm75-0123456789ab",
		"runtimes/mine/x", "runtimes/llcuda-cudart-cu12/x", "links/mine", "releases/v1/x", "releases/v1.1.0-runtime-notes/" + recordName, "installs/mine/x", "installs/9/diary", "installs/007/" + recordName,
		"pointers/mine.json", "current/mine", "current/folder/x"} {
		write(t, l.path(name))
		foreign = append(foreign, name)
	}
	for _, name := range []string{"link", "staging/old-1111111111", "bundles/llcuda-bins-sm75-aaaaaaaaaaaa", "runtimes/llcuda-cudart-cu12-aaaaaaaaaaaa", "links/aaaaaaaaaaaa", "releases/v2", "installs/5", "current/link"} {
		if err := os.Symlink(elsewhere, l.path(name)); err != nil {
			t.Fatal(err)
		}
		foreign = append(foreign, name)
	}
	t.Cleanup(func() {
		if _, err := os.Stat(elsewhere + "/precious"); err != nil {
			t.Errorf("a link was followed: %v", err)
		}
	})
	return l, foreign
}

func allThere(t *testing.T, l *Locked, names []string) {
	t.Helper()
	for _, name := range names {
		if _, err := os.Lstat(l.path(name)); err != nil {
			t.Error(err)
		}
	}
}

// What the store did not make stays, whatever it is named, and links are not followed.
func TestForeignFiles(t *testing.T) {
	l, foreign := filled(t)
	ours := []string{"staging/old-1234567890", "staging/llcuda-bins-sm75-123456789", "bundles/llcuda-bins-sm80-0123456789ab", "links/0123456789ab"}
	for _, name := range ours {
		write(t, l.path(name, "x"))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := l.Store.Lock(t.Context(), "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	allThere(t, again, foreign)
	items, err := again.Prune()
	if err != nil {
		t.Fatal(err)
	}
	allThere(t, again, foreign)
	for _, name := range ours {
		if _, err := os.Lstat(l.path(name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	if current, err := again.Current(); err != nil || again.Sound(current) != nil || len(items) != 2 {
		t.Errorf("%v, and it pruned %v", err, items)
	}
}

// Uninstalling takes all that the store made, and no more.
func TestUninstall(t *testing.T) {
	l, foreign := filled(t)
	before, err := l.Contents()
	if err != nil {
		t.Fatal(err)
	}
	got, err := l.Uninstall()
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got.Own, func(a, b Item) int { return strings.Compare(a.Path, b.Path) })
	if diff := cmp.Diff(before, got); diff != "" {
		t.Error(diff)
	}
	allThere(t, l, foreign)
	for _, name := range []string{home.Marker, lockName, "current/none", "installs/1", "releases/v1.1.0-runtime"} {
		if _, err := os.Lstat(l.path(name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	// Every foreign thing is named, by itself or by the folder that it is in.
	for _, name := range foreign {
		if !slices.ContainsFunc(got.Foreign, func(named string) bool { return named == name || strings.HasPrefix(name, named+"/") }) {
			t.Errorf("%s stays, and is not named", name)
		}
	}

	clean := open(t)
	install(t, clean, fetchtest.New(t, fetchtest.Options{}))
	link := clean.Home + "-link"
	if err := os.Symlink(clean.Home, link); err != nil {
		t.Fatal(err)
	}
	linked := &Locked{&Store{Home: link}, clean.unlock}
	if got, err := linked.Uninstall(); err != nil || len(got.Foreign) > 0 {
		t.Errorf("%v %v", got, err)
	}
	if _, err := os.Lstat(clean.Home); err == nil {
		t.Errorf("the folder is still there, with %q", tree(t, clean.Home))
	}
	if _, err := os.Lstat(link); err != nil {
		t.Errorf("the user's own link is gone: %v", err)
	}
}

// A folder of the store's that is something else is not used, and stays.
func TestFoldersThatAreNone(t *testing.T) {
	for dir := range folders {
		for _, what := range []string{"link", "file"} {
			l := open(t)
			elsewhere := t.TempDir()
			write(t, elsewhere+"/old-1234567890/x")
			if err := os.RemoveAll(l.path(dir)); err != nil {
				t.Fatal(err)
			}
			if what == "link" {
				if err := os.Symlink(elsewhere, l.path(dir)); err != nil {
					t.Fatal(err)
				}
			} else {
				write(t, l.path(dir))
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			again, err := l.Store.Lock(t.Context(), "test", nil)
			if err == nil {
				again.Close()
				t.Errorf("%s that is a %s is used", dir, what)
			} else if !strings.Contains(err.Error(), l.path(dir)) {
				t.Errorf("%s that is a %s: %v", dir, what, err)
			}
			if _, err := os.Lstat(elsewhere + "/old-1234567890/x"); err != nil {
				t.Errorf("%s: the link was followed: %v", dir, err)
			}
			if _, err := os.Lstat(l.path(dir)); err != nil {
				t.Error(err)
			}
		}
	}
}

// What lies in the place of a bundle and is not a folder does not belong to the store.
func TestPlaceTaken(t *testing.T) {
	r := fetchtest.New(t, fetchtest.Options{})
	l := open(t)
	place := l.path(folder(r.Asset(t, zst75)))
	elsewhere := t.TempDir()
	write(t, elsewhere+"/x")
	if err := os.Symlink(elsewhere, place); err != nil {
		t.Fatal(err)
	}
	if _, there := l.Folder(r.Asset(t, zst75)); there {
		t.Error("a link is taken for the bundle")
	}
	write(t, l.path("made/y"))
	var foreign *ForeignError
	if err := l.put(l.path("made"), place); !errors.As(err, &foreign) {
		t.Errorf("got %v", err)
	}
	if target, err := os.Readlink(place); err != nil || target != elsewhere {
		t.Errorf("%s %v", target, err)
	}
}

// Two kinds of machines share a store: each has its own current installation, and what it goes back
// to.
func TestKinds(t *testing.T) {
	l := open(t)
	kind := "1x1eb8"
	l.Store.Machine = func() launch.Machine { return launch.Machine{Kind: kind, Fingerprint: kind} }
	t4 := install(t, l, fetchtest.New(t, fetchtest.Options{Tag: "v1.0.0-runtime"}))
	kind = "1x20b0"
	if _, err := l.Current(); !errors.Is(err, ErrNotInstalled) {
		t.Errorf("an A100 finds what a T4 has: %v", err)
	}
	first := install(t, l, fetchtest.New(t, fetchtest.Options{Tag: "v1.1.0-runtime"}))
	second := install(t, l, fetchtest.New(t, fetchtest.Options{Tag: "v1.2.0-runtime"}))
	if first.Previous != 0 || second.Previous != first.ID {
		t.Errorf("the A100's go back to %d and %d", first.Previous, second.Previous)
	}
	third := install(t, l, fetchtest.New(t, fetchtest.Options{Tag: "v1.3.0-runtime"}))
	kind = "1x1eb8"
	if current, err := l.Current(); err != nil || current.ID != t4.ID {
		t.Errorf("the T4's is %+v, %v", current, err)
	}
	if _, err := l.Prune(); err != nil {
		t.Fatal(err)
	}
	for i, kept := range map[*Install]bool{&t4: true, &first: false, &second: true, &third: true} {
		if (l.Sound(*i) == nil) != kept {
			t.Errorf("%s after prune: %v", i.Release, l.Sound(*i))
		}
	}
	kinds, err := l.Kinds()
	if diff := cmp.Diff(map[int][]string{t4.ID: {"1x1eb8"}, third.ID: {"1x20b0"}}, kinds); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}
