package manifests

import (
	"cmp"
	"fmt"
	"io"
	"path"
	"reflect"
	"strings"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// The modes that a File may have.
const (
	modeFile    = "0644"
	modeProgram = "0755"
	modeLink    = "0777"
)

// MetadataName is the file in a bundle's top folder that describes the bundle.
const MetadataName = "metadata.json"

// Metadata is a bundle's metadata.json. The bundler derives it from the bundle's files; nothing in
// it is declared.
type Metadata struct {
	SchemaVersion int `json:"schema_version"`
	// Name is the bundle's name and that of its top folder: "llcuda-bins-sm75".
	Name     string   `json:"name"`
	Release  string   `json:"release"`
	LlamaCPP LlamaCPP `json:"llama_cpp"`
	// Row is the matrix's row that the bundle was built for.
	Row          matrix.Row `json:"sm"`
	Architecture string     `json:"architecture"`
	GPUs         []string   `json:"gpus"`
	Toolkit      Toolkit    `json:"toolkit"`
	DeviceCode   DeviceCode `json:"device_code"`
	Requires     Requires   `json:"requires"`
	// Files are all files and links of the bundle but metadata.json itself, ascending by path.
	Files []File `json:"files"`
	Build Build  `json:"build"`
}

// LlamaCPP is the source that was built.
type LlamaCPP struct {
	Version string `json:"version"`
	// Commit is the git commit, or "sha256:…" of the tree where the source had no repository.
	Commit string `json:"commit"`
	Build  int    `json:"build"`
}

// A Toolkit is the CUDA toolkit that compiled the device code.
type Toolkit struct {
	CUDA string `json:"cuda"`
	NVCC string `json:"nvcc"`
}

// CUDALibraries are the names of CUDA's own libraries that the toolkit's bundles need, as NVIDIA ships
// them, ascending. Bundles ask for cuBLAS and the CUDA runtime by name; NVIDIA's libcublas needs
// libcublasLt.
func (t Toolkit) CUDALibraries() []string {
	major, _, _ := strings.Cut(t.CUDA, ".")
	return []string{"libcublas.so." + major, "libcublasLt.so." + major, "libcudart.so." + major}
}

// ProgramsDir is the folder of a bundle's programs: "binaries/cuda12" for every CUDA 12.
func (t Toolkit) ProgramsDir() string { return "binaries/" + matrix.ToolkitName(t.CUDA) }

// DeviceCode is what the fatbins of libraries hold: of a bundle that of libggml-cuda.so. Both lists
// are ascending and never null in JSON.
type DeviceCode struct {
	Cubin []matrix.Code `json:"cubin"`
	PTX   []matrix.Code `json:"ptx"`
}

// Requires is what a machine must have to run a bundle.
type Requires struct {
	DriverMin DriverMin `json:"driver_min"`
	Glibc     string    `json:"glibc"`
	// GLIBCXX is absent where nothing in the bundle needs a version of the C++ runtime.
	GLIBCXX string `json:"glibcxx,omitempty"`
	// Libraries are what the bundle needs from elsewhere, by soname, ascending.
	Libraries []string `json:"libraries"`
	// CPUVariants are the CPU backends in the bundle, ascending: "haswell", "x64".
	CPUVariants []string `json:"cpu_variants"`
}

// DriverMin is the oldest driver that runs the bundle's device code: machine code, or PTX.
type DriverMin struct {
	Cubin string `json:"cubin,omitempty"`
	PTX   string `json:"ptx,omitempty"`
}

// Any is the oldest driver, whichever kind of code the bundle has.
func (d DriverMin) Any() string { return cmp.Or(d.Cubin, d.PTX) }

// A File is a regular file or a link in an archive, by its path below the archive's top folder.
type File struct {
	Path string `json:"path"`
	// Size is 0 for links.
	Size int64 `json:"size"`
	// Mode is "0644" or "0755", and "0777" for links.
	Mode string `json:"mode"`
	// SHA256 or Link: exactly one of them.
	SHA256 string `json:"sha256,omitempty"`
	// Link is the link's target, relative to the link's folder.
	Link string `json:"link,omitempty"`
}

// Build is how the bundle was made.
type Build struct {
	// BuilderImage is the image that the device code was compiled in, by digest, HostImage that of
	// the rest, and BaseImage what both were made from.
	BuilderImage string `json:"builder_image"`
	HostImage    string `json:"host_image"`
	BaseImage    string `json:"base_image"`
	// Patches are what was changed in the source before it was compiled, in this order.
	Patches         []Patch  `json:"patches,omitempty"`
	HostCMake       []string `json:"host_cmake"`
	CUDACMake       []string `json:"cuda_cmake"`
	SourceDateEpoch int64    `json:"source_date_epoch"`
	// Engine is the build engine and its version.
	Engine string `json:"engine"`
}

// A Patch is a file of matrix/patches, as it was applied.
type Patch struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
}

// Check reports everything wrong with the metadata, as matrix.Problems.
func (m Metadata) Check() error {
	var p matrix.Problems
	checkTexts(reflect.ValueOf(m), "", &p)
	if m.SchemaVersion != SchemaVersion {
		p.Addf("schema_version", "%d, want %d", m.SchemaVersion, SchemaVersion)
	}
	checkName(&p, "release", m.Release)
	p.Under("llama_cpp", m.LlamaCPP.check())
	p.Under("toolkit", m.Toolkit.check())
	p.Under("", facts{m.Name, m.Row, m.Architecture, m.GPUs, m.DeviceCode, m.Requires}.check())
	p.Under("", checkFiles(m.Files))
	p.Under("build", m.Build.check())
	return p.Err()
}

func (b Build) check() error {
	var p matrix.Problems
	for _, text := range []struct{ at, value string }{
		{"builder_image", b.BuilderImage}, {"host_image", b.HostImage}, {"base_image", b.BaseImage}, {"engine", b.Engine},
	} {
		if text.value == "" {
			p.Addf(text.at, "empty")
		}
	}
	for i, patch := range b.Patches {
		at := fmt.Sprintf("patches[%d]", i)
		checkName(&p, at+".name", patch.Name)
		checkSHA256(&p, at+".sha256", patch.SHA256)
	}
	checkEpoch(&p, "source_date_epoch", b.SourceDateEpoch)
	return p.Err()
}

// checkFiles checks a bundle's list of files.
func checkFiles(files []File) error {
	var p matrix.Problems
	if len(files) == 0 {
		p.Addf("files", "empty")
	}
	for i, f := range files {
		if f.Path == MetadataName {
			p.Addf(fmt.Sprintf("files[%d].path", i), "%s does not list itself", MetadataName)
		}
	}
	checkTree(&p, "files", files)
	return p.Err()
}

// checkTree checks that a list of files is a tree that unpacks into its own folder and nowhere
// else: no path goes through a link, and every link ends at a file of the list.
func checkTree(p *matrix.Problems, list string, files []File) {
	listed := make(map[string]File, len(files))
	for _, f := range files {
		listed[f.Path] = f
	}
	for i, f := range files {
		at := fmt.Sprintf("%s[%d]", list, i)
		p.Under(at, f.check())
		if i > 0 && f.Path <= files[i-1].Path {
			p.Addf(at+".path", "%q comes after %q: files ascend by path, each once", shorten(f.Path), shorten(files[i-1].Path))
		}
		for dir := path.Dir(f.Path); isTreePath(dir); dir = path.Dir(dir) {
			if _, ok := listed[dir]; ok {
				p.Addf(at+".path", "%q is below %q, which is not a folder", shorten(f.Path), shorten(dir))
			}
		}
		if f.Link != "" && !endsAtFile(f, listed) {
			p.Addf(at+".link", "%q does not lead to a file of the archive", shorten(f.Link))
		}
	}
}

func endsAtFile(f File, listed map[string]File) bool {
	for range maxHops {
		next, ok := listed[path.Join(path.Dir(f.Path), f.Link)]
		if !ok || next.Link == "" {
			return ok
		}
		f = next
	}
	return false
}

func (f File) check() error {
	var p matrix.Problems
	if !isTreePath(f.Path) {
		p.Addf("path", "%q is not a path below the top folder", shorten(f.Path))
	}
	switch {
	case (f.SHA256 == "") == (f.Link == ""):
		p.Addf("", "want either sha256 or link")
	case f.Link != "":
		if f.Link != path.Clean(f.Link) || path.IsAbs(f.Link) || strings.Contains(f.Link, `\`) ||
			!isTreePath(path.Join(path.Dir(f.Path), f.Link)) {
			p.Addf("link", "%q leaves the archive or is not in its shortest form", shorten(f.Link))
		}
		if f.Size != 0 {
			p.Addf("size", "%d, but a link has none", f.Size)
		}
		if f.Mode != modeLink {
			p.Addf("mode", "%q, want %s for a link", shorten(f.Mode), modeLink)
		}
	default:
		checkSHA256(&p, "sha256", f.SHA256)
		checkSize(&p, "size", f.Size, 0)
		if f.Mode != modeFile && f.Mode != modeProgram {
			p.Addf("mode", "%q, want %s or %s", shorten(f.Mode), modeFile, modeProgram)
		}
	}
	return p.Err()
}

// Encode is the one way to write a metadata.json. It refuses metadata that Check refuses.
func (m Metadata) Encode() ([]byte, error) {
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("writing %s: %w", MetadataName, err)
	}
	return encode(m)
}

// DecodeMetadata reads a metadata.json and checks it.
func DecodeMetadata(r io.Reader) (Metadata, error) {
	var m Metadata
	if err := decode(r, MetadataName, &m); err != nil {
		return Metadata{}, err
	}
	if err := m.Check(); err != nil {
		return Metadata{}, fmt.Errorf("reading %s: %w", MetadataName, err)
	}
	return m, nil
}
