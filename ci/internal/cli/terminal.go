package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/term"

	"github.com/waqasm86/llcuda-farm/ci/internal/engine"
	"github.com/waqasm86/llcuda-farm/ci/internal/engine/builtin"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
)

// terminal is where the command talks. Everything it says goes through one of
// four functions: printf (results, to standard output), notef (what is going
// on), warnf (what the user should know) and report (why the command failed).
type terminal struct {
	out, err io.Writer
	live     bool       // err is a screen on which lines can be redrawn
	columns  func() int // the width of that screen

	mu   sync.Mutex
	view *progress // draws below everything else while it is set
}

func newTerminal(out, err *os.File) *terminal {
	fd := int(err.Fd())
	return &terminal{
		out:  out,
		err:  err,
		live: term.IsTerminal(fd) && os.Getenv("TERM") != "dumb",
		columns: func() int {
			columns, _, err := term.GetSize(fd)
			if err != nil || columns <= 0 {
				return defaultColumns
			}
			return columns
		},
	}
}

// defaultColumns is the width of a terminal that does not tell its own.
const defaultColumns = 80

func (t *terminal) printf(format string, args ...any) {
	t.above(func() { fmt.Fprintf(t.out, format+"\n", args...) })
}

func (t *terminal) notef(format string, args ...any) {
	t.above(func() { fmt.Fprintf(t.err, format+"\n", args...) })
}

func (t *terminal) warnf(format string, args ...any) {
	t.above(func() { fmt.Fprintf(t.err, "ci: warning: "+format+"\n", args...) })
}

// report says why the command failed and, where it is known, the way out.
func (t *terminal) report(err error) {
	if err == nil {
		return
	}
	t.above(func() {
		fmt.Fprintf(t.err, "ci: %s\n", strings.ReplaceAll(err.Error(), "\n", "\n    "))
		if hint := hintFor(err); hint != "" {
			fmt.Fprintf(t.err, "hint: %s\n", hint)
		}
	})
}

// above prints while the live lines are out of the way.
func (t *terminal) above(print func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.view != nil {
		t.view.erase()
		defer t.view.draw()
	}
	print()
}

// hintFor is the way out of an error: its own where it has one.
func hintFor(err error) string {
	var hinted interface{ Hint() string }
	var usage *usageError
	var source *farm.SourceError
	var unavailable *engine.UnavailableError
	var refused *refusal
	switch {
	case errors.As(err, &hinted):
		return hinted.Hint()
	case errors.As(err, &usage):
		return usage.hint
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
	case errors.As(err, &refused):
		return refused.hint
	}
	return ""
}
