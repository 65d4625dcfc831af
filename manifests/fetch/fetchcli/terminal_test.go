package fetchcli

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console/consoletest"
)

// --quiet hides progress messages; results, warnings and errors are still printed.
func TestQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, err bytes.Buffer
		term := &terminal{Terminal: &console.Terminal{Program: "llcuda-fetch", Out: &out, Err: &err}, quiet: true}
		consoletest.Download(term.progress)
		term.notef("nothing")
		term.printf("a result")
		term.warnf("a warning")
		term.report(console.Usage(errors.New("nothing"), "a way out"), exitUsage)
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
		open := func() *terminal { return &terminal{Terminal: &console.Terminal{Out: &out, Err: &err}, events: true} }
		term := open()
		consoletest.Download(term.progress)
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
		open().report(console.Usage(errors.New("nothing"), "a way out"), exitUsage)
		open().report(errors.New("whatever"), exitInterrupted)
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
