package builtin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// exitPoll is how often a context is looked at while a process is waited for.
const exitPoll = 100 * time.Millisecond

// startTime returns when a process started, in clock ticks since boot: with
// the PID and the boot it names a process for good.
func startTime(pid int) (uint64, error) {
	field, err := readStat(pid)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(field(22), 10, 64)
}

// isEnding reports whether a process has begun to exit. The first process of a
// PID namespace ends only after all others in it.
func isEnding(pid int) (bool, error) {
	field, err := readStat(pid)
	if err != nil {
		return false, err
	}
	const exiting = 0x4 // PF_EXITING of Linux' include/linux/sched.h
	flags, err := strconv.ParseUint(field(9), 10, 64)
	return flags&exiting != 0, err
}

// readStat returns the fields of a process' stat, counted from 1 as in
// proc_pid_stat(5), from the third one on.
func readStat(pid int) (field func(n int) string, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	// The second field is the program's name in parentheses and may hold
	// anything, so count from the last one.
	stat := string(data)
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return nil, fmt.Errorf("reading /proc/%d/stat: %d fields", pid, len(fields)+2)
	}
	field = func(n int) string { return fields[n-3] }
	// The first thread can be a zombie while others, counted in field 20, end the
	// rest of the namespace.
	if threads := field(20); (field(3) == "Z" || field(3) == "X") && (threads == "0" || threads == "1") {
		return nil, os.ErrProcessDone
	}
	return field, nil
}

func bootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("reading the boot's id: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// A process is held by a file descriptor, so that a signal can never reach
// another one that got the same PID.
type process struct {
	fd int
}

// openProcess returns nil without an error when that process has ended, even if
// its PID now belongs to another process or a thread.
func openProcess(pid int, start uint64) (*process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	// For the ID of a thread, pidfd_open(2) returns ENOENT since Linux 6.15 and
	// EINVAL before.
	if slices.Contains([]error{unix.ESRCH, unix.ENOENT, unix.EINVAL}, err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening process %d: %w", pid, err)
	}
	p := &process{fd: fd}
	// Checked after opening: the descriptor cannot change its process any more.
	if now, err := startTime(pid); err != nil || now != start {
		p.close()
		return nil, nil
	}
	return p, nil
}

func (p *process) close() { unix.Close(p.fd) }

func (p *process) signal(sig unix.Signal) error {
	err := unix.PidfdSendSignal(p.fd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// wait reports whether the process ended within d. As the first process of a
// PID namespace, it takes all others with it before this returns true.
func (p *process) wait(ctx context.Context, d time.Duration) (bool, error) {
	deadline := time.Now().Add(d)
	for {
		fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(min(exitPoll, max(0, time.Until(deadline))).Milliseconds()))
		switch {
		case err != nil && !errors.Is(err, unix.EINTR):
			return false, fmt.Errorf("waiting for a process: %w", err)
		case n > 0:
			return true, nil
		case ctx.Err() != nil:
			return false, context.Cause(ctx)
		case time.Now().After(deadline):
			return false, nil
		}
	}
}
