package cli

import (
	"time"

	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/publisher"
)

// transfers shows files on their way: "upload" or "download" of each, in megabytes. The caller closes it when nothing
// moves any more.
func (t *terminal) transfers(stage string) (show func(publisher.Progress), closeView func()) {
	view := showProgress(t, time.Now, false)
	begun := map[string]bool{}
	return func(p publisher.Progress) {
		const mega = 1_000_000
		event := farm.Event{Step: p.Name, Stage: stage, Done: int(p.Done / mega), Total: int(p.Total / mega)}
		t.mu.Lock()
		first := !begun[p.Name]
		begun[p.Name] = p.Done < p.Total
		t.mu.Unlock()
		if first {
			event.State = farm.StateStart
			view.event(event)
		}
		event.State = farm.StateProgress
		if p.Done >= p.Total {
			event.State = farm.StateDone
		}
		view.event(event)
	}, view.close
}
