package hfhub

import (
	"sync"
	"time"

	"github.com/waqasm86/llcuda-farm/publisher"
)

// reportEvery keeps a fast upload from reporting more often than a person can read.
const reportEvery = 100 * time.Millisecond

// A meter counts the bytes of one file on their way. A nil meter counts nothing.
type meter struct {
	report func(publisher.Progress)

	mu    sync.Mutex
	state publisher.Progress
	last  time.Time
	all   int64 // everything that was sent, what was sent twice too
}

func newMeter(name string, total int64, report func(publisher.Progress)) *meter {
	return &meter{report: report, state: publisher.Progress{Name: name, Total: total}}
}

// add counts bytes; a try that failed takes its own back.
func (m *meter) add(n int64) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.Done += n
	m.all += max(n, 0)
	if now := time.Now(); m.report != nil && now.Sub(m.last) >= reportEvery && m.state.Done < m.state.Total {
		m.last = now
		m.report(m.state)
	}
}

// finish reports that the file is complete; no other report says that all of it is done.
func (m *meter) finish() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.Done = m.state.Total
	if m.report != nil {
		m.report(m.state)
	}
}

func (m *meter) sent() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.all
}
