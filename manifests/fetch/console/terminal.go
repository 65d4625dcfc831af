// Package console is how the two programs, ci and llcuda-fetch, talk to people: results to standard output, everything
// else to standard error, and on a screen live lines of what is under way below all of it.
//
// The command-line packages make a Terminal and choose words and exit codes. Nothing here ends a process, asks a
// question, or knows what a release is.
package console

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// A Terminal is where a command talks. It may be used by several goroutines at once.
type Terminal struct {
	Program  string // begins warnings and errors
	Out, Err io.Writer
	Live     bool       // Err is a screen on which lines can be redrawn
	Columns  func() int // width of that screen

	mu     sync.Mutex
	closed bool
	view   func() []string
	drawn  int // live lines on the screen
}

const (
	// defaultColumns is the width of a screen that does not tell its own.
	defaultColumns = 80
	// PlainEvery is how often work under way speaks where lines cannot be redrawn: logs are read by people.
	PlainEvery = 10 * time.Second
	// RedrawPause is the least time between two drawings of live lines that only progressed: packing reports every block.
	RedrawPause = 100 * time.Millisecond
)

// New is the terminal of a program on its standard output and error.
func New(program string, out, err *os.File) *Terminal {
	fd := int(err.Fd())
	return &Terminal{
		Program: program, Out: out, Err: err,
		Live: term.IsTerminal(fd) && os.Getenv("TERM") != "dumb",
		Columns: func() int {
			columns, _, err := term.GetSize(fd)
			if err != nil || columns <= 0 {
				return defaultColumns
			}
			return columns
		},
	}
}

// Printf prints a result.
func (t *Terminal) Printf(format string, args ...any) {
	t.Above(func() { fmt.Fprintf(t.Out, format+"\n", args...) })
}

// Notef prints what the program is doing.
func (t *Terminal) Notef(format string, args ...any) {
	t.Above(func() { fmt.Fprintf(t.Err, format+"\n", args...) })
}

// Warnf says what the user should know.
func (t *Terminal) Warnf(format string, args ...any) {
	t.Notef("%s: warning: %s", t.Program, fmt.Sprintf(format, args...))
}

// Report says why the command failed, and the ways out that are known. An empty hint is none.
func (t *Terminal) Report(message string, hints ...string) {
	text := t.Program + ": " + strings.ReplaceAll(message, "\n", "\n    ")
	for _, hint := range hints {
		if hint != "" {
			text += "\nhint: " + hint
		}
	}
	t.Notef("%s", text)
}

// Close ends the output: what is still running prints nothing more.
func (t *Terminal) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

// Above calls print, which writes to Out and Err, while the live lines are out of the way. It holds the lock that guards
// what a view draws.
func (t *Terminal) Above(print func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.erase()
	print()
	t.draw(nil)
}

// Guard calls do with the lock that Above holds.
func (t *Terminal) Guard(do func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	do()
}

// Show draws the lines of a view on a screen, and redraws them after everything that is printed, until hide is called.
// Only one view can be shown at a time.
func (t *Terminal) Show(view func() []string) (hide func()) {
	set := func(view func() []string) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.erase()
		t.view = view
	}
	set(view)
	return func() { set(nil) }
}

// draw draws the view and some lines more, which go when something else is drawn or printed.
func (t *Terminal) draw(more []string) {
	if !t.Live || t.closed {
		return
	}
	lines := more
	if t.view != nil {
		lines = append(t.view(), more...)
	}
	width := t.Columns() - 1 // a full last column makes some terminals wrap
	for i, line := range lines {
		lines[i] = clip(line, width)
	}
	fmt.Fprint(t.Err, strings.Join(lines, "\n"))
	t.drawn = len(lines)
}

func (t *Terminal) erase() {
	if t.drawn > 1 {
		fmt.Fprintf(t.Err, "\x1b[%dA", t.drawn-1)
	}
	if t.drawn > 0 {
		fmt.Fprint(t.Err, "\r\x1b[J")
	}
	t.drawn = 0
}

func clip(line string, width int) string {
	if runes := []rune(line); len(runes) > width {
		return string(runes[:max(width, 0)])
	}
	return line
}
