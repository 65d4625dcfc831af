package builtin

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// statBlock is the unit of st_blocks, whatever the file system's own is.
const statBlock = 512

// diskUsed returns the bytes that a folder takes on disk. A running engine
// changes it meanwhile, so what vanishes is not an error.
func diskUsed(root string) (int64, error) {
	type inode struct{ dev, ino uint64 }
	linked := map[inode]bool{}
	var used int64
	// A cache folder is often a link to a larger disk.
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return 0, fmt.Errorf("measuring the used space: %w", err)
	}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if st.Nlink > 1 && !d.IsDir() {
			id := inode{uint64(st.Dev), st.Ino}
			if linked[id] {
				return nil
			}
			linked[id] = true
		}
		used += st.Blocks * statBlock
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measuring %s: %w", root, err)
	}
	return used, nil
}

func diskFree(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("measuring the free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}
