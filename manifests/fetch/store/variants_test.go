package store

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
	"github.com/waqasm86/llcuda-farm/manifests/variants"
)

// links are the CPU variants that the programs of a bundle find.
func links(t *testing.T, bundle string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(launch.ProgramsDir(bundle), "libggml-cpu-*.so"))
	if err != nil {
		t.Fatal(err)
	}
	for i, link := range found {
		found[i] = strings.TrimSuffix(strings.TrimPrefix(filepath.Base(link), "libggml-cpu-"), ".so")
	}
	return found
}

// A variant that fails is left out, until one works.
func TestTryVariants(t *testing.T) {
	const limit = 2 * time.Second // of a hang; the others take milliseconds
	for _, test := range []struct {
		name     string
		variants map[string]string
		left     []string // the programs' variants afterward
		problems map[string]string
		fails    string
	}{
		{"all work", map[string]string{"x64": "1 true", "haswell": "9 true"}, []string{"haswell", "x64"}, nil, ""},
		{"the best is not that of the last name", map[string]string{"x64": "1 true", "alderlake": "9 kill -ILL $$"}, []string{"x64"},
			map[string]string{"alderlake": "it was killed by SIGILL (illegal instruction)"}, ""},
		{"several fail", map[string]string{"x64": "1 true", "haswell": "4 true", "zen4": "7 kill -SEGV $$", "icelake": "8 kill -ABRT $$", "sapphirerapids": "9 exit 3"},
			[]string{"haswell", "x64"}, map[string]string{
				"zen4":           "it was killed by SIGSEGV (segmentation fault)",
				"icelake":        "it was killed by SIGABRT (aborted)",
				"sapphirerapids": "it ended with exit code 3",
			}, ""},
		{"one hangs", map[string]string{"x64": "1 true", "haswell": "9 sleep 600"}, []string{"x64"},
			map[string]string{"haswell": "it did not end within 2s"}, ""},
		{"one dies while it is loaded", map[string]string{"x64": "1 true", "haswell": "5 true", "zen4": "9 early", "cooperlake": "0 true"},
			[]string{"cooperlake", "haswell", "x64"}, map[string]string{"zen4": "it was killed by SIGSEGV (segmentation fault)"}, ""},
		{"what the CPU lacks is not tried", map[string]string{"x64": "1 true", "zen4": "0 kill -ILL $$"}, []string{"x64", "zen4"}, nil, ""},
		{"none works", map[string]string{"x64": "1 exit 7", "haswell": "9 kill -ILL $$"}, []string{"haswell", "x64"}, nil,
			"it ended with exit code 7, and so on every CPU variant"},
		{"none fits", map[string]string{"x64": "0 true"}, []string{"x64"}, nil, "it ended with exit code 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, r := open(t), fetchtest.New(t, fetchtest.Options{CPU: test.variants})
			i := Install{Folder: l.Relative(adopt(t, l, r, zst75))}
			got, err := l.tryVariants(t.Context(), i, limit)
			var failed *ProbeError
			switch {
			case test.fails == "" && err != nil:
				t.Fatal(err)
			case test.fails != "" && (!errors.As(err, &failed) || !strings.Contains(err.Error(), test.fails)):
				t.Fatalf("the error is %v, want %s", err, test.fails)
			}
			var problems map[string]string
			for _, out := range got {
				if out.CPU != variants.CPU() {
					t.Errorf("%s is left out on %q", out.Variant, out.CPU)
				}
				if problems == nil {
					problems = map[string]string{}
				}
				problems[out.Variant] = out.Problem
			}
			if diff := cmp.Diff(test.problems, problems); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(test.left, links(t, l.Dir(i))); diff != "" {
				t.Errorf("the programs find other variants (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(got, l.LeftOut(i)); diff != "" {
				t.Errorf("the record differs:\n%s", diff)
			}
			if findings, err := l.Verify(t.Context(), r.Asset(t, zst75), names); err != nil || len(findings) > 0 {
				t.Errorf("verify: %v %v", findings, err)
			}
			if rest := tree(t, l.path(stagingDir)); len(rest) > 0 {
				t.Errorf("left behind: %q", rest)
			}
		})
	}
}

// A record excuses nothing but the links it names, and goes when its reason is gone; what another
// kind of CPU cannot run stays left out.
func TestLeftOutRecord(t *testing.T) {
	l, r := open(t), fetchtest.New(t, fetchtest.Options{CPU: map[string]string{"x64": "1 true", "haswell": "5 true", "zen4": "9 true"}})
	i := Install{Folder: l.Relative(adopt(t, l, r, zst75))}
	record := func(list ...LeftOut) {
		t.Helper()
		data, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(l.Dir(i), leftOutName), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(name string) {
		t.Helper()
		if err := os.Remove(filepath.Join(l.Dir(i), name)); err != nil {
			t.Fatal(err)
		}
	}
	findings := func(want ...string) {
		t.Helper()
		found, err := l.Verify(t.Context(), r.Asset(t, zst75), names)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range found {
			got = append(got, f.Path)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("verify (-want +got):\n%s", diff)
		}
	}
	const programs = "binaries/cuda12/"
	here, elsewhere := LeftOut{"zen4", variants.CPU(), "it crashed"}, LeftOut{"haswell", "another CPU", "it crashed"}

	remove(programs + "libggml-cpu-zen4.so")
	findings(programs + "libggml-cpu-zen4.so")
	record(here)
	findings()
	remove(programs + "libggml-cpu-haswell.so")
	findings(programs + "libggml-cpu-haswell.so")
	record(here, elsewhere)
	findings()
	remove(programs + "libggml-cuda.so")
	findings(programs + "libggml-cuda.so")
	if err := os.Symlink("../../lib/libggml-cuda.so", filepath.Join(l.Dir(i), programs, "libggml-cuda.so")); err != nil {
		t.Fatal(err)
	}

	if out, err := l.TryVariants(t.Context(), i); err != nil || out != nil {
		t.Fatalf("%v %v", out, err)
	}
	if diff := cmp.Diff([]string{"x64", "zen4"}, links(t, l.Dir(i))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]LeftOut{elsewhere}, l.LeftOut(i)); diff != "" {
		t.Error(diff)
	}
	findings()
}
