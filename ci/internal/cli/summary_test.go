package cli

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
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

// A line of a failed step that is longer than any screen does not fill it.
func TestFailuresAreShortened(t *testing.T) {
	var out bytes.Buffer
	long := strings.Repeat("ü", 30_000)
	writeFailures(&console.Terminal{Err: &out}, farm.Outcome{Host: farm.Result{Step: "host", Err: errors.New("no"), Tail: []string{"short", long}}})
	if got := out.String(); !strings.Contains(got, "    short\n    "+strings.Repeat("ü", 1000)+"…") || len(got) > 3000 {
		t.Errorf("%d bytes: %.200s", len(got), got)
	}
}
