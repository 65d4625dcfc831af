package fetchcli

import (
	"bytes"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/fetch"
)

// A download of 100 MB at 4 MB/s, of which an earlier run had brought 20 MB, told ten times a second.
func bring(t *terminal) {
	const mb = 1_000_000
	p := fetch.Progress{Name: "llcuda-bins-sm75.tar.zst", Total: 100 * mb, From: 20 * mb}
	for p.Done = 5 * mb; p.Done <= 20*mb; p.Done += 5 * mb {
		t.progress(p)
	}
	p.Source = "https://mirror"
	for p.Done = 20 * mb; p.Done < p.Total; p.Done += 400_000 {
		t.progress(p)
		time.Sleep(100 * time.Millisecond)
	}
	p.Done = p.Total
	t.progress(p)
	t.progress(p) // said once
}

// In a log, a notebook or a pipe: a line at the beginning, one every 10 seconds, and one at the end.
func TestProgressInALog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, err bytes.Buffer
		bring(&terminal{out: &out, err: &err, columns: func() int { return 80 }})
		want := `downloading llcuda-bins-sm75.tar.zst, 100.0 MB, resuming at 20.0 MB
llcuda-bins-sm75.tar.zst  60.0 MB of 100.0 MB  60%  4.0 MB/s  10s left
downloaded llcuda-bins-sm75.tar.zst, 100.0 MB in 20s
`
		if diff := cmp.Diff(want, err.String()); diff != "" || out.Len() > 0 {
			t.Errorf("(-want +got):\n%s\non standard output: %q", diff, out.String())
		}
	})
}

// On a screen: one line that is drawn anew, never wider than the screen, gone when something else is said.
func TestProgressOnAScreen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const columns = 72
		var out, err bytes.Buffer
		term := &terminal{out: &out, err: &err, live: true, columns: func() int { return columns }}
		bring(term)
		term.notef("writing to disk")
		if got := err.String(); !strings.Contains(got, "\r\x1b[Kllcuda-bins-sm75.tar.zst  40.0 MB of 100.0 MB  40%  4.0 MB/s") {
			t.Errorf("no bytes and rate in %q", got)
		}
		lines := regexp.MustCompile(`\r\x1b\[K`).Split(err.String(), -1)
		for _, line := range lines[:len(lines)-1] {
			if len(line) >= columns || strings.Contains(line, "\n") {
				t.Errorf("%q does not stay in one line of %d columns", line, columns)
			}
		}
		if got, want := lines[len(lines)-1], "downloaded llcuda-bins-sm75.tar.zst, 100.0 MB in 20s\nwriting to disk\n"; got != want {
			t.Errorf("at the end there is %q, want %q", got, want)
		}
	})
}

// A download that is slow because of the server says so, on a screen and in a log, for as long as it is.
func TestProgressOfASlowServer(t *testing.T) {
	for _, live := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var out, err bytes.Buffer
			term := &terminal{out: &out, err: &err, live: live, columns: func() int { return 80 }}
			for p := (fetch.Progress{Name: "x.tar.zst", Total: 1_000_000, Source: "https://mirror"}); p.Done < 300_000; p.Done += 100_000 {
				p.Slow = p.Done == 100_000
				term.progress(p)
				time.Sleep(plainEvery)
			}
			for text, want := range map[string]bool{
				"x.tar.zst  100.0 kB of 1.0 MB  10%  slow server": true, "x.tar.zst  200.0 kB of 1.0 MB  20%  slow server": false,
			} {
				if strings.Contains(err.String(), text) != want {
					t.Errorf("live %t: %q in %q is not %t", live, text, err.String(), want)
				}
			}
		})
	}
}

// --quiet says nothing of what goes on; results, warnings and errors it says all the same.
func TestQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, err bytes.Buffer
		term := &terminal{out: &out, err: &err, quiet: true, columns: func() int { return 80 }}
		bring(term)
		term.notef("nothing")
		term.printf("a result")
		term.warnf("a warning")
		term.report(&usageError{errors.New("nothing"), "a way out"}, exitUsage)
		if diff := cmp.Diff("llcuda-fetch: warning: a warning\nllcuda-fetch: nothing\nhint: a way out\n", err.String()); diff != "" || out.String() != "a result\n" {
			t.Errorf("(-want +got):\n%s\non standard output: %q", diff, out.String())
		}
	})
}

// What a program reads on standard error: of a download its two ends and at most ten events a second, of all else a line
// each, whatever is in it.
func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, err bytes.Buffer
		term := &terminal{out: &out, err: &err, events: true}
		bring(term)
		var first, last downloadEvent
		lines := strings.Split(strings.TrimSuffix(err.String(), "\n"), "\n")
		for i, line := range lines {
			last = downloadEvent{}
			decoder := json.NewDecoder(strings.NewReader(line))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(&last); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if i == 0 {
				first = last
			}
		}
		const mb = 1_000_000
		want := downloadEvent{event("download"), "llcuda-bins-sm75.tar.zst", 20 * mb, 100 * mb, 20 * mb, "https://mirror"}
		if diff := cmp.Diff(want, first, cmp.AllowUnexported(downloadEvent{})); diff != "" {
			t.Errorf("the first (-want +got):\n%s", diff)
		}
		want.Done = want.Total
		if diff := cmp.Diff(want, last, cmp.AllowUnexported(downloadEvent{})); diff != "" {
			t.Errorf("the last (-want +got):\n%s", diff)
		}
		if n := len(lines); n < 100 || n > 202 {
			t.Errorf("%d events in 20 seconds", n)
		}

		err.Reset()
		term.progress(fetch.Progress{Name: "here", Done: 7, Total: 7, From: 7})
		term.progress(fetch.Progress{Name: "at once", Done: 7, Total: 7, Source: "https://mirror"})
		for done := int64(2); done < 6; done += 2 { // an earlier run's bytes, and no size known
			term.progress(fetch.Progress{Name: "unknown", Done: done, Total: -5, From: 6})
		}
		term.progress(fetch.Progress{Name: "unknown", Done: 8, Total: -5, From: 6, Source: "https://mirror"})
		term.progress(fetch.Progress{Name: "unknown", Done: 9, Total: 9, From: 6, Source: "https://mirror"})
		term.notef("two\nlines of <%d>", 2)
		term.warnf("\xff")
		term.tell(waitingEvent{event("waiting"), 4711, "llcuda-fetch install", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}, "waiting")
		term.report(nil, exitDone)
		term.notef("nothing comes after the end")
		term.closed = false
		term.report(&usageError{errors.New("nothing"), "a way out"}, exitUsage)
		term.closed = false
		term.report(errors.New("whatever"), exitInterrupted)
		want2 := `{"v":1,"event":"download","name":"here","done":7,"total":7,"from":7,"source":""}
{"v":1,"event":"download","name":"at once","done":0,"total":7,"from":0,"source":"https://mirror"}
{"v":1,"event":"download","name":"at once","done":7,"total":7,"from":0,"source":"https://mirror"}
{"v":1,"event":"download","name":"unknown","done":6,"total":-1,"from":6,"source":"https://mirror"}
{"v":1,"event":"download","name":"unknown","done":9,"total":9,"from":6,"source":"https://mirror"}
{"v":1,"event":"step","message":"two\nlines of <2>"}
{"v":1,"event":"warning","message":"\ufffd"}
{"v":1,"event":"waiting","pid":4711,"command":"llcuda-fetch install","since":"2026-01-02T03:04:05Z"}
{"v":1,"event":"done"}
{"v":1,"event":"error","class":"usage","code":2,"message":"nothing","hints":["a way out"]}
{"v":1,"event":"error","class":"interrupted","code":130,"message":"interrupted; the next run resumes here","hints":[]}
`
		if diff := cmp.Diff(want2, err.String()); diff != "" || out.Len() > 0 {
			t.Errorf("(-want +got):\n%s\non standard output: %q", diff, out.String())
		}
	})
}
