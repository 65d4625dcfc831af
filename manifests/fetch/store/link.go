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

// cudaLink is the link in a bundle's folder that leads to a set of CUDA libraries. The links in its
// lib folder lead through it and never change; so all libraries change at once, and no program
// finds one of two sets.
const cudaLink = "cuda"

// linkRuntime makes a bundle's lib folder lead to the libraries of these names, whatever they are.
// Where the bundle takes the place of another one, it begins with the libraries of that one.
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

// isOurs reports whether a file beside a bundle's own is one that linkRuntime or Link made.
func isOurs(f manifests.File, names []string) bool {
	if f.Path == cudaLink {
		return strings.HasPrefix(f.Link, linkTo(linksDir))
	}
	name := filepath.Base(f.Path)
	return slices.Contains(names, name) && f.Path == filepath.Join(launch.LibrariesDir, name) && f.Link == filepath.Join("..", cudaLink, name)
}

// linkTo is how a bundle's folder leads to a folder of the store.
func linkTo(dir string) string { return filepath.Join("..", "..", dir) }

// Link makes a bundle find these CUDA libraries, so that its programs run by themselves; with no
// libraries, it removes the link to the earlier ones. It returns the folder of links, relative to
// the store, for the Install.
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
	return links, l.relink(linkTo(links), at)
}

// target is what a link in a folder of links to CUDA libraries leads to. The path of a library in
// the store is relative to it, so that it can be moved as a whole.
func target(library manifests.CUDALibrary) string {
	if filepath.IsAbs(library.Path) {
		return library.Path
	}
	return linkTo(library.Path)
}

// links has a folder of links to libraries.
func (l *Locked) links(libraries []manifests.CUDALibrary) (string, error) {
	sum := sha256.New()
	for _, library := range libraries {
		fmt.Fprintf(sum, "%s\x00%s\x00", library.Name, target(library))
	}
	const digits = 12
	links := filepath.Join(linksDir, hex.EncodeToString(sum.Sum(nil))[:digits])
	if l.leadsTo(links, libraries) {
		return links, nil
	}
	stage, err := os.MkdirTemp(l.path(stagingDir), "links-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(stage, 0o755); err != nil {
		return "", err
	}
	for _, library := range libraries {
		if err := os.Symlink(target(library), filepath.Join(stage, library.Name)); err != nil {
			return "", err
		}
	}
	return links, l.put(stage, l.path(links))
}

// leadsTo reports whether a folder of links leads to these libraries and no other.
func (s *Store) leadsTo(links string, libraries []manifests.CUDALibrary) bool {
	entries, err := os.ReadDir(s.path(links))
	if err != nil || len(entries) != len(libraries) {
		return false
	}
	for _, library := range libraries {
		if leads, err := os.Readlink(s.path(links, library.Name)); err != nil || leads != target(library) {
			return false
		}
	}
	return true
}
