package npm

import (
	"context"
	"crypto"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/waqasm86/llcuda-farm/ci/internal/download"
)

// maxTarball ends a download that would fill the disk. The largest packages of the public
// registry have a few hundred MB.
const maxTarball = 1 << 30

// file is the tarball's place in the store.
func (t tarball) file(store string) string {
	return filepath.Join(store, hex.EncodeToString(t.sha512[:])+".tgz")
}

// want is what the lock says of the tarball.
func (t tarball) want() download.Want {
	encode := base64.StdEncoding.EncodeToString
	return download.Want{Max: maxTarball, Hash: crypto.SHA512, Encode: encode, Sum: encode(t.sha512[:])}
}

// sizeIn is the tarball's size in the store, or -1 if its bytes are not there.
func (t tarball) sizeIn(store string) (int64, error) {
	size, err := download.Size(t.file(store), t.want())
	if err != nil {
		return -1, fmt.Errorf("checking npm package %s: %w", t.name, err)
	}
	return size, nil
}

// address is where the tarball is asked for. As with npm, a registry that is set stands for
// the public one and for no other.
func (t tarball) address(registry string) string {
	path, public := strings.CutPrefix(t.url, publicRegistry+"/")
	if registry == "" || !public {
		return t.url
	}
	return strings.TrimRight(registry, "/") + "/" + path
}

// fetch brings the tarball into the store and gives its size.
func (t tarball) fetch(ctx context.Context, store string, opts Options) (int64, error) {
	size, err := download.Into(ctx, t.address(opts.Registry), t.file(store), t.want(), download.Options{
		Client: opts.Client, FirstWait: opts.firstWait, Stall: opts.stall,
	})
	var gone *download.GoneError
	switch {
	case errors.As(err, &gone):
		return 0, &GoneError{Package: t.name, URL: gone.URL}
	case err != nil:
		return 0, fmt.Errorf("fetching npm package %s: %w", t.name, err)
	}
	return size, nil
}
