package cosigntest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/gofrs/flock"
)

// compile makes the stack's program, once for each state of its sources: test binaries that want it meanwhile wait.
func compile() (string, error) {
	sources, err := stackSources()
	if err != nil {
		return "", err
	}
	key, err := digest(sources)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir() // no home: the program lives as long as the machine's temporary files
	}
	dir := filepath.Join(cache, "llcuda", "sigstore-stack")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock := flock.New(filepath.Join(dir, "lock"))
	if err := lock.Lock(); err != nil {
		return "", err
	}
	defer lock.Unlock()
	program := filepath.Join(dir, key)
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	partial := program + ".partial"
	build := exec.Command("go", "build", "-C", sources, "-ldflags", "-s -w", "-o", partial, ".")
	build.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	if output, err := build.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("go build: %w\n%s", err, output), os.RemoveAll(partial))
	}
	return program, os.Rename(partial, program)
}

// stackSources is where the module of the stack lies: beside this package's own sources.
func stackSources() (string, error) {
	const here = "github.com/waqasm86/llcuda-farm/publisher/cosigntest"
	output, err := exec.Command("go", "list", "-f", "{{.Dir}}", here).Output()
	if err != nil {
		return "", fmt.Errorf("go list %s: %w", here, err)
	}
	return filepath.Join(strings.TrimSpace(string(output)), "stack"), nil
}

// digest stands for the sources and what compiles them.
func digest(dir string) (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version())
	entries, err := os.ReadDir(dir) // ascends by name
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		f, err := os.Open(filepath.Join(dir, entry.Name()))
		if err != nil {
			return "", err
		}
		fmt.Fprintln(sum, entry.Name())
		_, err = io.Copy(sum, f)
		f.Close()
		if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%x", sum.Sum(nil))[:16], nil
}
