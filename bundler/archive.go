package bundler

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// Limits of what an archive may unpack to. They stand far above what the farm makes and far below what hurts.
const (
	maxMembers  = 4096
	maxUnpacked = 4 << 30 // the CUDA runtime has 0.55 GB
	maxRatio    = 400     // tar bytes for one compressed byte; a bundle has 9, and what nothing but zeros would give is thousands
	ratioFloor  = 64 << 20
)

// An archive is what was read from one, without trust in anything it says of itself.
type archive struct {
	name, format string
	kind         manifests.Kind
	file, tar    manifests.Digest
	top          string
	epoch        time.Time
	files        []manifests.File // of the top folder, metadata.json among them
	described    []byte           // metadata.json
	findings     []Finding        // what is not as Pack lays it out
}

func (a *archive) add(path, format string, args ...any) {
	a.findings = append(a.findings, Finding{Rule: RuleArchive, Path: path, Detail: fmt.Sprintf(format, args...)})
}

// ReadArtifact reads an archive of either format and says what it is: the manifest's entry for it, made from the
// file, the tar inside and the metadata inside that. Every file is compared with the metadata's list; an *AuditError
// names what does not agree.
func ReadArtifact(ctx context.Context, name string) (manifests.Artifact, error) {
	a, err := readArchive(ctx, name, nil)
	if err != nil {
		return manifests.Artifact{}, fmt.Errorf("reading %s: %w", name, err)
	}
	artifact, _ := a.describe()
	if len(a.findings) > 0 {
		return manifests.Artifact{}, fmt.Errorf("reading %s: %w", name, &AuditError{Name: a.name, Findings: a.findings})
	}
	return artifact, nil
}

// Unpack unpacks a bundle's archive into root, its top folder becoming root itself, and returns its metadata. Like
// ReadArtifact it compares every file with the metadata's list; an *AuditError names what does not agree.
func Unpack(ctx context.Context, name string, root *os.Root) (manifests.Metadata, error) {
	a, err := readArchive(ctx, name, root)
	if err != nil {
		return manifests.Metadata{}, fmt.Errorf("unpacking %s: %w", name, err)
	}
	_, meta := a.describe()
	if meta == nil && len(a.findings) == 0 {
		return manifests.Metadata{}, fmt.Errorf("unpacking %s: it is no bundle", name)
	}
	if len(a.findings) > 0 {
		return manifests.Metadata{}, fmt.Errorf("unpacking %s: %w", name, &AuditError{Name: a.name, Findings: a.findings})
	}
	return *meta, nil
}

// VerifyArchive unpacks an archive into a temporary folder and makes everything that is said of it again: its digests,
// the layout, metadata.json from the files, the audit under the rules of its SM, and the manifest's entry, which it
// compares with want. It returns a bundle's metadata where that can be read, and all that does not agree; its error means that
// it could not look.
func VerifyArchive(ctx context.Context, name string, want manifests.Artifact, rulesFor func(matrix.SM) (Rules, error)) (*manifests.Metadata, []Finding, error) {
	dir, err := os.MkdirTemp("", "llcuda-verify-")
	if err != nil {
		return nil, nil, fmt.Errorf("verifying %s: %w", name, err)
	}
	defer os.RemoveAll(dir)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("verifying %s: %w", name, err)
	}
	defer root.Close()
	a, err := readArchive(ctx, name, root)
	if err != nil {
		return nil, nil, fmt.Errorf("verifying %s: %w", name, err)
	}
	unpacked := len(a.findings) == 0
	got, meta := a.describe()
	a.findings = append(a.findings, compareArtifacts(got, want)...)
	if unpacked {
		err = a.audit(ctx, root.FS(), meta, rulesFor)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("verifying %s: %w", name, err)
	}
	return meta, a.findings, nil
}

// audit holds the unpacked files to the rules and to what metadata.json says of them.
func (a *archive) audit(ctx context.Context, fsys fs.FS, meta *manifests.Metadata, rulesFor func(matrix.SM) (Rules, error)) error {
	files := slices.DeleteFunc(slices.Clone(a.files), func(f manifests.File) bool { return f.Path == manifests.MetadataName })
	l := layout{top: a.top, files: files, fsys: fsys, described: a.described, epoch: a.epoch}
	if again, err := l.digestTar(ctx); err != nil {
		return err
	} else if again != a.tar {
		a.add("", "packing its files again gives another tar (sha256 %s instead of %s): it was not made by this program", again.SHA256, a.tar.SHA256)
	}
	if a.kind == manifests.KindCUDART {
		t, err := readTree(fsys)
		if err != nil {
			return err
		}
		a.findings = append(a.findings, checkRuntime(t)...)
		return nil
	}
	if meta == nil {
		return nil // describe has said why
	}
	rules, err := rulesFor(meta.SM)
	if err != nil {
		a.findings = append(a.findings, Finding{Rule: RuleMetadata, Path: manifests.MetadataName, Detail: err.Error()})
		return nil
	}
	report, err := Audit(fsys, rules)
	var refused *AuditError
	if errors.As(err, &refused) {
		a.findings = append(a.findings, refused.Findings...)
	} else if err != nil {
		return err
	}
	again, err := Describe(fsys, rules, report, Identity{Release: meta.Release, LlamaCPP: meta.LlamaCPP, Build: meta.Build})
	if err != nil {
		return err
	}
	said, read := *meta, again
	said.Files, read.Files = nil, nil // describe has compared them
	a.findings = append(a.findings, compareFields(RuleMetadata, manifests.MetadataName, "the metadata says", "the files say", said, read)...)
	return nil
}

// describe makes the manifest's entry of an archive, and compares the files with the metadata's list. What does not
// agree goes to a.findings. meta is nil for the CUDA runtime and where there is none that can be read.
func (a *archive) describe() (artifact manifests.Artifact, meta *manifests.Metadata) {
	artifact = manifests.Artifact{Name: a.name, Kind: a.kind, URL: a.name, Format: a.format, Size: a.file.Size, SHA256: a.file.SHA256, Tar: &a.tar}
	unreadable := func(err error) {
		a.findings = append(a.findings, Finding{Rule: RuleMetadata, Path: manifests.MetadataName, Detail: err.Error()})
	}
	base := strings.TrimSuffix(a.name, "."+a.format)
	if a.kind == manifests.KindCUDART {
		d, err := decodeRuntime(a.described)
		if err != nil {
			unreadable(err)
			return artifact, nil
		}
		if want := manifests.RuntimeName(d.Toolkit.CUDA, a.tar); base != want {
			a.add("", "the tar inside is that of %s: the file was renamed or its tar changed", want)
		}
		if !a.epoch.Equal(runtimeEpoch) {
			a.add("", "the time of its files is %d and must be %d", a.epoch.Unix(), runtimeEpoch.Unix())
		}
		return runtimeArtifact(a.files, d.Toolkit, a.name, a.format, a.file, a.tar), nil
	}
	m, err := manifests.DecodeMetadata(bytes.NewReader(a.described))
	if err != nil {
		unreadable(err)
		return artifact, nil
	}
	if canonical, err := m.Encode(); err != nil || !bytes.Equal(canonical, a.described) {
		unreadable(errors.New("it is not written as it should be"))
	}
	if m.Name != base || m.Name != a.top {
		a.findings = append(a.findings, Finding{Rule: RuleMetadata, Path: manifests.MetadataName,
			Detail: fmt.Sprintf("the metadata is that of %s, the file is named %s and its top folder %s", m.Name, a.name, a.top)})
	}
	if a.epoch.Unix() != m.Build.SourceDateEpoch {
		a.add("", "the time of its files is %d and its source_date_epoch %d", a.epoch.Unix(), m.Build.SourceDateEpoch)
	}
	listed := slices.DeleteFunc(slices.Clone(a.files), func(f manifests.File) bool { return f.Path == manifests.MetadataName })
	a.findings = append(a.findings, compareFiles(listed, m.Files, true)...)
	return bundleArtifact(m, a.name, a.format, a.file, a.tar), &m
}

// compareArtifacts names the fields in which a manifest's entry is wrong.
func compareArtifacts(got, want manifests.Artifact) []Finding {
	return compareFields(RuleManifest, "", "the manifest says", "the archive says", want, got)
}

// compareFields compares two values of a type field by field, as their JSON has it.
func compareFields(rule, path, said, read string, x, y any) []Finding {
	xs, ys := fieldsOf(x), fieldsOf(y)
	names := make(map[string]bool)
	for name := range xs {
		names[name] = true
	}
	for name := range ys {
		names[name] = true
	}
	var findings []Finding
	for _, name := range slices.Sorted(maps.Keys(names)) {
		a, b := string(xs[name]), string(ys[name])
		if a == b {
			continue
		}
		detail := fmt.Sprintf("%s: %s %s, %s %s", name, said, orNothing(a), read, orNothing(b))
		findings = append(findings, Finding{Rule: rule, Path: path, Detail: detail})
	}
	return findings
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

func fieldsOf(v any) map[string]json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // manifests' own types
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		panic(err)
	}
	return fields
}

// kindOfArchive tells what an archive must hold from its file name.
func kindOfArchive(name string) (kind manifests.Kind, top, format string, err error) {
	if !manifests.IsArchive(name) {
		return "", "", "", fmt.Errorf("%s is neither a bundle's nor the CUDA runtime's archive", name)
	}
	a := manifests.Artifact{Name: name, Kind: manifests.KindOf(name), Format: strings.TrimPrefix(name, manifests.Stem(name)+".")}
	return a.Kind, a.Top(), a.Format, nil
}

// readArchive reads an archive to its end and unpacks it into root, where that is not nil. What is not laid out as Pack
// does becomes a finding; what is unsafe is not unpacked. An archive that cannot be read at all is a finding, too: only
// this machine's own failures are errors.
func readArchive(ctx context.Context, name string, root *os.Root) (*archive, error) {
	a := &archive{name: filepath.Base(name)}
	var err error
	if a.kind, a.top, a.format, err = kindOfArchive(a.name); err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	outer := newDigester(io.Discard)
	src := bufio.NewReaderSize(io.TeeReader(&contextReader{ctx, f}, outer), 1<<20)
	if err := a.readCompressed(src, outer, root); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var local *localError
		if errors.As(err, &local) {
			return nil, local.err
		}
		a.add("", "%v", err)
	}
	if _, err := io.Copy(io.Discard, src); err != nil { // the file's own digest covers what follows an error
		return nil, err
	}
	a.file = outer.digest()
	return a, nil
}

// A localError is a failure of this machine while it unpacks, as opposed to one of the archive.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

func (a *archive) readCompressed(src *bufio.Reader, outer *digester, root *os.Root) error {
	z, err := newDecompressor(src, a.format)
	if err != nil {
		return err
	}
	defer z.Close()
	if g, ok := z.(*gzip.Reader); ok {
		if h := g.Header; h.Name != "" || h.Comment != "" || len(h.Extra) > 0 || h.ModTime.Unix() != 0 {
			a.add("", "the gzip header holds a name, a time or other extras")
		}
	}
	inner := newDigester(io.Discard)
	bounded := &boundedReader{r: io.TeeReader(z, inner), inner: inner, outer: outer}
	if err := a.readTar(bounded, root); err != nil {
		return err
	}
	// tar.Reader stops behind the two zero blocks that end an archive.
	if n, err := io.Copy(io.Discard, bounded); err != nil {
		return err
	} else if n > 0 {
		a.add("", "%d bytes follow the end of the tar", n)
	}
	if _, err := src.ReadByte(); err != io.EOF {
		return errTrailing
	}
	a.tar = inner.digest()
	return nil
}

// A boundedReader refuses what unpacks to more than any archive of the farm.
type boundedReader struct {
	r            io.Reader
	inner, outer *digester
}

func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.inner.size > maxUnpacked || b.inner.size > ratioFloor && b.inner.size > maxRatio*b.outer.size {
		return n, errTooLarge
	}
	return n, err
}

func (a *archive) readTar(r io.Reader, root *os.Root) error {
	tr := tar.NewReader(r)
	seen := make(map[string]bool)
	folders := map[string]bool{".": true}
	last := ""
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("reading the tar: %w", err)
		}
		if len(seen) >= maxMembers {
			return errTooLarge
		}
		name := strings.TrimSuffix(h.Name, "/")
		switch {
		case !safePath(name):
			a.add(h.Name, "the path leads out of the archive")
			continue
		case name != a.top && !strings.HasPrefix(name, a.top+"/"):
			a.add(h.Name, "it lies outside the top folder %s", a.top)
			continue
		case seen[name]:
			a.add(h.Name, "the name stands there twice")
			continue
		case !folders[path.Dir(name)]: // so that nothing is unpacked through a link
			a.add(h.Name, "its folder is not in the archive")
			continue
		case name < last:
			a.add(h.Name, "it comes after %s: names must ascend", last)
		}
		seen[name], last = true, name
		folders[name] = h.Typeflag == tar.TypeDir
		if !a.checkHeader(h) {
			continue
		}
		if err := a.member(h, tr, strings.TrimPrefix(strings.TrimPrefix(name, a.top), "/"), root); err != nil {
			return err
		}
	}
	if !seen[a.top] {
		a.add("", "there is no top folder %s", a.top)
	}
	if a.described == nil {
		a.add(manifests.MetadataName, "the file is missing")
	}
	return nil
}

// checkHeader wants what writeTar writes: nothing that depends on who packed, where and when. It reports whether the
// member may be read: of a sparse file, archive/tar makes up bytes that are not in the tar, without end.
func (a *archive) checkHeader(h *tar.Header) bool {
	if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" {
		a.add(h.Name, "its owner is %d:%d (%q, %q) and must be 0:0 without names", h.Uid, h.Gid, h.Uname, h.Gname)
	}
	if a.epoch.IsZero() {
		a.epoch = h.ModTime
	}
	if !h.ModTime.Equal(a.epoch) {
		a.add(h.Name, "its time is %d and that of others %d", h.ModTime.Unix(), a.epoch.Unix())
	}
	for record := range h.PAXRecords {
		if record != "path" && record != "linkpath" {
			a.add(h.Name, "it has the extended header %s", record)
			return false
		}
	}
	return true
}

// member reads one entry; name is its path below the top folder.
func (a *archive) member(h *tar.Header, r io.Reader, name string, root *os.Root) error {
	mode := fmt.Sprintf("%#04o", h.Mode)
	switch h.Typeflag {
	case tar.TypeDir:
		if mode != modeProgram {
			a.add(h.Name, "a folder's mode is %s and must be %s", mode, modeProgram)
		}
		if root == nil || name == "" {
			return nil
		}
		return local(root.MkdirAll(name, 0o755))
	case tar.TypeSymlink:
		if mode != modeLink {
			a.add(h.Name, "a link's mode is %s and must be %s", mode, modeLink)
		}
		if target := path.Join(path.Dir(name), h.Linkname); path.IsAbs(h.Linkname) || h.Linkname == "" || !safePath(target) {
			a.add(h.Name, "the link to %q leads out of the archive", h.Linkname)
			return nil
		}
		a.files = append(a.files, manifests.File{Path: name, Mode: mode, Link: h.Linkname})
		if root == nil {
			return nil
		}
		return local(root.Symlink(h.Linkname, name))
	case tar.TypeReg:
		if mode != modeFile && mode != modeProgram {
			a.add(h.Name, "a file's mode is %s and must be %s or %s", mode, modeFile, modeProgram)
		}
		return a.regular(h, r, name, mode, root)
	}
	a.add(h.Name, "an entry of type %q; there are files, folders and links only", h.Typeflag)
	return nil
}

func (a *archive) regular(h *tar.Header, r io.Reader, name, mode string, root *os.Root) error {
	sum := sha256.New()
	var to io.Writer = io.Discard
	described := &bytes.Buffer{}
	switch {
	case name == manifests.MetadataName:
		if h.Size > manifests.MaxSize {
			return errTooLarge
		}
		to = described
	case root != nil:
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(h.Mode)&0o755)
		if err != nil {
			return local(err)
		}
		defer f.Close()
		to = localWriter{f}
	}
	size, err := io.Copy(io.MultiWriter(sum, to), r)
	if err != nil {
		return err
	}
	if name == manifests.MetadataName {
		a.described = described.Bytes()
	}
	a.files = append(a.files, manifests.File{Path: name, Size: size, Mode: mode, SHA256: hex.EncodeToString(sum.Sum(nil))})
	return nil
}

func local(err error) error {
	if err == nil {
		return nil
	}
	return &localError{err}
}

// A localWriter marks its errors as this machine's.
type localWriter struct{ w io.Writer }

func (l localWriter) Write(p []byte) (int, error) {
	n, err := l.w.Write(p)
	return n, local(err)
}
