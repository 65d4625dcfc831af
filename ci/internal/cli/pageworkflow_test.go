package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The page is made of the release that the pointer names and of the public ones, which are verified. A page
// that cannot be made does not hold up the pointer.
func TestPageWorkflow(t *testing.T) {
	j := workflows(t)["pointer.yml"].Jobs["pointer"]
	write, name := stepOf(t, j, "Write the page of the release"), stepOf(t, j, "Name the current release")
	before := slices.IndexFunc(j.Steps, func(s step) bool { return s.Name == write.Name })
	after := slices.IndexFunc(j.Steps, func(s step) bool { return s.Name == name.Name })
	if before > after || !write.ContinueOnError || write.If != "github.event_name == 'workflow_run' || inputs.release" {
		t.Errorf("steps %d and %d; it runs if %q; goes on after an error: %t", before, after, write.If, write.ContinueOnError)
	}
	if write.Env["RELEASE"] != name.Env["RELEASE"] {
		t.Errorf("the page is that of %s, and the pointer names %s", write.Env["RELEASE"], name.Env["RELEASE"])
	}
	// gh itself needs GitHub: this one has the releases of the test, and go says what it was told.
	programs := t.TempDir()
	for program, text := range map[string]string{
		"gh": `
case "$1 $2" in
"release list") [ "$LISTED" != error ] && echo "$LISTED" ;;
"release download")
	case " $MISSING " in *" $3 "*) exit 1 ;; esac
	[ "$4" = --dir ] && mkdir -p "$5" && shift 5 && echo "$*" > "$OLDPWD/asked" ;;
esac`,
		"go":  `[ "$3" != site ] || { mkdir -p page && echo "$*" > page/index.html; }; echo "$*"`,
		"git": `echo refs/heads/pointer`,
	} {
		if err := os.WriteFile(filepath.Join(programs, program), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct{ listed, missing, site, warned string }{
		"after others":                 {listed: "v3 v2 v1", site: "run ./ci site page/v3 page/v2 page/v1 --signed --out page"},
		"the first release":            {listed: "v3", site: "run ./ci site page/v3 --signed --out page"},
		"one that is taken back":       {listed: "v4 v3 v2", site: "run ./ci site page/v3 page/v4 page/v2 --signed --out page"},
		"one of another kind is there": {listed: "v3 tools v2", missing: "tools", site: "run ./ci site page/v3 page/v2 --signed --out page", warned: "::warning::the page does not compare with tools"},
		"the release is not there":     {listed: "v2", missing: "v3"},
		"GitHub does not answer":       {listed: "error"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			out, err := script(t, write, dir, programs, "RELEASE=v3", "OLDPWD="+dir, "LISTED="+strings.ReplaceAll(test.listed, " ", "\n"), "MISSING="+test.missing)
			made := strings.TrimSpace(string(mayRead(t, filepath.Join(dir, "page", "index.html"))))
			if made != test.site || (err == nil) != (test.site != "") || !strings.Contains(out, test.warned) {
				t.Errorf("it ran %q, want %q: %v\n%s", made, test.site, err, out)
			}
			wanted := "--pattern manifest.json --pattern SHA256SUMS --pattern SHA256SUMS.sigstore.json --pattern llcuda-bench.json"
			if asked := strings.TrimSpace(string(mayRead(t, filepath.Join(dir, "asked")))); test.site != "" && asked != wanted {
				t.Errorf("it downloads by %q", asked)
			}
			// The pointer takes the page that was made, and moves without one.
			out, err = script(t, stepOf(t, j, "Name the current release"), dir, programs, "RELEASE=v3", "PAGE=stray")
			want := "run ./ci pointer --release v3"
			if test.site != "" {
				want += " --page page/index.html"
			}
			if err != nil || strings.TrimSpace(out) != want {
				t.Errorf("the pointer: %q, want %q: %v", out, want, err)
			}
		})
	}
}

// mayRead reads a file that may not be there.
func mayRead(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return data
}
