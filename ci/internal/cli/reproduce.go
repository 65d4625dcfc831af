package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/matrix"
)

func reproduceCommand(term *terminal, backend Backend) *cobra.Command {
	r := reproduction{term: term, backend: backend}
	cmd := &cobra.Command{
		Use:   "reproduce --release TAG --sm SM",
		Short: "Build a published release's bundles again and compare",
		Long: `Build a published release's bundles again and compare: the same bytes, or a list
of what differs, file by file.

The source, the base image and the version of the engine are taken from the release,
the rest of the recipe from this checkout: check out the commit that the release was
made from. An engine that has built the release before has the results in its cache;
steps served from the cache are reported.`,
		Example: `  go run ./ci reproduce --release v1.1.0-runtime --sm 75`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return r.run(cmd.Context()) },
	}
	r.flags(cmd)
	r.public.flags(cmd)
	cmd.Flags().StringVar(&r.out, "out", "", "folder for what is built (default: one in the cache, removed if everything is the same)")
	return cmd
}

// reproduction is one reproduce command under way.
type reproduction struct {
	buildOptions
	public  published
	term    *terminal
	backend Backend
}

func (r *reproduction) run(ctx context.Context) error {
	if err := r.public.check(); err != nil {
		return err
	}
	if _, _, err := r.targets(); err != nil {
		return err // before anything is asked of the network
	}
	if err := r.openCache(); err != nil {
		return err
	}
	release, err := r.public.resolve(ctx)
	if err != nil {
		return fmt.Errorf("reproducing %s: %w", r.public.folder(), err)
	}
	r.term.notef("release   %s, signed by %s", release.Release.Release, release.Signer.By)
	kept := r.out != ""
	if !kept {
		r.out = filepath.Join(r.cache, "reproduced", strings.ReplaceAll(r.public.repo, "/", "-"), r.public.tag)
		if err := os.RemoveAll(r.out); err != nil {
			return err
		}
	}
	built, err := r.rebuild(ctx, release)
	if err != nil {
		return err
	}
	same, err := r.compare(ctx, release, built)
	if err != nil {
		return err
	}
	if !same {
		return &refusal{errors.New("what was built is not what was released"),
			"a builder, recipe or packer of another commit explains differences in metadata.json; the release's provenance names the commit. Without one, ask who released it"}
	}
	if !kept {
		return os.RemoveAll(r.out)
	}
	return nil
}

// rebuild builds the release's source with this checkout's recipe.
func (r *reproduction) rebuild(ctx context.Context, release *fetch.Release) (farm.Outcome, error) {
	b := build{buildOptions: r.buildOptions, term: r.term, backend: r.backend, dir: releaseDir(r.out)}
	b.release = release.Release.Release
	if b.llama == "" {
		m, _, err := b.selection.targets()
		if err != nil {
			return farm.Outcome{}, err
		}
		switch commit := release.LlamaCPP.Commit; {
		case commit == m.LlamaCPP.Commit: // the pin, which has more than one place to come from
		case strings.HasPrefix(commit, "sha256:"):
			return farm.Outcome{}, &usageError{fmt.Errorf("the release was built from a tree without a commit, %s", commit), "give the tree with --llama"}
		default:
			b.llama = m.LlamaCPP.Repository + "@" + commit
		}
	}
	if err := b.preflight(ctx); err != nil {
		return farm.Outcome{}, err
	}
	if got := b.identity().LlamaCPP; got != release.LlamaCPP {
		return farm.Outcome{}, &usageError{fmt.Errorf("the source is llama.cpp %s, commit %s, build %d; the release is of %s, commit %s, build %d",
			got.Version, got.Commit, got.Build, release.LlamaCPP.Version, release.LlamaCPP.Commit, release.LlamaCPP.Build), "give the release's source with --llama"}
	}
	b.source.Epoch = time.Unix(release.SourceDateEpoch, 0)
	var err error
	if b.like, err = r.built(ctx, release, b.targets); err != nil {
		return farm.Outcome{}, err
	}
	work, remove, err := openWork(b.cache)
	if err != nil {
		return farm.Outcome{}, err
	}
	defer remove()
	began := time.Now()
	outcome, err := b.compile(ctx, work)
	if outcome.Host.Step == "" {
		return outcome, err // nothing was begun
	}
	r.term.printf("%s", summary(outcome, time.Since(began)))
	writeFailures(r.term, outcome)
	if err != nil {
		return outcome, buildError(ctx, outcome, err)
	}
	for _, result := range results(outcome) {
		if result.Stats.Cached {
			r.term.warnf("%s came from the engine's cache: that it compiles to the same is not shown here; go run ./ci engine prune, or another machine, shows it", result.Step)
		}
	}
	return outcome, nil
}

// built is how the release's bundles were built, by their metadata.json, which is all that is used of what is downloaded for
// that. One build has one engine and one base.
func (r *reproduction) built(ctx context.Context, release *fetch.Release, targets []matrix.Target) (*manifests.Build, error) {
	dir := r.released()
	if err := os.MkdirAll(string(dir), 0o755); err != nil {
		return nil, err
	}
	show := r.term.Transfers("downloading", "downloaded").Report
	var first *manifests.Build
	for _, target := range targets {
		bundle, has := release.Bundle(target.SM)
		if !has {
			return nil, &usageError{fmt.Errorf("the release has no %s", manifests.BundleName(target.SM)), "give an SM that it has"}
		}
		if err := r.public.asset(ctx, bundle, dir, show); err != nil {
			return nil, err
		}
		meta, err := bundler.ReadMetadata(ctx, dir.path(bundle.Name))
		if err != nil {
			return nil, err
		}
		if first == nil {
			first = &meta.Build
		}
		if meta.Build.Engine != first.Engine || meta.Build.BaseImage != first.BaseImage {
			return nil, &usageError{fmt.Errorf("%s was built by %s on %s, and %s by %s on %s", targets[0].SM, first.Engine, first.BaseImage, target.SM, meta.Build.Engine, meta.Build.BaseImage), "give one SM at a time"}
		}
	}
	return first, nil
}

// released is the folder for what is downloaded of the release.
func (r *reproduction) released() releaseDir { return releaseDir(filepath.Join(r.out, "released")) }

// compare holds what was built to the release's manifest.
func (r *reproduction) compare(ctx context.Context, release *fetch.Release, outcome farm.Outcome) (same bool, err error) {
	same = true
	for _, result := range results(outcome) {
		for _, mine := range result.Artifacts {
			theirs, ok := release.Asset(mine.Name)
			switch {
			case !ok && mine.Kind == manifests.KindCUDART:
				r.term.printf("%s: differs: the release has another CUDA runtime", mine.Name)
				same = false
			case !ok:
				return false, &usageError{fmt.Errorf("the release has no %s", mine.Name), "give an SM that it has"}
			case mine.SHA256 == theirs.SHA256:
				r.term.printf("%s: the same: sha256 %s, %d bytes", mine.Name, mine.SHA256, mine.Size)
			default:
				same = false
				if err := r.explain(ctx, mine.Name, theirs); err != nil {
					return false, err
				}
			}
		}
	}
	return same, nil
}

// explain downloads a released archive and lists what is different in the one built here.
func (r *reproduction) explain(ctx context.Context, name string, theirs manifests.Artifact) error {
	dir := r.released()
	if err := r.public.asset(ctx, theirs, dir, r.term.Transfers("downloading", "downloaded").Report); err != nil {
		return err
	}
	findings, err := bundler.CompareArchives(ctx, dir.path(name), filepath.Join(r.out, name))
	if err != nil {
		return err
	}
	for _, f := range findings {
		where := name
		if f.Path != "" {
			where += ": " + f.Path
		}
		r.term.printf("%s: %s: %s", where, f.Rule, f.Detail)
	}
	return nil
}
