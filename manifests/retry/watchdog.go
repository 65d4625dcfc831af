package retry

import (
	"context"
	"sync"
	"time"
)

// A Watchdog ends a context when nothing has moved for a while. Its methods may be called by
// several goroutines at once.
type Watchdog struct {
	mu       sync.Mutex
	timer    *time.Timer
	patience time.Duration
	ended    bool
	cancel   context.CancelCauseFunc
}

// Watch begins to watch. When nothing moves for as long as patience allows, the context that it
// returns ends with the cause stalled. The caller calls End.
func Watch(ctx context.Context, patience time.Duration, stalled error) (context.Context, *Watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &Watchdog{timer: time.AfterFunc(patience, func() { cancel(stalled) }), patience: patience, cancel: cancel}
}

// Moved records progress, or that a wait for the server begins.
func (w *Watchdog) Moved() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.timer.Reset(w.patience)
	}
}

// Rest pauses the watchdog while the client itself works: until Moved is called, no progress is
// expected.
func (w *Watchdog) Rest() { w.timer.Stop() }

// End stops watching and ends the context. It may be called more than once.
func (w *Watchdog) End() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.timer.Stop()
	w.cancel(nil)
}
