package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// workflow is what the tests read of a workflow.
type workflow struct {
	On          any               `yaml:"on"`
	Permissions map[string]string `yaml:"permissions"`
	Concurrency any               `yaml:"concurrency"`
	Jobs        map[string]job    `yaml:"jobs"`
}

type job struct {
	Needs       any                `yaml:"needs"`
	Permissions *map[string]string `yaml:"permissions"`
	Timeout     int                `yaml:"timeout-minutes"`
	Outputs     map[string]string  `yaml:"outputs"`
	Strategy    struct {
		Matrix any `yaml:"matrix"`
	} `yaml:"strategy"`
	Env   map[string]string `yaml:"env"`
	Steps []step            `yaml:"steps"`
}

type step struct {
	ID   string            `yaml:"id"`
	Uses string            `yaml:"uses"`
	With map[string]any    `yaml:"with"`
	Run  string            `yaml:"run"`
	Env  map[string]string `yaml:"env"`
}

var repositoryRoot = filepath.Join("..", "..", "..")

// workflows are those of the repository, by the names of their files.
func workflows(t *testing.T) map[string]workflow {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(repositoryRoot, ".github", "workflows", "*.yml"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]workflow{}
	for _, path := range paths {
		var w workflow
		if err := yaml.Unmarshal(read(t, path), &w); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all[filepath.Base(path)] = w
	}
	if want := []string{"ci.yml", "models.yml", "pointer.yml", "release.yml"}; !slices.Equal(slices.Sorted(maps.Keys(all)), want) {
		t.Fatalf("the workflows are %q", slices.Sorted(maps.Keys(all)))
	}
	return all
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// What a workflow may do is written down twice, here with the reason: a permission more is a decision.
var permissions = map[string]map[string]string{
	"models.yml/publish":  {"contents": "read", "id-token": "write"}, // trusted publishing
	"ci.yml/test":         {"contents": "read"},
	"pointer.yml/pointer": {"contents": "write", "id-token": "write"}, // signs, and pushes the pointer's branch
	"pointer.yml/clock":   {"actions": "write"},                       // keeps the schedule from being stopped
	"release.yml/plan":    {"contents": "read"},
	"release.yml/build":   {"contents": "read"},
	"release.yml/collect": {"contents": "read", "id-token": "write"}, // signs
	"release.yml/draft":   {"contents": "write"},                     // makes the draft
	"release.yml/gpu":     {},
	"release.yml/publish": {"contents": "write"}, // publishes it
}

func TestWorkflowsMayLittle(t *testing.T) {
	got := map[string]map[string]string{}
	for file, w := range workflows(t) {
		if w.Permissions == nil || len(w.Permissions) > 0 {
			t.Errorf("%s: as a whole it may %v, and must be given nothing", file, w.Permissions)
		}
		if w.Concurrency == nil {
			t.Errorf("%s: it has no concurrency group", file)
		}
		for name, j := range w.Jobs {
			if j.Permissions == nil {
				t.Errorf("%s/%s: it does not say what it may", file, name)
				continue
			}
			got[file+"/"+name] = *j.Permissions
			if j.Timeout == 0 {
				t.Errorf("%s/%s: it has no time limit", file, name)
			}
		}
	}
	if diff := cmp.Diff(permissions, got); diff != "" {
		t.Error(diff)
	}
}

// pinned is an action by its whole commit, with the version for people.
var pinned = regexp.MustCompile(`^[a-z-]+/[a-z-]+@[0-9a-f]{40} # v[0-9]+\.[0-9]+\.[0-9]+$`)

func TestActionsArePinned(t *testing.T) {
	versions := map[string]string{}
	for file, w := range workflows(t) {
		for line := range strings.Lines(string(read(t, filepath.Join(repositoryRoot, ".github", "workflows", file)))) {
			_, action, found := strings.Cut(line, "uses: ")
			if !found {
				continue
			}
			action = strings.TrimSpace(action)
			if !pinned.MatchString(action) {
				t.Errorf("%s: %s is not pinned by commit and version", file, action)
			}
			name, version, _ := strings.Cut(action, "@")
			if before, ok := versions[name]; ok && before != version {
				t.Errorf("%s: %s is %s here and %s elsewhere", file, name, version, before)
			}
			versions[name] = version
		}
		for name, j := range w.Jobs {
			for _, s := range j.Steps {
				// Only the job that pushes keeps the token where every later step can read it.
				keeps := file == "pointer.yml"
				if strings.HasPrefix(s.Uses, "actions/checkout@") && s.With["persist-credentials"] != keeps {
					t.Errorf("%s/%s: persist-credentials is %v", file, name, s.With["persist-credentials"])
				}
			}
		}
	}
}

// Values that somebody else chose reach a shell through the environment alone, nothing needs a secret, and a fork has
// nothing to change.
func TestWorkflowsTakeNothingLiterally(t *testing.T) {
	for file, w := range workflows(t) {
		text := string(read(t, filepath.Join(repositoryRoot, ".github", "workflows", file)))
		for _, bad := range []string{"secrets.", "waqasm86", "pull_request_target", "toJSON(github"} {
			if strings.Contains(text, bad) {
				t.Errorf("%s has %q in it", file, bad)
			}
		}
		for name, j := range w.Jobs {
			for _, s := range j.Steps {
				if strings.Contains(s.Run, "${{") {
					t.Errorf("%s/%s: a script with an expression in it: %s", file, name, s.Run)
				}
			}
		}
	}
}

// The identities that clients trust are those of these workflows: a release's signer runs for tags alone, and the
// pointer's for the default branch, whatever starts it.
func TestWorkflowsAreTheTrustedOnes(t *testing.T) {
	all := workflows(t)
	for signer, want := range map[string][]string{
		manifests.SignerIdentity + "@": {"push"}, manifests.PointerWorkflow: {"schedule", "workflow_dispatch", "workflow_run"},
	} {
		file, ref, _ := strings.Cut(filepath.Base(strings.Replace(signer, "refs/heads/", "", 1)), "@")
		w, ok := all[file]
		if !ok {
			t.Errorf("clients trust %s, and there is no such workflow", signer)
			continue
		}
		on, _ := w.On.(map[string]any)
		if got := slices.Sorted(maps.Keys(on)); !slices.Equal(got, want) || ref != "" && ref != "main" {
			t.Errorf("%s starts at %q, and clients trust %s", file, got, signer)
		}
	}
	push, _ := all["release.yml"].On.(map[string]any)["push"].(map[string]any)
	if diff := cmp.Diff(map[string]any{"tags": []any{"v*"}}, push); diff != "" {
		t.Errorf("release.yml signs for more than tags:\n%s", diff)
	}
}

// Every command in a workflow is one that ci has, with flags that it has. What the shell leaves out or puts in, by
// ${VAR:+…}, is tried both ways.
func TestWorkflowCommands(t *testing.T) {
	const program = "go run ./ci "
	seen := map[string]bool{}
	for file, w := range workflows(t) {
		for name, j := range w.Jobs {
			for _, s := range j.Steps {
				for line := range strings.Lines(s.Run) {
					_, command, found := strings.Cut(line, program)
					if !found {
						continue
					}
					command, _, _ = strings.Cut(command, ")") // $(…)
					for _, arguments := range expansions(command) {
						path, err := parses(arguments)
						if err != nil {
							t.Errorf("%s/%s: %s%s: %v", file, name, program, strings.Join(arguments, " "), err)
						}
						seen[path] = true
					}
				}
			}
		}
	}
	want := []string{"ci build", "ci client", "ci manifest", "ci plan", "ci pointer", "ci publish github", "ci publish models", "ci sign", "ci verify"}
	if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, want) {
		t.Errorf("the workflows run %q", got)
	}
}

// parses has the real command line read arguments, as far as it goes without running the command.
func parses(arguments []string) (path string, err error) {
	root := newRoot(&terminal{out: io.Discard, err: io.Discard}, nil)
	cmd, rest, err := root.Find(arguments)
	if err != nil {
		return "", err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return cmd.CommandPath(), err
	}
	if !cmd.Runnable() || cmd.HasSubCommands() {
		return cmd.CommandPath(), fmt.Errorf("%s is no command by itself", cmd.CommandPath())
	}
	return cmd.CommandPath(), cmd.ValidateArgs(cmd.Flags().Args())
}

var (
	optional = regexp.MustCompile(`\$\{[A-Z_]+:\+([^}]*)\}`)
	variable = regexp.MustCompile(`"\$([A-Z_]+)"`)
)

// expansions are what a shell could make of a simple command: with all of its ${VAR:+…}, and without.
func expansions(command string) [][]string {
	var all [][]string
	for _, with := range []string{"$1", ""} {
		line := variable.ReplaceAllString(optional.ReplaceAllString(command, with), "$1")
		if words := strings.Fields(line); len(all) == 0 || !slices.Equal(words, all[0]) {
			all = append(all, words)
		}
	}
	return all
}

// A test that could not fail would be none.
func TestWorkflowCommandsCanFail(t *testing.T) {
	for _, command := range []string{"", "nothing", "publish", "publish nothing dist", "client", "client dist dist", "verify --nothing dist", "plan --sm"} {
		if path, err := parses(strings.Fields(command)); err == nil {
			t.Errorf("ci %s counts as the command %s", command, path)
		}
	}
	got := expansions(`build --sm "$SM" ${ENGINE:+--engine "$ENGINE"}`)
	want := [][]string{{"build", "--sm", "SM", "--engine", "ENGINE"}, {"build", "--sm", "SM"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// What else the workflows run is there, too.
func TestWorkflowScripts(t *testing.T) {
	all := workflows(t)
	if run := all["ci.yml"].Jobs["test"].Steps; run[len(run)-1].Run != ".ci/run" {
		t.Errorf("ci.yml runs %q", run[len(run)-1].Run)
	}
	info, err := os.Stat(filepath.Join(repositoryRoot, ".ci", "run"))
	if err != nil || info.Mode()&0o111 == 0 {
		t.Errorf(".ci/run cannot be run: %v", err)
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
		t.Fatalf("the output is no line of its own: %q", value)
	}
	var matrix struct {
		Include []map[string]string `json:"include"`
	}
	if err := json.Unmarshal(value, &matrix); err != nil {
		t.Fatal(err)
	}
	if len(matrix.Include) != 8 {
		t.Errorf("it has %d jobs, not the eight of a release", len(matrix.Include))
	}
	asked := regexp.MustCompile(`\$\{\{ matrix\.([a-z]+) \}\}`).FindAllStringSubmatch(string(read(t, filepath.Join(repositoryRoot, ".github", "workflows", "release.yml"))), -1)
	for _, match := range asked {
		for _, job := range matrix.Include {
			if job[match[1]] == "" {
				t.Errorf("the build job asks for matrix.%s, and %v has none", match[1], job)
			}
		}
	}
}
