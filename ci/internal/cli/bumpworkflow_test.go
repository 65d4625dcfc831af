package cli

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/python"
)

// What reads upstream's files may write nothing, and what may write runs no code but its own script: no checkout, no program
// of the repository, and of the job before only three files.
func TestBumpWorkflow(t *testing.T) {
	all := workflows(t)
	w := all["bump.yml"]
	for name, j := range w.Jobs {
		privileged := false
		for _, right := range *j.Permissions {
			privileged = privileged || right == "write"
		}
		for _, s := range j.Steps {
			_, token := s.Env["GH_TOKEN"]
			privileged = privileged || token
		}
		for _, s := range j.Steps {
			foreign := s.Uses != "" && !strings.HasPrefix(s.Uses, "actions/download-artifact@") || strings.Contains(s.Run, "./")
			if privileged && foreign {
				t.Errorf("%s: it has a token or may write, and runs %s%s", name, s.Uses, s.Run)
			}
		}
	}
	on, _ := w.On.(map[string]any)
	for _, bad := range []string{"pull_request", "push"} {
		if _, ok := on[bad]; ok {
			t.Errorf("it starts by %s", bad)
		}
	}
	if w.Jobs["look"].If != "github.event_name != 'workflow_run' && github.ref == 'refs/heads/main'" {
		t.Errorf("it looks if %q", w.Jobs["look"].If)
	}
	if got := w.Jobs["tag"]; got.Environment != "bump" || got.Needs != "merged" || got.If != "needs.merged.outputs.tag != ''" {
		t.Errorf("it tags in the environment %q, after %v, if %q", got.Environment, got.Needs, got.If)
	}
	for _, want := range []string{"workflow_run.conclusion == 'success'", "workflow_run.event == 'push'", "workflow_run.head_branch == 'main'", "workflow_run.head_repository.full_name == github.repository"} {
		if got := w.Jobs["merged"].If; !strings.Contains(got, "&& github.event."+want) && !strings.Contains(got, "&&\ngithub.event."+want) {
			t.Errorf("merged requests are looked for if %q, not only if %s", got, want)
		}
	}
	// ci.yml compiles every change, so what comes from the branch that is made here, too, and can be started for it.
	if trial, ok := all["ci.yml"].Jobs["trial"]; !ok || trial.If != "" {
		t.Errorf("a bundle is compiled if %q, want of every change", trial.If)
	}
	if _, ok := all["ci.yml"].On.(map[string]any)["workflow_dispatch"]; !ok {
		t.Error("ci.yml cannot be started by bump.yml")
	}
}

// gh answers as GitHub would, from the environment, and writes down what changes something.
const fakeGH = `#!/bin/sh
case "$*" in
*--method*|*"pulls -f"*|*"git/trees -f"*|*"git/refs -f"*|*"git/commits -f"*|"workflow run"*|"issue create"*) echo "$*" >> "$LOG" ;;
esac
case "$2" in
*/git/blobs) echo newblob ;;
*/git/matching-refs/heads/*) echo "$HEAD" ;;
*/contents/matrix/matrix.yaml*) echo "$THERE" ;;
*/contents/manifests/python/pyproject.toml*) echo "$RAISED" ;;
*/git/commits/*) echo basetree ;;
*/git/commits) echo newcommit ;;
*/commits/*) echo "$AUTHOR" ;;
*/git/trees) echo newtree ;;
*pulls\?*) echo "$LAST" ;;
list) echo "$LAST" ;;
esac
`

// There is one pull request, whatever was there before, and nobody's commits are lost.
func TestBumpProposes(t *testing.T) {
	j := workflows(t)["bump.yml"].Jobs["propose"]
	s := stepOf(t, j, "Open the pull request, or update the one that is open")
	const (
		tree = "api repos/o/r/git/trees -f base_tree=basetree" +
			" -f tree[][path]=matrix/matrix.yaml -f tree[][mode]=100644 -f tree[][type]=blob -f tree[][sha]=newblob" +
			" -f tree[][path]=manifests/python/pyproject.toml -f tree[][mode]=100644 -f tree[][type]=blob -f tree[][sha]=newblob --jq .sha"
		commit = "api repos/o/r/git/commits -f message=Build llama.cpp 0.6.0 -f tree=newtree -f parents[]=main --jq .sha"
		create = "api repos/o/r/git/refs -f ref=refs/heads/bump/llama.cpp -f sha=newcommit --silent"
		move   = "api repos/o/r/git/refs/heads/bump/llama.cpp --method PATCH -f sha=newcommit -F force=true --silent"
		open   = "api repos/o/r/pulls -f title=Build llama.cpp 0.6.0 -f head=bump/llama.cpp -f base=main -F body=@body.md --silent"
		update = "api repos/o/r/pulls/7 --method PATCH -f title=Build llama.cpp 0.6.0 -F body=@body.md --silent"
		start  = "workflow run ci.yml --ref bump/llama.cpp"
		bot    = "github-actions[bot]"
	)
	for name, test := range map[string]struct {
		head, there, raised, author, last string
		want                              []string
	}{
		"the first":                              {want: []string{tree, commit, create, open, start}},
		"a newer one":                            {"old", "oldblob", "oldblob", bot, "open 7 old", []string{tree, commit, move, update, start}},
		"after a merged one":                     {"old", "oldblob", "oldblob", bot, "closed 6 old", []string{tree, commit, move, open, start}},
		"the same":                               {"old", "newblob", "newblob", bot, "open 7 old", []string{update}},
		"the same, closed":                       {"old", "newblob", "newblob", bot, "closed 7 old", nil},
		"the branch was made, and no request":    {"old", "newblob", "newblob", bot, "closed 6 older", []string{open, start}},
		"somebody works on it":                   {"old", "oldblob", "oldblob", "somebody", "open 7 old", nil},
		"somebody unknown works on it":           {"old", "oldblob", "oldblob", "", "open 7 old", nil},
		"somebody works on the same":             {"old", "newblob", "newblob", "somebody", "open 7 old", []string{update}},
		"main released the package's version":    {"old", "newblob", "oldblob", bot, "open 7 old", []string{tree, commit, move, update, start}},
		"the same, closed, and main released it": {"old", "newblob", "oldblob", bot, "closed 7 old", nil},
		"somebody raised the package's version":  {"old", "newblob", "oldblob", "somebody", "open 7 old", nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir, programs := t.TempDir(), t.TempDir()
			log := filepath.Join(programs, "log")
			if err := errors.Join(os.WriteFile(filepath.Join(dir, "bump.md"), []byte("Build llama.cpp 0.6.0\n\ntext\n"), 0o644),
				os.WriteFile(filepath.Join(programs, "gh"), []byte(fakeGH), 0o755), os.WriteFile(log, nil, 0o644)); err != nil {
				t.Fatal(err)
			}
			out, err := script(t, s, dir, programs, "GH_REPO=o/r", "BASE=main", "BRANCH="+s.Env["BRANCH"], "RUN=https://example.org/runs/1", "LOG="+log,
				"HEAD="+test.head, "THERE="+test.there, "RAISED="+test.raised, "AUTHOR="+test.author, "LAST="+test.last)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			var got []string
			if text := strings.TrimSpace(string(read(t, log))); text != "" {
				got = strings.Split(text, "\n")
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s\n%s", diff, out)
			}
			if len(test.want) == 0 && !strings.Contains(out, "::notice::") {
				t.Errorf("it does not say why: %s", out)
			}
			if text := string(read(t, filepath.Join(dir, "body.md"))); !strings.HasPrefix(text, "text\n\nThe version of the Python package is raised") || !strings.Contains(text, "\n\nMade by https://example.org/runs/1.") {
				t.Errorf("the text is %q", text)
			}
		})
	}
}

// What bump prints goes to the summary and, with the file, to the next job; its failure is the job's.
func TestBumpLooks(t *testing.T) {
	s := stepOf(t, workflows(t)["bump.yml"].Jobs["look"], "Look for a newer release")
	for name, test := range map[string]struct {
		command, to, back, gone, ran, output string
		failed                               bool
	}{
		"nothing newer": {command: "echo 'up to date'", ran: "run ./ci bump"},
		"a newer one":   {command: "echo text; echo pin >> matrix/matrix.yaml", to: "v0.6.0", back: "yes", gone: "A,B", ran: "run ./ci bump --to v0.6.0 --back --gone A,B", output: "changed=yes\n"},
		"refused":       {command: "echo text; exit 3", ran: "run ./ci bump", failed: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir, programs := t.TempDir(), t.TempDir()
			file := func(name string) string { return filepath.Join(programs, name) }
			if err := errors.Join(os.Mkdir(filepath.Join(dir, "matrix"), 0o755), os.WriteFile(filepath.Join(dir, "matrix", "matrix.yaml"), []byte("pin\n"), 0o644),
				os.WriteFile(file("go"), []byte("#!/bin/sh\necho \"$@\" > "+file("ran")+"\n"+test.command+"\n"), 0o755), os.WriteFile(file("output"), nil, 0o644)); err != nil {
				t.Fatal(err)
			}
			commitAll(t, dir)
			out, err := script(t, s, dir, programs, "TO="+test.to, "BACK="+test.back, "GONE="+test.gone, "GITHUB_OUTPUT="+file("output"), "GITHUB_STEP_SUMMARY="+file("summary"))
			if (err != nil) != test.failed {
				t.Errorf("%v\n%s", err, out)
			}
			if got := strings.TrimSpace(string(read(t, file("ran")))); got != test.ran {
				t.Errorf("it ran go %s", got)
			}
			if got := string(read(t, file("output"))); got != test.output {
				t.Errorf("its output is %q", got)
			}
			if text := read(t, filepath.Join(dir, "bump.md")); string(text) != string(read(t, file("summary"))) || len(text) < 5 {
				t.Errorf("the text is %q, the summary %q", text, read(t, file("summary")))
			}
		})
	}
}

// A release has a client that no other has, so the package that it goes into needs another version, however that is written.
func TestBumpRaises(t *testing.T) {
	s := stepOf(t, workflows(t)["bump.yml"].Jobs["look"], "Raise the version of the Python package")
	own := string(read(t, filepath.Join(repositoryRoot, "manifests", "python", "pyproject.toml")))
	version, err := python.Version()
	if err != nil {
		t.Fatal(err)
	}
	for before, after := range map[string]string{"3.0.0": "3.0.1", "3.9.9": "3.9.10", "10.0.199": "10.0.200", "3.1.0rc1": "3.1.0rc2", "3.0.0.dev0": "3.0.0.dev1", "3.1.0a": ""} {
		t.Run(before, func(t *testing.T) {
			dir := t.TempDir()
			with := func(number string) string {
				return strings.Replace(own, "\nversion = \""+version+"\"\n", "\nversion = \""+number+"\"\n", 1)
			}
			file := filepath.Join(dir, "manifests", "python", "pyproject.toml")
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(with(before)), 0o644)); err != nil {
				t.Fatal(err)
			}
			commitAll(t, dir)
			out, err := script(t, s, dir, t.TempDir())
			want := with(after)
			if after == "" {
				want = with(before)
			}
			if (err != nil) != (after == "") || strings.Contains(out, "::error ") != (after == "") {
				t.Errorf("%v\n%s", err, out)
			}
			if diff := cmp.Diff(want, string(read(t, file))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// commitAll makes a repository of a folder.
func commitAll(t *testing.T, dir string) {
	t.Helper()
	for _, args := range []string{"init -q", "add -A", "-c user.name=T -c user.email=t@example.org commit -q -m all"} {
		if out, err := exec.Command("git", append([]string{"-C", dir}, strings.Fields(args)...)...).CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v\n%s", args, err, out)
		}
	}
}

// A merged request with the label gets the tag after the newest, and a job that runs again makes no second one.
func TestBumpTags(t *testing.T) {
	jobs := workflows(t)["bump.yml"].Jobs
	sha := strings.Repeat("a", 40)
	other := strings.Repeat("b", 40)
	for name, test := range map[string]struct {
		labeled, tags, output string
		failed                bool
	}{
		"not labeled":       {labeled: "0", tags: other + " refs/tags/v1.2.0-runtime"},
		"labeled":           {labeled: "1", tags: other + " refs/tags/v1.9.3-runtime\n" + other + " refs/tags/v1.10.0-runtime\n" + other + " refs/tags/v2.0.0\n" + other + " refs/tags/v1.11.0-runtime-rc1", output: "tag=v1.11.0-runtime\n"},
		"tagged already":    {labeled: "1", tags: sha + " refs/tags/v1.10.0-runtime\n" + other + " refs/tags/v1.12.0-runtime", output: "tag=v1.10.0-runtime\n"},
		"the first release": {labeled: "1", tags: other + " refs/tags/v1", failed: true},
	} {
		t.Run(name, func(t *testing.T) {
			programs := t.TempDir()
			output := filepath.Join(programs, "output")
			gh := "#!/bin/sh\ncase \"$*\" in */commits/*) echo \"$LABELED\" ;; *) printf '%b\\n' \"$TAGS\" ;; esac\n"
			if err := errors.Join(os.WriteFile(filepath.Join(programs, "gh"), []byte(gh), 0o755), os.WriteFile(output, nil, 0o644)); err != nil {
				t.Fatal(err)
			}
			out, err := script(t, stepOf(t, jobs["merged"], "Name the release of a merged request with the label"), programs, programs,
				"GH_REPO=o/r", "SHA="+sha, "BRANCH=bump/llama.cpp", "GITHUB_OUTPUT="+output, "LABELED="+test.labeled, "TAGS="+test.tags)
			if got := string(read(t, output)); (err != nil) != test.failed || got != test.output {
				t.Errorf("%v, %q; want %q\n%s", err, got, test.output, out)
			}
		})
	}
	const start = "workflow run release.yml --ref v1.11.0-runtime"
	for there, want := range map[string]string{"": "api repos/o/r/git/refs -f ref=refs/tags/v1.11.0-runtime -f sha=" + sha + " --silent\n" + start + "\n", sha: start + "\n"} {
		programs := t.TempDir()
		log := filepath.Join(programs, "log")
		gh := "#!/bin/sh\ncase \"$*\" in */matching-refs/*) echo \"$THERE\" ;; *) echo \"$@\" >> \"$LOG\" ;; esac\n"
		if err := os.WriteFile(filepath.Join(programs, "gh"), []byte(gh), 0o755); err != nil {
			t.Fatal(err)
		}
		out, err := script(t, stepOf(t, jobs["tag"], "Tag the release"), programs, programs, "GH_REPO=o/r", "SHA="+sha, "TAG=v1.11.0-runtime", "THERE="+there, "LOG="+log)
		if err != nil || string(read(t, log)) != want {
			t.Errorf("%v: it ran %q, want %q\n%s", err, read(t, log), want, out)
		}
	}
}
