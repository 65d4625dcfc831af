package sbom

import (
	"bytes"
	stdjson "encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
	"github.com/spdx/tools-golang/spdxlib"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// Facts are what a bill of materials must agree with.
type Facts struct {
	// Name is the stem of the archives' names.
	Name     string
	Archives []manifests.Artifact
	// Files are those in the archive, where they are known.
	Files []manifests.File
}

// Check reads a bill of materials and says what is wrong with it: with its form, as SPDX 2.3 wants it, and with what it
// says of the archive.
func Check(text []byte, facts Facts) []string {
	doc, err := read(text)
	if err != nil {
		return []string{err.Error()}
	}
	c := checking{doc: doc}
	c.document()
	c.packages()
	c.agrees(facts)
	return c.problems
}

// Files reads a bill of materials and lists the regular files that it names, without their sizes and
// modes, which it does not have. It refuses files without a path or a digest, and nothing else that
// Check finds.
func Files(text []byte) ([]manifests.File, error) {
	doc, err := read(text)
	if err != nil {
		return nil, err
	}
	var files []manifests.File
	for i, f := range doc.Files {
		file := manifests.File{Path: strings.TrimPrefix(f.FileName, "./"), SHA256: checksum(f.Checksums, common.SHA256)}
		if !fs.ValidPath(file.Path) || !matrix.IsPrintable(file.Path) || file.SHA256 == "" {
			return nil, fmt.Errorf("file %d, %q, has no path below the archive's folder, or no SHA256", i, file.Path)
		}
		files = append(files, file)
	}
	return files, nil
}

// read reads a bill of materials. SPDX has no null anywhere, and neither spdx/tools-golang nor this
// package expects one: the former would end the program.
func read(text []byte) (*v2_3.Document, error) {
	for tokens := stdjson.NewDecoder(bytes.NewReader(text)); ; {
		token, err := tokens.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("it is not an SPDX document: %w", err)
		}
		if token == nil {
			return nil, fmt.Errorf("it is not an SPDX document: there is null at byte %d", tokens.InputOffset())
		}
	}
	doc, err := json.Read(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("it is not an SPDX document: %w", err)
	}
	return doc, nil
}

type checking struct {
	doc      *v2_3.Document
	problems []string
}

func (c *checking) addf(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

// document checks the document against chapters 6 and 10 of SPDX 2.3, and its relationships against what there is.
func (c *checking) document() {
	d := c.doc
	if d.SPDXVersion != v2_3.Version || d.DataLicense != v2_3.DataLicense || d.SPDXIdentifier != documentID || d.DocumentName == "" {
		c.addf("it is not version %s, under %s, with the identifier SPDXRef-DOCUMENT and a name", v2_3.Version, v2_3.DataLicense)
	}
	if u, err := url.Parse(d.DocumentNamespace); err != nil || !u.IsAbs() || u.Fragment != "" {
		c.addf("its namespace %q is not an address without fragment", d.DocumentNamespace)
	}
	if info := d.CreationInfo; info == nil || len(info.Creators) == 0 {
		c.addf("it has no creator")
	} else if _, err := time.Parse("2006-01-02T15:04:05Z", info.Created); err != nil {
		c.addf("it was created at %q, which is not a time in UTC", info.Created)
	}
	if err := spdxlib.ValidateDocument(d); err != nil {
		c.addf("%v", err)
	}
	for _, other := range d.OtherLicenses {
		if !strings.HasPrefix(other.LicenseIdentifier, "LicenseRef-") || other.ExtractedText == "" {
			c.addf("the licence %q has no text, or another's name", other.LicenseIdentifier)
		}
	}
}

var (
	idForm         = regexp.MustCompile(`^[A-Za-z0-9.-]+$`)
	licenseRefForm = regexp.MustCompile(`LicenseRef-[A-Za-z0-9.-]+`)
)

// packages checks packages and files against chapters 7 and 8.
func (c *checking) packages() {
	seen := map[common.ElementID]bool{documentID: true}
	identify := func(id common.ElementID) {
		if !idForm.MatchString(string(id)) || seen[id] {
			c.addf("the identifier %q is none, or is there twice", id)
		}
		seen[id] = true
	}
	sha1Of := map[common.ElementID]string{}
	for _, f := range c.doc.Files {
		identify(f.FileSPDXIdentifier)
		sha1Of[f.FileSPDXIdentifier] = checksum(f.Checksums, common.SHA1)
		if !strings.HasPrefix(f.FileName, "./") || len(sha1Of[f.FileSPDXIdentifier]) != 40 {
			c.addf("the file %q has no relative path, or no SHA1", f.FileName)
		}
	}
	for _, p := range c.doc.Packages {
		identify(p.PackageSPDXIdentifier)
		if p.PackageName == "" || p.PackageDownloadLocation == "" {
			c.addf("the package %q has no name or no download location", p.PackageSPDXIdentifier)
		}
		for _, ref := range licenseRefForm.FindAllString(p.PackageLicenseDeclared+" "+p.PackageLicenseConcluded, -1) {
			if !slices.ContainsFunc(c.doc.OtherLicenses, func(l *v2_3.OtherLicense) bool { return l.LicenseIdentifier == ref }) {
				c.addf("the package %q is under %s, whose text is not there", p.PackageName, ref)
			}
		}
		if p.FilesAnalyzed != (p.PackageVerificationCode != nil) {
			c.addf("the package %q has files and no verification code, or the other way round", p.PackageName)
		}
		if p.PackageVerificationCode == nil {
			continue
		}
		var hashes []string
		for _, r := range c.doc.Relationships {
			if hash, isFile := sha1Of[r.RefB.ElementRefID]; isFile && r.RefA.ElementRefID == p.PackageSPDXIdentifier && r.Relationship == common.TypeRelationshipContains {
				hashes = append(hashes, hash)
			}
		}
		if got := verificationCode(hashes); got != p.PackageVerificationCode.Value {
			c.addf("the verification code of %q is %s, its files make %s", p.PackageName, p.PackageVerificationCode.Value, got)
		}
	}
}

func checksum(list []common.Checksum, algorithm common.ChecksumAlgorithm) string {
	for _, sum := range list {
		if sum.Algorithm == algorithm {
			return sum.Value
		}
	}
	return ""
}

// agrees compares what the document says with what is so.
func (c *checking) agrees(facts Facts) {
	described, err := spdxlib.GetDescribedPackageIDs(c.doc)
	if err != nil || len(described) != 1 {
		c.addf("it describes %d packages, want one: %v", len(described), err)
		return
	}
	packages := map[common.ElementID]*v2_3.Package{}
	for _, p := range c.doc.Packages {
		packages[p.PackageSPDXIdentifier] = p
	}
	if main := packages[described[0]]; main == nil || main.PackageName != facts.Name {
		c.addf("it does not describe %s", facts.Name)
	}
	archives := map[string]string{}
	for _, r := range c.doc.Relationships {
		if p := packages[r.RefB.ElementRefID]; p != nil && r.Relationship == common.TypeRelationshipExpandedFromArchive {
			archives[p.PackageFileName] = checksum(p.PackageChecksums, common.SHA256)
		}
	}
	for _, archive := range facts.Archives {
		switch got, ok := archives[archive.Name]; {
		case !ok:
			c.addf("%s is not in it", archive.Name)
		case got != archive.SHA256:
			c.addf("it has sha256 %s for %s, which is %s", got, archive.Name, archive.SHA256)
		}
		delete(archives, archive.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(archives)) {
		c.addf("it names the archive %s, which is none of %s", name, facts.Name)
	}
	if facts.Files != nil {
		c.files(facts.Files)
	}
}

func (c *checking) files(want []manifests.File) {
	got := map[string]string{}
	for _, f := range c.doc.Files {
		got[strings.TrimPrefix(f.FileName, "./")] = checksum(f.Checksums, common.SHA256)
	}
	for _, f := range want {
		if f.Link != "" {
			continue
		}
		switch sum, ok := got[f.Path]; {
		case !ok:
			c.addf("the file %s is not in it", f.Path)
		case sum != f.SHA256:
			c.addf("it has sha256 %s for the file %s, which is %s", sum, f.Path, f.SHA256)
		}
		delete(got, f.Path)
	}
	delete(got, manifests.MetadataName) // the one file that does not list itself
	for _, name := range slices.Sorted(maps.Keys(got)) {
		c.addf("it names the file %s, which is not in the archive", name)
	}
}
