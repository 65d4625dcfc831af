package image_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/waqasm86/llcuda-farm/ci/internal/engine/image"
	"github.com/waqasm86/llcuda-farm/ci/internal/engine/image/imagetest"
)

// layoutOf writes a base image whose root holds one file with the given content.
func layoutOf(t *testing.T, content string) string {
	t.Helper()
	dir := t.TempDir()
	layer := filepath.Join(dir, "layer.tar")
	if err := os.WriteFile(layer, image.TarOf(t, "etc/debian_version", content), 0o644); err != nil {
		t.Fatal(err)
	}
	tarball := filepath.Join(dir, "base.oci.tar")
	digest, err := image.WriteLayout(layer, tarball)
	if err != nil {
		t.Fatal(err)
	}
	read, err := image.ReadLayoutDigest(tarball)
	if err != nil {
		t.Fatal(err)
	}
	if read != digest {
		t.Fatalf("the layout's digest reads back as %s, was written as %s", read, digest)
	}
	return tarball
}

func TestResolveBase(t *testing.T) {
	registry := imagetest.NewRegistry(t)
	ref, first := registry.Push(t, layoutOf(t, "12.15"), "debian:bookworm-slim")

	byTag, err := image.ResolveBase(t.Context(), ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	if byTag.Digest != first || byTag.Reference != ref+"@"+first || byTag.Moved() {
		t.Errorf("the tag resolves to %+v, want %s", byTag, first)
	}
	pulled := pull(t, byTag)
	if pulled != first {
		t.Errorf("pulled %s, resolved %s", pulled, first)
	}

	// The tag moves. A pin still resolves to the first image and says so; the bare tag resolves to the second.
	_, second := registry.Push(t, layoutOf(t, "12.16"), "debian:bookworm-slim")
	if second == first {
		t.Fatal("two base images have one digest")
	}
	pinned, err := image.ResolveBase(t.Context(), ref+"@"+first, nil)
	if err != nil {
		t.Fatal(err)
	}
	if pinned.Digest != first || !pinned.Moved() || pinned.TagDigest != second {
		t.Errorf("the pin resolves to %+v, want %s and a moved tag", pinned, first)
	}
	if pulled := pull(t, pinned); pulled != first {
		t.Errorf("pulled %s, pinned %s", pulled, first)
	}
	if moved, err := image.ResolveBase(t.Context(), ref, nil); err != nil || moved.Digest != second {
		t.Errorf("the moved tag resolves to %+v, %v, want %s", moved, err, second)
	}
}

// pull fetches an image with all its layers by the resolved reference.
func pull(t *testing.T, resolved image.Resolved) string {
	t.Helper()
	ref, err := name.ParseReference(resolved.Reference)
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Image(ref, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	layers, err := pulled.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) != 1 {
		t.Fatalf("pulled an image of %d layers, want one", len(layers))
	}
	digest, err := pulled.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

func TestResolveBaseFaults(t *testing.T) {
	registry := imagetest.NewRegistry(t)
	ref, _ := registry.Push(t, layoutOf(t, "12.15"), "debian:bookworm-slim")
	gone := "sha256:" + strings.Repeat("0", 64)

	portal := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "log in to this network first", http.StatusForbidden)
	}))
	t.Cleanup(portal.Close)
	closed := imagetest.NewRegistry(t)
	closed.Close()

	for name, test := range map[string]struct {
		ref        string
		noRegistry bool
		words      string
	}{
		"nothing listens":       {closed.Host + "/debian:bookworm-slim", true, "connection refused"},
		"no registry behind it": {strings.TrimPrefix(portal.URL, "http://") + "/debian:bookworm-slim", true, "403"},
		"no such tag":           {registry.Host + "/debian:bookwurm", false, "debian:bookwurm"},
		"pinned image is gone":  {ref + "@" + gone, false, "looking for the pinned digest"},
		"pin is not a digest":   {ref + "@sha256:12", false, "resolving base image"},
		"no reference at all":   {"Debian Bookworm", false, "resolving base image"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := image.ResolveBase(t.Context(), test.ref, nil)
			if err == nil {
				t.Fatal("no error")
			}
			if got := errors.Is(err, image.ErrNoRegistry); got != test.noRegistry {
				t.Errorf("ErrNoRegistry is %v, want %v: %v", got, test.noRegistry, err)
			}
			if !strings.Contains(err.Error(), test.words) {
				t.Errorf("error %q lacks %q", err, test.words)
			}
		})
	}
}
