package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/archive"
	"github.com/waqasm86/llcuda-farm/manifests/retry"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
	"github.com/waqasm86/llcuda-farm/publisher"
	"github.com/waqasm86/llcuda-farm/publisher/changes"
	"github.com/waqasm86/llcuda-farm/publisher/sbom"
)

// maxBill bounds a bill of materials, which is read into memory; one has about 250 kB.
const maxBill = 16 << 20

// Read reads what another release is compared with: the manifest, the benchmark, and which files the
// bundles have. Those come from the bills of materials, and only where there are none from the
// archives, which must be decompressed for that. It believes the manifest: whether the archives are
// what that says is for Verify to tell.
func (d Dir) Read(ctx context.Context) (changes.Release, error) {
	described, err := d.Manifest()
	if err != nil {
		return changes.Release{}, err
	}
	return d.read(ctx, described)
}

func (d Dir) read(ctx context.Context, described manifests.Release) (changes.Release, error) {
	r := changes.Release{Release: described, Files: map[string][]manifests.File{}}
	var err error
	if r.Benchmark, err = d.describedBenchmark(described); err != nil {
		return r, err
	}
	bundles := described.Bundles()
	files := make([][]manifests.File, len(bundles))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readLimit())
	for i, bundle := range bundles {
		group.Go(func() (err error) {
			files[i], err = d.files(ctx, described, bundle)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return r, err
	}
	for i, bundle := range bundles {
		if files[i] != nil {
			r.Files[bundle.Stem()] = files[i]
		}
	}
	return r, nil
}

// files are those of a bundle; nil where nothing in the folder says which.
func (d Dir) files(ctx context.Context, described manifests.Release, bundle manifests.Artifact) ([]manifests.File, error) {
	if bill, has := described.Asset(manifests.SBOMName(bundle.Name)); has {
		if there, err := d.holds(bill); err != nil || there {
			if err != nil {
				return nil, err
			}
			return d.billed(bill)
		}
	}
	for _, twin := range slices.Backward(described.Formats(bundle)) { // the faster one first
		if !exists(d.Path(twin.Name)) {
			continue
		}
		meta, err := bundler.ReadMetadata(ctx, d.Path(twin.Name))
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			return nil, failure.Refuse(err, d.verifyHint())
		}
		if findings := archive.CompareMetadata(meta, twin); len(findings) > 0 {
			return nil, failure.Refuse(fmt.Errorf("reading %s: it is not what %s describes: %s", d.Path(twin.Name), manifests.ManifestName, findings[0]), d.verifyHint())
		}
		return meta.Files, nil
	}
	return nil, nil
}

// billed are the files that a bill of materials names.
func (d Dir) billed(bill manifests.Artifact) ([]manifests.File, error) {
	fail := func(err error) ([]manifests.File, error) {
		return nil, failure.Refuse(fmt.Errorf("reading %s: %w", d.Path(bill.Name), err), d.verifyHint())
	}
	if bill.Size > maxBill {
		return fail(fmt.Errorf("it has %d bytes, and a bill of materials at most %d", bill.Size, maxBill))
	}
	text, err := os.ReadFile(d.Path(bill.Name))
	if err != nil {
		return nil, err
	}
	files, err := sbom.Files(text)
	if err != nil {
		return fail(err)
	}
	return files, nil
}

// holds reports whether the folder has an asset. One with other bytes than the manifest's is a
// *failure.Refusal.
func (d Dir) holds(asset manifests.Artifact) (bool, error) {
	info, err := os.Stat(d.Path(asset.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	sum := ""
	if info.Mode().IsRegular() && info.Size() == asset.Size {
		if sum, err = sumOf(d.Path(asset.Name)); err != nil {
			return false, err
		}
	}
	if sum != asset.SHA256 {
		return false, failure.Refuse(fmt.Errorf("reading %s: it is not the file that %s describes", d.Path(asset.Name), manifests.ManifestName), d.verifyHint())
	}
	return true, nil
}

func (d Dir) verifyHint() string {
	return fmt.Sprintf("copy or download the release again; go run ./ci verify %s lists all that is wrong with it", d)
}

// Read reads a published release as Dir.Read does, after its signature was verified. No archive is
// downloaded: the benchmark and the bills of materials go to a folder.
func (p Public) Read(ctx context.Context, tag string, verifier *sigverify.Verifier, to Dir, progress func(publisher.Progress)) (changes.Release, error) {
	released, err := p.Resolve(ctx, tag, verifier)
	if err != nil {
		return changes.Release{}, err
	}
	if err := os.MkdirAll(string(to), 0o755); err != nil {
		return changes.Release{}, err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(downloadLimit)
	for _, name := range append(billsOf(released.Release), manifests.BenchmarkName) {
		if asset, has := released.Asset(name); has {
			group.Go(func() error { return p.Asset(groupCtx, asset, to, progress) })
		}
	}
	if err := group.Wait(); err != nil {
		return changes.Release{}, err
	}
	return to.read(ctx, released.Release)
}

// Previous is the tag of the published release that a new one follows; empty where there is none. The tags
// of what was published come from list, newest first.
func Previous(ctx context.Context, tag string, list func(context.Context) ([]string, error)) (string, error) {
	var tags []string
	err := retry.Policy{}.Do(ctx, func() (err error) {
		tags, err = list(ctx)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("listing the releases: %w", err)
	}
	return changes.Previous(tag, tags), nil
}

// ReadPrevious reads what Previous finds; nil where there is none.
func ReadPrevious(ctx context.Context, tag string, list func(context.Context) ([]string, error), read func(context.Context, string) (changes.Release, error)) (*changes.Release, error) {
	previous, err := Previous(ctx, tag, list)
	if err != nil || previous == "" {
		return nil, err
	}
	r, err := read(ctx, previous)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", previous, err)
	}
	return &r, nil
}

// billsOf are the names of the bundles' bills of materials.
func billsOf(r manifests.Release) []string {
	var names []string
	for _, bundle := range r.Bundles() {
		names = append(names, manifests.SBOMName(bundle.Name))
	}
	return names
}
