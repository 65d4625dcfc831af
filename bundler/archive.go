package bundler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/archive"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// A packed is an archive as it was read, without trust in anything that it says of itself.
type packed struct {
	*archive.Contents
	name, format, top string
	kind              manifests.Kind
	file              manifests.Digest
}

func (a *packed) add(rule, path, format string, args ...any) {
	a.Findings = append(a.Findings, Finding{Rule: rule, Path: path, Detail: fmt.Sprintf(format, args...)})
}

// ReadArtifact reads an archive of either format and says what it is: the manifest's entry for it,
// made from the file, the tar inside and the metadata inside that. Every file is compared with the
// metadata's list; an *AuditError names what does not agree.
func ReadArtifact(ctx context.Context, name string) (manifests.Artifact, error) {
	a, err := readArchive(ctx, name, nil)
	if err != nil {
		return manifests.Artifact{}, fmt.Errorf("reading %s: %w", name, err)
	}
	artifact, _ := a.describe()
	if len(a.Findings) > 0 {
		return manifests.Artifact{}, fmt.Errorf("reading %s: %w", name, &AuditError{Name: a.name, Findings: a.Findings})
	}
	return artifact, nil
}

// Unpack unpacks a bundle's archive into root, its top folder becoming root itself, and returns its
// metadata. Like ReadArtifact it compares every file with the metadata's list; an *AuditError names
// what does not agree.
func Unpack(ctx context.Context, name string, root *os.Root) (manifests.Metadata, error) {
	a, err := readArchive(ctx, name, root)
	if err != nil {
		return manifests.Metadata{}, fmt.Errorf("unpacking %s: %w", name, err)
	}
	_, meta := a.describe()
	if meta == nil && len(a.Findings) == 0 {
		return manifests.Metadata{}, fmt.Errorf("unpacking %s: it is not a bundle", name)
	}
	if len(a.Findings) > 0 {
		return manifests.Metadata{}, fmt.Errorf("unpacking %s: %w", name, &AuditError{Name: a.name, Findings: a.Findings})
	}
	return *meta, nil
}

// A Verification is what VerifyArchive found.
type Verification struct {
	// Metadata is a bundle's, and Libraries what the archive takes and gives; nil where they cannot be read.
	Metadata  *manifests.Metadata
	Libraries *Libraries
	// Findings are all disagreements.
	Findings []Finding
}

// VerifyArchive unpacks an archive into a temporary folder and rederives everything that is claimed
// of it: its digests, the layout, metadata.json from the files, the audit under the rules of its row,
// and the manifest's entry, which it compares with want. Its error means that it could not check.
func VerifyArchive(ctx context.Context, name string, want manifests.Artifact, rulesFor func(matrix.Row) (Rules, error)) (Verification, error) {
	var v Verification
	err := unpacked(ctx, name, func(a *packed, fsys fs.FS) error {
		whole := len(a.Findings) == 0
		got, meta := a.describe()
		a.Findings = append(a.Findings, archive.CompareFields(RuleManifest, "", "the manifest says", "the archive says", want, got)...)
		v.Metadata = meta
		if whole {
			if err := a.audit(ctx, fsys, meta, rulesFor); err != nil {
				return err
			}
		}
		if whole && got.Toolkit != nil {
			t, err := readTree(fsys, *got.Toolkit)
			if err != nil {
				return err
			}
			v.Libraries = t.libraries()
		}
		v.Findings = a.Findings
		return nil
	})
	if err != nil {
		return Verification{}, fmt.Errorf("verifying %s: %w", name, err)
	}
	return v, nil
}

// unpacked reads an archive into a temporary folder, which it removes afterward.
func unpacked(ctx context.Context, name string, use func(a *packed, fsys fs.FS) error) error {
	dir, remove, err := Scratch(ctx, "", "archive")
	if err != nil {
		return err
	}
	defer remove()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	a, err := readArchive(ctx, name, root)
	if err != nil {
		return err
	}
	return use(a, root.FS())
}

// audit checks the unpacked files against the rules and against metadata.json.
func (a *packed) audit(ctx context.Context, fsys fs.FS, meta *manifests.Metadata, rulesFor func(matrix.Row) (Rules, error)) error {
	l := layout{top: a.top, files: archive.WithoutMetadata(a.Files), fsys: fsys, described: a.Metadata, epoch: a.Time}
	if again, err := l.digestTar(ctx); err != nil {
		return err
	} else if again != a.Tar {
		a.add(RuleArchive, "", "packing its files again gives another tar (sha256 %s instead of %s): it was not made by this program", again.SHA256, a.Tar.SHA256)
	}
	if a.kind == manifests.KindCUDART {
		return a.auditRuntime(fsys, rulesFor)
	}
	if meta == nil {
		return nil // describe has said why
	}
	rules, err := rulesFor(meta.Row)
	if err != nil {
		a.add(RuleMetadata, manifests.MetadataName, "%v", err)
		return nil
	}
	report, err := Audit(fsys, rules)
	if refused, ok := errors.AsType[*AuditError](err); ok {
		a.Findings = append(a.Findings, refused.Findings...)
	} else if err != nil {
		return err
	}
	again, err := Describe(fsys, rules, report, Identity{Release: meta.Release, LlamaCPP: meta.LlamaCPP, Build: meta.Build})
	if err != nil {
		return err
	}
	said, read := *meta, again
	said.Files, read.Files = nil, nil // describe has compared them
	a.Findings = append(a.Findings, archive.CompareFields(RuleMetadata, manifests.MetadataName, "the metadata says", "the files say", said, read)...)
	return nil
}

// auditRuntime checks the unpacked files of a CUDA runtime. Its floors are those of the rows that it
// serves, which are the same for all.
func (a *packed) auditRuntime(fsys fs.FS, rulesFor func(matrix.Row) (Rules, error)) error {
	d, err := decodeRuntime(a.Metadata)
	if err != nil {
		return nil // describe has said why
	}
	t, err := readTree(fsys, d.Toolkit)
	if err != nil {
		return err
	}
	var rows []matrix.Row
	for _, code := range d.DeviceCode.Cubin {
		rows = append(rows, matrix.Row{SM: code.SM})
	}
	for _, code := range d.DeviceCode.PTX {
		rows = append(rows, matrix.Row{SM: code.SM, PTX: true})
	}
	for _, row := range rows {
		rules, err := rulesFor(row)
		if err != nil {
			continue // the matrix need not have all of them
		}
		a.Findings = append(a.Findings, checkRuntime(t, rules)...)
		read := d
		read.DeviceCode = t.deviceCode()
		a.Findings = append(a.Findings, archive.CompareFields(RuleMetadata, manifests.MetadataName, "the metadata says", "the files say", d, read)...)
		return nil
	}
	a.add(RuleRuntime, "", "it serves no row of the matrix: its code is for %v", rows)
	return nil
}

// describe makes the manifest's entry of an archive, and compares the files with the metadata's
// list. What does not agree goes to a.Findings. meta is nil for the CUDA runtime, and where there
// is none that can be read.
func (a *packed) describe() (artifact manifests.Artifact, meta *manifests.Metadata) {
	artifact = manifests.Artifact{Name: a.name, Kind: a.kind, URL: a.name, Format: a.format, Size: a.file.Size, SHA256: a.file.SHA256, Tar: &a.Tar}
	base := strings.TrimSuffix(a.name, "."+a.format)
	if a.kind == manifests.KindCUDART {
		d, err := decodeRuntime(a.Metadata)
		if err != nil {
			a.add(RuleMetadata, manifests.MetadataName, "%v", err)
			return artifact, nil
		}
		if want := manifests.RuntimeName(manifests.RuntimeOf(d.Toolkit.CUDA, d.DeviceCode), a.Tar); base != want {
			a.add(RuleArchive, "", "the tar inside is that of %s: the file was renamed or its tar changed", want)
		}
		if !a.Time.Equal(runtimeEpoch) {
			a.add(RuleArchive, "", "the time of its files is %d, and must be %d", a.Time.Unix(), runtimeEpoch.Unix())
		}
		return runtimeArtifact(a.Files, d, a.name, a.format, a.file, a.Tar), nil
	}
	meta, findings := a.Bundle(base)
	a.Findings = append(a.Findings, findings...)
	if meta == nil {
		return artifact, nil
	}
	return archive.Describe(*meta, a.name, a.format, a.file, a.Tar), meta
}

// kindOfArchive derives what an archive must contain from its file name.
func kindOfArchive(name string) (kind manifests.Kind, top, format string, err error) {
	if !manifests.IsArchive(name) {
		return "", "", "", fmt.Errorf("%s is neither a bundle's nor the CUDA runtime's archive", name)
	}
	a := manifests.Artifact{Name: name, Kind: manifests.KindOf(name), Format: strings.TrimPrefix(name, manifests.Stem(name)+".")}
	return a.Kind, a.Top(), a.Format, nil
}

// readArchive reads an archive to its end and unpacks it into root, where that is not nil. An
// archive that cannot be read at all is a finding, too: only this machine's own failures are
// errors. root gets no metadata.json: it describes the tree, and is not part of it.
func readArchive(ctx context.Context, name string, root *os.Root) (*packed, error) {
	a := &packed{name: filepath.Base(name)}
	var err error
	if a.kind, a.top, a.format, err = kindOfArchive(a.name); err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sum := archive.NewDigester(io.Discard)
	src := io.TeeReader(archive.WithContext(ctx, f), sum)
	if a.Contents, err = archive.Read(ctx, src, archive.Options{Format: a.format, Top: a.top, Into: root, All: true}); err != nil {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, src); err != nil { // the file's own digest covers what nothing was read of
		return nil, err
	}
	a.file = sum.Digest()
	if root != nil {
		if err := root.Remove(manifests.MetadataName); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return a, nil
}
