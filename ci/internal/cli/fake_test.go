package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/ci/internal/engine"
	"github.com/waqasm86/llcuda-farm/ci/internal/engine/builtin"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/manifests/python/pythontest"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// fakeEngines is a Backend whose engines make trees out of nothing that pass the
// audit. FAKE lists what goes wrong, as words separated by blanks:
//
//	no-engine     none can be connected
//	unbuildable   the stages cannot build the source
//	cached        every step comes from the cache
//	fail-STEP     the step's command fails
//	kill-STEP     the kernel kills a compiler of the step
//	lose-STEP     the engine that takes the step is lost
//	wrong-STEP    the step produces device code for another SM
//	other-runtime the CUDA runtime is another one
//	needs-cublaslt the CUDA backend asks for libcublasLt, which the CUDA runtime, linked by the farm, lacks
//	other-builder the builder image is another one
//	other-engine  the engine is of another version
//	other-base    the base image is another one
//	other-stages  the stages' scripts are other ones
//	slow-STEP     the step takes until it is interrupted, and interrupts itself
type fakeEngines struct {
	faults    string
	interrupt func()
}

func (e *fakeEngines) has(fault string) bool {
	for word := range strings.FieldsSeq(e.faults) {
		if word == fault {
			return true
		}
	}
	return false
}

func (e *fakeEngines) Store([]string) string { return os.Getenv("STORE") }

// ToDownload is 1 GB, until the folder exists.
func (e *fakeEngines) ToDownload(_ []matrix.Toolkit, cacheDir string) (int64, error) {
	if exists(cacheDir) {
		return 0, nil
	}
	return 1_000_000_000, nil
}

func (e *fakeEngines) Buildable(src farm.Source) error {
	if e.has("unbuildable") {
		return &farm.SourceError{Given: src.Given, Problem: "this llama.cpp cannot be built here", Hint: "give another"}
	}
	return nil
}

func (e *fakeEngines) BuildPaths() []string { return []string{"/src/", "/build/"} }

func (e *fakeEngines) Open(_ context.Context, opts engine.Options) (*engine.Session, error) {
	if e.has("no-engine") {
		return nil, &engine.UnavailableError{Err: errors.New("no engine answers"), Hint: "go run ./ci engine up starts one"}
	}
	hosts := opts.Hosts
	if len(hosts) == 0 {
		hosts = []string{"local"}
	}
	if opts.CompilerCache != "" {
		opts.Progress(farm.Event{Step: engineStep, Stage: "objects", State: farm.StateLine, Line: "of " + opts.CompilerCache})
	}
	opts.Progress(farm.Event{Step: engineStep, Stage: "built-in", State: farm.StateLine, Line: "starting"})
	opts.Progress(farm.Event{Step: engineStep, Stage: "packages", State: farm.StateProgress, Done: 1, Total: 2})
	base, version := "made@sha256:"+strings.Repeat("2", 64), "fake v1"
	if e.has("other-engine") {
		version = "fake v2"
	}
	if e.has("other-base") {
		base = "made@sha256:" + strings.Repeat("8", 64)
	}
	if opts.Base != "" && opts.Base != engine.BaseMade { // as the real ones: a pinned image is recorded as it is given
		base = opts.Base
	}
	recipes, err := e.Recipes(opts.Source, opts.Toolkits, base, version)
	session := &engine.Session{Recipes: recipes}
	for _, host := range hosts {
		session.Builders = append(session.Builders, &fakeBuilder{e, host})
	}
	return session, err
}

func (e *fakeEngines) Recipes(_ farm.Source, toolkits []matrix.Toolkit, base, version string) ([]farm.Recipe, error) {
	var recipes []farm.Recipe
	for _, toolkit := range toolkits {
		recipe := farm.Recipe{
			Toolkit: toolkit, Host: toolkits[0], BuilderImage: "sha256:" + strings.Repeat("1", 64), HostImage: "sha256:" + strings.Repeat("1", 64),
			BaseImage: base, Runtime: "sha256:" + strings.Repeat("3", 64), Stages: "sha256:" + strings.Repeat("5", 64), Engine: version,
			HostCMake: []string{"-DGGML_CUDA=OFF"}, CUDACMake: []string{"-DGGML_CUDA=ON"},
		}
		if e.has("other-builder") {
			recipe.BuilderImage = "sha256:" + strings.Repeat("9", 64)
		}
		if e.has("other-runtime") {
			recipe.Runtime = "sha256:" + strings.Repeat("4", 64)
		}
		if e.has("other-stages") {
			recipe.Stages = "sha256:" + strings.Repeat("6", 64)
		}
		recipes = append(recipes, recipe)
	}
	return recipes, nil
}

type fakeBuilder struct {
	*fakeEngines
	name string
}

func (b *fakeBuilder) Name() string { return b.name }

func (b *fakeBuilder) Build(ctx context.Context, step farm.Step, dest string, events func(farm.Event)) (farm.StepStats, error) {
	name := step.Name()
	row := step.Target.Row()
	events(farm.Event{Stage: "compile", State: farm.StateStart})
	switch {
	case b.has("fail-" + name):
		events(farm.Event{Stage: "compile", State: farm.StateLine, Line: "kernel.cu(3): error: no such thing"})
		events(farm.Event{Stage: "compile", State: farm.StateFailed})
		return farm.StepStats{Wall: time.Second}, &farm.StepError{Step: name, Stage: "compile", ExitCode: 2, Tail: []string{"kernel.cu(3): error: no such thing"}}
	case b.has("kill-" + name):
		return farm.StepStats{Wall: time.Second}, &farm.StepError{Step: name, Stage: "compile", ExitCode: 1, Tail: []string{"nvcc error   : 'cicc' died due to signal 9 (Kill signal)"}}
	case b.has("lose-" + name):
		return farm.StepStats{}, fmt.Errorf("reading from %s: %w", b.name, farm.ErrEngineLost)
	case b.has("slow-" + name):
		b.interrupt()
		<-ctx.Done()
		return farm.StepStats{}, ctx.Err()
	case b.has("wrong-" + name):
		row.SM = 86
	}
	var files map[string][]byte
	var err error
	switch step.Kind {
	case farm.StepHost:
		files = hostHalf()
	case farm.StepProbe: // as the builder does, by the compiler of this machine
		err = exec.CommandContext(ctx, "sh", step.Source.Dir+"/build.sh", step.Source.Dir, dest+"/llcuda-probe").Run()
	case farm.StepWheel: // as the builder does, by hatchling itself
		err = hatch(ctx, step.Source, dest)
	case farm.StepOps: // what it is made of
		var listing []byte
		listing, err = exec.CommandContext(ctx, "sh", "-c", "cd "+step.Source.Dir+" && find . -type f | sort").Output()
		files = map[string][]byte{"test-backend-ops": listing}
	case farm.StepRuntime:
		if files, err = cudaRuntime(step.Recipe.Toolkit, step.Runtime); err == nil && b.has("other-runtime") {
			files["LICENSE"] = []byte("another NVIDIA CUDA licence\n")
		}
		if err == nil && b.has("needs-cublaslt") {
			files["NOTICE"] = []byte("linked\n")
			files["lib/libllcuda-blas.so.12"] = elfFile{soname: "libllcuda-blas.so.12", fatbin: elfCode(files["lib/libcublas.so.12"])}.bytes()
			delete(files, "lib/libcublas.so.12")
			delete(files, "lib/libcublasLt.so.12")
			err = errors.Join(os.MkdirAll(filepath.Join(dest, "lib"), 0o755), os.Symlink("libllcuda-blas.so.12", filepath.Join(dest, "lib/libcublas.so.12")))
		}
	default:
		files, err = deviceHalf(row)
		if err == nil && b.has("needs-cublaslt") {
			const cuda = "lib/libggml-cuda.so"
			files[cuda] = elfFile{needed: []string{"libggml-base.so.0", "libcudart.so.12", "libcublasLt.so.12"}, runPath: backendRunPath, fatbin: elfCode(files[cuda])}.bytes()
		}
	}
	if err != nil {
		return farm.StepStats{}, err
	}
	for path, content := range files {
		path = filepath.Join(dest, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o755)); err != nil {
			return farm.StepStats{}, err
		}
	}
	cached := b.has("cached")
	events(farm.Event{Stage: "compile", State: farm.StateProgress, Done: 3, Total: 3})
	events(farm.Event{Stage: "compile", State: farm.StateDone, Cached: cached})
	if cached {
		return farm.StepStats{Wall: time.Second, Cached: true}, nil
	}
	return farm.StepStats{Wall: time.Second, CPUSeconds: 2, Compiled: 3}, nil
}

// hatch does what the stage wheel.sh does.
func hatch(ctx context.Context, source farm.Source, dest string) error {
	environment, err := pythontest.Environment()
	if err != nil {
		return err
	}
	for _, client := range []string{"", "client"} {
		cmd := exec.CommandContext(ctx, filepath.Join(environment, "bin", "python"), "-m", "hatchling", "build", "--target", "wheel", "--directory", dest)
		cmd.Dir = source.Dir
		cmd.Env = append(os.Environ(), "LLCUDA_CLIENT="+client, fmt.Sprintf("SOURCE_DATE_EPOCH=%d", source.Epoch.Unix()), "PYTHONDONTWRITEBYTECODE=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("hatchling: %w\n%s", err, out)
		}
	}
	return nil
}

func (e *fakeEngines) BuiltIn(opts builtin.Options) (BuiltIn, error) {
	if opts.Name == "" {
		opts.Name = builtin.DefaultName
	}
	return &fakeBuiltIn{e, opts}, nil
}

type fakeBuiltIn struct {
	*fakeEngines
	opts builtin.Options
}

func (b *fakeBuiltIn) info(running bool) builtin.Info {
	i := builtin.Info{Name: b.opts.Name, Running: running, Answers: running, StateDir: "/var/cache/engine", DiskUsed: 4_200_000_000, DiskLimit: 60_000_000_000, DiskFree: 80_000_000_000}
	if running {
		i.RunnerHost, i.Version, i.PID = "unix:///run/"+b.opts.Name+".sock", "v0", 42
	}
	return i
}

func (b *fakeBuiltIn) Up(_ context.Context, progress func(string)) (builtin.Info, error) {
	if b.has("no-engine") {
		return builtin.Info{}, &builtin.PreflightError{Problems: []string{"not root"}}
	}
	progress("starting in " + b.opts.NetNS)
	return b.info(true), nil
}

func (b *fakeBuiltIn) Down(context.Context) error { return nil }

func (b *fakeBuiltIn) Status(context.Context) (builtin.Info, error) {
	return b.info(!b.has("no-engine")), nil
}

func (b *fakeBuiltIn) Prune(context.Context) (int64, error) { return 1_234_567_890, nil }
