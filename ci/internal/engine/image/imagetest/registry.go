// Package imagetest serves image registries to tests.
package imagetest

import (
	"archive/tar"
	"io"
	"log"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Registry is a real image registry on 127.0.0.1, for the length of a test.
type Registry struct {
	Host   string // 127.0.0.1:port, the first part of a reference
	server *httptest.Server
}

// NewRegistry starts an empty registry.
func NewRegistry(t testing.TB) *Registry {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	address, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return &Registry{Host: address.Host, server: server}
}

// Close ends the registry before the test ends.
func (r *Registry) Close() { r.server.Close() }

// PushRandom gives an image of random bytes the name repository:tag, and returns the reference to it.
// It takes the tag from an image pushed before.
func (r *Registry) PushRandom(t testing.TB, repositoryTag string) (ref string) {
	t.Helper()
	tag, err := name.NewTag(r.Host + "/" + repositoryTag)
	if err != nil {
		t.Fatal(err)
	}
	const layerBytes = 64
	image, err := random.Image(layerBytes, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, image, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	return tag.String()
}

// Push gives the image of an OCI layout tarball the name repository:tag, and
// returns the reference to it and its digest. It takes the tag from an image
// pushed before.
func (r *Registry) Push(t testing.TB, tarball, repositoryTag string) (ref, digest string) {
	t.Helper()
	dir := unpack(t, tarball)
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 {
		t.Fatalf("%s has %d images, want one", tarball, len(manifest.Manifests))
	}
	image, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	ref = r.Host + "/" + repositoryTag
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, image, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	return ref, manifest.Manifests[0].Digest.String()
}

// unpack lays an OCI layout tarball out as a folder.
func unpack(t testing.TB, tarball string) string {
	t.Helper()
	f, err := os.Open(tarball)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := t.TempDir()
	in := tar.NewReader(f)
	for {
		h, err := in.Next()
		if err == io.EOF {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		if !filepath.IsLocal(h.Name) {
			t.Fatalf("%s holds %q", tarball, h.Name)
		}
		path := filepath.Join(dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		out, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(out, in); err != nil {
			t.Fatal(err)
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
