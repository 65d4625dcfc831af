package gate

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A caseState is how one case did.
type caseState int

const (
	caseOK caseState = iota
	caseFailed
	caseUnsupported
)

// A caseResult is one line of test-backend-ops.
type caseResult struct {
	operation, params string
	state             caseState
	detail            string // printed in front of it
}

// A shardResult is what one process printed.
type shardResult struct {
	device        string // its description
	cases         []caseResult
	passed, total int      // as it says itself
	failed        []string // cases, as it says itself
	problem       string   // why the rest does not count; empty if it does
}

// detail is what was printed of a failed case, or that nothing was: a case whose tensors cannot be allocated ends like that.
func (r shardResult) detail(name string) string {
	for _, c := range r.cases {
		if c.state == caseFailed && c.operation+"("+c.params+")" == name {
			return c.detail
		}
	}
	return "it has no result; if the GPU's memory was too small for so many processes, fewer --jobs help"
}

// How test-backend-ops prints, in https://github.com/ggml-org/llama.cpp/blob/master/tests/test-backend-ops.cpp. What it has
// to say of a failed case comes before the case, in the same line.
var (
	operationForm = regexp.MustCompile(`^[A-Z0-9_]+$`)

	backendLine     = regexp.MustCompile(`^Backend \d+/\d+: (.+)$`)
	descriptionLine = regexp.MustCompile(`^  Device description: (.+)$`)
	caseLine        = regexp.MustCompile(`^(.*?)  ([A-Z0-9_]+)\((.*)\): (?:\x1b\[1;32m(OK)\x1b\[0m|\x1b\[1;31m(FAIL)\x1b\[0m|not supported \[.*\] ?)$`)
	testsLine       = regexp.MustCompile(`^  (\d+)/(\d+) tests passed$`)
	failingLine     = "Failing tests:"
	statusLine      = regexp.MustCompile(`^  Backend (.+): \x1b\[1;3[12]m(OK|FAIL)\x1b\[0m$`)
	devicesLine     = regexp.MustCompile(`^(\d+)/(\d+) backends passed$`)
)

// parseResults reads what one process printed, and compares each thing that it says with the others: the cases, their sums,
// the list of failed ones, and the verdicts on the device and on all.
func parseResults(text, device string) shardResult {
	var r shardResult
	var current, verdict string
	var sums, verdicts, ends, ok int
	failing := false
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if failing {
			if name, found := strings.CutPrefix(line, "  "); found && !strings.HasPrefix(name, "Backend ") {
				r.failed = append(r.failed, name)
				continue
			}
			failing = false
		}
		if m := backendLine.FindStringSubmatch(line); m != nil {
			current = m[1]
		} else if m := descriptionLine.FindStringSubmatch(line); m != nil && current == device {
			r.device = m[1]
		} else if m := testsLine.FindStringSubmatch(line); m != nil {
			sums++
			r.passed, _ = strconv.Atoi(m[1]) // digits
			r.total, _ = strconv.Atoi(m[2])
		} else if m := caseLine.FindStringSubmatch(line); m != nil {
			c := caseResult{operation: m[2], params: m[3], state: caseUnsupported, detail: strings.TrimSpace(m[1])}
			switch {
			case m[4] != "":
				c.state = caseOK
				ok++
			case m[5] != "":
				c.state = caseFailed
			}
			r.cases = append(r.cases, c)
		} else if line == failingLine {
			failing = true
		} else if m := statusLine.FindStringSubmatch(line); m != nil && m[1] == device {
			verdicts++
			verdict = m[2]
		} else if m := devicesLine.FindStringSubmatch(line); m != nil {
			ends++
			if (m[1] == m[2]) != (len(r.failed) == 0) {
				r.problem = "it says " + line + fmt.Sprintf(", and %d cases failed", len(r.failed))
			}
		}
	}
	switch {
	case r.problem != "":
	case r.device == "" || sums != 1 || verdicts != 1 || ends != 1:
		r.problem = fmt.Sprintf("it did not run to its end on the device %s", device)
		if n := len(r.cases); n > 0 {
			r.problem += fmt.Sprintf("; the last case was %s(%s)", r.cases[n-1].operation, r.cases[n-1].params)
		}
	case ok != r.passed || len(r.failed) != r.total-r.passed:
		r.problem = fmt.Sprintf("it says %d of %d, printed %d that passed, and named %d that failed", r.passed, r.total, ok, len(r.failed))
	case (verdict == "OK") != (len(r.failed) == 0):
		r.problem = fmt.Sprintf("its verdict is %s, and %d cases failed", verdict, len(r.failed))
	case slices.ContainsFunc(r.cases, func(c caseResult) bool {
		return c.state == caseFailed && !slices.Contains(r.failed, c.operation+"("+c.params+")")
	}):
		r.problem = "a case that failed is not among those that it names"
	}
	return r
}
