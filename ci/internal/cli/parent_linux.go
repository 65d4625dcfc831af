package cli

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// endWithGoRun makes the command shut down cleanly when `go run`, which started it, ends before it:
// go forwards no signals, so stopping `go run ./ci build` would leave the build running. Any other
// parent may end, as a shell does under nohup and setsid. It calls stop when go run has ended.
//
// The kernel notifies of the end of the thread that is the parent, and passes the child on to another
// thread of go, if one is left. So the signal may come several times while a killed go ends.
func endWithGoRun(stop func()) error {
	parent := os.Getppid()
	if !isGoRun(parent) {
		return nil
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGUSR1)
	go func() {
		for range ended {
			if os.Getppid() != parent {
				stop()
			}
		}
	}()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGUSR1), 0, 0, 0); err != nil {
		return fmt.Errorf("watching go run: %w", err)
	}
	if os.Getppid() != parent { // it ended before the kernel was asked
		stop()
	}
	return nil
}

// isGoRun reports whether a process is the go command with its subcommand run.
func isGoRun(pid int) bool {
	proc := fmt.Sprintf("/proc/%d/", pid)
	program, err := os.Readlink(proc + "exe")
	if err != nil || filepath.Base(program) != "go" {
		return false
	}
	line, err := os.ReadFile(proc + "cmdline")
	return err == nil && slices.Contains(strings.Split(string(line), "\x00"), "run")
}
