package cli

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
)

// summary is the table at the end of a build.
func summary(outcome farm.Outcome, took time.Duration) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "STEP\tRESULT\tWALL\tCPU\tOBJECTS\tFROM CACHE\tTAR.GZ\tTAR.ZST")
	var cpu float64
	cached := true
	for _, r := range outcome.All() {
		cpu += r.Stats.CPUSeconds
		cached = cached && r.Err == nil && r.Stats.Cached
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Step, verdict(r), wall(r),
			figure(r, fmt.Sprintf("%.0fs", r.Stats.CPUSeconds)), figure(r, fmt.Sprint(r.Stats.Compiled+r.Stats.CacheHits)),
			figure(r, fmt.Sprint(r.Stats.CacheHits)), size(r, manifests.FormatTarGz), size(r, manifests.FormatTarZst))
	}
	fmt.Fprintf(w, "all\t\t%s\t%.0fs\n", measure.Time(took), cpu)
	w.Flush()
	lines := strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	if untried := outcome.Host.Stats.Untried; len(untried) > 0 {
		lines = append(lines, fmt.Sprintf("not run, as the engine's CPU cannot: the CPU variants %s; go run ./ci try BUNDLE on a machine that can tries them", strings.Join(untried, ", ")))
	}
	if cached {
		lines = append(lines, "nothing was compiled: all of it was there already")
	}
	return strings.Join(lines, "\n")
}

// verdict is a step's result in a word or two.
func verdict(r farm.Result) string {
	var failed *farm.StepError
	var host *farm.HostError
	switch {
	case r.Err == nil && r.Stats.Cached:
		return "cached"
	case r.Err == nil:
		return "built"
	case errors.As(r.Err, &host):
		return "not built"
	case isAs[*bundler.AuditError](r.Err):
		return "REFUSED by the audit"
	case errors.As(r.Err, &failed):
		return "FAILED in " + failed.Stage
	case errors.Is(r.Err, farm.ErrEngineLost):
		return "engine lost"
	case isInterrupt(r.Err):
		return "interrupted"
	}
	return "FAILED"
}

// wall is how long a step took that ran, to its end or to its failure.
func wall(r farm.Result) string {
	if r.Stats.Wall == 0 || r.Err == nil && r.Stats.Cached {
		return "-"
	}
	return measure.Time(r.Stats.Wall)
}

// figure is a number that a step leaves when it has compiled something. A stage
// that failed leaves none.
func figure(r farm.Result, text string) string {
	if r.Stats.Wall == 0 || r.Stats.Cached {
		return "-"
	}
	return text
}

func size(r farm.Result, format string) string {
	for _, artifact := range r.Artifacts {
		if artifact.Format == format {
			return measure.Bytes(artifact.Size)
		}
	}
	return "-"
}

// shortened keeps the first part of a line that no screen shows whole: compilers print command lines, and grep scripts.
func shortened(line string) string {
	const longest = 1000 // characters
	if runes := []rune(line); len(runes) > longest {
		return string(runes[:longest]) + "…"
	}
	return line
}

// writeFailures prints why each failed step failed, with the last lines of its output.
func writeFailures(term *terminal, outcome farm.Outcome) {
	for _, r := range outcome.All() {
		var host *farm.HostError
		if r.Err == nil || errors.As(r.Err, &host) || isInterrupt(r.Err) {
			continue
		}
		text := []string{"", fmt.Sprintf("%s: %v", r.Step, r.Err)}
		for _, line := range r.Tail {
			text = append(text, "    "+shortened(strings.TrimRight(line, "\r\n")))
		}
		if r.Log != "" {
			text = append(text, "the full log is "+r.Log)
		}
		term.Notef("%s", strings.Join(text, "\n"))
	}
}
