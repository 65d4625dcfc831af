package builtin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

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

// Prune frees the engine's cache and returns how many bytes that freed. A
// running engine keeps what its sessions use and continues to run; for a
// stopped one, everything is removed. Compiled engines that are not running are
// removed, too.
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
