package cuda13

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/docker/cuda12"
)

// The lock is what packages.in wants, at the very versions, after Debian 12 as cuda12 has it.
func TestDefaultLock(t *testing.T) {
	lock, err := DefaultLock()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("packages.in")
	if err != nil {
		t.Fatal(err)
	}
	var wanted, locked []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			wanted = append(wanted, line)
		}
	}
	for _, p := range lock.Of(cuda12.PyPI) {
		locked = append(locked, string(p.Kind)+" "+p.Name+"=="+p.Version)
	}
	if diff := cmp.Diff(wanted, locked); diff != "" {
		t.Errorf("packages.lock is not of packages.in: run go generate ./docker/cuda13 (-want +got):\n%s", diff)
	}
	other, err := cuda12.DefaultLock()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(other.Of(cuda12.Base, cuda12.Deb), lock.Of(cuda12.Base, cuda12.Deb)); diff != "" {
		t.Errorf("Debian 12 is another one (-cuda12 +cuda13):\n%s", diff)
	}
	if extra := lock.Of(cuda12.CUDA, cuda12.NPM); len(extra) > 0 {
		t.Errorf("the lock has what cuda12 alone needs: %v", extra)
	}
}

// The Dockerfile gives install.sh the same lock as the pipeline does, on the same base.
func TestDockerfile(t *testing.T) {
	text, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	base, err := cuda12.BaseImage()
	if err != nil {
		t.Fatal(err)
	}
	tag, _, _ := strings.Cut(base, "@")
	_, rest, ok := strings.Cut(string(text), "RUN grep -hvE '")
	pattern, _, closed := strings.Cut(rest, "'")
	if !strings.Contains(string(text), "ARG BASE="+tag+"\n") || !ok || !closed {
		t.Fatalf("the Dockerfile does not build on %s, or does not filter its locks:\n%s", tag, text)
	}
	left := regexp.MustCompile(pattern)
	var lines []byte
	for line := range strings.Lines(string(cuda12.LockFile) + string(lockFile)) {
		if !left.MatchString(line) {
			lines = append(lines, line...)
		}
	}
	got, err := cuda12.ParseLock(lines)
	if err != nil {
		t.Fatal(err)
	}
	want, err := DefaultLock()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lock of the Dockerfile (-pipeline +Dockerfile):\n%s", diff)
	}
}
