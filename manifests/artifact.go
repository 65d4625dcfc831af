package manifests

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// A Kind says what an asset is for.
type Kind string

const (
	// KindBundle is llama.cpp for one row of the matrix. Each bundle is two assets, a tar.gz and a tar.zst of the very same tar.
	KindBundle Kind = "bundle"
	// KindCUDART is the toolkit's own libraries, for machines that have none: of a toolkit with static ones linked for
	// one SM major or for PTX, else as they are, for all. Two assets as well.
	KindCUDART Kind = "cudart"
	// KindClient is llcuda-fetch, and what brings it: install.sh, and the wheels of the Python package, which have no kind of
	// their own because clients of earlier releases refuse kinds that they do not know.
	KindClient Kind = "client"
	// KindSBOM is a bill of materials.
	KindSBOM Kind = "sbom"
	// KindProvenance is what is known of how the bundles came to be: a signed statement of how they were built, and the
	// benchmark, which has no kind of its own for the reason that wheels have none.
	KindProvenance Kind = "provenance"
)

// archive reports whether assets of the kind are archives of the bundler's, in two formats each.
func (k Kind) archive() bool { return k == KindBundle || k == KindCUDART }

// An Artifact is one asset of a release. Bundles carry every field but Libraries; CUDA runtimes carry Format, Tar,
// Toolkit, DeviceCode and Libraries; the rest carry none of the optional ones.
type Artifact struct {
	Name   string `json:"name"`
	Kind   Kind   `json:"kind"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	// URL is where the asset lies, relative to manifest.json. Its last part is Name.
	URL    string `json:"url"`
	Format string `json:"format,omitempty"`
	// Tar is the tar inside the archive. The twins of a bundle have the same.
	Tar *Digest `json:"tar,omitempty"`
	// Release is the release that the bundle's own metadata names.
	Release         string    `json:"release,omitempty"`
	SourceDateEpoch int64     `json:"source_date_epoch,omitempty"`
	LlamaCPP        *LlamaCPP `json:"llama_cpp,omitempty"`
	Toolkit         *Toolkit  `json:"toolkit,omitempty"`
	// Row is the matrix's row that the bundle was built for.
	Row          matrix.Row  `json:"sm,omitzero"`
	Architecture string      `json:"architecture,omitempty"`
	GPUs         []string    `json:"gpus,omitempty"`
	DeviceCode   *DeviceCode `json:"device_code,omitempty"`
	Requires     *Requires   `json:"requires,omitempty"`
	// Libraries are the files and links of a CUDA runtime.
	Libraries []File `json:"libraries,omitempty"`
}

// A Digest is the hash and length of some bytes.
type Digest struct {
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

// reserved are names that mean something else in a release.
var reserved = []string{ManifestName, SumsName, SignatureName, PointerName}

// Stem is an archive's name without the format's extension: what its two assets share.
func (a Artifact) Stem() string { return strings.TrimSuffix(a.Name, "."+a.Format) }

// Top is the one folder that an archive's tar holds: a bundle's name; a runtime's name without its digest.
func (a Artifact) Top() string {
	if a.Kind == KindCUDART {
		return a.Stem()[:strings.LastIndexByte(a.Stem(), '-')]
	}
	return a.Stem()
}

func (a Artifact) check() error {
	var p matrix.Problems
	checkName(&p, "name", a.Name)
	if slices.Contains(reserved, a.Name) {
		p.Addf("name", "%s is a name of the release itself", a.Name)
	}
	checkSize(&p, "size", a.Size, 1)
	checkSHA256(&p, "sha256", a.SHA256)
	if !isURL(a.URL) || path.Base(a.URL) != a.Name {
		p.Addf("url", "%q does not lead to %q below the release", shorten(a.URL), shorten(a.Name))
	}
	switch a.Kind {
	case KindBundle, KindCUDART, KindClient, KindSBOM, KindProvenance:
		a.checkFields(&p)
	default:
		p.Addf("kind", "%q is none of %s, %s, %s, %s, %s", shorten(string(a.Kind)), KindBundle, KindCUDART, KindClient, KindSBOM, KindProvenance)
	}
	if len(p) > 0 {
		return p // what follows takes for granted that the fields of the kind are there
	}
	if a.Tar == nil {
		return nil
	}
	p.Under("tar", a.Tar.check())
	if (a.Format != FormatTarGz && a.Format != FormatTarZst) || !strings.HasSuffix(a.Name, "."+a.Format) {
		p.Addf("format", "%q, want %s or %s as in the name", shorten(a.Format), FormatTarGz, FormatTarZst)
	}
	p.Under("toolkit", a.Toolkit.check())
	if a.Kind == KindBundle {
		p.Under("", a.checkBundle())
	} else {
		p.Under("", a.checkRuntime())
	}
	return p.Err()
}

// isURL reports whether u is a path of plain names: no scheme, host, query, escape or way up.
func isURL(u string) bool {
	for part := range strings.SplitSeq(u, "/") {
		if !nameForm.MatchString(part) {
			return false
		}
	}
	return true
}

// checkFields reports the optional fields that the asset's kind must have and lacks, or has and must not.
func (a Artifact) checkFields(p *matrix.Problems) {
	bundle, cudart := a.Kind == KindBundle, a.Kind == KindCUDART
	for _, field := range []struct {
		name        string
		given, want bool
	}{
		{"format", a.Format != "", bundle || cudart},
		{"tar", a.Tar != nil, bundle || cudart},
		{"release", a.Release != "", bundle},
		{"source_date_epoch", a.SourceDateEpoch != 0, bundle},
		{"llama_cpp", a.LlamaCPP != nil, bundle},
		{"toolkit", a.Toolkit != nil, bundle || cudart},
		{"sm", !a.Row.IsZero(), bundle},
		{"architecture", a.Architecture != "", bundle},
		{"gpus", len(a.GPUs) > 0, bundle},
		{"device_code", a.DeviceCode != nil, bundle || cudart},
		{"requires", a.Requires != nil, bundle},
		{"libraries", len(a.Libraries) > 0, cudart},
	} {
		switch {
		case field.want && !field.given:
			p.Addf(field.name, "missing from an asset of kind %s", a.Kind)
		case field.given && !field.want:
			p.Addf(field.name, "has no meaning in an asset of kind %s", a.Kind)
		}
	}
}

func (a Artifact) checkBundle() error {
	var p matrix.Problems
	checkName(&p, "release", a.Release)
	checkEpoch(&p, "source_date_epoch", a.SourceDateEpoch)
	p.Under("llama_cpp", a.LlamaCPP.check())
	p.Under("", facts{a.Stem(), a.Row, a.Architecture, a.GPUs, *a.DeviceCode, *a.Requires}.check())
	return p.Err()
}

func (a Artifact) checkRuntime() error {
	var p matrix.Problems
	if runtime := RuntimeOf(a.Toolkit.CUDA, *a.DeviceCode); a.Stem() != RuntimeName(runtime, *a.Tar) {
		p.Addf("name", "%q is not %s- and the first 12 hex digits of the tar's sha256", shorten(a.Stem()), RuntimeTop(runtime))
	}
	if len(a.DeviceCode.Cubin)+len(a.DeviceCode.PTX) == 0 {
		p.Addf("device_code", "empty: it serves no GPU")
	}
	for i := 1; i < len(a.DeviceCode.Cubin); i++ {
		if code := a.DeviceCode.Cubin; code[i].Compare(code[i-1]) <= 0 {
			p.Addf(fmt.Sprintf("device_code.cubin[%d]", i), "%s comes after %s: targets ascend, each once", code[i], code[i-1])
		}
	}
	checkTree(&p, "libraries", a.Libraries)
	return p.Err()
}

// IsLinked reports whether a CUDA runtime is one for an SM major or for PTX alone, linked from static libraries.
func (a Artifact) IsLinked() bool {
	return a.Kind == KindCUDART && a.Toolkit != nil && a.DeviceCode != nil && RuntimeOf(a.Toolkit.CUDA, *a.DeviceCode).IsLinked()
}

// serves reports whether a CUDA runtime is for a bundle: it is of the same toolkit, and has machine code for the bundle's
// own GPUs, or for a bundle of PTX, code that a driver can compile.
func (a Artifact) serves(bundle Artifact) bool {
	if a.Toolkit == nil || a.DeviceCode == nil || bundle.Toolkit == nil || bundle.DeviceCode == nil || *a.Toolkit != *bundle.Toolkit {
		return false
	}
	if bundle.Row.PTX {
		return slices.ContainsFunc(a.DeviceCode.PTX, bundle.Row.SM.RunsPTX)
	}
	return slices.ContainsFunc(a.DeviceCode.Cubin, bundle.Row.SM.RunsCubin)
}

func (d Digest) check() error {
	var p matrix.Problems
	checkSHA256(&p, "sha256", d.SHA256)
	checkSize(&p, "size", d.Size, 1)
	return p.Err()
}
