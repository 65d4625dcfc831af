package bundler

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// scratchPrefix marks the folders that Scratch may remove.
const scratchPrefix = "llcuda-scratch-"

// Scratch makes an empty folder for a command to work in. It lies in parent or, if that is "", in the
// folder for temporary files ($TMPDIR, else /tmp), and name is part of its name. The caller removes it
// by calling remove. Scratch first removes the folders that killed commands left in the same parent,
// which can take gigabytes.
func Scratch(ctx context.Context, parent, name string) (dir string, remove func(), err error) {
	if parent == "" {
		parent = os.TempDir()
	} else if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", nil, err
	}
	sweepScratch(parent)
	for {
		if dir, err = os.MkdirTemp(parent, scratchPrefix+name+"-"); err != nil {
			return "", nil, err
		}
		unlock, err := LockFolder(ctx, dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", nil, errors.Join(err, os.RemoveAll(dir))
		}
		// Another command may have removed it before it was locked.
		if _, err := os.Stat(dir); err == nil {
			return dir, func() {
				os.RemoveAll(dir)
				unlock()
			}, nil
		}
		unlock()
	}
}

// sweepScratch removes the user's scratch folders that no running command has locked. It skips those
// that it cannot remove.
func sweepScratch(parent string) {
	entries, _ := os.ReadDir(parent)
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), scratchPrefix) || !entry.IsDir() {
			continue
		}
		info, err := entry.Info()
		if err != nil {
			continue
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() {
			continue
		}
		dir := filepath.Join(parent, entry.Name())
		if unlock, free, err := TryLockFolder(dir); err == nil && free {
			os.RemoveAll(dir)
			unlock()
		}
	}
}
