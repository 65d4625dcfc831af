package store

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
)

// An Item is something that Prune removes.
type Item struct {
	Path string `json:"path"` // relative to the store
	Size int64  `json:"size"` // bytes on disk
}

// usedInstalls are the installations that machines use: of every kind the current one and the one
// before it, and of the same releases the newest for each other choice of GPUs and state of the
// machine.
func (s *Store) usedInstalls() ([]Install, error) {
	kinds, err := s.Kinds()
	if err != nil {
		return nil, err
	}
	list, err := s.List()
	if err != nil {
		return nil, err
	}
	byID := map[int]Install{}
	for _, i := range list {
		byID[i.ID] = i
	}
	var wanted []Install
	for id, names := range kinds {
		current, err := s.install(id)
		if err != nil {
			return nil, err
		}
		previous, back := byID[current.Previous]
		have := []launch.Machine{current.Machine}
		wanted = append(wanted, current)
		if back {
			wanted = append(wanted, previous)
		}
		for _, i := range slices.Backward(list) {
			known := func(m launch.Machine) bool { return m.Same(i.Machine) }
			if i.Release == current.Release && slices.Contains(names, i.Machine.Kind) && !slices.ContainsFunc(have, known) {
				have, wanted = append(have, i.Machine), append(wanted, i)
			}
		}
	}
	return wanted, nil
}

// Shared reports whether an installation that another kind of machine uses, or this one with other
// GPUs or in another environment, has the same bundle with other CUDA libraries. A bundle leads to
// one set of them.
func (s *Store) Shared(i Install) (bool, error) {
	wanted, err := s.usedInstalls()
	return slices.ContainsFunc(wanted, func(other Install) bool {
		elsewhere := other.Machine.Kind != i.Machine.Kind
		return other.Folder == i.Folder && !slices.Equal(other.Libraries, i.Libraries) &&
			(elsewhere || !other.Machine.Same(i.Machine) && s.Sound(other) == nil)
	}), err
}

// Prunable returns what the store made and no installation in use needs: of every kind of machine
// the current one and the one before it are kept.
func (s *Store) Prunable() ([]Item, error) {
	wanted, err := s.usedInstalls()
	if err != nil {
		return nil, err
	}
	keep := map[string]bool{}
	for _, i := range wanted {
		keep[filepath.Join(installsDir, strconv.Itoa(i.ID))] = true
		keep[filepath.Join(releasesDir, i.Release)] = true
		keep[i.Folder], keep[i.Runtime], keep[i.Links] = true, true, true
	}
	var items []Item
	for _, dir := range []string{downloadsDir, stagingDir, bundlesDir, runtimesDir, linksDir, releasesDir, installsDir} {
		own, err := s.listOwn(dir)
		if err != nil {
			return nil, err
		}
		for _, path := range own {
			if !keep[path] {
				items = append(items, Item{Path: path, Size: diskUse(s.path(path))})
			}
		}
	}
	return items, nil
}

// Prune removes them.
func (l *Locked) Prune() ([]Item, error) {
	items, err := l.Prunable()
	if err != nil {
		return nil, err
	}
	for _, item := range items {
		if err := l.discard(l.path(item.Path)); err != nil {
			return nil, err
		}
	}
	return items, nil
}

// diskUse is what a folder's files take on disk.
func diskUse(path string) int64 {
	var total int64
	_ = filepath.WalkDir(path, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil // what vanishes meanwhile takes nothing
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			total += info.Size()
		}
		return nil
	})
	return total
}

// Size is what an installation's bundle takes on disk, in bytes.
func (s *Store) Size(i Install) int64 { return diskUse(s.Dir(i)) }
