package cli

import (
	"fmt"
	"slices"
	"time"

	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
)

const (
	// redrawEvery is how often live lines show a new elapsed time.
	redrawEvery = time.Second
	// Progress alone redraws at most this often: packing reports every block.
	redrawPause = 100 * time.Millisecond
	// Without a screen a running stage speaks at most this often, unless it got
	// plainPercent further: logs are read by people.
	plainEvery   = 10 * time.Second
	plainPercent = 10
)

// progress shows what the steps of a build are doing: on a screen one line for
// each running stage, elsewhere plain lines.
type progress struct {
	term    *terminal
	now     func() time.Time
	engines bool // say which engine; of use where there are several

	// The terminal's lock guards what follows.
	running []*stageLine
	drawn   int // live lines on the screen
	drawnAt time.Time
	stop    chan struct{}
	stopped chan struct{}
}

// stageLine is one running stage.
type stageLine struct {
	engine, step, stage string
	done, total         int
	began               time.Time
	said                time.Time // when a plain line last told of it
	saidDone            int
}

// showProgress begins to show events. The caller closes it.
func showProgress(term *terminal, now func() time.Time, engines bool) *progress {
	p := &progress{term: term, now: now, engines: engines}
	if !term.live {
		return p
	}
	term.mu.Lock()
	term.view = p
	term.mu.Unlock()
	p.stop, p.stopped = make(chan struct{}), make(chan struct{})
	go p.tick()
	return p
}

// tick lets the elapsed times move.
func (p *progress) tick() {
	defer close(p.stopped)
	ticker := time.NewTicker(redrawEvery)
	defer ticker.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-ticker.C:
			p.term.above(func() {})
		}
	}
}

func (p *progress) close() {
	if p.stop == nil {
		return
	}
	close(p.stop)
	<-p.stopped
	p.term.mu.Lock()
	defer p.term.mu.Unlock()
	p.erase()
	p.term.view = nil
}

// event takes one event of a build.
func (p *progress) event(e farm.Event) {
	switch {
	case e.State == farm.StateLine && e.Step == engineStep:
		p.term.notef("%-8s %s", e.Stage, e.Line)
	case e.State == farm.StateLine:
	case e.State == farm.StateProgress && p.counted(e):
	default:
		p.term.above(func() { p.take(e) })
	}
}

// engineStep is the step under which engines tell how they come up. They have no
// log of their own, so what they say is shown.
const engineStep = "engine"

// leave ends the stages of a step that does not say so itself.
func (p *progress) leave(step string) {
	p.term.above(func() {
		p.running = slices.DeleteFunc(p.running, func(s *stageLine) bool { return s.step == step })
	})
}

// counted takes progress that need not be seen yet.
func (p *progress) counted(e farm.Event) bool {
	p.term.mu.Lock()
	defer p.term.mu.Unlock()
	at := p.find(e)
	if !p.term.live || at < 0 || p.now().Sub(p.drawnAt) >= redrawPause {
		return false
	}
	p.running[at].done, p.running[at].total = e.Done, e.Total
	return true
}

func (p *progress) find(e farm.Event) int {
	return slices.IndexFunc(p.running, func(s *stageLine) bool { return s.step == e.Step && s.stage == e.Stage })
}

func (p *progress) take(e farm.Event) {
	at := p.find(e)
	if e.State == farm.StateLost {
		p.running = slices.DeleteFunc(p.running, func(s *stageLine) bool { return s.step == e.Step })
		fmt.Fprintf(p.term.err, "ci: warning: the engine %s was lost while it ran %s: %s\n", e.Engine, e.Step, e.Line)
		return
	}
	if at < 0 {
		if e.State != farm.StateStart && e.State != farm.StateProgress {
			// A stage that only says how it ended took no time worth showing.
			p.say(&stageLine{engine: e.Engine, step: e.Step, stage: e.Stage, done: e.Done, total: e.Total, began: p.now()}, e)
			return
		}
		now := p.now()
		p.running = append(p.running, &stageLine{engine: e.Engine, step: e.Step, stage: e.Stage, began: now, said: now})
		at = len(p.running) - 1
		if !p.term.live {
			fmt.Fprintf(p.term.err, "%s started%s\n", p.label(p.running[at]), p.on(e.Engine))
		}
	}
	s := p.running[at]
	if e.Total > 0 {
		s.done, s.total = e.Done, e.Total
	}
	switch e.State {
	case farm.StateDone, farm.StateFailed:
		p.running = slices.Delete(p.running, at, at+1)
		p.say(s, e)
	case farm.StateProgress:
		if !p.term.live && p.due(s) {
			s.said, s.saidDone = p.now(), s.done
			fmt.Fprintf(p.term.err, "%s %s, %s\n", p.label(s), count(s), elapsed(p.now().Sub(s.began)))
		}
	}
}

// due says whether a plain line should tell of the stage again.
func (p *progress) due(s *stageLine) bool {
	if s.total == 0 || s.done == s.saidDone {
		return false
	}
	return p.now().Sub(s.said) >= plainEvery || (s.done-s.saidDone)*100 >= plainPercent*s.total
}

// say tells how a stage ended.
func (p *progress) say(s *stageLine, e farm.Event) {
	how := "done in " + elapsed(p.now().Sub(s.began))
	switch {
	case e.State == farm.StateFailed:
		how = "FAILED after " + elapsed(p.now().Sub(s.began))
	case e.Cached:
		how = "cached"
	}
	if s.total > 0 && !e.Cached {
		how += ", " + count(s)
	}
	fmt.Fprintf(p.term.err, "%s %s%s\n", p.label(s), how, p.on(s.engine))
}

func (p *progress) label(s *stageLine) string { return fmt.Sprintf("%-8s %-10s", s.step, s.stage) }

func (p *progress) on(engine string) string {
	if !p.engines || engine == "" {
		return ""
	}
	return " on " + engine
}

func count(s *stageLine) string { return fmt.Sprintf("%d/%d", s.done, s.total) }

// draw writes the live lines, and erase takes them away.
func (p *progress) draw() {
	width := p.term.columns() - 1 // a full last column makes some terminals wrap
	for _, s := range p.running {
		line := p.label(s)
		if s.total > 0 {
			line += fmt.Sprintf(" %s  %d%%", count(s), 100*s.done/s.total)
		}
		line += "  " + elapsed(p.now().Sub(s.began)) + p.on(s.engine)
		fmt.Fprintln(p.term.err, clip(line, width))
	}
	p.drawn, p.drawnAt = len(p.running), p.now()
}

func (p *progress) erase() {
	if p.drawn > 0 {
		const up, clearBelow = "\x1b[%dA", "\x1b[J"
		fmt.Fprintf(p.term.err, up+"\r"+clearBelow, p.drawn)
	}
	p.drawn = 0
}

func clip(line string, width int) string {
	if runes := []rune(line); width > 0 && len(runes) > width {
		return string(runes[:width])
	}
	return line
}

// elapsed is a time for people: 4.2s, 48s, 3m07s, 1h02m.
func elapsed(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0fs", d.Seconds())
	case d < time.Hour:
		d = d.Round(time.Second)
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	d = d.Round(time.Minute)
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

// bytesText is a size for people: 812 B, 29.6 MB, 1.2 GB.
func bytesText(n int64) string {
	const step = 1000
	value, units := float64(n), []string{"kB", "MB", "GB", "TB"}
	if n < step {
		return fmt.Sprintf("%d B", n)
	}
	unit := ""
	for _, unit = range units {
		if value /= step; value < step {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", value, unit)
}
