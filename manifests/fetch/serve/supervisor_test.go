package serve

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A server does not outlive its supervisor, however that ends.
func TestSupervisorKilled(t *testing.T) {
	t.Parallel()
	s := server(t, "")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	supervisor := exec.Command(self, "-test.run=^TestSupervise$", "-test.v")
	supervisor.Env = append(os.Environ(), "LLCUDA_TEST_RECORDS="+s.Records)
	out, err := supervisor.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := supervisor.Start(); err != nil {
		t.Fatal(err)
	}
	// A server that still has something to print would end by its broken pipe.
	for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != "ready"; {
	}
	var kept record
	for _, r := range records(s.Records) {
		kept = r
	}
	if kept.Supervisor.PID != supervisor.Process.Pid || !kept.Server.runs() {
		t.Errorf("%+v", kept)
	}
	if err := supervisor.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	within(t, "ending with the supervisor", func() bool { return !kept.Server.runs() })
	_ = supervisor.Wait()
	if kept.Server.runs() {
		_ = unix.Kill(kept.Server.PID, unix.SIGKILL)
	}
	clearAway(s.Records)
	if left := records(s.Records); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// TestSupervise is the supervisor of TestSupervisorKilled, and no test without it.
func TestSupervise(t *testing.T) {
	records := os.Getenv("LLCUDA_TEST_RECORDS")
	if records == "" {
		return
	}
	s := server(t, "")
	s.Records = records
	t.Log(s.Run(t.Context(), func(e Event) {
		if _, ok := e.(Ready); ok {
			fmt.Println("ready")
		}
	}))
}

// A server that was left is ended by its record, and nothing else is: no other process that has its number now, none of a
// supervisor that lives, and none of another boot.
func TestClearAway(t *testing.T) {
	here := record{}
	here.Boot, here.Namespace = place()
	gone := identity{1<<22 + 1, "1"} // above the kernel's largest number
	me, _ := identify(os.Getpid())
	for name, test := range map[string]struct {
		edit         func(r *record)
		killed, left bool
	}{
		"left":                     {func(*record) {}, true, false},
		"of another process":       {func(r *record) { r.Server.Born += "1" }, false, false},
		"of a supervisor that is":  {func(r *record) { r.Supervisor = me }, false, true},
		"of a number used again":   {func(r *record) { r.Supervisor = identity{me.PID, me.Born + "1"} }, true, false},
		"of another boot":          {func(r *record) { r.Boot = "x" }, false, true},
		"of another PID namespace": {func(r *record) { r.Namespace = "pid:[1]" }, false, true},
		"of everybody":             {func(r *record) { r.Server.PID = 1 }, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			cmd := exec.Command("sleep", "600")
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() { _ = cmd.Wait(); close(ended) }()
			r := here
			r.Supervisor = gone
			r.Server, _ = identify(cmd.Process.Pid)
			test.edit(&r)
			path := filepath.Join(dir, "1.json")
			if err := write(path, r); err != nil {
				t.Fatal(err)
			}
			clearAway(dir)
			if test.killed {
				<-ended
			} else if !alive(cmd.Process.Pid) {
				t.Error("killed")
			}
			_ = cmd.Process.Kill()
			<-ended
			if _, err := os.Stat(path); (err == nil) != test.left {
				t.Errorf("the record: %v", err)
			}
		})
	}
}
