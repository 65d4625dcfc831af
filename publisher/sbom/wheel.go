package sbom

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// wheelFormat ends the names of wheels.
const wheelFormat = "whl"

// Wheel writes the bill of materials of a wheel of the Python package: its files, and what is linked into the client, if
// that is in it. Created is the release's own time.
func Wheel(wheel []byte, artifact manifests.Artifact, version string, created time.Time) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("listing what is in %s: %w", artifact.Name, err)
	}
	contents, err := readWheel(wheel)
	if err != nil {
		return fail(err)
	}
	d := newDraft(manifests.Stem(artifact.Name), artifact.SHA256, created)
	of := d.describe(v2_3.Package{
		PackageName: manifests.Stem(artifact.Name), PackageVersion: version,
		PackageExternalReferences: purl("pkg:pypi/" + manifests.Distribution + "@" + version),
	}, artifact, contents)
	for name, program := range contents {
		if path.Base(name) != clientProgram {
			continue
		}
		if err := d.program(of, program, contents, manifests.Distribution+"-"+version+".dist-info/licenses/"+licensesDir); err != nil {
			return fail(err)
		}
	}
	text, err := d.encode()
	if err != nil {
		return fail(err)
	}
	return text, nil
}

// readWheel reads the files of a wheel.
func readWheel(wheel []byte) (map[string][]byte, error) {
	r, err := zip.NewReader(bytes.NewReader(wheel), int64(len(wheel)))
	if err != nil {
		return nil, err
	}
	contents := map[string][]byte{}
	left := int64(maxClient)
	for _, f := range r.File {
		if strings.HasSuffix(f.Name, "/") {
			continue
		}
		opened, err := f.Open()
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(io.LimitReader(opened, left+1))
		opened.Close()
		if err != nil {
			return nil, err
		}
		if left -= int64(len(data)); left < 0 {
			return nil, fmt.Errorf("it unpacks to more than %d bytes", maxClient)
		}
		contents[f.Name] = data
	}
	return contents, nil
}
