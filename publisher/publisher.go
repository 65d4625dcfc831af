// Package publisher publishes a finished release: it plans what is missing on the server, uploads
// that, reads back, compares, and only then makes the release visible.
//
// ci's commands call it. It takes a folder that the farm made and signed, and leaves a published
// release, or a draft that the next run completes:
//
//	Folder ──Plan──▶ upload what is missing ──▶ read again, compare ──▶ promote
//
// The server is behind small interfaces: ghrelease has GitHub Releases, hfhub the Hugging Face
// Hub, cosign the signatures. The package never builds, never packs, and never deletes what is
// whole and right on the server.
//
// # Whatever fails on the way
//
// Only a read establishes the state of the server; no other answer does. After any error the release
// is read again: an asset that is there by name, size and digest is done, no matter which run sent
// it and whether or not its answer arrived; an upload that was begun and never finished is deleted;
// the rest is sent again. So a run that was killed at any moment, or ran beside another one, leaves
// a draft that the next run completes, and a release that is published is whole.
//
// The server has no locks. Two runs, or a run whose answer was lost, may make two drafts of one
// tag. Before the first upload each run therefore waits until its draft is listed, and takes the
// oldest listed; empty ones beside that, which carry the mark of this package in their notes, are
// discarded. Drafts that have anything in them are never discarded: where two of them share a tag,
// a person has to decide.
package publisher

import (
	"errors"

	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/manifests/retry"
)

// Progress is how far the transfer of one file is.
type Progress = measure.Progress

// A RefusedError is a refusal that the server would repeat: wrong credentials, a conflict with what
// is there, a release that can no longer be changed. Trying again does not help.
type RefusedError struct {
	Err error
	// Way is the way out, for a person.
	Way string
}

func (e *RefusedError) Error() string { return e.Err.Error() }
func (e *RefusedError) Unwrap() error { return e.Err }

// Hint says the way out.
func (e *RefusedError) Hint() string { return e.Way }

// A TemporaryError is an error that may not recur on the next try: a lost connection, an overloaded
// server, a rate limit.
type TemporaryError = retry.TemporaryError

// What a Store says of its things, beside RefusedError and TemporaryError.
var (
	// ErrExists is a name or tag that is taken.
	ErrExists = errors.New("it exists already")
	// ErrGone is something that was there and is not a longer.
	ErrGone = errors.New("it is not there any more")
)
