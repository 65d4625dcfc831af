package store

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
)

func TestSeePointer(t *testing.T) {
	l := open(t)
	issued := time.Date(2026, 11, 25, 16, 0, 0, 0, time.UTC)
	pointer := func(number int64, release string) manifests.Pointer {
		return manifests.Pointer{Release: release, Manifest: strings.Repeat("a", 64), Number: number, Issued: issued, Expires: issued.Add(time.Hour)}
	}
	const signer, other = "https://issuer.example/ https://github.com/o/n/.github/workflows/pointer.yml@refs/heads/main", "key sha256:00"
	if _, any, err := l.SeenPointer(signer); any || err != nil {
		t.Fatalf("nothing was seen, and yet: %v, %v", any, err)
	}
	for _, step := range []struct {
		signer string
		offer  manifests.Pointer
		taken  bool
	}{
		{signer, pointer(3, "v1"), true},
		{signer, pointer(3, "v1"), true},
		{signer, pointer(2, "v2"), false},
		{signer, pointer(3, "v2"), false},
		{other, pointer(1, "v2"), true},
		{signer, pointer(4, "v0"), true},
		{signer, pointer(3, "v1"), false},
	} {
		before, _, err := l.SeenPointer(step.signer)
		if err != nil {
			t.Fatal(err)
		}
		err = l.SeePointer(step.signer, step.offer)
		var back *manifests.PointerBackError
		if step.taken && err != nil || !step.taken && !errors.As(err, &back) {
			t.Errorf("%+v: got %v", step.offer, err)
		}
		want := step.offer
		if !step.taken {
			want = before
		}
		if got, any, err := l.SeenPointer(step.signer); !got.Equal(want) || !any || err != nil {
			t.Errorf("%+v: seen now is %+v, %v, %v", step.offer, got, any, err)
		}
	}
	seen, err := l.SeenPointers()
	if err != nil {
		t.Fatal(err)
	}
	numbers := map[string]int64{}
	for _, s := range seen {
		numbers[s.Signer] = s.Pointer.Number
	}
	if diff := cmp.Diff(map[string]int64{signer: 4, other: 1}, numbers); diff != "" {
		t.Errorf("seen (-want +got):\n%s", diff)
	}
	if err := l.SeePointer(signer, manifests.Pointer{}); err == nil {
		t.Error("no pointer was taken for one")
	}
	if left, err := os.ReadDir(l.path(stagingDir)); len(left) > 0 || err != nil {
		t.Errorf("left in staging: %v, %v", left, err)
	}

	// Prune takes it for nothing to prune.
	if _, err := l.Prune(); err != nil {
		t.Fatal(err)
	}
	if p, any, err := l.SeenPointer(signer); p.Number != 4 || !any || err != nil {
		t.Errorf("after prune: %+v, %v, %v", p, any, err)
	}
}

// A record that cannot be read is not a reason to start over: otherwise an attacker who can damage
// a file could roll a machine back.
func TestDamagedPointerIsNotForgotten(t *testing.T) {
	const signer = "key sha256:00"
	p := manifests.Pointer{Release: "v1", Manifest: strings.Repeat("a", 64), Number: 3, Issued: time.Unix(1e9, 0).UTC(), Expires: time.Unix(1e9+1, 0).UTC()}
	for name, damage := range map[string]func([]byte) []byte{
		"cut off":        func(data []byte) []byte { return data[:len(data)/2] },
		"empty":          func([]byte) []byte { return nil },
		"another signer": func(data []byte) []byte { return []byte(strings.Replace(string(data), signer, "key sha256:11", 1)) },
	} {
		l := open(t)
		if err := l.SeePointer(signer, p); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(l.Home, pointerFile(signer))
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, damage(data), 0o644); err != nil {
			t.Fatal(err)
		}
		_, any, err := l.SeenPointer(signer)
		var damaged *PointerRecordError
		if any || !errors.As(err, &damaged) || damaged.Path != file || !strings.Contains(err.Error(), file) || !strings.Contains(damaged.Hint(), "remove the file") {
			t.Errorf("%s: got %v, %v", name, any, err)
		}
		if err := l.SeePointer(signer, p); err == nil {
			t.Errorf("%s: it was written over", name)
		}
	}
}
