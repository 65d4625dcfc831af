package cli

import (
	"fmt"
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
