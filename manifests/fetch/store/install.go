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
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
	"github.com/waqasm86/llcuda-farm/matrix"
)

const (
	recordName = "install.json"
	// recordVersion is the form of install.json.
	recordVersion = 1
)

// An Install is one installation: a bundle, how it was chosen, and what it runs with.
type Install struct {
	Version int `json:"version"`
	// ID is a number, ascending.
	ID       int    `json:"id"`
	Previous int    `json:"previous"` // the ID to go back to; 0 is none
	Release  string `json:"release"`
	// SourceDateEpoch is the release's, to tell an older one.
	SourceDateEpoch int64      `json:"source_date_epoch"`
	Bundle          string     `json:"bundle"`
	Row             matrix.Row `json:"sm"`
	Through         string     `json:"through"`
	// Folder is where the bundle lies, relative to the store, and Runtime where the CUDA libraries
	// do, if they were fetched.
	Folder  string `json:"folder"`
	Runtime string `json:"runtime"`
	// Metadata is the sha256 of the bundle's metadata.json, as it came out of the archive: the
	// files are checked against it, as no signed document lists it by itself.
	Metadata string `json:"metadata_sha256"`
	// Libraries are the CUDA libraries that the bundle was linked to, by the folder Links, which is
	// relative to the store. RuntimeNames are all that it looks for.
	Libraries    []manifests.CUDALibrary `json:"libraries"`
	Links        string                  `json:"links"`
	RuntimeNames []string                `json:"runtime_names"`
	// Machine is what it was made for. Its kind is launch.AnyKind where no GPU was there to try it
	// on.
	Machine launch.Machine `json:"machine"`
	// Devices are the UUIDs of the GPUs that CUDA showed. Every says that the bundle serves all
	// that the machine has, and VisibleDevices are the UUIDs for CUDA_VISIBLE_DEVICES, where GPUs
	// must be hidden.
	Devices        []string `json:"devices"`
	Every          bool     `json:"every_gpu"`
	VisibleDevices []string `json:"visible_devices"`
	// GPUMemory is that of the GPUs served, in MiB.
	GPUMemory []int `json:"gpu_memory_mib"`
	// Asked is what the user narrowed the choice to.
	Asked Asked `json:"asked"`
	// LlamaCPP is the version that the programs said, and Seen are the GPUs that they saw when they
	// were tried. Both are empty in the records of clients that did not keep them.
	LlamaCPP string   `json:"llama_cpp"`
	Seen     []string `json:"seen"`
	// SignedBy is who signed the release; empty where the user skipped the signature.
	SignedBy string `json:"signed_by"`
	// Pointer is the number of the release pointer that named the release, and PointerBy whose
	// number it is; 0 where the user named it.
	Pointer   int64  `json:"pointer"`
	PointerBy string `json:"pointer_by"`
	// Mirrors are where updates come from, where the user names no other place; none is the farm's
	// own releases. They have no names and passwords, and folders are absolute.
	Mirrors []string  `json:"mirrors"`
	Time    time.Time `json:"time"`
}

// Asked are the choices that were the user's.
type Asked struct {
	Row      matrix.Row `json:"sm"`
	AllowCPU bool       `json:"allow_cpu"`
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

// Unchanged reports whether its bundle's metadata.json is the one that came out of the archive.
func (s *Store) Unchanged(i Install) bool {
	digest, err := s.metadataDigest(i)
	return err == nil && digest == i.Metadata
}

// Programs is what its programs are started from.
func (s *Store) Programs(i Install) launch.Installation {
	return launch.Installation{Bundle: s.Dir(i), VisibleDevices: i.VisibleDevices}
}

// startRecord is what package launch reads of it.
func (i Install) startRecord() launch.Start {
	start := launch.Start{Machine: i.Machine, GPU: i.Through != manifests.ThroughCPU, Every: i.Every, Devices: i.Devices, VisibleDevices: i.VisibleDevices}
	for _, library := range i.Libraries {
		start.Libraries = append(start.Libraries, library.Name)
	}
	return start
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

func encodeRecord(i Install) ([]byte, error) {
	data, err := json.MarshalIndent(i, "", "  ")
	return append(data, '\n'), err
}
