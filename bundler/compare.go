package bundler

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/archive"
)

// RuleDiffers is what two archives of one thing have different.
const RuleDiffers = "differs"

// ReadMetadata reads the metadata.json inside a bundle's archive, of either format. Whether the
// archive is what its metadata says is ReadArtifact's to tell.
func ReadMetadata(ctx context.Context, name string) (manifests.Metadata, error) {
	a, err := readArchive(ctx, name, nil)
	if err != nil {
		return manifests.Metadata{}, fmt.Errorf("reading %s: %w", name, err)
	}
	if len(a.Metadata) == 0 && len(a.Findings) > 0 { // they say why, better than that there is no JSON
		return manifests.Metadata{}, fmt.Errorf("reading %s: %w", name, &AuditError{Name: a.name, Findings: a.Findings})
	}
	meta, err := manifests.DecodeMetadata(bytes.NewReader(a.Metadata))
	if err != nil {
		return manifests.Metadata{}, fmt.Errorf("reading %s: %w", name, err)
	}
	return meta, nil
}

// CompareArchives says in what two builds of one archive differ: nothing, if the files are the same
// bytes; else which files, in ELF files which sections, and in the metadata which fields, which is
// as near to the reason as bytes lead. The archives need not be well-formed; what cannot be read is
// a finding, too.
func CompareArchives(ctx context.Context, released, rebuilt string) ([]Finding, error) {
	fail := func(err error) ([]Finding, error) {
		return nil, fmt.Errorf("comparing %s with %s: %w", released, rebuilt, err)
	}
	var sides [2]*packed
	var trees [2]fs.FS
	for i, name := range []string{released, rebuilt} {
		dir, remove, err := Scratch(ctx, "", "compare")
		if err != nil {
			return fail(err)
		}
		defer remove()
		root, err := os.OpenRoot(dir)
		if err != nil {
			return fail(err)
		}
		defer root.Close()
		if sides[i], err = readArchive(ctx, name, root); err != nil {
			return fail(err)
		}
		trees[i] = root.FS()
	}
	x, y := sides[0], sides[1]
	if x.file == y.file {
		return nil, nil
	}
	findings := slices.Concat(x.Findings, y.Findings)
	if x.Tar == y.Tar {
		return append(findings, Finding{Rule: RuleDiffers, Detail: "the tar inside is the same, its compression is not: another version of the packer"}), nil
	}
	files, err := compareTrees(x.Files, y.Files, trees)
	if err != nil {
		return fail(err)
	}
	findings = append(findings, files...)
	mx, errX := manifests.DecodeMetadata(bytes.NewReader(x.Metadata))
	my, errY := manifests.DecodeMetadata(bytes.NewReader(y.Metadata))
	if errX == nil && errY == nil {
		findings = append(findings, archive.CompareFields(RuleDiffers, manifests.MetadataName+", build", "released with", "rebuilt with", mx.Build, my.Build)...)
		mx.Files, my.Files, mx.Build, my.Build = nil, nil, manifests.Build{}, manifests.Build{}
		findings = append(findings, archive.CompareFields(RuleDiffers, manifests.MetadataName, "released with", "rebuilt with", mx, my)...)
	}
	if len(findings) == 0 {
		findings = append(findings, Finding{Rule: RuleDiffers, Detail: "every file is the same, and the tars are not: the order, times or owners of their members differ"})
	}
	return findings, nil
}

// compareTrees names the files that are not the same in both. metadata.json lists the others'
// digests, so it differs with them and is left to its fields.
func compareTrees(released, rebuilt []manifests.File, trees [2]fs.FS) ([]Finding, error) {
	var findings []Finding
	differ := func(path, format string, args ...any) {
		findings = append(findings, Finding{Rule: RuleDiffers, Path: path, Detail: fmt.Sprintf(format, args...)})
	}
	other := map[string]manifests.File{}
	for _, f := range rebuilt {
		other[f.Path] = f
	}
	for _, f := range released {
		again, ok := other[f.Path]
		delete(other, f.Path)
		switch {
		case !ok:
			differ(f.Path, "released, and not rebuilt")
		case f.Path == manifests.MetadataName:
		case f.Link != again.Link:
			differ(f.Path, "released as a link to %q, rebuilt to %q", f.Link, again.Link)
		case f.SHA256 != again.SHA256:
			where, err := sectionsThatDiffer(f.Path, trees)
			if err != nil {
				return nil, err
			}
			differ(f.Path, "released with %d bytes, sha256 %s, rebuilt with %d, %s%s", f.Size, f.SHA256, again.Size, again.SHA256, where)
		case f.Mode != again.Mode:
			differ(f.Path, "released with mode %s, rebuilt with %s", f.Mode, again.Mode)
		}
	}
	for _, f := range rebuilt {
		if _, extra := other[f.Path]; extra {
			differ(f.Path, "rebuilt, and not released")
		}
	}
	return findings, nil
}

// sectionsThatDiffer says in which sections two ELF files differ; nothing of other files.
func sectionsThatDiffer(name string, trees [2]fs.FS) (string, error) {
	var sums [2]map[string][sha256.Size]byte
	var order []string
	for i, tree := range trees {
		data, err := fs.ReadFile(tree, name)
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil // it was not safe to unpack, which is a finding already
		}
		if err != nil {
			return "", err
		}
		file, err := elf.NewFile(bytes.NewReader(data))
		if err != nil {
			return "", nil
		}
		sums[i] = map[string][sha256.Size]byte{}
		for _, section := range file.Sections {
			if section.Type == elf.SHT_NULL || section.Type == elf.SHT_NOBITS {
				continue
			}
			sum := sha256.New()
			if _, err := io.Copy(sum, section.Open()); err != nil {
				return "", nil
			}
			sums[i][section.Name] = [sha256.Size]byte(sum.Sum(nil))
			if !slices.Contains(order, section.Name) {
				order = append(order, section.Name)
			}
		}
	}
	different := slices.DeleteFunc(order, func(section string) bool { return sums[0][section] == sums[1][section] })
	if len(different) == 0 {
		return "; no section differs, only headers and padding", nil
	}
	return "; sections that differ: " + strings.Join(different, ", "), nil
}
