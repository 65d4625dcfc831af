package farm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// fakeBuilder is an engine whose steps take a minute of the test's own time.
// faults says what happens to a step instead of success.
type fakeBuilder struct {
	name   string
	faults map[string]func(ctx context.Context) error
	extra  map[string]time.Duration // on top of the minute
	mu     sync.Mutex
	ran    []string
}

func (b *fakeBuilder) Name() string { return b.name }

func (b *fakeBuilder) Build(ctx context.Context, step Step, dest string, events func(Event)) (StepStats, error) {
	name := step.Name()
	b.mu.Lock()
	b.ran = append(b.ran, name)
	b.mu.Unlock()
	events(Event{Stage: "compile", State: StateStart})
	events(Event{Stage: "compile", State: StateProgress, Done: 0, Total: 30}) // a count without a line
	for i := range 30 {
		e := Event{Stage: "compile", State: StateLine, Line: fmt.Sprintf("%s line %d", name, i)}
		if i%2 == 1 { // as ninja's lines come
			e.State, e.Done, e.Total = StateProgress, i+1, 30
		}
		events(e)
	}
	if fault := b.faults[name]; fault != nil {
		return StepStats{}, fault(ctx)
	}
	select {
	case <-ctx.Done():
		return StepStats{}, ctx.Err()
	case <-time.After(time.Minute + b.extra[name]):
	}
	files := map[StepKind][]string{
		StepHost:    {"binaries/llama-cli", "lib/libggml-base.so.0", "lib/libggml-cpu-x64.so", "LICENSE", "THIRD_PARTY_LICENSES.txt"},
		StepDevice:  {"lib/libggml-cuda.so", "THIRD_PARTY_LICENSES.txt"},
		StepRuntime: {"lib/libcudart.so.12", "LICENSE"},
	}[step.Kind]
	for _, file := range files {
		file = filepath.Join(dest, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(name), 0o755)); err != nil {
			return StepStats{}, err
		}
	}
	if step.Kind == StepHost {
		if err := os.Symlink("libggml-base.so.0", filepath.Join(dest, "lib/libggml-base.so")); err != nil {
			return StepStats{}, err
		}
	}
	events(Event{Stage: "compile", State: StateDone})
	return StepStats{Wall: time.Minute, Compiled: 3}, nil
}

func fails(ctx context.Context) error {
	return &StepError{Step: "a step", Stage: "compile", ExitCode: 2, Tail: []string{"error: no such kernel"}}
}

func losesEngine(ctx context.Context) error {
	return fmt.Errorf("reading the socket: %w", ErrEngineLost)
}

func jobsFor(sms ...matrix.SM) []Job {
	var targets []matrix.Target
	for _, sm := range sms {
		targets = append(targets, matrix.Target{SM: sm, Toolkit: "cuda12"})
	}
	jobs, err := Plan(targets, Source{Digest: "sha256:1"}, []Recipe{{Toolkit: matrix.Toolkit{Name: "cuda12"}}})
	if err != nil {
		panic(err)
	}
	return jobs
}

// harness runs jobs on builders and remembers what was collected.
type harness struct {
	collected   []string
	collecting  int
	maxParallel int
	mu          sync.Mutex
	opts        RunOptions
}

func newHarness(t *testing.T) *harness {
	h := &harness{}
	enter := func(name string) ([]manifests.Artifact, error) {
		h.mu.Lock()
		h.collecting++
		h.maxParallel = max(h.maxParallel, h.collecting)
		h.mu.Unlock()
		time.Sleep(10 * time.Second)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.collecting--
		h.collected = append(h.collected, name)
		return []manifests.Artifact{{Name: name + ".tar.gz"}}, nil
	}
	h.opts = RunOptions{
		WorkDir: t.TempDir(),
		LogDir:  t.TempDir(),
		Collect: func(_ context.Context, tree Tree) ([]manifests.Artifact, error) {
			return enter(manifests.BundleName(tree.Job.Target.Row()))
		},
		CollectRuntime: func(_ context.Context, step Step, dir string) ([]manifests.Artifact, error) {
			return enter(step.Name())
		},
	}
	return h
}

// verdicts is how each step ended, in few words.
func verdicts(o Outcome) map[string]string {
	got := map[string]string{}
	for _, r := range o.All() {
		switch {
		case r.Err == nil:
			got[r.Step] = "ok"
		case errors.Is(r.Err, ErrEngineLost):
			got[r.Step] = "no engine"
		case errors.Is(r.Err, context.Canceled):
			got[r.Step] = "cancelled"
		default:
			got[r.Step] = "failed"
		}
		var host *HostError
		if errors.As(r.Err, &host) {
			got[r.Step] = "host failed"
		}
		var killer *EngineKillerError
		if errors.As(r.Err, &killer) {
			got[r.Step] = "kills engines"
		}
	}
	return got
}
