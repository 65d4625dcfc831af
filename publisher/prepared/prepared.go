// Package prepared makes what tests run besides Go packages: the programs of modules of their own, and the official
// clients that npm brings. Only test packages import it.
//
// In goes a folder of sources; out comes a path in the user's cache, where the thing lies ready. It is made once for
// each state of the sources, minutes the first time and nothing after that; test binaries that want it meanwhile wait.
package prepared

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/gofrs/flock"
)

// Program is the compiled program of the module in a folder.
func Program(name, source string) (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version(), runtime.GOARCH)
	return once(name, os.DirFS(source), sum.Sum(nil), func(to string) error {
		cmd := exec.Command("go", "build", "-C", source, "-ldflags", "-s -w", "-o", to, ".")
		cmd.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false -mod=readonly", "GOWORK=off")
		if said, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w\n%s", err, said)
		}
		return nil
	})
}

// Packages is a folder with the sources' files and, in node_modules, what their package-lock.json names.
func Packages(name string, source fs.FS) (string, error) {
	return once(name, source, nil, func(to string) error {
		if err := os.CopyFS(to, source); err != nil {
			return err
		}
		cmd := exec.Command("npm", "ci", "--no-audit", "--no-fund")
		cmd.Dir = to
		if said, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("npm ci: %w\n%s", err, said)
		}
		return nil
	})
}

// once has what make makes under a name that stands for the sources and for what else decides the result.
func once(name string, source fs.FS, also []byte, make func(to string) error) (string, error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("preparing %s: %w", name, err) }
	sum := sha256.New()
	sum.Write(also)
	err := fs.WalkDir(source, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := fs.ReadFile(source, path)
		fmt.Fprintf(sum, "%s %d\n%s", path, len(data), data)
		return err
	})
	if err != nil {
		return fail(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return fail(err)
	}
	dir := filepath.Join(cache, "llcuda", "prepared")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fail(err)
	}
	lock := flock.New(filepath.Join(dir, name+".lock"))
	if err := lock.Lock(); err != nil {
		return fail(err)
	}
	defer lock.Unlock()
	ready := filepath.Join(dir, name+"-"+hex.EncodeToString(sum.Sum(nil))[:16])
	if _, err := os.Stat(ready); err == nil {
		return ready, nil
	}
	partial := ready + ".partial" // of a run that was killed, perhaps
	if err := os.RemoveAll(partial); err != nil {
		return fail(err)
	}
	if err := make(partial); err != nil {
		return fail(errors.Join(err, os.RemoveAll(partial)))
	}
	return ready, os.Rename(partial, ready)
}
