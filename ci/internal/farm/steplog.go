package farm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// tailLines is how many of a step's last lines are kept for the summary.
const tailLines = 20

// eventSink passes events on, one at a time.
type eventSink struct {
	mu sync.Mutex
	to func(Event)
}

func (s *eventSink) send(e Event) {
	if s.to == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.to(e)
}

// step makes the sink of one run of one step.
func (s *eventSink) step(engine, name string, log *stepLog) *stepSink {
	return &stepSink{all: s, engine: engine, name: name, log: log}
}

// stepSink names a step's events, writes its log, and drops what comes after
// its end.
type stepSink struct {
	all          *eventSink
	engine, name string
	mu           sync.Mutex
	log          *stepLog
	closed       bool
}

func (s *stepSink) send(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	e.Engine, e.Step = s.engine, s.name
	s.log.event(e)
	s.all.send(e)
}

func (s *stepSink) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// stepLog is the full log of one step, and its last lines.
type stepLog struct {
	file  *os.File // nil if no logs are kept
	w     *bufio.Writer
	stage string
	last  []string
	err   error
}

func logPath(dir, step string) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, step+".log")
}

// openStepLog begins a step's log, or continues it if the step is run again.
func openStepLog(dir, step, engine string, again bool) (*stepLog, error) {
	if dir == "" {
		return &stepLog{w: bufio.NewWriter(io.Discard)}, nil
	}
	how := os.O_TRUNC
	if again {
		how = os.O_APPEND
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("opening the log of %s: %w", step, err)
	}
	f, err := os.OpenFile(logPath(dir, step), os.O_WRONLY|os.O_CREATE|how, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the log of %s: %w", step, err)
	}
	l := &stepLog{file: f, w: bufio.NewWriter(f)}
	l.write(fmt.Sprintf("=== %s on %s", step, engine))
	return l, nil
}

func (l *stepLog) write(line string) {
	if l.err != nil {
		return
	}
	_, l.err = l.w.WriteString(line + "\n")
	if l.err == nil {
		l.err = l.w.Flush() // people follow the log while the step runs
	}
}

func (l *stepLog) event(e Event) {
	switch e.State {
	case StateProgress, StateLine:
		if e.State == StateProgress && e.Line == "" {
			return // counted by something that printed nothing
		}
		if e.Stage != l.stage {
			l.stage = e.Stage
			l.write("--- " + e.Stage)
		}
		l.write(e.Line)
		if len(l.last) == tailLines {
			l.last = l.last[1:]
		}
		l.last = append(l.last, e.Line)
	case StateStart, StateDone, StateFailed:
		state := e.State
		if e.Cached {
			state = "cached"
		}
		if e.State == StateStart {
			l.last = nil // earlier output does not explain why this stage fails
		}
		l.stage = e.Stage
		l.write("--- " + e.Stage + ": " + state)
	}
}

func (l *stepLog) tail() []string { return l.last }

// close ends the log with how the step ended.
func (l *stepLog) close(outcome error) error {
	if outcome == nil {
		l.write("=== done")
	} else {
		l.write("=== " + outcome.Error())
	}
	if l.file == nil {
		return nil
	}
	if err := errors.Join(l.err, l.file.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", l.file.Name(), err)
	}
	return nil
}
