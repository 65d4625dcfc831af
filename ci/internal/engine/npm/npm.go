// Package npm downloads what a package-lock.json names to this machine, so that `npm ci --offline` can
// install it without a network.
//
// The engine's host step calls it before the web UI's stage. Given the bytes of the lock file and a
// cache folder, Fetch returns a folder to mount in the stage, which holds the lock file and an npm
// cache with every tarball that npm will ask for:
//
//	package-lock.json
//	_cacache/content-v2/sha512/<2>/<2>/<124 hex digits>
//
// npm looks a tarball up in its cache by the lock's integrity before it thinks of a registry, so
// the lock stays as it is; only what npm would have to ask a registry for (`resolved`, which some
// configurations leave out) is filled in.
//
// Downloads are transfer's: they resume after an interruption, and honor the proxy variables and
// SSL_CERT_FILE. A tarball gets its name in the cache when its bytes have the lock's SHA-512, and
// is hashed again when its file has changed since (filestamp). Tarballs are kept forever, the folder of a lock for 30 days after its
// last use. The package runs neither npm nor a package's script, never trusts a name or a size, and
// never prints.
package npm

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waqasm86/llcuda-farm/ci/internal/filestamp"
	"github.com/waqasm86/llcuda-farm/docker/mirror"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
)

const (
	concurrency = 15 // connections that npm itself opens to one registry

	// keepLocks is how long a lock's folder is kept after its last use. It holds links to the
	// tarballs, or copies of them if links are not supported.
	keepLocks = 30 * 24 * time.Hour

	// contentDir is where npm's cache keeps tarballs by digest; every npm since version 5 does.
	contentDir = "_cacache/content-v2/sha512"
)

// Options are Fetch's options; the zero value fetches from where the lock says.
type Options struct {
	Registry    string // asked in place of registry.npmjs.org, as npm does with its `registry` option
	Concurrency int    // tarballs downloaded at once
	// Transfer downloads. The zero value will do.
	Transfer transfer.Client
	// Progress is called with the tarballs that have arrived, out of all that are needed. Calls do not overlap.
	Progress func(measure.Progress)
}

// OptionsFromEnv takes the registry from npm's own variable.
func OptionsFromEnv(getenv func(string) string) Options {
	return Options{Registry: mirror.NPMFromEnv(getenv)}
}

// Packages is what a lock names, ready to be mounted.
type Packages struct {
	Dir        string // the folder to mount: a lock file and an npm cache
	Tarballs   int    // in the folder
	Bytes      int64  // of all tarballs
	Downloaded int    // tarballs that were not in the cache
}

// An UnreachableError is a registry that did not answer, or not with a tarball, however often it
// was asked.
type UnreachableError struct {
	Registry       string
	Missing, Total int    // tarballs
	Cache          string // the folder they are missing in
	Err            error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("fetching npm packages: %d of %d tarballs are not in the cache, and %s does not serve them: %v",
		e.Missing, e.Total, e.Registry, e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// Hint is the way out.
func (e *UnreachableError) Hint() string {
	return "set npm_config_registry to a mirror, HTTPS_PROXY to a proxy, SSL_CERT_FILE to the certificates to trust; " +
		"or copy " + e.Cache + " from a machine where the build worked: what is there is not asked for"
}

// A GoneError is a tarball of the lock that the registry does not have.
type GoneError struct{ Package, URL string }

func (e *GoneError) Error() string {
	return fmt.Sprintf("fetching npm package %s: the registry does not have %s", e.Package, e.URL)
}

// Hint is the way out.
func (e *GoneError) Hint() string {
	return "set npm_config_registry to a registry that has it, or build a llama.cpp whose package-lock.json names a version that exists"
}

// Check returns an error if a lock cannot be fetched. It uses no network.
func Check(lockfile []byte) error {
	_, _, err := parseLock(lockfile)
	return err
}

// Fetch downloads into cacheDir every tarball that npm needs on linux, x64, glibc to install the lock,
// and lays out the folder for this lock there. A second run needs no network.
func Fetch(ctx context.Context, lockfile []byte, cacheDir string, opts Options) (Packages, error) {
	if opts.Registry != "" {
		if u, err := url.Parse(opts.Registry); err != nil || !isFetchable(u) {
			return Packages{}, fmt.Errorf("fetching npm packages: the registry %q is not an http or https address", opts.Registry)
		}
	}
	tarballs, lockfile, err := parseLock(lockfile)
	if err != nil {
		return Packages{}, err
	}
	store := filepath.Join(cacheDir, "npm", "tarballs")
	digest := sha256.Sum256(lockfile)
	packages := Packages{
		Dir:      filepath.Join(cacheDir, "npm", "locks", hex.EncodeToString(digest[:])),
		Tarballs: len(tarballs),
	}
	if err := os.MkdirAll(store, 0o755); err != nil {
		return Packages{}, fmt.Errorf("making the cache of npm packages: %w", err)
	}
	transfer.RemoveStale(store)

	sizes, err := hashAll(ctx, tarballs, store)
	if err != nil {
		return Packages{}, err
	}
	var missing []int
	for i, size := range sizes {
		if size < 0 {
			missing = append(missing, i)
		}
	}
	packages.Downloaded = len(missing)
	if err := downloadAll(ctx, tarballs, missing, sizes, store, opts); err != nil {
		return Packages{}, err
	}
	for _, size := range sizes {
		packages.Bytes += size
	}
	if err := layOut(packages.Dir, lockfile, tarballs, store); err != nil {
		return Packages{}, fmt.Errorf("laying out npm packages: %w", err)
	}
	removeUnused(packages.Dir)
	return packages, nil
}

// hashAll returns the sizes of the tarballs that are in the store, and -1 for one that is not there
// or is damaged.
func hashAll(ctx context.Context, tarballs []tarball, store string) ([]int64, error) {
	checked := filestamp.OpenRecord(filepath.Join(filepath.Dir(store), "checked.json"))
	sizes := make([]int64, len(tarballs))
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.SetLimit(runtime.NumCPU())
	for i, t := range tarballs {
		tasks.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			var err error
			sizes[i], err = t.sizeIn(store, checked)
			return err
		})
	}
	if err := tasks.Wait(); err != nil {
		return nil, err
	}
	if err := checked.Save(); err != nil {
		return nil, fmt.Errorf("noting which npm packages are right: %w", err)
	}
	return sizes, nil
}

// downloadAll downloads the missing ones of tarballs, by index, and records their sizes.
func downloadAll(ctx context.Context, tarballs []tarball, missing []int, sizes []int64, store string, opts Options) error {
	var mu sync.Mutex
	left := len(missing)
	report := func(arrived int) {
		mu.Lock()
		defer mu.Unlock()
		left -= arrived
		if opts.Progress != nil {
			opts.Progress(measure.Progress{Done: int64(len(tarballs) - left), Total: int64(len(tarballs))})
		}
	}
	report(0)
	tasks, tasksCtx := errgroup.WithContext(ctx)
	tasks.SetLimit(cmp.Or(opts.Concurrency, concurrency))
	for _, i := range missing {
		tasks.Go(func() error {
			var err error
			sizes[i], err = tarballs[i].fetch(tasksCtx, store, opts)
			if err == nil {
				report(1)
			}
			return err
		})
	}
	err := tasks.Wait()
	if unreachable, ok := errors.AsType[*UnreachableError](err); ok {
		unreachable.Missing, unreachable.Total, unreachable.Cache = left, len(tarballs), store
	}
	return err
}

// layOut fills the folder for one lock. Its name is the lock's digest, so a folder that an
// interrupted run left is completed, and two runs at once do each other no harm.
func layOut(dir string, lockfile []byte, tarballs []tarball, store string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	now := time.Now()
	if err := os.Chtimes(dir, now, now); err != nil { // in use: see removeUnused
		return err
	}
	for _, t := range tarballs {
		name := hex.EncodeToString(t.sha512[:])
		dest := filepath.Join(dir, contentDir, name[:2], name[2:4], name[4:])
		if err := os.MkdirAll(filepath.Dir(dest), 0o755); err != nil {
			return err
		}
		if err := place(t.file(store), dest, store); err != nil {
			return err
		}
	}
	return writeNew(filepath.Join(dir, "package-lock.json"), store, func(w io.Writer) error {
		_, err := w.Write(lockfile)
		return err
	})
}

// removeUnused removes the folders of locks that were not used for long, next to the one in use.
// A folder that cannot be removed does no harm, and the next run tries again.
func removeUnused(used string) {
	locks := filepath.Dir(used)
	folders, err := os.ReadDir(locks)
	if err != nil {
		return
	}
	for _, folder := range folders {
		if folder.Name() == filepath.Base(used) {
			continue
		}
		if info, err := folder.Info(); err == nil && time.Since(info.ModTime()) > keepLocks {
			os.RemoveAll(filepath.Join(locks, folder.Name()))
		}
	}
}

// place makes dest the same file as source, or a copy where the file system has no hard links.
func place(source, dest, tempDir string) error {
	want, err := os.Stat(source)
	if err != nil {
		return err
	}
	if have, err := os.Lstat(dest); err == nil {
		if os.SameFile(want, have) {
			return nil
		}
		if err := os.Remove(dest); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := os.Link(source, dest); err == nil || errors.Is(err, os.ErrExist) {
		return nil
	}
	return writeNew(dest, tempDir, func(w io.Writer) error {
		from, err := os.Open(source)
		if err != nil {
			return err
		}
		defer from.Close()
		_, err = io.Copy(w, from)
		return err
	})
}

// writeNew writes a file that has its name once it is whole and on disk. Until then it is in
// tempDir, of the same file system, under a name that transfer.RemoveStale removes if this run is
// killed.
func writeNew(dest, tempDir string, write func(io.Writer) error) error {
	temp, err := os.CreateTemp(tempDir, "*.partial")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // fails once it is renamed
	defer temp.Close()
	if err := write(temp); err != nil {
		return err
	}
	if err := errors.Join(temp.Chmod(0o644), temp.Sync()); err != nil {
		return err
	}
	return os.Rename(temp.Name(), dest)
}
