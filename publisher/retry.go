package publisher

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// longestWait bounds the wait between two tries.
const longestWait = 30 * time.Second

// A gate holds all requests back while the other side asks for a pause: each one more would prolong it.
type gate struct {
	mu    sync.Mutex
	until time.Time
}

func (g *gate) hold(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if until := time.Now().Add(d); until.After(g.until) {
		g.until = until
	}
}

func (g *gate) wait(ctx context.Context) error {
	for {
		g.mu.Lock()
		left := time.Until(g.until)
		g.mu.Unlock()
		if left <= 0 {
			return context.Cause(ctx)
		}
		if err := sleep(ctx, left); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// patience is what is left of the tries of one step.
type patience struct {
	p     *publication
	what  string
	tries int
	wait  time.Duration
	held  time.Duration
}

func (p *publication) patience(what string) *patience {
	return &patience{p: p, what: what, tries: p.Tries, wait: p.FirstWait}
}

// again waits after an error until it is time for the next try, or gives the error back: it is not temporary, or the
// step has had its tries. A pause that the other side asks for is no try.
func (s *patience) again(ctx context.Context, err error) error {
	var temporary *TemporaryError
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !errors.As(err, &temporary) {
		return fmt.Errorf("%s: %w", s.what, err)
	}
	if after := temporary.After; after > 0 {
		if s.held += after; s.held > s.p.MaxPause {
			return fmt.Errorf("%s: asked to wait until %s: %w", s.what, time.Now().Add(after).Format("15:04:05"), err)
		}
		s.p.note("%s: %v; waiting %s as asked", s.what, err, after.Round(time.Second))
		s.p.gate.hold(after)
		return s.p.gate.wait(ctx)
	}
	if s.tries--; s.tries <= 0 {
		return fmt.Errorf("%s: %w", s.what, err)
	}
	wait := s.wait/2 + rand.N(s.wait/2+1)
	s.wait = min(2*s.wait, longestWait)
	s.p.note("%s: %v; trying again", s.what, err)
	return sleep(ctx, wait)
}

// retry does what may be done twice until it succeeds.
func (p *publication) retry(ctx context.Context, what string, do func() error) error {
	for s := p.patience(what); ; {
		if err := p.gate.wait(ctx); err != nil {
			return err
		}
		err := do()
		if err == nil {
			return nil
		}
		if err := s.again(ctx, err); err != nil {
			return err
		}
	}
}

// poll waits before look number n, from 0, at something that changes by itself within a time: more and more seldom,
// because looks are counted by the other side.
func (p *publication) poll(ctx context.Context, n int, within time.Duration) error {
	const looks = 12 // at the least, within that time
	return sleep(ctx, min(p.FirstWait/2<<min(n, 10), max(within/looks, p.FirstWait/2)))
}
