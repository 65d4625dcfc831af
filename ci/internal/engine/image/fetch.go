package image

import (
	"cmp"
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waqasm86/llcuda-farm/ci/internal/download"
	"github.com/waqasm86/llcuda-farm/docker/cuda12"
)

const (
	debianMirror = "http://deb.debian.org/debian"
	npmRegistry  = "https://registry.npmjs.org"
	// snapshots have Debian's mirror as it was at a time, which comes after it: https://snapshot.debian.org
	snapshots = "https://snapshot.debian.org/archive/debian/"

	fetchConcurrency = 8 // polite to a public mirror
)

// FetchOptions are Fetch's options; the zero value fetches from the public
// mirrors.
type FetchOptions struct {
	Mirror      string       // the Debian mirror's root; an archive of the mirror of some day works as well
	NPMRegistry string       // the npm registry's root
	Archive     string       // where Debian's files are that the mirror no longer has: the root of its archive of the lock's day
	Snapshot    string       // the lock's day, where it is not that of docker/cuda12
	Client      *http.Client // http.DefaultClient, which honours the proxy variables and SSL_CERT_FILE
	Concurrency int          // files downloaded and hashed at once
	// Progress hears of bytes that are there, of all bytes of the lock. Calls do not overlap.
	Progress func(done, total int64)

	firstWait, stall time.Duration // shorter in tests
}

// MirrorsFromEnv takes the mirrors from LLCUDA_DEBIAN_MIRROR and npm_config_registry.
func MirrorsFromEnv(getenv func(string) string) FetchOptions {
	return FetchOptions{Mirror: getenv("LLCUDA_DEBIAN_MIRROR"), NPMRegistry: getenv("npm_config_registry")}
}

// GoneError says that the mirror does not have a file of the lock.
type GoneError struct {
	Name, Version, URL string
}

func (e *GoneError) Error() string {
	return fmt.Sprintf("fetching %s %s: the mirror no longer has %s", e.Name, e.Version, e.URL)
}

// Hint is the way out.
func (e *GoneError) Hint() string {
	return "run `go generate ./docker/cuda12` to lock the versions the mirror has now, or set LLCUDA_DEBIAN_MIRROR to a mirror or an archive that still has this one"
}

// FilesDir is the folder of a cache that holds the fetched files, each under
// its SHA-256: what install.sh takes as its second argument. It may hold files
// of other locks, too.
func FilesDir(cacheDir string) string { return filepath.Join(cacheDir, "files") }

// Fetch brings every file of the lock into FilesDir(cacheDir). Files that are
// there already are hashed again, and replaced if they are damaged.
func Fetch(ctx context.Context, lock cuda12.Lock, cacheDir string, opts FetchOptions) error {
	opts.Mirror = strings.TrimRight(cmp.Or(opts.Mirror, debianMirror), "/")
	opts.Archive = strings.TrimRight(cmp.Or(opts.Archive, snapshots+cmp.Or(opts.Snapshot, cuda12.Snapshot(cuda12.LockFile))), "/")
	opts.NPMRegistry = strings.TrimRight(cmp.Or(opts.NPMRegistry, npmRegistry), "/")
	dir := FilesDir(cacheDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making %s: %w", dir, err)
	}
	download.RemoveStale(dir)
	meter := &meter{report: opts.Progress}
	for _, p := range lock {
		meter.total += p.Size
	}
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.SetLimit(cmp.Or(opts.Concurrency, fetchConcurrency)) // connections to one mirror
	for _, p := range lock {
		tasks.Go(func() error { return fetchFile(ctx, p, dir, opts, meter) })
	}
	return tasks.Wait()
}

// meter adds up the bytes of all downloads.
type meter struct {
	mu          sync.Mutex
	done, total int64
	report      func(done, total int64)
}

func (m *meter) add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done += n
	if m.report != nil {
		m.report(m.done, m.total)
	}
}

func fetchFile(ctx context.Context, p cuda12.Package, dir string, opts FetchOptions, meter *meter) error {
	dest := filepath.Join(dir, p.SHA256)
	want := download.Want{Size: p.Size, Hash: crypto.SHA256, Encode: hex.EncodeToString, Sum: p.SHA256}
	size, err := download.Size(dest, want)
	if err != nil {
		return fmt.Errorf("checking %s: %w", p.Name, err)
	}
	if size >= 0 {
		meter.add(size)
		return nil
	}
	roots := []string{opts.Mirror, opts.Archive}
	if p.Kind == cuda12.NPM {
		roots = []string{opts.NPMRegistry}
	}
	var gone []error
	for _, root := range roots {
		_, err = download.Into(ctx, root+"/"+p.Path, dest, want, download.Options{
			Client: opts.Client, FirstWait: opts.firstWait, Stall: opts.stall, Progress: meter.add,
		})
		var missing *download.GoneError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &missing):
			err = &GoneError{Name: p.Name, Version: p.Version, URL: missing.URL}
		default:
			err = fmt.Errorf("fetching %s: %w", p.Name, err)
		}
		gone = append(gone, err)
		if missing == nil {
			break
		}
	}
	return errors.Join(gone...)
}
