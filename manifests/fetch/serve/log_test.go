package serve

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// However much a server prints, it is not kept waiting, and the log has it all; not even where the disk is full.
func TestMuchLog(t *testing.T) {
	t.Parallel()
	s := server(t, "talks")
	s.Log = filepath.Join(t.TempDir(), "log")
	events, err := run(t, s, stopWhenReady)
	if err != nil {
		t.Error(err)
	}
	exit, _ := last[Exit](events)
	if len(exit.Tail) != tailLines || exit.Log != s.Log {
		t.Errorf("%d lines, of %s", len(exit.Tail), exit.Log)
	}
	text, err := os.ReadFile(s.Log)
	if lines := strings.Count(string(text), "\n"); err != nil || lines < 105_002 || len(text) < 10_000_000 {
		t.Errorf("%d lines, %d bytes: %v", lines, len(text), err)
	}

	s = server(t, "talks")
	s.Log = "/dev/full"
	if _, err := run(t, s, stopWhenReady); err != nil {
		t.Error(err)
	}
	s = server(t, "endless")
	events, err = run(t, s, stopWhenReady)
	exit, _ = last[Exit](events)
	if err != nil || len(exit.Tail) == 0 || len(exit.Tail[0]) != maxLine {
		t.Errorf("%d lines: %v", len(exit.Tail), err)
	}
}

// A log that cannot be written is said; one that was asked for is an error before anything is started.
func TestNoLog(t *testing.T) {
	t.Parallel()
	s := server(t, "")
	s.Log = filepath.Join(t.TempDir(), "nowhere", "log")
	if events, err := run(t, s, nil); err == nil || len(events) > 0 {
		t.Errorf("%v: %v", events, err)
	}
	s.Log, s.Logs = "", filepath.Join(t.TempDir(), "nowhere")
	events, err := run(t, s, stopWhenReady)
	if warning, ok := last[Warning](events); err != nil || !ok || !strings.Contains(warning.Message, s.Logs) {
		t.Errorf("%v: %v", events, err)
	}
	if ready, ok := last[Starting](events); !ok || ready.Log != "" {
		t.Errorf("%+v", ready)
	}
}

// The newest logs are kept, and those of servers that run.
func TestPruneLogs(t *testing.T) {
	s := server(t, "")
	old := time.Now().Add(-time.Hour)
	var inUse string
	for i := range 14 {
		path := filepath.Join(s.Logs, fmt.Sprintf("server-%d.log", i+1))
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, old, old.Add(time.Duration(i)*time.Second))); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			inUse = path
		}
	}
	mine := filepath.Join(s.Logs, "notes.txt")
	if err := errors.Join(os.WriteFile(mine, nil, 0o600), os.Chtimes(mine, old, old), keep(s.Records, os.Getpid(), inUse)); err != nil {
		t.Fatal(err)
	}
	out, err := s.output(func(e Event) { t.Error(e) })
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	want := []string{"notes.txt", "server-1.log", filepath.Base(out.Path())}
	for i := 6; i <= 14; i++ {
		want = append(want, fmt.Sprintf("server-%d.log", i))
	}
	slices.Sort(want)
	entries, _ := os.ReadDir(s.Logs)
	var got []string
	for _, entry := range entries {
		got = append(got, entry.Name())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
