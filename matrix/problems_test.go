package matrix_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/matrix"
)

func TestProblems(t *testing.T) {
	var row, p matrix.Problems
	if p.Err() != nil {
		t.Error("no problems are an error")
	}
	row.Addf("sm", "missing")
	row.Addf("[0].name", "empty")
	row.Addf("", "no row")
	p.Under("targets[3]", fmt.Errorf("checking a row: %w", row))
	p.Under("floors", nil)
	p.Under("toolkit", errors.New("unreadable"))
	p.Under("", row[:1])
	want := "targets[3].sm: missing\ntargets[3][0].name: empty\ntargets[3]: no row\ntoolkit: unreadable\nsm: missing"
	if diff := cmp.Diff(want, p.Err().Error()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestProblemsStayShort(t *testing.T) {
	var p matrix.Problems
	for range 1000 {
		p.Addf("x", "wrong")
	}
	text := p.Error()
	if n := strings.Count(text, "\n"); n != 100 || !strings.HasSuffix(text, "\nand 900 more") {
		t.Errorf("%d lines, ending in %q", n, text[len(text)-20:])
	}
}

func TestPathKey(t *testing.T) {
	for key, want := range map[string]string{
		"glibc":                  "glibc",
		"":                       `""`,
		"a.b":                    `"a.b"`,
		"\x1b[2J":                `"\x1b[2J"`,
		strings.Repeat("é", 100): strings.Repeat("é", 32) + "…",
	} {
		if got := matrix.PathKey(key); got != want {
			t.Errorf("PathKey(%q) = %s, want %s", key, got, want)
		}
	}
}
