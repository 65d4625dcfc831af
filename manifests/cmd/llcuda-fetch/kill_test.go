package main

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer/transfertest"
	"github.com/waqasm86/llcuda-farm/manifests/killtest"
)

// A machine is a store and two signed releases, as processes of llcuda-fetch see them.
type machine struct {
	t        *testing.T
	home     string
	key      string
	one, two *transfertest.Server
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	dir := t.TempDir()
	one := fetchtest.New(t, fetchtest.Options{Tag: "v1.0.0-runtime", Padding: 200_000})
	two := fetchtest.New(t, fetchtest.Options{Tag: "v1.1.0-runtime", Padding: 200_000})
	two.SignWith(t, one)
	m := &machine{t: t, home: filepath.Join(dir, "store"), key: filepath.Join(dir, "key.pub"),
		one: transfertest.New(t, one.Dir, transfertest.Fault{}), two: transfertest.New(t, two.Dir, transfertest.Fault{})}
	if err := os.WriteFile(m.key, one.PublicKey(t), 0o644); err != nil {
		t.Fatal(err)
	}
	return m
}

// command is one run of the program, which testscript.Main put into PATH.
func (m *machine) command(args ...string) *exec.Cmd {
	cmd := child(m.t, "llcuda-fetch", append([]string{"--home", m.home, "--public-key", m.key, "--as-host", "../../testdata/hosts/colab-t4.json"}, args...)...)
	cmd.Env = append(os.Environ(), "HF_HUB_CACHE="+filepath.Dir(m.home))
	return cmd
}

// sound checks what must be true of a store at every moment: either nothing is installed, or all of one installation.
// It returns the installed release.
func (m *machine) sound() string {
	m.t.Helper()
	c, err := fetch.New(m.home, os.Getenv)
	if err != nil {
		m.t.Fatal(err)
	}
	c.SkipSignature = true
	current, err := c.Store.Current()
	if errors.Is(err, fetch.ErrNotInstalled) {
		return ""
	}
	if err != nil {
		m.t.Fatalf("the store is broken: %v", err)
	}
	if _, _, err := c.Verify(m.t.Context()); err != nil {
		if damage, ok := errors.AsType[*fetch.DamageError](err); ok {
			m.t.Fatalf("the store is broken: %v: %v", err, damage.Findings)
		}
		m.t.Fatalf("the store is broken: %v", err)
	}
	return current.Release
}

// Killed at any moment, llcuda-fetch leaves the old installation or the new one, whole; and the next run resumes.
func TestKilledAtAnyMoment(t *testing.T) {
	const kills = 200
	m := newMachine(t)
	killer := killtest.New(1, time.Second)
	installed := "" // the release that was seen last
	for run := 0; killer.Killed() < kills; run++ {
		args, wanted := []string{"install", "--release", "v1.1.0-runtime", "--mirror", m.two.URL}, "v1.1.0-runtime"
		if installed == wanted {
			args, wanted = []string{"install", "--release", "v1.0.0-runtime", "--mirror", m.one.URL}, "v1.0.0-runtime"
		}
		switch run % 5 {
		case 3: // so that there is something to unpack again
			args, wanted = []string{"prune", "--yes"}, installed
		case 4:
			args = append(args, "--force")
		}
		cmd := m.command(args...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		killed, err := killer.Run(cmd)
		now := m.sound()
		switch {
		case err != nil:
			t.Fatalf("%q after a kill: %v\n%s", args, err, out.String())
		case killed && now != installed && now != wanted:
			t.Fatalf("%q was killed; before it was %q, and now it is %q", args, installed, now)
		case !killed && now != wanted:
			t.Fatalf("%q ended well and left %q", args, now)
		}
		installed = now
	}
	t.Logf("%d runs were killed and %d ended by themselves", killer.Killed(), killer.Ended())

	// The next ones find all in order, and leave nothing lying about.
	for _, args := range [][]string{{"install", "--release", "v1.1.0-runtime", "--mirror", m.two.URL}, {"prune", "--yes"}} {
		if out, err := m.command(args...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	for _, dir := range []string{"staging", "downloads"} {
		if left, err := os.ReadDir(filepath.Join(m.home, dir)); err != nil || len(left) > 0 {
			t.Errorf("%s: %v %v", dir, left, err)
		}
	}
}

// An interrupt ends an installation in order, whatever it waits for, none of which ends by itself here: another process, a
// server that gives a byte now and then, a header without end, a handshake, a program that is tried.
func TestInterrupted(t *testing.T) {
	for name, test := range map[string]struct {
		fault transfertest.Fault
		locks bool // another process has the store
		// silent is a server that says nothing, by https, and server what llama-server does.
		silent bool
		server string
		signal os.Signal
	}{
		"a slow server":        {fault: transfertest.Fault{Rate: 1}},
		"a slow archive":       {fault: transfertest.Fault{Rate: 1, Nth: 5}},
		"a header without end": {fault: transfertest.Fault{Drip: true}},
		"a busy server":        {fault: transfertest.Fault{Status: 503, After: "60"}},
		"the lock":             {locks: true},
		"a server that stops":  {fault: transfertest.Fault{Stall: 100, Nth: 5}, signal: syscall.SIGTERM},
		"a handshake":          {silent: true, signal: syscall.SIGTERM},
		"a trial":              {server: "#!/bin/sh\nsleep 1000\n", signal: syscall.SIGTERM},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var o fetchtest.Options
			if test.server != "" {
				o.Programs = map[string]string{"llama-server": test.server}
			}
			r := fetchtest.New(t, o)
			mirror := transfertest.New(t, r.Dir, test.fault)
			m := &machine{t: t, home: filepath.Join(t.TempDir(), "store"), key: filepath.Join(t.TempDir(), "key.pub")}
			if err := os.WriteFile(m.key, r.PublicKey(t), 0o644); err != nil {
				t.Fatal(err)
			}
			address := mirror.URL
			var out lines
			waits := func() bool { return len(mirror.Requests()) >= max(test.fault.Nth, 1) }
			if test.locks {
				l, err := (&store.Store{Home: m.home}).Lock(t.Context(), "a test", nil)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				waits = func() bool { return strings.Contains(out.String(), "(a test)") }
			}
			if test.server != "" {
				waits = func() bool { return strings.Contains(out.String(), "trying the programs") }
			}
			if test.silent {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				address = "https://" + l.Addr().String()
				greeted := make(chan struct{})
				go func() {
					if c, err := l.Accept(); err == nil {
						defer c.Close()
						_, _ = c.Read(make([]byte, 1))
						close(greeted)
						_, _ = io.Copy(io.Discard, c)
					}
				}()
				waits = func() bool {
					select {
					case <-greeted:
						return true
					default:
						return false
					}
				}
			}
			cmd := m.command("install", "--mirror", address)
			cmd.Stderr = &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			await(t, &out, waits)
			if err := cmd.Process.Signal(cmp.Or(test.signal, os.Interrupt)); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != 130 || !strings.Contains(out.String(), "interrupted; the next run resumes here") {
				t.Errorf("exit code %d:\n%s", code, out.String())
			}
			if left, err := filepath.Glob(filepath.Join(m.home, "staging", "*")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %q, %v", left, err)
			}
		})
	}
}

// lines are what a process has said so far.
type lines struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

// Two hundred at once install once: one downloads, the others wait for it and find it done.
func TestTwoHundredAtOnce(t *testing.T) {
	const processes = 200
	m := newMachine(t)
	var group sync.WaitGroup
	failures := make([]string, processes)
	for i := range processes {
		group.Go(func() {
			out, err := m.command("install", "--mirror", m.one.URL).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "llcuda-bins-sm75 of release v1.0.0-runtime ") {
				failures[i] = strings.TrimSpace(string(out))
			}
		})
	}
	group.Wait()
	for _, failure := range failures {
		if failure != "" {
			t.Fatal(failure)
		}
	}
	paths := map[string]int{}
	for _, r := range m.one.Requests() {
		paths[r.URL.Path]++
	}
	for path, count := range paths {
		if count != 1 {
			t.Errorf("%s was asked for %d times", path, count)
		}
	}
	if got := m.sound(); got != "v1.0.0-runtime" {
		t.Errorf("installed is %q", got)
	}
}

// Several exports into one folder wait for each other: every byte comes once, and the folder is whole.
func TestExportsAtOnce(t *testing.T) {
	const processes = 6
	m := newMachine(t)
	folder := filepath.Join(filepath.Dir(m.home), "carried")
	var group sync.WaitGroup
	failures := make([]string, processes)
	for i := range processes {
		group.Go(func() {
			if out, err := m.command("export", "--to", folder, "--mirror", m.one.URL).CombinedOutput(); err != nil {
				failures[i] = string(out)
			}
		})
	}
	group.Wait()
	for _, failure := range failures {
		if failure != "" {
			t.Fatal(failure)
		}
	}
	archives := 0
	for _, r := range m.one.Requests() {
		if strings.HasSuffix(r.URL.Path, ".tar.zst") {
			archives++
		}
	}
	if archives != 2 {
		t.Errorf("%d archives were downloaded, not 2", archives)
	}
	if out, err := m.command("install", "--from", folder, "--offline").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if left, err := filepath.Glob(filepath.Join(folder, "*.partial")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
