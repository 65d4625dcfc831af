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
	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/ci/internal/release"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
)

func newVerifyCommand(term *terminal, backend Backend) *cobra.Command {
	var public publicFlags
	var cache string
	var mustBeSigned bool
	cmd := &cobra.Command{
		Use:   "verify DIR | --release TAG",
		Short: "Recompute everything that a release claims",
		Long: `Recompute everything that a release claims: every file against SHA256SUMS,
manifest.json against the archives, every archive's files against its own
metadata, and the files against the audit's rules; if it is signed, the signature,
the provenance and the bills of materials as well; and the wheels of the Python
package, whose client must be the one beside them. It prints all findings, and exits
with 3 if there are any.

With --release it verifies a published release: it downloads everything that the
public can download, without a token, and verifies the signature first.`,
		Example: `  go run ./ci verify dist
  go run ./ci verify dist --signed --public-key farm.pub
  go run ./ci verify --release v1.1.0-runtime    # what is public`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 0) == (public.tag == "") {
				return console.Usage(errors.New("give either a folder or --release"), "go run ./ci verify dist, or go run ./ci verify --release v1.1.0-runtime")
			}
			m, err := spec.Default()
			if err != nil {
				return fmt.Errorf("reading the matrix: %w", err)
			}
			if public.tag != "" {
				cache, err := openCache(cache)
				if err != nil {
					return err
				}
				return verifyPublic(cmd.Context(), term, public, 0, cache, rulesIn(m, backend.BuildPaths()))
			}
			dir, err := existingDir(args[0])
			if err != nil {
				return err
			}
			verifier, err := public.signedBy.verifier()
			if err != nil {
				return err
			}
			return verifyDir(cmd.Context(), term, dir, release.Checks{RulesFor: rulesIn(m, backend.BuildPaths()), Verifier: verifier, MustBeSigned: mustBeSigned})
		},
	}
	public.flags(cmd)
	cacheFlag(cmd, &cache)
	cmd.Flags().BoolVar(&mustBeSigned, "signed", false, "make it a finding that the release is not signed")
	return cmd
}

// rulesFrom returns the rules of a target.
func rulesFrom(m matrix.Matrix, buildPaths []string, target matrix.Target) bundler.Rules {
	toolkit, _ := m.ToolkitOf(target) // Check has seen to it
	return bundler.Rules{Target: target, Toolkit: toolkit, Floors: m.Floors, BuildPaths: buildPaths}
}

// rulesIn finds a row's rules in the matrix.
func rulesIn(m matrix.Matrix, buildPaths []string) release.RulesFor {
	return func(row matrix.Row) (bundler.Rules, error) {
		for _, target := range m.Targets {
			if target.Row() == row {
				return rulesFrom(m, buildPaths, target), nil
			}
		}
		return bundler.Rules{}, fmt.Errorf("the matrix has no %s", row)
	}
}

// verifyDir verifies a folder and prints what was found.
func verifyDir(ctx context.Context, term *terminal, dir release.Dir, checks release.Checks) error {
	report, err := dir.Verify(ctx, checks)
	if err != nil {
		return fmt.Errorf("verifying %s: %w", dir, err)
	}
	for _, f := range report.Findings {
		term.Printf("%s: %s: %s", dir.Path(f.Name), f.Rule, f.Detail)
	}
	if n := len(report.Findings); n > 0 {
		found := "1 finding"
		if n > 1 {
			found = fmt.Sprintf("%d findings", n)
		}
		return failure.Refuse(fmt.Errorf("verifying %s: %s", dir, found), "build the release again, or take it from where it was built")
	}
	signature := "not signed"
	if report.Signer != "" {
		signature = "signed by " + report.Signer
	}
	term.Printf("%s: release %s, llama.cpp %s: %d archives and %s agree; %s", dir, report.Release.Release, report.Release.LlamaCPP.Version,
		report.Archives, manifests.ManifestName, signature)
	return nil
}

// verifyPublic downloads everything that is public and verifies it.
func verifyPublic(ctx context.Context, term *terminal, at publicFlags, patience time.Duration, cache string, rulesFor release.RulesFor) error {
	if err := at.check(); err != nil {
		return err
	}
	verifier, err := at.signedBy.verifier()
	if err != nil {
		return err
	}
	public := release.Public{Folder: at.folder(), Patience: patience}
	fail := func(err error) error { return fmt.Errorf("verifying %s: %w", public.Folder, err) }
	released, err := public.Resolve(ctx, at.tag, verifier)
	if err != nil {
		return fail(err)
	}
	term.Notef("release   %s, signed by %s", released.Release.Release, released.Signer.By)
	dir := release.Dir(filepath.Join(cache, "published", strings.ReplaceAll(at.repo, "/", "-"), at.tag))
	if err := public.Download(ctx, released, dir, term.Transfers("downloading", "downloaded").Report); err != nil {
		return fail(err)
	}
	if err := verifyDir(ctx, term, dir, release.Checks{RulesFor: rulesFor, Verifier: verifier, MustBeSigned: true}); err != nil {
		return err // the files stay, to be looked at
	}
	return os.RemoveAll(string(dir))
}
