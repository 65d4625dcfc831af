package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	// patience is how long a process of a test may run, or a test wait for what one does: many times what the slowest
	// takes on a busy machine.
	patience = 5 * time.Minute
	// buildPatience is the same for go build, whose cache may be empty.
	buildPatience = 20 * time.Minute
)

// child is exec.Command for the processes of tests. One that does not end within patience fails its test; it and what it
// started get SIGQUIT, so that a Go program prints its goroutines to where the test reads.
func child(t testing.TB, program string, args ...string) *exec.Cmd {
	if program == "go" {
		return childWithin(t, buildPatience, program, args...)
	}
	return childWithin(t, patience, program, args...)
}

func childWithin(t testing.TB, limit time.Duration, program string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Errorf("%q did not end within %s", cmd.Args, limit)
		}
		return syscall.Kill(-cmd.Process.Pid, syscall.SIGQUIT)
	}
	cmd.WaitDelay = time.Minute // what it started may have left the group, and hold the pipe
	return cmd
}

// await waits for what a process does that writes to out.
func await(t testing.TB, out *lines, done func() bool) {
	t.Helper()
	for begun := time.Now(); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Since(begun) > patience {
			t.Fatalf("waited %s in vain, after\n%s", patience, out)
		}
	}
}

// A failing records the errors of a test.
type failing struct {
	testing.TB
	errors lines
}

func (f *failing) Errorf(format string, args ...any) { fmt.Fprintf(&f.errors, format+"\n", args...) }

// A child that does not end fails its test, which shows where it hangs, also where a shell started it.
func TestChildThatHangs(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "pipe") // nobody writes to it
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for limit := time.Second; ; limit *= 2 { // it must have begun, which takes longer on a busy machine
		f := &failing{TB: t}
		out, err := childWithin(f, limit, "sh", "-c", `llcuda-fetch plan --as-host "$0"; :`, pipe).CombinedOutput()
		if err == nil || !strings.Contains(f.errors.String(), `"llcuda-fetch plan --as-host \"$0\"; :"`) || !strings.Contains(f.errors.String(), "did not end within "+limit.String()) {
			t.Fatalf("%v; the test said %q", err, f.errors.String())
		}
		if strings.Contains(string(out), "fetchcli.(*app).readHost") {
			return
		}
		if limit > time.Minute {
			t.Fatalf("the goroutines are not in\n%s", out)
		}
	}
}
