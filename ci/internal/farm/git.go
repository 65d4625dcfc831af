package farm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// gitGrace is how long an interrupted git may take to clean up.
const gitGrace = 5 * time.Second

// foreignRepository is how git refuses a repository that belongs to another user.
var foreignRepository = regexp.MustCompile(`dubious ownership in repository at '([^']+)'`)

// git runs git in dir and returns its output without the last newline. It never prompts, and ignores
// the caller's repository and line-ending settings.
func git(ctx context.Context, dir string, args ...string) (string, error) {
	fixed := []string{"-c", "core.autocrlf=false", "-c", "core.eol=lf", "-c", "advice.detachedHead=false"}
	if dir != "" {
		fixed = append([]string{"-C", dir}, fixed...)
	}
	cmd := exec.CommandContext(ctx, "git", append(fixed, args...)...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains([]string{"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX"}, name)
	}), "GIT_TERMINAL_PROMPT=0", "LC_ALL=C")
	// git's own helpers talk to the network, and end with it only as a group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = gitGrace
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if errors.Is(err, exec.ErrNotFound) {
			return "", &SourceError{Problem: "git is not installed", Hint: "install git, or give a tarball or a folder with --llama"}
		}
		if match := foreignRepository.FindStringSubmatch(stderr.String()); match != nil {
			return "", &SourceError{Given: match[1], Problem: "the repository belongs to another user, and git runs what its configuration says",
				Hint: "git config --global --add safe.directory " + match[1]}
		}
		return "", fmt.Errorf("git %s: %s", args[0], lastLine(stderr.String(), err))
	}
	return strings.TrimSuffix(stdout.String(), "\n"), nil
}

// lastLine returns the line of git's error output that says why.
func lastLine(text string, err error) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for _, line := range lines {
		if rest, ok := strings.CutPrefix(line, "fatal: "); ok {
			return rest
		}
	}
	if last := lines[len(lines)-1]; last != "" {
		return last
	}
	return err.Error()
}
