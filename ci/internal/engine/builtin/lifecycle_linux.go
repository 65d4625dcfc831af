package builtin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// startTimeout bounds the time from the start to the first answer: opening
	// a large cache on a slow, busy disk takes long.
	startTimeout = 2 * time.Minute
	startPoll    = 200 * time.Millisecond

	// statusTimeout is how long Status waits for an answer.
	statusTimeout = 10 * time.Second

	// stopTimeout is what an engine gets to end its sessions and close its
	// databases before it is killed; one that does not answer gets less.
	stopTimeout     = 20 * time.Second
	stopHungTimeout = 5 * time.Second

	// killTimeout bounds the end of everything in a killed PID namespace. Only
	// a process that hangs in the kernel takes that long.
	killTimeout = 30 * time.Second

	// networkPool is how many network namespaces the engine keeps ready. Its
	// default of 16 takes seconds at every start.
	networkPool = "4"
)

// Up returns the running engine, after starting it if need be. Several calls
// at a time, in one process or many, start one engine. progress gets a line
// for each thing that takes time; it may be nil.
func (e *Engine) Up(ctx context.Context, progress func(string)) (Info, error) {
	if progress == nil {
		progress = func(string) {}
	}
	// Whoever is not root can neither start an engine nor open its socket.
	if os.Geteuid() != 0 {
		return Info{}, e.Preflight()
	}
	if err := e.follow(); err != nil {
		return Info{}, err
	}
	unlock, err := e.lock(ctx, progress)
	if err != nil {
		return Info{}, err
	}
	defer unlock()

	rec, err := readRecord(e.opts.Name)
	if err != nil {
		return Info{}, err
	}
	if rec != nil {
		running, err := e.reuse(ctx, rec, progress)
		if err != nil {
			return Info{}, err
		}
		if running {
			return e.info(rec, true), nil
		}
	}

	if err := e.Preflight(); err != nil {
		return Info{}, err
	}
	if err := overlayWorks(existingParent(e.opts.StateDir)); err != nil {
		progress(fmt.Sprintf("warning: %v; the engine will copy whole file systems instead, which is slow and takes much disk. "+
			"A volume at %s helps, or XDG_CACHE_HOME on another file system", err, e.opts.StateDir))
	}
	module, err := e.moduleDir()
	if err != nil {
		return Info{}, err
	}
	if err := installPackages(ctx, module, progress); err != nil {
		return Info{}, err
	}
	built, err := e.build(ctx, module, progress)
	if err != nil {
		return Info{}, err
	}
	progress("starting engine " + e.opts.Name)
	rec, err = e.start(ctx, built)
	if err != nil {
		return Info{}, err
	}
	return e.info(rec, true), nil
}

// follow takes the state folder of the running engine of this name, unless the
// caller named one.
func (e *Engine) follow() error {
	if !e.anyState {
		return nil
	}
	rec, err := readRecord(e.opts.Name)
	if err != nil || rec == nil || rec.StateDir == e.opts.StateDir {
		return err
	}
	proc, err := rec.live()
	if err != nil || proc == nil {
		return err
	}
	proc.close()
	e.opts.StateDir = rec.StateDir
	return nil
}

// lock keeps others from starting or ending this engine.
func (e *Engine) lock(ctx context.Context, progress func(string)) (func(), error) {
	return lockDir(ctx, e.opts.StateDir, 0o700, func() {
		progress("waiting for another process that starts or ends engine " + e.opts.Name)
	})
}

// reuse reports whether the recorded engine is up. If it is not, nothing is
// left of it afterwards.
func (e *Engine) reuse(ctx context.Context, rec *record, progress func(string)) (bool, error) {
	if rec.StateDir != e.opts.StateDir {
		return false, rec.takeName(ctx, progress)
	}
	proc, err := rec.live()
	if err != nil {
		return false, err
	}
	if proc == nil {
		progress("cleaning up after engine " + rec.Name + ", which was killed")
		return false, rec.clean(ctx)
	}
	defer proc.close()
	if e.opts.NetNS != "" && rec.NetNS != e.opts.NetNS {
		return false, &PreflightError{Problems: []string{fmt.Sprintf("engine %s already runs in another network namespace (%q)", rec.Name, rec.NetNS)}}
	}
	answerErr := rec.answers(ctx, e.answerTimeout)
	if answerErr == nil {
		return true, nil
	}
	if ctx.Err() != nil {
		return false, answerErr
	}
	progress("restarting engine " + rec.Name + ", which does not answer")
	if err := stop(ctx, proc, stopHungTimeout); err != nil {
		return false, err
	}
	return false, rec.clean(ctx)
}

// takeName frees the name of an engine whose state is elsewhere, if that engine
// was killed. One that runs keeps its name.
func (r *record) takeName(ctx context.Context, progress func(string)) error {
	// Its own lock: somebody may be starting it at this moment.
	unlock, err := lockDir(ctx, r.StateDir, 0o700, nil)
	if err != nil {
		return err
	}
	defer unlock()
	now, err := readRecord(r.Name)
	if err != nil || now == nil {
		return err
	}
	var proc *process
	if now.StateDir == r.StateDir {
		if proc, err = now.live(); err != nil {
			return err
		}
	}
	if now.StateDir != r.StateDir || proc != nil {
		if proc != nil {
			proc.close()
		}
		return &PreflightError{Problems: []string{fmt.Sprintf("an engine named %s runs with its state in %s", now.Name, now.StateDir)}}
	}
	progress("cleaning up after engine " + now.Name + " of " + now.StateDir + ", which was killed")
	return now.clean(ctx)
}

// start starts the engine and waits for its first answer.
func (e *Engine) start(ctx context.Context, built programs) (*record, error) {
	rec, err := e.claim(ctx, built)
	if err != nil {
		return nil, err
	}
	proc, err := e.launch(rec, built)
	if err == nil {
		defer proc.close()
		err = e.awaitAnswer(ctx, rec, proc)
	}
	if err == nil {
		return rec, nil
	}
	// Whatever failed, the caller's cancellation included, leaves nothing.
	cleanCtx := context.WithoutCancel(ctx)
	failure := &StartError{Name: rec.Name, Log: e.logFile(), Err: err}
	if proc != nil {
		failure.Err = errors.Join(failure.Err, stop(cleanCtx, proc, stopTimeout))
	}
	if log, err := os.ReadFile(e.logFile()); err == nil {
		failure.Tail = lastLines(log, 10)
	}
	failure.Err = errors.Join(failure.Err, rec.clean(cleanCtx))
	return nil, failure
}

// claim gives the engine its network and writes its record.
func (e *Engine) claim(ctx context.Context, built programs) (*record, error) {
	unlock, err := lockRecords(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	// What is here now has no record of this boot.
	if err := os.RemoveAll(runDir(e.opts.Name)); err != nil {
		return nil, fmt.Errorf("claiming engine %s: %w", e.opts.Name, err)
	}
	others, err := readRecords()
	if err != nil {
		return nil, err
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	rec := &record{
		Name:      e.opts.Name,
		BootID:    boot,
		Started:   time.Now().UTC().Truncate(time.Second),
		StateDir:  e.opts.StateDir,
		Binaries:  built.dir,
		Version:   built.version,
		DiskLimit: e.opts.DiskLimit,
		NetNS:     e.opts.NetNS,
		Network:   networkName(e.opts.Name),
	}
	if rec.NetNSID, err = netNSID(e.opts.NetNS); err != nil {
		return nil, err
	}
	var addrs []net.Addr
	err = inNetNS(e.opts.NetNS, func() error {
		// Who shares the network namespace need not share /run: an engine in a
		// container, say. What is not on record is not ours to remove later.
		if _, err := net.InterfaceByName(bridgeName(rec.Network)); err == nil {
			return fmt.Errorf("its bridge %s exists, and no engine here has it; choose another name", bridgeName(rec.Network))
		}
		addrs, err = net.InterfaceAddrs()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("starting engine %s: %w", rec.Name, err)
	}
	if rec.CIDR, err = freeRange(others, addrs); err != nil {
		return nil, err
	}
	inherited := false
	for _, other := range others {
		switch {
		case other.StateDir == rec.StateDir:
			return nil, fmt.Errorf("starting engine %s: engine %s has its state in %s", rec.Name, other.Name, rec.StateDir)
		case other.Network == rec.Network:
			return nil, fmt.Errorf("starting engine %s: its network has the name of engine %s's; choose another name", rec.Name, other.Name)
		case other.NetNSID == rec.NetNSID:
			// Its engine has changed the namespace already.
			rec.Baseline, inherited = other.Baseline, true
		}
	}
	if !inherited {
		if rec.Baseline, err = readBaseline(ctx, rec.NetNS); err != nil {
			return nil, err
		}
	}
	return rec, rec.write()
}

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

// Down ends the engine and removes all it left but its caches. It is done
// when there is nothing to end.
func (e *Engine) Down(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("ending the engine: it needs root")
	}
	if err := e.follow(); err != nil {
		return err
	}
	if _, err := os.Stat(e.opts.StateDir); errors.Is(err, os.ErrNotExist) {
		return nil // never started: do not make its folder either
	}
	unlock, err := e.lock(ctx, func(string) {})
	if err != nil {
		return err
	}
	defer unlock()
	return e.down(ctx)
}

// down expects the lock to be held.
func (e *Engine) down(ctx context.Context) error {
	rec, err := readRecord(e.opts.Name)
	if err != nil || rec == nil {
		return err
	}
	if rec.StateDir != e.opts.StateDir {
		return fmt.Errorf("ending engine %s: the one of that name has its state in %s", rec.Name, rec.StateDir)
	}
	proc, err := rec.live()
	if err != nil {
		return err
	}
	if proc != nil {
		defer proc.close()
		if err := stop(ctx, proc, stopTimeout); err != nil {
			return err
		}
	}
	return rec.clean(ctx)
}

// stop asks a process to end, kills it if it has not after the grace, and waits
// for its end.
func stop(ctx context.Context, proc *process, grace time.Duration) error {
	for _, step := range []struct {
		sig     unix.Signal
		timeout time.Duration
	}{{unix.SIGTERM, grace}, {unix.SIGKILL, killTimeout}} {
		if err := proc.signal(step.sig); err != nil {
			return fmt.Errorf("ending the engine: %w", err)
		}
		ended, err := proc.wait(ctx, step.timeout)
		if err != nil || ended {
			return err
		}
	}
	return fmt.Errorf("ending the engine: it is still there %s after it was killed", killTimeout)
}

// clean removes what an ended engine left, its record last: if anything fails,
// the next Up or Down tries again.
func (r *record) clean(ctx context.Context) error {
	unlock, err := lockRecords(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	others, err := readRecords()
	if err != nil {
		return err
	}
	alone := true
	for _, other := range others {
		if other.Name != r.Name && other.NetNSID == r.NetNSID {
			alone = false
		}
	}
	if err := r.cleanNetwork(ctx, alone); err != nil {
		return err
	}
	if err := removeCgroups(r.Name); err != nil {
		return err
	}
	if err := os.RemoveAll(runDir(r.Name)); err != nil {
		return fmt.Errorf("cleaning up after engine %s: %w", r.Name, err)
	}
	return nil
}

// Status describes the engine without changing it.
func (e *Engine) Status(ctx context.Context) (Info, error) {
	if err := e.follow(); err != nil {
		return Info{}, err
	}
	rec, err := readRecord(e.opts.Name)
	if err != nil {
		return Info{}, err
	}
	if rec == nil || rec.StateDir != e.opts.StateDir {
		return e.measure(e.info(nil, false))
	}
	proc, err := rec.live()
	if err != nil {
		return Info{}, err
	}
	if proc == nil {
		return e.measure(e.info(nil, false))
	}
	defer proc.close()
	answerErr := rec.answers(ctx, min(e.answerTimeout, statusTimeout))
	if ctx.Err() != nil {
		return Info{}, answerErr
	}
	return e.measure(e.info(rec, answerErr == nil))
}

// info describes a running engine, or with no record one that is not.
func (e *Engine) info(rec *record, answers bool) Info {
	info := Info{
		Name:      e.opts.Name,
		StateDir:  e.opts.StateDir,
		Log:       e.logFile(),
		NetNS:     e.opts.NetNS,
		DiskLimit: e.opts.DiskLimit,
	}
	if rec != nil {
		info.Running, info.Answers = true, answers
		info.Cgroup = "/" + cgroupParent(rec.Name)
		info.RunnerHost = RunnerHost(rec.Name)
		info.CLI = programs{dir: rec.Binaries}.cli()
		info.Version, info.PID, info.Started = rec.Version, rec.PID, rec.Started
		info.NetNS, info.Bridge, info.CIDR = rec.NetNS, bridgeName(rec.Network), rec.CIDR
		info.DiskLimit = rec.DiskLimit
	}
	return info
}

// measure adds the disk's numbers, which takes a walk through all the state.
func (e *Engine) measure(info Info) (Info, error) {
	var err error
	if _, statErr := os.Stat(e.opts.StateDir); statErr == nil {
		if info.DiskUsed, err = diskUsed(e.opts.StateDir); err != nil {
			return Info{}, err
		}
	}
	if info.DiskFree, err = diskFree(existingParent(e.opts.StateDir)); err != nil {
		return Info{}, err
	}
	return info, nil
}

// Prune frees the engine's cache and returns how many bytes that gave. A
// running engine keeps what its sessions use and goes on; of one that does not
// run everything goes. Compiled engines that nothing runs go, too.
func (e *Engine) Prune(ctx context.Context) (freed int64, err error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("freeing the engine's cache: it needs root")
	}
	if err := e.follow(); err != nil {
		return 0, err
	}
	unlock, err := e.lock(ctx, func(string) {})
	if err != nil {
		return 0, err
	}
	defer unlock()
	before, err := e.cacheSize()
	if err != nil {
		return 0, err
	}
	rec, err := readRecord(e.opts.Name)
	if err != nil {
		return 0, err
	}
	var proc *process
	if rec != nil {
		if proc, err = rec.live(); err != nil {
			return 0, err
		}
	}
	if proc != nil {
		defer proc.close()
		var done struct{}
		if err := rec.query(ctx, "{ engine { localCache { prune } } }", &done); err != nil {
			return 0, fmt.Errorf("freeing the engine's cache: %w", err)
		}
	} else {
		if rec != nil {
			if err := rec.clean(ctx); err != nil {
				return 0, err
			}
		}
		for _, dir := range []string{"state", "tmp"} {
			if err := os.RemoveAll(filepath.Join(e.opts.StateDir, dir)); err != nil {
				return 0, fmt.Errorf("freeing the engine's cache: %w", err)
			}
		}
	}
	if err := e.prunePrograms(ctx); err != nil {
		return 0, err
	}
	after, err := e.cacheSize()
	if err != nil {
		return 0, err
	}
	return before - after, nil
}

func (e *Engine) cacheSize() (int64, error) {
	var size int64
	for _, dir := range []string{e.opts.StateDir, e.opts.BinaryDir} {
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		used, err := diskUsed(dir)
		if err != nil {
			return 0, err
		}
		size += used
	}
	return size, nil
}

// prunePrograms removes the compiled engines that neither run nor belong to
// this checkout.
func (e *Engine) prunePrograms(ctx context.Context) error {
	unlock, err := lockDir(ctx, e.opts.BinaryDir, 0o755, nil)
	if err != nil {
		return err
	}
	defer unlock()
	used := map[string]bool{}
	if module, err := e.moduleDir(); err == nil {
		if p, err := e.programs(module); err == nil {
			used[p.dir] = true
		}
	}
	records, err := readRecords()
	if err != nil {
		return err
	}
	for _, r := range records {
		used[r.Binaries] = true
	}
	dirs, err := filepath.Glob(filepath.Join(e.opts.BinaryDir, "*"))
	if err != nil {
		return fmt.Errorf("freeing compiled engines: %w", err)
	}
	for _, dir := range dirs {
		if used[dir] {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("freeing compiled engines: %w", err)
		}
	}
	return nil
}
