package farm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

func TestRun(t *testing.T) {
	faults := func(pairs ...any) map[string]func(context.Context) error {
		m := map[string]func(context.Context) error{}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i].(string)] = pairs[i+1].(func(context.Context) error)
		}
		return m
	}
	tests := []struct {
		name     string
		builders []*fakeBuilder
		known    map[string][]manifests.Artifact
		want     map[string]string
		ran      [][]string // by builder
	}{
		{
			name:     "what is there already is not run",
			builders: []*fakeBuilder{{name: "a"}},
			known:    map[string][]manifests.Artifact{"sm75": {{Name: "75"}}, "runtime-cu12": {{Name: "runtime-cu12"}}},
			want:     map[string]string{"host": "ok", "runtime-cu12": "ok", "sm75": "ok", "sm86": "ok", "sm89": "ok"},
			ran:      [][]string{{"host", "sm86", "sm89"}},
		},
		{
			name:     "without a device step there is no host step",
			builders: []*fakeBuilder{{name: "a"}},
			known:    map[string][]manifests.Artifact{"sm75": {{Name: "75"}}, "sm86": {{Name: "86"}}, "sm89": {{Name: "89"}}},
			want:     map[string]string{"host": "ok", "runtime-cu12": "ok", "sm75": "ok", "sm86": "ok", "sm89": "ok"},
			ran:      [][]string{{"runtime-cu12"}},
		},
		{
			name:     "one engine does all in order",
			builders: []*fakeBuilder{{name: "a"}},
			want:     map[string]string{"host": "ok", "runtime-cu12": "ok", "sm75": "ok", "sm86": "ok", "sm89": "ok"},
			ran:      [][]string{{"host", "runtime-cu12", "sm75", "sm86", "sm89"}},
		},
		{
			name:     "a failing SM stops nothing else",
			builders: []*fakeBuilder{{name: "a", faults: faults("sm75", fails)}},
			want:     map[string]string{"host": "ok", "runtime-cu12": "ok", "sm75": "failed", "sm86": "ok", "sm89": "ok"},
			ran:      [][]string{{"host", "runtime-cu12", "sm75", "sm86", "sm89"}},
		},
		{
			name:     "a failing host step stops everything",
			builders: []*fakeBuilder{{name: "a", faults: faults("host", fails)}},
			want:     map[string]string{"host": "failed", "runtime-cu12": "host failed", "sm75": "host failed", "sm86": "host failed", "sm89": "host failed"},
			ran:      [][]string{{"host"}},
		},
		{
			name:     "a host step that fails late cancels what runs beside it",
			builders: []*fakeBuilder{{name: "a", faults: faults("host", func(ctx context.Context) error { time.Sleep(time.Second); return fails(ctx) })}, {name: "b"}},
			want:     map[string]string{"host": "failed", "runtime-cu12": "host failed", "sm75": "host failed", "sm86": "host failed", "sm89": "host failed"},
			ran:      [][]string{{"host"}, {"runtime-cu12"}},
		},
		{
			name:     "a lost engine's step goes to another, first of all",
			builders: []*fakeBuilder{{name: "a", faults: faults("host", losesEngine)}, {name: "b"}},
			want:     map[string]string{"host": "ok", "runtime-cu12": "ok", "sm75": "ok", "sm86": "ok", "sm89": "ok"},
			ran:      [][]string{{"host"}, {"runtime-cu12", "host", "sm75", "sm86", "sm89"}},
		},
		{
			name:     "the last engine lost leaves what was finished",
			builders: []*fakeBuilder{{name: "a", faults: faults("sm86", losesEngine)}},
			want:     map[string]string{"host": "ok", "runtime-cu12": "ok", "sm75": "ok", "sm86": "no engine", "sm89": "no engine"},
			ran:      [][]string{{"host", "runtime-cu12", "sm75", "sm86"}},
		},
		{
			name: "a step that costs two engines gets no third",
			// The third engine is busy with the host half until the two others met sm75.
			builders: []*fakeBuilder{
				{name: "c", extra: map[string]time.Duration{"host": time.Minute}},
				{name: "a", faults: faults("sm75", losesEngine)},
				{name: "b", faults: faults("sm75", losesEngine)},
			},
			want: map[string]string{"host": "ok", "runtime-cu12": "ok", "sm75": "kills engines", "sm86": "ok", "sm89": "ok"},
			ran:  [][]string{{"host", "sm86", "sm89"}, {"runtime-cu12", "sm75"}, {"sm75"}},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHarness(t)
				var builders []Builder
				for _, b := range test.builders {
					builders = append(builders, b)
				}
				h.opts.Known = test.known
				out, err := Run(t.Context(), jobsFor(75, 86, 89), builders, h.opts)
				got := verdicts(out)
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("verdicts (-want +got):\n%s\nerror: %v", diff, err)
				}
				for i, want := range test.ran {
					if diff := cmp.Diff(want, test.builders[i].ran); diff != "" {
						t.Errorf("steps of %s (-want +got):\n%s", test.builders[i].name, diff)
					}
				}
				failed := slices.ContainsFunc(out.All(), func(r Result) bool { return r.Err != nil })
				if failed != (err != nil) {
					t.Errorf("Run's error is %v", err)
				}
				if h.maxParallel > 1 {
					t.Errorf("%d trees were collected at once", h.maxParallel)
				}
				for _, r := range out.Bundles {
					if known := test.known[r.Step]; known != nil {
						if diff := cmp.Diff(known, r.Artifacts); diff != "" || !r.Stats.Cached {
							t.Errorf("%s, which is known: cached is %v, artifacts (-want +got):\n%s", r.Step, r.Stats.Cached, diff)
						}
						continue
					}
					if collected := slices.Contains(h.collected, "llcuda-bins-"+r.Step); collected != (r.Err == nil) || collected != (len(r.Artifacts) == 1) {
						t.Errorf("%s: collected is %v, artifacts are %v, error is %v", r.Step, collected, r.Artifacts, r.Err)
					}
				}
			})
		})
	}
}

// Two engines halve the time, and the runtime step and SMs start while the host
// half is still compiling.
func TestRunSpreads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		a, b := &fakeBuilder{name: "a"}, &fakeBuilder{name: "b"}
		begin := time.Now()
		out, err := Run(t.Context(), jobsFor(50, 60, 61, 70, 75, 80), []Builder{a, b}, h.opts)
		if err != nil {
			t.Fatal(err)
		}
		// Eight steps of a minute on two engines, then the last two trees.
		if took := time.Since(begin); took != 4*time.Minute+20*time.Second {
			t.Errorf("took %v", took)
		}
		if len(a.ran) != 4 || len(b.ran) != 4 {
			t.Errorf("steps: %v and %v", a.ran, b.ran)
		}
		for i, want := range []string{"sm50", "sm60", "sm61", "sm70", "sm75", "sm80"} {
			if out.Bundles[i].Step != want {
				t.Errorf("result %d is of %s, want %s", i, out.Bundles[i].Step, want)
			}
		}
	})
}

func TestRunCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(150*time.Second, cancel)
		out, err := Run(ctx, jobsFor(75, 86), []Builder{&fakeBuilder{name: "a"}}, h.opts)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error is %v", err)
		}
		want := map[string]string{"host": "ok", "runtime-cu12": "ok", "sm75": "cancelled", "sm86": "cancelled"}
		if diff := cmp.Diff(want, verdicts(out)); diff != "" {
			t.Errorf("verdicts (-want +got):\n%s", diff)
		}
	})
}

func TestRunTreeAndLog(t *testing.T) {
	h := newHarness(t)
	synctest.Test(t, func(t *testing.T) {
		var got []string
		h.opts.Collect = func(_ context.Context, tree Tree) ([]manifests.Artifact, error) {
			if tree.Stats.Compiled != 3 {
				t.Errorf("stats are %+v", tree.Stats)
			}
			return nil, filepath.WalkDir(tree.Dir, func(name string, d os.DirEntry, err error) error {
				if err == nil && !d.IsDir() {
					rel, _ := filepath.Rel(tree.Dir, name)
					if target, err := os.Readlink(name); err == nil {
						rel += " → " + target
					}
					got = append(got, rel)
				}
				return err
			})
		}
		flaky := &fakeBuilder{name: "flaky", faults: map[string]func(context.Context) error{"sm75": losesEngine}}
		var states []string
		h.opts.Events = func(e Event) {
			if e.State == StateLost {
				states = append(states, e.Engine+" "+e.Step+" "+e.Line)
			}
		}
		h.opts.CollectRuntime = nil
		jobs := jobsFor(75)
		jobs[0].Target.Toolkit = "cuda13"
		out, err := Run(t.Context(), jobs, []Builder{&fakeBuilder{name: "good"}, flaky}, h.opts)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{
			"LICENSE",
			"THIRD_PARTY_LICENSES.txt",
			"binaries/cuda13/libggml-cpu-x64.so → ../../lib/libggml-cpu-x64.so",
			"binaries/cuda13/libggml-cuda.so → ../../lib/libggml-cuda.so",
			"binaries/cuda13/llama-cli",
			"lib/libggml-base.so → libggml-base.so.0",
			"lib/libggml-base.so.0",
			"lib/libggml-cpu-x64.so",
			"lib/libggml-cuda.so",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("tree (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"flaky sm75 reading the socket: engine lost"}, states); diff != "" {
			t.Errorf("lost engines (-want +got):\n%s", diff)
		}
		text, err := os.ReadFile(out.Bundles[0].Log)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"=== sm75 on flaky\n", "--- compile: start\nsm75 line 0\nsm75 line 1\n", "=== reading the socket: engine lost\n=== sm75 on good\n", "sm75 line 29\n--- compile: done\n=== done\n"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("the log lacks %q:\n%s", want, text)
			}
		}
	})
}

func TestRunFailureCarriesLastLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		bare := func(context.Context) error { return errors.New("exporting lib: disk full") }
		b := &fakeBuilder{name: "a", faults: map[string]func(context.Context) error{"sm75": fails, "sm86": bare}}
		out, _ := Run(t.Context(), jobsFor(75, 86), []Builder{b}, h.opts)
		if diff := cmp.Diff([]string{"error: no such kernel"}, out.Bundles[0].Tail); diff != "" {
			t.Errorf("tail of sm75 (-want +got):\n%s", diff)
		}
		if tail := out.Bundles[1].Tail; len(tail) != tailLines || tail[tailLines-1] != "sm86 line 29" {
			t.Errorf("tail of sm86 is %q", tail)
		}
	})
}

func TestRunRefuses(t *testing.T) {
	collect := func(context.Context, Tree) ([]manifests.Artifact, error) { return nil, nil }
	good := RunOptions{WorkDir: t.TempDir(), Collect: collect}
	mixed := jobsFor(75, 86)
	mixed[1].Source.Digest = "sha256:2"
	tests := []struct {
		name     string
		jobs     []Job
		builders []Builder
		opts     RunOptions
		want     string
	}{
		{"no jobs", nil, []Builder{&fakeBuilder{}}, good, "no jobs"},
		{"no engine", jobsFor(75), nil, good, "no engine"},
		{"no collect", jobsFor(75), []Builder{&fakeBuilder{}}, RunOptions{WorkDir: "x"}, "required"},
		{"twice the same SM", jobsFor(75, 75), []Builder{&fakeBuilder{}}, good, "two jobs for sm75"},
		{"two sources", mixed, []Builder{&fakeBuilder{}}, good, "another source"},
		{"one engine twice", jobsFor(75), []Builder{&fakeBuilder{name: "a"}, &fakeBuilder{name: "a"}}, good, "two engines named a"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Run(t.Context(), test.jobs, test.builders, test.opts)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want one with %q", err, test.want)
			}
		})
	}
}

// Each toolkit's runtimes are made once, whichever SMs of theirs are built, and the host half by the first toolkit.
func TestRuntimeSteps(t *testing.T) {
	first := matrix.Toolkit{Name: "cuda12", StaticLibraries: true}
	second := matrix.Toolkit{Name: "cuda13"}
	var targets []matrix.Target
	for sm, toolkit := range map[matrix.SM]string{70: "cuda12", 75: "cuda12", 90: "cuda12", 100: "cuda13", 120: "cuda13"} {
		targets = append(targets, matrix.Target{SM: sm, Toolkit: toolkit})
	}
	slices.SortFunc(targets, func(a, b matrix.Target) int { return int(a.SM - b.SM) })
	recipes := []Recipe{{Toolkit: first, Host: first}, {Toolkit: second, Host: first}}
	jobs, err := Plan(targets, Source{}, recipes)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, step := range RuntimeSteps(jobs) {
		got = append(got, step.Name()+" in "+step.Toolkit().Name)
	}
	for _, job := range jobs {
		host, device := Step{Kind: StepHost, Recipe: job.Recipe}, Step{Kind: StepDevice, Target: job.Target, Recipe: job.Recipe}
		got = append(got, host.Name()+" in "+host.Toolkit().Name+", "+device.Name()+" in "+device.Toolkit().Name)
	}
	want := []string{
		"runtime-cu12-sm7x in cuda12", "runtime-cu12-sm9x in cuda12", "runtime-cu13 in cuda13",
		"host in cuda12, sm70 in cuda12", "host in cuda12, sm75 in cuda12", "host in cuda12, sm90 in cuda12", "host in cuda12, sm100 in cuda13", "host in cuda12, sm120 in cuda13",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := Plan(targets, Source{}, recipes[:1]); err == nil || err.Error() != "planning sm100: no recipe for the toolkit cuda13" {
		t.Errorf("a toolkit without a recipe: %v", err)
	}
}

func TestAssembleRefusesTheSameFileInBothHalves(t *testing.T) {
	dir := t.TempDir()
	for _, half := range []string{"host", "device"} {
		file := filepath.Join(dir, half, "lib/libggml-cuda.so")
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, nil, 0o644), os.WriteFile(filepath.Join(dir, half, noticeFile), nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	err := assemble(filepath.Join(dir, "tree"), filepath.Join(dir, "host"), filepath.Join(dir, "device"), "cuda12")
	if !errors.Is(err, os.ErrExist) {
		t.Errorf("error is %v", err)
	}
}
