package fetch

import (
	"errors"
	"fmt"
	"strings"
)

// A TrustError is a release that cannot be believed. Nothing of it was installed.
type TrustError struct {
	Err  error
	hint string
}

func (e *TrustError) Error() string { return e.Err.Error() }
func (e *TrustError) Unwrap() error { return e.Err }

// Hint says what it may mean.
func (e *TrustError) Hint() string {
	var below interface{ Hint() string }
	if errors.As(e.Err, &below) {
		return below.Hint()
	}
	return e.hint
}

// An OfflineError is something that is not on this machine, where the network must not be used.
type OfflineError struct{ What string }

func (e *OfflineError) Error() string {
	return e.What + " is not on this machine, and the network must not be used"
}

// Hint says what helps.
func (e *OfflineError) Hint() string {
	return "run it once without --offline, LLCUDA_OFFLINE and HF_HUB_OFFLINE, or carry a folder of `llcuda-fetch export` here and use install --from DIR"
}

// A NameError is an unknown name. Known lists what there is.
type NameError struct {
	Kind, Name string
	Known      []string
}

func (e *NameError) Error() string {
	return fmt.Sprintf("there is no %s %q; there is %s", e.Kind, e.Name, strings.Join(e.Known, ", "))
}
