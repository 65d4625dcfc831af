package store

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
)

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
