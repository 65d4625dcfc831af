package cuda12

import (
	"bufio"
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const someSHA = "a2d54dca8a5b1c3f5c9c7dd1b1a1fdac2c7e0e5a3f8ce3a5a7ee9f5c3b0d1e2f"

func TestParseLock(t *testing.T) {
	text := "# a comment\n\ndeb gcc 4:12.2.0-3 pool/main/g/gcc.deb 5216 " + someSHA + "\npypi nvidia-nvvm 13.3.73 packages/f3/nvvm.whl 69 " + someSHA + "\nnpm npm 10.9.9 npm/-/npm-10.9.9.tgz 7 " + someSHA + "\n"
	lock, err := ParseLock([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := Lock{
		{Kind: Deb, Name: "gcc", Version: "4:12.2.0-3", Path: "pool/main/g/gcc.deb", Size: 5216, SHA256: someSHA},
		{Kind: PyPI, Name: "nvidia-nvvm", Version: "13.3.73", Path: "packages/f3/nvvm.whl", Size: 69, SHA256: someSHA},
		{Kind: NPM, Name: "npm", Version: "10.9.9", Path: "npm/-/npm-10.9.9.tgz", Size: 7, SHA256: someSHA},
	}
	if diff := cmp.Diff(want, lock); diff != "" {
		t.Errorf("lock (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want[2:], lock.Of(NPM, CUDA)); diff != "" {
		t.Errorf("npm packages (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want[1:2], lock.Without(Deb, NPM)); diff != "" {
		t.Errorf("without Debian's and npm's (-want +got):\n%s", diff)
	}
	again, err := ParseLock(lock.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(lock, again); diff != "" {
		t.Errorf("encoded and parsed again (-want +got):\n%s", diff)
	}
}

func TestParseLockRefuses(t *testing.T) {
	line := func(fields ...string) string { return strings.Join(fields, " ") + "\n" }
	good := line("deb", "gcc", "1", "pool/gcc.deb", "5", someSHA)
	for name, test := range map[string]struct{ text, words string }{
		"nothing":            {"# only a comment\n", "no package"},
		"too few fields":     {line("deb", "gcc", "1", "pool/gcc.deb", "5"), "line 1 has 5 fields"},
		"unknown kind":       {good + line("rpm", "gcc", "1", "gcc.rpm", "5", someSHA), `line 2: unknown kind "rpm"`},
		"no size":            {line("deb", "gcc", "1", "pool/gcc.deb", "0", someSHA), `"0" is not a size`},
		"short digest":       {line("deb", "gcc", "1", "pool/gcc.deb", "5", someSHA[2:]), "is not a SHA-256"},
		"upper-case digest":  {line("deb", "gcc", "1", "pool/gcc.deb", "5", strings.ToUpper(someSHA)), "is not a SHA-256"},
		"path out of mirror": {line("deb", "gcc", "1", "../gcc.deb", "5", someSHA), "is not a path below the mirror"},
		"absolute path":      {line("deb", "gcc", "1", "/pool/gcc.deb", "5", someSHA), "is not a path below the mirror"},
		"the same twice":     {good + good, "line 2: deb gcc is in line 1 already"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseLock([]byte(test.text))
			if err == nil || !strings.Contains(err.Error(), test.words) {
				t.Errorf("error is %v, want one with %q", err, test.words)
			}
		})
	}
}

// The lock in the tree is complete for packages.in: a wish without a lock line
// means that go generate was forgotten.
func TestDefaultLockMatchesWishes(t *testing.T) {
	lock, err := DefaultLock()
	if err != nil {
		t.Fatal(err)
	}
	have := make(map[string]bool)
	debs := make(map[string]Kind)
	for _, p := range lock {
		name := p.Name
		switch p.Kind {
		case NPM:
			name += "@" + p.Version
		case Base, Deb:
			if other, twice := debs[p.Name]; twice {
				t.Errorf("%s is in the lock as %s and as %s", p.Name, other, p.Kind)
			}
			debs[p.Name] = p.Kind
		}
		have[string(p.Kind)+" "+name] = true
	}
	wishes, err := os.ReadFile("packages.in")
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(wishes))
	for lines.Scan() {
		wish := strings.TrimSpace(lines.Text())
		if wish == "" || strings.HasPrefix(wish, "#") {
			continue
		}
		// A wish for a package that the base has anyway is met by the base.
		if !have[wish] && !have[strings.Replace(wish, "deb ", "base ", 1)] {
			t.Errorf("packages.in wants %q, packages.lock has no such line: run go generate ./docker/cuda12", wish)
		}
	}
}

func TestBaseImage(t *testing.T) {
	ref, err := BaseImage()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(ref, "debian:bookworm") {
		t.Errorf("base.lock names %s, want a Debian 12", ref)
	}
	dockerfile, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	tag, _, _ := strings.Cut(ref, "@")
	if !strings.Contains(string(dockerfile), "ARG BASE="+tag+"\n") {
		t.Errorf("the Dockerfile does not build on base.lock's %s", tag)
	}
	for name, text := range map[string]string{"nothing": "# comment\n", "two": "a:1\nb:2\n"} {
		if _, err := parseBase([]byte(text)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
