//go:build !linux

package cli

// endWithGoRun does nothing: this system does not notify a process of its parent's end.
func endWithGoRun(func()) error { return nil }
