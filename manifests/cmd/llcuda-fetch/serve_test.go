package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/serve/servetest"
)

// standIn is a llama-server as far as serve sees one. A model is a file that ends with "whole".
func standIn() {
	flags := map[string]string{}
	for i := 1; i < len(os.Args); i++ {
		if !slices.Contains([]string{"-m", "-c", "--host", "--port", "--mmproj", "--api-key-file"}, os.Args[i]) || i+1 == len(os.Args) {
			fmt.Fprintln(os.Stderr, "error: invalid argument:", os.Args[i])
			os.Exit(1)
		}
		flags[os.Args[i]] = os.Args[i+1]
		i++
	}
	fmt.Printf("key %q\n", os.Getenv("LLAMA_API_KEY"))
	l, err := net.Listen("tcp", net.JoinHostPort(flags["--host"], flags["--port"]))
	if err != nil {
		fmt.Printf("srv         start: couldn't bind HTTP server socket, hostname: %s, port: %s\n", flags["--host"], flags["--port"])
		os.Exit(1)
	}
	if model, err := os.ReadFile(flags["-m"]); err != nil || !bytes.HasSuffix(bytes.TrimSpace(model), []byte("whole")) {
		fmt.Println("llama_model_load: error loading model: tensor 'output.weight' data is not within the file bounds, model is corrupted or incomplete")
		os.Exit(1)
	}
	if context, _ := strconv.Atoi(flags["-c"]); context > 1_000_000 {
		fmt.Println("ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 184320000000\nsrv  llama_server: exiting due to model loading error")
		os.Exit(1)
	}
	terms := make(chan os.Signal, 1)
	signal.Notify(terms, syscall.SIGTERM)
	crashes := make(chan os.Signal, 1)
	signal.Notify(crashes, syscall.SIGSEGV) // Go's runtime would print its stack, and exit
	go func() {
		<-crashes
		_ = syscall.Exec("/bin/sh", []string{"sh", "-c", "ulimit -c 0; kill -SEGV $$"}, os.Environ())
	}()
	go func() { _ = http.Serve(l, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})) }()
	<-terms
	if linger, err := time.ParseDuration(os.Getenv("STANDIN_LINGERS")); err == nil {
		time.Sleep(linger)
		fmt.Println("its last words")
	}
}

// A server that takes longer to end than other commands may is given the time: it ends in order, and its end is
// reported.
func TestServeEndsInOrder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	model := filepath.Join(dir, "model.gguf")
	if err := os.WriteFile(model, []byte("a model that is whole"), 0o644); err != nil {
		t.Fatal(err)
	}
	server, err := exec.LookPath("standin")
	if err != nil {
		t.Fatal(err)
	}
	cmd := child(t, "llcuda-fetch", "serve", model, "--events")
	cmd.Env = append(os.Environ(), "LLAMA_SERVER_PATH="+server, "LLCUDA_HOME="+filepath.Join(dir, "store"), "LLCUDA_OFFLINE=1", "STANDIN_LINGERS=1500ms")
	var out lines
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, &out, func() bool { return strings.Contains(out.String(), `"event":"ready"`) })
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	if said := out.String(); err != nil || !strings.Contains(said, `"reason":"stopped"`) || !strings.Contains(said, "its last words") || !strings.HasSuffix(said, `{"v":1,"event":"done"}`+"\n") {
		t.Errorf("%v\n%s", err, said)
	}
}

// serve keeps its promises with a server of the user's own, in a store where nothing is installed.
func TestServe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	model := filepath.Join(dir, "model.gguf")
	if err := os.WriteFile(model, []byte("a model that is whole"), 0o644); err != nil {
		t.Fatal(err)
	}
	server, err := exec.LookPath("standin")
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(dir, "store")
	servetest.Check(t, func(args ...string) *exec.Cmd {
		cmd := child(t, "llcuda-fetch", args...)
		cmd.Env = append(os.Environ(), "LLAMA_SERVER_PATH="+server, "LLCUDA_HOME="+home, "LLCUDA_OFFLINE=1")
		return cmd
	}, model)
	for folder, want := range map[string]int{"logs": 10, "servers": 0} {
		// The supervisor that was killed could not remove its own record; each later one looks for such.
		if entries, err := os.ReadDir(filepath.Join(home, folder)); err != nil || len(entries) != want {
			t.Errorf("%s has %v, want %d: %v", folder, entries, want, err)
		}
	}
}
