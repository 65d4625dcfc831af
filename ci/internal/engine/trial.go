package engine

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const trialPackage = "github.com/waqasm86/llcuda-farm/ci/internal/trial/try"

// trialProgram compiles the program that tries CPU variants, for the engine's Linux and without any library of it. The
// same source gives the same bytes, so that an engine's result of it stays good.
func trialProgram(ctx context.Context) (program string, remove func(), err error) {
	dir, err := os.MkdirTemp("", "llcuda-try-")
	if err != nil {
		return "", nil, err
	}
	remove = func() { os.RemoveAll(dir) }
	program = filepath.Join(dir, "try")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", program, trialPackage)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		remove()
		if ctx.Err() != nil {
			return "", nil, ctx.Err()
		}
		return "", nil, &trialError{fmt.Errorf("compiling %s: %w\n%s", trialPackage, err, strings.TrimSpace(string(out)))}
	}
	return program, remove, nil
}

// trialError is a machine on which the program cannot be compiled.
type trialError struct{ err error }

func (e *trialError) Error() string { return e.err.Error() }
func (e *trialError) Unwrap() error { return e.err }

// Hint is the way out.
func (e *trialError) Hint() string {
	return "start ci inside a checkout of its repository, with Go in PATH"
}
