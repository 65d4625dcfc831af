package farm

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"context"
	"crypto"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/waqasm86/llcuda-farm/ci/internal/download"
	"github.com/waqasm86/llcuda-farm/matrix"
)

const (
	defaultRegistry = "https://registry.npmjs.org"
	// maxPackageBytes bounds a download and what is unpacked from it; the
	// package is 35 MB.
	maxPackageBytes = 1 << 30
)

// npmPackage takes the pin's tree from the git bundle inside its npm package.
// The registry is npm's own setting, else npm's default.
func (r resolver) npmPackage(ctx context.Context, pin matrix.LlamaPin) (origin, error) {
	where, err := packageURL(pin.NPMPackage)
	if err != nil {
		return origin{}, err
	}
	stage, remove, err := r.cache.stage()
	if err != nil {
		return origin{}, err
	}
	defer remove()
	file := filepath.Join(stage, "package.tgz")
	r.progress("downloading " + where.Redacted())
	_, err = download.Into(ctx, where.String(), file, download.Want{
		Max: maxPackageBytes, Hash: crypto.SHA512, Encode: integrity, Sum: pin.NPMIntegrity,
	}, download.Options{})
	var wrong *download.DigestError
	switch {
	case errors.As(err, &wrong):
		return origin{}, fmt.Errorf("downloading %s: the npm package %s has integrity %s instead of the pinned %s",
			wrong.URL, pin.NPMPackage, wrong.Got, wrong.Want)
	case err != nil:
		return origin{}, fmt.Errorf("downloading the npm package %s: %w", pin.NPMPackage, err)
	}
	bundle := filepath.Join(stage, "source.bundle")
	if err := memberOf(file, pin.BundlePath, bundle); err != nil {
		return origin{}, fmt.Errorf("unpacking the npm package %s: %w", pin.NPMPackage, err)
	}
	return r.bundle(ctx, bundle, pin.Commit)
}

// integrity writes a digest as npm does.
func integrity(sha512 []byte) string { return "sha512-" + base64.StdEncoding.EncodeToString(sha512) }

// packageURL is where every npm registry keeps NAME@VERSION.
func packageURL(spec string) (*url.URL, error) {
	at := strings.LastIndexByte(spec, '@')
	if at <= 0 {
		return nil, fmt.Errorf("the npm package %q is not NAME@VERSION", spec)
	}
	name, version := spec[:at], spec[at+1:]
	registry := cmp.Or(os.Getenv("npm_config_registry"), os.Getenv("NPM_CONFIG_REGISTRY"), defaultRegistry)
	root, err := url.Parse(registry)
	if err != nil {
		return nil, fmt.Errorf("reading the npm registry's address: %w", err)
	}
	return root.JoinPath(name, "-", path.Base(name)+"-"+version+".tgz"), nil
}

// memberOf copies one file out of a .tar.gz.
func memberOf(archive, name, to string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for reader := tar.NewReader(z); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("it holds no %s", name)
		}
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg || path.Clean(header.Name) != path.Clean(name) {
			continue
		}
		if header.Size > maxPackageBytes {
			return fmt.Errorf("%s is larger than %d bytes", name, maxPackageBytes)
		}
		out, err := os.Create(to)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, reader)
		return errors.Join(err, out.Close())
	}
}
