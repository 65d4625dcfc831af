// Package pypi brings the wheels of the Python package to a package index: the Python Package Index, its twin for trying
// out, or another one.
//
// ci's commands call it. It takes the wheels of a signed release and the name of a repository, compares what is there by
// digest, uploads what is missing with twine, reads it back, and installs it as a user does:
//
//	Index.Files ──MakePlan──▶ keep, upload, differ ──Twine.Upload──▶ Index.Await ──Python.Install──▶
//
// Whatever fails on the way, the same steps resume from there: only what the index has counts. What an index has under a
// name stays: a file that differs there is an error, and nothing is ever deleted. twine and pip are the ecosystem's own,
// twine from a lock with a hash for each file. The package never builds, never signs and prints nothing.
package pypi

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/waqasm86/llcuda-farm/publisher"
)

// uv, of any recent version, resolves the requirements.
//
//go:generate uv pip compile --quiet --universal --python-version 3.10 --only-binary :all: --generate-hashes --no-annotate --custom-compile-command "go generate ./publisher/pypi" --output-file requirements.lock requirements.in

//go:embed requirements.lock
var requirements []byte

// A Python is an interpreter of this machine, or of a virtual environment.
type Python struct {
	program string
	environ []string // beside this process's
}

// FindPython finds an interpreter: one by its name or path.
func FindPython(name string) (Python, error) {
	program, err := exec.LookPath(name)
	if err != nil {
		return Python{}, fmt.Errorf("looking for Python: %w", err)
	}
	return Python{program: program}, nil
}

// A CommandError is a program that failed.
type CommandError struct {
	Command string
	Err     error
	Output  string // its last lines
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("%s: %v\n%s", e.Command, e.Err, e.Output)
}

func (e *CommandError) Unwrap() error { return e.Err }

// stopTimeout is what a program gets to end after its context did.
const stopTimeout = 5 * time.Second

// run runs a module, or a program given by -c, apart from the modules of the user and of the working directory.
func (p Python) run(ctx context.Context, what string, arguments ...string) (string, error) {
	cmd := exec.CommandContext(ctx, p.program, append([]string{"-I"}, arguments...)...)
	cmd.Env = append(os.Environ(), "TERM=dumb", "FORCE_COLOR=", "COLUMNS=1000") // twine colors and wraps what it says
	cmd.Env = append(cmd.Env, p.environ...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	var out, all output
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, &all), &all
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		return "", &CommandError{what, err, lastLines(all.String())}
	}
	return strings.TrimSpace(out.String()), nil
}

// output keeps what is written to it, by more than one.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(data []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(data)
}

// String is for when all writers are done.
func (o *output) String() string { return o.text.String() }

func lastLines(text string) string {
	const keep = 20
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-keep):], "\n")
}

// virtual makes a virtual environment in a folder.
func (p Python) virtual(ctx context.Context, dir string) (Python, error) {
	if _, err := p.run(ctx, "python -m venv", "-m", "venv", "--clear", dir); err != nil {
		return Python{}, fmt.Errorf("making a virtual environment for Python: %w", err)
	}
	return Python{program: filepath.Join(dir, "bin", "python")}, nil
}

// Twine is twine, ready to be run.
type Twine struct {
	Python
	// Config is the file with the repositories and their passwords; ~/.pypirc if empty.
	Config string
}

// Prepare has twine below a cache folder. It is installed once for each lock and each Python.
func (p Python) Prepare(ctx context.Context, cache string) (Twine, error) {
	fail := func(err error) (Twine, error) { return Twine{}, fmt.Errorf("preparing twine: %w", err) }
	version, err := p.run(ctx, "python", "-c", "import sys; print(sys.prefix, sys.version)")
	if err != nil {
		return fail(err)
	}
	sum := sha256.Sum256(append([]byte(version+"\n"), requirements...))
	dir := filepath.Join(cache, "twine", hex.EncodeToString(sum[:])[:16])
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fail(err)
	}
	lock := flock.New(dir + ".lock")
	const poll = 100 * time.Millisecond
	if _, err := lock.TryLockContext(ctx, poll); err != nil {
		return fail(err)
	}
	defer lock.Unlock()
	ready := filepath.Join(dir, "ready") // made last: a folder without it is rebuilt
	if _, err := os.Stat(ready); err == nil {
		return Twine{Python: Python{program: filepath.Join(dir, "bin", "python")}}, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	made, err := p.virtual(ctx, dir)
	if err != nil {
		return fail(err)
	}
	list := filepath.Join(dir, "requirements.lock")
	if err := os.WriteFile(list, requirements, 0o644); err != nil {
		return fail(err)
	}
	_, err = made.run(ctx, "pip install", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "--no-deps", "--only-binary=:all:", "-r", list)
	if err == nil {
		err = os.WriteFile(ready, nil, 0o644)
	}
	if err != nil {
		return fail(err)
	}
	return Twine{Python: made}, nil
}

// config is --config-file's value, which twine itself has a default for.
func (t Twine) config() string {
	if t.Config == "" {
		return "~/.pypirc"
	}
	return t.Config
}

// Repository is the address that a repository's files are uploaded to, by twine's own reading of its configuration. It
// knows pypi and testpypi without one.
func (t Twine) Repository(ctx context.Context, name string) (string, error) {
	const program = "import sys; from twine import exceptions, utils\n" +
		"try: print(utils.get_repository_from_config(sys.argv[1], sys.argv[2])['repository'])\n" +
		"except (exceptions.TwineException, OSError) as e: sys.exit(str(e))"
	address, err := t.run(ctx, "reading "+t.config(), "-c", program, t.config(), name)
	if err != nil {
		return "", fmt.Errorf("looking for the repository %s: %w", name, err)
	}
	return address, nil
}

// IndexOf is the address of the index whose repository's files are uploaded to an address. The Python Package Index has
// another host for uploads; most others have the index beside.
func IndexOf(repository string) (string, error) {
	u, err := url.Parse(repository)
	if err != nil {
		return "", err
	}
	if root, ok := strings.CutSuffix(strings.TrimSuffix(u.Path, "/"), "/legacy"); ok {
		u.Path, u.Host = root, strings.TrimPrefix(u.Host, "upload.")
	}
	u.User = nil
	return u.JoinPath("simple").String() + "/", nil
}

// refused is how twine says that a server will not take a file, whenever it is asked.
var refused = regexp.MustCompile(`HTTPError: 4(0[0-79]|1|2[0-8])|InvalidDistribution|NonInteractive|Credential`)

// Upload sends one file. The caller has to check whether it arrived, even after an error: the answer may have been lost.
// The error is a *publisher.RefusedError where trying again does not help.
func (t Twine) Upload(ctx context.Context, repository, path string) error {
	_, err := t.run(ctx, "twine upload", "-m", "twine", "upload", "--non-interactive", "--disable-progress-bar",
		"--config-file", t.config(), "--repository", repository, path)
	var failed *CommandError
	if !errors.As(err, &failed) {
		return err
	}
	err = fmt.Errorf("uploading %s to %s: %w", filepath.Base(path), repository, err)
	if refused.MatchString(failed.Output) {
		return &publisher.RefusedError{Err: err, Way: "a token that may upload comes from the section " + repository + " of " + t.config() +
			", or from TWINE_USERNAME=__token__ and TWINE_PASSWORD; a name that was used and deleted is not given again: then raise the version"}
	}
	return &publisher.TemporaryError{Err: err}
}

// unrelated are pip's settings by which it could take a package from elsewhere than the index that it is to be tried from.
var unrelated = []string{"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"}

// Install installs a version from an index into a fresh virtual environment, as a user does, and checks it against the
// digests of its wheels. It returns the folder of the package in the environment. Nothing is set up: the client is not
// started.
func (p Python) Install(ctx context.Context, index, project, version string, sums []string, dir string) (string, error) {
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("installing %s %s from %s: %w", project, version, index, err)
	}
	made, err := p.virtual(ctx, dir)
	if err != nil {
		return fail(err)
	}
	for _, name := range unrelated {
		made.environ = append(made.environ, name+"=")
	}
	made.environ = append(made.environ, "LLCUDA_NO_AUTO_SETUP=1")
	line := project + "==" + version
	for _, sum := range slices.Sorted(slices.Values(sums)) {
		line += " --hash=sha256:" + sum
	}
	list := filepath.Join(dir, "requirements.txt")
	if err := os.WriteFile(list, []byte(line+"\n"), 0o644); err != nil {
		return fail(err)
	}
	if _, err := made.run(ctx, "pip install", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir",
		"--require-hashes", "--no-deps", "--only-binary=:all:", "--index-url", index, "-r", list); err != nil {
		return fail(err)
	}
	folder, err := made.run(ctx, "import llcuda", "-c", "import llcuda, os; print(os.path.dirname(llcuda.__file__))")
	if err != nil {
		return fail(err)
	}
	return folder, nil
}
