// Package archive reads the archives of a release, bundles and CUDA runtimes. It is the one
// definition of a valid archive: bundler reads what the farm packed with it, and the client's store
// what it downloads.
//
//	bytes ──▶ one gzip member or zstd frame ──▶ one tar ──▶ Contents, and a Finding for every rule that is broken
//
// A valid archive depends on its files alone: one top folder; names ascend, every folder before
// what is in it, each once; owner 0:0 without names; one time; modes 0644, 0755 and, for links,
// 0777; no extended header but for a long name or target; nothing behind the tar's end and nothing
// behind the compressed stream. So the same files give the same bytes, and there is nowhere to hide
// extra ones.
//
// Nothing that an archive says is believed. Names and links are checked before anything is written,
// files are written through an os.Root, each new, and links are made when all files are there; no
// entry is begun that is larger than what is left of the tar; entries, depth, size, ratio and the
// decoder's memory are bounded. The package does not check the archive's own digest: its files must
// not be used until the caller has; it uses no network and keeps nothing.
package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// Limits of what an archive may hold, whatever its manifest says: where the signature is skipped,
// anyone may have written that. A bundle has 80 entries and 9 tar bytes for a packed one; the CUDA
// runtime, the largest, has 0.6 GB.
const (
	// MaxEntries bounds the entries, each of which takes an inode.
	MaxEntries = 4096
	// MaxUnpacked is the largest tar, in bytes.
	MaxUnpacked = 4 << 30
	// MaxDepth is how many names a path may have; a bundle's have 4.
	MaxDepth = 32
	// MaxRatio is how many bytes a packed byte may unpack to; zeros alone are thousands.
	MaxRatio = 400
	// ratioFloor is what may be unpacked before the ratio counts: small archives of zeros are not a
	// danger.
	ratioFloor = 64 << 20
	// Window is the memory, in bytes, that a zstd frame may ask a decoder for. It spans the kernels
	// that libggml-cuda.so repeats from one translation unit to the next, and is the largest that
	// `zstd -d` takes without being asked to.
	Window = 128 << 20
)

// The rules of Finding that this package checks.
const (
	RuleArchive  = "archive"  // the archive is not laid out as bundler.Pack does
	RuleMetadata = "metadata" // metadata.json and the files disagree
)

// A Finding is one thing that is wrong with an archive, or with the files that came out of one.
type Finding struct {
	Rule   string `json:"-"`    // a short name: people search for it
	Path   string `json:"path"` // the entry's; empty where the archive as a whole is meant
	Detail string `json:"what"` // what is wrong and what to do about it
}

func (f Finding) String() string {
	if f.Path == "" {
		return fmt.Sprintf("%s: %s", f.Rule, f.Detail)
	}
	return fmt.Sprintf("%s: %s: %s", f.Path, f.Rule, f.Detail)
}

// Options say what an archive must be.
type Options struct {
	Format string // one of manifests.FormatTarGz, FormatTarZst
	Top    string // the folder that everything lies in
	// Into is where the top folder's contents are written; nil writes nothing.
	Into *os.Root
	// Tar is the tar that the manifest promises, of which no byte more is read; nil takes any.
	Tar *manifests.Digest
	// All continues reading after a finding, to find the others. What is unsafe is not written.
	All bool
}

// Contents are what an archive holds, as it was read.
type Contents struct {
	Tar      manifests.Digest // zero where the archive was not read to its end
	Time     time.Time        // of all entries
	Files    []manifests.File // below the top folder, metadata.json among them
	Metadata []byte           // metadata.json
	Findings []Finding        // the rules that are broken
}

// Read reads an archive to its end, or to the first finding. Whatever is wrong with the archive is
// a finding; an error is the context's, that of reading r, or a *WriteError.
func Read(ctx context.Context, r io.Reader, o Options) (*Contents, error) {
	src := &source{ctx: ctx, r: r}
	a := &reader{Options: o, contents: &Contents{}}
	err := a.read(src)
	var write *WriteError
	switch {
	case err == nil, errors.Is(err, errRefused):
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case src.err != nil:
		return nil, src.err
	case errors.As(err, &write):
		return nil, write
	default:
		a.add("", "%v", err)
	}
	return a.contents, nil
}

// errRefused ends reading where a finding is enough.
var errRefused = errors.New("the archive is refused")

// A WriteError is a failure of this machine to write what an archive holds.
type WriteError struct{ Err error }

func (e *WriteError) Error() string { return e.Err.Error() }
func (e *WriteError) Unwrap() error { return e.Err }

func local(err error) error {
	if err == nil {
		return nil
	}
	return &WriteError{err}
}

// A localWriter marks its errors as this machine's.
type localWriter struct{ w io.Writer }

func (l localWriter) Write(p []byte) (int, error) {
	n, err := l.w.Write(p)
	return n, local(err)
}

// A reader reads one archive. An error of its methods ends reading, and is a finding unless Read
// says otherwise.
type reader struct {
	Options
	contents *Contents
	tar      *tarReader
	folders  map[string]bool   // that were read, by their names in the tar
	seen     map[string]bool   // all names
	last     string            // name
	links    map[string]string // below the top folder
	meta     bytes.Buffer
	buffer   []byte
}

func (a *reader) add(entry, format string, args ...any) {
	finding := Finding{Rule: RuleArchive, Path: shorten(entry), Detail: shorten(fmt.Sprintf(format, args...))}
	a.contents.Findings = append(a.contents.Findings, finding)
}

// refused reports whether the findings so far are enough.
func (a *reader) refused() bool { return !a.All && len(a.contents.Findings) > 0 }

// shorten returns s as it may stand in a message: names in a tar have up to 1 MiB.
func shorten(s string) string {
	const enough = 300
	if len(s) > enough {
		return s[:enough] + "…"
	}
	return s
}

func (a *reader) read(src *source) error {
	buffered := bufio.NewReaderSize(src, 1<<20)
	if err := a.readStream(buffered, src); err != nil {
		return err
	}
	if _, err := buffered.ReadByte(); err == nil {
		a.add("", "data follows the compressed stream")
	} else if err != io.EOF {
		return err
	}
	a.contents.Tar = a.tar.sum.Digest()
	if want := a.Options.Tar; want != nil && *want != a.contents.Tar {
		a.add("", "the tar inside has %d bytes and sha256 %s, and the manifest says %d and %s",
			a.contents.Tar.Size, a.contents.Tar.SHA256, want.Size, want.SHA256)
	}
	return nil
}

// readStream reads the compressed stream, and nothing behind it.
func (a *reader) readStream(buffered *bufio.Reader, src *source) error {
	stream, err := decompress(buffered, a.Format)
	if err != nil {
		return err
	}
	defer stream.Close() // before another reader continues: a decoder may read ahead
	if hasExtras(stream) {
		a.add("", "the gzip header holds a name, a time or other extras")
	}
	a.tar = &tarReader{r: stream, packed: src, sum: NewDigester(io.Discard), limit: MaxUnpacked}
	if a.Options.Tar != nil {
		a.tar.limit = min(a.tar.limit, a.Options.Tar.Size)
	}
	if err := a.readEntries(tar.NewReader(a.tar)); err != nil {
		return err
	}
	// archive/tar stops behind the two zero blocks that end a tar.
	rest, err := io.Copy(io.Discard, a.tar)
	if err == nil && rest > 0 {
		a.add("", "%d bytes follow the end of the tar", rest)
	}
	return err
}
