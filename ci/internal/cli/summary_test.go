package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
)

// What was compiled and never run is said at the end, also where the engine had it all in its cache.
func TestSummaryNamesUntriedVariants(t *testing.T) {
	for _, cached := range []bool{false, true} {
		outcome := farm.Outcome{Host: farm.Result{Step: "host", Stats: farm.StepStats{Cached: cached, Untried: []string{"sapphirerapids", "zen4"}}}}
		if text := summary(outcome, time.Second); !strings.Contains(text, "the CPU variants sapphirerapids, zen4; go run ./ci try") {
			t.Errorf("cached %v:\n%s", cached, text)
		}
		outcome.Host.Stats.Untried = nil
		if text := summary(outcome, time.Second); strings.Contains(text, "variant") {
			t.Errorf("all were run:\n%s", text)
		}
	}
}
