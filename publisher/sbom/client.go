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
	"path"
	"runtime/debug"
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

// Client writes the bill of materials of an archive of llcuda-fetch, a tar.gz. Created is the release's own time.
func Client(archive io.Reader, artifact manifests.Artifact, release string, created time.Time) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("listing what is in %s: %w", artifact.Name, err)
	}
	files, program, err := readClient(archive)
	if err != nil {
		return fail(err)
	}
	info, err := buildinfo.Read(bytes.NewReader(program))
	if err != nil {
		return fail(fmt.Errorf("reading the build information of %s: %w", clientProgram, err))
	}
	name := Stem(artifact.Name)
	d := newDraft(name, artifact.SHA256, created)
	client := d.add(v2_3.Package{
		PackageName: name, PackageVersion: release, PrimaryPackagePurpose: "APPLICATION",
		PackageHomePage: manifests.RepositoryURL, PackageSourceInfo: "module " + info.Main.Path,
	})
	d.relate(documentID, common.TypeRelationshipDescribe, client.PackageSPDXIdentifier)
	d.archives(client, []manifests.Artifact{artifact})
	d.files(client, files)
	standard := d.add(v2_3.Package{
		PackageName: "Go", PackageVersion: strings.TrimPrefix(info.GoVersion, "go"), PrimaryPackagePurpose: "LIBRARY",
		PackageHomePage: "https://go.dev", PackageLicenseDeclared: "BSD-3-Clause",
		PackageExternalReferences: purl("pkg:golang/std@" + strings.TrimPrefix(info.GoVersion, "go")),
		PackageComment:            "The standard library is in the program, and the toolchain made it.",
	})
	d.relate(client.PackageSPDXIdentifier, common.TypeRelationshipContains, standard.PackageSPDXIdentifier)
	for _, module := range info.Deps {
		p := d.add(modulePackage(module))
		d.relate(client.PackageSPDXIdentifier, common.TypeRelationshipContains, p.PackageSPDXIdentifier)
	}
	text, err := d.encode()
	if err != nil {
		return fail(err)
	}
	return text, nil
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

// Stem is an archive's name without the extension of its format.
func Stem(name string) string {
	for _, format := range []string{manifests.FormatTarGz, manifests.FormatTarZst} {
		if stem, ok := strings.CutSuffix(name, "."+format); ok {
			return stem
		}
	}
	return name
}

// readClient hashes the files of an archive and returns the program.
func readClient(archive io.Reader) (files []file, program []byte, err error) {
	z, err := gzip.NewReader(archive)
	if err != nil {
		return nil, nil, err
	}
	bounded := &io.LimitedReader{R: z, N: maxClient}
	tr := tar.NewReader(bounded)
	for {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			return nil, nil, err
		}
		first, second := sha1.Sum(content), sha256.Sum256(content)
		files = append(files, file{path.Clean(header.Name), hex.EncodeToString(first[:]), hex.EncodeToString(second[:])})
		if path.Base(header.Name) == clientProgram {
			program = content
		}
	}
	if bounded.N == 0 {
		return nil, nil, fmt.Errorf("it unpacks to more than %d bytes", maxClient)
	}
	if program == nil {
		return nil, nil, fmt.Errorf("there is no %s in it", clientProgram)
	}
	return files, program, nil
}
