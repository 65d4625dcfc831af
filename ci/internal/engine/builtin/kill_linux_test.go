package builtin

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestKilledEngine(t *testing.T) {
	for _, victim := range []string{"first process", "engine"} {
		t.Run(victim, func(t *testing.T) {
			t.Parallel()
			netNS := newNetNS(t)
			e := newTestEngine(t, Options{NetNS: netNS})
			before := takeSnapshot(t, netNS, e.opts.StateDir)
			info := mustUp(t, e)
			s := newSession(t, info)
			random := mustExec(t, s, "random")

			// In the middle of a build…
			marker := "marker-" + e.opts.Name
			build := make(chan error, 1)
			go func() {
				_, err := s.exec(context.Background(), "sleep", marker)
				build <- err
			}()
			eventually(t, "the container starts", func() bool { return len(processesWith(t, marker)) > 0 })
			pid := info.PID
			if victim == "engine" {
				pid = engineProcess(t, e, info)
			}
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			// …everything the engine ran ends with it, and the client notices.
			eventually(t, "the container ends", func() bool { return len(processesWith(t, marker)) == 0 })
			select {
			case err := <-build:
				if err == nil {
					t.Error("the build succeeded without its engine")
				}
			case <-time.After(30 * time.Second):
				t.Error("the client did not notice that its engine was killed")
			}
			s.close()
			status, err := e.Status(t.Context())
			if err != nil || status.Running {
				t.Errorf("Status of a killed engine: %+v, %v", status, err)
			}

			// The next one has the cache.
			s = newSession(t, mustUp(t, e))
			if got := mustExec(t, s, "random"); got != random {
				t.Errorf("the step ran again after the engine was killed: %q, before %q", got, random)
			}
			s.close()

			if err := unix.Kill(engineProcess(t, e, mustUp(t, e)), unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if err := e.Down(t.Context()); err != nil {
				t.Fatal(err)
			}
			if diff := diffSnapshots(before, takeSnapshot(t, netNS, e.opts.StateDir)); diff != "" {
				t.Errorf("Down of a killed engine left something (-before +after):\n%s", diff)
			}
			checkGone(t, e)
		})
	}
}

func TestKilledClientEndsItsBuild(t *testing.T) {
	t.Parallel()
	e := newTestEngine(t, Options{NetNS: newNetNS(t)})
	info := mustUp(t, e)
	s := newSession(t, info)
	marker := "marker-" + e.opts.Name
	go s.exec(context.Background(), "sleep", marker)
	eventually(t, "the container starts", func() bool { return len(processesWith(t, marker)) > 0 })
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the container ends", func() bool { return len(processesWith(t, marker)) == 0 })
	if again := mustUp(t, e); again.PID != info.PID {
		t.Errorf("the engine was restarted: %d, was %d", again.PID, info.PID)
	}
}

// TestKilledUp: the process that starts an engine is killed as soon as the
// engine is on record. The next Up finds it, or what is left of it.
func TestKilledUp(t *testing.T) {
	t.Parallel()
	netNS := newNetNS(t)
	e := newTestEngine(t, Options{NetNS: netNS})
	before := takeSnapshot(t, netNS, e.opts.StateDir)
	for _, delay := range []time.Duration{0, 20 * time.Millisecond, 500 * time.Millisecond} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), upVariable+"="+e.opts.Name, "STATE="+e.opts.StateDir, "NETNS="+netNS)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the engine is on record", func() bool {
			rec, err := readRecord(e.opts.Name)
			return err == nil && rec != nil
		})
		time.Sleep(delay)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		s := newSession(t, mustUp(t, e))
		if got := mustExec(t, s, "print", "hello"); got != "hello\n" {
			t.Errorf("the container wrote %q", got)
		}
		s.close()
		if pids := processesWith(t, filepath.Join(e.opts.StateDir, "state")); len(pids) != 2 {
			t.Errorf("processes %v, want one engine and its init", pids)
		}
		if err := e.Down(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if diff := diffSnapshots(before, takeSnapshot(t, netNS, e.opts.StateDir)); diff != "" {
		t.Errorf("killed Ups left something (-before +after):\n%s", diff)
	}
	checkGone(t, e)
}

// upVariable makes this test program start an engine instead.
const upVariable = "BUILTIN_TEST_UP"

func upAndExit() {
	e, err := New(Options{Name: os.Getenv(upVariable), StateDir: os.Getenv("STATE"), NetNS: os.Getenv("NETNS"), ModuleDir: moduleDir})
	if err == nil {
		_, err = e.Up(context.Background(), nil)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func TestHungEngineIsRestarted(t *testing.T) {
	t.Parallel()
	e := newTestEngine(t, Options{NetNS: newNetNS(t)})
	info := mustUp(t, e)
	if err := unix.Kill(engineProcess(t, e, info), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	impatient := *e
	impatient.answerTimeout = 2 * time.Second
	status, err := impatient.Status(t.Context())
	if err != nil || !status.Running || status.Answers {
		t.Errorf("Status of a hung engine: %+v, %v", status, err)
	}
	again, err := impatient.Up(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if again.PID == info.PID || !again.Answers {
		t.Errorf("the hung engine is still used: %+v", again)
	}
}

// namesake is an engine of the same name with its state elsewhere.
func namesake(t *testing.T, e *Engine) *Engine {
	t.Helper()
	other, err := New(Options{Name: e.opts.Name, StateDir: t.TempDir(), NetNS: e.opts.NetNS, ModuleDir: moduleDir})
	if err != nil {
		t.Fatal(err)
	}
	return other
}

// TestKilledEngineLeavesItsName: a killed engine's record does not block a new
// engine, wherever its state was.
func TestKilledEngineLeavesItsName(t *testing.T) {
	t.Parallel()
	e := newTestEngine(t, Options{NetNS: newNetNS(t)})
	info := mustUp(t, e)
	other := namesake(t, e)
	if err := unix.Kill(info.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the engine ends", func() bool {
		return len(processesWith(t, filepath.Join(e.opts.StateDir, "state"))) == 0
	})
	if got := mustUp(t, other); got.StateDir != other.opts.StateDir {
		t.Errorf("Up gave the engine of %s, want that of %s", got.StateDir, other.opts.StateDir)
	}
	if err := other.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkGone(t, other)
}

// TestEndingEngineIsWaitedFor: a killed engine ends only after everything else in
// its PID namespace. Up waits for that before it takes the name.
func TestEndingEngineIsWaitedFor(t *testing.T) {
	t.Parallel()
	e := newTestEngine(t, Options{NetNS: newNetNS(t)})
	info := mustUp(t, e)
	other := namesake(t, e)
	// A stopped nsenter does not reap the process it put into the engine's
	// namespace, and the kernel does not let the engine end before that.
	guest := exec.Command("nsenter", "--target", strconv.Itoa(info.PID), "--pid", "sleep", "600")
	if err := guest.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		guest.Process.Signal(unix.SIGCONT)
		guest.Process.Kill()
		guest.Wait()
	})
	children := fmt.Sprintf("/proc/%d/task/%[1]d/children", guest.Process.Pid)
	eventually(t, "nsenter starts its program", func() bool {
		data, err := os.ReadFile(children)
		return err == nil && len(data) > 0
	})
	if err := guest.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nsenter stops", func() bool {
		field, err := readStat(guest.Process.Pid)
		return err == nil && field(3) == "T"
	})
	if err := unix.Kill(info.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the engine begins to end", func() bool {
		ending, err := isEnding(info.PID)
		return err == nil && ending
	})
	up := make(chan error, 1)
	go func() {
		_, err := other.Up(t.Context(), nil)
		up <- err
	}()
	select {
	case err := <-up:
		t.Fatalf("Up beside an engine that is ending did not wait: %v", err)
	case <-time.After(500 * time.Millisecond):
	}
	if err := guest.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := <-up; err != nil {
		t.Fatal(err)
	}
	if err := other.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkGone(t, other)
}
