package fetchcli

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
)

// A user who interrupts a command gets the terminal back within a second, whatever the command is in the middle of; it
// prints nothing afterward. A command that ends in less time, or has something to finish, ends by itself.
func TestInterruptedCommandsEnd(t *testing.T) {
	own := errors.New("its own end")
	for _, test := range []struct {
		name    string
		takes   time.Duration // after the interrupt
		inOrder bool
		want    error
		most    time.Duration
	}{
		{"in the middle of what cannot be called back", time.Hour, false, context.Canceled, time.Second},
		{"in order, and soon", time.Millisecond, false, own, time.Millisecond},
		{"in order, and later", 5 * time.Second, true, own, 5 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out, said bytes.Buffer
				a := &app{term: &terminal{Terminal: &console.Terminal{Program: "llcuda-fetch", Out: &out, Err: &said}}}
				ctx, interrupt := context.WithCancel(t.Context())
				time.AfterFunc(time.Minute, interrupt)
				began := time.Now()
				err := a.execute(ctx, func(ctx context.Context) error {
					a.endsInOrder.Store(test.inOrder)
					<-ctx.Done()
					time.Sleep(test.takes)
					a.term.notef("its last words")
					a.term.printf("a result")
					return own
				})
				if took := time.Since(began) - time.Minute; took > test.most {
					t.Errorf("it ended %s after the interrupt", took)
				}
				if !errors.Is(err, test.want) {
					t.Errorf("the error is %v", err)
				}
				a.term.report(err, exitInterrupted)
				time.Sleep(2 * time.Hour) // the command runs for as long as it may
				want := "llcuda-fetch: interrupted; the next run resumes here\n"
				if test.want == own {
					want = "its last words\n" + want
				}
				if diff := cmp.Diff(want, said.String()); diff != "" || (out.Len() > 0) != (test.want == own) {
					t.Errorf("(-want +got):\n%s\nstandard output: %q", diff, out.String())
				}
			})
		})
	}
}

// A command that is not interrupted has all the time that it needs.
func TestCommandsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := errors.New("its own end")
		if err := new(app).execute(t.Context(), func(context.Context) error { time.Sleep(time.Hour); return own }); err != own {
			t.Error(err)
		}
	})
}
