package console_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console/consoletest"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
)

const mb = 1_000_000

// In a log, a notebook or a pipe: a line at the beginning, one every 10 seconds, and one at the end.
func TestTransfersInALog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, err bytes.Buffer
		term := &console.Terminal{Program: "ci", Out: &out, Err: &err}
		consoletest.Download(term.Transfers("downloading", "downloaded").Report)
		uploads := term.Transfers("uploading", "uploaded") // which say no source
		for done := int64(0); done <= 3*mb; done += mb {
			uploads.Report(measure.Progress{Name: "a", Done: done, Total: 3 * mb})
			time.Sleep(6 * time.Second)
		}
		uploads.Report(measure.Progress{Name: "a", Done: mb, Total: 3 * mb}) // sent again
		uploads.Report(measure.Progress{Name: "empty"})
		uploads.Report(measure.Progress{Name: "a", Done: 3 * mb, Total: 3 * mb})
		want := `downloading llcuda-bins-sm75.tar.zst, 100.0 MB, resuming at 20.0 MB
llcuda-bins-sm75.tar.zst  60.0 MB of 100.0 MB  60%  4.0 MB/s  10s left
downloaded llcuda-bins-sm75.tar.zst, 100.0 MB in 20s
uploading a, 3.0 MB
uploaded a, 3.0 MB in 12s
uploading a, 3.0 MB
uploaded empty, 0 B in 0.0s
uploaded a, 3.0 MB in 0.0s
`
		if diff := cmp.Diff(want, err.String()); diff != "" || out.Len() > 0 {
			t.Errorf("(-want +got):\n%s\non standard output: %q", diff, out.String())
		}
	})
}

// On a screen: a line for each file that is under way, redrawn, never wider than the screen, below everything that is
// printed, and nothing of it left at the end.
func TestTransfersOnAScreen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		screen := &consoletest.Screen{T: t}
		term := &console.Terminal{Program: "ci", Out: screen, Err: screen, Live: true, Columns: func() int { return 60 }}
		uploads := term.Transfers("uploading", "uploaded")
		expect := func(want ...string) {
			t.Helper()
			if diff := cmp.Diff(append([]string{}, want...), screen.Lines()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
		report := func(name string, done int64) {
			uploads.Report(measure.Progress{Name: name, Done: done, Total: 10 * mb})
		}
		report("a", mb)
		report("b", 1)
		time.Sleep(2 * time.Second)
		report("b", 4*mb)
		expect("a  1.0 MB of 10.0 MB  10%  500.0 kB/s  18s left", "b  4.0 MB of 10.0 MB  40%  2.0 MB/s  3.0s left")
		report("b", 5*mb) // at once: that would be too often
		expect("a  1.0 MB of 10.0 MB  10%  500.0 kB/s  18s left", "b  4.0 MB of 10.0 MB  40%  2.0 MB/s  3.0s left")
		report("with a name that is much too long for this", 1)
		expect("a  1.0 MB of 10.0 MB  10%  500.0 kB/s  18s left", "b  5.0 MB of 10.0 MB  50%  2.5 MB/s  2.0s left", "with a name that is much too long for this  1 B of 10.0 MB ")
		term.Warnf("slow")
		report("a", 10*mb)
		expect("ci: warning: slow", "uploaded a, 10.0 MB in 2.0s", "b  5.0 MB of 10.0 MB  50%  2.5 MB/s  2.0s left", "with a name that is much too long for this  1 B of 10.0 MB ")
		term.Report("uploading b:\nno", "", "try again")
		term.Close()
		report("b", 6*mb)
		term.Printf("nothing comes after the end")
		expect("ci: warning: slow", "uploaded a, 10.0 MB in 2.0s", "ci: uploading b:", "    no", "hint: try again")
	})
}

// A view's lines are below what is printed and above files under way, and go when it is hidden.
func TestShow(t *testing.T) {
	screen := &consoletest.Screen{T: t}
	term := &console.Terminal{Out: screen, Err: screen, Live: true, Columns: func() int { return 80 }}
	drawn := 0
	hide := term.Show(func() []string { drawn++; return []string{fmt.Sprintf("drawing %d", drawn), "more"} })
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() { term.Notef("line %d", i) })
	}
	all.Wait()
	lines := screen.Lines()
	if len(lines) != 10 || lines[8] != "drawing 8" || lines[9] != "more" {
		t.Errorf("on the screen: %q", lines)
	}
	term.Transfers("downloading", "downloaded").Report(measure.Progress{Name: "a", Done: 1, Total: 2})
	if lines := screen.Lines(); strings.Join(lines[8:], "|") != "drawing 9|more|a  1 B of 2 B  50%" {
		t.Errorf("with a file under way: %q", lines)
	}
	hide()
	if lines := screen.Lines(); len(lines) != 8 {
		t.Errorf("after it is hidden: %q", lines)
	}
}

// A download that is slow because of the server says so, on a screen and in a log, for as long as it is.
func TestSlowServer(t *testing.T) {
	for _, live := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var err bytes.Buffer
			term := &console.Terminal{Err: &err, Live: live, Columns: func() int { return 80 }}
			downloads := term.Transfers("downloading", "downloaded")
			for p := (measure.Progress{Name: "x.tar.zst", Total: mb, Source: "https://mirror"}); p.Done < 300_000; p.Done += 100_000 {
				p.Slow = p.Done == 100_000
				downloads.Report(p)
				time.Sleep(console.PlainEvery)
			}
			for text, want := range map[string]bool{
				"x.tar.zst  100.0 kB of 1.0 MB  10%  slow server": true, "x.tar.zst  200.0 kB of 1.0 MB  20%  slow server": false,
			} {
				if strings.Contains(err.String(), text) != want {
					t.Errorf("live %t: %q in %q is not %t", live, text, err.String(), want)
				}
			}
		})
	}
}

// A file that is there with its first report took no time, not less than none.
func TestTransferAtOnce(t *testing.T) {
	var err bytes.Buffer
	(&console.Terminal{Err: &err}).Transfers("downloading", "downloaded").Report(measure.Progress{Name: "a", Done: 2, Total: 2})
	if got := err.String(); got != "downloaded a, 2 B in 0.0s\n" {
		t.Errorf("got %q", got)
	}
}
