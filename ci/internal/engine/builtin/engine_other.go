//go:build !linux

package builtin

import (
	"context"
	"runtime"
)

// Preflight says that the built-in engine runs on Linux only.
func (e *Engine) Preflight() error {
	return &PreflightError{Problems: []string{"it needs linux/amd64, this is " + runtime.GOOS + "/" + runtime.GOARCH}}
}

// Up cannot work here.
func (e *Engine) Up(context.Context, func(string)) (Info, error) { return Info{}, e.Preflight() }

// Status cannot work here.
func (e *Engine) Status(context.Context) (Info, error) { return Info{}, e.Preflight() }

// Down cannot work here.
func (e *Engine) Down(context.Context) error { return e.Preflight() }

// Prune cannot work here.
func (e *Engine) Prune(context.Context) (int64, error) { return 0, e.Preflight() }

// RunnerHost returns an empty address: this system has no built-in engine.
func RunnerHost(string) string { return "" }

func (e *Engine) follow() error { return nil }

// NameOf is the name of the built-in engine that a runner host belongs to: never, here.
func NameOf(string) (name string, ok bool) { return "", false }
