package builtin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// runRoot has a folder for each engine that runs, or was killed and not yet
// cleaned up: its record and its socket. It does not outlive a boot, no more
// than processes, bridges and firewall rules do, and Down removes it.
const runRoot = "/run/llcuda-engine"

const recordFile = "engine.json"

// A record is all that is needed to find an engine and to remove what it may
// leave behind. It is written before the engine starts.
type record struct {
	Name      string    `json:"name"`
	BootID    string    `json:"boot_id"`
	PID       int       `json:"pid"`        // 0 until the process exists
	StartTime uint64    `json:"start_time"` // see startTime
	Started   time.Time `json:"started"`
	StateDir  string    `json:"state_dir"`
	Binaries  string    `json:"binaries"`
	Version   string    `json:"version"`
	DiskLimit int64     `json:"disk_limit"`
	NetNS     string    `json:"net_ns"`
	NetNSID   string    `json:"net_ns_id"` // device and inode: a path may lead elsewhere later
	Network   string    `json:"network"`
	CIDR      string    `json:"cidr"`
	Baseline  baseline  `json:"baseline"`
}

func runDir(name string) string { return filepath.Join(runRoot, name) }

func socketPath(name string) string { return filepath.Join(runDir(name), "engine.sock") }

// RunnerHost is the address of the built-in engine of that name.
func RunnerHost(name string) string { return "unix://" + socketPath(name) }

// NameOf is the name of the built-in engine that a runner host belongs to, if it is one's.
func NameOf(runnerHost string) (name string, ok bool) {
	path, isUnix := strings.CutPrefix(runnerHost, "unix://")
	name = filepath.Base(filepath.Dir(path))
	return name, isUnix && path == socketPath(name)
}

// lockRecords keeps other processes from claiming or cleaning up any engine.
// The last engine takes the folder with it.
func lockRecords(ctx context.Context) (unlock func(), err error) {
	release, err := lockDir(ctx, runRoot, 0o755, nil)
	if err != nil {
		return nil, err
	}
	return func() {
		os.Remove(runRoot) // refused while an engine has its folder there
		release()
	}, nil
}

// readRecord returns nil without an error if there is none, or none of this
// boot.
func readRecord(name string) (*record, error) {
	data, err := os.ReadFile(filepath.Join(runDir(name), recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the record of engine %s: %w", name, err)
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("reading the record of engine %s: %w", name, err)
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	if r.BootID != boot {
		return nil, nil
	}
	return &r, nil
}

// readRecords returns the records of all engines of this host.
func readRecords() ([]*record, error) {
	entries, err := os.ReadDir(runRoot)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing the engines of this host: %w", err)
	}
	var records []*record
	for _, entry := range entries {
		r, err := readRecord(entry.Name())
		if err != nil {
			return nil, err
		}
		if r != nil {
			records = append(records, r)
		}
	}
	return records, nil
}

func (r *record) write() error {
	dir := runDir(r.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("recording engine %s: %w", r.Name, err)
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("recording engine %s: %w", r.Name, err)
	}
	if err := writeFile(filepath.Join(dir, recordFile), append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("recording engine %s: %w", r.Name, err)
	}
	return nil
}

// live returns the engine's first process, or nil if it has ended.
func (r *record) live() (*process, error) {
	if r.PID == 0 {
		return nil, nil
	}
	return openProcess(r.PID, r.StartTime)
}

// writeFile writes a temporary file in the same folder, syncs it and renames it.
func writeFile(path string, data []byte, perm os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(perm), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
