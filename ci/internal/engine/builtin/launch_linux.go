package builtin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// firstProcess runs as the first process of the engine's PID namespace. It
// waits until its PID is recorded, so that no engine can run unknown: if its
// parent dies before, it reads an end of file and ends. Then it becomes the
// init that ends, and all with it, when the engine ends.
const firstProcess = `read -r recorded || exit 125; mount -t proc proc /proc || exit 125; exec "$0" "$@" </dev/null`

// launch starts the engine in its namespaces, detached from this process.
func (e *Engine) launch(rec *record, built programs) (*process, error) {
	if socket := socketPath(rec.Name); len(socket) > len(unix.RawSockaddrUnix{}.Path)-1 {
		return nil, fmt.Errorf("placing the socket %s: the path is too long", socket)
	}
	configFile, binDir, err := writeConfig(e.opts.StateDir, rec.Name)
	if err != nil {
		return nil, err
	}
	config, err := newEngineConfig(e.opts.DiskLimit)
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{"state", "tmp", "home"} {
		if err := os.MkdirAll(filepath.Join(e.opts.StateDir, dir), 0o711); err != nil {
			return nil, fmt.Errorf("placing the engine's state: %w", err)
		}
	}
	if err := os.Rename(e.logFile(), e.logFile()+".1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("keeping the engine's last log: %w", err)
	}
	log, err := os.OpenFile(e.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the engine's log: %w", err)
	}
	defer log.Close()

	cmd := exec.Command("/bin/sh", "-c", firstProcess, built.init(), built.engine(),
		"--config", configFile,
		"--root", filepath.Join(e.opts.StateDir, "state"),
		"--addr", "unix://"+socketPath(rec.Name),
		"--network-name", rec.Network,
		"--network-cidr", rec.CIDR,
		"--oci-cni-binary-dir", built.cniDir(),
		"--oci-cni-pool-size", networkPool,
		"--oci-worker-platform", "linux/amd64",
	)
	cmd.Dir = "/"
	cmd.Env = engineEnv(e.opts.StateDir, binDir)
	cmd.Stdout, cmd.Stderr = log, log
	// A new session: the caller's terminal and its Ctrl-C are not the engine's.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWPID}
	recorded, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("starting the engine: %w", err)
	}
	defer recorded.Close()
	space := layout{name: rec.Name, stateDir: e.opts.StateDir, programs: built, config: config, ownNet: rec.NetNS != ""}
	err = onThread(func() error {
		if rec.NetNS != "" {
			if err := enterNetNS(rec.NetNS); err != nil {
				return err
			}
		}
		if e.opts.Nice != 0 {
			now, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
			if err != nil {
				return fmt.Errorf("reading the niceness: %w", err)
			}
			// The system call answers 20 minus the niceness.
			if err := unix.Setpriority(unix.PRIO_PROCESS, 0, 20-now+e.opts.Nice); err != nil {
				return fmt.Errorf("setting the niceness: %w", err)
			}
		}
		if err := space.enter(); err != nil {
			return err
		}
		return cmd.Start()
	})
	if err != nil {
		return nil, fmt.Errorf("starting the engine: %w", err)
	}
	// Reaps it if it ends before this process does; its state is read from its
	// own descriptor.
	go cmd.Wait()

	rec.PID = cmd.Process.Pid
	if rec.StartTime, err = startTime(rec.PID); err != nil {
		return nil, fmt.Errorf("starting the engine: %w", err)
	}
	proc, err := rec.live()
	if err != nil {
		return nil, err
	}
	if proc == nil {
		return nil, errors.New("starting the engine: it ended at once")
	}
	if err := rec.write(); err != nil {
		return proc, err
	}
	if _, err := recorded.Write([]byte("recorded\n")); err != nil {
		return proc, fmt.Errorf("starting the engine: %w", err)
	}
	return proc, nil
}

// engineEnv is all the engine inherits: proxies, which it also gives to the
// containers, and nothing that would make it report to a service.
func engineEnv(stateDir, binDir string) []string {
	env := []string{
		"PATH=" + binDir + ":" + toolPath,
		"HOME=" + filepath.Join(stateDir, "home"),
		"TMPDIR=" + filepath.Join(stateDir, "tmp"),
		"DO_NOT_TRACK=1",
	}
	for _, name := range []string{
		"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY",
		"http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy",
		"SSL_CERT_FILE", "SSL_CERT_DIR",
	} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// awaitAnswer returns when a client's call came back.
func (e *Engine) awaitAnswer(ctx context.Context, rec *record, proc *process) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("no answer within %s", startTimeout))
	defer cancel()
	var last error
	for {
		ended, err := proc.wait(ctx, startPoll)
		switch {
		case ended:
			return errors.New("it ended")
		case err != nil && last != nil:
			return fmt.Errorf("%w: %w", err, last)
		case err != nil:
			return err
		}
		// Its socket appears before it serves; only an answer counts.
		if _, err := os.Stat(socketPath(rec.Name)); err != nil {
			continue
		}
		if last = rec.answers(ctx, e.answerTimeout); last == nil {
			return nil
		}
	}
}
