package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// Ending `go run ./ci build` ends the build, although go forwards no signals.
func TestEndsWithGoRun(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			testEndsWith(t, signal, "go", "run", ".")
		})
	}
}

// A killed go passes its child on from thread to thread, and the kernel may tell the child each time.
// A go with many threads shows it about every second time.
func TestEndsWithManyThreads(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	threads := filepath.Join(t.TempDir(), "go")
	if out, err := exec.Command("cp", self, threads).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	program := filepath.Join(t.TempDir(), "ci")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for range 10 {
		testEndsWith(t, syscall.SIGKILL, threads, "run", program)
	}
}

// TestMain is the test binary, and the go with many threads that runs a program.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != "go" {
		os.Exit(m.Run())
	}
	for range 64 {
		go func() {
			runtime.LockOSThread()
			select {}
		}()
	}
	runtime.LockOSThread() // the child's parent is a thread that stays
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	_ = cmd.Run()
}

// testEndsWith starts ci by a command line, ends what it started with a signal, and checks that ci
// shut down in order. The source's server accepts the connection and never answers, so that ci is
// busy until then.
func testEndsWith(t *testing.T, signal syscall.Signal, line ...string) {
	t.Helper()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	line = append(line, "plan", "--sm", "75", "--cache", t.TempDir(), "--llama", "http://"+silent.Addr().String()+"/llama.cpp")
	cmd := exec.Command(line[0], line[1:]...)
	// go's own folder of compiled programs is below the test's, so nothing is left of a killed go.
	cmd.Env = append(os.Environ(), "GOTMPDIR="+t.TempDir(), "no_proxy=127.0.0.1")
	said, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	output := make(chan string)
	go func() {
		var text bytes.Buffer
		io.Copy(&text, said) // ends with the last process that has the other end
		output <- text.String()
	}()
	called := make(chan error)
	go func() {
		conn, err := silent.Accept()
		if err == nil {
			defer conn.Close()
		}
		called <- err
		io.Copy(io.Discard, conn)
	}()
	select {
	case err := <-called:
		if err != nil {
			t.Fatal(err)
		}
	case text := <-output:
		t.Fatalf("%s ended early:\n%s", line[0], text)
	}
	if err := cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Errorf("%s ended well", line[0])
	}
	if text := <-output; !strings.Contains(text, context.Canceled.Error()) {
		t.Errorf("the command ended for another reason:\n%s", text)
	}
}
