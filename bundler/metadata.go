package bundler

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/archive"
)

// An Identity is what the files of a bundle cannot tell: which release they are for, and how they
// were made.
type Identity struct {
	Release  string
	LlamaCPP manifests.LlamaCPP
	Build    manifests.Build
}

// The modes that an archive has. The tree's own say only whether a file can be executed.
const (
	modeFile    = "0644"
	modeProgram = "0755"
	modeLink    = "0777"
)

// Describe derives a bundle's metadata from its files and the report that Audit made of them.
func Describe(fsys fs.FS, rules Rules, report *Report, id Identity) (manifests.Metadata, error) {
	files, err := listFiles(fsys)
	if err != nil {
		return manifests.Metadata{}, fmt.Errorf("describing %s: %w", manifests.BundleName(rules.Target.Row()), err)
	}
	return manifests.Metadata{
		SchemaVersion: manifests.SchemaVersion,
		Name:          manifests.BundleName(rules.Target.Row()),
		Release:       id.Release,
		LlamaCPP:      id.LlamaCPP,
		Row:           rules.Target.Row(),
		Architecture:  rules.Target.Architecture,
		GPUs:          rules.Target.GPUs,
		Toolkit:       toolkitIn(rules.Toolkit),
		DeviceCode:    report.DeviceCode,
		Requires:      report.Requires,
		Files:         files,
		Build:         id.Build,
	}, nil
}

// listFiles hashes every file of a tree and reads every link, ascending by path.
func listFiles(fsys fs.FS) ([]manifests.File, error) {
	var files []manifests.File
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		file := manifests.File{Path: name, Mode: modeLink}
		if d.Type()&fs.ModeSymlink != 0 {
			if file.Link, err = fs.ReadLink(fsys, name); err != nil {
				return err
			}
			files = append(files, file)
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		file.Mode = archiveMode(info.Mode())
		if file.SHA256, file.Size, err = hashFile(fsys, name); err != nil {
			return err
		}
		files = append(files, file)
		return nil
	})
	slices.SortFunc(files, func(a, b manifests.File) int { return strings.Compare(a.Path, b.Path) })
	return files, err
}

func archiveMode(mode fs.FileMode) string {
	if isExecutable(mode) {
		return modeProgram
	}
	return modeFile
}

func hashFile(fsys fs.FS, name string) (sum string, size int64, err error) {
	f, err := fsys.Open(name)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), size, err
}

// checkMetadata compares what metadata says of a tree's names, code and needs with what the files
// say. Contents are compared while they are written to the tar.
func checkMetadata(t *tree, meta manifests.Metadata) []Finding {
	var findings []Finding
	disagree := func(path, format string, args ...any) {
		findings = append(findings, Finding{Rule: RuleMetadata, Path: path, Detail: fmt.Sprintf(format, args...)})
	}
	if want := manifests.BundleName(meta.Row); meta.Name != want {
		disagree("", "the name is %s and the SM is %s, which is called %s", meta.Name, meta.Row.Short(), want)
	}
	found := t.report(toolkitOf(meta))
	for _, field := range []struct {
		name       string
		said, read any
	}{
		{"device_code.cubin", meta.DeviceCode.Cubin, found.DeviceCode.Cubin},
		{"device_code.ptx", meta.DeviceCode.PTX, found.DeviceCode.PTX},
		{"requires.driver_min.cubin", meta.Requires.DriverMin.Cubin != "", found.Requires.DriverMin.Cubin != ""},
		{"requires.driver_min.ptx", meta.Requires.DriverMin.PTX != "", found.Requires.DriverMin.PTX != ""},
		{"requires.glibc", meta.Requires.Glibc, found.Requires.Glibc},
		{"requires.glibcxx", meta.Requires.GLIBCXX, found.Requires.GLIBCXX},
		{"requires.libraries", meta.Requires.Libraries, found.Requires.Libraries},
		{"requires.cpu_variants", meta.Requires.CPUVariants, found.Requires.CPUVariants},
	} {
		if said, read := fmt.Sprint(field.said), fmt.Sprint(field.read); said != read {
			disagree(manifests.MetadataName, "%s says %s, the files say %s", field.name, said, read)
		}
	}
	own := found.DeviceCode.Cubin
	if meta.Row.PTX {
		own = found.DeviceCode.PTX
	}
	if len(own) != 1 || own[0].SM != meta.Row.SM {
		disagree("", "the bundle is for %s and its files hold cubins for %v and PTX for %v", meta.Row, found.DeviceCode.Cubin, found.DeviceCode.PTX)
	}
	return append(findings, archive.CompareFiles(t.files(), meta.Files)...)
}

// files are the files and links of a tree, without digests.
func (t *tree) files() []manifests.File {
	var files []manifests.File
	for _, n := range t.nodes {
		switch {
		case n.isLink():
			files = append(files, manifests.File{Path: n.path, Mode: modeLink, Link: n.link})
		case !n.info.IsDir():
			files = append(files, manifests.File{Path: n.path, Mode: archiveMode(n.info.Mode()), Size: n.info.Size()})
		}
	}
	return files
}
