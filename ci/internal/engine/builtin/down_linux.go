package builtin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

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
