package publisher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests/retry"
)

// A gate holds all requests back while the server asks for a pause: each further one would prolong
// it.
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
		if err := retry.Sleep(ctx, left); err != nil {
			return err
		}
	}
}

// patience is what is left of the tries of one step.
type patience struct {
	p     *publication
	what  string
	tries *retry.Sequence
	held  time.Duration
}

func (p *publication) patience(what string) *patience {
	policy := retry.Policy{Tries: p.Tries, FirstWait: p.FirstWait, Waiting: func(err error, _ time.Duration) {
		p.note("%s: %v; trying again", what, err)
	}}
	return &patience{p: p, what: what, tries: policy.Begin()}
}

// wait waits after an error until it is time for the next try, or returns the error: it is not
// temporary, or the step has had its tries. A pause that the server asks for does not count as a
// try.
func (s *patience) wait(ctx context.Context, err error) error {
	temporary, ok := errors.AsType[*TemporaryError](err)
	if ctx.Err() == nil && ok && temporary.After > 0 {
		if s.held += temporary.After; s.held > s.p.MaxPause {
			return fmt.Errorf("%s: asked to wait until %s: %w", s.what, time.Now().Add(temporary.After).Format("15:04:05"), err)
		}
		s.p.note("%s: %v; waiting %s as asked", s.what, err, temporary.After.Round(time.Second))
		s.p.gate.hold(temporary.After)
		return s.p.gate.wait(ctx)
	}
	err = s.tries.Wait(ctx, err)
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%s: %w", s.what, err)
	}
	if err != nil {
		return context.Cause(ctx)
	}
	return nil
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
		if err := s.wait(ctx, err); err != nil {
			return err
		}
	}
}

// poll waits before look number n, from 0, at something that changes by itself within a time. It
// looks ever less often, because the server counts its requests.
func (p *publication) poll(ctx context.Context, n int, within time.Duration) error {
	const looks = 12 // at the least, within that time
	return retry.Sleep(ctx, min(p.FirstWait/2<<min(n, 10), max(within/looks, p.FirstWait/2)))
}
