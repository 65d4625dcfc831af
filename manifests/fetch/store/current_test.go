package store

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
)

func install(t testing.TB, l *Locked, r *fetchtest.Release) Install {
	t.Helper()
	a := r.Asset(t, zst75)
	adopt(t, l, r, zst75)
	i, err := l.Activate(Install{Release: r.Manifest.Release, Bundle: a.Stem(), Row: a.Row, Folder: folder(a)})
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
