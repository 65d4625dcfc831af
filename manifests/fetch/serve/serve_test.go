package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// The stand-in for llama-server is this program with a mode in its environment: for what the real one does not do on demand.
const modeVariable = "LLCUDA_TEST_MODE"

func TestMain(m *testing.M) {
	if mode, ok := os.LookupEnv(modeVariable); ok {
		standIn(mode)
	}
	os.Exit(m.Run())
}

// standIn does what a mode says with the arguments of a llama-server.
func standIn(mode string) {
	at := slices.Index(os.Args, "--port")
	address := net.JoinHostPort(os.Args[at-1], os.Args[at+1])
	bound := make(chan net.Listener, 1)
	listen := func() {
		l, err := net.Listen("tcp", address)
		if err != nil {
			fmt.Printf("0.00.021.528 E srv         start: couldn't bind HTTP server socket, hostname: %s, port: %s\n", os.Args[at-1], os.Args[at+1])
			os.Exit(1)
		}
		bound <- l
	}
	health := http.StatusOK
	serve := func() {
		fmt.Println("listening on " + address)
		_ = http.Serve(<-bound, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != os.Getenv("LLCUDA_TEST_PREFIX")+"/health" {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			if key := os.Getenv("LLCUDA_TEST_KEY"); key != "" && r.Header.Get("Authorization") != "Bearer "+key {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			w.WriteHeader(health)
		}))
	}
	end := func(code int) {
		fmt.Fprintln(os.Stderr, "the last words")
		os.Exit(code)
	}
	terms := make(chan os.Signal, 1)
	signal.Notify(terms, syscall.SIGTERM)
	say, code, _ := strings.Cut(mode, "|")
	switch {
	case code != "": // says something and ends
		fmt.Println(say)
		if signal, ok := strings.CutPrefix(code, "SIG"); ok {
			die(signal)
		}
		n, _ := strconv.Atoi(code)
		end(n)
	case mode == "loads":
		health = http.StatusServiceUnavailable
	case mode == "stubborn":
		signal.Ignore(syscall.SIGTERM)
	case mode == "late": // binds only after another process has had time to
		time.Sleep(500 * time.Millisecond)
	case mode == "shell": // leaves a program in its group, with its output
		child := exec.Command("sh", "-c", `trap "" TERM; echo "child $$"; while :; do sleep 60; done`)
		child.Stdout = os.Stdout
		_ = child.Start()
	case mode == "talks": // before it listens
		line := strings.Repeat("x", 99)
		for i := range 105_000 {
			fmt.Printf("%06d%s\n", i, line[6:])
		}
	case mode == "endless": // without a newline
		for range 1000 {
			fmt.Print(strings.Repeat("y", 1000))
		}
	}
	listen()
	go serve()
	if then, ok := strings.CutPrefix(mode, "then "); ok { // some time after it was ready
		time.Sleep(time.Second)
		fmt.Println(then)
		die("SEGV")
	}
	<-terms
	end(0)
}

// die ends the process by a signal, as a shell: Go's runtime would print its stack, and exit.
func die(signal string) {
	_ = syscall.Exec("/bin/sh", []string{"sh", "-c", "ulimit -c 0; kill -" + signal + " $$"}, os.Environ())
}

// server is a Server of the stand-in, and its folders.
func server(t *testing.T, mode string) Server {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Server{Program: self, Arguments: []string{"-m", "a.gguf"}, Environ: append(os.Environ(), modeVariable+"="+mode),
		Model: Model{"a", "/a.gguf", 7}, Logs: t.TempDir(), Records: t.TempDir()}
}

// run runs a server, does something at each event, and returns the events.
func run(t *testing.T, s Server, at func(e Event, stop func())) ([]Event, error) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	var events []Event
	err := s.Run(ctx, func(e Event) {
		events = append(events, e)
		if at != nil {
			at(e, stop)
		}
	})
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Fatalf("it did not end; events %v", events)
	}
	if left, err := os.ReadDir(s.Records); s.Records != "" && (err != nil || len(left) > 0) {
		t.Errorf("records are left: %v %v", left, err)
	}
	return events, err
}

func last[T Event](events []Event) (found T, ok bool) {
	for _, e := range events {
		if as, is := e.(T); is {
			found, ok = as, true
		}
	}
	return found, ok
}

// stopWhenReady ends a server as soon as it is ready.
func stopWhenReady(e Event, stop func()) {
	if _, ok := e.(Ready); ok {
		stop()
	}
}

func alive(pid int) bool {
	_, ok := identify(pid)
	return ok
}

// within waits for something that another process does.
func within(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if done() {
			return
		}
	}
	t.Errorf("%s: not within 20 s", what)
}

// A server starts, is ready, and ends when it is asked to, in that order; its log has what it printed.
func TestServe(t *testing.T) {
	t.Parallel()
	s := server(t, "")
	s.Devices = []string{"CUDA0: Tesla T4"}
	events, err := run(t, s, stopWhenReady)
	if err != nil {
		t.Error(err)
	}
	var kinds []string
	for _, e := range events {
		if kind := e.Kind(); kind != "loading" {
			kinds = append(kinds, kind)
		}
	}
	kinds = slices.Compact(kinds) // another program may have been faster at its port
	if diff := cmp.Diff([]string{"starting", "ready", "exit"}, kinds); diff != "" {
		t.Error(diff)
	}
	starting, _ := last[Starting](events)
	ready, _ := last[Ready](events)
	exit, _ := last[Exit](events)
	if want := fmt.Sprintf("http://127.0.0.1:%d", starting.Port); starting.URL != want || ready.URL != want || ready.PID != starting.PID {
		t.Errorf("%+v\n%+v\nwant the address %s", starting, ready, want)
	}
	if diff := cmp.Diff(s.Devices, ready.Devices); diff != "" || ready.Model != s.Model {
		t.Error(diff, ready.Model)
	}
	if exit.Reason != ReasonStopped || exit.Code == nil || *exit.Code != 0 || exit.Signal != nil {
		t.Errorf("%+v", exit)
	}
	if alive(starting.PID) {
		t.Error("the server is still there")
	}
	text, err := os.ReadFile(starting.Log)
	if want := strings.Join(exit.Tail, "\n") + "\n"; err != nil || !strings.HasSuffix(string(text), want) || !strings.Contains(want, "the last words") {
		t.Errorf("the log has %q, the tail is %q: %v", text, want, err)
	}
}

// Each way to end has its reason.
func TestReasons(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		mode    string
		timeout time.Duration
		want    Reason
		problem string
	}{
		"no memory on the GPU":     {"ggml_backend_cuda_buffer_type_alloc_buffer: allocating 512.00 MiB on device 0: cudaMalloc failed: out of memory\nllama_model_load: error loading model: unable to allocate CUDA0 buffer|1", 0, ReasonMemory, "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 512.00 MiB on device 0: cudaMalloc failed: out of memory"},
		"no memory for the cache":  {"0.02.409.854 E ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 184320000000\n0.02.422.695 E srv  llama_server: exiting due to model loading error|1", 0, ReasonMemory, "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 184320000000"},
		"CUDA aborts for memory":   {"CUDA error: out of memory|SIGABRT", 0, ReasonMemory, "CUDA error: out of memory"},
		"memory, after it was up":  {"then terminate called after throwing an instance of 'std::bad_alloc'", 0, ReasonMemory, "terminate called after throwing an instance of 'std::bad_alloc'"},
		"memory of no consequence": {"ggml_cuda_host_malloc: failed to allocate 128.00 MiB of pinned memory: out of memory\nllama_model_load: error loading model: invalid magic|1", 0, ReasonModel, "llama_model_load: error loading model: invalid magic"},
		"a broken model":           {"0.00.085.122 E llama_model_load: error loading model: tensor 'blk.16.ffn_down.weight' data is not within the file bounds, model is corrupted or incomplete|1", 0, ReasonModel, "llama_model_load: error loading model: tensor 'blk.16.ffn_down.weight' data is not within the file bounds, model is corrupted or incomplete"},
		"an adapter that is not":   {"0.02.938.176 E llama_adapter_lora_init: failed to open 'x'\n0.02.938.198 E cmn  common_init_: failed to load lora adapter 'x'|1", 0, ReasonModel, "cmn  common_init_: failed to load lora adapter 'x'"},
		"an unknown flag":          {"error: invalid argument: --nope|1", 0, ReasonArgument, "invalid argument: --nope"},
		"a flag's value":           {"error while handling argument \"-c\": stoi\n\nusage:\n-c,    --ctx-size N   size of the prompt context|1", 0, ReasonArgument, "error while handling argument \"-c\": stoi"},
		"a variable's value":       {"error while handling environment variable \"LLAMA_ARG_CTX_SIZE\": stoi|1", 0, ReasonArgument, "error while handling environment variable \"LLAMA_ARG_CTX_SIZE\": stoi"},
		"a crash":                  {"working|SIGSEGV", 0, ReasonCrash, ""},
		"a crash, once it was up":  {"then srv  operator(): failed to load model of another request", 0, ReasonCrash, ""},
		"killed by somebody":       {"working|SIGKILL", 0, ReasonCrash, ""},
		"its own end":              {"bye|3", 0, ReasonEnded, ""},
		"its own good end":         {"bye|0", 0, ReasonEnded, ""},
		"no end of loading":        {"loads", 1500 * time.Millisecond, ReasonTimeout, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := server(t, test.mode)
			s.Timeout = test.timeout
			events, err := run(t, s, nil)
			exit, _ := last[Exit](events)
			if exit.Reason != test.want || exit.problem != test.problem {
				t.Errorf("reason %q, %q; want %q, %q", exit.Reason, exit.problem, test.want, test.problem)
			}
			_, code, _ := strings.Cut(test.mode, "|")
			if n, err := strconv.Atoi(code); err == nil && (exit.Code == nil || *exit.Code != n || exit.Signal != nil) || strings.HasPrefix(code, "SIG") && (exit.Signal == nil || *exit.Signal != code || exit.Code != nil) {
				t.Errorf("ended with %v, %v; want %s", exit.Code, exit.Signal, code)
			}
			var as *ExitError
			if !errors.As(err, &as) || as.Reason != test.want || !strings.Contains(err.Error(), strings.Join(exit.Tail, "\n")) || !strings.Contains(err.Error(), exit.Log) {
				t.Errorf("error %v", err)
			}
			if as != nil && as.Hint() == "" {
				t.Error("no hint")
			}
			if _, loaded := last[Loading](events); test.timeout > 0 && !loaded {
				t.Error("nobody was told that it loads")
			}
		})
	}
}

// Loading is reported each second, whatever else happens; a caller that does not listen does not block the server.
func TestStopWithoutEar(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	s, deaf, pid := server(t, "loads"), make(chan struct{}), 0
	done := make(chan error)
	go func() {
		done <- s.Run(ctx, func(e Event) {
			switch e := e.(type) {
			case Starting:
				pid = e.PID
			case Loading:
				stop()
				<-deaf
			}
		})
	}()
	<-ctx.Done()
	within(t, "ending the server", func() bool { return !alive(pid) })
	close(deaf)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A server that does not end by itself is killed, and so is one that is stopped; what it started goes with it.
func TestStopByForce(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]string{"ignores SIGTERM": "stubborn", "is stopped": "", "has a child": "shell"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			members := []string{}
			events, err := run(t, server(t, mode), func(e Event, stop func()) {
				if ready, ok := e.(Ready); ok {
					members = group(ready.PID)
					if name == "is stopped" {
						_ = unix.Kill(ready.PID, unix.SIGSTOP)
					}
					stop()
				}
			})
			exit, _ := last[Exit](events)
			if err != nil || exit.Reason != ReasonStopped {
				t.Errorf("%+v: %v", exit, err)
			}
			if mode == "shell" && len(members) < 2 {
				t.Fatalf("the group was %v", members)
			}
			if mode != "shell" && (exit.Signal == nil || *exit.Signal != "SIGKILL") {
				t.Errorf("%+v", exit)
			}
			for _, member := range members {
				pid, _ := strconv.Atoi(member)
				within(t, "ending process "+member, func() bool { return !alive(pid) })
			}
		})
	}
}
