package store

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// Limits of what an archive may hold, whatever its manifest says: with --insecure-skip-signature, anybody may have
// written that. A bundle has 60 entries; the CUDA runtime, which shrinks the most, is 2.4 times its archive.
const (
	// maxEntries bounds the entries and the folders made for them, each of which takes an inode. The bundler packs no more.
	maxEntries = 4096
	// maxUnpacked is the largest tar, in bytes, that the bundler packs. The largest one published has 0.6 GB.
	maxUnpacked = 4 << 30
	// maxDepth is how many names a path may have; a bundle's have 4. Without a bound, one extended header of 1 MiB would
	// make half a million nested folders.
	maxDepth = 32
	maxRatio = 1_000
	// ratioFloor is what may be unpacked before the ratio counts: small archives of zeros are no danger.
	ratioFloor = 64 << 20
	// maxWindow is the memory, in bytes, that an archive may ask a decoder for.
	maxWindow = 128 << 20
)

// An ArchiveError is an archive whose digest holds and whose content is not what it must be. It is a security error:
// nothing of it was installed.
type ArchiveError struct {
	Name    string // the asset's
	Entry   string // the path inside; empty where it is the archive as a whole
	Problem string
}

func (e *ArchiveError) Error() string {
	if e.Entry == "" {
		return fmt.Sprintf("unpacking %s: %s", e.Name, e.Problem)
	}
	return fmt.Sprintf("unpacking %s: %q: %s", e.Name, e.Entry, e.Problem)
}

// A Stage is an archive on its way into the store.
type Stage struct {
	locked *Locked
	asset  manifests.Artifact
	top    string // the folder that everything in the archive lies in
	dir    string
	root   *os.Root
	found  map[string]manifests.File // below top, as they were written
	meta   []byte                    // metadata.json
}

// Stage begins to unpack an archive of the release.
func (l *Locked) Stage(a manifests.Artifact) (*Stage, error) {
	s := &Stage{locked: l, asset: a, top: a.Top()}
	if a.Tar.Size > maxUnpacked {
		return nil, s.bad("", "the manifest says that it unpacks to %d bytes; at most %d are allowed", a.Tar.Size, int64(maxUnpacked))
	}
	return s, s.reset()
}

// reset begins anew in an empty folder.
func (s *Stage) reset() error {
	if err := s.Close(); err != nil {
		return err
	}
	var err error
	if s.dir, err = os.MkdirTemp(s.locked.path(stagingDir), s.top+"-"); err != nil {
		return err
	}
	s.found, s.meta = map[string]manifests.File{}, nil
	s.root, err = os.OpenRoot(s.dir)
	return err
}

// Close removes what was not adopted.
func (s *Stage) Close() error {
	if s.root == nil {
		return nil
	}
	err := errors.Join(s.root.Close(), os.RemoveAll(s.dir))
	s.root = nil
	return err
}

// Unpack unpacks the archive's bytes, from the first on; called again, it begins anew. The digest of the bytes is not
// its matter: what it wrote is worth nothing before somebody verified that.
//
// Nothing can be written outside the stage: names and links are checked by themselves, files are made through an
// os.Root, each anew, and links are made when all files are there. No entry is begun that is larger than what is left of
// the tar. The end of the context ends it, whatever the archive still holds.
func (s *Stage) Unpack(ctx context.Context, r io.Reader) error {
	if err := s.reset(); err != nil {
		return err
	}
	packed := &counter{r: r}
	unpacked, closeDecoder, err := decoder(s.asset.Format, bufio.NewReaderSize(packed, 1<<20))
	if err != nil {
		return s.bad("", "%v", err)
	}
	defer closeDecoder()
	sum := sha256.New()
	limited := &limited{ctx: ctx, stage: s, r: unpacked, packed: packed, left: s.asset.Tar.Size, sum: sum}
	if err := s.entries(tar.NewReader(limited), limited); err != nil {
		return err
	}
	// The tar's own end is not the archive's.
	if _, err := io.Copy(io.Discard, limited); err != nil {
		return limited.reason(err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); limited.left != 0 || got != s.asset.Tar.SHA256 {
		return s.bad("", "the tar inside has %d bytes and sha256 %s, and the manifest says %d and %s",
			s.asset.Tar.Size-limited.left, got, s.asset.Tar.Size, s.asset.Tar.SHA256)
	}
	return nil
}

func (s *Stage) bad(entry, format string, args ...any) error {
	return &ArchiveError{Name: s.asset.Name, Entry: shorten(entry), Problem: shorten(fmt.Sprintf(format, args...))}
}

// shorten is s as it may stand in a message: names in a tar have up to 1 MiB.
func shorten(s string) string {
	const enough = 300
	if len(s) > enough {
		return s[:enough] + "…"
	}
	return s
}

func decoder(format string, r io.Reader) (io.Reader, func(), error) {
	switch format {
	case manifests.FormatTarZst:
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	case manifests.FormatTarGz:
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, err
		}
		return z, func() { z.Close() }, nil
	}
	return nil, nil, fmt.Errorf("the format %q is not known", format)
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// limited reads the tar, hashes it, and ends it where it grows beyond what was said of it.
type limited struct {
	ctx    context.Context
	stage  *Stage
	r      io.Reader
	packed *counter
	left   int64
	sum    hash.Hash
	bomb   error
	source error // of the bytes themselves
}

func (l *limited) Read(p []byte) (int, error) {
	if l.ctx.Err() != nil { // a bomb would go on for long with the bytes that came already
		return 0, context.Cause(l.ctx)
	}
	n, err := l.r.Read(p)
	l.sum.Write(p[:n])
	l.left -= int64(n)
	done := l.stage.asset.Tar.Size - l.left
	switch {
	case l.left < 0:
		l.bomb = l.stage.bad("", "it unpacks to more than the %d bytes that the manifest says", l.stage.asset.Tar.Size)
	case done > ratioFloor && done > maxRatio*l.packed.n:
		l.bomb = l.stage.bad("", "it unpacks to more than %d times its own size", maxRatio)
	}
	if l.bomb != nil {
		return 0, l.bomb
	}
	if err != nil && err != io.EOF {
		l.source = err
	}
	return n, err
}

// reason is the error of reading from l: the context's, that of the source if it was the source's, else the archive's.
func (l *limited) reason(err error) error {
	switch {
	case l.ctx.Err() != nil:
		return context.Cause(l.ctx)
	case l.bomb != nil:
		return l.bomb
	}
	return &ArchiveError{Name: l.stage.asset.Name, Problem: err.Error()}
}

// entries writes what the tar lists.
func (s *Stage) entries(t *tar.Reader, source *limited) error {
	links := map[string]string{}
	folders := map[string]bool{} // those of the entries, listed or not
	buffer := make([]byte, 256<<10)
	for count := 1; ; count++ {
		header, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return source.reason(err)
		}
		name, err := s.entryName(header)
		if err != nil {
			return err
		}
		for dir := path.Dir(name); !folders[dir]; dir = path.Dir(dir) {
			folders[dir] = true
		}
		if count+len(folders) > maxEntries {
			return s.bad("", "it has more than %d entries and folders", maxEntries)
		}
		// Nothing but a long name or target needs an extended header. Records of sparse files would have archive/tar make up
		// bytes that are not in the tar, without end.
		for record := range header.PAXRecords {
			if record != "path" && record != "linkpath" {
				return s.bad(header.Name, "it has the extended header %q; only path and linkpath are expected", record)
			}
		}
		if header.Size > source.left {
			return s.bad(header.Name, "it has %d bytes, and the tar has only %d left", header.Size, source.left)
		}
		inside := strings.TrimPrefix(name, s.top+"/")
		if _, twice := s.found[inside]; twice {
			return s.bad(header.Name, "it is there twice")
		}
		switch header.Typeflag {
		case tar.TypeDir:
			if err := s.root.MkdirAll(name, 0o755); err != nil {
				return s.place(header.Name, err)
			}
		case tar.TypeReg:
			file, err := s.file(name, inside, header, t, buffer)
			if err != nil {
				if source.source != nil || source.bomb != nil || errors.Is(err, io.ErrUnexpectedEOF) {
					return source.reason(err)
				}
				return err
			}
			s.found[inside] = file
		case tar.TypeSymlink:
			target := header.Linkname
			if target == "" || path.IsAbs(target) || strings.Contains(target, `\`) || target != path.Clean(target) ||
				!strings.HasPrefix(path.Join(path.Dir(name), target)+"/", s.top+"/") {
				return s.bad(header.Name, "the link to %q leaves the archive", target)
			}
			links[name] = target
			s.found[inside] = manifests.File{Path: inside, Mode: "0777", Link: target}
		default:
			return s.bad(header.Name, "it is neither a file nor a folder nor a link (type %q)", header.Typeflag)
		}
	}
	for name, target := range links {
		if err := s.root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return s.place(name, err)
		}
		if err := s.root.Symlink(target, name); err != nil {
			return s.place(name, err)
		}
	}
	return nil
}

// entryName is the entry's path, if it lies in the top folder and nowhere else on any reading.
func (s *Stage) entryName(header *tar.Header) (string, error) {
	name := strings.TrimSuffix(header.Name, "/")
	if depth := 1 + strings.Count(name, "/"); depth > maxDepth {
		return "", s.bad(header.Name, "it lies %d folders deep, and at most %d are allowed", depth-1, maxDepth-1)
	}
	if name == "" || name != path.Clean(name) || path.IsAbs(name) || !filepath.IsLocal(name) || strings.ContainsAny(name, "\\\x00") ||
		name != s.top && !strings.HasPrefix(name, s.top+"/") {
		return "", s.bad(header.Name, "it does not lie in the archive's folder %s", s.top)
	}
	if name == s.top && header.Typeflag != tar.TypeDir {
		return "", s.bad(header.Name, "it is no folder")
	}
	return name, nil
}

// file writes one file and says what was written.
func (s *Stage) file(name, inside string, header *tar.Header, r io.Reader, buffer []byte) (manifests.File, error) {
	mode := header.Mode & 0o7777
	if mode != 0o644 && mode != 0o755 {
		return manifests.File{}, s.bad(header.Name, "its mode is %04o; only 0644 and 0755 are expected", mode)
	}
	if err := s.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return manifests.File{}, s.place(header.Name, err)
	}
	f, err := s.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return manifests.File{}, s.place(header.Name, err)
	}
	sum := sha256.New()
	out := io.MultiWriter(f, sum)
	if inside == manifests.MetadataName {
		if header.Size > manifests.MaxSize {
			return manifests.File{}, errors.Join(s.bad(header.Name, "it has %d bytes, more than %d", header.Size, manifests.MaxSize), f.Close())
		}
		out = io.MultiWriter(f, sum, (*bytesWriter)(&s.meta))
	}
	n, err := io.CopyBuffer(onlyWriter{out}, onlyReader{r}, buffer)
	if err == nil {
		err = f.Chmod(os.FileMode(mode)) // whatever the umask is
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return manifests.File{}, fmt.Errorf("unpacking %s: %w", s.asset.Name, err)
	}
	return manifests.File{Path: inside, Size: n, Mode: fmt.Sprintf("%04o", mode), SHA256: hex.EncodeToString(sum.Sum(nil))}, nil
}

// place is the error of making an entry: the archive's, if the file system says that another entry is in its way.
func (s *Stage) place(entry string, err error) error {
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENAMETOOLONG) ||
		errors.Is(err, unix.ELOOP) || strings.Contains(err.Error(), "escapes") {
		return s.bad(entry, "%v", err)
	}
	return fmt.Errorf("unpacking %s: %w", s.asset.Name, err)
}

type bytesWriter []byte

func (b *bytesWriter) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}

// onlyWriter and onlyReader hide ReadFrom and WriteTo, which would copy with buffers of their own.
type onlyWriter struct{ io.Writer }
type onlyReader struct{ io.Reader }

// Adopt verifies that the unpacked files are those that the manifest and the bundle's own metadata.json list, and moves
// them to their place in the store. It returns that place. Whoever calls it has verified the digest of the archive. A
// bundle gets the links by which it finds the libraries of these names, once Link says where they are.
func (s *Stage) Adopt(runtimeNames []string) (string, error) {
	want, err := s.listed()
	if err != nil {
		return "", err
	}
	if findings := compareFiles(want, s.found, nil); len(findings) > 0 {
		return "", s.bad(findings[0].Path, "%s", findings[0].What)
	}
	target := s.locked.path(folder(s.asset))
	made := filepath.Join(s.dir, s.top)
	if s.asset.Kind == manifests.KindBundle {
		if err := linkRuntime(made, target, runtimeNames); err != nil {
			return "", fmt.Errorf("linking %s: %w", s.asset.Name, err)
		}
	}
	// One call writes all of the file system's dirty pages: much faster than one fsync for each of the files.
	dir, err := s.root.Open(".")
	if err != nil {
		return "", err
	}
	if err := errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close()); err != nil {
		return "", fmt.Errorf("writing %s to disk: %w", s.asset.Name, err)
	}
	if err := s.locked.put(made, target); err != nil {
		return "", err
	}
	return target, s.Close()
}

// listed are the files that must be there.
func (s *Stage) listed() ([]manifests.File, error) {
	if s.asset.Kind == manifests.KindCUDART {
		return s.asset.Libraries, nil
	}
	meta, err := manifests.DecodeMetadata(strings.NewReader(string(s.meta)))
	if err != nil {
		return nil, s.bad(manifests.MetadataName, "%v", err)
	}
	if err := agrees(meta, s.asset); err != nil {
		return nil, s.bad(manifests.MetadataName, "%v", err)
	}
	delete(s.found, manifests.MetadataName)
	return meta.Files, nil
}

// agrees holds a bundle's own word to the manifest's.
func agrees(m manifests.Metadata, a manifests.Artifact) error {
	for _, field := range []struct {
		name      string
		own, said any
	}{
		{"name", m.Name, a.Stem()}, {"release", m.Release, a.Release}, {"llama_cpp", m.LlamaCPP, *a.LlamaCPP},
		{"sm", m.SM, a.SM}, {"architecture", m.Architecture, a.Architecture}, {"gpus", m.GPUs, a.GPUs},
		{"toolkit", m.Toolkit, *a.Toolkit}, {"device_code", m.DeviceCode, *a.DeviceCode}, {"requires", m.Requires, *a.Requires},
		{"source_date_epoch", m.Build.SourceDateEpoch, a.SourceDateEpoch},
	} {
		if !reflect.DeepEqual(field.own, field.said) {
			return fmt.Errorf("its %s is %v, and the manifest says %v", field.name, field.own, field.said)
		}
	}
	return nil
}

// A Finding is one thing that is wrong with an unpacked archive.
type Finding struct {
	Path string `json:"path"`
	What string `json:"what"`
}

// compareFiles lists what of found is not as in want, by path. extra says of a path that it may be there beside them.
func compareFiles(want []manifests.File, found map[string]manifests.File, extra func(manifests.File) bool) []Finding {
	var findings []Finding
	listed := map[string]bool{}
	for _, w := range want {
		listed[w.Path] = true
		got, ok := found[w.Path]
		switch {
		case !ok:
			findings = append(findings, Finding{w.Path, "it is missing"})
		case got.Link != w.Link:
			findings = append(findings, Finding{w.Path, fmt.Sprintf("it links to %q, and must to %q", got.Link, w.Link)})
		case got.Size != w.Size || got.SHA256 != w.SHA256:
			findings = append(findings, Finding{w.Path, fmt.Sprintf("it has %d bytes and sha256 %s, and must have %d and %s", got.Size, got.SHA256, w.Size, w.SHA256)})
		case got.Mode != w.Mode:
			findings = append(findings, Finding{w.Path, fmt.Sprintf("its mode is %s, and must be %s", got.Mode, w.Mode)})
		}
	}
	for name, file := range found {
		if !listed[name] && (extra == nil || !extra(file)) {
			findings = append(findings, Finding{name, "it is not one of the files"})
		}
	}
	slices.SortFunc(findings, func(a, b Finding) int { return strings.Compare(a.Path, b.Path) })
	return findings
}
