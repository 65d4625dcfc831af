package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
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
	"github.com/waqasm86/llcuda-farm/matrix"
)

const (
	recordName = "install.json"
	// recordVersion is the form of install.json.
	recordVersion = 1
)

// ErrNotInstalled is a store in which nothing is installed yet.
var ErrNotInstalled = errors.New("nothing is installed")

// ErrNoPrevious is a store in which nothing was installed before.
var ErrNoPrevious = errors.New("there is no earlier installation")

// An Install is one installation: a bundle, how it was chosen, and what it runs with.
type Install struct {
	Version int `json:"version"`
	// ID is a number, ascending.
	ID       int    `json:"id"`
	Previous int    `json:"previous"` // the ID to go back to; 0 is none
	Release  string `json:"release"`
	// SourceDateEpoch is the release's, to tell an older one.
	SourceDateEpoch int64     `json:"source_date_epoch"`
	Bundle          string    `json:"bundle"`
	SM              matrix.SM `json:"sm"`
	Through         string    `json:"through"`
	// Folder is where the bundle lies, relative to the store, and Runtime where the CUDA libraries do, if they were fetched.
	Folder  string `json:"folder"`
	Runtime string `json:"runtime"`
	// Metadata is the sha256 of the bundle's metadata.json, as it came out of the archive: the files are held to that, which
	// nothing signed lists by itself.
	Metadata string `json:"metadata_sha256"`
	// Libraries are the CUDA libraries that the bundle was linked to, by the folder Links, which is relative to the store.
	// RuntimeNames are all that it looks for.
	Libraries    []manifests.CUDALibrary `json:"libraries"`
	Links        string                  `json:"links"`
	RuntimeNames []string                `json:"runtime_names"`
	// Machine is what it was made for. Its kind is launch.AnyKind where no GPU was there to try it on.
	Machine launch.Machine `json:"machine"`
	// Devices are the UUIDs of the GPUs that CUDA showed. Every says that the bundle serves all that the machine has, and
	// VisibleDevices are the UUIDs for CUDA_VISIBLE_DEVICES, where GPUs must be hidden.
	Devices        []string `json:"devices"`
	Every          bool     `json:"every_gpu"`
	VisibleDevices []string `json:"visible_devices"`
	// GPUMemory is that of the GPUs served, in MiB.
	GPUMemory []int `json:"gpu_memory_mib"`
	// Asked is what the user narrowed the choice to.
	Asked Asked `json:"asked"`
	// LlamaCPP is the version that the programs said, and Seen are the GPUs that they saw when they were tried. Both are
	// empty in the records of clients that did not keep them.
	LlamaCPP string   `json:"llama_cpp"`
	Seen     []string `json:"seen"`
	// SignedBy is who signed the release; empty where the user did without a signature.
	SignedBy string `json:"signed_by"`
	// Pointer is the number of the release pointer that named the release, and PointerBy whose number it is; 0 where the
	// user named it.
	Pointer   int64  `json:"pointer"`
	PointerBy string `json:"pointer_by"`
	// Mirrors are where updates come from, where the user names no other place; none is the farm's own releases. They have
	// no names and passwords, and folders are absolute.
	Mirrors []string  `json:"mirrors"`
	Time    time.Time `json:"time"`
}

// Asked are the choices that were the user's.
type Asked struct {
	SM       matrix.SM `json:"sm"`
	AllowCPU bool      `json:"allow_cpu"`
}

// Dir is the bundle's folder.
func (s *Store) Dir(i Install) string { return s.path(i.Folder) }

// Metadata is what its bundle says of itself.
func (s *Store) Metadata(i Install) (manifests.Metadata, error) {
	f, err := os.Open(filepath.Join(s.Dir(i), manifests.MetadataName))
	if err != nil {
		return manifests.Metadata{}, err
	}
	defer f.Close()
	return manifests.DecodeMetadata(f)
}

func (s *Store) metadataDigest(i Install) (string, error) {
	return FileDigest(context.Background(), filepath.Join(s.Dir(i), manifests.MetadataName)) // some 20 kB
}

// Unchanged says whether its bundle's metadata.json is the one that came out of the archive.
func (s *Store) Unchanged(i Install) bool {
	digest, err := s.metadataDigest(i)
	return err == nil && digest == i.Metadata
}

// Programs is what its programs are started from.
func (s *Store) Programs(i Install) launch.Installation {
	return launch.Installation{Bundle: s.Dir(i), VisibleDevices: i.VisibleDevices}
}

// start is what package launch reads of it.
func (i Install) start() launch.Start {
	start := launch.Start{Machine: i.Machine, GPU: i.Through != manifests.ThroughCPU, Every: i.Every, Devices: i.Devices, VisibleDevices: i.VisibleDevices}
	for _, library := range i.Libraries {
		start.Libraries = append(start.Libraries, library.Name)
	}
	return start
}

// Serves says whether its programs may be started on a machine as it is now, without a look at it by CUDA.
func (i Install) Serves(now launch.Machine) bool { return i.start().Serves(now) }

// Current is the installation that programs are run from on this machine: that of its kind, else the one that was made for
// machines that were not there, else the newest of a machine that somebody described. Its error is ErrNotInstalled where
// there is none.
func (s *Store) Current() (Install, error) {
	here := s.Here().Kind
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

// installAt is the number of the installation that is current for a kind of machine, 0 if there is none.
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
	entries, err := s.own(launch.CurrentName)
	kinds := map[int][]string{}
	for _, entry := range entries {
		kind := filepath.Base(entry)
		id := s.installAt(kind)
		kinds[id] = append(kinds[id], kind)
	}
	return kinds, err
}

func (s *Store) install(id int) (Install, error) {
	path := s.path(installsDir, strconv.Itoa(id), recordName)
	data, err := os.ReadFile(path)
	if err != nil {
		return Install{}, err
	}
	var i Install
	decoder := json.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(&i); err != nil {
		return Install{}, fmt.Errorf("reading %s: %w", path, err)
	}
	if i.Version != recordVersion || i.ID != id {
		return Install{}, fmt.Errorf("reading %s: it is the record of another version or number", path)
	}
	return i, nil
}

// List gives all installations, the oldest first. A record that cannot be read is left out.
func (s *Store) List() ([]Install, error) {
	entries, err := os.ReadDir(s.path(installsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []Install
	for _, entry := range entries {
		id, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if i, err := s.install(id); err == nil {
			list = append(list, i)
		}
	}
	slices.SortFunc(list, func(a, b Install) int { return cmp.Compare(a.ID, b.ID) })
	return list, nil
}

// Sound says, at the cost of a few calls of stat, why an installation cannot be run from; nil if it can. Verify reads
// every file.
func (s *Store) Sound(i Install) error {
	for _, name := range []string{launch.ProgramsDir + "/llama-server", manifests.MetadataName} {
		if _, err := os.Stat(filepath.Join(s.Dir(i), name)); err != nil {
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

// Activate makes an installation the current one of its kind of machine, and returns it with its number. The rename of the
// link is the point of no return: before it, the old installation is the current one, and after it, the new one is.
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
		i.Machine = l.Here()
	}
	if current, err := l.currentOf(i.Machine.Kind); err == nil {
		i.Previous = current.ID
		// The same once more is nothing to go back to, and neither is what other GPUs of the machine get.
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
		writeFile(filepath.Join(stage, launch.StartName), i.start().Encode()),
		os.Symlink(filepath.Join("..", "..", i.Folder), filepath.Join(stage, launch.BundleName))); err != nil {
		return Install{}, err
	}
	target := l.path(installsDir, strconv.Itoa(i.ID))
	// What may be there is a record that could not be read.
	if err := errors.Join(l.put(stage, target), SyncFolder(l.path(installsDir))); err != nil {
		return Install{}, err
	}
	return i, l.flip(i)
}

func encodeRecord(i Install) ([]byte, error) {
	data, err := json.MarshalIndent(i, "", "  ")
	return append(data, '\n'), err
}

// Remember has an installation remember other mirrors.
func (l *Locked) Remember(i Install, mirrors []string) (Install, error) {
	i.Mirrors = mirrors
	data, err := encodeRecord(i)
	if err != nil {
		return Install{}, err
	}
	beside, dir := l.path(stagingDir, recordName), l.path(installsDir, strconv.Itoa(i.ID))
	if err := writeFile(beside, data); err != nil {
		return Install{}, err
	}
	return i, errors.Join(os.Rename(beside, filepath.Join(dir, recordName)), SyncFolder(dir))
}

// flip makes an installation the current one of its kind of machine.
func (l *Locked) flip(i Install) error {
	dir := l.path(launch.CurrentName)
	if err := os.Mkdir(dir, 0o775); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return errors.Join(l.relink(installTo(i.ID), filepath.Join(dir, i.Machine.Kind)), SyncFolder(dir))
}

// SyncFolder has the names in a folder on disk when it returns.
func SyncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	if errors.Is(err, unix.EINVAL) { // file systems that have no such thing
		err = nil
	}
	return errors.Join(err, f.Close())
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

// Rollback makes the installation that Previous gave the current one. Whoever calls it has verified its files.
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

// An Item is something that Prune removes.
type Item struct {
	Path string `json:"path"` // relative to the store
	Size int64  `json:"size"` // bytes on disk
}

// wanted are the installations that machines use: of every kind the current one and the one before it, and of the same
// releases the newest for each other choice of GPUs and state of the machine.
func (s *Store) wanted() ([]Install, error) {
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

// Shared says whether an installation that another kind of machine uses, or this one with other GPUs or in another
// environment, has the same bundle with other CUDA libraries. A bundle leads to one set of them.
func (s *Store) Shared(i Install) (bool, error) {
	wanted, err := s.wanted()
	return slices.ContainsFunc(wanted, func(other Install) bool {
		elsewhere := other.Machine.Kind != i.Machine.Kind
		return other.Folder == i.Folder && !slices.Equal(other.Libraries, i.Libraries) &&
			(elsewhere || !other.Machine.Same(i.Machine) && s.Sound(other) == nil)
	}), err
}

// Prunable is what the store made and no installation needs that a machine uses: of every kind of machine the current one
// and the one before it are kept.
func (s *Store) Prunable() ([]Item, error) {
	wanted, err := s.wanted()
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
		own, err := s.own(dir)
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
