package builtin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// shadowed are the host's folders that the engine writes to: name resolution
// and its own configuration to /etc, leases of addresses to /var/lib, an empty
// content store to /usr/local/share. It sees them as they are, and what it
// writes goes to memory.
var shadowed = []string{"/etc", "/var/lib", "/usr/local/share"}

// hostCertificates are what the host's administrator trusts. The engine would run
// update-ca-certificates with them in every container before its step, although
// no step has a network; and a step that is cancelled while it does runs on to
// its end, because the engine takes that for a failure of the certificates
// alone: installCACerts in dagger's engine/buildkit/executor_spec.go, v0.15.1.
const hostCertificates = "/usr/local/share/ca-certificates"

// containerInit is where the engine takes the first process of its containers
// from: DumbInitPath in docker/engine/distconsts.
const containerInit = "/run/llcuda-init"

// onThread runs f on an operating system thread of its own, which ends with
// f, and its namespaces, niceness and priority with it. Processes that f
// starts inherit them.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot end, and /proc/self would show its
			// namespaces: occupy it, so that f gets another one.
			err := onThread(f)
			runtime.UnlockOSThread()
			done <- err
			return
		}
		// Ending while locked ends the thread.
		done <- f()
	}()
	return <-done
}

// inNetNS runs f in a network namespace; an empty path is the host's.
func inNetNS(path string, f func() error) error {
	if path == "" {
		return f()
	}
	return onThread(func() error {
		if err := enterNetNS(path); err != nil {
			return err
		}
		return f()
	})
}

func enterNetNS(path string) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("entering the network namespace: %w", err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering the network namespace %s: %w", path, err)
	}
	return nil
}

// netNSID names a network namespace while it exists. An empty path is the
// host's.
func netNSID(path string) (string, error) {
	if path == "" {
		path = "/proc/self/ns/net"
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", fmt.Errorf("reading the network namespace %s: %w", path, err)
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino), nil
}

// A layout says what the mount namespace of an engine is made from.
type layout struct {
	name     string
	stateDir string // reachable at its own path
	programs programs
	config   []byte // the engine's /etc/dagger/engine.json
	ownNet   bool   // the thread has left the host's network namespace
}

// enter puts the calling thread into a mount namespace of its own in which
// the engine can write wherever it likes. No mount of it reaches the host.
func (l layout) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("making a mount namespace: %w", err)
	}
	// Since then the thread's umask is its own, too. Name resolution must be
	// readable for all whatever the caller's is.
	unix.Umask(0o022)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("detaching the mount namespace: %w", err)
	}

	// Everything the engine writes outside its own folder goes to this tmpfs.
	// On the host it is an empty folder.
	scratch := filepath.Join(l.stateDir, "ns")
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", scratch, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mounting the engine's scratch space: %w", err)
	}

	// What must stay reachable at its own path, wherever that is, is kept
	// aside before the folders above it are hidden.
	keep := map[string]string{ // path → where it is kept
		l.stateDir:     filepath.Join(scratch, "keep", "state"),
		l.programs.dir: filepath.Join(scratch, "keep", "programs"),
		runDir(l.name): filepath.Join(scratch, "keep", "run"),
	}
	for path, kept := range keep {
		if err := bind(path, kept); err != nil {
			return err
		}
	}
	if l.ownNet {
		if err := remountSysfs(filepath.Join(scratch, "keep", "cgroup")); err != nil {
			return err
		}
	}
	hidden := append([]string{"/run"}, shadowed...)
	for _, dir := range shadowed {
		if err := l.shadow(dir, filepath.Join(scratch, strings.ReplaceAll(dir[1:], "/", "-"))); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/run", hostCertificates} {
		err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755")
		if err != nil && !(dir == hostCertificates && errors.Is(err, fs.ErrNotExist)) {
			return fmt.Errorf("hiding %s: %w", dir, err)
		}
	}
	for path, kept := range keep {
		for _, dir := range hidden {
			if path == dir || strings.HasPrefix(path, dir+"/") {
				if err := bind(kept, path); err != nil {
					return err
				}
			}
		}
	}
	return bindFile(l.programs.init(), containerInit)
}

// remountSysfs lets /sys show the thread's own network namespace: a sysfs shows
// the one it was mounted in, and the engine ends with a nil pointer when it does
// not find its interfaces' statistics there.
func remountSysfs(keep string) error {
	const cgroups = "/sys/fs/cgroup"
	if err := os.MkdirAll(keep, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(cgroups, keep, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keeping the control groups: %w", err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /sys: %w", err)
	}
	if err := unix.Mount(keep, cgroups, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("restoring the control groups: %w", err)
	}
	return nil
}

// shadow lays a writable layer over a folder of the host.
func (l layout) shadow(dir, scratch string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	upper, work := filepath.Join(scratch, "upper"), filepath.Join(scratch, "work")
	if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
		return err
	}
	if dir == "/etc" {
		if err := l.writeEtc(upper); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work)
	if err := unix.Mount("overlay", dir, "overlay", 0, options); err != nil {
		return fmt.Errorf("laying an overlay over %s: %w", dir, err)
	}
	return nil
}

// writeEtc fills the layer over /etc. The engine bind-mounts over resolv.conf
// and its DNS server runs as another user: both need plain, readable files
// where the host may have links or bind mounts.
func (l layout) writeEtc(upper string) error {
	for _, name := range []string{"resolv.conf", "hosts", "hostname"} {
		data, err := os.ReadFile(filepath.Join("/etc", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(upper, name), data, 0o644); err != nil {
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(upper, "dagger"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(upper, "dagger", "engine.json"), l.config, 0o644)
}

// bindFile makes a program appear elsewhere.
func bindFile(from, to string) error {
	if err := os.WriteFile(to, nil, 0o755); err != nil {
		return err
	}
	return bindTo(from, to)
}

func bind(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	return bindTo(from, to)
}

func bindTo(from, to string) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("binding %s to %s: %w", from, to, err)
	}
	return nil
}
