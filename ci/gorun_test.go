package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// Ending `go run ./ci build` ends the build, although go forwards no signals. The source's server
// accepts the connection and never answers, so that the command is busy until then.
func TestEndsWithGoRun(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			silent, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer silent.Close()
			cmd := exec.Command("go", "run", ".", "plan", "--sm", "75", "--cache", t.TempDir(), "--llama", "http://"+silent.Addr().String()+"/llama.cpp")
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
				t.Fatalf("go run ended early:\n%s", text)
			}
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil {
				t.Error("go run ended well")
			}
			if text := <-output; !strings.Contains(text, context.Canceled.Error()) {
				t.Errorf("the command ended for another reason:\n%s", text)
			}
		})
	}
}
