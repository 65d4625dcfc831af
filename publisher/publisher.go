// Package publisher brings a finished release to the public: it plans what is missing on the other side, uploads that,
// reads back, compares, and only then makes it visible.
//
// ci's commands call it. In goes a folder that the farm made and signed; out comes a published release, or a draft that
// the next run completes:
//
//	Folder ──Plan──▶ upload what is missing ──▶ read again, compare ──▶ promote
//
// The remote side is behind small interfaces: ghrelease has GitHub Releases, hfhub the Hugging Face Hub, cosign the
// signatures. The package never builds, never packs, and never deletes what is whole and right on the other side.
package publisher

// Progress says how far the transfer of one file is. Done and Total are bytes.
type Progress struct {
	Name        string
	Done, Total int64
}

// A RefusedError is a remote side that says no, and would say so again: wrong credentials, a conflict with what is
// there, a release that cannot be changed any more. Trying again mends nothing.
type RefusedError struct {
	Err error
	// Way is the way out, for a person.
	Way string
}

func (e *RefusedError) Error() string { return e.Err.Error() }
func (e *RefusedError) Unwrap() error { return e.Err }

// Hint says the way out.
func (e *RefusedError) Hint() string { return e.Way }
