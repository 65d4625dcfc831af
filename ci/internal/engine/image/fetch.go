package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/waqasm86/llcuda-farm/ci/internal/filestamp"
	"github.com/waqasm86/llcuda-farm/docker/cuda12"
	"github.com/waqasm86/llcuda-farm/docker/mirror"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/publisher/pypi"
)

// fetchConcurrency is polite to a public mirror: so many connections, each with a file of its own.
const fetchConcurrency = 8

// FetchOptions are Fetch's options; the zero value fetches from the public mirrors.
type FetchOptions struct {
	Mirrors     []string // roots of Debian mirrors, tried in this order; an archive of the mirror of some day works as well
	NPMRegistry string   // the npm registry's root
	// PyPI is the index of wheels. The public one is not asked: the lock has its files' paths. Another is asked where it
	// keeps them.
	PyPI        pypi.Index
	Archive     string // what Debian's files come from that no mirror gives: the root of its archive of the lock's day
	Snapshot    string // the lock's day, if it is not that of docker/cuda12
	Concurrency int    // files downloaded and hashed at once
	// Transfer downloads. The zero value will do.
	Transfer transfer.Client
	// Progress is called with the bytes that have arrived, out of all bytes of the lock. Calls do not overlap.
	Progress func(measure.Progress)
}

// MirrorsFromEnv takes the mirrors from LLCUDA_DEBIAN_MIRROR, npm_config_registry and pip's PIP_INDEX_URL.
func MirrorsFromEnv(getenv func(string) string) FetchOptions {
	return FetchOptions{
		Mirrors: mirror.DebianFromEnv(getenv), NPMRegistry: mirror.NPMFromEnv(getenv), PyPI: pypi.Index{URL: mirror.PyPIFromEnv(getenv)},
	}
}

// A GoneError is a file of the lock that no mirror has.
type GoneError struct {
	Kind          cuda12.Kind
	Name, Version string
	URL           string // the first that was asked
}

func (e *GoneError) Error() string {
	return fmt.Sprintf("fetching %s %s: the mirror no longer has %s", e.Name, e.Version, e.URL)
}

// Hint is the way out.
func (e *GoneError) Hint() string {
	if e.Kind == cuda12.PyPI {
		return "set PIP_INDEX_URL to an index that has it, or choose another version in docker/cuda13/packages.in and run `go generate ./docker/cuda13`"
	}
	return "run `go generate ./docker/cuda12` to lock the versions the mirror has now, or set LLCUDA_DEBIAN_MIRROR to a mirror or an archive that still has this one"
}

// checkedFile is where a cache keeps the stamps of the files whose digests were right.
const checkedFile = "checked.json"

// FilesDir is the folder of a cache that holds the fetched files, each under its SHA-256: what
// install.sh takes as its second argument. It may hold files of other locks, and partial files,
// too.
func FilesDir(cacheDir string) string { return filepath.Join(cacheDir, "files") }

// Fetch downloads every file of the lock into FilesDir(cacheDir). Existing files are
// replaced if they are damaged; those that did not change since they were hashed are not hashed
// again. An interrupted download resumes.
func Fetch(ctx context.Context, lock cuda12.Lock, cacheDir string, opts FetchOptions) error {
	if len(opts.Mirrors) == 0 {
		opts.Mirrors = []string{mirror.Debian}
	}
	opts.Archive = cmp.Or(opts.Archive, mirror.DebianSnapshots+cmp.Or(opts.Snapshot, cuda12.Snapshot(cuda12.LockFile)))
	opts.NPMRegistry = cmp.Or(opts.NPMRegistry, mirror.NPM)
	opts.PyPI.URL = cmp.Or(opts.PyPI.URL, mirror.PyPI)
	opts.Transfer.Streams = 1
	dir := FilesDir(cacheDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making %s: %w", dir, err)
	}
	transfer.RemoveStale(dir)
	checked := filestamp.OpenRecord(filepath.Join(cacheDir, checkedFile))
	meter := &meter{report: opts.Progress}
	for _, p := range lock {
		meter.total += p.Size
	}
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.SetLimit(cmp.Or(opts.Concurrency, fetchConcurrency))
	for _, p := range lock {
		tasks.Go(func() error { return fetchFile(ctx, p, dir, checked, opts, meter) })
	}
	err := tasks.Wait()
	if saveErr := checked.Save(); err == nil && saveErr != nil {
		return fmt.Errorf("noting which packages are right: %w", saveErr)
	}
	return err
}

// meter adds up the bytes of all downloads.
type meter struct {
	mu          sync.Mutex
	done, total int64
	report      func(measure.Progress)
}

func (m *meter) add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done += n
	if m.report != nil {
		m.report(measure.Progress{Done: m.done, Total: m.total})
	}
}

func fetchFile(ctx context.Context, p cuda12.Package, dir string, checked *filestamp.Record, opts FetchOptions, meter *meter) error {
	dest := filepath.Join(dir, p.SHA256)
	blob := transfer.Blob{Name: p.Name + " " + p.Version, Size: p.Size, SHA256: p.SHA256}
	right, err := checked.Check(dest, func() (bool, error) {
		size, err := blob.SizeOf(dest)
		return size >= 0, err
	})
	if err != nil {
		return fmt.Errorf("checking %s: %w", p.Name, err)
	}
	if right {
		meter.add(p.Size)
		return nil
	}
	if blob.URLs, err = addresses(ctx, p, opts); err != nil {
		return err
	}
	var counted int64
	count := func(done int64) { meter.add(done - counted); counted = done }
	_, err = opts.Transfer.Save(ctx, blob, dest, func(at transfer.Progress) { count(at.Done) })
	if err == nil {
		count(p.Size) // another process may have brought it
		return nil
	}
	count(0)
	if network, ok := errors.AsType[*transfer.NetworkError](err); ok && network.IsMissing() {
		status, _ := errors.AsType[*transfer.StatusError](err)
		return &GoneError{Kind: p.Kind, Name: p.Name, Version: p.Version, URL: status.URL}
	}
	return fmt.Errorf("fetching %s: %w", p.Name, err)
}

// addresses returns where a package may be, in the order to try them. Only Debian has an archive.
func addresses(ctx context.Context, p cuda12.Package, opts FetchOptions) ([]string, error) {
	switch {
	case p.Kind == cuda12.NPM:
		return []string{strings.TrimRight(opts.NPMRegistry, "/") + "/" + p.Path}, nil
	case p.Kind == cuda12.PyPI && opts.PyPI.URL == mirror.PyPI:
		return []string{mirror.PyPIFiles + "/" + p.Path}, nil
	case p.Kind == cuda12.PyPI:
		files, err := opts.PyPI.Files(ctx, p.Name)
		if err != nil {
			return nil, fmt.Errorf("fetching %s: %w", p.Name, err)
		}
		at := slices.IndexFunc(files, func(f pypi.File) bool { return f.Name == path.Base(p.Path) })
		if at < 0 {
			return nil, &GoneError{Kind: p.Kind, Name: p.Name, Version: p.Version, URL: opts.PyPI.URL + "/" + path.Base(p.Path)}
		}
		return []string{files[at].URL}, nil
	}
	var list []string
	for _, root := range append(opts.Mirrors[:len(opts.Mirrors):len(opts.Mirrors)], opts.Archive) {
		list = append(list, strings.TrimRight(root, "/")+"/"+p.Path)
	}
	return list, nil
}
