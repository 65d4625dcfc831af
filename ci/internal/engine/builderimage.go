package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"dagger.io/dagger"

	"github.com/waqasm86/llcuda-farm/ci/internal/engine/image"
	"github.com/waqasm86/llcuda-farm/docker/cuda12"
	"github.com/waqasm86/llcuda-farm/docker/cuda13"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// Image is the builder image: its parts on this machine, and what bundles record of it.
type Image struct {
	Base   string // "debian:bookworm-slim@sha256:…", or "made@sha256:…" for one made here
	Digest string // "sha256:…" over the base, the install script and the lock

	archive string      // the base as an OCI archive, if it was made here
	files   string      // a folder with the locked packages, each under its SHA-256
	lock    cuda12.Lock // the image's whole lock, of which the base has its own
}

// BaseMade is the base that is made here from Debian's packages.
const BaseMade = "made"

// prepareImage fetches what a toolkit's builder image is made of into cacheDir. The base is the given
// registry reference (NAME:TAG, resolved to a digest, or NAME:TAG@DIGEST), or BaseMade. Empty
// means the reference in docker/cuda12/base.lock, or BaseMade if no registry answers.
func prepareImage(ctx context.Context, toolkit, base, cacheDir string, progress func(measure.Progress)) (Image, error) {
	lock, err := lockOf(toolkit)
	if err != nil {
		return Image{}, err
	}
	fetch := image.MirrorsFromEnv(os.Getenv)
	fetch.Progress = progress
	if err := image.Fetch(ctx, lock, cacheDir, fetch); err != nil {
		return Image{}, fmt.Errorf("fetching the packages of the builder of %s: %w", toolkit, err)
	}
	prepared := Image{files: image.FilesDir(cacheDir), lock: lock}
	var digest string
	resolved, err := resolveBase(ctx, base)
	switch {
	case errors.Is(err, errMakeBase):
		made, err := image.MakeBase(ctx, lock, cacheDir)
		if err != nil {
			return Image{}, err
		}
		prepared.archive, prepared.Base, digest = made.Tarball, BaseMade+"@"+made.Digest, made.Digest
	case err != nil:
		return Image{}, err
	default:
		prepared.Base, digest = resolved.Reference, resolved.Digest
	}
	prepared.Digest = image.Digest(digest, lock, cuda12.InstallScript)
	return prepared, nil
}

// ToDownload returns how many bytes of the packages of the toolkits' builder images are not in cacheDir yet.
func ToDownload(toolkits []matrix.Toolkit, cacheDir string) (int64, error) {
	var bytes int64
	counted := map[string]bool{} // by SHA-256: images share packages
	for _, toolkit := range toolkits {
		lock, err := lockOf(toolkit.Name)
		if err != nil {
			return 0, err
		}
		for _, p := range lock {
			stat, err := os.Stat(filepath.Join(image.FilesDir(cacheDir), p.SHA256))
			if isThere := err == nil && stat.Size() == p.Size; !isThere && !counted[p.SHA256] {
				counted[p.SHA256] = true
				bytes += p.Size
			}
		}
	}
	return bytes, nil
}

// lockOf is the lock of a toolkit's builder image.
func lockOf(toolkit string) (cuda12.Lock, error) {
	locks := map[string]func() (cuda12.Lock, error){"cuda12": cuda12.DefaultLock, "cuda13": cuda13.DefaultLock}
	if locks[toolkit] == nil {
		return nil, fmt.Errorf("preparing the builder image: docker has none for the toolkit %s", toolkit)
	}
	return locks[toolkit]()
}

// imageOn names the image that a toolkit's builder is on a base, as Image.Base names it, and fetches nothing.
func imageOn(base, toolkit string) (Image, error) {
	lock, err := lockOf(toolkit)
	if err != nil {
		return Image{}, err
	}
	_, digest, _ := strings.Cut(base, "@")
	return Image{Base: base, Digest: image.Digest(digest, lock, cuda12.InstallScript)}, nil
}

// errMakeBase says that the base is to be made here.
var errMakeBase = errors.New("the base is made here")

func resolveBase(ctx context.Context, base string) (image.Resolved, error) {
	if base == BaseMade {
		return image.Resolved{}, errMakeBase
	}
	if base != "" {
		return image.ResolveBase(ctx, base, nil)
	}
	ref, err := cuda12.BaseImage()
	if err != nil {
		return image.Resolved{}, err
	}
	resolved, err := image.ResolveBase(ctx, ref, nil)
	if errors.Is(err, image.ErrNoRegistry) {
		return image.Resolved{}, errMakeBase
	}
	return resolved, err
}

// container is the image on one engine: the base, and the install script run over it. It uses
// no network: the packages come with the session, and the engine keeps them.
func (i Image) container(client *dagger.Client) *dagger.Container {
	base, lock := client.Container(), i.lock
	if i.archive != "" {
		base = base.Import(client.Host().File(i.archive))
		lock = lock.Without(cuda12.Base) // they are in it
	} else {
		base = base.From(i.Base)
	}
	var files []string
	for _, p := range lock {
		files = append(files, p.SHA256)
	}
	script := client.Directory().
		WithNewFile("install.sh", string(cuda12.InstallScript)).
		WithNewFile("packages.lock", string(i.lock.Encode()))
	return base.
		WithMountedDirectory("/install", script).
		WithMountedDirectory("/files", client.Host().Directory(i.files, dagger.HostDirectoryOpts{Include: files})).
		WithExec(append(noNetwork, "bash", "/install/install.sh", "/install/packages.lock", "/files"),
			dagger.ContainerWithExecOpts{InsecureRootCapabilities: true}).
		WithoutMount("/files").
		WithoutMount("/install")
}
