package cli

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
)

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
	want := []string{"ci bench", "ci build", "ci bump", "ci check-ops", "ci client", "ci ops", "ci plan", "ci pointer", "ci previous", "ci publish github", "ci publish models", "ci publish pypi", "ci sign", "ci site", "ci verify", "ci wheel"}
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
