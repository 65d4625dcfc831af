package engine

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What Dagger 0.15 writes in its plain form, cut anywhere.
const session = `Creating new Engine session... OK!
1   : connect
2   : | [0.1s] not output: no bar after the time
1   : [0.1s] | engine name=host version=v0.15.1 client=abc
1   : [0.1s] | cloud url=https://example.com
12  : Container.withExec(args: ["ninja"]): Container!
12  : [0.6s] | [1/143] Building CUDA object acc.cu.o
` + "\x1b[95m12  : \x1b[0m\x1b[90m[1m2s] \x1b[0m\x1b[90m|\x1b[0m [2/143] Building CUDA object add.cu.o\n" + `13  : │ │ [250ms] | nested | with a bar
12  : [3.0s] |
12  : Container.withExec DONE [2.6s]
`

func TestConsole(t *testing.T) {
	want := []string{
		"[1/143] Building CUDA object acc.cu.o",
		"[2/143] Building CUDA object add.cu.o",
		"nested | with a bar",
		"",
	}
	for _, size := range []int{1, 7, len(session)} {
		var got []string
		c := &console{}
		c.listen(func(line string) { got = append(got, line) })
		for rest := session; rest != ""; {
			n := min(size, len(rest))
			if written, err := c.Write([]byte(rest[:n])); written != n || err != nil {
				t.Fatalf("Write gives %d, %v for %d bytes", written, err, n)
			}
			rest = rest[n:]
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("in pieces of %d (-want +got):\n%s", size, diff)
		}
		c.listen(nil)
		if _, err := c.Write([]byte(session)); err != nil || len(got) != len(want) {
			t.Errorf("a line reached a listener that had left: %d lines, %v", len(got), err)
		}
	}
}

func TestNinjaProgress(t *testing.T) {
	for _, test := range []struct {
		line        string
		done, total int
		ok          bool
	}{
		{"[17/143] Building CUDA object x.cu.o", 17, 143, true},
		{"[17/143]", 0, 0, false},
		{"see [1/2] ", 0, 0, false},
		{"", 0, 0, false},
	} {
		done, total, ok := ninjaProgress(test.line)
		if done != test.done || total != test.total || ok != test.ok {
			t.Errorf("%q gives %d, %d, %v", test.line, done, total, ok)
		}
	}
}

// What a failed command printed and the live view did not show goes into the step's log, once.
func TestUnseen(t *testing.T) {
	for _, test := range []struct {
		name         string
		output, seen []string
		want         []string
	}{
		{"all was shown", []string{"a", "b", "c"}, []string{"b", "c"}, []string{}},
		{"the view ended early", []string{"a", "b", "error", "stopped"}, []string{"a", "b"}, []string{"error", "stopped"}},
		{"nothing was shown", []string{"a", "b"}, nil, []string{"a", "b"}},
		{"the engine kept the end alone", []string{"ut line", "d", "e"}, []string{"a", "b"}, []string{"ut line", "d", "e"}},
		{"it begins within what was shown", []string{"b", "c", "d"}, []string{"a", "b", "c"}, []string{"d"}},
		{"a line that comes again", []string{"x", "y", "x", "y", "z"}, []string{"y", "x"}, []string{"y", "z"}},
		{"the command printed nothing", nil, []string{"a"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, unseen(test.output, test.seen)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}
