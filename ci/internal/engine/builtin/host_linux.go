package builtin

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/manifests/measure"
)

// packagesFile lists, in docker/engine, the Debian packages the engine needs.
const packagesFile = "debian-packages.txt"

// Preflight checks whether Up could work on this host, and changes nothing. Its
// error is a *PreflightError.
func (e *Engine) Preflight() error {
	var problems []string
	if runtime.GOARCH != "amd64" {
		problems = append(problems, "it needs linux/amd64, this is linux/"+runtime.GOARCH)
	}
	if os.Geteuid() != 0 {
		problems = append(problems, "it needs root")
	} else if err := onThread(func() error { return unix.Unshare(unix.CLONE_NEWNS) }); err != nil {
		problems = append(problems, "it may not make a mount namespace ("+err.Error()+"): a container needs --privileged")
	}
	if _, err := exec.LookPath("mount"); err != nil {
		problems = append(problems, "the program mount is missing")
	}
	if e.opts.NetNS != "" {
		if _, err := os.Stat(e.opts.NetNS); err != nil {
			problems = append(problems, "its network namespace is missing: "+err.Error())
		}
	}
	for _, dir := range []string{e.opts.BinaryDir, e.opts.StateDir} {
		if runs, err := allowsPrograms(existingParent(dir)); err != nil {
			problems = append(problems, err.Error())
		} else if !runs {
			problems = append(problems, dir+" is on a file system mounted noexec, and programs run from there: set XDG_CACHE_HOME to a folder on another one")
			break
		}
	}
	if free, err := diskFree(existingParent(e.opts.StateDir)); err != nil {
		problems = append(problems, err.Error())
	} else if free < minDiskToStart {
		problems = append(problems, fmt.Sprintf("%s has %s free, the builder alone needs %s", e.opts.StateDir, measure.Bytes(int64(free)), measure.Bytes(minDiskToStart)))
	}

	module, err := e.moduleDir()
	if err != nil {
		problems = append(problems, err.Error())
		return &PreflightError{Problems: problems}
	}
	missing, err := missingPackages(module)
	if err != nil {
		problems = append(problems, err.Error())
	} else if len(missing) > 0 {
		if _, err := exec.LookPath("apt-get"); err != nil {
			problems = append(problems, "apt-get is missing, and so are "+strings.Join(missing, ", "))
		}
	}
	if programs, err := e.programs(module); err != nil {
		problems = append(problems, err.Error())
	} else if !programs.built() {
		if _, err := exec.LookPath("go"); err != nil {
			problems = append(problems, "the go command is missing, and the engine is not compiled yet")
		}
	}
	if len(problems) > 0 {
		return &PreflightError{Problems: problems}
	}
	return nil
}

// missingPackages returns the packages of the list that are not installed.
func missingPackages(module string) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(module, packagesFile))
	if err != nil {
		return nil, fmt.Errorf("reading the engine's packages: %w", err)
	}
	if _, err := exec.LookPath("dpkg-query"); err != nil {
		return nil, errors.New("it needs Debian: dpkg-query is missing")
	}
	var missing []string
	for _, name := range parsePackages(data) {
		out, err := exec.Command("dpkg-query", "--show", "--showformat=${db:Status-Status}", name).Output()
		if err != nil || string(out) != "installed" {
			missing = append(missing, name)
		}
	}
	return missing, nil
}

func parsePackages(data []byte) []string {
	var names []string
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		name, _, _ := strings.Cut(lines.Text(), "#")
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// installPackages installs what is missing of the list. It is the one thing
// that Down leaves on the host.
func installPackages(ctx context.Context, module string, progress func(string)) error {
	missing, err := missingPackages(module)
	if err != nil || len(missing) == 0 {
		return err
	}
	progress("installing " + strings.Join(missing, ", "))
	install := append([]string{"install", "--yes", "--no-install-recommends"}, missing...)
	if err := aptGet(ctx, install...); err == nil {
		return nil
	}
	// A bare image has no package lists, an old host has outdated ones.
	progress("updating the package lists")
	if err := aptGet(ctx, "update"); err != nil {
		return err
	}
	return aptGet(ctx, install...)
}

func aptGet(ctx context.Context, args ...string) error {
	// The lock may be held by the host's own unattended upgrades.
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-o", "DPkg::Lock::Timeout=120"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("running apt-get %s: %w\n%s", strings.Join(args, " "), err, strings.Join(lastLines(out, 10), "\n"))
	}
	return nil
}

func lastLines(data []byte, n int) []string {
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	if len(lines) == 1 && lines[0] == "" {
		return nil
	}
	return lines[max(0, len(lines)-n):]
}

// existingParent returns the path itself or the nearest folder above it that
// exists.
func existingParent(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}
