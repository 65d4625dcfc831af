package bundler

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// runtimeEpoch is the time of the runtime's files, the same in every release so that its bytes are.
// It is the first that no program takes for a clock that was never set.
var runtimeEpoch = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// A runtimeDescription is the metadata.json of the CUDA runtime asset: the one thing that its files
// do not tell.
type runtimeDescription struct {
	SchemaVersion int               `json:"schema_version"`
	Name          string            `json:"name"`
	Toolkit       manifests.Toolkit `json:"toolkit"`
}

func (d runtimeDescription) encode() ([]byte, error) {
	data, err := json.MarshalIndent(d, "", "  ")
	return append(data, '\n'), err
}

func decodeRuntime(data []byte) (d runtimeDescription, err error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return d, err
	}
	if d.SchemaVersion != manifests.SchemaVersion {
		return d, &manifests.VersionError{Document: manifests.MetadataName, Got: d.SchemaVersion, Known: manifests.SchemaVersion}
	}
	if canonical, err := d.encode(); err != nil || !bytes.Equal(canonical, data) {
		return d, errors.New("it is not written as it should be")
	}
	return d, nil
}

// PackRuntime writes the CUDA runtime asset into outDir as two archives and returns them, tar.gz
// first. The tree holds lib/libcudart.so.12, lib/libcublas.so.12 and lib/libcublasLt.so.12 as
// files, and NVIDIA's LICENSE, which allows their distribution. The bytes depend on the tree and
// the toolkit alone, not on the release.
func PackRuntime(ctx context.Context, fsys fs.FS, toolkit matrix.Toolkit, outDir string, opts PackOptions) ([]manifests.Artifact, error) {
	l, err := runtimeLayout(fsys, toolkitIn(toolkit))
	if err != nil {
		return nil, fmt.Errorf("packing the CUDA runtime: %w", err)
	}
	tarDigest, err := l.digestTar(ctx)
	if err != nil {
		return nil, fmt.Errorf("packing the CUDA runtime: %w", err)
	}
	base := manifests.RuntimeName(toolkit.CUDA, tarDigest)
	produce := l.compress
	if opts.Cache != "" {
		inCache := opts
		inCache.Known = nil // of another folder
		cached, err := writeArchives(ctx, base, tarDigest, opts.Cache, inCache, l.compress)
		if err != nil {
			return nil, fmt.Errorf("packing %s: %w", base, err)
		}
		produce = copyFrom(opts.Cache, cached)
		opts.Progress = nil // copying takes no time worth telling
	}
	written, err := writeArchives(ctx, base, tarDigest, outDir, opts, produce)
	if err != nil {
		return nil, fmt.Errorf("packing %s: %w", base, err)
	}
	artifacts := make([]manifests.Artifact, len(written))
	for i, format := range manifests.Formats() {
		artifacts[i] = runtimeArtifact(l.allFiles(), toolkitIn(toolkit), base+"."+format, format, written[i], tarDigest)
	}
	return artifacts, nil
}

// runtimeLayout checks the tree and lays it out.
func runtimeLayout(fsys fs.FS, toolkit manifests.Toolkit) (layout, error) {
	top := manifests.RuntimeTop(toolkit.CUDA)
	t, err := readTree(fsys, toolkit)
	if err != nil {
		return layout{}, err
	}
	if findings := checkRuntime(t); len(findings) > 0 {
		return layout{}, &AuditError{Name: top, Findings: findings}
	}
	files, err := listFiles(fsys)
	if err != nil {
		return layout{}, err
	}
	described, err := runtimeDescription{SchemaVersion: manifests.SchemaVersion, Name: top, Toolkit: toolkit}.encode()
	if err != nil {
		return layout{}, err
	}
	return layout{top: top, files: files, fsys: fsys, described: described, epoch: runtimeEpoch}, nil
}

// allFiles are the layout's files with metadata.json, ascending by path.
func (l layout) allFiles() []manifests.File {
	sum := sha256.Sum256(l.described)
	files := append(slices.Clone(l.files), manifests.File{
		Path: manifests.MetadataName, Size: int64(len(l.described)), Mode: modeFile, SHA256: hex.EncodeToString(sum[:]),
	})
	slices.SortFunc(files, func(a, b manifests.File) int { return strings.Compare(a.Path, b.Path) })
	return files
}

// runtimeArtifact is the manifest's entry for one archive of the CUDA runtime.
func runtimeArtifact(files []manifests.File, toolkit manifests.Toolkit, name, format string, file, tarDigest manifests.Digest) manifests.Artifact {
	return manifests.Artifact{
		Name: name, Kind: manifests.KindCUDART, URL: name, Format: format,
		Size: file.Size, SHA256: file.SHA256, Tar: &tarDigest,
		Toolkit: &toolkit, Libraries: files,
	}
}

// checkRuntime checks the CUDA runtime's tree against its rules.
func checkRuntime(t *tree) []Finding {
	var findings []Finding
	add := func(path, format string, args ...any) {
		findings = append(findings, Finding{Rule: RuleRuntime, Path: path, Detail: fmt.Sprintf(format, args...)})
	}
	wanted := []string{licenseName}
	for _, name := range runtimeLibraries() {
		wanted = append(wanted, path.Join(libraryDir, name))
	}
	for _, p := range wanted {
		if n := t.at[p]; n == nil {
			add(p, "the file is missing; copy it from the toolkit")
		} else if !n.isRegular() {
			add(p, "it is a %s; copy what it leads to under this name", kindOf(n))
		}
	}
	for _, n := range t.nodes {
		switch {
		case n.path == libraryDir && n.info.IsDir():
		case !slices.Contains(wanted, n.path):
			add(n.path, "the CUDA runtime has no such file; remove it")
		case n.path == licenseName && n.isRegular():
			if ok, err := holdsLicence(t.fsys); err != nil {
				add(n.path, "%v", err)
			} else if !ok {
				add(n.path, "it is not NVIDIA's licence: it names neither NVIDIA nor CUDA")
			}
		case n.isRegular():
			checkRuntimeLibrary(n, add)
		}
	}
	return findings
}

func checkRuntimeLibrary(n *node, add func(path, format string, args ...any)) {
	base := path.Base(n.path)
	switch e := n.elf; {
	case n.err != nil:
		add(n.path, "%v", n.err)
	case e == nil || e.Class != elf.ELFCLASS64 || e.Machine != elf.EM_X86_64 || e.Type != elf.ET_DYN:
		add(n.path, "it is not an x86-64 shared library")
	case e.Soname != base:
		add(n.path, "its SONAME is %q: it is another library or another major version", e.Soname)
	default:
		for _, needed := range e.Needed {
			if !isRuntimeLibrary(needed) && !isSystem(needed) {
				add(n.path, "it needs %s, which is neither in the runtime nor on every system", needed)
			}
		}
	}
}

// holdsLicence reports whether LICENSE can be NVIDIA's.
func holdsLicence(fsys fs.FS) (bool, error) {
	const maxLicence = 4 << 20
	f, err := fsys.Open(licenseName)
	if err != nil {
		return false, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxLicence))
	return bytes.Contains(text, []byte("NVIDIA")) && bytes.Contains(text, []byte("CUDA")), err
}
