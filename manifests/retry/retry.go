// Package retry is how this module asks a server again.
//
// Every package that talks to a server calls it, the client's and the publisher's alike. The input
// is a function that makes one try, or the answer of a server; the output is the waits between
// tries, and an error when no try is left:
//
//	try ──▶ *TemporaryError ──▶ Policy: tries left, wait ──▶ try
//	             ▲
//	             └── After: Retry-After, RateLimit, X-RateLimit-*
//
// An error that is not a *TemporaryError ends the tries at once. A Watchdog ends a try that hangs.
// The package sends nothing, and neither logs nor prints.
package retry

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// The values of a Policy that does not set its own.
const (
	Tries       = 5
	firstWait   = time.Second
	longestWait = 30 * time.Second
	maxAfter    = time.Minute
)

// A TemporaryError is one that may be gone the next time: a lost connection, an overloaded server,
// a rate limit.
type TemporaryError struct {
	Err error
	// After is how long the server asks to wait; 0 if it does not say.
	After time.Duration
}

func (e *TemporaryError) Error() string { return e.Err.Error() }
func (e *TemporaryError) Unwrap() error { return e.Err }

// Hint says what helps.
func (e *TemporaryError) Hint() string {
	return "repeat the command: it resumes, and does not transfer again what has arrived"
}

// IsTemporary reports whether another try may succeed.
func IsTemporary(err error) bool {
	_, temporary := errors.AsType[*TemporaryError](err)
	return temporary
}

// A Policy is how often a server is asked, and how long to wait between tries. The zero value is a
// good one.
type Policy struct {
	// Tries is how often in a row a server is asked: 5. Negative: as often as Within allows.
	Tries int
	// FirstWait is before the second try: 1 second. It doubles up to LongestWait, 30 seconds; half
	// of each wait is random, so that clients that failed together do not return together.
	FirstWait, LongestWait time.Duration
	// MaxAfter caps what a server may ask to wait: 1 minute.
	MaxAfter time.Duration
	// Within is the time for all tries; 0 means no limit. A wait that would end after it is not
	// begun.
	Within time.Duration
	// Waiting, if not nil, is called before each wait.
	Waiting func(why error, wait time.Duration)
}

// Do calls try until it succeeds, until its error is not temporary, or until no try is left; then
// it returns the last error. When the context ends during a wait, it returns the context's cause.
func (p Policy) Do(ctx context.Context, try func() error) error {
	for sequence := p.Begin(); ; {
		err := try()
		if err == nil {
			return nil
		}
		if err := sequence.Wait(ctx, err); err != nil {
			return err
		}
	}
}

// A Sequence counts the tries that failed in a row, for loops that Do does not fit.
type Sequence struct {
	policy  Policy
	waits   *backoff.ExponentialBackOff
	failed  int
	started time.Time
}

// Begin is before the first try.
func (p Policy) Begin() *Sequence {
	p.Tries = cmp.Or(p.Tries, Tries)
	p.MaxAfter = cmp.Or(p.MaxAfter, maxAfter)
	// A factor of 1/3 around 3/4 of a wait is from one half of it to all of it.
	const middle, spread = 0.75, 1.0 / 3
	waits := &backoff.ExponentialBackOff{
		InitialInterval:     time.Duration(middle * float64(cmp.Or(p.FirstWait, firstWait))),
		MaxInterval:         time.Duration(middle * float64(cmp.Or(p.LongestWait, longestWait))),
		Multiplier:          2,
		RandomizationFactor: spread,
	}
	waits.Reset()
	return &Sequence{policy: p, waits: waits, started: time.Now()}
}

// Reset is after progress: the tries that failed before it no longer count.
func (s *Sequence) Reset() {
	s.failed = 0
	s.waits.Reset()
}

// Wait counts a try that failed and waits until the time for the next one: for as long as the
// server asks, or longer from try to try. It returns the try's own error if that is not temporary
// or no try is left, and the context's cause if that ends first.
func (s *Sequence) Wait(ctx context.Context, err error) error {
	temporary, ok := errors.AsType[*TemporaryError](err)
	if s.failed++; !ok || s.failed == s.policy.Tries {
		return err
	}
	wait := max(s.waits.NextBackOff(), min(temporary.After, s.policy.MaxAfter))
	if s.policy.Within > 0 && time.Since(s.started)+wait > s.policy.Within {
		return err
	}
	if ctx.Err() == nil && s.policy.Waiting != nil {
		s.policy.Waiting(err, wait)
	}
	return Sleep(ctx, wait)
}

// Sleep waits, or returns the context's cause if that ends first.
func Sleep(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
