package serve

import (
	"os"
	"regexp"
	"slices"
	"strings"
)

// complaints are what llama.cpp prints for a reason, the most telling first: a server that had too little memory says in the
// end that it cannot load the model. They are parts of the messages in common/arg.cpp, tools/server/server.cpp,
// src/llama-model-loader.cpp and ggml/src of https://github.com/ggml-org/llama.cpp, in lower case.
var complaints = []struct {
	reason Reason
	early  bool // it is said only before the server is ready
	said   []string
}{
	{ReasonMemory, false, []string{"out of memory", "insufficient memory", "failed to allocate", "unable to allocate", "cannot allocate memory", "bad_alloc", "failed to reserve memory"}},
	{ReasonPort, true, []string{"couldn't bind", "address already in use"}},
	{ReasonArgument, true, []string{"invalid argument: ", "error while handling argument", "error while handling environment variable"}},
	{ReasonModel, true, []string{"error loading model", "failed to load clip model", "failed to load lora", "failed to load model", "failed to open gguf", "model loading error"}},
}

// harmless are lines that look like complaints and are about something that llama.cpp does without.
var harmless = []string{"pinned memory", "prompt cache", "retrying", "fit params"}

// stamp is the time and the level in front of a line of llama.cpp's log.
var stamp = regexp.MustCompile(`^(?:\d+\.)+\d+ [A-Z] `)

// explain finds the reason for which a server ended in what it printed, in whether it had been ready, and in whether
// the kernel meanwhile killed a process because memory ran out.
func (e *Exit) explain(lines []string, ready, killedForMemory bool) {
	for _, c := range complaints {
		if ready && c.early {
			continue
		}
		for _, said := range c.said {
			if line, ok := find(lines, said); ok {
				e.Reason, e.problem = c.reason, line
				return
			}
		}
	}
	switch {
	case e.Signal == nil:
		e.Reason = ReasonEnded
	case *e.Signal == "SIGKILL" && killedForMemory:
		e.Reason, e.problem = ReasonMemory, "the kernel killed it"
	default:
		e.Reason = ReasonCrash
	}
}

// find is the first line that says something.
func find(lines []string, said string) (string, bool) {
	for _, line := range lines {
		lower := strings.ToLower(line)
		if strings.Contains(lower, said) && !slices.ContainsFunc(harmless, func(other string) bool { return strings.Contains(lower, other) }) {
			line = strings.TrimSpace(stamp.ReplaceAllString(line, ""))
			return strings.TrimPrefix(line, "error: "), true
		}
	}
	return "", false
}

// oomKills is how many processes the kernel has killed because the machine or a container ran out of memory: oom_kill
// in https://docs.kernel.org/admin-guide/cgroup-v2.html and, for all together, in /proc/vmstat.
func oomKills() string {
	data, _ := os.ReadFile("/proc/vmstat")
	for line := range strings.Lines(string(data)) {
		if count, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return count
		}
	}
	return ""
}
