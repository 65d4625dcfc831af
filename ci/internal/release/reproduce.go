package release

import (
	"context"
	"fmt"
	"os"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/publisher"
)

const otherSM = "give an SM that it has"

// BuiltBy is how the release's bundles of these targets were built, by their metadata.json, which
// is all that is used of the archives that are downloaded to a folder for that. One build has one
// engine and one base.
func (p Public) BuiltBy(ctx context.Context, release *fetch.Release, targets []matrix.Target, to Dir, progress func(publisher.Progress)) (*manifests.Build, error) {
	if err := os.MkdirAll(string(to), 0o755); err != nil {
		return nil, err
	}
	var first *manifests.Build
	for _, target := range targets {
		bundle, has := release.Bundle(target.Row())
		if !has {
			return nil, failure.Input(fmt.Errorf("the release has no %s", manifests.BundleName(target.Row())), otherSM)
		}
		if err := p.Asset(ctx, bundle, to, progress); err != nil {
			return nil, err
		}
		meta, err := bundler.ReadMetadata(ctx, to.Path(bundle.Name))
		if err != nil {
			return nil, err
		}
		if first == nil {
			first = &meta.Build
		}
		if meta.Build.Engine != first.Engine || meta.Build.BaseImage != first.BaseImage {
			return nil, failure.Input(fmt.Errorf("%s was built by %s on %s, and %s by %s on %s",
				targets[0].Row(), first.Engine, first.BaseImage, target.Row(), meta.Build.Engine, meta.Build.BaseImage), "give one SM at a time")
		}
	}
	return first, nil
}

// An ArchiveComparison is what one archive that was built has in common with the released one.
type ArchiveComparison struct {
	// Same says that they are the same bytes.
	Same bool
	// OtherRuntime says that it is a CUDA runtime, and that the release has another one.
	OtherRuntime bool
	// Findings are what differs.
	Findings []bundler.Finding
}

// CompareArchive compares an archive in a folder with the release's. Where they differ, it downloads the
// released one to a folder to say in what.
func (p Public) CompareArchive(ctx context.Context, release *fetch.Release, built manifests.Artifact, dir, to Dir, progress func(publisher.Progress)) (ArchiveComparison, error) {
	released, ok := release.Asset(built.Name)
	switch {
	case !ok && built.Kind == manifests.KindCUDART:
		return ArchiveComparison{OtherRuntime: true}, nil
	case !ok:
		return ArchiveComparison{}, failure.Input(fmt.Errorf("the release has no %s", built.Name), otherSM)
	case built.SHA256 == released.SHA256:
		return ArchiveComparison{Same: true}, nil
	}
	if err := p.Asset(ctx, released, to, progress); err != nil {
		return ArchiveComparison{}, err
	}
	findings, err := bundler.CompareArchives(ctx, to.Path(built.Name), dir.Path(built.Name))
	return ArchiveComparison{Findings: findings}, err
}
