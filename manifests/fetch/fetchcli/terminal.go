package fetchcli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
)

// terminal is where the command talks: printf (results, to standard output), notef (what the program is doing), warnf
// (what the user should know), report (how the command ended), and the progress of one download at a time. For programs
// it says all but the results in events.
type terminal struct {
	*console.Terminal
	quiet  bool
	events bool // of --events

	name  string             // of the download that is shown
	files *console.Transfers // which shows it
	meter console.Meter      // its, for events
}

func newTerminal(out, err *os.File) *terminal {
	return &terminal{Terminal: console.New("llcuda-fetch", out, err)}
}

func (t *terminal) printf(format string, args ...any) { t.Printf(format, args...) }

func (t *terminal) notef(format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	t.tell(stepEvent{event("step"), message}, message)
}

func (t *terminal) warnf(format string, args ...any) {
	if t.events {
		t.emit(warningEvent{event("warning"), fmt.Sprintf(format, args...)})
		return
	}
	t.Warnf(format, args...)
}

// tell says what the program is doing: an event to a program, the text to a person, if there is one. Like notef, which
// serves where there is no event, it prints nothing with --quiet.
func (t *terminal) tell(e any, text string) {
	switch {
	case t.quiet:
	case t.events:
		t.emit(e)
	case text != "":
		t.Notef("%s", text)
	}
}

// emit writes an event on a line of its own, without buffering: the reader may be waiting for it.
func (t *terminal) emit(e any) {
	t.Above(func() {
		lines := json.NewEncoder(t.Err)
		lines.SetEscapeHTML(false)
		_ = lines.Encode(e) // a reader that is gone does not stop the command
	})
}

// report says how the command ended: why it failed and, where they are known, the ways out.
func (t *terminal) report(err error, code int) {
	defer t.Close()
	if err == nil {
		if t.events {
			t.emit(doneEvent{event("done")})
		}
		return
	}
	message, hints := strings.TrimSpace(err.Error()), fetch.Hints(err)
	var usage *console.UsageError // whatever it happened in the middle of
	switch {
	case code == exitInterrupted:
		message, hints = "interrupted; the next run resumes here", nil
	case errors.As(err, &usage) && usage.Way == "":
		hints = nil
	case errors.As(err, &usage):
		hints = []string{usage.Way}
	}
	if t.events {
		t.emit(errorEvent{event("error"), className(code), code, message, nonNil(hints)})
		return
	}
	t.Report(message, hints...)
}

// progress shows how far a download is.
func (t *terminal) progress(p fetch.Progress) {
	if t.quiet {
		return
	}
	if t.name != p.Name {
		t.name, t.files, t.meter = p.Name, t.Transfers("downloading", "downloaded"), console.Meter{}
	}
	if t.events {
		t.progressEvents(p)
		return
	}
	t.files.Report(p)
}

// progressEvents tells a program how far a download is.
func (t *terminal) progressEvents(p fetch.Progress) {
	now := time.Now()
	first, last, ok := t.meter.Take(p, now)
	if !ok {
		return
	}
	e := downloadEvent{event("download"), p.Name, p.Done, max(p.Total, -1), p.From, p.Source}
	if first && p.Done > p.From {
		begin := e
		begin.Done = p.From
		t.emit(begin)
	}
	if last || first && p.Done <= p.From || t.meter.Due(now, eventEvery) {
		t.emit(e)
	}
}
