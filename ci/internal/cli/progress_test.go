package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/ci/internal/engine"
	"github.com/waqasm86/llcuda-farm/ci/internal/engine/builtin"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console/consoletest"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// clock is a time that the test moves.
type clock struct{ now time.Time }

func (c *clock) read() time.Time         { return c.now }
func (c *clock) advance(d time.Duration) { c.now = c.now.Add(d) }

func TestPlainProgress(t *testing.T) {
	var out bytes.Buffer
	c := &clock{time.Unix(0, 0)}
	p := showProgress(&console.Terminal{Program: "ci", Out: io.Discard, Err: &out}, c.read, true)
	defer p.close()
	send := func(after time.Duration, e farm.Event) {
		c.advance(after)
		e.Engine = "a"
		p.event(e)
	}
	send(0, farm.Event{Step: "sm75", Stage: "compile", State: farm.StateStart})
	for i := range 143 { // half a second each: more than 10 % after 15, and never 10 s
		send(500*time.Millisecond, farm.Event{Step: "sm75", Stage: "compile", State: farm.StateProgress, Done: i + 1, Total: 143})
		send(0, farm.Event{Step: "sm75", Stage: "compile", State: farm.StateLine, Line: "noise"})
	}
	send(0, farm.Event{Step: "sm75", Stage: "compile", State: farm.StateDone, Done: 143, Total: 143})
	send(0, farm.Event{Step: "sm86", Stage: "compile", State: farm.StateStart})
	send(time.Minute, farm.Event{Step: "sm86", Stage: "compile", State: farm.StateProgress, Done: 1, Total: 143})
	send(time.Second, farm.Event{Step: "sm86", Stage: "compile", State: farm.StateProgress, Done: 2, Total: 143})
	send(time.Minute, farm.Event{Step: "sm86", Stage: "compile", State: farm.StateProgress, Done: 2, Total: 143}) // as before, though later: said once
	send(time.Hour, farm.Event{Step: "sm86", Stage: "compile", State: farm.StateProgress, Done: 2, Total: 143})
	send(time.Second, farm.Event{Step: "sm86", Stage: "compile", State: farm.StateFailed})
	send(0, farm.Event{Step: "sm89", Stage: "image", State: farm.StateDone, Cached: true})
	send(0, farm.Event{Step: "sm89", Stage: "compile", State: farm.StateStart})
	send(0, farm.Event{Step: "sm89", State: farm.StateLost, Line: "connection reset"})

	want := `sm75     compile    started on a
sm75     compile    15/143, 7.5s
sm75     compile    30/143, 15s
sm75     compile    45/143, 22s
sm75     compile    60/143, 30s
sm75     compile    75/143, 38s
sm75     compile    90/143, 45s
sm75     compile    105/143, 52s
sm75     compile    120/143, 1m00s
sm75     compile    135/143, 1m08s
sm75     compile    done in 1m12s, 143/143 on a
sm86     compile    started on a
sm86     compile    1/143, 1m00s
sm86     compile    2/143, 2m01s
sm86     compile    FAILED after 1h02m, 2/143 on a
sm89     image      cached on a
sm89     compile    started on a
ci: warning: the engine a was lost while it ran sm89: connection reset
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLiveProgress(t *testing.T) {
	s := &consoletest.Screen{T: t}
	c := &clock{time.Unix(0, 0)}
	term := &console.Terminal{Program: "ci", Out: s, Err: s, Live: true, Columns: func() int { return 40 }}
	p := showProgress(term, c.read, false)
	expect := func(what string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, s.Lines()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	p.event(farm.Event{Step: "host", Stage: "compile", State: farm.StateStart})
	p.event(farm.Event{Step: "sm75", Stage: "compile", State: farm.StateStart})
	c.advance(151 * time.Second)
	p.event(farm.Event{Step: "sm75", Stage: "compile", State: farm.StateProgress, Done: 123, Total: 143})
	expect("two stages run",
		"host     compile     2m31s",
		"sm75     compile    123/143  86%  2m31s")
	term.Notef("a note")
	expect("a note goes above",
		"a note",
		"host     compile     2m31s",
		"sm75     compile    123/143  86%  2m31s")
	p.event(farm.Event{Step: "host", Stage: "compile", State: farm.StateDone})
	expect("a stage that ended stays above",
		"a note",
		"host     compile    done in 2m31s",
		"sm75     compile    123/143  86%  2m31s")
	p.event(farm.Event{Step: "sm75", Stage: "a stage with a very long name that does not fit", State: farm.StateStart})
	expect("no line wraps",
		"a note",
		"host     compile    done in 2m31s",
		"sm75     compile    123/143  86%  2m31s",
		"sm75     a stage with a very long name ")
	p.close()
	expect("nothing live is left",
		"a note",
		"host     compile    done in 2m31s")
	term.Printf("the end")
	expect("printing goes on", "a note", "host     compile    done in 2m31s", "the end")
}

func TestSummary(t *testing.T) {
	audit := &bundler.AuditError{Name: "x", Findings: []bundler.Finding{{Rule: "runpath"}}}
	ran := farm.StepStats{Wall: 90 * time.Second, CPUSeconds: 170.4, Compiled: 100, CacheHits: 43}
	outcome := farm.Outcome{
		Host: farm.Result{Step: "host", Stats: farm.StepStats{Wall: time.Second, Cached: true}},
		Bundles: []farm.Result{
			{Step: "sm50", Stats: ran},
			// A stage that fails leaves no figures: the engine's builder reports only its time.
			{Step: "sm60", Stats: farm.StepStats{Wall: 90 * time.Second, Cached: true}, Err: &farm.StepError{Step: "sm60", Stage: "compile", ExitCode: 1}},
			{Step: "sm61", Stats: ran, Err: fmt.Errorf("auditing: %w", audit)},
			{Step: "sm70", Err: fmt.Errorf("building: %w", farm.ErrEngineLost)},
			{Step: "sm75", Err: context.Canceled},
			{Step: "sm80", Err: &farm.HostError{Err: errors.New("x")}},
			{Step: "sm86", Stats: ran, Err: errors.New("packing: disk full")},
		},
	}
	want := `STEP  RESULT                WALL   CPU   OBJECTS  FROM CACHE  TAR.GZ  TAR.ZST
host  cached                -      -     -        -           -       -
sm50  built                 1m30s  170s  143      43          -       -
sm60  FAILED in compile     1m30s  -     -        -           -       -
sm61  REFUSED by the audit  1m30s  170s  143      43          -       -
sm70  engine lost           -      -     -        -           -       -
sm75  interrupted           -      -     -        -           -       -
sm80  not built             -      -     -        -           -       -
sm86  FAILED                1m30s  170s  143      43          -       -
all                         1h00m  511s`
	if diff := cmp.Diff(want, summary(outcome, time.Hour)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestExitCode(t *testing.T) {
	audit := &bundler.AuditError{}
	stepErr := &farm.StepError{}
	failed := func(errs ...error) error {
		out := farm.Outcome{}
		for i, err := range errs {
			out.Bundles = append(out.Bundles, farm.Result{Step: matrix.SM(50 + i).String(), Err: err})
		}
		return buildError(context.Background(), out, errors.Join(errs...))
	}
	stopped, cancel := context.WithCancel(context.Background())
	cancel()
	tests := []struct {
		name string
		ctx  context.Context
		err  error
		want int
		hint string
	}{
		{"done", context.Background(), nil, 0, ""},
		{"usage", context.Background(), fmt.Errorf("x: %w", console.Usage(errors.New("y"), "do z")), 2, "do z"},
		{"source", context.Background(), &farm.SourceError{Hint: "give another"}, 2, "give another"},
		{"selection", context.Background(), &matrix.SelectionError{}, 2, ""},
		{"engine", context.Background(), fmt.Errorf("x: %w", &engine.UnavailableError{Err: errors.New("y"), Hint: "start it"}), 4, "start it"},
		{"host without an engine", context.Background(), &builtin.PreflightError{Problems: []string{"not root"}}, 4, "an engine comes from"},
		{"engine that does not start", context.Background(), fmt.Errorf("x: %w", &builtin.StartError{Err: errors.New("y")}), 4, "an engine comes from"},
		{"engine lost", context.Background(), failed(stepErr, fmt.Errorf("x: %w", farm.ErrEngineLost)), 4, "start the engine again"},
		{"audit", context.Background(), failed(audit, fmt.Errorf("x: %w", audit)), 3, "the findings above"},
		{"audit and failure", context.Background(), failed(audit, stepErr), 1, ""},
		{"disk full", context.Background(), failed(fmt.Errorf("packing: %w", syscall.ENOSPC)), 1, "the disk is full"},
		{"too little disk", context.Background(), &spaceError{"/x", 2, 1}, 1, "the disk is full"},
		{"interrupted", stopped, failed(stepErr), 130, ""},
		{"anything else", context.Background(), errors.New("x"), 1, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := exitCode(test.ctx, test.err); got != test.want {
				t.Errorf("exit code is %d, want %d", got, test.want)
			}
			if hint := hintFor(test.err); !strings.HasPrefix(hint, test.hint) || (test.hint == "") != (hint == "") {
				t.Errorf("hint is %q, want %q", hint, test.hint)
			}
		})
	}
}
