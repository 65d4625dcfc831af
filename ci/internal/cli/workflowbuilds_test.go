package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/matrix/spec"
)

// buildLike runs a job's build command by a shell in a folder, with this test's program in the place of ci's, for SMs that
// the engines of the tests make bundles for.
func buildLike(t *testing.T, j job, dir string, environ ...string) {
	t.Helper()
	at := slices.IndexFunc(j.Steps, func(s step) bool { return strings.HasPrefix(s.Run, "go run ./ci build ") })
	if at < 0 {
		t.Fatal("the job builds nothing")
	}
	s := j.Steps[at]
	s.Run = strings.NewReplacer("go run ./ci", "ci", "--sm all", "--sm 75,86,89 --llama llama --cache cache").Replace(s.Run)
	for name, text := range map[string]string{
		"CMakeLists.txt":                    "project(\"llama.cpp\" C CXX)\nset(LLAMA_VERSION_MAJOR 0)\nset(LLAMA_VERSION_MINOR 7)\nset(LLAMA_VERSION_PATCH 3)\n",
		"ggml/src/ggml-cuda/CMakeLists.txt": "",
	} {
		path := filepath.Join(dir, "llama", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := script(t, s, dir, dir, append(environ, "GITHUB_REF_NAME=v1")...); err != nil {
		t.Fatalf("%s: %v\n%s", s.Run, err, out)
	}
}

// What the runners of the build job upload is what the package job downloads, and makes a release of, without an engine.
func TestWorkflowParts(t *testing.T) {
	data, err := filepath.Abs(filepath.Join("..", "..", "..", "bundler", "testdata", "fatbin"))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("FATBINS", data)
	t.Setenv("SOURCE_DATE_EPOCH", "")
	m, err := spec.Default()
	if err != nil {
		t.Fatal(err)
	}
	targets, err := m.Select("75,86,89")
	if err != nil {
		t.Fatal(err)
	}
	runners, err := actionsJobs(m, targets)
	if err != nil {
		t.Fatal(err)
	}
	jobs := workflows(t)["release.yml"].Jobs
	in := t.TempDir()
	at := slices.IndexFunc(jobs["package"].Steps, func(s step) bool { return strings.HasPrefix(s.Uses, "actions/download-artifact@") })
	takes := jobs["package"].Steps[at].With
	if takes["merge-multiple"] != true {
		t.Errorf("the parts do not come into one folder: %v", takes)
	}
	to := filepath.Join(in, fmt.Sprint(takes["path"]))
	if err := os.Mkdir(to, 0o755); err != nil {
		t.Fatal(err)
	}
	var artifacts []string
	for _, runner := range runners {
		dir := t.TempDir()
		buildLike(t, jobs["build"], dir, "STEPS="+runner.Steps)
		fill := strings.NewReplacer("${{ matrix.step }}", runner.Step, "${{ matrix.runtime }}", runner.Runtime)
		for _, s := range jobs["build"].Steps {
			if !strings.HasPrefix(s.Uses, "actions/upload-artifact@") || s.If == "failure()" || s.If == "matrix.runtime != ''" && runner.Runtime == "" {
				continue
			}
			name := fill.Replace(fmt.Sprint(s.With["name"]))
			artifacts = append(artifacts, name)
			if ok, err := filepath.Match(fmt.Sprint(takes["pattern"]), name); !ok || err != nil {
				t.Errorf("the package job does not take %s: %v", name, takes)
			}
			files, err := filepath.Glob(filepath.Join(dir, fill.Replace(fmt.Sprint(s.With["path"]))))
			if err != nil || len(files) != 2 {
				t.Errorf("the artifact %s has %q, %v", name, files, err)
			}
			for _, file := range files {
				if err := os.Rename(file, filepath.Join(to, filepath.Base(file))); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	want := []string{"part-host", "part-sm75", "part-runtime-cu12-sm7x", "part-sm86", "part-runtime-cu12-sm8x", "part-sm89"}
	if diff := cmp.Diff(want, artifacts); diff != "" {
		t.Errorf("artifacts (-want +got):\n%s", diff)
	}
	buildLike(t, jobs["package"], in, "FAKE=no-engine")
	// Of three bundles and two runtimes two archives each, and what describes them.
	if names, err := os.ReadDir(filepath.Join(in, "dist")); err != nil || len(names) != 12 {
		t.Errorf("the release is %v, %v", names, err)
	}
}

// Objects that another run compiled are for builds that nobody publishes, and only a run for main leaves them there: what a
// pull request's run saves, or what runs its code with a name of its own, no other run must see.
func TestObjectsStayInTrials(t *testing.T) {
	saves := 0
	for file, w := range workflows(t) {
		for name, j := range w.Jobs {
			for _, s := range j.Steps {
				uses := strings.Contains(s.Run, "--compiler-cache") || strings.HasPrefix(s.Uses, "actions/cache") && s.With["path"] == "objects"
				if uses && (file != "ci.yml" || name != "trial") {
					t.Errorf("%s/%s: it uses the objects of other runs: %s%s", file, name, s.Uses, s.Run)
				}
				switch {
				case uses && strings.HasPrefix(s.Uses, "actions/cache/save@"):
					saves++
					if !strings.HasPrefix(s.If, "github.event_name == 'push' && ") {
						t.Errorf("%s/%s: it saves objects if %q", file, name, s.If)
					}
				case uses && s.Uses != "" && !strings.HasPrefix(s.Uses, "actions/cache/restore@"):
					t.Errorf("%s/%s: %s saves objects whatever runs it", file, name, s.Uses)
				}
			}
		}
	}
	if saves != 1 {
		t.Errorf("objects are saved in %d places", saves)
	}
}
