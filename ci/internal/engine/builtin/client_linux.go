package builtin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// query sends one GraphQL query through the engine's own client and decodes
// its data.
func (r *record) query(ctx context.Context, query string, data any) error {
	cmd := exec.CommandContext(ctx, programs{dir: r.Binaries}.cli(), "query", "--silent")
	// The client leaves nothing in the user's folders, and uses no cloud.
	cmd.Env = []string{
		"PATH=" + toolPath,
		"HOME=" + filepath.Join(r.StateDir, "home"),
		"_EXPERIMENTAL_DAGGER_RUNNER_HOST=unix://" + socketPath(r.Name),
		"DO_NOT_TRACK=1",
		"NO_COLOR=1",
	}
	cmd.Dir = os.TempDir()
	cmd.Stdin = strings.NewReader(query)
	// A killed client's children must not hold its output open.
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("calling engine %s: %w", r.Name, context.Cause(ctx))
		}
		return fmt.Errorf("calling engine %s: %w\n%s", r.Name, err, strings.Join(lastLines(stderr.Bytes(), 10), "\n"))
	}
	if err := json.Unmarshal(stdout.Bytes(), data); err != nil {
		return fmt.Errorf("calling engine %s: reading its answer: %w", r.Name, err)
	}
	return nil
}

// answers makes a client's call and compares the version that comes back.
func (r *record) answers(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
	defer cancel()
	var answer struct{ Version string }
	if err := r.query(ctx, "{ version }", &answer); err != nil {
		return err
	}
	if answer.Version != r.Version {
		return fmt.Errorf("calling engine %s: it is version %s, not %s", r.Name, answer.Version, r.Version)
	}
	return nil
}
