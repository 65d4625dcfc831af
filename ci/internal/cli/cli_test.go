package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/python"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"ci": func() {
			ctx, cancel := context.WithCancel(context.Background())
			backend := &fakeEngines{faults: os.Getenv("FAKE"), interrupt: cancel}
			os.Exit(run(ctx, os.Args[1:], newTerminal(os.Stdout, os.Stderr), backend))
		},
	})
}

// The scripts run the command as a user does, on engines that are fake and
// archives that are real.
func TestScripts(t *testing.T) {
	params := scripts(t, "testdata/script")
	maps.Copy(params.Cmds, githubCommands(t))
	testscript.Run(t, params)
}

// scripts are those in a folder, with the commands that all of them have.
func scripts(t *testing.T, dir string) testscript.Params {
	t.Helper()
	data, err := filepath.Abs(filepath.Join("..", "..", "..", "bundler", "testdata", "fatbin"))
	if err != nil {
		t.Fatal(err)
	}
	repository, err := filepath.Abs(filepath.Join("..", "..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	// The scripts have a home folder of their own, in which Go would recompile everything.
	caches, err := exec.Command("go", "env", "GOCACHE", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	m, err := spec.Default()
	if err != nil {
		t.Fatal(err)
	}
	packaged, err := python.Version()
	if err != nil {
		t.Fatal(err)
	}
	builds, modules, _ := strings.Cut(strings.TrimSpace(string(caches)), "\n")
	return testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("FATBINS", data)
			env.Setenv("XDG_CACHE_HOME", filepath.Join(env.WorkDir, ".cache"))
			env.Setenv("SOURCE_DATE_EPOCH", "")
			env.Setenv("REPO", repository)
			env.Setenv("REPOSITORY", manifests.Repository)
			// The pin and the version of the Python package move with every release of llama.cpp.
			env.Setenv("LLAMA_VERSION", m.LlamaCPP.Version)
			env.Setenv("LLAMA_REF", m.LlamaCPP.Ref)
			env.Setenv("LLAMA_COMMIT", m.LlamaCPP.Commit)
			env.Setenv("PYTHON_VERSION", packaged)
			env.Setenv("GOCACHE", builds)
			env.Setenv("GOMODCACHE", modules)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// exits CODE args…: runs ci and expects that exit code.
			"exits": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 1 {
					ts.Fatalf("usage: exits CODE args…")
				}
				err := ts.Exec("ci", args[1:]...)
				got := "0"
				if exit, ok := err.(interface{ ExitCode() int }); ok {
					got = fmt.Sprint(exit.ExitCode())
				} else if err != nil {
					ts.Fatalf("running ci: %v", err)
				}
				if got != args[0] {
					ts.Fatalf("ci exits with %s, want %s", got, args[0])
				}
			},
			// flip FILE changes one byte in the middle of a file.
			"flip": func(ts *testscript.TestScript, _ bool, args []string) {
				name := ts.MkAbs(args[0])
				data, err := os.ReadFile(name)
				ts.Check(err)
				data[len(data)/2] ^= 1
				ts.Check(os.WriteFile(name, data, 0o644))
			},
		},
	}
}

func writeTestFile(t *testing.T, name string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
}

func listing(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}
