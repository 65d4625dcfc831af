package cli

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/ci/internal/engine"
	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/ci/internal/release"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// buildOptions are the flags of build.
type buildOptions struct {
	selection
	release string
	out     string
	engines []string
	base    string
	jobs    int
	only    []string // steps to run, each of which leaves a part
	parts   []string // folders with parts, to run no step
	// objects is a folder with what ccache kept, or empty.
	objects string
}

func newBuildCommand(term *terminal, backend Backend) *cobra.Command {
	var opts buildOptions
	cmd := &cobra.Command{
		Use:   "build --sm SM --release NAME",
		Short: "Build bundles: compile, audit, pack, describe",
		Long: `Build bundles: compile, audit, pack, describe.

Compiles once what all SMs share, then the CUDA backend of each SM, on as many engines
as you name. If an SM fails, the others continue. An engine does not repeat what it
has done before, so after an interruption the same command resumes.

The folder given with --out gets two archives of each bundle and of each CUDA
runtime that the bundles need, manifest.json and SHA256SUMS, and the steps' full
logs in logs/.

With --only, each named step ends in a part: what it made, and of what. With --parts,
the steps of all SMs come from parts, and nothing is compiled: what was built on many
machines becomes the same release that one machine builds. A part that is missing,
damaged, or made of another source, recipe or release is refused.`,
		Example: `  go run ./ci build --sm 75 --release v1.1.0-runtime
  go run ./ci build --sm 75,86 --release v1.1.0-runtime --llama ../llama.cpp    # a folder of one's own
  go run ./ci build --sm 75 --release v1.1.0-runtime --only host,sm75 --out parts
  go run ./ci build --sm 75 --release v1.1.0-runtime --parts parts`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.out == "" && len(opts.only) > 0 {
				opts.out = defaultPartsDir
			}
			b := buildCommand{buildOptions: opts, term: term, backend: backend, dir: release.Dir(cmp.Or(opts.out, "dist"))}
			return b.run(cmd.Context())
		},
	}
	opts.flags(cmd)
	cmd.Flags().StringVar(&opts.release, "release", "", "release that the bundles are for, such as v1.1.0-runtime")
	cmd.Flags().StringVar(&opts.out, "out", "", `folder for the release (default "dist"), or for the parts (default "`+defaultPartsDir+`")`)
	cmd.Flags().StringSliceVar(&opts.only, "only", nil, "run only these steps, and leave parts: host, sm75, runtime-cu12-sm7x; repeated or comma-separated")
	cmd.Flags().StringVar(&opts.objects, "compiler-cache", "", "folder with objects of earlier builds, which this one uses and replaces; not for releases from GitHub Actions")
	cmd.Flags().StringSliceVar(&opts.parts, "parts", nil, "make the release of the parts in these folders, without an engine; repeated or comma-separated")
	return cmd
}

// flags are those of every command that builds.
func (opts *buildOptions) flags(cmd *cobra.Command) {
	opts.selection.flags(cmd)
	engineFlags(cmd, &opts.engines, &opts.base)
	cmd.Flags().IntVar(&opts.jobs, "jobs", 0, "compile jobs at the same time on each engine (default: as cores and memory allow)")
}

// A buildCommand is one build under way.
type buildCommand struct {
	buildOptions
	term    *terminal
	backend Backend
	dir     release.Dir

	matrix  matrix.Matrix
	targets []matrix.Target
	source  farm.Source
	plan    []farm.Job
	known   *release.Ledger
	show    *progress
	// like is how a release was built that this build shall be the same as; nil if it need not be.
	like *manifests.Build
}

func (b *buildCommand) run(ctx context.Context) error {
	began := time.Now()
	if err := b.preflight(ctx); err != nil {
		return err
	}
	work, remove, err := openWork(ctx, b.cache)
	if err != nil {
		return err
	}
	defer remove()
	outcome, err := b.compile(ctx, work)
	if len(outcome.All()) == 0 {
		return err // nothing was begun
	}
	b.term.Printf("%s", summary(outcome, time.Since(began)))
	writeFailures(b.term, outcome)
	if len(b.only) > 0 {
		if err != nil {
			return buildError(ctx, outcome, err)
		}
		b.term.Notef("next: go run ./ci build --parts %s, and the folders of the other steps' parts, makes the release", b.dir)
		return nil
	}
	if err != nil {
		b.term.Notef("\n%s is written when all of it is built; go run ./ci manifest %s describes what is there", b.dir.Path(manifests.ManifestName), b.dir)
		return buildError(ctx, outcome, err)
	}
	return describeDir(ctx, b.term, b.dir, b.known)
}

// compile runs the farm on the engines, which stay connected no longer than that.
func (b *buildCommand) compile(ctx context.Context, work string) (farm.Outcome, error) {
	b.show = showProgress(b.term, time.Now, len(b.engines) > 1)
	defer b.show.close()
	options := engine.Options{
		Hosts: b.engines, Base: b.base, CacheDir: builderCache(b.cache), Jobs: b.jobs,
		CompilerCache: b.objects, Source: b.source, Toolkits: b.toolkits(), Progress: b.show.event,
	}
	if b.like != nil {
		options.Engine = b.like.Engine
		if base, _, made := strings.Cut(b.like.BaseImage, "@"); options.Base == "" && made && base == engine.BaseMade {
			options.Base = engine.BaseMade
		} else if options.Base == "" {
			options.Base = b.like.BaseImage
		}
	}
	session, err := b.open(ctx, options)
	b.show.leave(engineStep)
	if err != nil {
		return farm.Outcome{}, err
	}
	defer session.Close() // its error could change nothing: the results are on this machine
	if b.plan, err = farm.Plan(b.targets, b.source, session.Recipes); err != nil {
		return farm.Outcome{}, err
	}
	if err := b.alike(); err != nil {
		return farm.Outcome{}, err
	}
	for _, builder := range session.Builders {
		b.term.Notef("engine    %s", builder.Name())
	}
	run := farm.RunOptions{WorkDir: work, LogDir: b.dir.Path(release.LogsName), Events: b.show.event}
	if len(b.only) > 0 {
		run.CollectPart, run.Only = b.collectPart, b.only
		return farm.Run(ctx, b.plan, session.Builders, run)
	}
	if len(b.parts) > 0 {
		run.LogDir = "" // the steps' logs are where they ran
	}
	run.Collect, run.CollectRuntime = b.collect, b.collectRuntime
	if run.Known, err = b.knownSteps(); err != nil {
		return farm.Outcome{}, err
	}
	return farm.Run(ctx, b.plan, session.Builders, run)
}

// toolkits are those of the targets, and before them the matrix's first, which compiles the host half.
func (b *buildCommand) toolkits() []matrix.Toolkit {
	used := b.matrix.Toolkits[:1:1]
	for _, toolkit := range b.matrix.Toolkits[1:] {
		if slices.ContainsFunc(b.targets, func(t matrix.Target) bool { return t.Toolkit == toolkit.Name }) {
			used = append(used, toolkit)
		}
	}
	return used
}

// alike refuses, before hours are spent, an engine or a base that cannot give the bytes of the release to be like. A base that
// the user chose is his to try.
func (b *buildCommand) alike() error {
	if b.like == nil {
		return nil
	}
	recipe := b.plan[0].Recipe // engine and base are the same in all
	if recipe.Engine != b.like.Engine {
		return console.Usage(fmt.Errorf("the release was built by %s, and the engine here is %s", b.like.Engine, recipe.Engine),
			"name one of that version with --engine; the checkout of the release has it built in, for root on Debian 12")
	}
	if recipe.BaseImage != b.like.BaseImage {
		other := fmt.Errorf("the release was built on %s, and the base here is %s", b.like.BaseImage, recipe.BaseImage)
		if b.base == "" {
			return console.Usage(other, "check out the commit that the release was made from; to try another base anyway, give --base IMAGE")
		}
		b.term.Warnf("%v", other)
	}
	return nil
}

// collect audits a tree, then packs it: nothing that breaks a rule becomes a file.
func (b *buildCommand) collect(ctx context.Context, tree farm.Tree) ([]manifests.Artifact, error) {
	fsys := os.DirFS(tree.Dir)
	step := tree.Job.Target.Row().String()
	rules := rulesFrom(b.matrix, b.backend.BuildPaths(), tree.Job.Target)
	var meta manifests.Metadata
	err := b.stage(step, "audit", func(func(measure.Progress)) error {
		report, err := bundler.Audit(fsys, rules)
		if err != nil {
			return err
		}
		meta, err = bundler.Describe(fsys, rules, report, b.identity(tree.Job.Recipe))
		return err
	})
	if err != nil {
		return nil, err
	}
	key, err := b.bundleKey(tree.Job)
	if err != nil {
		return nil, err
	}
	return b.pack(step, key, func(opts bundler.PackOptions) ([]manifests.Artifact, error) {
		opts.Epoch = b.source.Epoch
		return bundler.Pack(ctx, fsys, meta, string(b.dir), opts)
	})
}

func (b *buildCommand) collectRuntime(ctx context.Context, step farm.Step, dir string) ([]manifests.Artifact, error) {
	rules := bundler.Rules{Toolkit: step.Recipe.Toolkit, Floors: b.matrix.Floors, BuildPaths: b.backend.BuildPaths()}
	return b.pack(step.Name(), runtimeKey(step), func(opts bundler.PackOptions) ([]manifests.Artifact, error) {
		opts.Cache = filepath.Join(b.cache, "runtime")
		return bundler.PackRuntime(ctx, os.DirFS(dir), rules, string(b.dir), opts)
	})
}

// runtimeKey identifies the bytes of a CUDA runtime's archives, as far as this program makes them;
// empty if the engine does not tell what the step would produce.
func runtimeKey(step farm.Step) string {
	if step.Recipe.Runtime == "" {
		return ""
	}
	key := fmt.Sprintf("%s, %s, CUDA %s, nvcc %s", step.Recipe.Runtime, step.Runtime, step.Recipe.Toolkit.CUDA, step.Recipe.Toolkit.NVCC)
	if step.Runtime.IsLinked() { // what the source calls decides what is linked
		key += fmt.Sprintf(", %s, %v", step.Source.Digest, step.Source.Patches)
	}
	return key
}

// bundleKey identifies everything that decides the bytes of a bundle's archives, apart from this program.
func (b *buildCommand) bundleKey(job farm.Job) (string, error) {
	text, err := json.Marshal(struct {
		Identity bundler.Identity
		Target   matrix.Target
		Source   string
	}{b.identity(job.Recipe), job.Target, b.source.Digest})
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), err
}

// knownSteps returns the archives in the folder that are up to date, in the sense of make: the same
// inputs made them, and their files did not change. reproduce rebuilds everything.
func (b *buildCommand) knownSteps() (map[string][]manifests.Artifact, error) {
	names, err := b.dir.Names()
	if err != nil {
		return nil, err
	}
	archives := map[string][]manifests.Artifact{} // by the key of what made them; ascending, so that the .tar.gz is the first
	for _, name := range names {
		if artifact, key, ok := b.known.Known(b.dir.Path(name)); ok && key != "" {
			archives[key] = append(archives[key], artifact)
		}
	}
	known := map[string][]manifests.Artifact{}
	look := func(step, key string) {
		found := archives[key]
		if len(found) == len(manifests.Formats()) && found[0].Stem() == found[1].Stem() {
			known[step] = found
			b.show.event(farm.Event{Step: step, Stage: "pack", State: farm.StateDone, Cached: true})
		}
	}
	for _, step := range farm.RuntimeSteps(b.plan) {
		look(step.Name(), runtimeKey(step))
	}
	if b.like == nil {
		for _, job := range b.plan {
			key, err := b.bundleKey(job)
			if err != nil {
				return nil, err
			}
			look(job.Target.Row().String(), key)
		}
	}
	return known, nil
}

// pack packs what the key names, and notes what became of it.
func (b *buildCommand) pack(step, key string, do func(opts bundler.PackOptions) ([]manifests.Artifact, error)) ([]manifests.Artifact, error) {
	var artifacts []manifests.Artifact
	err := b.stage(step, "pack", func(show func(measure.Progress)) (err error) {
		artifacts, err = do(bundler.PackOptions{Progress: show, Known: func(name string) (manifests.Artifact, bool) {
			artifact, _, ok := b.known.Known(b.dir.Path(name))
			return artifact, ok
		}})
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, artifact := range artifacts {
		if err := b.known.Note(b.dir.Path(artifact.Name), key, artifact); err != nil {
			return nil, err
		}
	}
	return artifacts, nil
}

// stage shows one of the command's own stages beside those of the engines.
func (b *buildCommand) stage(step, stage string, do func(show func(measure.Progress)) error) error {
	event := farm.Event{Step: step, Stage: stage, State: farm.StateStart}
	b.show.event(event)
	err := do(func(at measure.Progress) {
		b.show.event(farm.Event{Step: step, Stage: stage, State: farm.StateProgress}.Megabytes(at))
	})
	event.State = farm.StateDone
	if err != nil {
		event.State = farm.StateFailed
	}
	b.show.event(event)
	return err
}

// identity is what a bundle says of itself beyond its files. A tree that no
// commit stands for is named by its digest.
func (b *buildCommand) identity(recipe farm.Recipe) bundler.Identity {
	return bundler.Identity{
		Release:  b.release,
		LlamaCPP: manifests.LlamaCPP{Version: b.source.Version, Commit: commitOf(b.source), Build: b.source.Build},
		Build: manifests.Build{
			BuilderImage: recipe.BuilderImage, HostImage: recipe.HostImage, BaseImage: recipe.BaseImage,
			Patches: b.source.Patches, HostCMake: recipe.HostCMake, CUDACMake: recipe.CUDACMake,
			SourceDateEpoch: b.source.Epoch.Unix(), Engine: recipe.Engine,
		},
	}
}

// commitOf is what bundles call a source's commit: the tree's digest where no commit is all there is.
func commitOf(src farm.Source) string {
	if src.Commit == "" || strings.HasSuffix(src.Commit, "-dirty") {
		return src.Digest
	}
	return src.Commit
}

// buildError summarizes in one line what the table and the tails said in many.
func buildError(ctx context.Context, outcome farm.Outcome, err error) error {
	var failed []string
	var causes []error
	for _, result := range outcome.All() {
		if result.Err != nil {
			failed = append(failed, result.Step)
			causes = append(causes, result.Err)
		}
	}
	switch said := fmt.Errorf("building the release: not finished: %s", strings.Join(failed, ", ")); {
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted; the same command resumes here")
	case errors.Is(err, farm.ErrEngineLost):
		return fmt.Errorf("%w: %w", said, farm.ErrEngineLost)
	case onlyAudits(causes):
		return failure.Refuse(said, "the findings above name each file and what to change in the build")
	default:
		return &failedBuild{said, causes}
	}
}

// failedBuild keeps the causes for their hint, and out of a message that repeats the table.
type failedBuild struct {
	said   error
	causes []error
}

func (e *failedBuild) Error() string   { return e.said.Error() }
func (e *failedBuild) Unwrap() []error { return e.causes }

// Hint is that of the first cause that has one.
func (e *failedBuild) Hint() string {
	for _, cause := range e.causes {
		if hint := hintFor(cause); hint != "" {
			return hint
		}
	}
	return ""
}

func engineFlags(cmd *cobra.Command, engines *[]string, base *string) {
	cmd.Flags().StringSliceVar(engines, "engine", nil, "runner host of an engine, repeated or comma-separated (default: $_EXPERIMENTAL_DAGGER_RUNNER_HOST, else the first engine found)")
	cmd.Flags().StringVar(base, "base", "", "registry image to start the builder image from, NAME:TAG or NAME:TAG@DIGEST, or \"made\" for one made here (default: the one locked in docker/cuda12, or \"made\" if no registry answers)")
}
