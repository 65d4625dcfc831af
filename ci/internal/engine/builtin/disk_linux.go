package builtin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
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

// allowsPrograms reports whether a folder's file system lets programs run.
func allowsPrograms(dir string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, fmt.Errorf("looking at the mount of %s: %w", dir, err)
	}
	return st.Flags&unix.ST_NOEXEC == 0, nil
}

// overlayWorks tries what the engine does for each container: an overlay that
// writes to the folder's file system. Overlays themselves and some others, of
// networks mostly, cannot be written to so.
func overlayWorks(dir string) error {
	top, err := os.MkdirTemp(dir, ".overlay-")
	if err != nil {
		return fmt.Errorf("trying an overlay mount in %s: %w", dir, err)
	}
	defer os.RemoveAll(top)
	path := func(name string) string { return filepath.Join(top, name) }
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(path(name), 0o700); err != nil {
			return fmt.Errorf("trying an overlay mount in %s: %w", dir, err)
		}
	}
	err = onThread(func() error {
		// In a mount namespace of its own, which ends with the thread.
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		// Relative: the folder's name may have the characters that separate options.
		if err := unix.Chdir(top); err != nil {
			return err
		}
		return unix.Mount("overlay", "merged", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work")
	})
	if err != nil {
		return fmt.Errorf("%s is on a file system where no overlay can be mounted (%w)", dir, err)
	}
	return nil
}
