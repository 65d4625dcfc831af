package release

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
)

// readLimit bounds how many archives are unpacked at once: each takes a core, and its window and
// temporary files take memory and disk.
func readLimit() int { return min(runtime.GOMAXPROCS(0), 4) }

// Artifacts are the manifest's entries of the named archives. Those that the ledger knows are not
// read.
func (d Dir) Artifacts(ctx context.Context, names []string, known *Ledger) ([]manifests.Artifact, error) {
	found := make([]manifests.Artifact, len(names))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readLimit())
	for i, name := range names {
		group.Go(func() error {
			artifact, _, ok := known.Known(d.Path(name))
			if !ok {
				var err error
				if artifact, err = bundler.ReadArtifact(ctx, d.Path(name)); err != nil {
					return err
				}
				if err := known.Note(d.Path(name), "", artifact); err != nil {
					return err
				}
			}
			found[i] = artifact
			return nil
		})
	}
	return found, group.Wait()
}

const oneRelease = "the files of one folder must be one whole release: move away those that belong to another, or build what is missing"

// archives are the manifest's entries of archives that belong to one release.
func (d Dir) archives(ctx context.Context, names []string, known *Ledger) ([]manifests.Artifact, error) {
	archives, err := d.Artifacts(ctx, names, known)
	if isAs[*bundler.AuditError](err) {
		return nil, failure.Refuse(err, "the archive is damaged: build it again, or take it from where it was built")
	}
	if err != nil {
		return nil, err
	}
	first, ok := firstBundle(archives)
	if !ok {
		return nil, d.noBundle()
	}
	mine := Common{Release: first.Release, LlamaCPP: *first.LlamaCPP, Epoch: first.SourceDateEpoch}
	for _, a := range archives {
		if a.Kind == manifests.KindBundle && !mine.knows(*a.Toolkit) {
			mine.Toolkits = append(mine.Toolkits, *a.Toolkit)
		}
	}
	if err := mine.Strangers(archives); err != nil {
		return nil, failure.Refuse(fmt.Errorf("describing %s: not all of it is one release. %s is of release %s and llama.cpp %s, commit %s, but\n%w",
			d, first.Name, mine.Release, mine.LlamaCPP.Version, mine.LlamaCPP.Commit, err), oneRelease)
	}
	return archives, nil
}

func firstBundle(archives []manifests.Artifact) (manifests.Artifact, bool) {
	i := slices.IndexFunc(archives, func(a manifests.Artifact) bool { return a.Kind == manifests.KindBundle })
	if i < 0 {
		return manifests.Artifact{}, false
	}
	return archives[i], true
}

// Common is what all archives of one release agree on.
type Common struct {
	Release  string
	LlamaCPP manifests.LlamaCPP
	Toolkits []manifests.Toolkit // one of each CUDA major
	Epoch    int64
}

// knows reports whether the release has a toolkit of the same CUDA major.
func (c Common) knows(t manifests.Toolkit) bool {
	return slices.ContainsFunc(c.Toolkits, func(mine manifests.Toolkit) bool {
		return matrix.ToolkitName(mine.CUDA) == matrix.ToolkitName(t.CUDA)
	})
}

// Strangers names the archives that do not belong to the release, and why; it is nil where all do.
func (c Common) Strangers(archives []manifests.Artifact) error {
	var errs []error
	for _, a := range archives {
		bundle := a.Kind == manifests.KindBundle
		switch {
		case bundle && a.Release != c.Release:
			errs = append(errs, fmt.Errorf("%s is of release %s", a.Name, a.Release))
		case bundle && *a.LlamaCPP != c.LlamaCPP:
			errs = append(errs, fmt.Errorf("%s is of llama.cpp %s, commit %s, build %d", a.Name, a.LlamaCPP.Version, a.LlamaCPP.Commit, a.LlamaCPP.Build))
		case bundle && a.SourceDateEpoch != c.Epoch:
			errs = append(errs, fmt.Errorf("%s has SOURCE_DATE_EPOCH %d", a.Name, a.SourceDateEpoch))
		case a.Toolkit != nil && !slices.Contains(c.Toolkits, *a.Toolkit):
			errs = append(errs, fmt.Errorf("%s was made with CUDA %s, nvcc %s", a.Name, a.Toolkit.CUDA, a.Toolkit.NVCC))
		}
	}
	return errors.Join(errs...)
}

// A Description is what a folder's documents say of it.
type Description struct {
	Release  manifests.Release
	Manifest []byte // manifest.json
	Sums     []byte // SHA256SUMS

	// SignatureStays says that the folder has a signature, which still signs these sums;
	// SignatureRemoved that it had one over others, which was removed.
	SignatureStays, SignatureRemoved bool
}

// Describe writes manifest.json and SHA256SUMS for what lies in the folder. It refuses a folder
// with anything else in it than one whole release. Files that killed processes left unfinished are
// removed before.
func (d Dir) Describe(ctx context.Context, known *Ledger) (Description, error) {
	unlock, err := bundler.LockFolder(ctx, string(d))
	if err != nil {
		return Description{}, err
	}
	defer unlock()
	if err := d.removePartials(); err != nil {
		return Description{}, err
	}
	names, _, err := d.Contents()
	if err != nil {
		return Description{}, err
	}
	archives, err := d.archives(ctx, names, known)
	if err != nil {
		return Description{}, err
	}
	says, err := d.describe(archives)
	if err != nil {
		return Description{}, err
	}
	libraries, err := d.libraries(ctx, says.Release, known)
	if err != nil {
		return Description{}, err
	}
	if lacking := unserved(says.Release, libraries); len(lacking) > 0 {
		return Description{}, failure.Refuse(fmt.Errorf("describing %s:\n%w", d, d.Joined(lacking)), "build the bundles and the CUDA runtimes again, from one source")
	}
	return d.writeDescription(archives)
}

// describe makes the documents for archives and for the files that are next to them now.
func (d Dir) describe(archives []manifests.Artifact) (Description, error) {
	_, beside, err := d.Contents()
	if err != nil {
		return Description{}, err
	}
	models, err := spec.DefaultModels()
	if err != nil {
		return Description{}, fmt.Errorf("reading the models: %w", err)
	}
	assets := slices.Clone(archives)
	for _, name := range beside {
		asset, err := d.asset(name)
		if err != nil {
			return Description{}, err
		}
		assets = append(assets, asset)
	}
	first, _ := firstBundle(archives)
	release, err := manifests.New(first.Release, assets, models)
	if err != nil {
		return Description{}, failure.Refuse(err, oneRelease)
	}
	if _, err := d.Benchmark(release); err != nil {
		return Description{}, err
	}
	manifest, err := manifests.Encode(release)
	if err != nil {
		return Description{}, err
	}
	sum := sha256.Sum256(manifest)
	sums := manifests.Sums{{Name: manifests.ManifestName, SHA256: hex.EncodeToString(sum[:])}}
	for _, asset := range release.Assets {
		sums = append(sums, manifests.Sum{Name: asset.Name, SHA256: asset.SHA256})
	}
	return Description{Release: release, Manifest: manifest, Sums: sums.Encode()}, nil
}

// asset is the manifest's entry of a file that is not an archive of the bundler's.
func (d Dir) asset(name string) (manifests.Artifact, error) {
	info, err := os.Stat(d.Path(name))
	if err != nil {
		return manifests.Artifact{}, err
	}
	sum, err := sumOf(d.Path(name))
	if err != nil {
		return manifests.Artifact{}, err
	}
	return manifests.Artifact{Name: name, Kind: manifests.KindOf(name), Size: info.Size(), SHA256: sum, URL: name}, nil
}

// writeDescription writes manifest.json, then SHA256SUMS, which is what makes the release whole.
func (d Dir) writeDescription(archives []manifests.Artifact) (Description, error) {
	says, err := d.describe(archives)
	if err != nil {
		return says, err
	}
	if err := WriteFile(d.Path(manifests.ManifestName), says.Manifest); err != nil {
		return says, err
	}
	old, err := os.ReadFile(d.Path(manifests.SumsName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return says, err
	}
	if bytes.Equal(old, says.Sums) {
		says.SignatureStays = exists(d.Path(manifests.SignatureName))
		return says, nil
	}
	switch err := os.Remove(d.Path(manifests.SignatureName)); {
	case err == nil:
		says.SignatureRemoved = true
	case !errors.Is(err, fs.ErrNotExist):
		return says, err
	}
	return says, WriteFile(d.Path(manifests.SumsName), says.Sums)
}
