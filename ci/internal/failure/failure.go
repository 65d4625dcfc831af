// Package failure has the two kinds of errors of which ci must know more than that something
// failed: what was found by reading a release is refused, and what the user gave cannot be used.
//
// Packages of ci return them, ci/internal/cli prints them with their hint and gives each kind an
// exit code of its own.
package failure

// A Refusal is a release, or a part of one, that breaks a rule: what it says was found by reading or
// running the files.
type Refusal struct{ hinted }

// Refuse makes a *Refusal. The hint is the way out.
func Refuse(err error, hint string) error { return &Refusal{hinted{err, hint}} }

// An InputError is something that was asked for or given, and that is not there, or cannot be used
// for this.
type InputError struct{ hinted }

// Input makes an *InputError. The hint is the way out.
func Input(err error, hint string) error { return &InputError{hinted{err, hint}} }

type hinted struct {
	err  error
	hint string
}

func (h hinted) Error() string { return h.err.Error() }
func (h hinted) Unwrap() error { return h.err }

// Hint is the way out.
func (h hinted) Hint() string { return h.hint }
