// Package sbom says what is inside the archives of a release: one bill of materials, in SPDX 2.3, for each bundle and
// each archive of the client.
//
// ci's commands call it. It takes the contents of an archive and what the release says of it, and returns the text of
// NAME.spdx.json, the same bytes for the same archive. Check reads one and compares it with the release:
//
//	Contents     ──Bundle──▶ SPDX      llama.cpp, ggml, what they vendor, CUDA, the builder, every file
//	client .gz   ──Client──▶ SPDX      the Go toolchain and every module, from the program itself
//	SPDX, Facts  ──Check──▶ what is wrong with it
//
// Nothing is declared by hand: files and digests come from the archive, the vendored libraries from the license texts
// that the farm collected while building, Go modules from the program's own build information. The package never
// guesses a license: what it does not recognize is there as the text itself.
package sbom

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/waqasm86/llcuda-farm/manifests"
)

const (
	documentID  = common.ElementID("DOCUMENT")
	noAssertion = "NOASSERTION"
	// creator is the tool, without a version: the same archive has the same bill whenever it is written.
	creator = "llcuda-farm"
)

// A draft is a document that is being written.
type draft struct {
	doc  *v2_3.Document
	used map[common.ElementID]bool
}

// newDraft begins a document on one archive. Its namespace is unique because it has the contents' digest.
func newDraft(name, digest string, created time.Time) *draft {
	return &draft{
		doc: &v2_3.Document{
			SPDXVersion: v2_3.Version, DataLicense: v2_3.DataLicense, SPDXIdentifier: documentID,
			DocumentName:      name,
			DocumentNamespace: manifests.RepositoryURL + "/spdx/" + name + "-" + digest,
			CreationInfo: &v2_3.CreationInfo{
				Creators: []common.Creator{{CreatorType: "Tool", Creator: creator}},
				Created:  created.UTC().Format(time.RFC3339),
			},
		},
		used: map[common.ElementID]bool{documentID: true},
	}
}

var notInID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// id makes an identifier of a name; none is given twice.
func (d *draft) id(kind, name string) common.ElementID {
	base := kind + "-" + strings.Trim(notInID.ReplaceAllString(name, "-"), "-")
	id := common.ElementID(base)
	for n := 2; d.used[id]; n++ {
		id = common.ElementID(fmt.Sprintf("%s-%d", base, n))
	}
	d.used[id] = true
	return id
}

// add fills in what every package must say and takes it up.
func (d *draft) add(p v2_3.Package) *v2_3.Package {
	p.PackageSPDXIdentifier = d.id("Package", p.PackageName)
	p.PackageDownloadLocation = cmp.Or(p.PackageDownloadLocation, noAssertion)
	p.PackageLicenseConcluded = cmp.Or(p.PackageLicenseConcluded, noAssertion)
	p.PackageLicenseDeclared = cmp.Or(p.PackageLicenseDeclared, noAssertion)
	p.PackageCopyrightText = cmp.Or(p.PackageCopyrightText, noAssertion)
	p.IsFilesAnalyzedTagPresent = true
	d.doc.Packages = append(d.doc.Packages, &p)
	return &p
}

func (d *draft) relate(a common.ElementID, how string, b common.ElementID) {
	d.doc.Relationships = append(d.doc.Relationships, &v2_3.Relationship{
		RefA: common.DocElementID{ElementRefID: a}, RefB: common.DocElementID{ElementRefID: b}, Relationship: how,
	})
}

// license is the expression for a license text: a name of SPDX's list, or one of the document's own with the text.
func (d *draft) license(name, text string) string {
	if known := recognize(text); known != "" {
		return known
	}
	for _, other := range d.doc.OtherLicenses {
		if other.ExtractedText == text {
			return other.LicenseIdentifier
		}
	}
	id := "LicenseRef-" + string(d.id("License", name))
	d.doc.OtherLicenses = append(d.doc.OtherLicenses, &v2_3.OtherLicense{LicenseIdentifier: id, LicenseName: name, ExtractedText: text})
	return id
}

// archives adds the files that the contents travel in.
func (d *draft) archives(of *v2_3.Package, archives []manifests.Artifact) {
	for _, archive := range archives {
		p := d.add(v2_3.Package{
			PackageName: archive.Name, PackageFileName: archive.Name, PrimaryPackagePurpose: "ARCHIVE",
			PackageChecksums: []common.Checksum{{Algorithm: common.SHA256, Value: archive.SHA256}},
		})
		d.relate(of.PackageSPDXIdentifier, common.TypeRelationshipExpandedFromArchive, p.PackageSPDXIdentifier)
	}
}

// A file is a regular file in an archive.
type file struct{ path, sha1, sha256 string }

// files adds every file of a package, and the code that stands for all of them (SPDX 2.3, 7.9).
func (d *draft) files(of *v2_3.Package, files []file) {
	var hashes []string
	for _, f := range files {
		id := d.id("File", f.path)
		d.doc.Files = append(d.doc.Files, &v2_3.File{
			FileName: "./" + f.path, FileSPDXIdentifier: id,
			Checksums:        []common.Checksum{{Algorithm: common.SHA1, Value: f.sha1}, {Algorithm: common.SHA256, Value: f.sha256}},
			LicenseConcluded: noAssertion, LicenseInfoInFiles: []string{noAssertion}, FileCopyrightText: noAssertion,
		})
		d.relate(of.PackageSPDXIdentifier, common.TypeRelationshipContains, id)
		hashes = append(hashes, f.sha1)
	}
	of.FilesAnalyzed = true
	of.PackageLicenseInfoFromFiles = []string{noAssertion}
	of.PackageVerificationCode = &common.PackageVerificationCode{Value: verificationCode(hashes)}
}

func verificationCode(hashes []string) string {
	sum := sha1.Sum([]byte(strings.Join(slices.Sorted(slices.Values(hashes)), "")))
	return hex.EncodeToString(sum[:])
}

func (d *draft) encode() ([]byte, error) {
	var text bytes.Buffer
	if err := json.Write(d.doc, &text, json.Indent("  "), json.EscapeHTML(false)); err != nil {
		return nil, err
	}
	return text.Bytes(), nil
}

func purl(p string) []*v2_3.PackageExternalReference {
	return []*v2_3.PackageExternalReference{{Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: p}}
}
