package bundler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/archive"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// PackOptions are the settings of Pack and PackRuntime. The zero value is useful.
type PackOptions struct {
	// Epoch is the time of every file in a bundle. If it is zero, the metadata's own
	// SOURCE_DATE_EPOCH is taken; if it is not, it must be the same. The CUDA runtime has a fixed
	// time and ignores it.
	Epoch time.Time
	// Concurrency bounds the compressors' threads; 0 means one a core. It changes no byte.
	Concurrency int
	// Cache is a folder that keeps the CUDA runtime's archives from one run to the next, if it is
	// not empty. They take minutes to compress and are the same until the toolkit changes. Pack
	// ignores it: no two bundles are the same.
	Cache string
	// Known, if not nil, returns what is already known of an archive in outDir, so that an unchanged
	// one need not be read again.
	Known func(name string) (manifests.Artifact, bool)
	// Progress receives the number of bytes compressed so far and the total, for all archives
	// together. Its calls do not overlap.
	Progress func(measure.Progress)
}

// Pack writes a bundle's two archives into outDir and returns them, tar.gz first. The metadata must
// be what Describe made of this very tree: Pack reads the device code and the needs again, and
// hashes every file again, and an *AuditError names whatever disagrees; then nothing is written.
//
// An archive that already holds this very tar is left alone, so that a second run is quick. One
// that holds another is replaced by rename, as is fit for a workspace: readers see the old archive
// or the new one, and a failure leaves the old ones.
func Pack(ctx context.Context, fsys fs.FS, meta manifests.Metadata, outDir string, opts PackOptions) ([]manifests.Artifact, error) {
	t, err := readTree(fsys, meta.Toolkit)
	if err != nil {
		return nil, fmt.Errorf("packing %s: %w", meta.Name, err)
	}
	if findings := checkMetadata(t, meta); len(findings) > 0 {
		return nil, fmt.Errorf("packing %s: %w", meta.Name, &AuditError{Name: meta.Name, Findings: findings})
	}
	epoch := time.Unix(meta.Build.SourceDateEpoch, 0)
	if !opts.Epoch.IsZero() && !opts.Epoch.Equal(epoch) {
		return nil, fmt.Errorf("packing %s: the metadata's source_date_epoch is %d and the archive's time would be %d", meta.Name, epoch.Unix(), opts.Epoch.Unix())
	}
	described, err := meta.Encode()
	if err != nil {
		return nil, fmt.Errorf("packing %s: %w", meta.Name, err)
	}
	l := layout{top: meta.Name, files: meta.Files, fsys: fsys, described: described, epoch: epoch}
	tarDigest, err := l.digestTar(ctx)
	if err != nil {
		return nil, fmt.Errorf("packing %s: %w", meta.Name, err)
	}
	written, err := writeArchives(ctx, meta.Name, tarDigest, outDir, opts, l.compress)
	if err != nil {
		return nil, fmt.Errorf("packing %s: %w", meta.Name, err)
	}
	artifacts := make([]manifests.Artifact, len(written))
	for i, format := range manifests.Formats() {
		artifacts[i] = archive.Describe(meta, meta.Name+"."+format, format, written[i], tarDigest)
	}
	return artifacts, nil
}

// toolkitIn is a toolkit as manifests name it.
func toolkitIn(t matrix.Toolkit) manifests.Toolkit {
	return manifests.Toolkit{CUDA: t.CUDA, NVCC: t.NVCC}
}

func toolkitOf(meta manifests.Metadata) matrix.Toolkit {
	return matrix.Toolkit{
		Name: matrix.ToolkitName(meta.Toolkit.CUDA), CUDA: meta.Toolkit.CUDA, NVCC: meta.Toolkit.NVCC,
		DriverCubin: meta.Requires.DriverMin.Cubin, DriverPTX: meta.Requires.DriverMin.PTX,
	}
}

// A producer fills the file of one archive and says what is in it now.
type producer func(ctx context.Context, p *pendingFile, format string, tarDigest manifests.Digest, threads int, progress *progressCounter) (manifests.Digest, error)

// writeArchives makes outDir hold a tar as base.tar.gz and base.tar.zst, and says what these files
// are. Those that are not there already come from produce.
func writeArchives(ctx context.Context, base string, tarDigest manifests.Digest, outDir string, opts PackOptions, produce producer) ([]manifests.Digest, error) {
	if err := os.MkdirAll(outDir, 0o755); err != nil {
		return nil, err
	}
	unlock, err := LockFolder(ctx, outDir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	dir, err := os.OpenRoot(outDir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	threads := opts.Concurrency
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	written := make([]manifests.Digest, len(manifests.Formats()))
	pending := make([]*pendingFile, len(manifests.Formats())) // nil where the archive is there already
	defer func() {
		for _, p := range pending {
			p.discard()
		}
	}()
	progress := &progressCounter{report: opts.Progress}
	for i, format := range manifests.Formats() {
		name := base + "." + format
		if opts.Known != nil {
			if a, ok := opts.Known(name); ok && a.Tar != nil && *a.Tar == tarDigest {
				written[i] = manifests.Digest{SHA256: a.SHA256, Size: a.Size}
				continue
			}
		}
		have, err := readFileDigest(ctx, dir, name, format, tarDigest)
		if err != nil {
			return nil, err
		}
		if have != nil {
			written[i] = *have
			continue
		}
		if pending[i], err = createPending(dir, name); err != nil {
			return nil, spaceError(err, dir, name, tarDigest.Size*int64(len(manifests.Formats())))
		}
		progress.total += tarDigest.Size
	}
	work, workCtx := errgroup.WithContext(ctx)
	work.SetLimit(threads) // with one thread allowed, one compressor after the other
	for i, format := range manifests.Formats() {
		if pending[i] == nil {
			continue
		}
		work.Go(func() (err error) {
			written[i], err = produce(workCtx, pending[i], format, tarDigest, threads, progress)
			return spaceError(err, dir, pending[i].name, progress.total)
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// From here on the new archives replace the old ones.
	for i, p := range pending {
		if p == nil {
			continue
		}
		if err := p.publish(); err != nil {
			return nil, err
		}
		pending[i] = nil
	}
	return written, syncDir(dir)
}

// compress writes the tar into one archive. The tar's digest was taken before; a tree that gives
// another now has changed in between.
func (l layout) compress(ctx context.Context, p *pendingFile, format string, want manifests.Digest, threads int, progress *progressCounter) (manifests.Digest, error) {
	file := archive.NewDigester(p.file)
	compressor, err := newCompressor(file, format, threads)
	if err != nil {
		return manifests.Digest{}, err
	}
	raw := archive.NewDigester(io.MultiWriter(compressor, progress))
	if err := l.writeTar(ctx, raw); err != nil {
		compressor.Close() // it has threads to end; what it writes is thrown away
		return manifests.Digest{}, err
	}
	if err := compressor.Close(); err != nil {
		return manifests.Digest{}, err
	}
	if raw.Digest() != want {
		return manifests.Digest{}, errors.New("the tree changed while it was packed")
	}
	return file.Digest(), p.finish()
}

// copyFrom produces archives by copying those of the same name in a folder, which were found to be
// as described.
func copyFrom(folder string, described []manifests.Digest) producer {
	return func(ctx context.Context, p *pendingFile, _ string, _ manifests.Digest, _ int, _ *progressCounter) (manifests.Digest, error) {
		src, err := os.Open(filepath.Join(folder, p.name))
		if err != nil {
			return manifests.Digest{}, err
		}
		defer src.Close()
		file := archive.NewDigester(p.file)
		if _, err := io.Copy(file, archive.WithContext(ctx, src)); err != nil {
			return manifests.Digest{}, err
		}
		if !slices.Contains(described, file.Digest()) {
			return manifests.Digest{}, fmt.Errorf("%s changed while it was copied", src.Name())
		}
		return file.Digest(), p.finish()
	}
}

// A SpaceError is a disk that is too small for an archive.
type SpaceError struct {
	Path string
	// Needed is how much room makes sure of success: that of all archives, were they not
	// compressed.
	Needed int64
	Err    error
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("writing %s: %v (%d bytes free are enough in any case)", e.Path, e.Err, e.Needed)
}

func (e *SpaceError) Unwrap() error { return e.Err }

// spaceError makes a full disk's error one that says what to do.
func spaceError(err error, dir *os.Root, name string, needed int64) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &SpaceError{Path: filepath.Join(dir.Name(), name), Needed: needed, Err: errnoOf(err)}
	}
	return err
}

// errnoOf leaves the temporary file's name out of a message.
func errnoOf(err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return err
}

// A pendingFile is written beside the place that it is for.
type pendingFile struct {
	dir        *os.Root
	name, temp string
	file       *os.File
}

const partialSuffix = ".partial"

// createPending opens a new file beside name, and removes what killed processes left for the same
// name: the caller holds the folder's lock, so no process is writing it.
func createPending(dir *os.Root, name string) (*pendingFile, error) {
	prefix := "." + name + "."
	entries, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Type().IsRegular() && strings.HasPrefix(e.Name(), prefix) && strings.HasSuffix(e.Name(), partialSuffix) {
			if err := dir.Remove(e.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
	}
	temp := fmt.Sprintf("%s%d-%d%s", prefix, os.Getpid(), time.Now().UnixNano(), partialSuffix)
	f, err := dir.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	return &pendingFile{dir: dir, name: name, temp: temp, file: f}, nil
}

// finish makes the bytes durable before the name can show them.
func (p *pendingFile) finish() error {
	if err := p.file.Sync(); err != nil {
		return err
	}
	return p.file.Close()
}

func (p *pendingFile) publish() error { return p.dir.Rename(p.temp, p.name) }

// discard removes what was written. Its errors are dropped: it follows the error that is reported.
func (p *pendingFile) discard() {
	if p == nil {
		return
	}
	p.file.Close()
	p.dir.Remove(p.temp)
}

func syncDir(dir *os.Root) error {
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// readFileDigest returns the digest of an archive that contains the wanted tar, and nil if the
// archive is absent, damaged or contains another tar.
func readFileDigest(ctx context.Context, dir *os.Root, name, format string, want manifests.Digest) (*manifests.Digest, error) {
	f, err := dir.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	file := archive.NewDigester(io.Discard)
	tarDigest, err := archive.DigestTar(io.TeeReader(archive.WithContext(ctx, f), file), format, want.Size)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil || tarDigest != want {
		return nil, nil // it is about to be replaced
	}
	have := file.Digest()
	return &have, nil
}

// A progressCounter adds up what the compressors have taken in.
type progressCounter struct {
	mu          sync.Mutex
	done, total int64
	report      func(measure.Progress)
}

func (c *progressCounter) Write(p []byte) (int, error) {
	if c.report != nil {
		c.mu.Lock()
		c.done += int64(len(p))
		c.report(measure.Progress{Done: c.done, Total: c.total})
		c.mu.Unlock()
	}
	return len(p), nil
}
