package engine

import (
	"fmt"
	"os"
	"regexp"

	"golang.org/x/sys/unix"
)

// fullBelow is how much free space still counts as a full disk: what an engine or a file system keeps to itself.
const fullBelow = 64 << 20

// An engine runs outside this process, so the errors of its disk arrive as text. EOF is what the
// receiving end of an export reports when it could not write.
var (
	spaceWords  = regexp.MustCompile(`(?i)no space left on device|disk quota exceeded`)
	exportWords = regexp.MustCompile(`failed to export: EOF|failed to copy|unexpected EOF`)
)

// A FullDiskError is a step that failed because a disk is full.
type FullDiskError struct {
	Where string // a folder on it, or "the engine"
	Err   error
}

func (e *FullDiskError) Error() string {
	return fmt.Sprintf("the disk of %s is full: %v", e.Where, e.Err)
}
func (e *FullDiskError) Unwrap() error { return e.Err }

// Is makes the error match the one the kernel returns for a full disk.
func (e *FullDiskError) Is(target error) bool { return target == error(unix.ENOSPC) }

// fullDisk makes an engine's error a *FullDiskError where a disk is why. The folders are on the disks that can be.
func fullDisk(err error, dirs ...string) error {
	text := err.Error()
	space, export := spaceWords.MatchString(text), exportWords.MatchString(text)
	if !space && !export {
		return err
	}
	for _, dir := range dirs {
		var disk unix.Statfs_t
		if _, missing := os.Stat(dir); dir == "" || missing != nil || unix.Statfs(dir, &disk) != nil {
			continue
		}
		if disk.Bavail*uint64(disk.Bsize) < fullBelow {
			return &FullDiskError{dir, err}
		}
	}
	if space {
		return &FullDiskError{"the engine", err}
	}
	return err
}
