package engine

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"dagger.io/dagger"
	"dagger.io/dagger/engineconn"
	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
)

// answering is a connection to an engine that answers every call with one error.
type answering struct {
	engineconn.EngineConn
	message    string
	extensions map[string]any
}

func (a answering) Do(*http.Request) (*http.Response, error) {
	answer := httptest.NewRecorder()
	answer.Header().Set("Content-Type", "application/json")
	err := json.NewEncoder(answer).Encode(map[string]any{"errors": []any{map[string]any{"message": a.message, "extensions": a.extensions}}})
	return answer.Result(), err
}

func (a answering) Host() string { return "test" }
func (a answering) Close() error { return nil }

// Only a command that exited with an exit code is a failed step; any other error of the engine is shown unchanged.
func TestStageError(t *testing.T) {
	const older = "[3/3] a line of an older stage"
	for _, test := range []struct {
		name       string
		message    string
		extensions map[string]any
		code       int // of a *farm.StepError
		tail       string
	}{
		{"a command", "exit code: 2", map[string]any{"_type": "EXEC_ERROR", "exitCode": 2, "cmd": []any{"sh"}, "stderr": "no such file\n"}, 2, "no such file"},
		{"a command without output", "exit code: 137", map[string]any{"_type": "EXEC_ERROR", "exitCode": 137, "cmd": []any{"sh"}}, 137, older},
		{"no exit code", "mounting /ccache: input/output error", map[string]any{"_type": "EXEC_ERROR", "exitCode": -1, "cmd": []any{"sh"}}, 0, ""},
		{"a clean-up", "failed to delete the container", map[string]any{"_type": "EXEC_ERROR", "exitCode": 0, "cmd": []any{"sh"}}, 0, ""},
		{"no command", "failed to solve: lease not found", nil, 0, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, err := dagger.Connect(context.Background(), dagger.WithConn(answering{message: test.message, extensions: test.extensions}))
			if err != nil {
				t.Fatal(err)
			}
			_, err = client.Container().Sync(context.Background())
			got := stageError("sm75", "compile", err, []string{older})
			var failed *farm.StepError
			switch {
			case test.code == 0:
				if errors.As(got, &failed) || !strings.Contains(got.Error(), test.message) {
					t.Errorf("got %v (%T), want the engine's own %q", got, got, test.message)
				}
			case !errors.As(got, &failed) || failed.ExitCode != test.code || strings.Join(failed.Tail, "\n") != test.tail:
				t.Errorf("got %#v, want exit code %d, tail %q", got, test.code, test.tail)
			}
		})
	}
}

func TestFullDisk(t *testing.T) {
	full := t.TempDir()
	if err := unix.Mount("tmpfs", full, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("the test mounts a small file system, which takes root: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(full, 0) })
	roomy := t.TempDir()
	for _, test := range []struct {
		name, says string
		dirs       []string
		want       string // empty if the error is unchanged
	}{
		{"here", "write /var/lib/dagger/x: no space left on device", []string{roomy, full}, "the disk of " + full + " is full"},
		{"elsewhere", "failed to copy: no space left on device", []string{roomy}, "the disk of the engine is full"},
		{"a quota", "write x: disk quota exceeded", []string{roomy, ""}, "the disk of the engine is full"},
		{"an export", "failed to export: EOF", []string{full}, "the disk of " + full + " is full"},
		{"an export that failed for another reason", "failed to export: EOF", []string{roomy, full + "/none"}, ""},
		{"another error", "connection refused", []string{full}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := errors.New(test.says)
			got := fullDisk(err, test.dirs...)
			if test.want == "" {
				if got != err {
					t.Errorf("got %v", got)
				}
				return
			}
			if !errors.Is(got, unix.ENOSPC) || !strings.HasPrefix(got.Error(), test.want) || !strings.Contains(got.Error(), test.says) {
				t.Errorf("got %v, want %s", got, test.want)
			}
		})
	}
}
