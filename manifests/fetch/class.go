package fetch

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/hub"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
)

// A Class is a kind of error: what a script that calls the client would branch on.
type Class int

// The classes of errors.
const (
	Failed      Class = iota // anything else
	Usage                    // a name that stands for nothing
	Untrusted                // a signature or a checksum that does not hold
	NoGPU                    // no GPU, or no driver for it
	NoBundle                 // no bundle fits this machine
	Network                  // no mirror, or no Hub, answers
	NotOffline               // not on this machine, and the network must not be used
	Disk                     // the disk is full, or would be
	Interrupted              // the user stopped it
)

// Classify returns the class of an error.
func Classify(err error) Class {
	var none *manifests.NoBundleError
	var status *transfer.StatusError
	switch {
	case errors.Is(err, context.Canceled):
		return Interrupted
	case is[*NameError](err), is[*MirrorError](err), is[*NotHereError](err), is[*NoFileError](err), is[*hub.RefError](err), is[*hub.ChoiceError](err), is[*store.ForeignError](err), is[*store.DistrustError](err):
		return Usage
	case is[*TrustError](err), is[*transfer.DigestError](err), is[*transfer.SizeError](err), is[*store.ArchiveError](err), is[*hub.MismatchError](err), is[*DamageError](err):
		return Untrusted
	case errors.As(err, &none):
		switch none.Lack {
		case manifests.LackGPU, manifests.LackDriver:
			return NoGPU
		case manifests.LackDisk:
			return Disk
		}
		return NoBundle
	case is[*transfer.SpaceError](err), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EFBIG):
		return Disk
	case is[*OfflineError](err), is[*hub.OfflineError](err):
		return NotOffline
	case is[*transfer.NetworkError](err), is[*hub.NetworkError](err), errors.As(err, &status):
		return Network
	}
	return Failed
}

func is[T error](err error) bool {
	var as T
	return errors.As(err, &as)
}

// errorsOf returns all errors of a type that an error joins or wraps.
func errorsOf[T error](err error) []T {
	if found, ok := err.(T); ok {
		return []T{found}
	}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		return errorsOf[T](e.Unwrap())
	case interface{ Unwrap() []error }:
		var list []T
		for _, part := range e.Unwrap() {
			list = append(list, errorsOf[T](part)...)
		}
		return list
	}
	return nil
}
