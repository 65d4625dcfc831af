package retry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What each policy waits, in a time that passes by itself: the waits, as far as they are not
// random, and the last error.
func TestDo(t *testing.T) {
	busy, final := errors.New("busy"), errors.New("no")
	always := func(err error) func(int) error { return func(int) error { return err } }
	temporary := &TemporaryError{Err: busy}
	asks := func(after time.Duration) error { return &TemporaryError{Err: busy, After: after} }
	for name, test := range map[string]struct {
		policy Policy
		try    func(n int) error
		tries  int
		waits  []time.Duration // each is at most this, and at least half of it
		want   error
	}{
		"succeeds":       {Policy{}, always(nil), 1, nil, nil},
		"refused":        {Policy{}, always(final), 1, nil, final},
		"busy":           {Policy{}, always(temporary), 5, []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second}, busy},
		"busy, wrapped":  {Policy{Tries: 2}, always(fmt.Errorf("asking: %w", temporary)), 2, []time.Duration{time.Second}, busy},
		"one try":        {Policy{Tries: 1}, always(temporary), 1, nil, busy},
		"up to a limit":  {Policy{FirstWait: 4 * time.Second, LongestWait: 6 * time.Second, Tries: 4}, always(temporary), 4, []time.Duration{4 * time.Second, 6 * time.Second, 6 * time.Second}, busy},
		"within a time":  {Policy{Tries: -1, FirstWait: time.Second, LongestWait: time.Second, Within: time.Minute}, always(temporary), 0, nil, busy},
		"asked":          {Policy{Tries: 3}, always(asks(40 * time.Second)), 3, []time.Duration{40 * time.Second, 40 * time.Second}, busy},
		"asked too much": {Policy{Tries: 2, MaxAfter: 3 * time.Second}, always(asks(time.Hour)), 2, []time.Duration{3 * time.Second}, busy},
		"then refused": {Policy{}, func(n int) error {
			return map[int]error{1: temporary, 2: final}[n]
		}, 2, []time.Duration{time.Second}, final},
		"then there": {Policy{}, func(n int) error {
			return map[int]error{1: temporary}[n]
		}, 2, []time.Duration{time.Second}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tries, told := 0, 0
				var waits []time.Duration
				begun, last := time.Now(), time.Now()
				test.policy.Waiting = func(error, time.Duration) { told++ }
				err := test.policy.Do(t.Context(), func() error {
					if tries++; tries > 1 {
						waits = append(waits, time.Since(last))
					}
					last = time.Now()
					return test.try(tries)
				})
				if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
					t.Errorf("got %v, want %v", err, test.want)
				}
				if test.policy.Within > 0 { // how many fit is a matter of chance
					if took := time.Since(begun); took > test.policy.Within || took < test.policy.Within-time.Second || tries < 60 {
						t.Errorf("%d tries took %s", tries, took)
					}
					return
				}
				if tries != test.tries || told != len(waits) || len(waits) != len(test.waits) {
					t.Fatalf("%d tries, %d waits told, waited %v, want %d tries, waits %v", tries, told, waits, test.tries, test.waits)
				}
				for i, wait := range waits {
					if wait > test.waits[i]+time.Millisecond || wait < test.waits[i]/2 {
						t.Errorf("wait %d is %s, want up to %s", i, wait, test.waits[i])
					}
				}
			})
		})
	}
}

// The end of the context ends a wait at once, and after progress the tries before it no longer
// count.
func TestSequence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := errors.New("gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(gone) })
		start := time.Now()
		err := Policy{FirstWait: time.Hour, LongestWait: time.Hour}.Do(ctx, func() error { return &TemporaryError{Err: errors.New("busy")} })
		if !errors.Is(err, gone) || time.Since(start) != time.Second {
			t.Errorf("got %v after %s", err, time.Since(start))
		}
		sequence := Policy{Tries: 2}.Begin()
		for range 4 {
			if err := sequence.Wait(t.Context(), &TemporaryError{Err: errors.New("busy")}); err != nil {
				t.Error(err)
			}
			sequence.Reset()
		}
		start = time.Now()
		if err := sequence.Wait(t.Context(), &TemporaryError{Err: errors.New("busy")}); err != nil || time.Since(start) > time.Second {
			t.Errorf("after a reset: %v after %s", err, time.Since(start))
		}
		if err := sequence.Wait(t.Context(), &TemporaryError{Err: errors.New("busy")}); err == nil {
			t.Error("no try was left")
		}
	})
}

func TestAfter(t *testing.T) {
	const now = "Sun, 06 Nov 1994 08:49:37 GMT"
	type answer struct {
		Wait  time.Duration
		Asked bool
	}
	for name, test := range map[string]struct {
		header map[string]string
		want   answer
	}{
		"nothing":                {nil, answer{}},
		"seconds":                {map[string]string{"Retry-After": "3"}, answer{3 * time.Second, true}},
		"no time":                {map[string]string{"Retry-After": "0"}, answer{0, true}},
		"negative":               {map[string]string{"Retry-After": "-1"}, answer{}},
		"words":                  {map[string]string{"Retry-After": "soon"}, answer{}},
		"too much":               {map[string]string{"Retry-After": "9999999999"}, answer{maxSeconds * time.Second, true}},
		"a date":                 {map[string]string{"Date": now, "Retry-After": "Sun, 06 Nov 1994 09:49:37 GMT"}, answer{time.Hour, true}},
		"a date of RFC 850":      {map[string]string{"Date": now, "Retry-After": "Sunday, 06-Nov-94 08:49:47 GMT"}, answer{10 * time.Second, true}},
		"a date in the past":     {map[string]string{"Retry-After": now}, answer{0, true}},
		"a date, far away":       {map[string]string{"Date": now, "Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, answer{maxSeconds * time.Second, true}},
		"a limit":                {map[string]string{"RateLimit": `"api";r=0;t=55`}, answer{55 * time.Second, true}},
		"a limit before seconds": {map[string]string{"RateLimit": `"api";r=0;t=55`, "Retry-After": "3"}, answer{55 * time.Second, true}},
		"a limit not reached":    {map[string]string{"RateLimit": `"api";r=10;t=55`}, answer{}},
		"one of two limits":      {map[string]string{"RateLimit": `"api";r=10;t=55, "pages"; r=0; t=7`}, answer{7 * time.Second, true}},
		"GitHub's limit":         {map[string]string{"Date": now, "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "784111787"}, answer{11 * time.Second, true}},
		"GitHub's, not reached":  {map[string]string{"Date": now, "X-RateLimit-Remaining": "1", "X-RateLimit-Reset": "784111787"}, answer{}},
		"GitHub's, no time":      {map[string]string{"X-RateLimit-Remaining": "0"}, answer{}},
	} {
		header := http.Header{}
		for key, value := range test.header {
			header.Set(key, value)
		}
		wait, asked := After(header)
		if diff := cmp.Diff(test.want, answer{wait, asked}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	synctest.Test(t, func(t *testing.T) { // without the server's clock, this machine's counts
		at := time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)
		if wait, _ := After(http.Header{"Retry-After": {at}}); wait != time.Hour {
			t.Errorf("a date without Date: %s", wait)
		}
	})
}

// A watchdog ends the context of what does not move, and no other.
func TestWatchdog(t *testing.T) {
	stalled := errors.New("stalled")
	for name, test := range map[string]struct {
		use  func(w *Watchdog)
		want error
	}{
		"moves":           {func(w *Watchdog) { time.Sleep(50 * time.Second); w.Moved(); time.Sleep(50 * time.Second) }, nil},
		"does not":        {func(w *Watchdog) { time.Sleep(61 * time.Second) }, stalled},
		"rests":           {func(w *Watchdog) { w.Rest(); time.Sleep(time.Hour) }, nil},
		"stops afterward": {func(w *Watchdog) { w.Rest(); w.Moved(); time.Sleep(61 * time.Second) }, stalled},
		"ended":           {func(w *Watchdog) { w.End(); w.Moved(); time.Sleep(time.Hour) }, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, w := Watch(t.Context(), time.Minute, stalled)
				defer w.End()
				test.use(w)
				synctest.Wait()
				if got := context.Cause(ctx); got != test.want {
					t.Errorf("the context ended with %v, want %v", got, test.want)
				}
			})
		})
	}
}
