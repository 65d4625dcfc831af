package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The end-to-end tests run the ci command as a process and look at what users get:
// exit codes, messages, files. They build testdata/minillama on the engine that ci
// finds, with the real nvcc. That engine may be serving others, so it is never
// stopped or pruned: a test that kills an engine brings up its own.
//
// What every engine keeps makes a second run of these tests quick, and none of them
// takes that for the thing it tests: each changes its own copy of the tree so that
// no engine can have seen it.
func TestFarm(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles on a real engine: minutes")
	}
	f := newFarm(t)
	for _, story := range []struct {
		name string
		tell func(*farm, *testing.T)
	}{
		{"AllSMs", (*farm).testAllSMs},
		{"SecondBuild", (*farm).testSecondBuild},
		{"Chain", (*farm).testChain},
		{"BareSystem", (*farm).testBareSystem},
		{"PlantedBackend", (*farm).testPlantedBackend},
		{"TamperedRelease", (*farm).testTamperedRelease},
		{"HostChangeAndInterrupt", (*farm).testHostChangeAndInterrupt},
		{"InterruptEndsTheStep", (*farm).testInterruptEndsTheStep},
		{"DeviceChange", (*farm).testDeviceChange},
		{"ClockInDeviceCode", (*farm).testClockInDeviceCode},
		{"Notices", (*farm).testNotices},
		{"StrayCode", (*farm).testStrayCode},
		{"BrokenSM", (*farm).testBrokenSM},
		{"BrokenVariant", (*farm).testBrokenVariant},
		{"FullDisk", (*farm).testFullDisk},
		{"KilledAtAnyMoment", (*farm).testKilledAtAnyMoment},
		{"NotLlamaCPP", (*farm).testNotLlamaCPP},
		{"NoEngine", (*farm).testNoEngine},
		{"OtherHome", (*farm).testOtherHome},
		{"RegistryBase", (*farm).testRegistryBase},
		{"Parts", (*farm).testParts},
		{"TwoEngines", (*farm).testTwoEngines},
	} {
		t.Run(story.name, func(t *testing.T) { story.tell(f, t) })
	}
}

const (
	e2eRelease = "v0.0.1-test"

	// commandLimit ends a command that hangs. The first build on an engine fetches and
	// installs the builder, which takes a busy machine many minutes.
	commandLimit = 25 * time.Minute

	// stopLimit is how long an interrupted command may take to end.
	stopLimit = 2 * time.Minute
)

// farm is the command under test and what its tests share.
type farm struct {
	bin   string // the compiled ci
	cache string // where ci keeps sources and packages
	llama string // minillama, in a repository of its own
	all   func() release
}

// release is what a build of all SMs left.
type release struct {
	dir   string
	build result
}

func newFarm(t testing.TB) *farm {
	t.Helper()
	dir := t.TempDir()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	f := &farm{
		bin:   filepath.Join(dir, "ci"),
		cache: filepath.Join(cache, "llcuda"),
		llama: copyTree(t, filepath.Join("testdata", "minillama")),
	}
	commitLlama(t, f.llama, "v0.5.0", "2020-01-01T00:00:00Z")
	if out, err := exec.Command("go", "build", "-trimpath", "-o", f.bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	f.all = sync.OnceValue(func() release {
		out := filepath.Join(dir, "all")
		return release{out, f.build(t, f.llama, "all", out)}
	})
	return f
}

// release is the shared build of all SMs.
func (f *farm) release(t testing.TB) string {
	t.Helper()
	all := f.all()
	if all.build.code != 0 {
		t.Fatalf("building all SMs: %s", all.build)
	}
	return all.dir
}

// build builds a tree with the base image that is made here: what a registry offers
// may change from one day to the next.
func (f *farm) build(t testing.TB, llama, sm, out string, more ...string) result {
	t.Helper()
	return f.start(t, f.buildArgs(llama, sm, out, more...)...).wait()
}

func (f *farm) buildArgs(llama, sm, out string, more ...string) []string {
	args := []string{"build", "--llama", llama, "--sm", sm, "--release", e2eRelease, "--out", out}
	if !slices.Contains(more, "--base") {
		args = append(args, "--base", "made")
	}
	return append(args, more...)
}

func (f *farm) run(t testing.TB, args ...string) result {
	t.Helper()
	return f.start(t, args...).wait()
}

func (f *farm) start(t testing.TB, args ...string) *process {
	t.Helper()
	return startProcess(t, f.bin, args...)
}

// process is a command under way.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	began  time.Time
	stdout bytes.Buffer
	read   chan struct{} // closed at the end of stderr

	mu     sync.Mutex
	more   *sync.Cond
	stderr []string
	seen   int // lines that await has looked at
	ended  bool
}

func startProcess(t testing.TB, name string, args ...string) *process {
	t.Helper()
	return startFor(t, commandLimit, name, args...)
}

// startFor starts a command that may run so long.
func startFor(t testing.TB, limit time.Duration, name string, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	p := &process{t: t, cmd: exec.CommandContext(ctx, name, args...), began: time.Now(), read: make(chan struct{})}
	p.more = sync.NewCond(&p.mu)
	p.cmd.Cancel = p.interrupt
	p.cmd.WaitDelay = stopLimit
	p.cmd.Stdout = &p.stdout
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.read)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			p.line(lines.Text(), false)
		}
		p.line("", true)
	}()
	return p
}

func (p *process) line(text string, last bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended = last; !last {
		p.stderr = append(p.stderr, text)
	}
	p.more.Broadcast()
}

// await returns what matches in the next line of stderr that the pattern fits.
func (p *process) await(pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for ; p.seen < len(p.stderr); p.seen++ {
			if match := re.FindStringSubmatch(p.stderr[p.seen]); match != nil {
				p.seen++
				return match
			}
		}
		if p.ended {
			p.t.Fatalf("%s ended without a line that fits %q:\n%s", p.cmd, pattern, strings.Join(p.stderr, "\n"))
		}
		p.more.Wait()
	}
}

func (p *process) interrupt() error { return p.cmd.Process.Signal(syscall.SIGINT) }

// wait returns when the command has exited. A test that fails shows all its output.
func (p *process) wait() result {
	p.t.Helper()
	<-p.read
	err := p.cmd.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		p.t.Fatalf("%s: %v", p.cmd, err)
	}
	r := result{
		command: strings.Join(p.cmd.Args, " "),
		code:    p.cmd.ProcessState.ExitCode(),
		stdout:  p.stdout.String(),
		stderr:  strings.Join(p.stderr, "\n"),
		took:    time.Since(p.began),
	}
	if _, bench := p.t.(*testing.B); !bench {
		p.t.Log(r)
	}
	return r
}

// result is how a command ended.
type result struct {
	command        string
	code           int
	stdout, stderr string
	took           time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("%s: exit code %d after %s\n%s\n%s", r.command, r.code, r.took.Round(time.Second/10), r.stderr, r.stdout)
}

// want fails the test unless the command ended with that code and said all of this.
func (r result) want(t testing.TB, code int, said ...string) {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit code %d, want %d\n%s", r.code, code, r)
	}
	for _, text := range said {
		if !strings.Contains(r.stdout+r.stderr, text) {
			t.Errorf("it does not say %q", text)
		}
	}
}

// row is a step's row in the table that ends a build.
type row struct {
	result             string
	wall               time.Duration
	cpu                float64
	objects, fromCache int
}

var columns = regexp.MustCompile(`  +`)

// table reads the table that ends a build.
func (r result) table(t testing.TB) map[string]row {
	t.Helper()
	rows := map[string]row{}
	lines := strings.Split(r.stdout, "\n")
	for i, line := range lines {
		if !strings.HasPrefix(line, "STEP ") {
			continue
		}
		for _, line := range lines[i+1:] {
			cells := columns.Split(line, -1)
			if cells[0] == "all" {
				return rows
			}
			if len(cells) < 6 {
				t.Fatalf("a row of %d columns: %s", len(cells), line)
			}
			rows[cells[0]] = row{cells[1], durationOf(t, cells[2]), secondsOf(t, cells[3]), numberOf(t, cells[4]), numberOf(t, cells[5])}
		}
	}
	t.Fatalf("no table in\n%s", r)
	return nil
}

// none stands in a table for a number that there is not.
const none = "-"

func durationOf(t testing.TB, text string) time.Duration {
	t.Helper()
	if text == none {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func secondsOf(t testing.TB, text string) float64 {
	t.Helper()
	return durationOf(t, text).Seconds()
}

func numberOf(t testing.TB, text string) int {
	t.Helper()
	if text == none {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// copyTree copies a folder to one of its own.
func copyTree(t testing.TB, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), filepath.Base(from))
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// change rewrites one file of a tree.
func change(t testing.TB, tree, name string, edit func(text string) string) {
	t.Helper()
	path := filepath.Join(tree, filepath.FromSlash(name))
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(edit(string(text))), 0o644); err != nil {
		t.Fatal(err)
	}
}

// unseen appends a comment that no compiler cache has met.
func unseen(text string) string {
	return text + fmt.Sprintf("\n// %d\n", time.Now().UnixNano())
}

// linkFiles hard-links the files that match the pattern into another folder. To change one of
// them there, a test must replace it.
func linkFiles(t testing.TB, from, to, pattern string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(from, pattern))
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) == 0 {
		t.Fatalf("%s has no %s", from, pattern)
	}
	for _, path := range paths {
		if info, err := os.Stat(path); err != nil || info.IsDir() {
			continue
		}
		if err := os.Link(path, filepath.Join(to, filepath.Base(path))); err != nil {
			t.Fatal(err)
		}
	}
}

// fileNames lists a release folder without its logs.
func fileNames(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		if entry.Name() != "logs" {
			names = append(names, entry.Name())
		}
	}
	return names
}

// command runs another program and returns what it printed on both channels.
func command(t testing.TB, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}
