// Package goreleaser packages llcuda-fetch: it runs goreleaser, as .goreleaser.yaml says, over a commit of this
// repository.
//
// ci's client command calls it. Given a checkout and a release's name, Package makes a folder with
// one archive for each architecture, each with the licenses of what is linked into the program.
// goreleaser is built once, from the module ci/tools, and sees only a clone of the commit: neither
// stray files in the working tree nor the path of the clone can change a byte. The package publishes
// nothing, signs nothing and prints nothing; it writes only below the work folder it is given.
package goreleaser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ToolsModule is the go.mod, in the repository, of what only packaging and checking need.
const ToolsModule = "ci/tools/go.mod"

// A Checkout is a working tree of the repository.
type Checkout struct {
	Root   string
	Commit string
	// Changed are the files that are not as in the commit, as git names them. Ignored files do not count, nor does
	// what was built.
	Changed []string
}

// Open finds the checkout that a folder lies in. built are folders with what is built: they may lie in the checkout without
// being a change of it, unless the commit has files there.
func Open(ctx context.Context, dir string, built ...string) (Checkout, error) {
	root, err := git(ctx, dir, nil, "rev-parse", "--show-toplevel")
	if err != nil {
		return Checkout{}, fmt.Errorf("looking for the repository: %w", err)
	}
	c := Checkout{Root: root}
	if c.Commit, err = git(ctx, root, nil, "rev-parse", "--verify", "HEAD^{commit}"); err != nil {
		return Checkout{}, fmt.Errorf("reading the commit: %w", err)
	}
	arguments := []string{"status", "--porcelain", "--untracked-files=all", "--", ":(top)"}
	for _, folder := range built {
		inside, ok := below(root, folder)
		if !ok {
			continue
		}
		tracked, err := git(ctx, root, nil, "ls-files", "--", ":(top,literal)"+inside)
		if err != nil {
			return Checkout{}, fmt.Errorf("listing the files of the commit: %w", err)
		}
		if tracked == "" {
			arguments = append(arguments, ":(top,exclude,literal)"+inside)
		}
	}
	status, err := git(ctx, root, nil, arguments...)
	if err != nil {
		return Checkout{}, fmt.Errorf("comparing the working tree with its commit: %w", err)
	}
	for line := range strings.Lines(status) {
		c.Changed = append(c.Changed, strings.TrimSpace(line))
	}
	return c, nil
}

// below returns the path of a folder inside the repository, and whether it is there at all.
func below(root, folder string) (string, bool) {
	abs, err := filepath.Abs(folder)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs) // git reports the root by its real path
	}
	if err != nil {
		return "", false // it is not there yet, and holds nothing
	}
	inside, err := filepath.Rel(root, abs)
	return inside, err == nil && inside != "." && filepath.IsLocal(inside)
}

// Tagged returns the commit that a tag points to; empty if the tag does not exist yet.
func (c Checkout) Tagged(ctx context.Context, tag string) string {
	commit, err := git(ctx, c.Root, nil, "rev-parse", "--quiet", "--verify", "refs/tags/"+tag+"^{commit}")
	if err != nil {
		return "" // git's only way to say no
	}
	return commit
}

// Options say what to package. Release and WorkDir are required.
type Options struct {
	Release string
	// WorkDir is an empty folder; the output goes into it.
	WorkDir string
	// Snapshot packages the working tree as it is, changes included, and has the program say so.
	Snapshot bool
	// RepositoryID and OwnerID are GitHub's numbers for the repository and its owner, by which clients tell signers apart
	// from later owners of the same names. Empty where they are not known.
	RepositoryID, OwnerID string
	// Probe compiles the program that asks CUDA, for amd64, from the folder with its source into another, which is empty.
	// Without it the archive has none, and the client goes by nvidia-smi.
	Probe func(ctx context.Context, source, dest string) error
	// Stage, if not nil, is called when each stage begins, and the function it returns when the stage ends.
	Stage func(name string) (done func(error))
}

// Package makes the archives and returns the folder that they are in.
func (c Checkout) Package(ctx context.Context, o Options) (dir string, err error) {
	stage := func(name string, do func() error) {
		if err != nil {
			return
		}
		done := func(error) {}
		if o.Stage != nil {
			done = o.Stage(name)
		}
		err = do()
		done(err)
	}
	var clone, program string
	stage("source", func() (err error) {
		clone, err = c.Clone(ctx, o.WorkDir, o.Snapshot)
		return err
	})
	if o.Probe != nil {
		stage("probe", func() error {
			dest := filepath.Join(clone, "build", "probe", "amd64") // where .goreleaser.yaml looks for it
			if err := os.MkdirAll(dest, 0o755); err != nil {
				return err
			}
			if err := o.Probe(ctx, filepath.Join(clone, "manifests", "fetch", "detect", "probe"), dest); err != nil {
				return fmt.Errorf("compiling the probe: %w", err)
			}
			return nil
		})
	}
	stage("licenses", func() error {
		for _, arch := range []string{"amd64", "arm64"} { // those of .goreleaser.yaml, which looks for them here
			if err := licenses(ctx, clone, arch, filepath.Join(clone, "build", "licenses", arch)); err != nil {
				return err
			}
		}
		return nil
	})
	stage("goreleaser", func() (err error) {
		// -n builds it, as a run would, and prints where it is.
		if program, err = run(ctx, clone, nil, "go", "tool", "-modfile="+ToolsModule, "-n", "goreleaser"); err != nil {
			return fmt.Errorf("building goreleaser: %w", err)
		}
		return nil
	})
	stage("package", func() error {
		arguments := []string{"release", "--clean", "--skip=announce,publish,validate"}
		if o.Snapshot {
			arguments = append(arguments, "--snapshot")
		}
		// The tokens are nothing to it: it refuses to choose between several, though it publishes nothing.
		environ := []string{"GORELEASER_CURRENT_TAG=" + o.Release, "GORELEASER_PREVIOUS_TAG=", "GITHUB_TOKEN=", "GITLAB_TOKEN=", "GITEA_TOKEN=",
			"LLCUDA_REPOSITORY_ID=" + o.RepositoryID, "LLCUDA_OWNER_ID=" + o.OwnerID}
		if _, err := run(ctx, clone, environ, program, arguments...); err != nil {
			return fmt.Errorf("packaging llcuda-fetch: %w", err)
		}
		return nil
	})
	return filepath.Join(clone, "build", "client"), err
}

// Clone makes a clone of the commit below an empty folder; with snapshot, of the working tree as it is.
func (c Checkout) Clone(ctx context.Context, work string, snapshot bool) (dir string, err error) {
	dir = filepath.Join(work, "source")
	commit := c.Commit
	if snapshot {
		commit, err = c.snapshot(ctx, work)
	}
	if err == nil {
		_, err = git(ctx, c.Root, nil, "clone", "--quiet", "--shared", "--no-checkout", c.Root, dir)
	}
	if err == nil {
		_, err = git(ctx, dir, nil, "checkout", "--quiet", "--detach", commit)
	}
	if err != nil {
		return "", fmt.Errorf("cloning the commit: %w", err)
	}
	return dir, nil
}

// Date is when the commit was made.
func (c Checkout) Date(ctx context.Context) (time.Time, error) {
	text, err := git(ctx, c.Root, nil, "show", "--no-patch", "--format=%ct", c.Commit)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the commit's date: %w", err)
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the commit's date: %w", err)
	}
	return time.Unix(seconds, 0), nil
}

// snapshot makes a commit of the working tree as it is, on no branch, without touching the index. Its date is that of the
// commit below, so that the same tree produces the same commit.
func (c Checkout) snapshot(ctx context.Context, work string) (string, error) {
	date, err := git(ctx, c.Root, nil, "show", "--no-patch", "--format=%ct +0000", c.Commit)
	if err != nil {
		return "", err
	}
	environ := []string{"GIT_INDEX_FILE=" + filepath.Join(work, "index")}
	for _, who := range []string{"AUTHOR", "COMMITTER"} {
		environ = append(environ, "GIT_"+who+"_NAME=snapshot", "GIT_"+who+"_EMAIL=snapshot@localhost", "GIT_"+who+"_DATE="+date)
	}
	var tree string
	for _, arguments := range [][]string{{"read-tree", "HEAD"}, {"add", "--all"}, {"write-tree"}} {
		var err error
		if tree, err = git(ctx, c.Root, environ, arguments...); err != nil {
			return "", err
		}
	}
	return git(ctx, c.Root, environ, "commit-tree", tree, "-p", c.Commit, "-m", "snapshot")
}

// A CommandError is a program that failed.
type CommandError struct {
	Command string
	Err     error
	Output  string // its last lines
}

func (e *CommandError) Error() string {
	if e.Output == "" {
		return fmt.Sprintf("%s: %v", e.Command, e.Err)
	}
	return fmt.Sprintf("%s: %v\n%s", e.Command, e.Err, e.Output)
}

func (e *CommandError) Unwrap() error { return e.Err }

func git(ctx context.Context, dir string, environ []string, arguments ...string) (string, error) {
	return run(ctx, dir, environ, "git", arguments...)
}

// stopTimeout is what a program gets to end after its context did.
const stopTimeout = 5 * time.Second

// run runs a program, with these variables beside those of this process, and returns what it printed. Those of git that
// a hook or another git command set are taken away: they would lead it to another repository. So are those of a workflow's
// job, by which a program could sign in its name.
func run(ctx context.Context, dir string, environ []string, program string, arguments ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, arguments...)
	cmd.Dir = dir
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		return slices.Contains([]string{"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"}, name) || strings.HasPrefix(name, "ACTIONS_")
	}), environ...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its compilers end with it
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	err := cmd.Run()
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		command := strings.Join(append([]string{filepath.Base(program)}, arguments...), " ")
		if errors.Is(err, exec.ErrNotFound) {
			return "", fmt.Errorf("%s: it is not installed", program)
		}
		return "", &CommandError{Command: command, Err: err, Output: lastLines(out.String() + problems.String())}
	}
	return strings.TrimSpace(out.String()), nil
}

// lastLines is the end of what a program said: errors stand there.
func lastLines(text string) string {
	const keep = 20
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-keep):], "\n")
}
