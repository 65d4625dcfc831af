package builtin

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// cniPlugins are Debian's that the engine's network configuration names.
var cniPlugins = []string{"bridge", "firewall", "host-local", "loopback"}

const debianCNIDir = "/usr/lib/cni"

// progressEvery is the number of compiled packages between two progress lines.
const progressEvery = 100

var daggerVersion = regexp.MustCompile(`(?m)^\s*(?:require\s+)?github\.com/dagger/dagger (v\S+)`)

// programs is a folder of compiled programs, named by what they were compiled
// from.
type programs struct {
	dir     string
	version string // of Dagger
}

func (p programs) engine() string { return filepath.Join(p.dir, "engine") }
func (p programs) cli() string    { return filepath.Join(p.dir, "dagger") }
func (p programs) init() string   { return filepath.Join(p.dir, "init") }
func (p programs) cniDir() string { return filepath.Join(p.dir, "cni") }

func (p programs) built() bool {
	// The folder is renamed into place when it is complete.
	_, err := os.Stat(p.dir)
	return err == nil
}

// programs returns where the module's programs are, compiled or not.
func (e *Engine) programs(module string) (programs, error) {
	mod, err := os.ReadFile(filepath.Join(module, "go.mod"))
	if err != nil {
		return programs{}, fmt.Errorf("reading the engine's module: %w", err)
	}
	version := daggerVersion.FindSubmatch(mod)
	if version == nil {
		return programs{}, fmt.Errorf("reading %s: it does not require github.com/dagger/dagger", filepath.Join(module, "go.mod"))
	}
	sum, err := hashModule(module)
	if err != nil {
		return programs{}, fmt.Errorf("reading the engine's module: %w", err)
	}
	return programs{
		dir:     filepath.Join(e.opts.BinaryDir, string(version[1])+"-"+sum[:12]),
		version: string(version[1]),
	}, nil
}

// hashModule covers what the compiler sees, and so not the README.
func hashModule(module string) (string, error) {
	hash := sha256.New()
	err := filepath.WalkDir(module, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if name := d.Name(); filepath.Ext(name) != ".go" && name != "go.mod" && name != "go.sum" {
			return nil
		}
		rel, err := filepath.Rel(module, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(hash, "%s %d\n", filepath.ToSlash(rel), len(data))
		hash.Write(data)
		return nil
	})
	return hex.EncodeToString(hash.Sum(nil)), err
}

// build compiles the programs unless they are there.
func (e *Engine) build(ctx context.Context, module string, progress func(string)) (programs, error) {
	p, err := e.programs(module)
	if err != nil {
		return programs{}, err
	}
	if p.built() {
		return p, nil
	}
	unlock, err := lockDir(ctx, e.opts.BinaryDir, 0o755, func() { progress("waiting for another process that compiles the engine") })
	if err != nil {
		return programs{}, err
	}
	defer unlock()
	if p.built() {
		return p, nil
	}
	// With the lock held, what is still called so was left by a killed build.
	const unfinished = ".building-"
	leftovers, err := filepath.Glob(filepath.Join(e.opts.BinaryDir, unfinished+"*"))
	if err != nil {
		return programs{}, fmt.Errorf("compiling the engine: %w", err)
	}
	for _, dir := range leftovers {
		if err := os.RemoveAll(dir); err != nil {
			return programs{}, fmt.Errorf("compiling the engine: %w", err)
		}
	}
	temp, err := os.MkdirTemp(e.opts.BinaryDir, unfinished)
	if err != nil {
		return programs{}, fmt.Errorf("compiling the engine: %w", err)
	}
	defer os.RemoveAll(temp)

	progress("compiling the Dagger engine " + p.version + ", once: a few minutes")
	if err := goBuild(ctx, module, temp, p.version, progress); err != nil {
		return programs{}, fmt.Errorf("compiling the engine: %w", err)
	}
	if err := layOut(temp); err != nil {
		return programs{}, fmt.Errorf("compiling the engine: %w", err)
	}
	if err := os.Rename(temp, p.dir); err != nil {
		return programs{}, fmt.Errorf("compiling the engine: %w", err)
	}
	return p, nil
}

func goBuild(ctx context.Context, module, out, version string, progress func(string)) error {
	const pkg = "github.com/dagger/dagger/engine"
	cmd := exec.CommandContext(ctx, "go", "build", "-v", "-trimpath", "-o", out+"/",
		"-ldflags", fmt.Sprintf("-s -w -X %s.Version=%s -X %s.Tag=%s", pkg, version, pkg, version),
		"tool", "./init") // tool is what go.mod's tool directives name
	cmd.Dir = module
	// The caller's flags and workspace are meant for its own module.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off", "GOTOOLCHAIN=local", "GOOS=linux", "GOARCH=amd64")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	var tail []string
	compiled := 0
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		line := lines.Text()
		if tail = append(tail, line); len(tail) > 20 {
			tail = slices.Delete(tail, 0, 1)
		}
		// "go: downloading …" and the compiler's errors hold spaces, the import
		// paths that -v prints do not.
		if strings.ContainsAny(line, " \t") {
			continue
		}
		if compiled++; compiled%progressEvery == 0 {
			progress(fmt.Sprintf("compiling the Dagger engine: %d packages done", compiled))
		}
	}
	// A line beyond the scanner's limit must not block the compiler.
	io.Copy(io.Discard, stderr)
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("running go build in %s: %w\n%s", module, err, strings.Join(tail, "\n"))
	}
	return nil
}

// layOut puts the CNI plugins, Debian's and Dagger's, into a folder of their own.
func layOut(dir string) error {
	cni := filepath.Join(dir, "cni")
	err := errors.Join(
		os.Chmod(dir, 0o755),
		os.Mkdir(cni, 0o755),
		os.Rename(filepath.Join(dir, "dnsname"), filepath.Join(cni, "dnsname")),
	)
	for _, plugin := range cniPlugins {
		err = errors.Join(err, os.Symlink(filepath.Join(debianCNIDir, plugin), filepath.Join(cni, plugin)))
	}
	return err
}
