package builtin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
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
	// Only root can start an engine or open its socket.
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
	// Take its own lock: another process may be starting it at this moment.
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
	running := now.StateDir != r.StateDir || proc != nil
	if proc != nil {
		defer proc.close()
		if ending, err := isEnding(now.PID); err != nil || ending {
			ended, err := proc.wait(ctx, killTimeout)
			if err != nil {
				return err
			}
			running = !ended
		}
	}
	if running {
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

// claim assigns the engine its network and writes its record.
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
