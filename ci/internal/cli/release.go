package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/ci/internal/release"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/publisher"
)

func newReleaseCommand(term *terminal, backend Backend) *cobra.Command {
	r := releaseCommand{term: term, backend: backend}
	cmd := &cobra.Command{
		Use:   "release --release TAG --sm SM",
		Short: "Make and publish a whole release: build, client, wheel, sign, publish, verify",
		Long: `Make and publish a whole release: build the bundles, package the client and the
Python package, sign all of it, publish it, and verify what is public as a user
would. The Python package goes to its index later, by go run ./ci publish pypi.

Before the first step it checks what would stop a later one: the right to sign, the
right to publish, a clean checkout. After a failure or a kill at any moment, repeat
the command: each step keeps what is done and correct. Bundles in the folder that
belong to this release and this source are not built again.

With --dry-run it shows what each step would do, and builds and sends nothing.`,
		Example: `  go run ./ci release --release v1.1.0-runtime --sm all --dry-run
  go run ./ci release --release v1.1.0-runtime --sm all`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return r.run(cmd.Context()) },
	}
	r.buildOptions.flags(cmd)
	r.sign.flags(cmd)
	r.github.flags(cmd)
	cmd.Flags().StringVar(&r.release, "release", "", "the release and its git `tag`, such as v1.1.0-runtime")
	console.Alias(cmd, "release", "tag")
	cmd.Flags().StringVar(&r.out, "out", "dist", "folder for the release")
	return cmd
}

// A releaseCommand is one release under way.
type releaseCommand struct {
	buildOptions
	sign    signing
	github  publishGitHubCommand
	term    *terminal
	backend Backend
}

func (r *releaseCommand) run(ctx context.Context) error {
	b := buildCommand{buildOptions: r.buildOptions, term: r.term, backend: r.backend, dir: release.Dir(r.out)}
	c := clientCommand{what: "llcuda-fetch", release: r.release, term: r.term, backend: r.backend, engines: r.engines, base: r.base, cache: r.cache, dir: b.dir}
	server, credential, err := r.preflight(ctx, &b, &c)
	if err != nil {
		return err
	}
	built, err := b.already(ctx)
	if err != nil {
		return err
	}
	if r.github.dryRun {
		return r.say(&b, credential, server, built)
	}
	steps := []struct {
		name string
		do   func() error
	}{
		{"build", func() error {
			if built {
				r.term.Notef("the bundles are in %s already", b.dir)
				return nil
			}
			return b.run(ctx)
		}},
		{"client", func() error { return c.run(ctx) }},
		{"wheel", func() error {
			w := c
			w.what = "the Python package"
			return w.wheels(ctx)
		}},
		{"sign", func() error {
			return signDir(ctx, r.term, b.dir, release.SignOptions{Credential: credential, Pin: b.matrix.LlamaCPP, Known: b.known})
		}},
		{"publish", func() error { return r.github.run(ctx, r.term) }},
		{"verify", func() error {
			if r.github.draft {
				r.term.Notef("a draft is not public: repeat the command without --draft")
				return nil
			}
			public := publicFlags{repo: r.github.repo, server: server, tag: r.release, signedBy: r.sign.signedBy}
			return verifyPublic(ctx, r.term, public, release.Patience, b.cache, rulesIn(b.matrix, r.backend.BuildPaths()))
		}},
	}
	for i, step := range steps {
		r.term.Notef("release   step %d of %d: %s", i+1, len(steps), step.name)
		if err := step.do(); err != nil {
			return &stepError{step.name, err}
		}
	}
	if !r.github.draft {
		r.term.Notef("next: clients without --release install it once the pointer names it; the workflow pointer.yml does that after release.yml;\n      for a release made elsewhere: gh workflow run pointer.yml -f release=%s --repo %s", r.release, r.github.repo)
	}
	return nil
}

// A stepError names the step at which a release stopped.
type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string {
	return fmt.Sprintf("%v\nthe release stopped at the step %s; the same command resumes there", e.err, e.step)
}
func (e *stepError) Unwrap() error { return e.err }

// preflight checks for everything that a later step needs.
func (r *releaseCommand) preflight(ctx context.Context, b *buildCommand, c *clientCommand) (server string, as *release.Credential, err error) {
	if err := b.choose(); err != nil {
		return "", nil, err
	}
	switch {
	case r.release == "":
		return "", nil, console.Usage(errors.New("--release is missing"), "name the release, like --release v1.1.0-runtime")
	case !releaseName.MatchString(r.release):
		return "", nil, console.Usage(fmt.Errorf("--release %q: letters, digits and ._- only", r.release), "like --release v1.1.0-runtime")
	case r.sign.key != "" && r.sign.signedBy.key == "":
		return "", nil, console.Usage(errors.New("--key needs --public-key beside it: what is public is verified with that"), "give the key that users will have")
	}
	r.github.dir, r.github.signedBy, r.github.verified = b.dir, r.sign.signedBy, true
	if _, server, err = r.github.store(); err != nil {
		return "", nil, err
	}
	if _, err := c.checkout(ctx); err != nil {
		return "", nil, err
	}
	if as, err = r.sign.open(ctx, r.term, sigverify.Release); err != nil {
		return "", nil, err
	}
	r.github.table = b.matrix
	if err := b.resolveSource(ctx); err != nil {
		return "", nil, err
	}
	return server, as, b.openLedger()
}

// already reports whether the folder holds the bundles of this release, source and selection, as
// its manifest has them.
func (b *buildCommand) already(ctx context.Context) (bool, error) {
	found, err := publisher.InspectFolder(ctx, string(b.dir))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	has, mine := found.Folder.Release, b.identity(farm.Recipe{})
	if has.Release != mine.Release || has.LlamaCPP != mine.LlamaCPP || has.SourceDateEpoch != mine.Build.SourceDateEpoch {
		return false, nil // build says what is wrong with the folder
	}
	for _, a := range has.Assets {
		if manifests.IsArchive(a.Name) && !found.Intact(a) {
			return false, nil
		}
	}
	for _, bundle := range has.Bundles() {
		meta, err := bundler.ReadMetadata(ctx, b.dir.Path(bundle.Name))
		if err != nil || !slices.Equal(meta.Build.Patches, mine.Build.Patches) {
			return false, ctx.Err() // the manifest does not say what was changed in the source
		}
	}
	return !slices.ContainsFunc(b.targets, func(t matrix.Target) bool { _, has := has.Bundle(t.Row()); return !has }), nil
}

// say prints the dry run.
func (r *releaseCommand) say(b *buildCommand, as *release.Credential, server string, built bool) error {
	p, err := newPlan(b.matrix, b.targets, foundSource(b.source))
	if err != nil {
		return err
	}
	r.term.Printf("%s", p.table())
	what := "compile what the engine has not compiled yet"
	if built {
		what = "nothing: the bundles are in " + string(b.dir)
	}
	who := "the key given"
	if as.Identity != "" {
		who = as.Identity
	}
	where := "a public release"
	if r.github.draft {
		where = "a draft"
	}
	r.term.Printf("\nbuild     %s", what)
	r.term.Printf("client    package llcuda-fetch into %s", b.dir)
	r.term.Printf("wheel     package the Python package into %s", b.dir)
	r.term.Printf("sign      as %s", who)
	r.term.Printf("publish   %s of %s on %s/%s", where, r.release, server, r.github.repo)
	r.term.Printf("verify    everything that is public then")
	return nil
}
