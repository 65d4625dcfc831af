package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/matrix/spec"
)

// The order of a release: who builds and packages cannot sign, who signs does nothing else, and reviewers agree before
// anything is public.
func TestReleaseOrder(t *testing.T) {
	jobs := workflows(t)["release.yml"].Jobs
	needs := map[string]any{}
	for name, j := range jobs {
		needs[name] = j.Needs
	}
	want := map[string]any{"plan": nil, "build": "plan", "package": "build", "measure": []any{"plan", "package"}, "collect": []any{"package", "measure"}, "draft": "collect", "gpu": "draft", "publish": []any{"draft", "gpu"},
		"testpypi": "publish", "testpypi-install": "testpypi", "pypi": "testpypi-install", "pypi-install": "pypi"}
	if diff := cmp.Diff(want, needs); diff != "" {
		t.Errorf("needs (-want +got):\n%s", diff)
	}
	runs := func(name, command string) bool {
		return slices.ContainsFunc(jobs[name].Steps, func(s step) bool { return strings.HasPrefix(s.Run, "go run ./ci "+command) })
	}
	for name, j := range jobs {
		signs := (*j.Permissions)["id-token"] != ""
		if uses(j, pypiAction) {
			continue
		}
		if signs != runs(name, "sign") || signs && (runs(name, "client") || runs(name, "build") || runs(name, "manifest")) {
			t.Errorf("%s: it may sign: %v", name, signs)
		}
	}
	if !runs("package", "client") || !runs("package", "wheel") || !runs("package", "build") || !runs("build", "build") {
		t.Error("nobody builds and packages")
	}
	for name, environment := range map[string]string{"publish": "release", "draft": "", "collect": "", "build": "", "testpypi": "testpypi", "pypi": "pypi"} {
		if got := jobs[name].Environment; got != environment {
			t.Errorf("%s has the environment %q, want %q", name, got, environment)
		}
	}
}

const pypiAction = "pypa/gh-action-pypi-publish@"

func uses(j job, action string) bool {
	return slices.ContainsFunc(j.Steps, func(s step) bool { return strings.HasPrefix(s.Uses, action) })
}

// The jobs that are Trusted Publishers run nothing from this repository: they take the signed wheels
// and upload them with attestations. A job without permissions then compares and installs what was
// published, before it goes to the next index.
func TestPyPIPublishers(t *testing.T) {
	jobs := workflows(t)["release.yml"].Jobs
	for name, test := range map[string]struct {
		url    any
		verify string
	}{
		"testpypi": {"https://test.pypi.org/legacy/", "publish pypi dist --repository testpypi"},
		"pypi":     {nil, "publish pypi dist"},
	} {
		j := jobs[name]
		if len(j.Steps) != 2 || !strings.HasPrefix(j.Steps[0].Uses, "actions/download-artifact@") || !strings.HasPrefix(j.Steps[1].Uses, pypiAction) {
			t.Fatalf("%s: its steps are %+v", name, j.Steps)
		}
		if got := j.Steps[0].With["name"]; got != "wheels" {
			t.Errorf("%s: it takes the artifact %v", name, got)
		}
		want := map[string]any{"packages-dir": j.Steps[0].With["path"], "skip-existing": true, "attestations": true}
		if test.url != nil {
			want["repository-url"] = test.url
		}
		if diff := cmp.Diff(want, j.Steps[1].With); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if after := jobs[name+"-install"]; after.Steps[len(after.Steps)-1].Run != "go run ./ci "+test.verify {
			t.Errorf("%s: what is there is compared by %q", name, after.Steps[len(after.Steps)-1].Run)
		}
	}
	for name, j := range jobs {
		if uses(j, pypiAction) != ((*j.Permissions)["id-token"] != "" && name != "collect") {
			t.Errorf("%s: it publishes to an index: %v", name, uses(j, pypiAction))
		}
	}
	// The artifact is made where the release is signed, of wheels alone.
	var made []any
	for _, s := range jobs["collect"].Steps {
		if strings.HasPrefix(s.Uses, "actions/upload-artifact@") && s.With["name"] == "wheels" {
			made = append(made, s.With["path"])
		}
	}
	if diff := cmp.Diff([]any{"dist/llcuda-*.whl"}, made); diff != "" {
		t.Errorf("wheels (-want +got):\n%s", diff)
	}
	// A version that must be raised is known before the draft is made.
	order := slices.IndexFunc(jobs["draft"].Steps, func(s step) bool { return s.Run == "go run ./ci publish pypi dist --dry-run" })
	if draft := slices.IndexFunc(jobs["draft"].Steps, func(s step) bool { return strings.Contains(s.Run, "publish github") }); order < 0 || order > draft {
		t.Errorf("draft asks the index in step %d, and drafts in step %d", order, draft)
	}
}

// GitHub attests everything that people download by hand: after it was signed and verified.
func TestReleaseIsAttested(t *testing.T) {
	var order []string
	var subjects []string
	for _, s := range workflows(t)["release.yml"].Jobs["collect"].Steps {
		switch {
		case strings.HasPrefix(s.Uses, "actions/attest@"):
			order = append(order, "attest")
			subjects = strings.Fields(fmt.Sprint(s.With["subject-path"]))
		case strings.HasPrefix(s.Uses, "actions/upload-artifact@"):
			order = append(order, "upload")
		case strings.HasPrefix(s.Run, "go run ./ci "):
			order = append(order, strings.Fields(s.Run)[3])
		}
	}
	if diff := cmp.Diff([]string{"sign", "verify", "attest", "upload", "upload"}, order); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	for _, name := range []string{
		"llcuda-bins-sm75.tar.gz", "llcuda-bins-sm75.tar.zst", "llcuda-cudart-cu12-0123456789ab.tar.zst", "llcuda-fetch-linux-amd64.tar.gz", "llcuda-fetch-linux-arm64.tar.gz", "install.sh",
		"llcuda-3.0.0-py3-none-any.whl", "llcuda-3.0.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
	} {
		if !slices.ContainsFunc(subjects, func(pattern string) bool { ok, err := filepath.Match(pattern, "dist/"+name); return ok && err == nil }) {
			t.Errorf("%s is none of %q", name, subjects)
		}
	}
}

// The script that plans prints what fromJSON takes, and the matrix has every value that the build job asks for.
func TestWorkflowMatrix(t *testing.T) {
	release := workflows(t)["release.yml"]
	plan := release.Jobs["plan"]
	step := plan.Steps[len(plan.Steps)-1]
	if plan.Outputs["matrix"] != "${{ steps."+step.ID+".outputs.matrix }}" || release.Jobs["build"].Strategy.Matrix != "${{ fromJSON(needs.plan.outputs.matrix) }}" {
		t.Errorf("the matrix does not get from plan to build: %v, %v", plan.Outputs, release.Jobs["build"].Strategy.Matrix)
	}
	// The script itself, by a shell, with this test's program in the place of ci's.
	output := filepath.Join(t.TempDir(), "output")
	script := strings.ReplaceAll(step.Run, "go run ./ci", "ci")
	cmd := exec.Command("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script)
	cmd.Env = append(os.Environ(), "GITHUB_OUTPUT="+output)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	value, found := bytes.CutPrefix(read(t, output), []byte("matrix="))
	if !found || bytes.Count(value, []byte("\n")) != 1 {
		t.Fatalf("the output is not a line of its own: %q", value)
	}
	var jobs struct {
		Include []map[string]string `json:"include"`
	}
	if err := json.Unmarshal(value, &jobs); err != nil {
		t.Fatal(err)
	}
	m, err := spec.Default()
	if err != nil {
		t.Fatal(err)
	}
	// Every step of the release runs on exactly one runner, and the host half beside the SMs.
	planned, err := plannedSteps(m, m.Targets)
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, step := range planned {
		want = append(want, step.Name())
	}
	for _, job := range jobs.Include {
		steps := strings.Split(job["steps"], ",")
		got = append(got, steps...)
		if steps = slices.DeleteFunc(steps, func(s string) bool { return s == job["step"] || s == job["runtime"] }); len(steps) > 0 {
			t.Errorf("%v builds %q, which it names neither as its step nor as its runtime", job, steps)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("steps (-of the release +of the runners):\n%s", diff)
	}
	if len(jobs.Include) != len(m.Targets)+1 {
		t.Errorf("it has %d jobs, and the matrix has %d rows", len(jobs.Include), len(m.Targets))
	}
	// What is asked of the matrix is there, but for the runtime, of which the step says that there must be one.
	asked := regexp.MustCompile(`\bmatrix\.([a-z]+)\b`)
	build := release.Jobs["build"]
	uses := []string{fmt.Sprint(build.Env)}
	for _, s := range build.Steps {
		if s.If != "matrix.runtime != ''" {
			uses = append(uses, s.If, s.Run, fmt.Sprint(s.With), fmt.Sprint(s.Env))
		}
	}
	for _, match := range asked.FindAllStringSubmatch(strings.Join(uses, "\n"), -1) {
		for _, job := range jobs.Include {
			if job[match[1]] == "" {
				t.Errorf("the build job asks for matrix.%s, and %v has none", match[1], job)
			}
		}
	}
}

// The script that compares the speed, by a shell, with programs that say how they were run.
func TestSpeedGate(t *testing.T) {
	j := workflows(t)["release.yml"].Jobs["measure"]
	at := slices.IndexFunc(j.Steps, func(s step) bool { return strings.Contains(s.Run, "gate/ci bench") })
	if at < 0 {
		t.Fatal("nothing compares the speed")
	}
	for name, test := range map[string]struct {
		previous, accepted, models, want string
	}{
		"slower is refused":   {previous: "v1", want: "bench --model m/gemma-3-1b-it-Q4_K_M --at-least 0.95 --bundle previous/B --bundle dist/B --json llcuda-bench.json"},
		"accepted":            {previous: "v1", accepted: "v2", want: "bench --model m/gemma-3-1b-it-Q4_K_M --at-least 0 --bundle previous/B --bundle dist/B --json llcuda-bench.json"},
		"another is accepted": {previous: "v1", accepted: "v1", want: "bench --model m/gemma-3-1b-it-Q4_K_M --at-least 0.95 --bundle previous/B --bundle dist/B --json llcuda-bench.json"},
		"the first release":   {want: "bench --model m/gemma-3-1b-it-Q4_K_M --bundle dist/B --json llcuda-bench.json"},
		"two models":          {models: "a b:F16", want: "bench --model m/a --model m/b:F16 --bundle dist/B --json llcuda-bench.json"},
		"no download":         {previous: "missing"},
		"no model":            {models: "missing", want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range map[string]string{
				"gate/ci":             `echo "$*" > ran`,
				"client/llcuda-fetch": `case $*:$1 in *missing*) exit 6 ;; *:pull) echo "m/$2" ;; *:export) mkdir previous ;; esac`,
			} {
				if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755), os.WriteFile(filepath.Join(dir, file), []byte("#!/bin/sh\n"+text+"\n"), 0o755)); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", j.Steps[at].Run)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "GITHUB_REF_NAME=v2", "BUNDLE=B", "SM=90", "PREVIOUS="+test.previous, "ACCEPTED="+test.accepted, "MODELS="+test.models)
			out, err := cmd.CombinedOutput()
			ran, _ := os.ReadFile(filepath.Join(dir, "ran"))
			if got := strings.TrimSpace(string(ran)); got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("it ran %q, want %q: %v\n%s", got, test.want, err, out)
			}
		})
	}
}
