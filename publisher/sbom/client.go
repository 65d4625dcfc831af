package sbom

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha1"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// clientProgram is the program in an archive of the client.
const clientProgram = "llcuda-fetch"

// maxClient bounds what an archive of the client unpacks to, in bytes. The program has under 20 MB.
const maxClient = 256 << 20

// licensesDir is the folder of an archive with the licenses of what is linked into the program: licenses/MODULE/FILE.
const licensesDir = "licenses/"

// Client writes the bill of materials of an archive of llcuda-fetch, a tar.gz. Created is the release's own time.
func Client(archive io.Reader, artifact manifests.Artifact, release string, created time.Time) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("listing what is in %s: %w", artifact.Name, err)
	}
	contents, err := readClient(archive)
	if err != nil {
		return fail(err)
	}
	if contents[clientProgram] == nil {
		return fail(fmt.Errorf("there is no %s in it", clientProgram))
	}
	name := manifests.Stem(artifact.Name)
	d := newDraft(name, artifact.SHA256, created)
	client := d.describe(v2_3.Package{PackageName: name, PackageVersion: release}, artifact, contents)
	if err := d.program(client, contents[clientProgram], contents, licensesDir); err != nil {
		return fail(err)
	}
	text, err := d.encode()
	if err != nil {
		return fail(err)
	}
	return text, nil
}

// describe adds the package that the document is about, which is one archive with these files.
func (d *draft) describe(p v2_3.Package, artifact manifests.Artifact, contents map[string][]byte) *v2_3.Package {
	p.PrimaryPackagePurpose, p.PackageHomePage = "APPLICATION", manifests.RepositoryURL
	added := d.add(p)
	d.relate(documentID, common.TypeRelationshipDescribe, added.PackageSPDXIdentifier)
	d.archives(added, []manifests.Artifact{artifact})
	var files []file
	for _, path := range slices.Sorted(maps.Keys(contents)) {
		first, second := sha1.Sum(contents[path]), sha256.Sum256(contents[path])
		files = append(files, file{path, hex.EncodeToString(first[:]), hex.EncodeToString(second[:])})
	}
	d.files(added, files)
	return added
}

// program adds what is linked into llcuda-fetch, by what the program itself says. The licenses of modules lie below a
// folder of the contents.
func (d *draft) program(of *v2_3.Package, program []byte, contents map[string][]byte, licenses string) error {
	info, err := buildinfo.Read(bytes.NewReader(program))
	if err != nil {
		return fmt.Errorf("reading the build information of %s: %w", clientProgram, err)
	}
	of.PackageSourceInfo = "module " + info.Main.Path
	standard := d.add(v2_3.Package{
		PackageName: "Go", PackageVersion: strings.TrimPrefix(info.GoVersion, "go"), PrimaryPackagePurpose: "LIBRARY",
		PackageHomePage: "https://go.dev", PackageLicenseDeclared: "BSD-3-Clause",
		PackageExternalReferences: purl("pkg:golang/std@" + strings.TrimPrefix(info.GoVersion, "go")),
		PackageComment:            "The standard library is in the program, and the toolchain made it.",
	})
	d.relate(of.PackageSPDXIdentifier, common.TypeRelationshipContains, standard.PackageSPDXIdentifier)
	declared := d.declared(info.Deps, contents, licenses)
	for _, module := range info.Deps {
		p := modulePackage(module)
		p.PackageLicenseDeclared = declared[module.Path]
		d.relate(of.PackageSPDXIdentifier, common.TypeRelationshipContains, d.add(p).PackageSPDXIdentifier)
	}
	return nil
}

// declared gives each module the licenses whose texts lie in its folder, or below and in no other module's. A notice
// counts where it is a license's text.
func (d *draft) declared(modules []*debug.Module, contents map[string][]byte, licenses string) map[string]string {
	found := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		dir, ok := strings.CutPrefix(path.Dir(name), strings.TrimSuffix(licenses, "/")+"/")
		if !ok {
			continue
		}
		of := ""
		for _, module := range modules {
			if (dir == module.Path || strings.HasPrefix(dir, module.Path+"/")) && len(module.Path) > len(of) {
				of = module.Path
			}
		}
		text := string(contents[name])
		switch base := strings.ToUpper(path.Base(name)); {
		case strings.HasPrefix(base, "LICEN"), strings.HasPrefix(base, "COPYING"), strings.HasPrefix(base, "UNLICENSE"):
			found[of] = append(found[of], strings.Split(d.license(of, text), " AND ")...)
		case strings.HasPrefix(base, "NOTICE") && recognize(text) != "":
			found[of] = append(found[of], strings.Split(recognize(text), " AND ")...)
		}
	}
	declared := map[string]string{}
	for module, names := range found {
		slices.Sort(names)
		declared[module] = strings.Join(slices.Compact(names), " AND ")
	}
	return declared
}

func modulePackage(module *debug.Module) v2_3.Package {
	for module.Replace != nil {
		module = module.Replace
	}
	p := v2_3.Package{
		PackageName: module.Path, PackageVersion: module.Version, PrimaryPackagePurpose: "LIBRARY",
		PackageExternalReferences: purl("pkg:golang/" + module.Path + "@" + module.Version),
	}
	if module.Sum != "" {
		p.PackageSourceInfo = "go.sum: " + module.Sum
	}
	return p
}

// readClient reads the files of an archive.
func readClient(archive io.Reader) (map[string][]byte, error) {
	z, err := gzip.NewReader(archive)
	if err != nil {
		return nil, err
	}
	contents := map[string][]byte{}
	bounded := &io.LimitedReader{R: z, N: maxClient}
	for tr := tar.NewReader(bounded); ; {
		header, err := tr.Next()
		switch {
		case bounded.N == 0:
			return nil, fmt.Errorf("it unpacks to more than %d bytes", maxClient)
		case errors.Is(err, io.EOF):
			return contents, nil
		case err != nil:
			return nil, err
		case header.Typeflag != tar.TypeReg:
			continue
		}
		if contents[path.Clean(header.Name)], err = io.ReadAll(tr); err != nil {
			return nil, err
		}
	}
}
