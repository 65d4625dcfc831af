// Command init is the first process of every container of the built-in engine,
// and of the engine itself: it runs its arguments as a child, forwards signals
// to it, reaps what others orphan, and ends with the child's exit code.
//
// Dagger brings dumb-init for that. Debian's is linked dynamically and cannot
// start in an image of another libc, and Debian's tini, which is static, takes
// the command's own options for its own. This one is static, and takes none.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// Exit codes of a shell that cannot run a command.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignalled     = 128 // plus the signal
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "init: no command")
		return exitNotFound
	}
	// Before the child exists, so that no signal is lost.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	child, err := start(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "init: starting %s: %v\n", args[0], err)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
			return exitNotFound
		}
		return exitNotExecutable
	}
	go forward(signals, child)
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR) || err == nil && pid != child:
			continue
		case err != nil:
			fmt.Fprintf(os.Stderr, "init: waiting for %s: %v\n", args[0], err)
			return exitNotExecutable
		case status.Signaled():
			return exitSignalled + int(status.Signal())
		default:
			return status.ExitStatus()
		}
	}
}

// start runs the command as execvp(3) would, in a session of its own so that a
// signal reaches all it started.
func start(args []string) (pid int, err error) {
	path, err := exec.LookPath(args[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return 0, err
	}
	attr := &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	pid, err = syscall.ForkExec(path, args, attr)
	if errors.Is(err, syscall.ENOEXEC) {
		// A script without an interpreter's line.
		pid, err = syscall.ForkExec("/bin/sh", append([]string{"/bin/sh", path}, args[1:]...), attr)
	}
	return pid, err
}

func forward(signals <-chan os.Signal, child int) {
	for s := range signals {
		switch s {
		case syscall.SIGCHLD, // reaped above
			syscall.SIGURG,                                    // Go's scheduler sends it to itself
			syscall.SIGPIPE,                                   // this process's own
			syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU: // nobody would continue it
			continue
		}
		// The group may have ended already.
		_ = syscall.Kill(-child, s.(syscall.Signal))
	}
}
