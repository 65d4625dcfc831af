package release

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
	"github.com/waqasm86/llcuda-farm/manifests/retry"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
	"github.com/waqasm86/llcuda-farm/publisher"
)

// A Public is a release as the public sees it: addresses below one folder, no API and no token.
type Public struct {
	// Folder is the address of the folder with the release's files, with a slash at the end.
	Folder string
	// Patience is how long what is not there may still come: GitHub's servers for downloads take a
	// moment to have what was published.
	Patience time.Duration
}

// Patience is that with what was published just now.
const Patience = time.Minute

// Resolve reads what vouches for the release and believes it as a client does: signature, sums,
// manifest.
func (p Public) Resolve(ctx context.Context, tag string, verifier *sigverify.Verifier) (*fetch.Release, error) {
	var release *fetch.Release
	err := p.await(ctx, func() (err error) {
		release, err = Resolve(ctx, p.Folder, tag, verifier)
		return err
	})
	return release, err
}

// Resolve reads what vouches for a release in a folder, here or on the web.
func Resolve(ctx context.Context, folder, tag string, verifier *sigverify.Verifier) (*fetch.Release, error) {
	client := fetch.Client{Mirrors: []string{folder}, Verifier: releaseVerifier{verifier}}
	release, err := client.Resolve(ctx, tag)
	if isAs[*fetch.TrustError](err) {
		return nil, failure.Refuse(err, hintOf(err))
	}
	return release, err
}

// releaseVerifier is sigverify's verifier as package fetch wants it.
type releaseVerifier struct{ *sigverify.Verifier }

func (v releaseVerifier) Verify(sums, signed []byte) (fetch.Signer, error) {
	signer, err := v.Verifier.Verify(sums, signed)
	return fetch.Signer{By: signer.By(), Tag: signer.Tag(), Commit: signer.Commit}, err
}

// await tries until something is there, or patience is at an end.
func (p Public) await(ctx context.Context, try func() error) error {
	if p.Patience == 0 {
		return try()
	}
	var answer error
	policy := retry.Policy{Tries: -1, Within: p.Patience, FirstWait: p.Patience / 128, LongestWait: p.Patience}
	err := policy.Do(ctx, func() error {
		answer = try()
		if status, ok := errors.AsType[*transfer.StatusError](answer); ok && status.Code == http.StatusNotFound {
			return &retry.TemporaryError{Err: answer}
		}
		return nil // every other answer is final
	})
	switch {
	case retry.IsTemporary(err):
		return failure.Refuse(answer, "it was published, and nobody but you can download it: is the repository private? Else look at the release, and run this again")
	case err != nil:
		return err
	}
	return answer
}

// downloadLimit is how many assets are downloaded at once: more would not be faster, and each is
// several connections.
const downloadLimit = 3

// Download has the whole release in a folder: what is there already with the right digest stays,
// and what an interrupted run began is continued.
func (p Public) Download(ctx context.Context, release *fetch.Release, dir Dir, progress func(publisher.Progress)) error {
	if err := os.MkdirAll(string(dir), 0o755); err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		manifests.ManifestName:  release.Documents.Manifest,
		manifests.SumsName:      release.Documents.Sums,
		manifests.SignatureName: release.Documents.Signature,
	} {
		if err := WriteFile(dir.Path(name), data); err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(downloadLimit)
	for _, asset := range release.Assets {
		group.Go(func() error { return p.Asset(ctx, asset, dir, progress) })
	}
	return group.Wait()
}

// Asset has one asset in a folder.
func (p Public) Asset(ctx context.Context, asset manifests.Artifact, dir Dir, progress func(publisher.Progress)) error {
	name := dir.Path(asset.Name)
	switch sum, err := sumOf(name); {
	case err == nil && sum == asset.SHA256:
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	blob := transfer.Blob{Name: asset.Name, Size: asset.Size, SHA256: asset.SHA256, URLs: []string{p.Folder + asset.URL}}
	if err := p.fetch(ctx, blob, name+".partial", progress); err != nil {
		return err
	}
	return os.Rename(name+".partial", name)
}

// fetch downloads one file, which must be what the release says of it.
func (p Public) fetch(ctx context.Context, blob transfer.Blob, partial string, progress func(publisher.Progress)) error {
	err := p.await(ctx, func() error {
		return new(transfer.Client).Fetch(ctx, blob, partial, nil, progress)
	})
	if isAs[*transfer.DigestError](err) || isAs[*transfer.SizeError](err) {
		return failure.Refuse(err, "what is public is not what was signed: the release was changed, or a proxy changes downloads; check the release's assets, and publish again")
	}
	return err
}

// ReadBack downloads files that were published, as anybody can, and compares them with what they
// must be. Nothing of them stays in dir.
func (p Public) ReadBack(ctx context.Context, files []publisher.File, dir string, progress func(publisher.Progress)) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(downloadLimit)
	for _, file := range files {
		group.Go(func() error {
			partial := filepath.Join(dir, file.Name)
			blob := transfer.Blob{Name: file.Name, Size: file.Size, SHA256: file.SHA256, URLs: []string{p.Folder + url.PathEscape(file.Name)}, Transient: true}
			if err := p.fetch(ctx, blob, partial, progress); err != nil {
				return err
			}
			return os.Remove(partial)
		})
	}
	return group.Wait()
}
