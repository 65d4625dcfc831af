package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
	"github.com/waqasm86/llcuda-farm/publisher"
)

// A published is a release as the public sees it: addresses below one folder, no API and no token.
type published struct {
	repo, server, tag string
	signedBy          trust
	// patience is how long what is not there may still come: GitHub's servers for downloads take a moment to have what was
	// published.
	patience time.Duration
}

// publicPatience is the patience with what was published just now.
const publicPatience = time.Minute

func (p *published) flags(cmd *cobra.Command) {
	p.addressFlags(cmd)
	p.signedBy.flags(cmd)
}

func (p *published) addressFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.tag, "release", "", "`tag` of the published release, such as v1.1.0-runtime")
	cmd.Flags().StringVar(&p.repo, "repo", manifests.Repository, "the GitHub `repository` that has the release")
	cmd.Flags().StringVar(&p.server, "server", cmp.Or(os.Getenv("GITHUB_SERVER_URL"), "https://github.com"), "`URL` of the GitHub that has the repository (GITHUB_SERVER_URL)")
}

// repoForm is an owner and a repository's name, as GitHub allows them.
var repoForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+$`)

func (p *published) check() error {
	switch server, err := url.Parse(p.server); {
	case p.tag == "":
		return &usageError{errors.New("--release is missing"), "name the release, like --release v1.1.0-runtime"}
	case !releaseName.MatchString(p.tag):
		return &usageError{fmt.Errorf("--release %q: letters, digits and ._- only", p.tag), "like --release v1.1.0-runtime"}
	case !repoForm.MatchString(p.repo):
		return &usageError{fmt.Errorf("--repo %q is not owner/name", p.repo), "like --repo " + manifests.Repository}
	case err != nil || server.Host == "" || server.Scheme != "https" && server.Scheme != "http":
		return &usageError{fmt.Errorf("--server %q is not a URL", p.server), "like --server https://github.com"}
	}
	return nil
}

// folder is where the release's assets are downloaded from.
func (p *published) folder() string {
	return strings.TrimSuffix(p.server, "/") + "/" + p.repo + "/releases/download/" + url.PathEscape(p.tag) + "/"
}

// resolve reads what vouches for the release and believes it as a client does: signature, sums, manifest.
func (p *published) resolve(ctx context.Context) (*fetch.Release, error) {
	verifier, err := p.signedBy.verifier()
	if err != nil {
		return nil, err
	}
	var release *fetch.Release
	err = p.await(ctx, func() (err error) {
		release, err = resolve(ctx, p.folder(), p.tag, verifier)
		return err
	})
	return release, err
}

// await tries until something is there, or patience is at an end.
func (p *published) await(ctx context.Context, try func() error) error {
	end := time.Now().Add(p.patience)
	for wait := p.patience / 128; ; wait *= 2 {
		err := try()
		var answer *transfer.StatusError
		switch {
		case p.patience == 0, !errors.As(err, &answer), answer.Code != http.StatusNotFound:
			return err
		case time.Now().Add(wait).After(end):
			return &refusal{err, "it was published, and nobody but you can download it: is the repository private? Else look at the release, and run this again"}
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// resolve reads what vouches for a release in a folder, here or on the web.
func resolve(ctx context.Context, folder, tag string, verifier *sigverify.Verifier) (*fetch.Release, error) {
	client := fetch.Client{Mirrors: []string{folder}, Verifier: releaseVerifier{verifier}}
	release, err := client.Resolve(ctx, tag)
	if isAs[*fetch.TrustError](err) {
		return nil, &refusal{err, hintFor(err)}
	}
	return release, err
}

// releaseVerifier is sigverify's verifier as package fetch wants it.
type releaseVerifier struct{ *sigverify.Verifier }

func (v releaseVerifier) Verify(sums, signed []byte) (fetch.Signer, error) {
	signer, err := v.Verifier.Verify(sums, signed)
	return fetch.Signer{By: signer.By(), Tag: signer.Tag(), Commit: signer.Commit}, err
}

// downloadLimit is how many assets are downloaded at once: more would not be faster, and each is several connections.
const downloadLimit = 3

// download has the whole release in a folder: what is there already with the right digest stays, what an interrupted
// run began goes on.
func (p *published) download(ctx context.Context, release *fetch.Release, dir releaseDir, progress func(publisher.Progress)) error {
	if err := os.MkdirAll(string(dir), 0o755); err != nil {
		return err
	}
	for _, document := range []struct {
		name string
		data []byte
	}{
		{manifests.ManifestName, release.Documents.Manifest},
		{manifests.SumsName, release.Documents.Sums},
		{manifests.SignatureName, release.Documents.Signature},
	} {
		if err := writeFile(dir.path(document.name), document.data); err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(downloadLimit)
	for _, asset := range release.Assets {
		group.Go(func() error { return p.asset(ctx, asset, dir, progress) })
	}
	return group.Wait()
}

func (p *published) asset(ctx context.Context, asset manifests.Artifact, dir releaseDir, progress func(publisher.Progress)) error {
	name := dir.path(asset.Name)
	switch sum, err := sumOf(name); {
	case err == nil && sum == asset.SHA256:
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	blob := transfer.Blob{Name: asset.Name, Size: asset.Size, SHA256: asset.SHA256, URLs: []string{p.folder() + asset.URL}}
	if err := p.fetch(ctx, blob, name+".partial", progress); err != nil {
		return err
	}
	return os.Rename(name+".partial", name)
}

// fetch brings one file, which must be what the release says of it.
func (p *published) fetch(ctx context.Context, blob transfer.Blob, partial string, progress func(publisher.Progress)) error {
	err := p.await(ctx, func() error {
		return new(transfer.Client).Fetch(ctx, blob, partial, nil, progress)
	})
	if isAs[*transfer.DigestError](err) || isAs[*transfer.SizeError](err) {
		return &refusal{err, "what is public is not what was signed: the release was changed, or a proxy changes downloads; check the release's assets, and publish again"}
	}
	return err
}

// readBack downloads files that were published, as anybody can, and holds them to what they must be. Nothing of them
// stays in dir.
func (p *published) readBack(ctx context.Context, files []publisher.File, dir string, progress func(publisher.Progress)) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(downloadLimit)
	for _, file := range files {
		group.Go(func() error {
			partial := filepath.Join(dir, file.Name)
			blob := transfer.Blob{Name: file.Name, Size: file.Size, SHA256: file.SHA256, URLs: []string{p.folder() + url.PathEscape(file.Name)}, Transient: true}
			if err := p.fetch(ctx, blob, partial, progress); err != nil {
				return err
			}
			return os.Remove(partial)
		})
	}
	return group.Wait()
}

// verify downloads all that is public and holds it to everything that it claims.
func (p *published) verify(ctx context.Context, term *terminal, cache string, rulesFor rulesFor) error {
	if err := p.check(); err != nil {
		return err
	}
	fail := func(err error) error { return fmt.Errorf("verifying %s: %w", p.folder(), err) }
	release, err := p.resolve(ctx)
	if err != nil {
		return fail(err)
	}
	term.notef("release   %s, signed by %s", release.Release.Release, release.Signer.By)
	dir := releaseDir(filepath.Join(cache, "published", strings.ReplaceAll(p.repo, "/", "-"), p.tag))
	if err := p.download(ctx, release, dir, term.Transfers("downloading", "downloaded").Report); err != nil {
		return fail(err)
	}
	verifier, err := p.signedBy.verifier()
	if err != nil {
		return err
	}
	v := verification{dir: dir, rulesFor: rulesFor, verifier: verifier, mustBeSigned: true}
	if err := v.run(ctx); err != nil {
		return fail(err)
	}
	if err := v.report(term); err != nil {
		return err // the files stay, to be looked at
	}
	return os.RemoveAll(string(dir))
}
