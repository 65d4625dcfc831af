package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/ci/internal/release"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
	"github.com/waqasm86/llcuda-farm/publisher/site"
)

// A siteCommand is one run of site.
type siteCommand struct {
	out, downloads string
	mustBeSigned   bool
	signedBy       trust
}

func newSiteCommand(term *terminal) *cobra.Command {
	var s siteCommand
	cmd := &cobra.Command{
		Use:   "site DIR [OLDER-DIR...]",
		Short: "Write the page that shows people a release",
		Long: `Write the page that shows people a release: which bundle is for which GPU, what it
downloads, the driver it needs, how to install and verify it, and how sizes and speed
changed over the last releases. It is one file, ` + site.Name + `, which asks no server for
anything and can be read without JavaScript.

Of a folder it reads ` + manifests.ManifestName + ` and, if there, ` + manifests.BenchmarkName + `; archives need not
be there. A release that is signed is verified as clients do. Folders of releases that
are not older than the first are left out, and so are older ones that are refused.`,
		Example: `  go run ./ci site dist
  go run ./ci site v1.2.0 v1.1.0 v1.0.0 --signed --out public`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return s.run(cmd.Context(), term, args) },
	}
	cmd.Flags().StringVar(&s.out, "out", "site", "`folder` to write "+site.Name+" to")
	cmd.Flags().StringVar(&s.downloads, "downloads", manifests.RepositoryURL+"/releases/download", "`URL` with a folder for each release, which links and commands lead to")
	cmd.Flags().BoolVar(&s.mustBeSigned, "signed", false, "refuse a release that is not signed")
	s.signedBy.flags(cmd)
	return cmd
}

func (s *siteCommand) run(ctx context.Context, term *terminal, dirs []string) error {
	if at, err := url.Parse(s.downloads); err != nil || at.Host == "" || at.Scheme != "https" && at.Scheme != "http" {
		return console.Usage(fmt.Errorf("--downloads %q is not a URL", s.downloads), "like --downloads https://example.org/releases")
	}
	m, err := spec.Default()
	if err != nil {
		return fmt.Errorf("reading the matrix: %w", err)
	}
	verifier, err := s.signedBy.verifier()
	if err != nil {
		return err
	}
	var all []release.Told
	for i, name := range dirs {
		dir, err := existingDir(name)
		if err != nil {
			return err
		}
		told, err := dir.Tell(ctx, verifier, s.mustBeSigned)
		if i > 0 && isAs[*failure.Refusal](err) {
			term.Warnf("the page does not compare with %s: %v", dir, err)
			continue
		}
		if err != nil {
			return err
		}
		if told.Signer == nil {
			term.Warnf("%s is not signed: nothing shows that its digests are the farm's", dir)
		}
		all = append(all, told)
	}
	current, older := all[0], []site.Release{}
	for _, told := range all[1:] {
		older = append(older, site.Release{Release: told.Release, Benchmark: told.Benchmark})
	}
	opts := site.Options{Downloads: strings.TrimSuffix(s.downloads, "/"), Source: m.LlamaCPP.Repository}
	switch {
	case current.Signer != nil:
		opts.Identity, opts.Issuer = current.Signer.Identity, current.Signer.Issuer
	case s.signedBy.key == "":
		opts.Identity, opts.Issuer = manifests.SignerIdentity+"@refs/tags/"+current.Release.Release, manifests.SignerIssuer
	}
	page, err := site.Page(site.Release{Release: current.Release, Benchmark: current.Benchmark}, older, opts)
	if err != nil {
		return err
	}
	file := filepath.Join(s.out, site.Name)
	if err := errors.Join(os.MkdirAll(s.out, 0o755), release.WriteFile(file, page)); err != nil {
		return err
	}
	term.Printf("%s: release %s, %d bundles, %s", file, current.Release.Release, len(current.Release.Bundles()), measure.Bytes(int64(len(page))))
	return nil
}
