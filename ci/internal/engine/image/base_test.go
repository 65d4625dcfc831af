package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/docker/cuda12"
)

// baseCache is the cache that builds use, with the base packages fetched: the test needs the real
// ones, and the next build will want them.
func baseCache(t *testing.T) (string, cuda12.Lock) {
	t.Helper()
	if testing.Short() {
		t.Skip("short: it makes a Debian base image")
	}
	if os.Geteuid() != 0 {
		t.Skip("making a base image needs root")
	}
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("making a base image needs a Debian host")
	}
	lock, err := cuda12.DefaultLock()
	if err != nil {
		t.Fatal(err)
	}
	lock = lock.Of(cuda12.Base)
	user, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(user, "llcuda", "builder")
	if err := Fetch(t.Context(), lock, cache, MirrorsFromEnv(os.Getenv)); err != nil {
		t.Fatal(err)
	}
	return cache, lock
}

// emptyCache makes a cache next to another one, with its files and no base image.
func emptyCache(t *testing.T, cache string, lock cuda12.Lock) string {
	t.Helper()
	empty, err := os.MkdirTemp(cache, "test-") // on the same disk, since MakeBase links files
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(empty) })
	if err := os.Mkdir(FilesDir(empty), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range lock {
		if err := os.Link(filepath.Join(FilesDir(cache), p.SHA256), filepath.Join(FilesDir(empty), p.SHA256)); err != nil {
			t.Fatal(err)
		}
	}
	return empty
}

func TestMakeBase(t *testing.T) {
	cache, lock := baseCache(t)
	first, err := MakeBase(t.Context(), lock, cache)
	if err != nil {
		t.Fatal(err)
	}
	second, err := MakeBase(t.Context(), lock, emptyCache(t, cache, lock))
	if err != nil {
		t.Fatal(err)
	}
	if first.Digest != second.Digest {
		t.Errorf("made twice, the base has two digests: %s, %s", first.Digest, second.Digest)
	}
	one, err := os.ReadFile(first.Tarball)
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.ReadFile(second.Tarball)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Error("made twice, the base has different bytes")
	}

	root := rootOf(t, one)
	installed := make(map[string]string)
	for stanza := range strings.SplitSeq(root["var/lib/dpkg/status"], "\n\n") {
		var name, version string
		for line := range strings.Lines(stanza) {
			if v, ok := strings.CutPrefix(line, "Package: "); ok {
				name = strings.TrimSpace(v)
			}
			if v, ok := strings.CutPrefix(line, "Version: "); ok {
				version = strings.TrimSpace(v)
			}
		}
		if name != "" {
			installed[name] = version
			if !strings.Contains(stanza, "Status: install ok installed\n") {
				t.Errorf("%s is not installed", name)
			}
		}
	}
	want := make(map[string]string)
	for _, p := range lock {
		want[p.Name] = p.Version
	}
	if diff := cmp.Diff(want, installed); diff != "" {
		t.Errorf("packages of the base (-lock +installed):\n%s", diff)
	}
	if _, ok := root["etc/debian_version"]; !ok {
		t.Error("the base has no etc/debian_version")
	}
	for name, content := range root {
		if isLeftOut(name) {
			t.Errorf("%s is in the base", name)
		}
		if strings.Contains(content, cache) {
			t.Errorf("%s names the cache it was made from", name)
		}
	}
}

// rootOf reads the regular files of a base image.
func rootOf(t *testing.T, layout []byte) map[string]string {
	t.Helper()
	outer := tar.NewReader(bytes.NewReader(layout))
	var layer int64
	found := make(map[string]string)
	for {
		h, err := outer.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Size < layer {
			continue
		}
		layer = h.Size
		clear(found)
		inner := tar.NewReader(outer)
		for {
			h, err := inner.Next()
			if err != nil { // the small blobs are not tar files
				break
			}
			if h.ModTime.After(baseEpoch) {
				t.Errorf("%s is newer than the base", h.Name)
			}
			if h.Uname != "" || h.Gname != "" {
				t.Errorf("%s has an owner's name", h.Name)
			}
			if h.Typeflag == tar.TypeReg {
				content, err := io.ReadAll(inner)
				if err != nil {
					t.Fatal(err)
				}
				found[h.Name] = string(content)
			}
		}
	}
	return found
}

// An interrupted build reports the interruption, whatever it was doing, and leaves nothing behind.
func TestMakeBaseInterrupted(t *testing.T) {
	cache, lock := baseCache(t)
	for what, after := range map[string]time.Duration{
		"the first packages are read": 100 * time.Millisecond,
		"packages are read":           300 * time.Millisecond,
		"mmdebstrap unpacks":          3 * time.Second,
	} {
		t.Run(what, func(t *testing.T) {
			empty := emptyCache(t, cache, lock)
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			_, err := MakeBase(ctx, lock, empty)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error is %v, want the deadline", err)
			}
			left, err := filepath.Glob(filepath.Join(empty, "base", "*"))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{filepath.Join(empty, "base", "lock")}, left); diff != "" {
				t.Errorf("left behind (-want +got):\n%s", diff)
			}
			mounts, err := os.ReadFile("/proc/self/mounts")
			if err != nil {
				t.Fatal(err)
			}
			for mount := range strings.Lines(string(mounts)) {
				if strings.Contains(mount, empty) {
					t.Errorf("still mounted: %s", mount)
				}
			}
		})
	}
}

func TestMakeBaseNeedsFiles(t *testing.T) {
	cache, lock := baseCache(t)
	empty := emptyCache(t, cache, lock)
	if err := os.Remove(filepath.Join(FilesDir(empty), lock[0].SHA256)); err != nil {
		t.Fatal(err)
	}
	_, err := MakeBase(t.Context(), lock, empty)
	if err == nil || !strings.Contains(err.Error(), "taking "+lock[0].Name+" from the cache") {
		t.Errorf("error is %v", err)
	}
}

func TestDigest(t *testing.T) {
	lock := cuda12.Lock{locked(cuda12.Deb, "gcc", "a compiler")}
	other := cuda12.Lock{locked(cuda12.Deb, "gcc", "another compiler")}
	seen := make(map[string]string)
	for name, digest := range map[string]string{
		"as it is":       Digest("sha256:1", lock, []byte("script")),
		"another base":   Digest("sha256:2", lock, []byte("script")),
		"another lock":   Digest("sha256:1", other, []byte("script")),
		"another script": Digest("sha256:1", lock, []byte("script ")),
	} {
		if before, ok := seen[digest]; ok {
			t.Errorf("%s and %s have one digest", before, name)
		}
		seen[digest] = name
	}
	if again := Digest("sha256:1", lock, []byte("script")); seen[again] != "as it is" {
		t.Errorf("the digest changes from call to call: %s", again)
	}
}

// The errors of this package go to people with their way out.
func TestHints(t *testing.T) {
	m := newMirror(t)
	deb := locked(cuda12.CUDA, "nvidia-cuda-dev", "headers")
	m.answers["debian/"+deb.Path] = []http.HandlerFunc{status(http.StatusGone)}
	err := Fetch(t.Context(), cuda12.Lock{deb}, t.TempDir(), m.options())
	var hinted interface{ Hint() string }
	if !errors.As(err, &hinted) {
		t.Fatalf("error %v has no hint", err)
	}
	for _, words := range []string{"go generate ./docker/cuda12", "LLCUDA_DEBIAN_MIRROR"} {
		if !strings.Contains(hinted.Hint(), words) {
			t.Errorf("hint %q lacks %q", hinted.Hint(), words)
		}
	}
}
