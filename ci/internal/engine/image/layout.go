package image

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// An OCI image layout in a tar file (the image specification's "OCI layout"): these two files, and
// every blob under its digest.
const (
	layoutFile    = "oci-layout"
	layoutVersion = `{"imageLayoutVersion":"1.0.0"}`
	indexFile     = "index.json"
)

// fileLayer is an uncompressed layer in a file. The base stays uncompressed: it travels within one
// machine, and its digest then depends on no compressor.
type fileLayer struct {
	path   string
	digest v1.Hash
	size   int64
}

func newFileLayer(path string) (*fileLayer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	digest, size, err := v1.SHA256(f)
	if err != nil {
		return nil, err
	}
	return &fileLayer{path: path, digest: digest, size: size}, nil
}

func (l *fileLayer) Digest() (v1.Hash, error)             { return l.digest, nil }
func (l *fileLayer) DiffID() (v1.Hash, error)             { return l.digest, nil }
func (l *fileLayer) Compressed() (io.ReadCloser, error)   { return os.Open(l.path) }
func (l *fileLayer) Uncompressed() (io.ReadCloser, error) { return os.Open(l.path) }
func (l *fileLayer) Size() (int64, error)                 { return l.size, nil }
func (l *fileLayer) MediaType() (types.MediaType, error)  { return types.OCIUncompressedLayer, nil }

// baseImage is the image of one layer.
func baseImage(layer v1.Layer) (v1.Image, error) {
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.Append(image, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: v1.Time{Time: baseEpoch}, CreatedBy: "debian 12 from packages.lock"},
	})
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.Architecture, config.OS, config.Created = "amd64", "linux", v1.Time{Time: baseEpoch}
	config.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	config.Config.Cmd = []string{"bash"}
	return mutate.ConfigFile(image, config)
}

// writeLayout writes the image whose only layer is the tar file layer to dest, and returns the
// image's digest.
func writeLayout(layer, dest string) (string, error) {
	content, err := newFileLayer(layer)
	if err != nil {
		return "", fmt.Errorf("hashing %s: %w", layer, err)
	}
	image, err := baseImage(content)
	if err != nil {
		return "", fmt.Errorf("describing the image: %w", err)
	}
	manifest, err := image.RawManifest()
	if err != nil {
		return "", fmt.Errorf("describing the image: %w", err)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return "", fmt.Errorf("describing the image: %w", err)
	}
	digest, err := image.Digest()
	if err != nil {
		return "", fmt.Errorf("describing the image: %w", err)
	}
	index, err := json.Marshal(v1.IndexManifest{
		SchemaVersion: 2,
		MediaType:     types.OCIImageIndex,
		Manifests: []v1.Descriptor{{
			MediaType: types.OCIManifestSchema1, Size: int64(len(manifest)), Digest: digest,
			Platform: &v1.Platform{Architecture: "amd64", OS: "linux"},
		}},
	})
	if err != nil {
		return "", fmt.Errorf("describing the image: %w", err)
	}

	temp, err := os.CreateTemp(filepath.Dir(dest), workPrefix+"*")
	if err != nil {
		return "", err
	}
	defer os.Remove(temp.Name()) // fails once it is renamed
	defer temp.Close()
	out := tar.NewWriter(temp)
	header := func(name string, size int64) error {
		return out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: baseEpoch, Format: tar.FormatPAX})
	}
	// The index comes first: a caller that only wants the digest reads no layer.
	for _, small := range []struct {
		name    string
		content []byte
	}{
		{layoutFile, []byte(layoutVersion)},
		{indexFile, index},
		{blob(manifest), manifest},
		{blob(config), config},
	} {
		if err := header(small.name, int64(len(small.content))); err != nil {
			return "", err
		}
		if _, err := out.Write(small.content); err != nil {
			return "", err
		}
	}
	if err := header("blobs/sha256/"+content.digest.Hex, content.size); err != nil {
		return "", err
	}
	in, err := content.Uncompressed()
	if err != nil {
		return "", err
	}
	defer in.Close()
	if _, err := io.Copy(out, in); err != nil {
		return "", err
	}
	if err := out.Close(); err != nil {
		return "", err
	}
	if err := temp.Chmod(0o644); err != nil {
		return "", err
	}
	if err := temp.Sync(); err != nil {
		return "", err
	}
	return digest.String(), os.Rename(temp.Name(), dest)
}

func blob(content []byte) string {
	sum := sha256.Sum256(content)
	return "blobs/sha256/" + hex.EncodeToString(sum[:])
}

// readLayoutDigest reads the image's digest from a file written by writeLayout.
func readLayoutDigest(tarball string) (string, error) {
	f, err := os.Open(tarball)
	if err != nil {
		return "", err
	}
	defer f.Close()
	in := tar.NewReader(f)
	for {
		h, err := in.Next()
		if err != nil {
			return "", fmt.Errorf("looking for %s: %w", indexFile, err)
		}
		if h.Name != indexFile {
			continue
		}
		index, err := v1.ParseIndexManifest(in)
		if err != nil {
			return "", err
		}
		if len(index.Manifests) != 1 {
			return "", fmt.Errorf("%s names %d images, want one", indexFile, len(index.Manifests))
		}
		return index.Manifests[0].Digest.String(), nil
	}
}
