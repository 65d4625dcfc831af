// Package prepared makes what tests run besides Go packages: the programs of modules of their own, the official
// clients that npm brings, and Python's tools. Only test packages import it.
//
// It takes a folder of sources and returns a path in the user's cache where the result is ready. The result is built once
// for each state of the sources, which takes minutes; after that it costs nothing. Test binaries that want it meanwhile
// wait.
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
	"strings"

	"github.com/gofrs/flock"
)

// Program is the compiled program of the module in a folder.
func Program(name, source string) (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version(), runtime.GOARCH)
	return once(name, os.DirFS(source), nil, sum.Sum(nil), func(to string) error {
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
	return once(name, source, nil, nil, func(to string) error {
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

// Python returns a virtual environment of the python3 that is found, with the packages of a pip lock file, which has a
// hash for each.
func Python(name, lock string) (string, error) {
	identity, err := exec.Command("python3", "-c", "import sys; print(sys.version, sys.base_prefix)").Output()
	if err != nil {
		return "", fmt.Errorf("preparing %s: asking python3 for its version: %w", name, err)
	}
	return once(name, os.DirFS(filepath.Dir(lock)), []string{filepath.Base(lock)}, identity, func(to string) error {
		// Programs in the environment name the folder that they were made in, so it has its name for good from the
		// beginning, and the link to it appears when it is whole.
		dir := strings.TrimSuffix(to, partial) + ".environment"
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		if said, err := exec.Command("python3", "-m", "venv", dir).CombinedOutput(); err != nil {
			return fmt.Errorf("python3 -m venv: %w\n%s", err, said)
		}
		if err := pip(dir, "install", "--require-hashes", "-r", lock); err != nil {
			return err
		}
		return os.Symlink(filepath.Base(dir), to)
	})
}

// Modules is a folder with the packages of a lock, installed by the pip of an environment that Python made.
func Modules(name, environment, lock string) (string, error) {
	return once(name, os.DirFS(filepath.Dir(lock)), []string{filepath.Base(lock)}, nil, func(to string) error {
		return pip(environment, "install", "--require-hashes", "--no-deps", "--no-compile", "--target", to, "-r", lock)
	})
}

// pip takes wheels only: what builds a source distribution is not in the lock.
func pip(environment string, args ...string) error {
	cmd := exec.Command(filepath.Join(environment, "bin", "python"), append([]string{"-m", "pip", "--disable-pip-version-check", "--quiet"}, args...)...)
	cmd.Env = append(os.Environ(), "PIP_ONLY_BINARY=:all:", "PIP_NO_CACHE_DIR=1")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pip: %w\n%s", err, said)
	}
	return nil
}

// partial ends the name of what is not whole.
const partial = ".partial"

// once has what make makes under a name that stands for the sources and for what else decides the result.
//
// The sources are the files given, or all of the folder's.
func once(name string, source fs.FS, files []string, also []byte, make func(to string) error) (string, error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("preparing %s: %w", name, err) }
	sum := sha256.New()
	sum.Write(also)
	if files == nil {
		err := fs.WalkDir(source, ".", func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type().IsRegular() {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			return fail(err)
		}
	}
	for _, path := range files {
		data, err := fs.ReadFile(source, path)
		if err != nil {
			return fail(err)
		}
		fmt.Fprintf(sum, "%s %d\n%s", path, len(data), data)
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
	to := ready + partial // of a run that was killed, perhaps
	if err := os.RemoveAll(to); err != nil {
		return fail(err)
	}
	if err := make(to); err != nil {
		return fail(errors.Join(err, os.RemoveAll(to)))
	}
	return ready, os.Rename(to, ready)
}
