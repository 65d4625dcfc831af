package npm

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/waqasm86/llcuda-farm/ci/internal/filestamp"
	"github.com/waqasm86/llcuda-farm/docker/mirror"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
	"github.com/waqasm86/llcuda-farm/manifests/retry"
)

// maxTarball ends a download that would fill the disk. The largest packages of the public registry
// have a few hundred MB.
const maxTarball = 1 << 30

// file is the tarball's place in the store.
func (t tarball) file(store string) string {
	return filepath.Join(store, hex.EncodeToString(t.sha512[:])+".tgz")
}

// blob returns what the lock says about the tarball.
func (t tarball) blob() transfer.Blob {
	return transfer.Blob{Name: t.name, Size: -1, Max: maxTarball, SHA512: hex.EncodeToString(t.sha512[:])}
}

// sizeIn is the tarball's size in the store, or -1 if its bytes are not there.
func (t tarball) sizeIn(store string, checked *filestamp.Record) (int64, error) {
	file := t.file(store)
	right, err := checked.Check(file, func() (bool, error) {
		size, err := t.blob().SizeOf(file)
		return size >= 0, err
	})
	if err == nil && !right {
		return -1, nil
	}
	var info os.FileInfo
	if err == nil {
		info, err = os.Stat(file)
	}
	if err != nil {
		return -1, fmt.Errorf("checking npm package %s: %w", t.name, err)
	}
	return info.Size(), nil
}

// address is where the tarball is asked for. As with npm, a registry that is set stands for the
// public one and for no other.
func (t tarball) address(registry string) string {
	path, public := strings.CutPrefix(t.url, mirror.NPM+"/")
	if registry == "" || !public {
		return t.url
	}
	return strings.TrimRight(registry, "/") + "/" + path
}

// fetch downloads the tarball into the store and returns its size.
func (t tarball) fetch(ctx context.Context, store string, opts Options) (int64, error) {
	blob := t.blob()
	blob.URLs = []string{t.address(opts.Registry)}
	size, err := opts.Transfer.Save(ctx, blob, t.file(store), nil)
	if err == nil {
		return size, nil
	}
	if network, ok := errors.AsType[*transfer.NetworkError](err); ok && network.IsMissing() {
		status, _ := errors.AsType[*transfer.StatusError](err)
		return 0, &GoneError{Package: t.name, URL: status.URL}
	}
	if temporary, ok := errors.AsType[*retry.TemporaryError](err); ok {
		return 0, &UnreachableError{Registry: server(blob.URLs[0]), Err: temporary.Err}
	}
	if _, wrong := errors.AsType[*transfer.DigestError](err); wrong {
		integrity := "sha512-" + base64.StdEncoding.EncodeToString(t.sha512[:])
		return 0, fmt.Errorf("fetching npm package %s: the lock says %s: %w", t.name, integrity, err)
	}
	return 0, fmt.Errorf("fetching npm package %s: %w", t.name, err)
}

// server is the part of an address that a user can change: https://host:port, without a password.
func server(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}
