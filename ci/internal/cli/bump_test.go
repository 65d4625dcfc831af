package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
)

// The scripts move the pin of a matrix.yaml to releases of a small repository, which these commands make.
func TestBump(t *testing.T) {
	registry := httptest.NewServer(http.NotFoundHandler()) // no package has any release
	t.Cleanup(registry.Close)
	tree := patchable(t)
	params := scripts(t, "testdata/bump")
	setup := params.Setup
	params.Setup = func(env *testscript.Env) error {
		env.Setenv("npm_config_registry", registry.URL)
		return setup(env)
	}
	git := func(ts *testscript.TestScript, date time.Time, args ...string) string {
		cmd := exec.Command("git", append([]string{"-C", ts.MkAbs("llama"), "-c", "user.name=T", "-c", "user.email=t@example.org"}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_AUTHOR_DATE="+date.Format(time.RFC3339), "GIT_COMMITTER_DATE="+date.Format(time.RFC3339))
		out, err := cmd.CombinedOutput()
		if err != nil {
			ts.Fatalf("git %q: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	// release TAG HOURS FILE=FILE…: commits a llama.cpp, with files of the script's, and tags it so many hours ago.
	params.Cmds["release"] = func(ts *testscript.TestScript, _ bool, args []string) {
		if len(args) < 2 {
			ts.Fatalf("usage: release TAG HOURS FILE=FILE…")
		}
		age, err := time.ParseDuration(args[1] + "h")
		ts.Check(err)
		dir, date := ts.MkAbs("llama"), time.Now().Add(-age)
		if !exists(dir) {
			ts.Check(os.Mkdir(dir, 0o755))
			git(ts, date, "init", "-q", "-b", "master")
		}
		files := map[string]string{"tag": args[0]}
		for name, text := range tree {
			files[name] = text
		}
		for _, pair := range args[2:] {
			name, from, _ := strings.Cut(pair, "=")
			files[name] = ts.ReadFile(from)
		}
		for name, text := range files {
			name = filepath.Join(dir, name)
			ts.Check(errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)))
		}
		git(ts, date, "add", "-A")
		git(ts, date, "commit", "-q", "-m", args[0])
		git(ts, date, "tag", "-f", args[0])
	}
	// pin TAG FILE: writes a matrix.yaml that pins a release.
	params.Cmds["pin"] = func(ts *testscript.TestScript, _ bool, args []string) {
		commit := git(ts, time.Now(), "rev-parse", args[0])
		m, err := spec.Default()
		ts.Check(err)
		var epoch int64
		fmt.Sscan(git(ts, time.Now(), "show", "-s", "--format=%ct", commit), &epoch)
		text, err := spec.SetPin(matrix.YAML, matrix.LlamaPin{Repository: m.LlamaCPP.Repository, Ref: args[0], Version: strings.TrimPrefix(args[0], "v"), Commit: commit, Tree: git(ts, time.Now(), "rev-parse", commit+"^{tree}"), Epoch: epoch})
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), text, 0o644))
	}
	testscript.Run(t, params)
}

// patchable is a tree to which the farm's patches apply: the lines that they change, and a llama.cpp's own files.
func patchable(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{"CMakeLists.txt": "project(\"llama.cpp\" C CXX)\n", "ggml/src/ggml-cuda/CMakeLists.txt": "# CUDA\n"}
	names, err := filepath.Glob(filepath.Join(repositoryRoot, "matrix", "patches", "*.patch"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.Count(filepath.Base(name), ".") > 1 {
			continue // another form of the same change
		}
		file := ""
		for line := range strings.Lines(string(read(t, name))) {
			switch to, named := strings.CutPrefix(line, "+++ b/"); {
			case named:
				file = strings.TrimSpace(to)
			case file != "" && strings.HasPrefix(line, "@@"):
				files[file] += "\n// next\n"
			case file != "" && !strings.HasPrefix(line, "---") && (line[0] == ' ' || line[0] == '-'):
				files[file] += line[1:]
			}
		}
	}
	return files
}

// An interrupted bump leaves matrix.yaml as it was.
func TestBumpInterrupted(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		if conn, err := listener.Accept(); err == nil {
			defer conn.Close()
			cancel()
			<-t.Context().Done()
		}
	}()
	file := filepath.Join(t.TempDir(), "matrix.yaml")
	if err := os.WriteFile(file, matrix.YAML, 0o644); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	code := run(ctx, []string{"bump", "--llama", "http://" + listener.Addr().String() + "/x.git", "--matrix", file, "--cache", t.TempDir()}, &terminal{Out: &out, Err: &out}, &fakeEngines{})
	if code != exitInterrupted || string(read(t, file)) != string(matrix.YAML) {
		t.Errorf("exit code %d\n%s", code, out.String())
	}
	if left := listing(t, filepath.Dir(file)); len(left) != 1 {
		t.Errorf("left: %q", left)
	}
}
