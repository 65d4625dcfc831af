package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
)

// A ProbeError is an installation whose programs do not run, or do not see the GPU.
type ProbeError struct {
	Command string
	Problem string
	Output  string // its last lines
	Way     string // what may help, for a person
}

func (e *ProbeError) Error() string {
	message := fmt.Sprintf("trying the installation: %s: %s", e.Command, e.Problem)
	if e.Output != "" {
		message += "\n" + e.Output
	}
	return message
}

// Hint says what helps.
func (e *ProbeError) Hint() string {
	if e.Way != "" {
		return e.Way
	}
	return "llcuda-fetch doctor shows what this machine lacks; the previous installation is unchanged"
}

// A Probe is what the programs said.
type Probe struct {
	Version string    // of llama.cpp, as llama-server prints it
	Devices []string  // "CUDA0: NVIDIA H100 80GB HBM3 (81008 MiB, 80489 MiB free)"
	LeftOut []LeftOut // the CPU variants that fail on this machine
}

var deviceLine = regexp.MustCompile(`(?m)^\s*(CUDA[0-9]+: .*\S)\s*$`)

// probeLimit is the time that a program has. The first start on a GPU takes seconds; compiling PTX
// is not part of it.
const probeLimit = 2 * time.Minute

// TryPrograms starts an installation's llama-server in child processes: for its version, and, where
// a GPU is to be used, for the devices it sees. That a backend cannot be loaded is not an error to
// llama.cpp, which then silently runs on the CPU; so the GPU itself must be listed.
func TryPrograms(ctx context.Context, i launch.Installation, gpu bool) (Probe, error) {
	server, environ := filepath.Join(launch.ProgramsDir(i.Bundle), "llama-server"), i.Environ(os.Environ())
	out, err := try(ctx, environ, server, "--version")
	if err != nil {
		return Probe{}, err
	}
	var p Probe
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "version:") {
			p.Version = strings.TrimSpace(strings.TrimPrefix(line, "version:"))
		}
	}
	if !gpu {
		return p, nil
	}
	out, err = try(ctx, environ, server, "--list-devices")
	if err != nil {
		return p, err
	}
	for _, match := range deviceLine.FindAllStringSubmatch(out, -1) {
		p.Devices = append(p.Devices, match[1])
	}
	if len(p.Devices) == 0 {
		return p, &ProbeError{"llama-server --list-devices", "it sees no GPU", lastLines(out),
			"nvidia-smi says whether the GPU works; a container has to be started with --gpus all, which also brings the driver's libraries; llcuda-fetch doctor shows more"}
	}
	return p, nil
}

// try runs a program in a process group of its own and returns all it printed.
func try(ctx context.Context, environ []string, program string, args ...string) (string, error) {
	limit, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	cmd := exec.CommandContext(limit, program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	cmd.Env = environ
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	command := filepath.Base(program) + " " + strings.Join(args, " ")
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case limit.Err() != nil:
		return "", &ProbeError{command, fmt.Sprintf("it did not end within %s", probeLimit), lastLines(out.String()), ""}
	case errors.Is(err, os.ErrPermission):
		return "", &ProbeError{command, err.Error(), "", "the store's file system may be mounted noexec: --home (LLCUDA_HOME) chooses another folder"}
	case err != nil:
		return "", &ProbeError{command, err.Error(), lastLines(out.String()), ""}
	}
	return out.String(), nil
}

func lastLines(text string) string {
	const keep = 15
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-keep):], "\n")
}
