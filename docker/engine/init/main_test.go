package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asInit makes this test program behave as init.
const asInit = "INIT_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(asInit) != "" {
		main()
	}
	os.Exit(m.Run())
}

func initCommand(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asInit+"=1")
	return cmd
}

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, perm os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), perm); err != nil {
			t.Fatal(err)
		}
		return path
	}
	bare := write("bare", "exit 7\n", 0o755)
	plain := write("plain", "exit 7\n", 0o644)
	for name, test := range map[string]struct {
		args []string
		want int
	}{
		"success":            {[]string{"true"}, 0},
		"failure":            {[]string{"sh", "-c", "exit 3"}, 3},
		"killed":             {[]string{"sh", "-c", "kill -9 $$"}, 128 + 9},
		"not in PATH":        {[]string{"no-such-program"}, 127},
		"no such file":       {[]string{filepath.Join(dir, "absent")}, 127},
		"not executable":     {[]string{plain}, 126},
		"script without #!":  {[]string{bare}, 7},
		"no command":         {nil, 127},
		"options of its own": {[]string{"sh", "-e", "-c", "exit 4", "--", "-h"}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := initCommand(test.args...)
			out, _ := cmd.CombinedOutput()
			if got := cmd.ProcessState.ExitCode(); got != test.want {
				t.Errorf("exit code %d, want %d\n%s", got, test.want, out)
			}
		})
	}
}

func TestPassesSignalsToTheWholeGroup(t *testing.T) {
	var out bytes.Buffer
	cmd := initCommand("sh", "-c", `trap 'echo caught; exit 5' TERM; echo ready; sleep 60 & wait`)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make([]byte, len("ready\n"))
	if _, err := stdout.Read(ready); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
	defer timer.Stop()
	// Ends when the sleeping child has the signal, too: it holds the pipe.
	if _, err := out.ReadFrom(stdout); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if got := strings.TrimSpace(out.String()); got != "caught" || cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("wrote %q and ended with %d, want caught and 5", got, cmd.ProcessState.ExitCode())
	}
}
