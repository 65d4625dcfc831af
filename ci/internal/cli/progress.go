package cli

import (
	"fmt"
	"slices"
	"time"

	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
)

const (
	// redrawEvery is how often live lines show a new elapsed time.
	redrawEvery = time.Second
	// Without a screen, a running stage prints a line after this much progress, however soon that is.
	plainPercent = 10
)

// progress shows what the steps of a build are doing: on a screen one line for
// each running stage, elsewhere plain lines.
type progress struct {
	term    *terminal
	now     func() time.Time
	engines bool // name the engine; useful with several
	hide    func()
	stop    chan struct{}
	stopped chan struct{}

	// The terminal's lock guards what follows.
	running []*stageLine
	drawnAt time.Time
}

// stageLine is one running stage.
type stageLine struct {
	engine, step, stage string
	done, total         int
	began               time.Time
	said                time.Time // when a plain line last reported it
	saidDone            int
}

// showProgress begins to show events. The caller closes it.
func showProgress(term *terminal, now func() time.Time, engines bool) *progress {
	p := &progress{term: term, now: now, engines: engines}
	if !term.Live {
		return p
	}
	p.hide = term.Show(p.lines)
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
			p.term.Above(func() {})
		}
	}
}

func (p *progress) close() {
	if p.stop == nil {
		return
	}
	close(p.stop)
	<-p.stopped
	p.hide()
}

// event takes one event of a build.
func (p *progress) event(e farm.Event) {
	switch {
	case e.State == farm.StateLine && e.Step == engineStep:
		p.term.Notef("%-8s %s", e.Stage, e.Line)
	case e.State == farm.StateLine:
	case e.State == farm.StateProgress && p.counted(e):
	default:
		p.term.Above(func() { p.take(e) })
	}
}

// engineStep is the step under which engines report how they start. They have no
// log of their own, so their output is shown.
const engineStep = "engine"

// leave ends the stages of a step that does not end them itself.
func (p *progress) leave(step string) {
	p.term.Above(func() {
		p.running = slices.DeleteFunc(p.running, func(s *stageLine) bool { return s.step == step })
	})
}

// counted takes progress that need not be seen yet.
func (p *progress) counted(e farm.Event) (taken bool) {
	p.term.Guard(func() {
		at := p.find(e)
		if taken = p.term.Live && at >= 0 && p.now().Sub(p.drawnAt) < console.RedrawPause; taken {
			p.running[at].done, p.running[at].total = e.Done, e.Total
		}
	})
	return taken
}

func (p *progress) find(e farm.Event) int {
	return slices.IndexFunc(p.running, func(s *stageLine) bool { return s.step == e.Step && s.stage == e.Stage })
}

func (p *progress) take(e farm.Event) {
	at := p.find(e)
	if e.State == farm.StateLost {
		p.running = slices.DeleteFunc(p.running, func(s *stageLine) bool { return s.step == e.Step })
		fmt.Fprintf(p.term.Err, "ci: warning: the engine %s was lost while it ran %s: %s\n", e.Engine, e.Step, e.Line)
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
		if !p.term.Live {
			fmt.Fprintf(p.term.Err, "%s started%s\n", p.label(p.running[at]), p.on(e.Engine))
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
		if !p.term.Live && p.due(s) {
			s.said, s.saidDone = p.now(), s.done
			fmt.Fprintf(p.term.Err, "%s %s, %s\n", p.label(s), count(s), measure.Time(p.now().Sub(s.began)))
		}
	}
}

// due reports whether a plain line should report the stage again.
func (p *progress) due(s *stageLine) bool {
	if s.total == 0 || s.done == s.saidDone {
		return false
	}
	return p.now().Sub(s.said) >= console.PlainEvery || (s.done-s.saidDone)*100 >= plainPercent*s.total
}

// say prints how a stage ended.
func (p *progress) say(s *stageLine, e farm.Event) {
	how := "done in " + measure.Time(p.now().Sub(s.began))
	switch {
	case e.State == farm.StateFailed:
		how = "FAILED after " + measure.Time(p.now().Sub(s.began))
	case e.Cached:
		how = "cached"
	}
	if s.total > 0 && !e.Cached {
		how += ", " + count(s)
	}
	fmt.Fprintf(p.term.Err, "%s %s%s\n", p.label(s), how, p.on(s.engine))
}

func (p *progress) label(s *stageLine) string { return fmt.Sprintf("%-8s %-10s", s.step, s.stage) }

func (p *progress) on(engine string) string {
	if !p.engines || engine == "" {
		return ""
	}
	return " on " + engine
}

func count(s *stageLine) string { return fmt.Sprintf("%d/%d", s.done, s.total) }

// lines are the running stages on a screen.
func (p *progress) lines() (lines []string) {
	for _, s := range p.running {
		line := p.label(s)
		if s.total > 0 {
			line += fmt.Sprintf(" %s  %d%%", count(s), 100*s.done/s.total)
		}
		lines = append(lines, line+"  "+measure.Time(p.now().Sub(s.began))+p.on(s.engine))
	}
	p.drawnAt = p.now()
	return lines
}
