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

	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/ci/internal/release"
	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
)

func newReproduceCommand(term *terminal, backend Backend) *cobra.Command {
	r := reproduceCommand{term: term, backend: backend}
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

// A reproduceCommand is one reproduction under way.
type reproduceCommand struct {
	buildOptions
	public  publicFlags
	term    *terminal
	backend Backend
}

func (r *reproduceCommand) run(ctx context.Context) error {
	if err := r.public.check(); err != nil {
		return err
	}
	b := buildCommand{buildOptions: r.buildOptions, term: r.term, backend: r.backend}
	if err := b.choose(); err != nil {
		return err // before anything is asked of the network
	}
	if err := r.openCache(); err != nil {
		return err
	}
	verifier, err := r.public.signedBy.verifier()
	if err != nil {
		return err
	}
	public := release.Public{Folder: r.public.folder()}
	released, err := public.Resolve(ctx, r.public.tag, verifier)
	if err != nil {
		return fmt.Errorf("reproducing %s: %w", public.Folder, err)
	}
	r.term.Notef("release   %s, signed by %s", released.Release.Release, released.Signer.By)
	kept := r.out != ""
	if !kept {
		r.out = filepath.Join(r.cache, "reproduced", strings.ReplaceAll(r.public.repo, "/", "-"), r.public.tag)
		if err := os.RemoveAll(r.out); err != nil {
			return err
		}
	}
	b.out, b.cache, b.dir = r.out, r.cache, release.Dir(r.out)
	outcome, err := r.rebuild(ctx, &b, public, released)
	if err != nil {
		return err
	}
	same, err := r.compare(ctx, public, released, outcome)
	if err != nil {
		return err
	}
	if !same {
		return failure.Refuse(errors.New("what was built is not what was released"),
			"a builder, recipe or packer of another commit explains differences in metadata.json; the release's provenance names the commit. Without one, ask who released it")
	}
	if !kept {
		return os.RemoveAll(r.out)
	}
	return nil
}

// rebuild builds the release's source with this checkout's recipe.
func (r *reproduceCommand) rebuild(ctx context.Context, b *buildCommand, public release.Public, released *fetch.Release) (farm.Outcome, error) {
	b.release = released.Release.Release
	if b.llama == "" {
		switch commit := released.LlamaCPP.Commit; {
		case commit == b.matrix.LlamaCPP.Commit: // the pin, which has more than one place to come from
		case strings.HasPrefix(commit, "sha256:"):
			return farm.Outcome{}, console.Usage(fmt.Errorf("the release was built from a tree without a commit, %s", commit), "give the tree with --llama")
		default:
			b.llama = b.matrix.LlamaCPP.Repository + "@" + commit
		}
	}
	if err := b.preflight(ctx); err != nil {
		return farm.Outcome{}, err
	}
	if got := b.identity(farm.Recipe{}).LlamaCPP; got != released.LlamaCPP {
		return farm.Outcome{}, console.Usage(fmt.Errorf("the source is llama.cpp %s, commit %s, build %d; the release is of %s, commit %s, build %d",
			got.Version, got.Commit, got.Build, released.LlamaCPP.Version, released.LlamaCPP.Commit, released.LlamaCPP.Build), "give the release's source with --llama")
	}
	b.source.Epoch = time.Unix(released.SourceDateEpoch, 0)
	like, err := public.BuiltBy(ctx, released, b.targets, r.released(), r.term.Transfers("downloading", "downloaded").Report)
	if err != nil {
		return farm.Outcome{}, err
	}
	b.like = like
	work, remove, err := openWork(ctx, b.cache)
	if err != nil {
		return farm.Outcome{}, err
	}
	defer remove()
	began := time.Now()
	outcome, err := b.compile(ctx, work)
	if len(outcome.All()) == 0 {
		return outcome, err // nothing was begun
	}
	r.term.Printf("%s", summary(outcome, time.Since(began)))
	writeFailures(r.term, outcome)
	if err != nil {
		return outcome, buildError(ctx, outcome, err)
	}
	for _, result := range outcome.All() {
		if result.Stats.Cached {
			r.term.Warnf("%s came from the engine's cache: that it compiles to the same is not shown here; go run ./ci engine prune, or another machine, shows it", result.Step)
		}
	}
	return outcome, nil
}

// released is the folder for what is downloaded of the release.
func (r *reproduceCommand) released() release.Dir {
	return release.Dir(filepath.Join(r.out, "released"))
}

// compare compares what was built with the release.
func (r *reproduceCommand) compare(ctx context.Context, public release.Public, released *fetch.Release, outcome farm.Outcome) (same bool, err error) {
	same = true
	for _, result := range outcome.All() {
		for _, mine := range result.Artifacts {
			found, err := public.CompareArchive(ctx, released, mine, release.Dir(r.out), r.released(), r.term.Transfers("downloading", "downloaded").Report)
			switch {
			case err != nil:
				return false, err
			case found.Same:
				r.term.Printf("%s: the same: sha256 %s, %d bytes", mine.Name, mine.SHA256, mine.Size)
				continue
			case found.OtherRuntime:
				r.term.Printf("%s: differs: the release has another CUDA runtime", mine.Name)
			}
			same = false
			for _, f := range found.Findings {
				where := mine.Name
				if f.Path != "" {
					where += ": " + f.Path
				}
				r.term.Printf("%s: %s: %s", where, f.Rule, f.Detail)
			}
		}
	}
	return same, nil
}
