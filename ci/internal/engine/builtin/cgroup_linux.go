package builtin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroupRoot is the control group, in every hierarchy, of all engines; each has
// one below it for its containers.
const cgroupRoot = "llcuda-engine"

func cgroupParent(name string) string { return cgroupRoot + "/" + name }

// removeCgroups removes the empty control groups of an ended engine: runc makes
// the folders above a container's and leaves them.
func removeCgroups(name string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return fmt.Errorf("listing control groups: %w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[2] != "cgroup" && fields[2] != "cgroup2" {
			continue
		}
		root := filepath.Join(fields[1], cgroupRoot)
		if err := removeCgroupTree(filepath.Join(root, name)); err != nil {
			return fmt.Errorf("removing control groups: %w", err)
		}
		// Another engine's group keeps it.
		if err := os.Remove(root); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
			return fmt.Errorf("removing control groups: %w", err)
		}
	}
	return nil
}

// removeCgroupTree removes folders only: the kernel's files in them go with
// them, and a group that still has a process refuses.
func removeCgroupTree(root string) error {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	for _, dir := range slices.Backward(dirs) {
		if rmErr := os.Remove(dir); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
	}
	return err
}
