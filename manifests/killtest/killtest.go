// Package killtest kills commands at random moments, for tests of what a killed command leaves behind.
package killtest

import (
	"errors"
	"math/rand/v2"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// A Killer runs commands and kills each with SIGKILL at a random moment. It learns how long they run: the window of
// those moments grows with each command killed and shrinks with each that ended first, so that about one in four ends
// by itself, however fast the machine is and whatever runs beside the test. It is safe for concurrent use.
type Killer struct {
	mu     sync.Mutex
	random *rand.Rand
	window time.Duration

	killed, ended int
}

// New returns a Killer whose first moments are spread over window: as long as a whole run takes, as far as it is known.
func New(seed uint64, window time.Duration) *Killer {
	return &Killer{random: rand.New(rand.NewPCG(seed, 2)), window: max(window, time.Millisecond)}
}

// Run runs the command and reports whether it was killed. The error is the command's own, if it ended by itself, or
// says why it could not be started.
func (k *Killer) Run(cmd *exec.Cmd) (killed bool, err error) {
	k.mu.Lock()
	after := time.Duration(k.random.Int64N(int64(k.window)))
	k.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return false, err
	}
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() }) // it may have ended
	err = cmd.Wait()
	timer.Stop()

	k.mu.Lock()
	defer k.mu.Unlock()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		k.killed++
		k.window += k.window/16 + 1
		return true, nil
	}
	k.ended++
	k.window = max(k.window-k.window/6, time.Millisecond)
	return false, err
}

// Killed and Ended count the commands that were killed and those that ended by themselves.
func (k *Killer) Killed() int { k.mu.Lock(); defer k.mu.Unlock(); return k.killed }
func (k *Killer) Ended() int  { k.mu.Lock(); defer k.mu.Unlock(); return k.ended }
