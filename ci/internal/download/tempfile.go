package download

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	tempPrefix = ".fetch-"

	// staleAfter is past any pause that a living run makes between two writes: it
	// gives up after a minute without a byte.
	staleAfter = time.Hour
)

// WriteNew writes a file that has its name when it is whole. Until then it is in
// tempDir, of the same file system: what a killed run leaves there is removed by
// RemoveStale.
func WriteNew(dest, tempDir string, write func(io.Writer) error) error {
	temp, err := os.CreateTemp(tempDir, tempPrefix+"*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // fails once it is renamed
	defer temp.Close()
	if err := write(temp); err != nil {
		return err
	}
	if err := temp.Chmod(0o644); err != nil {
		return err
	}
	if err := temp.Sync(); err != nil {
		return err
	}
	return os.Rename(temp.Name(), dest)
}

// RemoveStale removes the unfinished files that killed runs left in tempDir. What
// cannot be removed does no harm there, and the next run tries again.
func RemoveStale(tempDir string) {
	files, err := os.ReadDir(tempDir)
	if err != nil {
		return
	}
	for _, file := range files {
		if !strings.HasPrefix(file.Name(), tempPrefix) {
			continue
		}
		if info, err := file.Info(); err == nil && time.Since(info.ModTime()) > staleAfter {
			os.Remove(filepath.Join(tempDir, file.Name()))
		}
	}
}
