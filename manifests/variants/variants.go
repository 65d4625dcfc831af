// Package variants runs a bundle's programs on CPU variants of the caller's choice. llama.cpp picks one of a bundle's
// libggml-cpu-*.so by what the CPU says of itself; that a variant was compiled, or fits, does not say that it works.
//
// The farm calls it after it compiled the variants, and the client before an installation counts. The input is a
// bundle's folder, packed or not yet; the output is commands that find no backend but the variants chosen, so that no
// GPU is used:
//
//	Open ──▶ Bundle ──Stage──▶ Stage ──Use, Command──▶ *exec.Cmd ──output──▶ Loaded
//
// The package changes nothing in the bundle and never prints.
package variants

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
)

const (
	prefix = "libggml-cpu-"
	suffix = ".so"
)

// File is the name of a variant's library.
func File(variant string) string { return prefix + variant + suffix }

// A Bundle is a folder with a bundle's lib and binaries.
type Bundle struct {
	Dir      string
	Programs string   // the folder of its programs, relative to Dir
	Variants []string // its CPU variants, ascending: "haswell", "x64"
}

// Open looks at a bundle.
func Open(dir string) (Bundle, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Bundle{}, err
	}
	b := Bundle{Dir: dir}
	programs := launch.ProgramsDir(dir)
	if _, err := os.Stat(filepath.Join(programs, "llama-server")); err != nil {
		return Bundle{}, fmt.Errorf("looking for the programs of %s, in the one folder below binaries: %w", dir, err)
	}
	if b.Programs, err = filepath.Rel(dir, programs); err != nil {
		return Bundle{}, err
	}
	entries, err := os.ReadDir(filepath.Join(dir, launch.LibrariesDir))
	if err != nil {
		return Bundle{}, err
	}
	for _, entry := range entries { // sorted
		if name, ok := strings.CutPrefix(entry.Name(), prefix); ok && strings.HasSuffix(name, suffix) {
			b.Variants = append(b.Variants, strings.TrimSuffix(name, suffix))
		}
	}
	slices.Sort(b.Variants)
	return b, nil
}

// A Stage is a folder in which the bundle's programs find the chosen variants and no other backend.
type Stage struct {
	Dir    string
	bundle Bundle
}

// Stage makes one in an empty folder. Programs are started from copies there: they look for backends beside themselves.
func (b Bundle) Stage(dir string) (Stage, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Stage{}, err
	}
	return Stage{dir, b}, errors.Join(
		os.MkdirAll(filepath.Join(dir, b.Programs), 0o755),
		os.Symlink(filepath.Join(b.Dir, launch.LibrariesDir), filepath.Join(dir, launch.LibrariesDir)))
}

// Use makes these the variants that programs find.
func (s Stage) Use(names ...string) error {
	programs := filepath.Join(s.Dir, s.bundle.Programs)
	old, err := filepath.Glob(filepath.Join(programs, prefix+"*"))
	if err != nil {
		return err
	}
	for _, link := range old {
		err = errors.Join(err, os.Remove(link))
	}
	for _, name := range names {
		err = errors.Join(err, os.Symlink(filepath.Join(s.bundle.Dir, launch.LibrariesDir, File(name)), filepath.Join(programs, File(name))))
	}
	return err
}

// Command is a program of the bundle on the chosen variants. It runs in the stage's folder, in a process group of its own
// that ends with the context, and with none of environ's settings for llama.cpp.
func (s Stage) Command(ctx context.Context, environ []string, program string, args ...string) (*exec.Cmd, error) {
	mine := filepath.Join(s.Dir, s.bundle.Programs, program)
	if _, err := os.Lstat(mine); err != nil {
		if err := duplicate(filepath.Join(s.bundle.Dir, s.bundle.Programs, program), mine); err != nil {
			return nil, err
		}
	}
	cmd := exec.CommandContext(ctx, mine, args...)
	cmd.Dir = s.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Env = slices.DeleteFunc(slices.Clone(environ), func(pair string) bool {
		return strings.HasPrefix(pair, "GGML_") || strings.HasPrefix(pair, "LLAMA_")
	})
	// Threads that wait for each other by spinning take seconds for nothing where the CPUs have other work.
	cmd.Env = append(cmd.Env, "OMP_WAIT_POLICY=PASSIVE")
	return cmd, nil
}

// duplicate gives a program a second name, or copies it where that cannot be.
func duplicate(from, to string) error {
	if err := os.Link(from, to); err == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

var loadedLine = regexp.MustCompile(`(?m)loaded CPU backend from .*/` + prefix + `([^/\s]+)\` + suffix + `\s*$`)

// Loaded is the variant that a program loaded, by its output; empty where it loaded none.
func Loaded(output string) string {
	if match := loadedLine.FindStringSubmatch(output); match != nil {
		return match[1]
	}
	return ""
}

// signals are those by which a variant dies.
var signals = map[syscall.Signal]string{
	syscall.SIGILL: "SIGILL", syscall.SIGSEGV: "SIGSEGV", syscall.SIGBUS: "SIGBUS", syscall.SIGFPE: "SIGFPE",
	syscall.SIGABRT: "SIGABRT", syscall.SIGTRAP: "SIGTRAP", syscall.SIGKILL: "SIGKILL", syscall.SIGSYS: "SIGSYS",
}

// Ending says how a process ended: "it was killed by SIGILL (illegal instruction)".
func Ending(err error) string {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err.Error()
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return fmt.Sprintf("it ended with exit code %d", exit.ExitCode())
	}
	name := signals[status.Signal()]
	if name == "" {
		name = fmt.Sprintf("signal %d", status.Signal())
	}
	return fmt.Sprintf("it was killed by %s (%s)", name, status.Signal())
}

// CPU is this machine's CPU, as Linux calls it.
func CPU() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(text)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return "this CPU"
}
