package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
)

// logsName is the folder in a release folder that is no part of the release.
const logsName = "logs"

// releaseDir is a folder with the files of one release, as build makes it.
type releaseDir string

// names lists what lies in the folder, but for the logs.
func (d releaseDir) names() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if entry.Name() == logsName && entry.IsDir() {
			continue
		}
		names = append(names, entry.Name())
	}
	return names, nil
}

// path is where a file of the release lies.
func (d releaseDir) path(name string) string { return filepath.Join(string(d), name) }

// beside describes a file that is no archive of the bundler's.
func (d releaseDir) beside(name string) (manifests.Artifact, error) {
	info, err := os.Stat(d.path(name))
	if err != nil {
		return manifests.Artifact{}, err
	}
	sum, err := sumOf(d.path(name))
	if err != nil {
		return manifests.Artifact{}, err
	}
	return manifests.Artifact{Name: name, Kind: manifests.KindOf(name), Size: info.Size(), SHA256: sum, URL: name}, nil
}

// readLimit bounds how many archives are unpacked at once: each takes a core, and
// its window and temporary files take memory and disk.
func readLimit() int { return min(runtime.GOMAXPROCS(0), 4) }

// artifacts reads the named archives again, from their bytes alone, but for those that the ledger knows.
func (d releaseDir) artifacts(ctx context.Context, names []string, known *ledger) ([]manifests.Artifact, error) {
	found := make([]manifests.Artifact, len(names))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readLimit())
	for i, name := range names {
		group.Go(func() error {
			artifact, _, ok := known.known(d.path(name))
			if !ok {
				var err error
				if artifact, err = bundler.ReadArtifact(ctx, d.path(name)); err != nil {
					return err
				}
				if err := known.note(d.path(name), "", artifact); err != nil {
					return err
				}
			}
			found[i] = artifact
			return nil
		})
	}
	return found, group.Wait()
}

// contents sorts the names in the folder. It refuses a folder with anything else in it than a release.
func (d releaseDir) contents() (archives, beside []string, err error) {
	names, err := d.names()
	if err != nil {
		return nil, nil, err
	}
	var strange []string
	for _, name := range names {
		switch {
		case manifests.IsArchive(name):
			archives = append(archives, name)
		case manifests.KindOf(name) != "":
			beside = append(beside, name)
		case !manifests.IsDocument(name):
			strange = append(strange, name)
		}
	}
	if len(strange) > 0 {
		return nil, nil, &refusal{fmt.Errorf("describing %s: not part of a release: %s", d, strings.Join(strange, ", ")), "move it out of the folder"}
	}
	if len(archives) == 0 {
		return nil, nil, &usageError{fmt.Errorf("describing %s: it holds no bundle", d), "go run ./ci build makes bundles"}
	}
	return archives, beside, nil
}

// described is what a folder's documents say of it.
type described struct {
	release  manifests.Release
	manifest []byte // manifest.json
	sums     []byte // SHA256SUMS
}

// describe makes manifest.json and SHA256SUMS of what lies in the folder. It
// refuses a folder with anything else in it than one whole release.
func (d releaseDir) describe(ctx context.Context, known *ledger) (described, error) {
	archives, _, err := d.contents()
	if err != nil {
		return described{}, err
	}
	assets, err := d.readKnown(ctx, archives, known)
	if err != nil {
		return described{}, err
	}
	return d.describeWith(assets)
}

// readArchives reads archives, which must be those of one release.
func (d releaseDir) readArchives(ctx context.Context, names []string) ([]manifests.Artifact, error) {
	return d.readKnown(ctx, names, nil)
}

// readKnown is readArchives, but for the reading of those that the ledger knows.
func (d releaseDir) readKnown(ctx context.Context, names []string, known *ledger) ([]manifests.Artifact, error) {
	assets, err := d.artifacts(ctx, names, known)
	if isAs[*bundler.AuditError](err) {
		return nil, &refusal{err, "the archive is damaged: build it again, or take it from where it was built"}
	}
	if err != nil {
		return nil, err
	}
	first := slices.IndexFunc(assets, func(a manifests.Artifact) bool { return a.Kind == manifests.KindBundle })
	if first < 0 {
		return nil, &usageError{fmt.Errorf("describing %s: it holds no bundle", d), "go run ./ci build makes bundles"}
	}
	mine := common{release: assets[first].Release, llamaCPP: *assets[first].LlamaCPP, toolkit: *assets[first].Toolkit, epoch: assets[first].SourceDateEpoch}
	if err := strangers(assets, mine); err != nil {
		return nil, &refusal{fmt.Errorf("describing %s: not all of it is one release. %s is of release %s and llama.cpp %s, commit %s, but\n%w",
			d, assets[first].Name, mine.release, mine.llamaCPP.Version, mine.llamaCPP.Commit, err), oneRelease}
	}
	return assets, nil
}

// describeWith describes the folder, whose archives have been read, with what lies beside them now.
func (d releaseDir) describeWith(archives []manifests.Artifact) (described, error) {
	_, beside, err := d.contents()
	if err != nil {
		return described{}, err
	}
	models, err := spec.DefaultModels()
	if err != nil {
		return described{}, fmt.Errorf("reading the models: %w", err)
	}
	assets := slices.Clone(archives)
	for _, name := range beside {
		asset, err := d.beside(name)
		if err != nil {
			return described{}, err
		}
		assets = append(assets, asset)
	}
	first := slices.IndexFunc(assets, func(a manifests.Artifact) bool { return a.Kind == manifests.KindBundle })
	release, err := manifests.New(assets[first].Release, assets, models)
	if err != nil {
		return described{}, &refusal{err, oneRelease}
	}
	manifest, err := manifests.Encode(release)
	if err != nil {
		return described{}, err
	}
	sum := sha256.Sum256(manifest)
	sums := manifests.Sums{{Name: manifests.ManifestName, SHA256: hex.EncodeToString(sum[:])}}
	for _, asset := range release.Assets {
		sums = append(sums, manifests.Sum{Name: asset.Name, SHA256: asset.SHA256})
	}
	return described{release, manifest, sums.Encode()}, nil
}

const oneRelease = "the files of one folder must be one whole release: move away those that belong to another, or build what is missing"

// common is what all archives of one release agree on.
type common struct {
	release  string
	llamaCPP manifests.LlamaCPP
	toolkit  manifests.Toolkit
	epoch    int64
}

// strangers names the archives that do not belong to a release, and why.
func strangers(archives []manifests.Artifact, mine common) error {
	var errs []error
	for _, a := range archives {
		bundle := a.Kind == manifests.KindBundle
		switch {
		case bundle && a.Release != mine.release:
			errs = append(errs, fmt.Errorf("%s is of release %s", a.Name, a.Release))
		case bundle && *a.LlamaCPP != mine.llamaCPP:
			errs = append(errs, fmt.Errorf("%s is of llama.cpp %s, commit %s, build %d", a.Name, a.LlamaCPP.Version, a.LlamaCPP.Commit, a.LlamaCPP.Build))
		case bundle && a.SourceDateEpoch != mine.epoch:
			errs = append(errs, fmt.Errorf("%s has SOURCE_DATE_EPOCH %d", a.Name, a.SourceDateEpoch))
		case a.Toolkit != nil && *a.Toolkit != mine.toolkit:
			errs = append(errs, fmt.Errorf("%s was made with CUDA %s, nvcc %s", a.Name, a.Toolkit.CUDA, a.Toolkit.NVCC))
		}
	}
	return errors.Join(errs...)
}

// writeManifest describes the folder and writes what describes it. Files that killed processes left unfinished are
// removed before.
func (d releaseDir) writeManifest(ctx context.Context, term *terminal, known *ledger) error {
	unlock, err := bundler.LockFolder(ctx, string(d))
	if err != nil {
		return err
	}
	defer unlock()
	if err := d.removePartials(); err != nil {
		return err
	}
	says, err := d.describe(ctx, known)
	if err != nil {
		return err
	}
	signed, err := d.write(says, term)
	if err != nil {
		return err
	}
	state := "not signed"
	if signed {
		state = "the signature stays"
	}
	term.printf("%s: release %s, llama.cpp %s, %d assets; %s", d.path(manifests.ManifestName), says.release.Release, says.release.LlamaCPP.Version, len(says.release.Assets), state)
	return nil
}

// write writes manifest.json, then SHA256SUMS, which is what makes the release
// whole. A signature over other sums than these is removed; signed says whether
// one is left.
func (d releaseDir) write(says described, term *terminal) (signed bool, err error) {
	if err := writeFile(d.path(manifests.ManifestName), says.manifest); err != nil {
		return false, err
	}
	old, err := os.ReadFile(d.path(manifests.SumsName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if bytes.Equal(old, says.sums) {
		return exists(d.path(manifests.SignatureName)), nil
	}
	switch err := os.Remove(d.path(manifests.SignatureName)); {
	case err == nil:
		term.warnf("removed %s: it signed other files than these", d.path(manifests.SignatureName))
	case !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	return false, writeFile(d.path(manifests.SumsName), says.sums)
}

// partialForm is how writeFile and the bundler call a file that is not whole yet.
var partialForm = regexp.MustCompile(`^\.(.+)\.[0-9]+(?:-[0-9]+)?\.partial$`)

// writableName is what build calls the file by which it tries the folder.
const writableName = "writable"

// isPartial says whether a name is that of an unfinished file of a release.
func isPartial(name string) bool {
	match := partialForm.FindStringSubmatch(name)
	return match != nil && (match[1] == writableName || isPart(match[1]))
}

// isPart says whether a name is that of a file of a release.
func isPart(name string) bool { return manifests.KindOf(name) != "" || manifests.IsDocument(name) }

// removePartials removes what killed processes left unfinished, whatever its age. The caller holds the folder's lock.
func (d releaseDir) removePartials() error {
	names, err := d.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if isPartial(name) {
			if err := os.Remove(d.path(name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// foreign are the names of what has no place in the folder: no part of a release, no unfinished part of one, or a
// folder of such a name.
func (d releaseDir) foreign() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	var strange []string
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() && name != logsName || !entry.IsDir() && !isPart(name) && !isPartial(name) {
			strange = append(strange, name)
		}
	}
	return strange, nil
}

// lock keeps others from writing to the folder until unlock.
func (d releaseDir) lock() (unlock func(), err error) {
	unlock, ok, err := bundler.TryLockFolder(string(d))
	if err == nil && !ok {
		err = fmt.Errorf("%s is in use by another process, which builds into it or signs it", d)
	}
	return unlock, err
}

// exists says whether there is something of that name.
func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// writeFile writes beside, syncs and renames, so that readers see the old file or
// the new one.
func writeFile(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*.partial")
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// sumOf hashes a file.
func sumOf(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
