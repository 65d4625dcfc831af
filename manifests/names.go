package manifests

import (
	"regexp"
	"strings"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// The names that a release gives to its own files. No asset may have one of them.
const (
	ManifestName  = "manifest.json"
	SumsName      = "SHA256SUMS"
	SignatureName = "SHA256SUMS.sigstore.json"
	// PointerName is the file with the signed release pointer: a Sigstore bundle with a DSSE
	// envelope, so that the pointer and its signature change at once.
	PointerName = "current.sigstore.json"
)

// The names of assets that a release has one of.
const (
	// InstallerName is the script that installs llcuda-fetch.
	InstallerName = "install.sh"
	// ProvenanceName is the signed statement of how the archives were built.
	ProvenanceName = "llcuda-provenance.sigstore.json"
	// BenchmarkName is how fast the release is.
	BenchmarkName = "llcuda-bench.json"
)

// The formats of an archive. FormatTarZst is half the bytes of FormatTarGz, and the one to prefer.
const (
	FormatTarGz  = "tar.gz"
	FormatTarZst = "tar.zst"
)

const (
	bundlePrefix  = "llcuda-bins-"
	runtimePrefix = "llcuda-cudart-"
	clientPrefix  = "llcuda-fetch-"
	sbomSuffix    = ".spdx.json"
	wheelSuffix   = ".whl"
)

// Formats are those in which a release has every archive.
func Formats() []string { return []string{FormatTarGz, FormatTarZst} }

// BundleName is the name of a row's bundle and of its top folder, without the archive's extension:
// "llcuda-bins-sm75", or "llcuda-bins-ptx90".
func BundleName(row matrix.Row) string { return bundlePrefix + row.String() }

// RuntimeOf is what a CUDA runtime serves, by its toolkit's version and its device code: the bundle of
// PTX where it has nothing else, one SM major where all machine code is for it, else every SM of the
// toolkit.
func RuntimeOf(cuda string, code DeviceCode) matrix.Runtime {
	runtime := matrix.Runtime{Toolkit: matrix.ToolkitName(cuda)}
	if len(code.Cubin) == 0 && len(code.PTX) > 0 {
		runtime.PTX = code.PTX[len(code.PTX)-1].SM
	}
	for i, c := range code.Cubin {
		if i > 0 && c.SM.Major() != runtime.Major {
			runtime.Major = 0
			break
		}
		runtime.Major = c.SM.Major()
	}
	return runtime
}

// RuntimeTop is the top folder of a CUDA runtime: "llcuda-cudart-cu12-sm7x", "llcuda-cudart-cu12-ptx90"
// or "llcuda-cudart-cu13".
func RuntimeTop(runtime matrix.Runtime) string { return runtimePrefix + runtime.String() }

// RuntimeName is the name of a CUDA runtime without the archive's extension. It has the digest of
// the tar in it, because the runtime is downloaded once and serves all releases that name it.
func RuntimeName(runtime matrix.Runtime, tar Digest) string {
	const digits = 12
	return RuntimeTop(runtime) + "-" + tar.SHA256[:min(digits, len(tar.SHA256))]
}

// ClientName is the name of the client's archive for a system, by Go's names. Its llcuda-fetch says
// of itself that it is of the release, and what lies beside it at the top and may be executed
// belongs to it.
func ClientName(goos, goarch string) string {
	return clientPrefix + goos + "-" + goarch + "." + FormatTarGz
}

var notInWheelName = regexp.MustCompile(`[^\w.]+`)

// WheelProject is Distribution as it is written in the name of a wheel, and in those of the folders
// in it.
func WheelProject() string {
	return notInWheelName.ReplaceAllString(strings.ToLower(Distribution), "_")
}

// WheelName is the name of a wheel of the Python package.
func WheelName(version, platform string) string {
	return WheelProject() + "-" + version + "-py3-none-" + platform + wheelSuffix
}

// IsWheel reports whether a name is that of a wheel of the Python package.
func IsWheel(name string) bool {
	return strings.HasPrefix(name, WheelProject()+"-") && strings.HasSuffix(name, wheelSuffix)
}

// SBOMName is the name of an asset's bill of materials. The two archives of a bundle share one.
func SBOMName(asset string) string { return Stem(asset) + sbomSuffix }

// Stem is an asset's name without the extension of its format.
func Stem(name string) string {
	for _, suffix := range []string{"." + FormatTarGz, "." + FormatTarZst, wheelSuffix, sbomSuffix} {
		if stem, ok := strings.CutSuffix(name, suffix); ok {
			return stem
		}
	}
	return name
}

// KindOf is the kind of an asset, by its name alone; empty for a name that no asset has.
func KindOf(name string) Kind {
	gz, archive := strings.HasSuffix(name, "."+FormatTarGz), false
	for _, format := range Formats() {
		archive = archive || strings.HasSuffix(name, "."+format)
	}
	switch {
	case name == ProvenanceName, name == BenchmarkName:
		return KindProvenance
	case strings.HasSuffix(name, sbomSuffix):
		return KindSBOM
	case name == InstallerName, IsWheel(name), gz && strings.HasPrefix(name, clientPrefix):
		return KindClient
	case archive && strings.HasPrefix(name, bundlePrefix):
		return KindBundle
	case archive && strings.HasPrefix(name, runtimePrefix):
		return KindCUDART
	}
	return ""
}

// IsArchive reports whether a name is that of a bundle or of a CUDA runtime.
func IsArchive(name string) bool { return KindOf(name).archive() }

// IsDocument reports whether a name is that of one of the documents that describe a release.
func IsDocument(name string) bool {
	return name == ManifestName || name == SumsName || name == SignatureName
}
