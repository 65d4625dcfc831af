package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
)

// openCache finds and makes the folder where sources, packages, downloads and unfinished trees live: the one given, if
// any. Much of what is in it goes into releases, so it must be the caller's own.
func openCache(given string) (string, error) {
	const hint = "name a folder of your own with --cache DIR"
	refuse := func(err error) (string, error) { return "", console.Usage(err, hint) }
	dir := given
	if dir == "" {
		user, err := os.UserCacheDir()
		if err == nil && !filepath.IsAbs(user) {
			err = fmt.Errorf("$HOME is %q, which is not an absolute path", os.Getenv("HOME"))
		}
		if err != nil {
			return refuse(fmt.Errorf("finding the user's cache folder: %w", err))
		}
		dir = filepath.Join(user, "llcuda")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return refuse(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return refuse(fmt.Errorf("making the cache folder: %w", err))
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return refuse(fmt.Errorf("reading the cache folder: %w", err))
	}
	folders := []string{dir}
	for _, entry := range entries {
		folders = append(folders, filepath.Join(dir, entry.Name()))
	}
	for _, folder := range folders {
		if err := ownFolder(folder); err != nil {
			return refuse(err)
		}
	}
	return dir, nil
}

// ownFolder returns an error that says who, if users other than the caller and root can change what is in a folder.
func ownFolder(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil // another process removed it, or it is a file
	}
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	const group, others = 0o020, 0o002
	switch {
	case stat.Uid != 0 && int(stat.Uid) != os.Geteuid():
		return fmt.Errorf("the cache folder %s belongs to user %d: what is in it could go into a release", dir, stat.Uid)
	case info.Mode()&others != 0, info.Mode()&group != 0 && int(stat.Gid) != os.Getegid():
		return fmt.Errorf("the cache folder %s can be changed by other users (mode %v): what is in it could go into a release", dir, info.Mode().Perm())
	}
	return nil
}
