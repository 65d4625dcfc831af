package store

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
)

func TestTryPrograms(t *testing.T) {
	for name, test := range map[string]struct {
		script  string
		gpu     bool
		want    Probe
		problem string
	}{
		"good, no GPU asked": {"echo 'version: 0.5.0 (de3ff81)'", false, Probe{Version: "0.5.0 (de3ff81)"}, ""},
		"good": {"case $1 in --version) echo 'version: 1' >&2;; *) echo '  CUDA0: Tesla T4 (1 MiB, 1 MiB free)';; esac", true,
			Probe{Version: "1", Devices: []string{"CUDA0: Tesla T4 (1 MiB, 1 MiB free)"}}, ""},
		"exit code 0 and no GPU": {"echo 'Available devices:'; echo '  (none)'", true, Probe{}, "it sees no GPU"},
		"does not start":         {"echo 'libfoo.so.1: cannot open shared object file' >&2; exit 127", false, Probe{}, "exit status 127\nlibfoo.so.1"},
		"crashes":                {"kill -SEGV $$", false, Probe{}, "signal: segmentation fault"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.MkdirAll(filepath.Join(dir, "binaries", "cuda12"), 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "binaries", "cuda12", "llama-server"), []byte("#!/bin/sh\n"+test.script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			got, err := TryPrograms(t.Context(), launch.Installation{Bundle: dir}, test.gpu)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			var failed *ProbeError
			if (test.problem == "") != (err == nil) || err != nil && (!errors.As(err, &failed) || !strings.Contains(err.Error(), test.problem)) {
				t.Errorf("%v, want %q", err, test.problem)
			}
		})
	}
}
