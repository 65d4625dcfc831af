package transfer

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A meter watches how fast a server gives bytes, over all requests to it.
type meter struct {
	received atomic.Int64 // bytes
	slow     atomic.Bool  // the last window had fewer than SlowRate a second
	busy     atomic.Bool  // this side writes or follows, which the server cannot help
	open     atomic.Int32 // requests on their way
	ready    atomic.Int32 // ranges that are whole and wait for an earlier one

	mu      sync.Mutex
	attempt context.CancelCauseFunc // ends the requests that are on their way
	stop    chan struct{}
}

// windowParts is how often in a window the rate is looked at.
const windowParts = 6

// newMeter starts a meter. slow is called at the end of each window that had too few bytes, with
// their number a second.
func (c *Client) newMeter(slow func(m *meter, rate int64)) *meter {
	m := &meter{stop: make(chan struct{})}
	if c.SlowRate > 0 {
		go m.watch(c, slow)
	}
	return m
}

func (m *meter) watch(c *Client, slow func(*meter, int64)) {
	ticker := time.NewTicker(max(c.SlowWindow/windowParts, 1))
	defer ticker.Stop()
	counts := []int64{0} // what had come at the end of each part of the window
	for {
		select {
		case <-m.stop:
			return
		case <-ticker.C:
		}
		if m.busy.Load() {
			counts = counts[:0]
		}
		counts = append(counts, m.received.Load())
		if len(counts) <= windowParts {
			continue
		}
		rate := int64(float64(counts[windowParts]-counts[0]) / c.SlowWindow.Seconds())
		counts = counts[1:]
		m.slow.Store(rate < c.SlowRate)
		if rate < c.SlowRate {
			slow(m, rate)
		}
	}
}

func (m *meter) end() { close(m.stop) }

// begin gives the context of an attempt, which interrupt ends.
func (m *meter) begin(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.attempt = cancel
	return ctx, cancel
}

func (m *meter) interrupt(cause error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.attempt != nil {
		m.attempt(cause)
	}
}

// lags reports whether a single range keeps those that follow it waiting.
func (m *meter) lags() bool { return m.ready.Load() > 0 && m.open.Load() == 1 }
