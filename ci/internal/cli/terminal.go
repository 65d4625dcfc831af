package cli

import (
	"errors"
	"os"
	"syscall"

	"github.com/waqasm86/llcuda-farm/ci/internal/engine"
	"github.com/waqasm86/llcuda-farm/ci/internal/engine/builtin"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
)

// terminal is where the command talks: Printf (results, to standard output), Notef (what is going on), Warnf (what the user
// should know) and Report (why the command failed).
type terminal = console.Terminal

func newTerminal(out, err *os.File) *terminal { return console.New("ci", out, err) }

// hintFor returns the hint for an error: its own if it has one.
func hintFor(err error) string {
	var hinted interface{ Hint() string }
	var source *farm.SourceError
	var unavailable *engine.UnavailableError
	switch {
	case errors.As(err, &hinted):
		return hinted.Hint()
	case errors.As(err, &source):
		return source.Hint
	case errors.As(err, &unavailable):
		return unavailable.Hint
	case isAs[*builtin.PreflightError](err), isAs[*builtin.StartError](err):
		return engine.ThreeWays
	case errors.Is(err, syscall.ENOSPC):
		return "the disk is full: free some space, or put --out and --cache on another disk; finished steps are not built again"
	case errors.Is(err, farm.ErrEngineLost):
		return "start the engine again (go run ./ci engine up) and repeat the command: finished steps are not built again"
	}
	return ""
}
