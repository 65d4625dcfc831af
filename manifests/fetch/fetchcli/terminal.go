package fetchcli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/waqasm86/llcuda-farm/manifests/fetch"
)

// terminal is where the command talks: printf (results, to standard output), notef (what is going on), warnf (what the
// user should know), report (how the command ended), and the progress of one download at a time. For programs it says all
// but the results in events.
type terminal struct {
	out, err io.Writer
	live     bool // err is a screen on which a line can be redrawn
	quiet    bool
	events   bool // of --events
	columns  func() int

	mu       sync.Mutex
	closed   bool // the end was said: what is still running says nothing more
	drawn    bool // a live line is on the screen
	download download
}

// A download is the one that is shown.
type download struct {
	name  string
	began time.Time
	said  time.Time
	whole bool // and that was said
}

func newTerminal(out, err *os.File) *terminal {
	fd := int(err.Fd())
	return &terminal{
		out: out, err: err,
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

const (
	// defaultColumns is the width of a terminal that does not tell its own.
	defaultColumns = 80
	// plainEvery is how often a download speaks where lines cannot be redrawn: logs are read by people.
	plainEvery = 10 * time.Second
)

func (t *terminal) printf(format string, args ...any) {
	t.above(func() { fmt.Fprintf(t.out, format+"\n", args...) })
}

func (t *terminal) notef(format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	t.tell(stepEvent{event("step"), message}, message)
}

func (t *terminal) warnf(format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	if t.events {
		t.emit(warningEvent{event("warning"), message})
		return
	}
	t.above(func() { fmt.Fprintf(t.err, "llcuda-fetch: warning: %s\n", message) })
}

// tell says what goes on: an event to a program, the text to a person, if there is one. Like notef, which does for
// what has no event of its own, it says nothing with --quiet.
func (t *terminal) tell(e any, text string) {
	switch {
	case t.quiet:
	case t.events:
		t.emit(e)
	case text != "":
		t.above(func() { fmt.Fprintln(t.err, text) })
	}
}

// emit writes an event in a line of its own, and at once: whoever reads it may be waiting.
func (t *terminal) emit(e any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	lines := json.NewEncoder(t.err)
	lines.SetEscapeHTML(false)
	_ = lines.Encode(e) // a reader that is gone does not keep the command from its work
}

// report says how the command ended: why it failed and, where they are known, the ways out.
func (t *terminal) report(err error, code int) {
	defer t.close()
	if err == nil {
		if t.events {
			t.emit(doneEvent{event("done")})
		}
		return
	}
	message, hints := strings.TrimSpace(err.Error()), fetch.Hints(err)
	var usage *usageError // whatever it happened in the middle of
	switch {
	case code == exitInterrupted:
		message, hints = "interrupted; the next run resumes here", nil
	case errors.As(err, &usage):
		hints = slices.DeleteFunc([]string{usage.hint}, func(hint string) bool { return hint == "" })
	}
	if t.events {
		t.emit(errorEvent{event("error"), className(code), code, message, nonNil(hints)})
		return
	}
	t.above(func() {
		fmt.Fprintf(t.err, "llcuda-fetch: %s\n", strings.ReplaceAll(message, "\n", "\n    "))
		for _, hint := range hints {
			fmt.Fprintf(t.err, "hint: %s\n", hint)
		}
	})
}

func (t *terminal) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

// above prints while the live line is out of the way.
func (t *terminal) above(print func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.erase()
	print()
}

func (t *terminal) erase() {
	if t.drawn {
		fmt.Fprint(t.err, "\r\x1b[K")
		t.drawn = false
	}
}

// progress shows how far a download is: on a screen in one line, elsewhere in a line every 10 seconds, and one at its end.
func (t *terminal) progress(p fetch.Progress) {
	if t.quiet {
		return
	}
	now := time.Now()
	if t.events {
		t.progressEvents(p, now)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	d, first, last := t.follow(p, now)
	if d == nil || t.closed {
		return
	}
	if first && !t.live && !last {
		fmt.Fprintf(t.err, "downloading %s, %s%s\n", p.Name, bytesText(p.Total), resumed(p.From))
	}
	switch {
	case last:
		t.erase()
		fmt.Fprintf(t.err, "downloaded %s, %s in %s\n", p.Name, bytesText(p.Total), timeText(now.Sub(d.began)))
	case t.live:
		t.erase()
		line := d.line(p, now)
		if width := t.columns() - 1; len(line) > width {
			line = line[:max(width, 0)]
		}
		fmt.Fprint(t.err, line)
		t.drawn = true
	case now.Sub(d.said) >= plainEvery:
		d.said = now
		fmt.Fprintln(t.err, d.line(p, now))
	}
}

// follow takes what is told of a download to what is known of it: nil where there is nothing to say.
func (t *terminal) follow(p fetch.Progress, now time.Time) (d *download, first, last bool) {
	d = &t.download
	if d.name != p.Name {
		*d = download{name: p.Name}
	}
	// An earlier run's bytes are being read again, or its end was told already.
	if p.Source == "" && (p.Total < 0 || p.Done < p.Total) || d.whole {
		return nil, false, false
	}
	if first = d.began.IsZero(); first {
		d.began, d.said = now, now
	}
	d.whole = p.Total >= 0 && p.Done >= p.Total
	return d, first, d.whole
}

// progressEvents tells a program how far a download is.
func (t *terminal) progressEvents(p fetch.Progress, now time.Time) {
	d, first, last := t.follow(p, now)
	if d == nil {
		return
	}
	e := downloadEvent{event("download"), p.Name, p.Done, max(p.Total, -1), p.From, p.Source}
	if first && p.Done > p.From {
		begin := e
		begin.Done = p.From
		t.emit(begin)
	}
	if last || first && p.Done <= p.From || now.Sub(d.said) >= eventEvery {
		d.said = now
		t.emit(e)
	}
}

func resumed(done int64) string {
	if done == 0 {
		return ""
	}
	return ", resuming at " + bytesText(done)
}

// line is bytes, rate and time left.
func (d *download) line(p fetch.Progress, now time.Time) string {
	if p.Total <= 0 {
		return fmt.Sprintf("%s  %s", p.Name, bytesText(p.Done))
	}
	line := fmt.Sprintf("%s  %s of %s  %d%%", p.Name, bytesText(p.Done), bytesText(p.Total), 100*p.Done/p.Total)
	if p.Slow {
		line += "  slow server"
	}
	elapsed, brought := now.Sub(d.began), p.Done-p.From
	if elapsed < time.Second || brought <= 0 {
		return line
	}
	rate := float64(brought) / elapsed.Seconds()
	left := time.Duration(float64(p.Total-p.Done) / rate * float64(time.Second))
	return fmt.Sprintf("%s  %s/s  %s left", line, bytesText(int64(rate)), timeText(left))
}

// timeText is a time for people: 4.2s, 48s, 3m07s, 1h02m.
func timeText(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0fs", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}
