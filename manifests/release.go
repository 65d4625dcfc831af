package manifests

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// SchemaVersion is the schema of manifest.json and metadata.json that this package writes, and the newest it reads.
const SchemaVersion = 1

// A Release is manifest.json: everything that one release of the farm offers.
type Release struct {
	SchemaVersion int `json:"schema_version"`
	// Release is the tag: "v1.1.0-runtime".
	Release  string   `json:"release"`
	LlamaCPP LlamaCPP `json:"llama_cpp"`
	// Toolkits are those that compiled the bundles, ascending: one of each CUDA major at most.
	Toolkits []Toolkit `json:"toolkits"`
	// SourceDateEpoch is the time, in Unix seconds, that every file of every bundle carries.
	SourceDateEpoch int64 `json:"source_date_epoch"`
	// Assets ascend by name.
	Assets []Artifact `json:"assets"`
	// Models ascend by name.
	Models []matrix.Model `json:"models"`
}

// Asset is the asset of that name.
func (r Release) Asset(name string) (Artifact, bool) {
	i := slices.IndexFunc(r.Assets, func(a Artifact) bool { return a.Name == name })
	if i < 0 {
		return Artifact{}, false
	}
	return r.Assets[i], true
}

// Of are the assets of a kind, ascending by name: of archives both formats.
func (r Release) Of(kind Kind) []Artifact {
	return slices.DeleteFunc(slices.Clone(r.Assets), func(a Artifact) bool { return a.Kind != kind })
}

// Bundles are the bundles, ascending by row, each by the archive to download.
func (r Release) Bundles() []Artifact {
	bundles := toDownload(r.Of(KindBundle))
	slices.SortStableFunc(bundles, func(a, b Artifact) int { return a.Row.Compare(b.Row) })
	return bundles
}

// Bundle is the bundle of a row, by the archive to download.
func (r Release) Bundle(row matrix.Row) (Artifact, bool) {
	bundles := r.Bundles()
	i := slices.IndexFunc(bundles, func(a Artifact) bool { return a.Row == row })
	if i < 0 {
		return Artifact{}, false
	}
	return bundles[i], true
}

// Runtimes are the CUDA runtimes, each by the archive to download.
func (r Release) Runtimes() []Artifact { return toDownload(r.Of(KindCUDART)) }

// Runtime is the CUDA runtime that a bundle needs where the machine has none, by the archive to download.
func (r Release) Runtime(bundle Artifact) (Artifact, bool) {
	runtimes := r.Runtimes()
	i := slices.IndexFunc(runtimes, func(a Artifact) bool { return a.serves(bundle) })
	if i < 0 {
		return Artifact{}, false
	}
	return runtimes[i], true
}

// Formats are both archives of a bundle or a CUDA runtime.
func (r Release) Formats(archive Artifact) []Artifact {
	return slices.DeleteFunc(r.Of(archive.Kind), func(a Artifact) bool { return a.Stem() != archive.Stem() })
}

// toDownload leaves of archives of the same tar the smaller one.
func toDownload(archives []Artifact) []Artifact {
	var best []Artifact
	for _, a := range archives {
		i := slices.IndexFunc(best, func(b Artifact) bool { return b.Stem() == a.Stem() })
		switch {
		case i < 0:
			best = append(best, a)
		case cmp.Or(cmp.Compare(a.Size, best[i].Size), cmp.Compare(best[i].Format, a.Format)) < 0:
			best[i] = a
		}
	}
	return best
}

// New makes a release of assets and models, in any order, and checks it. What is true of the whole release (llama.cpp,
// time) is taken from its bundles, which must agree, and so are the toolkits.
func New(release string, assets []Artifact, models []matrix.Model) (Release, error) {
	r := Release{
		SchemaVersion: SchemaVersion,
		Release:       release,
		Assets:        slices.SortedFunc(slices.Values(assets), func(a, b Artifact) int { return cmp.Compare(a.Name, b.Name) }),
		Models:        slices.SortedFunc(slices.Values(models), func(a, b matrix.Model) int { return cmp.Compare(a.Name, b.Name) }),
	}
	first := slices.IndexFunc(r.Assets, func(a Artifact) bool {
		return a.Kind == KindBundle && a.LlamaCPP != nil && a.Toolkit != nil
	})
	if first < 0 {
		return Release{}, errors.New("making a manifest: there is no bundle with llama_cpp and toolkit")
	}
	bundle := r.Assets[first]
	r.LlamaCPP, r.SourceDateEpoch = *bundle.LlamaCPP, bundle.SourceDateEpoch
	for _, a := range r.Assets {
		if a.Kind == KindBundle && a.Toolkit != nil && !slices.Contains(r.Toolkits, *a.Toolkit) {
			r.Toolkits = append(r.Toolkits, *a.Toolkit)
		}
	}
	slices.SortFunc(r.Toolkits, func(a, b Toolkit) int { return matrix.CompareVersions(a.CUDA, b.CUDA) })
	if err := r.Check(); err != nil {
		return Release{}, fmt.Errorf("making a manifest: %w", err)
	}
	return normal(reflect.ValueOf(r)).Interface().(Release), nil
}

// Check reports everything wrong with a release, as matrix.Problems: each asset, what the assets must agree on, and that
// the release is whole: every archive in both formats, and for each bundle the CUDA runtime that it falls back on.
func (r Release) Check() error {
	var p matrix.Problems
	checkTexts(reflect.ValueOf(r), "", &p)
	if r.SchemaVersion != SchemaVersion {
		p.Addf("schema_version", "%d, want %d", r.SchemaVersion, SchemaVersion)
	}
	checkName(&p, "release", r.Release)
	p.Under("llama_cpp", r.LlamaCPP.check())
	r.checkToolkits(&p)
	checkEpoch(&p, "source_date_epoch", r.SourceDateEpoch)
	if len(r.Assets) > MaxAssets {
		p.Addf("assets", "%d, more than %d", len(r.Assets), MaxAssets)
		return p
	}
	for i, a := range r.Assets {
		at := fmt.Sprintf("assets[%d]", i)
		if i > 0 && a.Name <= r.Assets[i-1].Name {
			p.Addf(at+".name", "%q comes after %q: assets ascend by name, each once", shorten(a.Name), shorten(r.Assets[i-1].Name))
		}
		if err := a.check(); err != nil {
			p.Under(at, err)
		} else {
			r.checkShared(&p, at, a)
		}
	}
	r.checkArchives(&p)
	p.Under("models", matrix.CheckModels(r.Models))
	return p.Err()
}

// checkToolkits checks that the release lists the toolkits of its bundles: one of each CUDA major, as both name the same
// folder of a bundle and the same libraries.
func (r Release) checkToolkits(p *matrix.Problems) {
	for i, t := range r.Toolkits {
		at := fmt.Sprintf("toolkits[%d]", i)
		p.Under(at, t.check())
		if i > 0 && matrix.CompareVersions(t.CUDA, r.Toolkits[i-1].CUDA) <= 0 {
			p.Addf(at+".cuda", "%q comes after %q: toolkits ascend", shorten(t.CUDA), shorten(r.Toolkits[i-1].CUDA))
		}
		if i > 0 && matrix.ToolkitName(t.CUDA) == matrix.ToolkitName(r.Toolkits[i-1].CUDA) {
			p.Addf(at+".cuda", "%q and %q are of one major: a release has one toolkit of each", shorten(r.Toolkits[i-1].CUDA), shorten(t.CUDA))
		}
		if !slices.ContainsFunc(r.Assets, func(a Artifact) bool { return a.Kind == KindBundle && a.Toolkit != nil && *a.Toolkit == t }) {
			p.Addf(at, "no bundle was made with CUDA %q, nvcc %q", shorten(t.CUDA), shorten(t.NVCC))
		}
	}
}

// checkShared checks an asset against what is true of the whole release.
func (r Release) checkShared(p *matrix.Problems, at string, a Artifact) {
	if a.Toolkit != nil && !slices.Contains(r.Toolkits, *a.Toolkit) {
		p.Addf(at+".toolkit", "CUDA %q, nvcc %q: not one of the release's toolkits", shorten(a.Toolkit.CUDA), shorten(a.Toolkit.NVCC))
	}
	if a.Kind != KindBundle {
		return
	}
	if a.Release != r.Release {
		p.Addf(at+".release", "%q; the release is %q", a.Release, shorten(r.Release))
	}
	if l := a.LlamaCPP; *l != r.LlamaCPP {
		p.Addf(at+".llama_cpp", "%q, commit %q, build %d; the release has %q, %q, %d",
			l.Version, l.Commit, l.Build, shorten(r.LlamaCPP.Version), shorten(r.LlamaCPP.Commit), r.LlamaCPP.Build)
	}
	if a.SourceDateEpoch != r.SourceDateEpoch {
		p.Addf(at+".source_date_epoch", "%d; the release has %d", a.SourceDateEpoch, r.SourceDateEpoch)
	}
}

// checkArchives checks that the two formats of each archive have the same facts, and that each bundle has its CUDA
// runtime.
func (r Release) checkArchives(p *matrix.Problems) {
	twin := make(map[string]int)
	bundles := 0
	for i, a := range r.Assets {
		if !a.Kind.archive() {
			continue
		}
		if a.Kind == KindBundle {
			bundles++
		}
		j, ok := twin[a.Stem()]
		if !ok {
			twin[a.Stem()] = i
			continue
		}
		delete(twin, a.Stem())
		if !sameContents(a, r.Assets[j]) {
			p.Addf(fmt.Sprintf("assets[%d]", i), "%q and %q do not say the same of the tar inside", shorten(r.Assets[j].Name), shorten(a.Name))
		}
	}
	for _, i := range slices.Sorted(maps.Values(twin)) {
		p.Addf(fmt.Sprintf("assets[%d]", i), "%q stands alone: every archive is there as %s and %s",
			shorten(r.Assets[i].Name), FormatTarGz, FormatTarZst)
	}
	if bundles == 0 {
		p.Addf("assets", "no bundle")
	}
	serving := make(map[string]bool)
	for _, a := range r.Bundles() {
		if runtime, ok := r.Runtime(a); ok {
			serving[runtime.Stem()] = true
		} else {
			p.Addf("assets", "no CUDA runtime for %s", shorten(a.Stem()))
		}
	}
	for _, a := range r.Runtimes() {
		if !serving[a.Stem()] {
			p.Addf("assets", "%s is the CUDA runtime of no bundle, or of bundles that have another", shorten(a.Stem()))
		}
	}
}

// sameContents reports whether two assets differ in nothing but their compression.
func sameContents(a, b Artifact) bool {
	for _, x := range []*Artifact{&a, &b} {
		x.Name, x.Size, x.SHA256, x.URL, x.Format = "", 0, "", "", ""
	}
	return reflect.DeepEqual(normal(reflect.ValueOf(a)).Interface(), normal(reflect.ValueOf(b)).Interface())
}

// Encode is the one way to write a manifest.json: fixed order of fields, two-space indent, a newline at the end. It
// refuses a release that Check refuses.
func Encode(r Release) ([]byte, error) {
	if err := r.Check(); err != nil {
		return nil, fmt.Errorf("writing %s: %w", ManifestName, err)
	}
	return encode(r)
}

// Decode reads a manifest.json and checks it.
func Decode(r io.Reader) (Release, error) {
	var release Release
	if err := decode(r, ManifestName, &release); err != nil {
		return Release{}, err
	}
	if err := release.Check(); err != nil {
		return Release{}, fmt.Errorf("reading %s: %w", ManifestName, err)
	}
	return release, nil
}
