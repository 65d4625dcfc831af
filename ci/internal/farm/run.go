package farm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// maxEnginesPerStep is how many engines one step may lose before the step itself
// is held to be the cause. It keeps one bad step from taking the farm down.
const maxEnginesPerStep = 2

// RunOptions are Run's settings. WorkDir and Collect, or CollectPart, are required.
type RunOptions struct {
	WorkDir string // for halves and trees; the caller removes it
	LogDir  string // for one full log a step, NAME.log; none are kept if empty

	// Collect audits and packs a finished tree. One call runs at a time, in
	// parallel with the compile steps.
	Collect func(context.Context, Tree) ([]manifests.Artifact, error)
	// CollectRuntime does the same for a runtime step's folder. Without it
	// no runtime step runs.
	CollectRuntime func(ctx context.Context, step Step, dir string) ([]manifests.Artifact, error)
	// CollectPart, if not nil, gets the folder of every step as it is, and the others nothing: no
	// tree is put together.
	CollectPart func(ctx context.Context, step Step, dir string, stats StepStats) ([]manifests.Artifact, error)
	// Only are the names of the steps to run where CollectPart takes them.
	Only []string
	// Known are the archives, by the name of a device or runtime step, that the step would end in,
	// where they are there already. Such a step is not run, and the host step only for others.
	Known map[string][]manifests.Artifact

	// Events gets what the builders say, one event at a time.
	Events func(Event)
}

// Result is how one step ended.
type Result struct {
	Step      string // "host", "sm75", "runtime-cu12-sm7x"
	Engine    string // the engine that ran it last; empty if it never ran
	Stats     StepStats
	Artifacts []manifests.Artifact
	Err       error
	Tail      []string // the last lines of a failed step
	Log       string   // path of the full log
}

// Outcome is how a run ended. Bundles[i] belongs to the i-th job, Runtimes[i] to the i-th of the
// jobs' runtime steps, if any was requested. Results of steps that were not requested are zero.
type Outcome struct {
	Host     Result
	Runtimes []Result
	Bundles  []Result
}

// All lists the results in the order in which a reader looks for a cause.
func (o Outcome) All() []Result {
	return slices.DeleteFunc(slices.Concat([]Result{o.Host}, o.Runtimes, o.Bundles), func(r Result) bool { return r.Step == "" })
}

// HostError is why no bundle could be finished: the half that they share failed.
type HostError struct{ Err error }

func (e *HostError) Error() string { return "not built, as the host half failed" }
func (e *HostError) Unwrap() error { return e.Err }

// Run builds the jobs, which share one source and the host half of their recipes. The host step
// claims a builder first, then the runtime steps, then the SMs in order; each
// builder has one step at a time. A failed SM stops nothing else; a failed host
// step stops everything, unless the steps become parts. A builder that loses its engine is retired and its step
// goes to the next free one, ahead of the others, until the step has cost
// maxEnginesPerStep engines.
//
// The error joins those of all results. It wraps ErrEngineLost if no engine was
// left for some step, and ctx's error if ctx ended. The Outcome is complete in
// either case, with what was finished until then, and no step is still running.
func Run(ctx context.Context, jobs []Job, builders []Builder, opts RunOptions) (Outcome, error) {
	if err := checkRun(jobs, builders, opts); err != nil {
		return Outcome{}, err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	r := newRun(jobs, builders, opts)
	for r.assign(ctx); r.running > 0 || r.collecting; r.assign(ctx) {
		select {
		case ended := <-r.ended:
			r.endStep(ctx, stop, ended)
		case collected := <-r.collected:
			r.collecting = false
			result := r.result(collected.task)
			result.Artifacts, result.Err = collected.artifacts, collected.err
		}
	}
	return r.finish(ctx)
}

func checkRun(jobs []Job, builders []Builder, opts RunOptions) error {
	switch {
	case len(jobs) == 0:
		return errors.New("running the farm: no jobs")
	case len(builders) == 0:
		return fmt.Errorf("running the farm: no engine: %w", ErrEngineLost)
	case opts.WorkDir == "" || opts.Collect == nil && opts.CollectPart == nil:
		return errors.New("running the farm: a work folder and Collect are required")
	}
	steps, engines := map[string]bool{}, map[string]bool{}
	for _, job := range jobs {
		name := job.Target.Row().String()
		if steps[name] {
			return fmt.Errorf("running the farm: two jobs for %s", name)
		}
		steps[name] = true
		if job.Source.Digest != jobs[0].Source.Digest || !slices.Equal(job.Source.Patches, jobs[0].Source.Patches) {
			return fmt.Errorf("running the farm: %s has another source than %s", name, jobs[0].Target.Row())
		}
	}
	for _, builder := range builders {
		if engines[builder.Name()] {
			return fmt.Errorf("running the farm: two engines named %s", builder.Name())
		}
		engines[builder.Name()] = true
	}
	return nil
}

// task is a step on its way through a run.
type task struct {
	step  Step
	index int // of the job or the runtime step; 0 for the host step
	lost  []string
}

type stepEnd struct {
	task    *task
	builder Builder
	dir     string
	stats   StepStats
	tail    []string
	err     error
}

type collectEnd struct {
	task      *task
	artifacts []manifests.Artifact
	err       error
}

// run is the state of one Run. Only Run's own goroutine touches it.
type run struct {
	jobs    []Job
	opts    RunOptions
	events  *eventSink
	pending []*task
	idle    []Builder

	running    int
	collecting bool
	ended      chan stepEnd
	collected  chan collectEnd

	hostDir string           // once the host step is done
	halves  map[*task]string // finished device and runtime steps that wait to be collected
	waiting []*task          // the same, in the order in which they came
	outcome Outcome
}

func newRun(jobs []Job, builders []Builder, opts RunOptions) *run {
	r := &run{
		jobs: jobs, opts: opts, idle: slices.Clone(builders), events: &eventSink{to: opts.Events},
		ended: make(chan stepEnd), collected: make(chan collectEnd), halves: map[*task]string{},
	}
	// A step whose archives are known is over, and any other waits for a builder.
	begin := func(step Step, index int, known bool) Result {
		if opts.CollectPart != nil && !slices.Contains(opts.Only, step.Name()) {
			return Result{}
		}
		if known {
			return Result{Step: step.Name(), Stats: StepStats{Cached: true}, Artifacts: opts.Known[step.Name()]}
		}
		r.pending = append(r.pending, &task{step: step, index: index})
		return Result{Step: step.Name()}
	}
	isKnown := func(step Step) bool { return opts.Known[step.Name()] != nil }
	devices := make([]Step, len(jobs))
	for i, job := range jobs {
		devices[i] = deviceStep(job)
	}
	r.outcome.Host = begin(hostStep(jobs), 0, !slices.ContainsFunc(devices, func(s Step) bool { return !isKnown(s) }))
	if opts.CollectRuntime != nil || opts.CollectPart != nil {
		for i, step := range RuntimeSteps(jobs) {
			r.outcome.Runtimes = append(r.outcome.Runtimes, begin(step, i, isKnown(step)))
		}
	}
	for i, step := range devices {
		r.outcome.Bundles = append(r.outcome.Bundles, begin(step, i, isKnown(step)))
	}
	return r
}

func (r *run) result(t *task) *Result {
	switch t.step.Kind {
	case StepHost:
		return &r.outcome.Host
	case StepRuntime:
		return &r.outcome.Runtimes[t.index]
	}
	return &r.outcome.Bundles[t.index]
}

// assign assigns a step to every idle builder and a finished tree to the collector.
func (r *run) assign(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	for len(r.idle) > 0 && len(r.pending) > 0 {
		builder, t := r.idle[0], r.pending[0]
		r.idle, r.pending = r.idle[1:], r.pending[1:]
		r.running++
		go func() { r.ended <- r.build(ctx, builder, t) }()
	}
	if r.collecting {
		return
	}
	for i, t := range r.waiting {
		if t.step.Kind == StepDevice && r.hostDir == "" && r.opts.CollectPart == nil {
			continue
		}
		r.waiting = slices.Delete(r.waiting, i, i+1)
		r.collecting = true
		half, host, stats := r.halves[t], r.hostDir, r.result(t).Stats
		go func() { r.collected <- r.collect(ctx, t, host, half, stats) }()
		return
	}
}

// build runs one step on one builder, in a folder of its own.
func (r *run) build(ctx context.Context, builder Builder, t *task) stepEnd {
	end := stepEnd{task: t, builder: builder}
	name := t.step.Name()
	end.dir = filepath.Join(r.opts.WorkDir, "halves", fmt.Sprintf("%s.%d", name, len(t.lost)+1))
	if end.err = os.MkdirAll(end.dir, 0o755); end.err != nil {
		return end
	}
	log, err := openStepLog(r.opts.LogDir, name, builder.Name(), len(t.lost) > 0)
	if err != nil {
		end.err = err
		return end
	}
	sink := r.events.step(builder.Name(), name, log)
	end.stats, end.err = builder.Build(ctx, t.step, end.dir, sink.send)
	if errors.Is(end.err, ErrEngineLost) && ctx.Err() == nil {
		sink.send(Event{State: StateLost, Line: end.err.Error()})
	}
	sink.close()
	end.tail = log.tail()
	if err := log.close(end.err); err != nil {
		end.err = errors.Join(end.err, err)
	}
	if end.err != nil {
		os.RemoveAll(end.dir)
	}
	return end
}

// endStep decides what the end of a step means for the rest.
func (r *run) endStep(ctx context.Context, stop context.CancelCauseFunc, end stepEnd) {
	r.running--
	t, result := end.task, r.result(end.task)
	result.Engine, result.Stats, result.Log = end.builder.Name(), end.stats, logPath(r.opts.LogDir, t.step.Name())
	lost := errors.Is(end.err, ErrEngineLost) && ctx.Err() == nil
	if !lost {
		r.idle = append(r.idle, end.builder)
	}
	switch {
	case end.err == nil:
		if t.step.Kind == StepHost && r.opts.CollectPart == nil {
			r.hostDir = end.dir
			return
		}
		r.halves[t] = end.dir
		r.waiting = append(r.waiting, t)
		return
	case ctx.Err() != nil:
		result.Err = stopped(ctx)
		return
	case lost:
		t.lost = append(t.lost, end.builder.Name())
		if len(t.lost) < maxEnginesPerStep {
			r.pending = slices.Insert(r.pending, 0, t)
			return
		}
		result.Err = &EngineKillerError{Step: t.step.Name(), Engines: t.lost, Err: end.err}
	default:
		result.Err = end.err
	}
	result.Tail = end.tail
	if failed, ok := errors.AsType[*StepError](end.err); ok && len(failed.Tail) > 0 {
		result.Tail = failed.Tail
	}
	if t.step.Kind == StepHost && r.opts.CollectPart == nil {
		stop(&HostError{Err: result.Err})
	}
}

// stopped returns why a run ended early: the host step failed, or the caller canceled it.
func stopped(ctx context.Context) error {
	if host, ok := errors.AsType[*HostError](context.Cause(ctx)); ok {
		return host
	}
	return ctx.Err()
}

// EngineKillerError reports a step that lost so many engines that it gets no more.
type EngineKillerError struct {
	Step    string
	Engines []string
	Err     error
}

func (e *EngineKillerError) Error() string {
	return fmt.Sprintf("building %s: the engines %q were lost while they ran it; it gets no further one", e.Step, e.Engines)
}

// collect makes the tree and hands it over.
func (r *run) collect(ctx context.Context, t *task, host, half string, stats StepStats) collectEnd {
	end := collectEnd{task: t}
	if r.opts.CollectPart != nil {
		end.artifacts, end.err = r.opts.CollectPart(ctx, t.step, half, stats)
		return end
	}
	if t.step.Kind == StepRuntime {
		end.artifacts, end.err = r.opts.CollectRuntime(ctx, t.step, half)
		return end
	}
	job := r.jobs[t.index]
	tree := Tree{Job: job, Dir: filepath.Join(r.opts.WorkDir, manifests.BundleName(job.Target.Row())), Stats: stats}
	if end.err = assemble(tree.Dir, host, half, job.Target.Toolkit); end.err != nil {
		end.err = fmt.Errorf("putting %s together: %w", manifests.BundleName(job.Target.Row()), end.err)
		return end
	}
	end.artifacts, end.err = r.opts.Collect(ctx, tree)
	return end
}

// finish records why each unfinished step did not end.
func (r *run) finish(ctx context.Context) (Outcome, error) {
	unbuilt := func(name string) error { return fmt.Errorf("building %s: no engine left: %w", name, ErrEngineLost) }
	if ctx.Err() != nil {
		unbuilt = func(string) error { return stopped(ctx) }
	}
	for _, t := range append(r.pending, r.waiting...) {
		r.result(t).Err = unbuilt(t.step.Name())
	}
	var errs []error
	for _, result := range r.outcome.All() {
		if result.Err != nil && !slices.ContainsFunc(errs, func(err error) bool { return err == result.Err }) {
			errs = append(errs, result.Err)
		}
	}
	return r.outcome, errors.Join(errs...)
}
