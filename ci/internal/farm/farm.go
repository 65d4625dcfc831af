// Package farm plans and runs the builds of one release: which steps there are,
// in which order they go to which engine, and what comes out of each.
//
// The ci command calls it. In flow a matrix selection, a source tree and a
// recipe; Plan makes them into jobs, ResolveSource finds the tree, and Run
// drives any number of Builders and hands every finished bundle tree to the
// caller's Collect, which audits and packs it. Out flows one Result a step.
//
// A release is three kinds of steps. The host step compiles everything but CUDA
// code, once. A device step compiles the CUDA backend for one SM. A runtime
// step makes one asset of CUDA's own libraries. A bundle's tree is the host half
// and one device half put together. The steps may run on machines that know nothing
// of each other: then each leaves a part (WritePart), and the machine that has
// all of them goes on as if it had run the steps itself (Parts).
//
// The package does not depend on a container engine, never prints, and never looks inside
// the files it moves.
package farm

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// Source is a llama.cpp tree on this machine, and what is known of its origin.
type Source struct {
	Given   string // what the user or the pin asked for
	Commit  string // full commit id; with "-dirty" for a work tree with changes; empty without git
	Version string // as the tree states it: "0.5.0", a tag, or "b1234"
	Build   int    // llama.cpp's build number; 0 if neither the history nor the pin has it
	Dir     string // a folder holding the tree, without .git
	Digest  string // of the tree as it came, before Patches: "sha256:" over sorted paths, modes, links and contents
	Epoch   time.Time
	Patches []manifests.Patch // what was changed in Dir, in this order

	Warnings []string // what the user should know about it
}

// Recipe is how a tree is compiled with one toolkit: everything but the tree and the SM. The host
// half is the same in the recipes of all toolkits.
type Recipe struct {
	Toolkit      matrix.Toolkit
	Host         matrix.Toolkit // its image compiles the host half, which uses no CUDA
	BuilderImage string         // digest of the image the device half's compilers run in
	HostImage    string         // of that of the host half
	BaseImage    string         // what both images were made from
	Runtime      string         // identifies the bytes that the toolkit's runtime steps produce; empty if unknown
	Stages       string         // digest of the scripts that the steps run
	Engine       string         // the engine's version; it decides no byte
	HostCMake    []string       // arguments of the host half
	CUDACMake    []string       // arguments of the device half, without the architecture
}

// Job is one bundle to build.
type Job struct {
	Target matrix.Target
	Source Source
	Recipe Recipe
}

// Plan makes one job for every target, in the order given, each with the recipe of its toolkit. It
// is pure.
func Plan(targets []matrix.Target, src Source, recipes []Recipe) ([]Job, error) {
	jobs := make([]Job, len(targets))
	for i, target := range targets {
		j := slices.IndexFunc(recipes, func(r Recipe) bool { return r.Toolkit.Name == target.Toolkit })
		if j < 0 {
			return nil, fmt.Errorf("planning %s: no recipe for the toolkit %s", target.Row(), target.Toolkit)
		}
		jobs[i] = Job{Target: target, Source: src, Recipe: recipes[j]}
	}
	return jobs, nil
}

// StepKind is the kind of a step.
type StepKind string

// The kinds of steps. What a Builder puts in dest for each:
//
//	host     the bundle's tree without libggml-cuda.so and links, its programs in binaries itself
//	device   lib/libggml-cuda.so
//	runtime  libraries of the toolkit's in lib as bundler.PackRuntime wants them, and their LICENSE
//	probe    llcuda-probe, from the folder that is its Source; the client's, which Run never asks for
//	wheel    the wheels of the Python package, from the folder that is its Source: the project, in which client holds the
//	         client's programs and their bill of materials, and licenses those of the client; Run never asks for it either
//	ops      test-backend-ops, from the folder that is its Source: the program's own source, ggml's headers in include, and
//	         a bundle's libraries in lib; Run never asks for it either
const (
	StepHost    StepKind = "host"
	StepDevice  StepKind = "device"
	StepProbe   StepKind = "probe"
	StepRuntime StepKind = "runtime"
	StepWheel   StepKind = "wheel"
	StepOps     StepKind = "ops"
)

// Step is what one Builder does in one go.
type Step struct {
	Kind    StepKind
	Target  matrix.Target  // of a device step
	Runtime matrix.Runtime // of a runtime step
	Source  Source
	Recipe  Recipe
}

// Name is the step's name in events, logs and messages: "host", "sm75", "ptx90", "runtime-cu12-sm7x".
func (s Step) Name() string {
	switch s.Kind {
	case StepDevice:
		return s.Target.Row().String()
	case StepRuntime:
		return string(s.Kind) + "-" + s.Runtime.String()
	}
	return string(s.Kind)
}

// Toolkit is the one whose image the step runs in.
func (s Step) Toolkit() matrix.Toolkit {
	if s.Kind == StepHost {
		return s.Recipe.Host
	}
	return s.Recipe.Toolkit
}

// Steps are all steps of the jobs: the host step, the runtime steps, and a device step for each job. The jobs share their
// source and the host half of their recipes.
func Steps(jobs []Job) []Step {
	if len(jobs) == 0 {
		return nil
	}
	steps := append([]Step{hostStep(jobs)}, RuntimeSteps(jobs)...)
	for _, job := range jobs {
		steps = append(steps, deviceStep(job))
	}
	return steps
}

func hostStep(jobs []Job) Step {
	return Step{Kind: StepHost, Source: jobs[0].Source, Recipe: jobs[0].Recipe}
}

func deviceStep(job Job) Step {
	return Step{Kind: StepDevice, Target: job.Target, Source: job.Source, Recipe: job.Recipe}
}

// RuntimeSteps are the runtime steps that the jobs need: each runtime once, in the order of the jobs.
func RuntimeSteps(jobs []Job) []Step {
	var steps []Step
	for _, job := range jobs {
		step := Step{Kind: StepRuntime, Runtime: job.Recipe.Toolkit.Runtime(job.Target.Row()), Source: job.Source, Recipe: job.Recipe}
		if !slices.ContainsFunc(steps, func(s Step) bool { return s.Runtime == step.Runtime }) {
			steps = append(steps, step)
		}
	}
	return steps
}

// The states of an Event.
const (
	StateStart    = "start"    // a stage begins
	StateProgress = "progress" // Done of Total objects; Line is the output that said so, if any did
	StateLine     = "line"     // one line of output, in Line
	StateDone     = "done"     // a stage ended well; Cached says that nothing was run
	StateFailed   = "failed"   // a stage failed
	StateLost     = "lost"     // the engine went away, as Line says; Run sends it
)

// Event is one thing that happened while a step ran.
type Event struct {
	Engine      string
	Step        string
	Stage       string
	Done, Total int
	Cached      bool
	Line        string
	State       string
}

// Megabytes is the event with how far bytes are.
func (e Event) Megabytes(at measure.Progress) Event {
	const mega = 1_000_000
	e.Done, e.Total = int(at.Done/mega), int(at.Total/mega)
	return e
}

// StepStats is what a step cost.
type StepStats struct {
	Wall       time.Duration `json:"wall_ns"`
	CPUSeconds float64       `json:"cpu_seconds"`
	Compiled   int           `json:"compiled"`   // objects compiled
	CacheHits  int           `json:"cache_hits"` // objects the compiler cache gave
	Cached     bool          `json:"cached"`     // every stage came from the engine's cache
	// Untried are the CPU variants of the host step that were compiled and not run: the engine's CPU cannot.
	Untried []string `json:"untried,omitempty"`
}

// Builder runs steps on one engine, one at a time.
type Builder interface {
	// Name is the engine's name in messages; no two builders share one.
	Name() string
	// Build fills dest, an empty folder, and calls events from any goroutine
	// until it returns. If the step's commands failed, the error is a
	// *StepError; if the engine can take no more steps, the error wraps
	// ErrEngineLost. It returns soon after ctx ends.
	Build(ctx context.Context, step Step, dest string, events func(Event)) (StepStats, error)
}

// ErrEngineLost means that an engine went away. Its step can run on another one.
var ErrEngineLost = errors.New("engine lost")

// StepError is a step whose own command failed: the tree or the recipe is at
// fault, and it would fail on another engine, too.
type StepError struct {
	Step, Stage string
	ExitCode    int
	Tail        []string // the last lines of its output
}

func (e *StepError) Error() string {
	return fmt.Sprintf("building %s: %s ended with exit code %d", e.Step, e.Stage, e.ExitCode)
}

// Hint suggests a way out if the kernel killed a compiler for lack of memory.
func (e *StepError) Hint() string {
	if e.ExitCode == killedCode || slices.ContainsFunc(e.Tail, killedWords.MatchString) {
		return "the memory was probably too small for so many compilers at once: repeat the command with --jobs 1"
	}
	return ""
}

// killedCode is a shell's exit code for a command that was killed.
const killedCode = 128 + 9

// killedWords matches how shells, compilers and ninja report that the kernel killed one of them, or refused it memory.
var killedWords = regexp.MustCompile(`(?i)\bkilled\b|signal 9\b|\bSIGKILL\b|out of memory|cannot allocate memory|virtual memory exhausted|std::bad_alloc`)

// Tree is a finished bundle tree: both halves and the links between them.
type Tree struct {
	Job   Job
	Dir   string
	Stats StepStats // of its device step
}
