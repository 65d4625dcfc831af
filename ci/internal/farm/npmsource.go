package farm

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/waqasm86/llcuda-farm/docker/mirror"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// maxPackageBytes bounds a download and what is unpacked from it; the package is 35 MB.
const maxPackageBytes = 1 << 30

// npmPackage takes the pin's tree from the git bundle inside its npm package. The commit there may be another one, with the
// same tree, as ResolveSource checks.
func (r resolver) npmPackage(ctx context.Context, pin matrix.LlamaPin) (origin, error) {
	file, err := r.download(ctx, pin.NPMPackage, pin.NPMIntegrity)
	if err != nil {
		return origin{}, err
	}
	tree, err := r.packed(ctx, pin.NPMPackage, file, pin.BundlePath, cmp.Or(pin.NPMCommit, pin.Commit))
	tree.commit = pin.Commit
	return tree, err
}

// download brings a package to the cache and returns its file. The registry is npm's own setting, or npm's default.
func (r resolver) download(ctx context.Context, spec, integrity string) (file string, err error) {
	where, err := packageURL(spec)
	if err != nil {
		return "", err
	}
	sum, err := sha512Of(integrity)
	if err != nil {
		return "", fmt.Errorf("downloading the npm package %s: %w", spec, err)
	}
	file, err = r.cache.packagePath(sum)
	if err != nil {
		return "", err
	}
	r.progress("downloading " + where.Redacted())
	blob := transfer.Blob{Name: spec, Size: -1, Max: maxPackageBytes, SHA512: sum, URLs: []string{where.String()}}
	_, err = new(transfer.Client).Save(ctx, blob, file, nil)
	if wrong, ok := errors.AsType[*transfer.DigestError](err); ok {
		return "", fmt.Errorf("downloading %s: the npm package %s has integrity %s instead of the pinned %s",
			wrong.Mirror, spec, integrityOf(wrong.Got), integrity)
	}
	if err != nil {
		return "", fmt.Errorf("downloading the npm package %s: %w", spec, err)
	}
	return file, nil
}

// packed takes a tree from a git bundle inside a package.
func (r resolver) packed(ctx context.Context, spec, file, bundlePath, ref string) (origin, error) {
	stage, remove, err := r.cache.stage()
	if err != nil {
		return origin{}, err
	}
	defer remove()
	bundle := filepath.Join(stage, "source.bundle")
	if err := memberOf(file, bundlePath, bundle); err != nil {
		return origin{}, fmt.Errorf("unpacking the npm package %s: %w", spec, err)
	}
	return r.bundle(ctx, bundle, ref)
}

const integrityPrefix = "sha512-"

// sha512Of reads a digest as npm writes it, and returns it in hex.
func sha512Of(integrity string) (string, error) {
	text, ok := strings.CutPrefix(integrity, integrityPrefix)
	sum, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(sum) != sha512.Size {
		return "", fmt.Errorf("the pinned integrity %q is not a SHA-512", integrity)
	}
	return hex.EncodeToString(sum), nil
}

// integrityOf writes a digest as npm does.
func integrityOf(sum string) string {
	raw, _ := hex.DecodeString(sum) // the downloader wrote it
	return integrityPrefix + base64.StdEncoding.EncodeToString(raw)
}

// packageURL is where every npm registry keeps NAME@VERSION.
func packageURL(spec string) (*url.URL, error) {
	at := strings.LastIndexByte(spec, '@')
	if at <= 0 {
		return nil, fmt.Errorf("the npm package %q is not NAME@VERSION", spec)
	}
	name, version := spec[:at], spec[at+1:]
	root, err := url.Parse(mirror.NPMFromEnv(os.Getenv))
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
