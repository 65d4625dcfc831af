package cli

import (
	"bytes"
	"encoding/json"
	"errors"
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
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
)

// workflow is what the tests read of a workflow.
type workflow struct {
	On          any               `yaml:"on"`
	Permissions map[string]string `yaml:"permissions"`
	Concurrency any               `yaml:"concurrency"`
	Jobs        map[string]job    `yaml:"jobs"`
}

type job struct {
	Needs       any    `yaml:"needs"`
	If          string `yaml:"if"`
	Environment string `yaml:"environment"`
	Container   struct {
		Image   string   `yaml:"image"`
		Options string   `yaml:"options"`
		Volumes []string `yaml:"volumes"`
	} `yaml:"container"`
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
	Name string            `yaml:"name"`
	If   string            `yaml:"if"`
	Uses string            `yaml:"uses"`
	With map[string]any    `yaml:"with"`
	Run  string            `yaml:"run"`
	Env  map[string]string `yaml:"env"`

	ContinueOnError bool `yaml:"continue-on-error"`
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
	if want := []string{"bump.yml", "ci.yml", "models.yml", "pointer.yml", "release.yml"}; !slices.Equal(slices.Sorted(maps.Keys(all)), want) {
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
	"bump.yml/look":       {"contents": "read"},
	"bump.yml/propose":    {"actions": "write", "contents": "write", "pull-requests": "write"}, // starts ci.yml, makes the branch, opens the pull request
	"bump.yml/merged":     {"contents": "read", "pull-requests": "read"},
	"bump.yml/tag":        {"actions": "write", "contents": "write"}, // starts release.yml, makes the tag
	"bump.yml/tell":       {"issues": "write"},                       // opens an issue
	"models.yml/publish":  {"contents": "read", "id-token": "write"}, // trusted publishing
	"ci.yml/test":         {"contents": "read"},
	"ci.yml/trial":        {"contents": "read"},
	"pointer.yml/pointer": {"contents": "write", "id-token": "write"}, // signs, and pushes the pointer's branch
	"pointer.yml/clock":   {"actions": "write"},                       // keeps the schedule from being stopped
	"pointer.yml/tell":    {"issues": "write"},                        // opens an issue
	"release.yml/plan":    {"contents": "read"},
	"release.yml/build":   {"contents": "read"},
	"release.yml/package": {"contents": "read"},
	"release.yml/collect": {"contents": "read", "id-token": "write", "attestations": "write"}, // signs, attests
	"release.yml/draft":   {"contents": "write"},                                              // makes the draft
	"release.yml/measure": {},                                                                 // of a self-hosted runner
	"release.yml/gpu":     {},
	"release.yml/publish": {"contents": "write"}, // publishes it

	"release.yml/testpypi":         {"id-token": "write"}, // trusted publishing
	"release.yml/testpypi-install": {"contents": "read"},
	"release.yml/pypi":             {"id-token": "write"}, // trusted publishing
	"release.yml/pypi-install":     {"contents": "read"},
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
var pinned = regexp.MustCompile(`^[a-z-]+/[a-z-]+(/[a-z-]+)?@[0-9a-f]{40} # v[0-9]+\.[0-9]+\.[0-9]+$`)

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

// Jobs that build, and jobs that test the result, run in one image pinned by digest; all others use
// the same Go version as that image.
func TestOneToolchain(t *testing.T) {
	image := regexp.MustCompile(`^golang:1\.[0-9]+-bookworm@sha256:[0-9a-f]{64}$`)
	all := workflows(t)
	images, versions := map[string]bool{}, map[string]bool{}
	for file, w := range all {
		for _, line := range strings.Split(string(read(t, filepath.Join(repositoryRoot, ".github", "workflows", file))), "\n") {
			if _, version, found := strings.Cut(line, " # Go "); found {
				versions[version] = true
			}
		}
		for name, j := range w.Jobs {
			if j.Container.Image != "" {
				images[j.Container.Image] = true
			}
			if j.Container.Image != "" && !image.MatchString(j.Container.Image) {
				t.Errorf("%s/%s: its image %s is not pinned by digest", file, name, j.Container.Image)
			}
			for _, s := range j.Steps {
				if strings.HasPrefix(s.Uses, "actions/setup-go@") {
					versions[fmt.Sprint(s.With["go-version"])] = true
					if s.With["cache"] != false {
						t.Errorf("%s/%s: Go's cache is %v", file, name, s.With["cache"])
					}
				}
			}
		}
	}
	if len(images) != 1 || len(versions) != 1 {
		t.Errorf("there are the images %v and the versions of Go %v, and should be one each", images, versions)
	}
	// The engine needs all rights, and a place for its state that is not the container's own file system.
	for _, at := range []struct{ file, job string }{{"ci.yml", "test"}, {"ci.yml", "trial"}, {"release.yml", "build"}} {
		j := all[at.file].Jobs[at.job]
		cache := j.Env["XDG_CACHE_HOME"]
		mounted := slices.ContainsFunc(j.Container.Volumes, func(volume string) bool { return cache != "" && strings.HasSuffix(volume, ":"+cache) })
		if j.Container.Options != "--privileged" || !mounted {
			t.Errorf("%s/%s: options %q, volumes %q, and the cache is %q", at.file, at.job, j.Container.Options, j.Container.Volumes, cache)
		}
		for _, s := range j.Steps {
			if strings.HasPrefix(s.Uses, "actions/setup-go@") {
				t.Errorf("%s/%s: another Go than the image's", at.file, at.job)
			}
		}
	}
}

// The caches that release.yml restores are those that a run for main saves: what a tag's run saves no other tag's run sees.
func TestCachesComeFromMain(t *testing.T) {
	all := workflows(t)
	saved := map[string]string{} // paths by key
	for _, s := range all["ci.yml"].Jobs["test"].Steps {
		if strings.HasPrefix(s.Uses, "actions/cache@") {
			saved[fmt.Sprint(s.With["key"])] = fmt.Sprint(s.With["path"])
		}
	}
	push, _ := all["ci.yml"].On.(map[string]any)["push"].(map[string]any)
	if diff := cmp.Diff(map[string]any{"branches": []any{"main"}}, push); diff != "" {
		t.Errorf("ci.yml runs for other pushes:\n%s", diff)
	}
	restored := 0
	for name, j := range all["release.yml"].Jobs {
		for _, s := range j.Steps {
			if !strings.HasPrefix(s.Uses, "actions/cache") {
				continue
			}
			restored++
			if path, ok := saved[fmt.Sprint(s.With["key"])]; !ok || path != s.With["path"] || !strings.HasPrefix(s.Uses, "actions/cache/restore@") {
				t.Errorf("%s: %s of %v, which main does not save", name, s.Uses, s.With["path"])
			}
		}
	}
	if restored != 2 { // build and package, which both have an engine
		t.Errorf("%d caches are restored", restored)
	}
}

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

// script runs a step's script as GitHub does, with programs of the test's own first in PATH, and
// returns what it printed.
func script(t *testing.T, s step, dir, programs string, environ ...string) (string, error) {
	t.Helper()
	cmd := exec.Command("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", s.Run)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), append(environ, "PATH="+programs+":"+os.Getenv("PATH"))...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func stepOf(t *testing.T, j job, name string) step {
	t.Helper()
	at := slices.IndexFunc(j.Steps, func(s step) bool { return s.Name == name })
	if at < 0 {
		t.Fatalf("there is no step %q", name)
	}
	return j.Steps[at]
}

// A tag on a commit that is not on main is not a release that the pointer names, and the reviewers are asked for any but the
// weekly renewal, which they must not hold up.
func TestPointerWorkflow(t *testing.T) {
	w := workflows(t)["pointer.yml"]
	j := w.Jobs["pointer"]
	if want := "${{ github.event_name == 'schedule' && 'renewal' || 'release' }}"; j.Environment != want {
		t.Errorf("its environment is %q", j.Environment)
	}
	if group, _ := w.Concurrency.(map[string]any)["group"].(string); !strings.Contains(group, "schedule") {
		t.Errorf("the weekly run waits in the group %q", group)
	}
	if depth := j.Steps[0].With["fetch-depth"]; depth != 0 {
		t.Errorf("the checkout has fetch-depth %v, and not all of main", depth)
	}
	refuse := stepOf(t, j, "Refuse a tag that is not on main")
	if refuse.If != "github.event_name == 'workflow_run'" || refuse.Env["HEAD_SHA"] != "${{ github.event.workflow_run.head_sha }}" {
		t.Errorf("it refuses if %q, by %v", refuse.If, refuse.Env)
	}
	far, clone := t.TempDir(), filepath.Join(t.TempDir(), "clone")
	git := func(dir string, args ...string) string {
		out, err := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=a", "-c", "user.email=a@b"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git(far, "init", "--quiet", "--initial-branch=main")
	commit := func(text string) string {
		git(far, "commit", "--quiet", "--allow-empty", "-m", text)
		return git(far, "rev-parse", "HEAD")
	}
	first := commit("first")
	git(far, "checkout", "--quiet", "--detach")
	stray := commit("stray")
	git(far, "tag", "v9.9.9")
	git(far, "checkout", "--quiet", "main")
	last := commit("last")
	git(far, "clone", "--quiet", far, clone)
	for sha, want := range map[string]bool{first: true, last: true, stray: false, strings.Repeat("ab", 20): false, "": false} {
		if out, err := script(t, refuse, clone, clone, "HEAD_SHA="+sha); (err == nil) != want {
			t.Errorf("commit %q of %s, %s, %s: %v\n%s", sha, first, stray, last, err, out)
		}
	}
}

// The farm's maintainers hear of a pointer that was not renewed: once, however many weeks the failure lasts.
func TestPointerFailureIsTold(t *testing.T) {
	tell := workflows(t)["pointer.yml"].Jobs["tell"]
	for _, want := range []string{"always()", "needs.pointer.result != 'success'", "needs.pointer.result != 'skipped'"} {
		if !strings.Contains(tell.If, want) {
			t.Errorf("it runs if %q", tell.If)
		}
	}
	s := tell.Steps[0]
	for name, test := range map[string]struct{ open, want string }{
		"none is open":         {`[]`, "create --title T --body"},
		"others are open":      {`[{"number":3,"title":"T, not"},{"number":4,"title":"x"}]`, "create --title T --body"},
		"one is open already":  {`[{"number":3,"title":"x"},{"number":17,"title":"T"}]`, "comment 17 --body"},
		"two are open already": {`[{"number":9,"title":"T"},{"number":17,"title":"T"}]`, "comment 9 --body"},
	} {
		// gh itself needs GitHub: this one prints what it was told, and filters by the jq that gh has built in.
		programs := t.TempDir()
		gh := `#!/bin/sh
if [ "$2" = list ]; then
	while [ "$1" != --jq ]; do shift; done
	printf '%s' "$OPEN" | node -e 'const list = JSON.parse(require("fs").readFileSync(0)).filter(i => i.title === process.env.TITLE); if (list.length) console.log(list[0].number)'
	exit
fi
shift
echo "$@"
`
		if err := os.WriteFile(filepath.Join(programs, "gh"), []byte(gh), 0o755); err != nil {
			t.Fatal(err)
		}
		out, err := script(t, s, programs, programs, "OPEN="+test.open, "TITLE=T", "RUN=https://github.com/o/r/actions/runs/42")
		if err != nil || !strings.HasPrefix(out, test.want) || !strings.Contains(out, "runs/42") || strings.Count(out, "--body") != 1 {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// Untrusted values reach a shell only through the environment, nothing needs a secret, and a fork
// has nothing to change.
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
		manifests.SignerIdentity + "@": {"push", "workflow_dispatch"}, manifests.PointerWorkflow: {"schedule", "workflow_dispatch", "workflow_run"},
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
	// It can be started for a branch, too. Then its first job is skipped, and with it every other.
	jobs := all["release.yml"].Jobs
	if want := "github.ref_type == 'tag' && startsWith(github.ref_name, 'v')"; jobs["plan"].If != want {
		t.Errorf("release.yml begins if %q, want %q", jobs["plan"].If, want)
	}
	for name, j := range jobs {
		needs := fmt.Sprint(j.Needs)
		runsAnyway := strings.Contains(j.If, "always()") || strings.Contains(j.If, "failure()")
		if strings.Contains(j.If, "cancelled()") { // such a condition replaces that all that is needed ended well
			runsAnyway = !slices.ContainsFunc(strings.Fields(strings.Trim(needs, "[]")), func(need string) bool {
				return strings.HasPrefix(j.If, "${{ !cancelled() && needs."+need+".result == 'success'")
			})
		}
		if name != "plan" && (j.Needs == nil || runsAnyway) {
			t.Errorf("release.yml/%s: it needs %s, and runs if %q", name, needs, j.If)
		}
	}
}

// Every command in a workflow is one that ci has, with flags that it has. What the shell leaves out or puts in, by
// ${VAR:+…}, is tried both ways.
func TestWorkflowCommands(t *testing.T) {
	seen := map[string]bool{}
	for file, w := range workflows(t) {
		for name, j := range w.Jobs {
			for _, s := range j.Steps {
				for line := range strings.Lines(s.Run) {
					match := ciCommand.FindStringSubmatch(line)
					if match == nil {
						continue
					}
					program := match[1]
					command, _, _ := strings.Cut(match[2], ")") // $(…)
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
	want := []string{"ci bench", "ci build", "ci bump", "ci check-ops", "ci client", "ci ops", "ci plan", "ci pointer", "ci publish github", "ci publish models", "ci publish pypi", "ci sign", "ci site", "ci verify", "ci wheel"}
	if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, want) {
		t.Errorf("the workflows run %q", got)
	}
}

// parses has the real command line read arguments, as far as it goes without running the command.
func parses(arguments []string) (path string, err error) {
	root := newRoot(&console.Terminal{Out: io.Discard, Err: io.Discard}, nil)
	cmd, rest, err := root.Find(arguments)
	if err != nil {
		return "", err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return cmd.CommandPath(), err
	}
	if !cmd.Runnable() || cmd.HasSubCommands() {
		return cmd.CommandPath(), fmt.Errorf("%s is not a command by itself", cmd.CommandPath())
	}
	return cmd.CommandPath(), cmd.ValidateArgs(cmd.Flags().Args())
}

// ciCommand is ci as the workflows run it: from the source, and where there is no Go, as it was compiled.
var ciCommand = regexp.MustCompile(`(go run \./ci |gate/ci )(.*)`)

var (
	array    = regexp.MustCompile(`"\$\{[a-z]+\[@\]\}"`) // of as many words as there are
	optional = regexp.MustCompile(`\$\{[A-Z_]+:\+([^}]*)\}`)
	variable = regexp.MustCompile(`"\$([A-Z_]+)"`)
)

// expansions are what a shell could make of a simple command: with all of its ${VAR:+…}, and without.
func expansions(command string) [][]string {
	var all [][]string
	for _, with := range []string{"$1", ""} {
		line := variable.ReplaceAllString(optional.ReplaceAllString(array.ReplaceAllString(command, ""), with), "$1")
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
