package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
)

// ErrNotInstalled is a store in which nothing is installed yet.
var ErrNotInstalled = errors.New("nothing is installed")

// ErrNoPrevious is a store in which nothing was installed before.
var ErrNoPrevious = errors.New("there is no earlier installation")

// Serves reports whether its programs may be started on a machine as it is now, without asking
// CUDA.
func (i Install) Serves(now launch.Machine) bool { return i.startRecord().Serves(now) }

// Sound says, at the cost of a few calls of stat, why an installation cannot be run from; nil if it
// can. Verify reads every file.
func (s *Store) Sound(i Install) error {
	for _, path := range []string{filepath.Join(launch.ProgramsDir(s.Dir(i)), "llama-server"), filepath.Join(s.Dir(i), manifests.MetadataName)} {
		if _, err := os.Stat(path); err != nil {
			return err
		}
	}
	if i.Links == "" {
		return nil
	}
	if target, err := os.Readlink(filepath.Join(s.Dir(i), cudaLink)); err != nil || target != linkTo(i.Links) {
		return fmt.Errorf("%s does not lead to the CUDA libraries that it was installed with", filepath.Join(s.Dir(i), cudaLink))
	}
	for _, library := range i.Libraries {
		if _, err := os.Stat(filepath.Join(s.Dir(i), launch.LibrariesDir, library.Name)); err != nil {
			return err
		}
	}
	return nil
}

// Current is the installation that programs are run from on this machine: that of its kind, else
// the one that was made for machines that were not present, else the newest for a machine that a
// user described. Its error is ErrNotInstalled where there is none.
func (s *Store) Current() (Install, error) {
	here := s.ThisMachine().Kind
	for _, kind := range []string{here, launch.AnyKind} {
		_, err := os.Lstat(s.path(launch.CurrentName, kind))
		switch {
		case err == nil:
			return s.currentOf(kind)
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR):
			return Install{}, err
		}
	}
	described := func(kind string) bool { return strings.HasPrefix(kind, launch.DescribedKind) }
	kinds, err := s.Kinds()
	newest := 0
	for id, names := range kinds {
		if id > newest && !described(here) && slices.ContainsFunc(names, described) {
			newest = id
		}
	}
	switch {
	case err != nil:
		return Install{}, err
	case newest == 0:
		return Install{}, ErrNotInstalled
	}
	return s.install(newest)
}

func (s *Store) currentOf(kind string) (Install, error) {
	id := s.installAt(kind)
	if id == 0 {
		return Install{}, fmt.Errorf("%s leads to no installation", s.path(launch.CurrentName, kind))
	}
	return s.install(id)
}

// installAt is the number of the installation that is current for a kind of machine, 0 if there is
// none.
func (s *Store) installAt(kind string) int {
	target, err := os.Readlink(s.path(launch.CurrentName, kind))
	if err != nil {
		return 0
	}
	id, err := strconv.Atoi(filepath.Base(target))
	if err != nil || id <= 0 || target != installTo(id) {
		return 0
	}
	return id
}

// installTo is how a link in the folder of what is current leads to an installation.
func installTo(id int) string { return filepath.Join("..", installsDir, strconv.Itoa(id)) }

// Kinds are the kinds of machines for which installations are the current ones, by their numbers.
func (s *Store) Kinds() (map[int][]string, error) {
	entries, err := s.listOwn(launch.CurrentName)
	kinds := map[int][]string{}
	for _, entry := range entries {
		kind := filepath.Base(entry)
		id := s.installAt(kind)
		kinds[id] = append(kinds[id], kind)
	}
	return kinds, err
}

// Activate makes an installation the current one of its kind of machine, and returns it with its
// number. The rename of the link is the point of no return: before it, the old installation is the
// current one, and after it, the new one is.
func (l *Locked) Activate(i Install) (Install, error) {
	list, err := l.List()
	if err != nil {
		return Install{}, err
	}
	i.Version, i.ID, i.Previous = recordVersion, 1, 0
	if len(list) > 0 {
		i.ID = list[len(list)-1].ID + 1
	}
	if i.Machine.Kind == "" {
		i.Machine = l.ThisMachine()
	}
	if current, err := l.currentOf(i.Machine.Kind); err == nil {
		i.Previous = current.ID
		// A repetition of the same installation is not one to roll back to, and neither is one for
		// other GPUs of the machine.
		if current.Folder == i.Folder || current.Release == i.Release && current.Machine.Selection != i.Machine.Selection {
			i.Previous = current.Previous
		}
	}
	i.Time = time.Now().UTC().Truncate(time.Second)
	if i.Metadata, err = l.metadataDigest(i); err != nil {
		return Install{}, err
	}
	data, err := encodeRecord(i)
	if err != nil {
		return Install{}, err
	}
	stage, err := os.MkdirTemp(l.path(stagingDir), "install-")
	if err != nil {
		return Install{}, err
	}
	if err := errors.Join(os.Chmod(stage, 0o755), writeFile(filepath.Join(stage, recordName), data),
		writeFile(filepath.Join(stage, launch.StartName), i.startRecord().Encode()),
		os.Symlink(filepath.Join("..", "..", i.Folder), filepath.Join(stage, launch.BundleName))); err != nil {
		return Install{}, err
	}
	target := l.path(installsDir, strconv.Itoa(i.ID))
	// There may be a record that could not be read.
	if err := errors.Join(l.put(stage, target), SyncFolder(l.path(installsDir))); err != nil {
		return Install{}, err
	}
	return i, l.flip(i)
}

// Remember replaces the mirrors that an installation remembers.
func (l *Locked) Remember(i Install, mirrors []string) (Install, error) {
	i.Mirrors = mirrors
	data, err := encodeRecord(i)
	if err != nil {
		return Install{}, err
	}
	return i, l.replaceFile(l.path(installsDir, strconv.Itoa(i.ID), recordName), data)
}

// flip makes an installation the current one of its kind of machine.
func (l *Locked) flip(i Install) error {
	dir := l.path(launch.CurrentName)
	if err := os.Mkdir(dir, 0o775); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return errors.Join(l.relink(installTo(i.ID), filepath.Join(dir, i.Machine.Kind)), SyncFolder(dir))
}

// Previous is the installation before the current one.
func (s *Store) Previous() (Install, error) {
	current, err := s.Current()
	if err != nil {
		return Install{}, err
	}
	if current.Previous == 0 {
		return Install{}, ErrNoPrevious
	}
	previous, err := s.install(current.Previous)
	if errors.Is(err, fs.ErrNotExist) {
		return Install{}, ErrNoPrevious
	}
	return previous, err
}

// Rollback makes the installation that Previous gave the current one. The caller has verified its
// files.
func (l *Locked) Rollback(previous Install) error {
	if len(previous.Libraries) > 0 {
		if _, err := l.Link(l.Dir(previous), previous.Libraries); err != nil {
			return err
		}
	}
	if err := l.Sound(previous); err != nil {
		return fmt.Errorf("going back to %s of release %s: %w", previous.Bundle, previous.Release, err)
	}
	return l.flip(previous)
}
