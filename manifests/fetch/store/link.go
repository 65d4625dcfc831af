package store

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
)

// cudaLink is the link in a bundle's folder that leads to a set of CUDA libraries. The links in its lib folder lead through
// it and never change; so all libraries change at once, and no program finds one of two sets.
const cudaLink = "cuda"

// linkRuntime makes a bundle's lib folder lead to the libraries of these names, whatever they are. Where the bundle takes
// the place of another one, it begins with the libraries of that one.
func linkRuntime(bundle, replaces string, names []string) error {
	for _, name := range names {
		if err := os.Symlink(filepath.Join("..", cudaLink, name), filepath.Join(bundle, launch.LibrariesDir, name)); err != nil {
			return err // a library of the bundle's own has this name
		}
	}
	target, err := os.Readlink(filepath.Join(replaces, cudaLink))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Symlink(target, filepath.Join(bundle, cudaLink))
}

// isOurs says whether a file beside a bundle's own is one that linkRuntime or Link made.
func isOurs(f manifests.File, names []string) bool {
	if f.Path == cudaLink {
		return strings.HasPrefix(f.Link, linkTo(linksDir))
	}
	name := filepath.Base(f.Path)
	return slices.Contains(names, name) && f.Path == filepath.Join(launch.LibrariesDir, name) && f.Link == filepath.Join("..", cudaLink, name)
}

// linkTo is how a bundle's folder leads to a folder of the store.
func linkTo(dir string) string { return filepath.Join("..", "..", dir) }

// Link makes a bundle find these CUDA libraries, so that its programs run by themselves; none takes them away. It returns
// the folder of links, relative to the store, for the Install.
func (l *Locked) Link(bundle string, libraries []manifests.CUDALibrary) (string, error) {
	at := filepath.Join(bundle, cudaLink)
	if len(libraries) == 0 {
		err := os.Remove(at)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return "", err
	}
	links, err := l.links(libraries)
	if err != nil {
		return "", fmt.Errorf("linking the CUDA libraries: %w", err)
	}
	if target, err := os.Readlink(at); err == nil && target == linkTo(links) {
		return links, nil
	}
	beside := l.path(stagingDir, cudaLink)
	return links, errors.Join(os.Symlink(linkTo(links), beside), os.Rename(beside, at))
}

// links has a folder of links to libraries.
func (l *Locked) links(libraries []manifests.CUDALibrary) (string, error) {
	targets := make([]string, len(libraries))
	sum := sha256.New()
	for i, library := range libraries {
		targets[i] = library.Path
		// Relative inside the store, so that it can be moved as a whole.
		if inside, ok := strings.CutPrefix(library.Path, l.Home+string(filepath.Separator)); ok {
			targets[i] = linkTo(inside)
		}
		fmt.Fprintf(sum, "%s\x00%s\x00", library.Name, targets[i])
	}
	const digits = 12
	links := filepath.Join(linksDir, hex.EncodeToString(sum.Sum(nil))[:digits])
	if _, err := os.Stat(l.path(links)); err == nil {
		return links, nil
	}
	stage, err := os.MkdirTemp(l.path(stagingDir), "links-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(stage, 0o755); err != nil {
		return "", err
	}
	for i, library := range libraries {
		if err := os.Symlink(targets[i], filepath.Join(stage, library.Name)); err != nil {
			return "", err
		}
	}
	return links, os.Rename(stage, l.path(links))
}
