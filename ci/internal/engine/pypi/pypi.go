// Package pypi downloads what a lock of Python packages names to this machine, so that a stage
// without a network can use it.
//
// The engine's step for the Python package calls it. Given the text of the lock, in the form of
// pip's requirements with hashes, and a cache folder, Fetch returns the names of the wheels in that
// folder, each under its SHA-256. Only wheels for any platform count: none of their code runs on
// this machine.
//
// Downloads are transfer's: they resume after an interruption, and honor the proxy variables and
// SSL_CERT_FILE. A wheel gets its name when its bytes have one of the lock's digests, and is hashed
// again each time: a second run needs no network. The package does not run pip, never trusts a name
// or a size, and never prints.
package pypi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/docker/mirror"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
	"github.com/waqasm86/llcuda-farm/publisher/pypi"
)

// maxWheel ends a download that would fill the disk. What builds packages has less than a megabyte.
const maxWheel = 64 << 20

// Options are Fetch's options; the zero value fetches from the public index.
type Options struct {
	Index pypi.Index
}

// OptionsFromEnv takes the index from pip's own variable.
func OptionsFromEnv(getenv func(string) string) Options {
	return Options{Index: pypi.Index{URL: mirror.PyPIFromEnv(getenv)}}
}

// Packages is what a lock names.
type Packages struct {
	Dir        string   // the folder that the wheels are in, among others
	Names      []string // their names there
	Downloaded int      // wheels that were not in the cache
}

// An UnreachableError reports an index that did not deliver a package.
type UnreachableError struct {
	Package, Cache string
	Err            error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("fetching the Python package %s: %v", e.Package, e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// Hint is the way out.
func (e *UnreachableError) Hint() string {
	return "set PIP_INDEX_URL to a mirror, HTTPS_PROXY to a proxy, SSL_CERT_FILE to the certificates to trust; " +
		"or copy " + e.Cache + " from a machine where it worked: what is there is not asked for"
}

// A requirement is one package of a lock.
type requirement struct {
	name, version string
	sums          []string
}

var requirementForm = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.!+_-]+)((?:\s+--hash=sha256:[0-9a-f]{64})+)$`)

func parseLock(text []byte) ([]requirement, error) {
	var all []requirement
	for line := range strings.Lines(strings.ReplaceAll(string(text), "\\\n", " ")) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		match := requirementForm.FindStringSubmatch(line)
		if match == nil {
			return nil, fmt.Errorf("reading the lock of Python packages: want NAME==VERSION --hash=sha256:… and not %q", line)
		}
		r := requirement{name: match[1], version: match[2]}
		for hash := range strings.FieldsSeq(match[3]) {
			r.sums = append(r.sums, strings.TrimPrefix(hash, "--hash=sha256:"))
		}
		all = append(all, r)
	}
	if len(all) == 0 {
		return nil, errors.New("reading the lock of Python packages: there is none in it")
	}
	return all, nil
}

// Fetch downloads every package of the lock into cacheDir.
func Fetch(ctx context.Context, lock []byte, cacheDir string, opts Options) (Packages, error) {
	requirements, err := parseLock(lock)
	if err != nil {
		return Packages{}, err
	}
	packages := Packages{Dir: filepath.Join(cacheDir, "pypi")}
	if err := os.MkdirAll(packages.Dir, 0o755); err != nil {
		return Packages{}, fmt.Errorf("making the cache of Python packages: %w", err)
	}
	transfer.RemoveStale(packages.Dir)
	opts.Index.URL = cmp.Or(opts.Index.URL, mirror.PyPI)
	for _, r := range requirements {
		name, err := r.findCached(packages.Dir)
		if err == nil && name == "" {
			packages.Downloaded++
			name, err = r.fetch(ctx, packages.Dir, opts)
		}
		if err != nil {
			return Packages{}, err
		}
		packages.Names = append(packages.Names, name)
	}
	return packages, nil
}

func fileName(sum string) string { return sum + ".whl" }

func (r requirement) blob(sum string) transfer.Blob {
	return transfer.Blob{Name: r.name + " " + r.version, Size: -1, Max: maxWheel, SHA256: sum}
}

// findCached returns the name of the wheel in the folder; empty if it is not there.
func (r requirement) findCached(dir string) (string, error) {
	for _, sum := range r.sums {
		switch size, err := r.blob(sum).SizeOf(filepath.Join(dir, fileName(sum))); {
		case err != nil:
			return "", fmt.Errorf("checking the Python package %s: %w", r.name, err)
		case size >= 0:
			return fileName(sum), nil
		}
	}
	return "", nil
}

func (r requirement) fetch(ctx context.Context, dir string, opts Options) (string, error) {
	fail := func(err error) (string, error) {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return "", &UnreachableError{r.name + " " + r.version, dir, err}
	}
	files, err := opts.Index.Files(ctx, r.name)
	if err != nil {
		return fail(err)
	}
	prefix := strings.ReplaceAll(pypi.Normal(r.name), "-", "_") + "-" + r.version + "-"
	at := slices.IndexFunc(files, func(f pypi.File) bool {
		return strings.HasPrefix(strings.ToLower(f.Name), prefix) && strings.HasSuffix(f.Name, "-none-any.whl") && (f.SHA256 == "" || slices.Contains(r.sums, f.SHA256))
	})
	if at < 0 {
		return fail(fmt.Errorf("%s has no wheel of it, for any platform, with a digest of the lock", opts.Index.URL))
	}
	sum := files[at].SHA256
	if sum == "" && len(r.sums) == 1 {
		sum = r.sums[0]
	}
	if sum == "" {
		return fail(fmt.Errorf("%s does not tell the SHA-256 of %s", opts.Index.URL, files[at].Name))
	}
	blob := r.blob(sum)
	blob.URLs = []string{files[at].URL}
	client := transfer.Client{HTTP: opts.Index.Client, FirstWait: opts.Index.FirstWait}
	if _, err := client.Save(ctx, blob, filepath.Join(dir, fileName(sum)), nil); err != nil {
		return fail(err)
	}
	return fileName(sum), nil
}
