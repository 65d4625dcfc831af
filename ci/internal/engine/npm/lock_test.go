package npm

import (
	"crypto/sha512"
	"strings"
	"testing"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
)

func TestLockRefused(t *testing.T) {
	p := pack(t, "part", "1.0.0")
	for _, test := range []struct {
		name string
		lock []byte
		want []string
	}{
		{"no JSON", []byte("{"), []string{"package-lock.json", "unexpected end"}},
		{"npm 6", lockOf(t, 1, packages{}), []string{"lockfileVersion is 1"}},
		{"of the future", lockOf(t, 4, packages{}), []string{"lockfileVersion is 4"}},
		{"no integrity", lockOf(t, 3, packages{"node_modules/part": without(p.entry(), "integrity")}), []string{"node_modules/part", "no integrity"}},
		{"git", lockOf(t, 3, packages{"node_modules/part": p.entry("resolved", "git+ssh://git@example.org/part.git#c0ffee")}),
			[]string{"node_modules/part", "git+ssh://git@example.org/part.git#c0ffee"}},
		{"a file", lockOf(t, 3, packages{"node_modules/part": p.entry("resolved", "file:part.tgz")}), []string{"node_modules/part", "file:part.tgz"}},
		{"a weak digest", lockOf(t, 3, packages{"node_modules/part": p.entry("integrity", "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=")}), []string{"node_modules/part", "no SHA-512"}},
		{"half a digest", lockOf(t, 3, packages{"node_modules/part": p.entry("integrity", "sha512-2jmj7l5rSw0yVb/vlWAYkK/YBwk=")}), []string{"node_modules/part", "not a SHA-512"}},
		{"neither version nor source", lockOf(t, 3, packages{"node_modules/part": {"integrity": p.integrity}}), []string{"node_modules/part", "neither"}},
		{"all problems at once", lockOf(t, 3, packages{
			"node_modules/a": without(p.entry(), "integrity"),
			"node_modules/b": p.entry("resolved", "file:b.tgz"),
		}), []string{"node_modules/a", "node_modules/b"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Fetch(t.Context(), test.lock, t.TempDir(), Options{Transfer: transfer.Client{HTTP: broken}})
			if err == nil {
				t.Fatal("no error")
			}
			for _, words := range test.want {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("%q is not in: %v", words, err)
				}
			}
		})
	}
	for _, address := range []string{"registry.example.org", "ftp://example.org", "https://", "http://%"} {
		_, err := Fetch(t.Context(), lockOf(t, 3, packages{}), t.TempDir(), Options{Registry: address})
		if err == nil || !strings.Contains(err.Error(), address) {
			t.Errorf("registry %q: got %v", address, err)
		}
	}
}

// A digest that npm would choose is found among others.
func TestLockIntegrity(t *testing.T) {
	p := pack(t, "part", "1.0.0")
	for _, integrity := range []string{p.integrity, "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk= " + p.integrity, p.integrity + "?option"} {
		tarballs, _, err := parseLock(lockOf(t, 3, packages{"node_modules/part": p.entry("integrity", integrity)}))
		if err != nil || len(tarballs) != 1 || tarballs[0].sha512 != sha512.Sum512(p.tarball) {
			t.Errorf("%s: got %v, %v", integrity, tarballs, err)
		}
	}
}

func TestChoices(t *testing.T) {
	for _, test := range []struct {
		choices choices
		want    bool
	}{
		{nil, true},
		{choices{"linux"}, true},
		{choices{"darwin", "linux"}, true},
		{choices{"darwin", "win32"}, false},
		{choices{"any"}, true},
		{choices{"!win32"}, true},
		{choices{"!linux"}, false},
		{choices{"!win32", "darwin"}, false},
		{choices{"!linux", "linux"}, false},
	} {
		if got := test.choices.allow("linux"); got != test.want {
			t.Errorf("%q allow linux: %t, want %t", test.choices, got, test.want)
		}
	}
}
