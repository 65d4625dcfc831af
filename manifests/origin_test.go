package manifests_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// The workflow that clients expect release pointers to be signed by exists, cannot be called by
// other workflows, and runs by itself often enough: a pointer must not expire because nothing was
// released for a while.
func TestPointerWorkflow(t *testing.T) {
	path, ref, ok := strings.Cut(manifests.PointerWorkflow, "@")
	if !ok || !strings.HasPrefix(ref, "refs/heads/") {
		t.Fatalf("%q is not a workflow on a branch", manifests.PointerWorkflow)
	}
	data, err := os.ReadFile(filepath.Join("..", path))
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)(^|\s)#.*$`).ReplaceAllString(string(data), "")
	if !regexp.MustCompile(`(?m)^ +- cron: "\d+ \d+ \* \* \d"$`).MatchString(text) {
		t.Error("it does not run every week")
	}
	for _, more := range []string{"workflow_call", "pull_request", "push:"} {
		if strings.Contains(text, more) {
			t.Errorf("it runs for %s, too: whoever can cause that signs release pointers", more)
		}
	}
}

func TestPointerURLs(t *testing.T) {
	for i, want := range []string{
		"https://raw.githubusercontent.com/waqasm86/llcuda-farm/pointer/current.sigstore.json",
		"https://waqasm86.github.io/llcuda-farm/current.sigstore.json",
	} {
		if got := manifests.PointerURLs()[i]; manifests.Repository == "waqasm86/llcuda-farm" && got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
