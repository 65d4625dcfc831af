package serve

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A process is a running server, in a process group of its own: what a terminal sends to its group, and what a notebook
// sends to its kernel's, is not for the server.
type process struct {
	pid   int
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has ended, and its group with it

	mu   sync.Mutex
	gone bool // its number may be another process's
}

// drain is how long to wait for the rest of a server's output, which a program that left its group may hold open.
const drain = time.Second

func start(program string, arguments, environ []string, out io.Writer) (*process, error) {
	cmd := exec.Command(program, arguments...)
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = environ, out, out, drain
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	begun := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the thread ends that started the process, not when the process does. So this one
		// stays as long as the server: https://github.com/golang/go/issues/27505
		runtime.LockOSThread()
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		begun <- err
		if err == nil {
			p.wait()
		}
	}()
	return p, <-begun
}

// wait waits for the end, and kills whatever the server leaves in its group, before its PID can be reused.
func (p *process) wait() {
	for {
		err := unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.signal(unix.SIGKILL)
	p.mu.Lock()
	p.gone = true
	p.mu.Unlock()
	_ = p.cmd.Wait() // what it returned is in ProcessState
	close(p.ended)
}

func (p *process) signal(signal unix.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.gone {
		_ = unix.Kill(-p.pid, signal)
	}
}

// stop ends it in order, or by force if that takes too long, and returns when it has ended.
func (p *process) stop(within time.Duration) {
	p.signal(unix.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(within):
		p.signal(unix.SIGKILL)
		<-p.ended
	}
}

// exit is how it ended.
func (p *process) exit() Exit {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		name := unix.SignalName(status.Signal())
		return Exit{Signal: &name}
	}
	code := p.cmd.ProcessState.ExitCode()
	return Exit{Code: &code}
}

// listens reports whether p, or a process of its group, is the one that listens on a port. Where the kernel does not
// tell, the answer is true, unless p has ended.
func (p *process) listens(port int) bool {
	members := group(p.pid)
	sockets, told := listeners(port)
	if !told || len(members) == 0 {
		return len(members) > 0
	}
	hidden := false
	for _, pid := range members {
		fds, err := os.ReadDir(filepath.Join("/proc", pid, "fd"))
		hidden = hidden || errors.Is(err, fs.ErrPermission) // others mean that it has just ended
		for _, fd := range fds {
			if link, err := os.Readlink(filepath.Join("/proc", pid, "fd", fd.Name())); err == nil && sockets[link] {
				return true
			}
		}
	}
	return hidden
}

// listeners are the sockets that listen on a port, as /proc/PID/fd names them, if the kernel tells.
func listeners(port int) (sockets map[string]bool, told bool) {
	const listening = "0A" // TCP_LISTEN in include/net/tcp_states.h
	sockets = map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		data, err := os.ReadFile(table)
		told = told || err == nil
		for line := range strings.Lines(string(data)) {
			const local, state, inode = 1, 3, 9
			fields := strings.Fields(line)
			if len(fields) <= inode || fields[state] != listening {
				continue
			}
			_, at, _ := strings.Cut(fields[local], ":")
			if n, err := strconv.ParseUint(at, 16, 16); err == nil && int(n) == port {
				sockets["socket:["+fields[inode]+"]"] = true
			}
		}
	}
	return sockets, told
}

// group are the processes of a process group.
func group(id int) []string {
	var members []string
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if group, err := unix.Getpgid(pid); err == nil && group == id {
			members = append(members, entry.Name())
		}
	}
	return members
}
