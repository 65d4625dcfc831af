package fetch

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
)

// exchange puts the new files in the place of the old ones: of all of them, or of none.
func exchange(program, stage string, names []string) error {
	dir := filepath.Dir(program)
	fresh := func(name string) string { return filepath.Join(stage, newDir, name) }
	others := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == programName })
	if err := copyModeAndOwner(fresh(programName), program); err != nil {
		return err
	}
	for _, name := range others {
		if err := copyModeAndOwner(fresh(name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := backUp(dir, stage, others); err != nil {
		return err
	}
	for _, name := range others {
		if err := os.Rename(fresh(name), filepath.Join(dir, name)); err != nil {
			return err // clearUpdate takes back those before it
		}
	}
	// The point of no return: before it, clearUpdate brings the old files back, and after it, the
	// new ones are there.
	if err := os.Rename(fresh(programName), program); err != nil {
		return err
	}
	return store.SyncFolder(dir)
}

// copyModeAndOwner gives a new file the mode of the file that it replaces and, as far as this user
// may, its owner: when root replaces a program in a user's home folder, the program still belongs
// to that user.
func copyModeAndOwner(fresh, old string) error {
	info, err := os.Stat(old)
	if errors.Is(err, fs.ErrNotExist) {
		return os.Chmod(fresh, 0o755)
	}
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := os.Lchown(fresh, int(owner.Uid), int(owner.Gid)); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return os.Chmod(fresh, info.Mode().Perm())
}

// backUp copies files to where clearUpdate finds them. They appear there all at once.
func backUp(dir, stage string, names []string) error {
	beside := filepath.Join(stage, oldDir+"-")
	if err := os.Mkdir(beside, 0o700); err != nil {
		return err
	}
	for _, name := range names {
		copied := filepath.Join(beside, name)
		f, err := os.Open(filepath.Join(dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if err := writeProgram(copied, bytes.NewReader(nil)); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		if err := errors.Join(writeProgram(copied, f), f.Close(), copyModeAndOwner(copied, filepath.Join(dir, name))); err != nil {
			return err
		}
	}
	return errors.Join(os.Rename(beside, filepath.Join(stage, oldDir)), store.SyncFolder(stage))
}

// clearUpdate removes what an update left, its own or that of a killed process. Where the program
// had not been replaced yet, the files that had been are put back.
func clearUpdate(dir string) error {
	stage := filepath.Join(dir, updateDir)
	info, err := os.Lstat(stage)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// What another user put there is removed, not put back.
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && info.IsDir() && int(owner.Uid) == os.Geteuid() {
		if err := putBack(dir, stage); err != nil {
			return err
		}
	}
	return os.RemoveAll(stage)
}

func putBack(dir, stage string) error {
	if _, err := os.Stat(filepath.Join(stage, newDir, programName)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	old, err := os.ReadDir(filepath.Join(stage, oldDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range old {
		from, to := filepath.Join(stage, oldDir, entry.Name()), filepath.Join(dir, entry.Name())
		info, err := entry.Info()
		switch {
		case err != nil:
		case info.Size() == 0:
			if err = os.Remove(to); errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
		default:
			err = os.Rename(from, to)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// placeError is the error of changing a program's folder, with the way out that fits.
func placeError(program string, err error) error {
	const another = "install.sh installs one into ~/.local/bin, or into another folder (--prefix, LLCUDA_BIN)"
	hint := ""
	switch {
	case errors.Is(err, unix.EROFS):
		hint = "its file system is read-only: in an image, build the image anew with the newer release; elsewhere, " + another
	case errors.Is(err, unix.EBUSY):
		hint = "something is mounted on it: replace it where it is mounted from, or " + another
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() == 0:
		hint = "not even root may change it: a chattr +i or a security policy forbids it; " + another
	case errors.Is(err, fs.ErrPermission):
		hint = "another user owns it: sudo " + program + " self-update; or " + another
	}
	return &ProgramError{program, err, hint}
}

// The program in a client's archive, and the folder beside it in which its successor is made:
//
//	archive   as it is downloaded
//	new/      the files to come, whole, tried and on disk
//	old/      those that are replaced before the program is; an empty one stands for none
const (
	programName = "llcuda-fetch"
	updateDir   = ".llcuda-fetch-update"
	newDir      = "new"
	oldDir      = "old"
)
