package engine

import (
	"bufio"
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"dagger.io/dagger"

	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
)

//go:embed stages
var stageFiles embed.FS

const (
	// tailLines is how much of a failed command's output goes into its error; the whole is
	// in the step's log.
	tailLines = 30
	// pingTimeout is how long an engine may take to answer before its step is given away.
	pingTimeout = 10 * time.Second
)

// builder runs steps on one connected engine. It implements farm.Builder.
type builder struct {
	name     string
	client   *dagger.Client
	console  *console
	images   map[string]Image // by the toolkit's name
	cacheDir string
	jobs     int
	limits   string // of the engine's control group, as stages/jobs.sh prints them
	store    string // where an engine of this machine keeps its cache
	volume   string // of ccache's, by name
	objects  string // the folder in which ccache's objects are kept outside of the engine; empty for none
}

func (b *builder) Name() string { return b.name }

// Build runs one step. An engine that does not answer afterwards is lost, whatever the
// error said: Dagger has no error of its own for that.
func (b *builder) Build(ctx context.Context, step farm.Step, dest string, events func(farm.Event)) (farm.StepStats, error) {
	started := time.Now()
	run := &stepRun{builder: b, step: step, nonce: rand.Text(), events: func(e farm.Event) {
		e.Engine, e.Step = b.name, step.Name()
		events(e)
	}}
	defer b.console.listen(nil)

	err := run.all(ctx, dest)
	var failed *farm.StepError
	switch {
	case err == nil || ctx.Err() != nil || errors.As(err, &failed):
	case b.answers(ctx):
		err = fullDisk(err, dest, b.store)
		err = fmt.Errorf("building %s: %w", step.Name(), err)
	default:
		err = fmt.Errorf("building %s on %s: %w: %v", step.Name(), b.name, farm.ErrEngineLost, err)
	}
	run.stats.Wall = time.Since(started)
	return run.stats, err
}

// answers reports whether the engine still takes requests.
func (b *builder) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	_, err := b.client.Version(ctx)
	return err == nil
}

// stepRun is one step under way.
type stepRun struct {
	builder *builder
	step    farm.Step
	nonce   string // what the stages that run for this step, and for no other, leave behind
	events  func(farm.Event)
	stats   farm.StepStats
}

func (r *stepRun) all(ctx context.Context, dest string) error {
	var seen int
	builder, err := r.stage(ctx, "image", r.builder.images[r.step.Toolkit().Name].container(r.builder.client), &seen)
	if err != nil {
		return err
	}
	r.events(farm.Event{Stage: "image", State: farm.StateDone, Cached: seen == 0})
	r.stats.Cached = true
	var out *dagger.Directory
	switch r.step.Kind {
	case farm.StepHost:
		out, err = r.host(ctx, builder)
	case farm.StepDevice:
		out, err = r.device(ctx, builder)
	case farm.StepRuntime:
		out, err = r.runtime(ctx, builder)
	case farm.StepProbe:
		out, err = r.probe(ctx, builder)
	case farm.StepWheel:
		out, err = r.wheel(ctx, builder)
	case farm.StepOps:
		out, err = r.ops(ctx, builder)
	default:
		err = fmt.Errorf("unknown kind of step %q", r.step.Kind)
	}
	if err != nil {
		return err
	}
	r.events(farm.Event{Stage: "export", State: farm.StateStart})
	if _, err := out.Export(ctx, dest); err != nil {
		return fmt.Errorf("exporting to %s: %w", dest, err)
	}
	r.events(farm.Event{Stage: "export", State: farm.StateDone})
	return nil
}

// host is the host half: the web UI, then the programs with the UI inside.
func (r *stepRun) host(ctx context.Context, image *dagger.Container) (*dagger.Directory, error) {
	client, src := r.builder.client, r.step.Source
	llama, err := readLlamaTree(src)
	if err != nil {
		return nil, err
	}
	tree := client.Host().Directory(src.Dir, dagger.HostDirectoryOpts{Exclude: []string{
		"ggml/src/ggml-cuda", "tools/ui/src", "tools/ui/static", "tools/ui/tests", "tools/server/webui",
		"tests", "docs", "media", "models", "gguf-py", ".github", ".devops", "*.md",
	}})
	ctr := r.script(image, "host.sh").WithMountedDirectory(srcDir, tree)
	if llama.ui.project == "" {
		ctr = ctr.WithEnvVariable("PAGE", strings.Join(llama.ui.page(), " "))
	} else {
		ui, err := r.webUI(ctx, image, llama.ui)
		if err != nil {
			return nil, err
		}
		ctr = ctr.WithMountedDirectory(path.Join(srcDir, llama.ui.embedded), ui.Directory("dist")).
			WithMountedFile(srcDir+"/licenses/LICENSE-web-ui", ui.File("licenses.txt"))
	}
	half, err := r.compileObjects(ctx, image, ctr.
		WithEnvVariable("SOURCE_DATE_EPOCH", strconv.FormatInt(src.Epoch.Unix(), 10)),
		"/stages/host.sh", r.step.Recipe.HostCMake...)
	if err != nil {
		return nil, err
	}
	return half, r.try(ctx, image, half)
}

// webUI builds the web UI: dist contains what the server embeds, licenses.txt the licenses of what went into it.
func (r *stepRun) webUI(ctx context.Context, image *dagger.Container, ui webUI) (*dagger.Directory, error) {
	host, src := r.builder.client.Host(), r.step.Source
	packages, err := r.packages(ctx, filepath.Join(src.Dir, ui.project, "package-lock.json"))
	if err != nil {
		return nil, err
	}
	embedded, err := filepath.Rel(ui.project, ui.embedded)
	if err != nil {
		return nil, err
	}
	ctr := r.script(image, "ui.sh", "ui/build.sh", "ui/licences.ts").
		WithMountedDirectory("/ui", host.Directory(filepath.Join(src.Dir, ui.project), dagger.HostDirectoryOpts{Exclude: []string{
			"node_modules", "dist", ".svelte-kit", // of builds by hand
		}})).
		WithMountedDirectory("/npm", host.Directory(packages.Dir)).
		WithEnvVariable("PROJECT", ui.project).
		WithEnvVariable("EMBEDDED", embedded).
		WithEnvVariable("ASSETS", strings.Join(ui.assets, " ")).
		WithEnvVariable("LLAMA_BUILD_NUMBER", strconv.Itoa(src.Build)).
		WithEnvVariable("SOURCE_DATE_EPOCH", strconv.FormatInt(src.Epoch.Unix(), 10))
	if _, err := os.Stat(filepath.Join(src.Dir, ui.embedded)); err == nil && !filepath.IsLocal(embedded) {
		ctr = ctr.WithMountedDirectory("/embedded", host.Directory(src.Dir, dagger.HostDirectoryOpts{Include: []string{ui.embedded}}).Directory(ui.embedded))
	}
	return r.offline(ctx, "ui", ctr, "/stages/ui.sh")
}

// try has every CPU variant of the host half compute, as far as the engine's CPU can run it.
func (r *stepRun) try(ctx context.Context, image *dagger.Container, half *dagger.Directory) error {
	program, remove, err := trialProgram(ctx)
	if err != nil {
		return err
	}
	defer remove()
	client := r.builder.client
	out, err := r.offline(ctx, "try", r.script(image, "try.sh").
		// Laid out as in a bundle: the programs find their libraries from there.
		WithMountedDirectory("/half/lib", half.Directory("lib")).
		WithMountedDirectory("/half/binaries/"+r.step.Toolkit().Name, half.Directory("binaries")).
		WithMountedFile("/trial/try", client.Host().File(program)),
		"/stages/try.sh")
	if err != nil {
		return err
	}
	lacking, err := out.File("lacking").Contents(ctx)
	if err != nil {
		return fmt.Errorf("reading which CPU variants were not run: %w", err)
	}
	r.stats.Untried = strings.Fields(lacking)
	return nil
}

// device is the CUDA backend of one SM. It sees nothing but ggml's own build files, headers
// and base library, and no date: what happens elsewhere in the tree cannot touch it.
func (r *stepRun) device(ctx context.Context, image *dagger.Container) (*dagger.Directory, error) {
	tree := r.builder.client.Host().Directory(r.step.Source.Dir, dagger.HostDirectoryOpts{Include: []string{
		"ggml/*", "ggml/cmake", "ggml/include", "ggml/src/*.*", "ggml/src/CMakeLists.txt", "ggml/src/ggml-cuda",
	}})
	args := append(slices.Clone(r.step.Recipe.CUDACMake), "-DCMAKE_CUDA_ARCHITECTURES="+r.step.Target.CMakeArchitectures())
	return r.compileObjects(ctx, image, r.script(image, "device.sh", "device/steady.c").WithMountedDirectory(srcDir, tree),
		"/stages/device.sh", args...)
}

// runtime gathers the toolkit's own libraries, or links those of one SM major or of PTX. That takes nothing of the tree
// but the sources of the CUDA backend, which say what functions it calls.
func (r *stepRun) runtime(ctx context.Context, image *dagger.Container) (*dagger.Directory, error) {
	ctr := r.script(image, "runtime.sh")
	if runtime := r.step.Runtime; runtime.IsLinked() {
		keep := "sm_" + strconv.Itoa(runtime.Major) + "x"
		if runtime.PTX != 0 {
			keep = "compute_" + strconv.Itoa(int(runtime.PTX))
		}
		tree := r.builder.client.Host().Directory(r.step.Source.Dir, dagger.HostDirectoryOpts{Include: []string{"ggml/src/ggml-cuda"}})
		ctr = ctr.WithMountedDirectory(srcDir, tree).WithEnvVariable("KEEP", keep).WithEnvVariable("LINKING", linking)
	}
	return r.compile(ctx, ctr, "/stages/runtime.sh")
}

// probe is the client's own small program in C.
func (r *stepRun) probe(ctx context.Context, image *dagger.Container) (*dagger.Directory, error) {
	tree := r.builder.client.Host().Directory(r.step.Source.Dir, dagger.HostDirectoryOpts{Include: []string{"build.sh", "probe.c"}})
	return r.compile(ctx, r.script(image, "probe.sh").WithMountedDirectory(srcDir, tree), "/stages/probe.sh")
}

// ops is llama.cpp's program that compares what backends compute.
func (r *stepRun) ops(ctx context.Context, image *dagger.Container) (*dagger.Directory, error) {
	tree := r.builder.client.Host().Directory(r.step.Source.Dir)
	return r.compileObjects(ctx, image, r.script(image, "ops.sh").WithMountedDirectory(srcDir, tree), "/stages/ops.sh")
}

// script mounts a stage's script, what all scripts share, and what this one needs besides.
func (r *stepRun) script(image *dagger.Container, name string, more ...string) *dagger.Container {
	dir := r.builder.client.Directory()
	shared := []string{"stage.sh", "jobs.sh", "rpath.cmake", "licenses.sh", "baseline.sh", "device/CMakeLists.txt"}
	for _, file := range slices.Concat(shared, []string{name}, more) {
		text, err := stageFiles.ReadFile("stages/" + file)
		if err != nil {
			panic(err) // embedded
		}
		dir = dir.WithNewFile(file, string(text))
	}
	return image.WithMountedDirectory("/stages", dir)
}

// noNetwork starts a command with no network but an unconnected loopback. Dagger has no such
// option, so the command asks the kernel itself, and that takes a privileged container.
var noNetwork = []string{"unshare", "--net", "--"}

// unprivileged takes away again what noNetwork needed, and more than a plain container has.
var unprivileged = []string{"setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"}

// compile runs a stage's script with as many compilers as the user allows.
func (r *stepRun) compile(ctx context.Context, ctr *dagger.Container, script string, args ...string) (*dagger.Directory, error) {
	if r.builder.jobs > 0 {
		ctr = ctr.WithEnvVariable("JOBS", strconv.Itoa(r.builder.jobs))
	}
	if r.builder.limits != "" {
		ctr = ctr.WithEnvVariable("LIMITS", r.builder.limits)
	}
	return r.offline(ctx, "compile", ctr, script, args...)
}

// offline runs a stage's script without a network. Its files are in /out, its figures and its
// whole output in /stats.
func (r *stepRun) offline(ctx context.Context, name string, ctr *dagger.Container, script string, args ...string) (*dagger.Directory, error) {
	const keepOutput = `mkdir -p /stats && sh "$0" "$@" 2>&1 | tee /stats/output`
	// The engine knows a stage by its inputs, and a secret's value is none of them: a result that it had
	// already has the nonce of the step that it was made for.
	ctr = ctr.WithSecretVariable("NONCE", r.builder.client.SetSecret("llcuda-nonce", r.nonce))
	command := slices.Concat(noNetwork, unprivileged, []string{"bash", "-o", "pipefail", "-c", keepOutput, script}, args)
	var seen int
	ctr, err := r.stage(ctx, name, ctr.WithExec(command, dagger.ContainerWithExecOpts{InsecureRootCapabilities: true}), &seen)
	if err != nil {
		return nil, err
	}
	// The live view can end early: an engine that is short of time drops it. It is also empty
	// where the engine had the result. The log shall be whole either way.
	output, err := ctr.File("/stats/output").Contents(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the output of the stage %s: %w", name, err)
	}
	lines := strings.Split(strings.TrimSuffix(output, "\n"), "\n")
	for _, line := range lines[min(seen, len(lines)):] {
		r.events(farm.Event{Stage: name, State: farm.StateLine, Line: line})
	}
	ran, err := r.count(ctx, name, ctr)
	if err != nil {
		return nil, err
	}
	r.events(farm.Event{Stage: name, State: farm.StateDone, Cached: !ran})
	return ctr.Directory("/out"), nil
}

// stage forces one container and reports on it while it runs; seen counts the lines shown. Its
// caller reports that it is done, because only the caller knows whether it ran.
func (r *stepRun) stage(ctx context.Context, name string, ctr *dagger.Container, seen *int) (*dagger.Container, error) {
	var tail []string
	r.builder.console.listen(func(line string) {
		*seen++
		if len(tail) == tailLines {
			tail = tail[1:]
		}
		tail = append(tail, line)
		event := farm.Event{Stage: name, State: farm.StateLine, Line: line}
		if done, total, ok := ninjaProgress(line); ok {
			event.Done, event.Total, event.State = done, total, farm.StateProgress
		}
		r.events(event)
	})
	r.events(farm.Event{Stage: name, State: farm.StateStart})
	ctr, err := ctr.Sync(ctx)
	r.builder.console.listen(nil)

	if err == nil {
		return ctr, nil
	}
	err = stageError(r.step.Name(), name, err, tail)
	if failed, ok := errors.AsType[*farm.StepError](err); ok {
		for _, line := range unseen(failed.Tail, tail) {
			r.events(farm.Event{Stage: name, State: farm.StateLine, Line: line})
		}
		failed.Tail = failed.Tail[max(0, len(failed.Tail)-tailLines):]
	}
	r.events(farm.Event{Stage: name, State: farm.StateFailed})
	return nil, err
}

// unseen returns the lines of a command's output after those that were shown, of which seen are the
// last. The live view can end before the command does, and the engine returns only the end of a long
// output: if that begins after what was shown, all of it is unseen.
func unseen(output, seen []string) []string {
	for end := len(output); end > 0 && len(seen) > 0; end-- {
		n := min(end, len(seen))
		if slices.Equal(output[end-n:end], seen[len(seen)-n:]) {
			return output[end:]
		}
	}
	return output
}

// stageError is why a stage failed: its own command, with what is known of its output, or the engine. An engine that
// cannot start a command, or clean up after it, gives no exit code, or one that no command has.
func stageError(step, stage string, err error, tail []string) error {
	var exec *dagger.ExecError
	if !errors.As(err, &exec) || exec.ExitCode <= 0 {
		return fmt.Errorf("running the stage %s: %w", stage, err)
	}
	if output := strings.TrimRight(exec.Stdout+exec.Stderr, "\n"); output != "" {
		tail = strings.Split(output, "\n")
	}
	return &farm.StepError{Step: step, Stage: stage, ExitCode: exec.ExitCode, Tail: tail}
}

// count adds a stage's figures, which it left in /stats/stats. A stage that left another nonce was
// not run for this step: the engine had its result. The step's log gets them, too.
func (r *stepRun) count(ctx context.Context, name string, ctr *dagger.Container) (ran bool, err error) {
	nonce, err := ctr.File("/stats/nonce").Contents(ctx)
	if err != nil {
		return false, fmt.Errorf("reading the stage's nonce: %w", err)
	}
	if strings.TrimSpace(nonce) != r.nonce {
		return false, nil
	}
	text, err := ctr.File("/stats/stats").Contents(ctx)
	if err != nil {
		return false, fmt.Errorf("reading the stage's figures: %w", err)
	}
	figures := map[string]float64{}
	for scanner := bufio.NewScanner(strings.NewReader(text)); scanner.Scan(); {
		key, value, _ := strings.Cut(scanner.Text(), "=")
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return false, fmt.Errorf("reading the stage's figures: %q: %w", scanner.Text(), err)
		}
		figures[key] = number
	}
	r.stats.Cached = false
	r.stats.CPUSeconds += figures["cpu"]
	r.stats.Compiled += int(figures["compiled"])
	r.stats.CacheHits += int(figures["hits"])
	r.events(farm.Event{Stage: name, State: farm.StateLine, Line: fmt.Sprintf("%s took %.1f CPU seconds; %.0f objects compiled, %.0f from the compiler cache",
		name, figures["cpu"], figures["compiled"], figures["hits"])})
	return true, nil
}
