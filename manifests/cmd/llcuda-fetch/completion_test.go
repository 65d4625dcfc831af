package main

import (
	"path/filepath"
	"testing"

	"github.com/waqasm86/llcuda-farm/manifests/goldentest"
)

// The archives of a release carry the completions as files, for systems that look for them in a folder: what
// `llcuda-fetch completion` prints.
func TestCompletions(t *testing.T) {
	for shell, name := range map[string]string{"bash": "llcuda-fetch.bash", "zsh": "_llcuda-fetch", "fish": "llcuda-fetch.fish"} {
		got, err := child(t, "llcuda-fetch", "completion", shell).Output()
		if err != nil {
			t.Fatal(err)
		}
		goldentest.Check(t, filepath.Join("completions", name), got)
	}
}

// A shell that loads the completions offers commands and flags.
func TestCompletionWorks(t *testing.T) {
	out, err := child(t, "llcuda-fetch", "__complete", "ro").Output()
	if err != nil || string(out) != "rollback\tGo back to the installation before the current one\n:4\n" {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := child(t, "bash", "-n", filepath.Join("completions", "llcuda-fetch.bash")).CombinedOutput(); err != nil {
		t.Errorf("bash: %v\n%s", err, out)
	}
}
