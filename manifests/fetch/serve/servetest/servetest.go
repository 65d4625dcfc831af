// Package servetest checks that `llcuda-fetch serve` keeps its promises with a llama-server: the real one, or one that only
// looks like it. Tests of llcuda-fetch and of ci call it.
package servetest

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// limit is what a server has to start or end: a small model, on a slow and busy machine.
const limit = time.Minute

// An event is a line that llcuda-fetch --events writes.
type event struct {
	Event   string
	URL     string
	PID     int
	Seconds float64
	Reason  string
	Code    int
	Signal  string
	Class   string
	Message string
	Tail    []string
	Hints   []string
	Model   struct {
		Path string
		Size int64
	}
}

// A running is a supervisor.
type running struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	events chan event
	seen   []event
	server int // its number; 0 before it was started
}

// Check has command, which makes a run of llcuda-fetch with arguments, serve a model. Its environment leads to a llama-server.
func Check(t *testing.T, command func(args ...string) *exec.Cmd, model string) {
	serve := func(t *testing.T, cmd *exec.Cmd) *running {
		t.Helper()
		r := &running{t: t, cmd: cmd, events: make(chan event, 100)}
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if r.stdin, err = cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() {
			defer close(r.events)
			for lines := bufio.NewScanner(stderr); lines.Scan(); {
				var e event
				if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
					e.Event, e.Message = "no event", lines.Text()
				}
				r.events <- e
			}
		}()
		t.Cleanup(func() {
			r.stdin.Close()
			_ = cmd.Process.Kill()
			for range r.events { // what it started has no other end of the pipe
			}
			_ = cmd.Wait()
		})
		return r
	}
	start := func(t *testing.T, flags, arguments []string) *running {
		t.Helper()
		return serve(t, command(slices.Concat([]string{"--events", "serve", model}, flags, []string{"--", "-c", "512"}, arguments)...))
	}

	t.Run("ends on SIGTERM", func(t *testing.T) {
		r := start(t, nil, nil)
		ready := r.until("ready")
		if info, err := os.Stat(model); err != nil || ready.Model.Path != model || ready.Model.Size != info.Size() {
			t.Errorf("%+v: %v", ready, err)
		}
		r.answers()
		r.send(r.cmd.Process.Pid, syscall.SIGTERM)
		r.ends(0, "stopped")
	})
	t.Run("ends while it loads", func(t *testing.T) {
		r := start(t, nil, nil)
		r.until("starting")
		r.send(r.cmd.Process.Pid, syscall.SIGINT)
		r.ends(0, "stopped")
	})
	t.Run("standard input is not a lifeline unasked", func(t *testing.T) {
		r := start(t, nil, nil)
		r.stdin.Close()
		r.until("ready")
		r.answers()
		r.send(r.cmd.Process.Pid, syscall.SIGTERM)
		r.ends(0, "stopped")
	})
	t.Run("the lifeline ends", func(t *testing.T) {
		r := start(t, []string{"--lifeline"}, nil)
		r.until("ready")
		r.answers()
		r.stdin.Close()
		r.ends(0, "stopped")
	})
	t.Run("the parent is killed, and somebody else holds the lifeline", func(t *testing.T) {
		client := command("--events", "serve", model, "--lifeline", "--", "-c", "512")
		shell := exec.Command("sh", append([]string{"-c", `"$0" "$@"; exit`}, client.Args...)...)
		shell.Env, shell.Args[3] = client.Env, client.Path
		r := serve(t, shell)
		r.until("ready")
		r.send(r.cmd.Process.Pid, syscall.SIGKILL)
		r.gone(r.server)
	})
	t.Run("the supervisor is killed", func(t *testing.T) {
		r := start(t, nil, nil)
		r.until("ready")
		r.send(r.cmd.Process.Pid, syscall.SIGKILL)
		r.gone(r.server)
	})
	t.Run("the server crashes", func(t *testing.T) {
		r := start(t, nil, nil)
		r.until("ready")
		r.send(r.server, syscall.SIGSEGV)
		if exit := r.ends(1, "crash"); exit.Signal != "SIGSEGV" {
			t.Errorf("%+v", exit)
		}
	})
	t.Run("the server is stopped", func(t *testing.T) {
		r := start(t, nil, nil)
		r.until("ready")
		r.send(r.server, syscall.SIGSTOP)
		r.send(r.cmd.Process.Pid, syscall.SIGTERM)
		if exit := r.ends(0, "stopped"); exit.Signal != "SIGKILL" {
			t.Errorf("%+v", exit)
		}
	})
	t.Run("an unknown flag", func(t *testing.T) {
		r := start(t, nil, []string{"--no-such-flag"})
		r.ends(2, "argument")
		if e := r.last("error"); e.Class != "usage" || !strings.Contains(e.Message, "--no-such-flag") {
			t.Errorf("%+v", e)
		}
	})
	t.Run("half a model", func(t *testing.T) {
		whole, err := os.ReadFile(model)
		if err != nil {
			t.Fatal(err)
		}
		half := filepath.Join(t.TempDir(), "half.gguf")
		if err := os.WriteFile(half, whole[:len(whole)/2], 0o644); err != nil {
			t.Fatal(err)
		}
		serve(t, command("--events", "serve", half)).ends(1, "model")
	})
	t.Run("no memory", func(t *testing.T) {
		// Far less than such a context takes, and more than the programs do without.
		client := command("--events", "serve", model, "--", "-c", "8000000")
		shell := exec.Command("sh", append([]string{"-c", `ulimit -v 4000000; exec "$0" "$@"`}, client.Args...)...)
		shell.Env, shell.Args[3] = client.Env, client.Path
		serve(t, shell).ends(1, "memory")
	})
	t.Run("a port that is taken", func(t *testing.T) {
		one := start(t, nil, nil)
		url := one.until("ready").URL
		port := url[strings.LastIndexByte(url, ':')+1:]
		two := start(t, []string{"--port", port}, nil)
		two.ends(1, "port")
		three := start(t, nil, nil)
		if at := three.until("ready").URL; at == url {
			t.Errorf("both are at %s", at)
		}
		one.answers()
		three.answers()
	})
	t.Run("servers at once", func(t *testing.T) {
		one, two := start(t, nil, nil), start(t, nil, nil)
		if at, other := one.until("ready").URL, two.until("ready").URL; at == other {
			t.Errorf("both are at %s", at)
		}
		one.answers()
		two.answers()
	})
	t.Run("a port that is asked for", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
		l.Close()
		r := start(t, []string{"--port", port}, nil)
		if url := r.until("ready").URL; url != "http://127.0.0.1:"+port {
			t.Error(url)
		}
		r.send(r.cmd.Process.Pid, syscall.SIGTERM)
		r.ends(0, "stopped")
	})
}

// next is the next event; ok is false after the last.
func (r *running) next() (e event, ok bool) {
	r.t.Helper()
	select {
	case e, ok = <-r.events:
	case <-time.After(limit):
		r.t.Fatalf("nothing happens for %s after %+v", limit, r.seen)
	}
	if ok {
		r.seen = append(r.seen, e)
	}
	if e.Event == "starting" {
		r.server = e.PID
	}
	return e, ok
}

// until waits for an event.
func (r *running) until(kind string) event {
	r.t.Helper()
	for {
		e, ok := r.next()
		if !ok {
			r.t.Fatalf("no event %q in %+v", kind, r.seen)
		}
		if e.Event == kind {
			return e
		}
	}
}

// last is the last event of a kind that was seen.
func (r *running) last(kind string) event {
	for _, e := range slices.Backward(r.seen) {
		if e.Event == kind {
			return e
		}
	}
	return event{}
}

// ends waits for the end, which must have a code and a reason, and leave no server. It returns the event that told of it.
func (r *running) ends(code int, reason string) event {
	r.t.Helper()
	for {
		if _, ok := r.next(); !ok {
			break
		}
	}
	_ = r.cmd.Wait() // with the code below
	end := r.seen[len(r.seen)-1]
	if got := r.cmd.ProcessState.ExitCode(); got != code || end.Code != code || code == 0 && end.Event != "done" || code != 0 && (end.Event != "error" || len(end.Hints) == 0) {
		r.t.Errorf("exit code %d, want %d; events %+v", got, code, r.seen)
	}
	exit := r.last("exit")
	if exit.Reason != reason {
		r.t.Errorf("reason %q, want %q; events %+v", exit.Reason, reason, r.seen)
	}
	if r.server != 0 {
		r.gone(r.server)
	}
	return exit
}

// answers asks the server whether it is well.
func (r *running) answers() {
	r.t.Helper()
	response, err := (&http.Client{Timeout: limit, Transport: &http.Transport{DisableKeepAlives: true}}).Get(r.last("ready").URL + "/health")
	if err != nil {
		r.t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		r.t.Error(response.Status)
	}
}

func (r *running) send(pid int, signal syscall.Signal) {
	r.t.Helper()
	if pid <= 1 {
		r.t.Fatalf("no process to signal; events %+v", r.seen)
	}
	if err := unix.Kill(pid, signal); err != nil {
		r.t.Fatal(err)
	}
}

// gone waits until a process is gone.
func (r *running) gone(pid int) {
	r.t.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if _, after, _ := strings.Cut(string(stat), ") "); err != nil || strings.HasPrefix(after, "Z") {
			return
		}
	}
	r.t.Errorf("process %d is still there", pid)
}
