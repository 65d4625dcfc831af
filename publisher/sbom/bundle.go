package sbom

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// noticeName is the file in a bundle with the licenses of everything that is not llama.cpp's own.
const noticeName = "THIRD_PARTY_LICENSES.txt"

// Contents are a bundle, unpacked.
type Contents struct {
	// FS is the bundle's top folder.
	FS       fs.FS
	Metadata manifests.Metadata
	// Archives are the bundle's two files. They have the same tar.
	Archives []manifests.Artifact
	// Runtime are the files of the CUDA runtime that comes with the release.
	Runtime []manifests.Artifact
	// Repository is where llama.cpp comes from: "https://github.com/ggml-org/llama.cpp". It may be empty.
	Repository string
}

// Bundle writes a bundle's bill of materials.
func Bundle(c Contents) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("listing what is in %s: %w", c.Metadata.Name, err)
	}
	if len(c.Archives) == 0 || c.Archives[0].Tar == nil {
		return fail(fmt.Errorf("no archive is given"))
	}
	files, err := readFiles(c.FS)
	if err != nil {
		return fail(err)
	}
	licence, err := fs.ReadFile(c.FS, "LICENSE")
	if err != nil {
		return fail(err)
	}
	notice, err := fs.ReadFile(c.FS, noticeName)
	if err != nil {
		return fail(err)
	}
	m := c.Metadata
	d := newDraft(m.Name, c.Archives[0].Tar.SHA256, time.Unix(m.Build.SourceDateEpoch, 0))
	bundle := d.add(v2_3.Package{
		PackageName: m.Name, PackageVersion: m.Release, PrimaryPackagePurpose: "APPLICATION",
		PackageFileName:  m.Name + ".tar",
		PackageChecksums: []common.Checksum{{Algorithm: common.SHA256, Value: c.Archives[0].Tar.SHA256}},
		PackageComment:   "The checksum is that of the tar inside both archives.",
	})
	d.relate(documentID, common.TypeRelationshipDescribe, bundle.PackageSPDXIdentifier)
	d.archives(bundle, c.Archives)
	d.files(bundle, files)
	contains := func(p v2_3.Package) {
		d.relate(bundle.PackageSPDXIdentifier, common.TypeRelationshipContains, d.add(p).PackageSPDXIdentifier)
	}
	d.llama(c, d.license("llama.cpp", string(licence)), files, contains)
	for _, part := range noticeParts(string(notice)) {
		d.vendored(part, files, contains)
	}
	d.cuda(c, bundle)
	d.builder(m.Build, bundle)
	text, err := d.encode()
	if err != nil {
		return fail(err)
	}
	return text, nil
}

// readFiles hashes every regular file. Links say nothing that the files do not.
func readFiles(fsys fs.FS) ([]file, error) {
	var files []file
	err := fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		f, err := fsys.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		first, second := sha1.New(), sha256.New()
		if _, err := io.Copy(io.MultiWriter(first, second), f); err != nil {
			return err
		}
		files = append(files, file{name, hex.EncodeToString(first.Sum(nil)), hex.EncodeToString(second.Sum(nil))})
		return nil
	})
	return files, err
}

// llama adds llama.cpp and ggml, which is a project of its own with a version of its own in the same tree.
func (d *draft) llama(c Contents, licence string, files []file, add func(v2_3.Package)) {
	source := c.Metadata.LlamaCPP
	p := v2_3.Package{
		PackageName: "llama.cpp", PackageVersion: source.Version, PrimaryPackagePurpose: "SOURCE",
		PackageLicenseConcluded: licence, PackageLicenseDeclared: licence,
		PackageSourceInfo: "commit " + source.Commit,
	}
	if tree, ok := strings.CutPrefix(source.Commit, "sha256:"); ok {
		p.PackageSourceInfo = "a tree without a repository, sha256 " + tree
	} else if c.Repository != "" {
		p.PackageHomePage = c.Repository
		p.PackageDownloadLocation = "git+" + c.Repository + "@" + source.Commit
		if at, ok := strings.CutPrefix(c.Repository, "https://github.com/"); ok {
			p.PackageExternalReferences = purl("pkg:github/" + strings.TrimSuffix(at, ".git") + "@" + source.Commit)
		}
	}
	ggml := p
	ggml.PackageName, ggml.PackageVersion = "ggml", ggmlVersion(files)
	ggml.PackageSourceInfo = "the folder ggml of llama.cpp's tree, " + p.PackageSourceInfo
	ggml.PackageExternalReferences = nil
	add(p)
	add(ggml)
}

var ggmlForm = regexp.MustCompile(`^lib/libggml-base\.so\.([0-9]+\.[0-9]+\.[0-9]+)$`)

// ggmlVersion is the version in the name of ggml's library; empty where that has none.
func ggmlVersion(files []file) string {
	for _, f := range files {
		if match := ggmlForm.FindStringSubmatch(f.path); match != nil {
			return match[1]
		}
	}
	return ""
}

// A part is one section of the license texts: of a library, by the path of its license or its name and version.
type part struct{ title, text string }

// noticeParts splits the license texts. The farm's build underlines the title of each; other lines that are
// underlined are part of a text.
func noticeParts(notice string) []part {
	var parts []part
	lines := strings.Split(notice, "\n")
	for i := 0; i < len(lines); i++ {
		if i+1 < len(lines) && isTitle(lines[i]) && lines[i+1] == strings.Repeat("=", len(lines[i])) {
			parts = append(parts, part{title: lines[i]})
			i++
			continue
		}
		if len(parts) > 0 {
			parts[len(parts)-1].text += lines[i] + "\n"
		}
	}
	for i := range parts {
		parts[i].text = strings.TrimSpace(parts[i].text)
	}
	return slices.DeleteFunc(parts, func(p part) bool { return p.text == "" })
}

// isTitle reports whether a line is what the farm's build calls a part: a path in llama.cpp's tree, an npm package with
// its version, or one of the texts that come with the compiler and the toolkit.
func isTitle(line string) bool {
	return strings.HasPrefix(line, "licenses/") || strings.HasPrefix(line, "vendor/") || npmForm.MatchString(line) || sourceForm.MatchString(line) ||
		strings.HasPrefix(line, libgompTitle) || strings.HasPrefix(line, ccclTitle) || line == gplTitle || line == apacheTitle
}

const (
	libgompTitle = "libgomp ("
	gplTitle     = "GNU General Public License, version 3" // of which libgomp's text speaks
	ccclTitle    = "CUB, Thrust and libcu++ ("
	apacheTitle  = "Apache License, version 2.0" // of which CCCL's text speaks
)

var (
	licenceForm = regexp.MustCompile(`(?i)^licen[cs]e([-.]|$)`)
	sourceForm  = regexp.MustCompile(`^[\w.-]+(/[\w.-]+)+\.(c|cpp|h|hpp|inc|cu|cuh)$`)
	npmForm     = regexp.MustCompile(`^((?:@[^/ ]+/)?[^/ ]+) ([0-9]+\.[0-9]+\.[0-9]+[^ ]*)$`)
)

// vendored adds the library that a section is about.
func (d *draft) vendored(p part, files []file, add func(v2_3.Package)) {
	if p.title == gplTitle || p.title == apacheTitle {
		return
	}
	library := v2_3.Package{PrimaryPackagePurpose: "LIBRARY"}
	switch npm := npmForm.FindStringSubmatch(p.title); {
	case strings.HasPrefix(p.title, libgompTitle):
		if !slices.ContainsFunc(files, func(f file) bool { return strings.HasPrefix(path.Base(f.path), "libgomp.so") }) {
			return // not bundled: nothing needs it
		}
		library.PackageName = "libgomp"
		library.PackageLicenseDeclared = "GPL-3.0-or-later WITH GCC-exception-3.1"
	case strings.HasPrefix(p.title, ccclTitle):
		library.PackageName = "CCCL"
		library.PackageSourceInfo = "CUB, Thrust and libcu++: headers of the CUDA toolkit, compiled into libggml-cuda.so"
		library.PackageLicenseDeclared = d.license(p.title, p.text)
	case sourceForm.MatchString(p.title) && !strings.HasPrefix(p.title, "vendor/"):
		library.PackageName, library.PrimaryPackagePurpose = p.title, "SOURCE"
		library.PackageSourceInfo = "a file of llama.cpp's tree with a notice of its own"
		library.PackageLicenseDeclared = d.license(p.title, p.text)
	case npm != nil:
		library.PackageName, library.PackageVersion = npm[1], npm[2]
		library.PackageExternalReferences = purl("pkg:npm/" + strings.Replace(npm[1], "@", "%40", 1) + "@" + npm[2])
		library.PackageSourceInfo = "part of the web UI inside llama-server"
		library.PackageLicenseDeclared = d.license(p.title, p.text)
	default:
		library.PackageName = libraryName(p.title)
		library.PackageSourceInfo = "vendored in llama.cpp's tree: " + p.title
		library.PackageLicenseDeclared = d.license(p.title, p.text)
	}
	library.PackageLicenseConcluded = library.PackageLicenseDeclared
	add(library)
}

// libraryName is the library that a license in the tree is for: licenses/LICENSE-jsonhpp, vendor/cpp-httplib/LICENSE,
// vendor/stb/stb_image.h.
func libraryName(title string) string {
	dir, base := path.Split(title)
	if name := licenceForm.ReplaceAllString(base, ""); licenceForm.MatchString(base) && name != "" && path.Ext(base) == "" {
		return name
	}
	if licenceForm.MatchString(base) && dir != "" {
		return path.Base(dir)
	}
	return strings.TrimSuffix(base, path.Ext(base))
}

// cuda adds the toolkit that compiled the device code, and the runtime that the bundle needs and does not have.
func (d *draft) cuda(c Contents, bundle *v2_3.Package) {
	const by = "NVIDIA CUDA Toolkit"
	supplier := &common.Supplier{Supplier: "NVIDIA Corporation", SupplierType: "Organization"}
	toolkit := d.add(v2_3.Package{
		PackageName: by, PackageVersion: c.Metadata.Toolkit.CUDA, PackageSupplier: supplier, PackageSourceInfo: "nvcc " + c.Metadata.Toolkit.NVCC,
		PackageComment: "Compiled the device code.",
	})
	d.relate(toolkit.PackageSPDXIdentifier, common.TypeRelationshipBuildToolOf, bundle.PackageSPDXIdentifier)
	for _, archive := range c.Runtime {
		runtime := d.add(v2_3.Package{
			PackageName: archive.Name, PackageVersion: c.Metadata.Toolkit.CUDA, PackageSupplier: supplier, PackageFileName: archive.Name, PrimaryPackagePurpose: "ARCHIVE",
			PackageChecksums: []common.Checksum{{Algorithm: common.SHA256, Value: archive.SHA256}},
			PackageComment:   "CUDA's own libraries, which machines that have them do not need.",
		})
		d.relate(bundle.PackageSPDXIdentifier, common.TypeRelationshipDependsOn, runtime.PackageSPDXIdentifier)
	}
}

// builder adds the image that everything was compiled in, and what that image was made from.
func (d *draft) builder(b manifests.Build, bundle *v2_3.Package) {
	for _, image := range []struct{ name, digest, how string }{
		{"llcuda builder image", b.BuilderImage, common.TypeRelationshipBuildToolOf},
		{"llcuda builder image of the host half", b.HostImage, common.TypeRelationshipBuildToolOf},
		{"base image of the builder", b.BaseImage, common.TypeRelationshipBuildDependencyOf},
	} {
		if image.digest == b.BuilderImage && image.name != "llcuda builder image" {
			continue // one image built both halves
		}
		p := v2_3.Package{PackageName: image.name, PackageVersion: image.digest, PrimaryPackagePurpose: "CONTAINER"}
		if _, digest, ok := strings.Cut(image.digest, "sha256:"); ok && sha256Form.MatchString(digest) {
			p.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: digest}}
		}
		d.relate(d.add(p).PackageSPDXIdentifier, image.how, bundle.PackageSPDXIdentifier)
	}
}

var sha256Form = regexp.MustCompile(`^[0-9a-f]{64}$`)
