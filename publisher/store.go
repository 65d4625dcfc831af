package publisher

import (
	"context"
	"io"
	"strings"
	"time"
)

// A Store is a place that has releases, and files in them. Every method is one try: it returns an
// error as soon as something is wrong, and the caller decides what to do next. Errors are
// *RefusedError, *TemporaryError, ErrGone where the release or asset given is not there, ErrExists
// as said below, or an error of this machine's.
type Store interface {
	Releases
	Assets
}

// Releases is what a Store does with whole releases.
type Releases interface {
	// Find lists the releases and drafts of a tag, with what the list says of their assets. The
	// list may lag behind Create, but in order: where a draft is listed, all that were made before
	// it are.
	Find(ctx context.Context, tag string) ([]Release, error)
	// Create makes a draft. ErrExists: the tag has a published release.
	Create(ctx context.Context, draft Draft) (Release, error)
	// Promote makes a draft public; on a public release it changes nothing. ErrExists: the tag has
	// another one.
	Promote(ctx context.Context, release Release, draft Draft, latest Latest) (Release, error)
	// Discard removes a draft.
	Discard(ctx context.Context, release Release) error
}

// Assets is what a Store does with the files of a release.
type Assets interface {
	// Read reads a release again, with every asset that it has.
	Read(ctx context.Context, id int64) (Release, error)
	// Upload sends a file. ErrExists: the release has an asset of that name, whole or not.
	Upload(ctx context.Context, release Release, content Content) (Asset, error)
	// Download gives an asset's bytes, those of a draft too.
	Download(ctx context.Context, asset Asset) (io.ReadCloser, error)
	// Delete removes an asset.
	Delete(ctx context.Context, asset Asset) error
}

// A Release is a release as the server has it.
type Release struct {
	ID        int64
	Tag       string
	Draft     bool
	Immutable bool // it can no longer be changed
	Notes     string
	URL       string // its page, for people
	UploadURL string // where its assets are sent
	Assets    []Asset
}

// An Asset is a file of a release on the server.
type Asset struct {
	ID   int64
	Name string
	Size int64
	// SHA256 is empty where the server does not state it.
	SHA256 string
	// Whole says that all bytes arrived. One that is not whole is on its way, or never will be.
	Whole bool
	// Age is how long ago it was begun.
	Age time.Duration
}

// A Draft says what a release is to be.
type Draft struct {
	Tag   string
	Title string
	// Notes are in Markdown.
	Notes string
}

// mark ends the notes of drafts that this package made. Markdown does not show it.
const mark = "<!-- made by llcuda-farm -->"

// hasMark reports whether a release was made by this package.
func hasMark(r Release) bool { return strings.Contains(r.Notes, mark) }

// Latest determines whether a release becomes the one that "latest" leads to.
type Latest string

// The values of Latest. LatestLegacy leaves it to the server, which goes by date and version.
const (
	LatestTrue   Latest = "true"
	LatestFalse  Latest = "false"
	LatestLegacy Latest = "legacy"
)

// Content is a file to send.
type Content struct {
	Name string
	Size int64
	// Open opens it from the first byte. It may be called more than once, where a connection is
	// renewed.
	Open func() (io.ReadCloser, error)
	// Sent, if not nil, receives the number of bytes sent.
	Sent func(int64)
}
