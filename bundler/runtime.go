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
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// runtimeEpoch is the time of the runtime's files, the same in every release so that its bytes are.
// It is the first that no program takes for a clock that was never set.
var runtimeEpoch = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// A runtimeDescription is the metadata.json of a CUDA runtime asset: what its files do not tell, and
// what of them says whom it serves.
type runtimeDescription struct {
	SchemaVersion int                  `json:"schema_version"`
	Name          string               `json:"name"`
	Toolkit       manifests.Toolkit    `json:"toolkit"`
	DeviceCode    manifests.DeviceCode `json:"device_code"`
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

// PackRuntime writes a CUDA runtime asset into outDir as two archives and returns them, tar.gz
// first. Its tree has one of two forms, and NVIDIA's LICENSE in both:
//
//	whole    lib/libcublas.so.13, lib/libcublasLt.so.13, lib/libcudart.so.13, NVIDIA's, and what they need
//	linked   lib/libllcuda-blas.so.12, the farm's own: cuBLAS as far as llama.cpp calls it, with the code of one SM major,
//	         or with PTX alone
//	         lib/libcublas.so.12, a link to it: the name that the CUDA backend asks for
//	         lib/libcudart.so.12, NVIDIA's
//	         NOTICE, which says what was linked
//
// NVIDIA's terms let its static libraries be linked into another library, and its own files be passed
// on as they are. So what was linked has a name of its own, by its file and by its SONAME; the loader
// opens what it finds under the name that is asked for. The bytes depend on the tree and the toolkit
// alone, not on the release.
func PackRuntime(ctx context.Context, fsys fs.FS, rules Rules, outDir string, opts PackOptions) ([]manifests.Artifact, error) {
	l, described, err := runtimeLayout(fsys, rules)
	if err != nil {
		return nil, fmt.Errorf("packing the CUDA runtime: %w", err)
	}
	tarDigest, err := l.digestTar(ctx)
	if err != nil {
		return nil, fmt.Errorf("packing the CUDA runtime: %w", err)
	}
	base := manifests.RuntimeName(manifests.RuntimeOf(described.Toolkit.CUDA, described.DeviceCode), tarDigest)
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
		artifacts[i] = runtimeArtifact(l.allFiles(), described, base+"."+format, format, written[i], tarDigest)
	}
	return artifacts, nil
}

// runtimeLayout checks the tree, describes it and lays it out.
func runtimeLayout(fsys fs.FS, rules Rules) (layout, runtimeDescription, error) {
	toolkit := toolkitIn(rules.Toolkit)
	t, err := readTree(fsys, toolkit)
	if err != nil {
		return layout{}, runtimeDescription{}, err
	}
	d := runtimeDescription{SchemaVersion: manifests.SchemaVersion, Toolkit: toolkit, DeviceCode: t.deviceCode()}
	d.Name = manifests.RuntimeTop(manifests.RuntimeOf(toolkit.CUDA, d.DeviceCode))
	if findings := checkRuntime(t, rules); len(findings) > 0 {
		return layout{}, d, &AuditError{Name: d.Name, Findings: findings}
	}
	files, err := listFiles(fsys)
	if err != nil {
		return layout{}, d, err
	}
	described, err := d.encode()
	return layout{top: d.Name, files: files, fsys: fsys, described: described, epoch: runtimeEpoch}, d, err
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

// runtimeArtifact is the manifest's entry for one archive of a CUDA runtime.
func runtimeArtifact(files []manifests.File, d runtimeDescription, name, format string, file, tarDigest manifests.Digest) manifests.Artifact {
	return manifests.Artifact{
		Name: name, Kind: manifests.KindCUDART, URL: name, Format: format,
		Size: file.Size, SHA256: file.SHA256, Tar: &tarDigest,
		Toolkit: &d.Toolkit, DeviceCode: &d.DeviceCode, Libraries: files,
	}
}

const (
	runtimeNotice = "NOTICE"
	// linkedBLAS is the stem of the library that the farm links from NVIDIA's static ones.
	linkedBLAS = "libllcuda-blas.so."
)

// A runtimeAudit is checkRuntime under way.
type runtimeAudit struct {
	audit
	linked string // the name of the library that the farm linked; empty in a runtime of NVIDIA's own
	blas   string // the name that the CUDA backend asks for
}

func (a *runtimeAudit) refuse(path, format string, args ...any) {
	a.add(RuleRuntime, path, format, args...)
}

// checkRuntime checks a CUDA runtime's tree against the rules of its form.
func checkRuntime(t *tree, rules Rules) []Finding {
	cuda := t.toolkit.CUDALibraries()
	a := &runtimeAudit{audit: audit{tree: t, rules: rules}, blas: cuda[0]}
	if own := linkedBLAS + path.Ext(a.blas)[1:]; t.at[path.Join(libraryDir, own)] != nil {
		a.linked = own
		cuda = []string{own, cuda[2]}
	}
	wanted := []string{licenseName}
	for _, name := range cuda {
		wanted = append(wanted, path.Join(libraryDir, name))
	}
	if a.linked != "" {
		wanted = append(wanted, runtimeNotice)
	}
	for _, p := range wanted {
		if n := t.at[p]; n == nil {
			a.refuse(p, "the file is missing; copy it from the toolkit")
		} else if !n.isRegular() {
			a.refuse(p, "it is a %s; copy what it leads to under this name", kindOf(n))
		}
	}
	link := path.Join(libraryDir, a.blas)
	if n := t.at[link]; a.linked != "" && (n == nil || n.link != a.linked) {
		a.refuse(link, "it must be a link to %s: the CUDA backend asks for that library by this name", a.linked)
	}
	for _, n := range t.nodes {
		switch {
		case n.path == libraryDir && n.info.IsDir(), a.linked != "" && n.path == link:
		case n.inLibraries() && n.isRegular() && (slices.Contains(wanted, n.path) || a.isNeeded(path.Base(n.path))):
			a.checkLibrary(n)
		case !slices.Contains(wanted, n.path):
			a.refuse(n.path, "the CUDA runtime has no such file; remove it")
		case n.path == licenseName && n.isRegular():
			if ok, err := holdsLicence(t.fsys); err != nil {
				a.refuse(n.path, "%v", err)
			} else if !ok {
				a.refuse(n.path, "it is not NVIDIA's licence: it names neither NVIDIA nor CUDA")
			}
		}
	}
	switch code := t.deviceCode(); {
	case len(code.Cubin)+len(code.PTX) == 0:
		a.refuse("", "no library in it has code for a GPU")
	case a.linked != "" && len(code.Cubin) > 0 && len(code.PTX) > 0:
		a.refuse("", "its libraries have PTX for %v beside machine code, which serves the same GPUs: prune one of them", code.PTX)
	case len(code.Cubin) == 0 && len(code.PTX) > 1:
		a.refuse("", "its libraries have PTX for %v, and a driver compiles only the newest: prune the others", code.PTX)
	}
	return a.findings
}

// isNeeded reports whether a library of the runtime asks for another.
func (a *runtimeAudit) isNeeded(soname string) bool {
	return slices.ContainsFunc(a.nodes, func(n *node) bool { return n.elf != nil && slices.Contains(n.elf.Needed, soname) })
}

func (a *runtimeAudit) checkLibrary(n *node) {
	base := path.Base(n.path)
	switch e := n.elf; {
	case n.err != nil:
		a.refuse(n.path, "%v", n.err)
		return
	case e == nil || e.Class != elf.ELFCLASS64 || e.Machine != elf.EM_X86_64 || e.Type != elf.ET_DYN:
		a.refuse(n.path, "it is not an x86-64 shared library")
		return
	case e.Soname != base:
		a.refuse(n.path, "its SONAME is %q: it is another library or another major version", e.Soname)
		return
	}
	for _, needed := range n.elf.Needed {
		if a.library(needed) == nil && !isSystem(needed) {
			a.refuse(n.path, "it needs %s, which is neither in the runtime nor on every system", needed)
		}
	}
	a.checkVersions(n)
	if base == a.linked {
		a.checkLinked(n)
	}
}

// checkLinked checks the library that the farm linked. It must give nothing but functions of cuBLAS, under the version
// that NVIDIA's own has: what else it took from static libraries, C++'s among them, would take the place of that of
// libraries that are loaded after it.
func (a *runtimeAudit) checkLinked(n *node) {
	a.checkForm(n)
	a.checkSymbols(n)
	if len(n.elf.RunPath)+len(n.elf.RPath) > 0 {
		a.add(RuleRunPath, n.path, "it needs nothing that is beside it, and has a RUNPATH; link without one")
	}
	for _, name := range slices.Sorted(maps.Keys(n.elf.Exports)) {
		if versions := n.elf.Exports[name]; name != a.blas && (!givesUnversioned(a.blas, name) || !slices.Equal(versions, []string{a.blas})) {
			a.refuse(n.path, "it exports %s of version %q; hide all but functions of cuBLAS, of version %s", name, versions, a.blas)
			return
		}
	}
	s := &pathScan{prefixes: a.rules.BuildPaths, found: make(map[string]*pathLeak)}
	if err := a.scanFile(n, s); err != nil {
		a.refuse(n.path, "%v", err)
	}
	for prefix, leak := range s.found {
		a.add(RuleBuildPath, n.path, "it names the path %s of the builder's folder %s", leak.first, prefix)
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
