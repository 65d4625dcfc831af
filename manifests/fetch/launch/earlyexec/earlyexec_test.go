package earlyexec

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for line, want := range map[string]struct {
		given   string
		program string
	}{
		"run llama-cli":                   {"", "llama-cli"},
		"run llama-cli -m x --home y run": {"", "llama-cli -m x --home y run"},
		"--home a run llama-cli --json":   {"a", "llama-cli --json"},
		"--home=a run --home b llama-cli": {"b", "llama-cli"},
		"run --home=run run":              {"run", "run"},
		"":                                {},
		"run":                             {},
		"run --home":                      {},
		"install":                         {},
		"--home run llama-cli":            {}, // the store is "run", and there is no command llama-cli
		"--quiet run llama-cli":           {},
		"run --offline llama-cli":         {},
		"run -- llama-cli":                {},
		"run --help":                      {},
		"help run llama-cli":              {},
		"--home a --release v1 run llama-cli -m x": {},
	} {
		given, program, ok := parse(strings.Fields(line))
		if ok != (want.program != "") {
			t.Errorf("%q: %t", line, ok)
		}
		if !ok {
			continue
		}
		if given != want.given {
			t.Errorf("%q: the store is %q, want %q", line, given, want.given)
		}
		if diff := cmp.Diff(strings.Fields(want.program), program); diff != "" {
			t.Errorf("%q: %s", line, diff)
		}
	}
}
