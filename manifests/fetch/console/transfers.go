package console

import (
	"fmt"
	"slices"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests/measure"
)

// Transfers shows files on their way: on a screen in a line for each, elsewhere when one begins, every 10 seconds, and
// when it is there.
type Transfers struct {
	term        *Terminal
	doing, done string
	running     []*row
	drawn       time.Time
}

// A row is one file.
type row struct {
	Meter
	last measure.Progress
}

// Transfers shows files for which a person says, for example, downloading and downloaded.
func (t *Terminal) Transfers(doing, done string) *Transfers {
	return &Transfers{term: t, doing: doing, done: done}
}

// Report takes how far one file is. It may be called by several goroutines at once.
func (s *Transfers) Report(p measure.Progress) {
	t := s.term
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	at := slices.IndexFunc(s.running, func(r *row) bool { return r.last.Name == p.Name })
	if at < 0 {
		at = len(s.running)
		s.running = append(s.running, &row{})
	}
	r := s.running[at]
	r.last = p
	now := time.Now()
	first, last, ok := r.Take(p, now)
	switch {
	case !ok:
	case last:
		t.erase()
		fmt.Fprintf(t.Err, "%s %s, %s in %s\n", s.done, p.Name, measure.Bytes(p.Total), measure.Time(now.Sub(r.began)))
		s.draw(now)
	case t.Live:
		if first || now.Sub(s.drawn) >= RedrawPause {
			t.erase()
			s.draw(now)
		}
	case first:
		fmt.Fprintf(t.Err, "%s %s, %s%s\n", s.doing, p.Name, measure.Bytes(p.Total), resumed(p.From))
	case r.Due(now, PlainEvery):
		fmt.Fprintln(t.Err, r.line(p, now))
	}
}

func (s *Transfers) draw(now time.Time) {
	var lines []string
	for _, r := range s.running {
		if !r.began.IsZero() && !r.whole {
			lines = append(lines, r.line(r.last, now))
		}
	}
	s.term.draw(lines)
	s.drawn = now
}

func resumed(from int64) string {
	if from == 0 {
		return ""
	}
	return ", resuming at " + measure.Bytes(from)
}

// A Meter follows the transfer of one file. The zero value is one that has not begun.
type Meter struct {
	began, said time.Time
	whole       bool
}

// Take takes how far the file is. It reports whether that is the first and the last there is to say, and whether there is
// anything to say: not where an earlier run's bytes are being read again, nor twice that the file is whole.
func (m *Meter) Take(p measure.Progress, now time.Time) (first, last, ok bool) {
	last = p.Whole()
	if m.whole && !last {
		*m = Meter{} // it is brought again
	}
	if m.whole || !last && p.Source == "" && p.Done <= p.From {
		return false, false, false
	}
	if first = m.began.IsZero(); first {
		m.began, m.said = now, now
	}
	m.whole = last
	return first, last, true
}

// Due reports whether it is time to speak again: at most once in a while of that length.
func (m *Meter) Due(now time.Time, every time.Duration) bool {
	if now.Sub(m.said) < every {
		return false
	}
	m.said = now
	return true
}

// line is bytes, rate and time left.
func (m *Meter) line(p measure.Progress, now time.Time) string {
	if p.Total <= 0 {
		return fmt.Sprintf("%s  %s", p.Name, measure.Bytes(p.Done))
	}
	line := fmt.Sprintf("%s  %s of %s  %d%%", p.Name, measure.Bytes(p.Done), measure.Bytes(p.Total), 100*p.Done/p.Total)
	if p.Slow {
		line += "  slow server"
	}
	elapsed, brought := now.Sub(m.began), p.Done-p.From
	if elapsed < time.Second || brought <= 0 {
		return line
	}
	rate := float64(brought) / elapsed.Seconds()
	left := time.Duration(float64(p.Total-p.Done) / rate * float64(time.Second))
	return fmt.Sprintf("%s  %s/s  %s left", line, measure.Bytes(int64(rate)), measure.Time(left))
}
