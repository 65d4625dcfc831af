// Package hfhub publishes files to a model repository of the Hugging Face Hub.
//
// ci's publish command calls it. It takes what the repository shall contain (File) and makes one
// commit that has all of it:
//
//	head ──▶ build files ──▶ compare ──▶ preupload ──▶ LFS batch, PUT, verify ──▶ commit on that head ──▶ read back
//
// Whatever stops it on the way, the same call again ends in the same state: bytes that the Hub has
// are never sent again, files that the head has are not committed again, and a commit whose answer
// was lost is looked for before it is repeated. A head that moved meanwhile is read again and
// everything that depends on it is rebuilt, so concurrent publishers do not lose each other's
// files.
//
// What is resumed is whole files: the Hub's answer for an upload in parts names no parts that it
// has, so a process that dies in the middle of a file sends that file from its start. Within one
// process only the part that failed is sent again.
//
// Memory does not grow with the files. The token goes to the Hub's own address and nowhere else:
// not to the storage, not along a redirect to another scheme, host or port. The package deletes
// nothing, and never prints.
//
// The protocol is huggingface_hub's, without Xet, which is optional:
// https://github.com/huggingface/huggingface_hub/blob/main/src/huggingface_hub/_commit_api.py and
// lfs.py
package hfhub

import (
	"cmp"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests/retry"
	"github.com/waqasm86/llcuda-farm/publisher"
)

// DefaultEndpoint is the public Hub.
const DefaultEndpoint = "https://huggingface.co"

// A Client publishes to one Hub. Its fields are not changed while it is used.
type Client struct {
	// Endpoint is the Hub's address without a slash at its end; DefaultEndpoint where empty.
	Endpoint string
	// Tokens gives the token that publishes. Required, but for reading what is public.
	Tokens TokenSource
	// HTTP sends requests; nil: Go's defaults, which honor the proxy variables and SSL_CERT_FILE.
	// Its timeout, redirects and cookies are the client's own matter.
	HTTP *http.Client
	// Tries is how often a request is tried while retrying may help: 5 where 0.
	Tries int
	// FirstWait is before the second try; it doubles up to eight times that, and half of it is
	// random. A second where 0.
	FirstWait time.Duration
	// Stall is how long an upload may move no byte, and how long an answer may take: a minute where
	// 0. Commits, and the joining of parts, on which the Hub works, may take five times that.
	Stall time.Duration

	// Waiting, if not nil, hears how long the client waits before it tries again, and why.
	Waiting func(wait time.Duration, why error)

	tokens sync.Mutex
	token  *string // the last one that Tokens gave
}

const (
	maxWaits     = 8                // FirstWaits; huggingface_hub's longest wait is 8 seconds
	maxAsked     = 15 * time.Minute // the longest wait that the Hub may ask for: its limits are per five minutes and per hour
	maxRedirects = 5                // of the Hub to itself: a renamed repository is one
	maxAnswer    = 16 << 20         // bytes of an answer that are read; a batch of 100 files in parts is below 10 MB
	replans      = 8                // how often the head may move under one publication
)

const (
	filesAtOnce = 2 // uploads; the network is shared by them
	partsAtOnce = 3 // of one file, as huggingface_hub's own uploads
)

func (c *Client) endpoint() string {
	return strings.TrimRight(cmp.Or(c.Endpoint, DefaultEndpoint), "/")
}
func (c *Client) tries() int               { return cmp.Or(c.Tries, retry.Tries) }
func (c *Client) stall() time.Duration     { return cmp.Or(c.Stall, time.Minute) }
func (c *Client) firstWait() time.Duration { return cmp.Or(c.FirstWait, time.Second) }

// A File is what the repository shall hold.
type File struct {
	// Path is where, with slashes.
	Path string
	// Local is a file on this machine. Content is taken where it is empty.
	Local   string
	Content []byte
	// SHA256 is Local's digest in lower-case hex, where the caller has just read it (see Digest);
	// else it is computed.
	SHA256 string
}

// Options say how to publish. The zero value is a good one.
type Options struct {
	// Message is the commit's; "Publish" and the files' number where empty.
	Message string
	// Private makes a repository that does not exist a private one.
	Private bool
	// Progress, if not nil, hears of the bytes of each file as they are sent.
	Progress func(publisher.Progress)
}

// A Change is what is to be done with one file.
type Change struct {
	Path string
	Size int64
	// SHA256 is that of the file's bytes.
	SHA256 string
	// There says that the repository has it already.
	There bool
}

// A Plan is what a publication will change.
type Plan struct {
	Repo string
	// Head is the commit it begins at; empty if the repository does not exist.
	Head    string
	Changes []Change
}

// Missing are the changes that are to be made.
func (p Plan) Missing() (missing []Change) {
	for _, change := range p.Changes {
		if !change.There {
			missing = append(missing, change)
		}
	}
	return missing
}

// A Result is a publication that is complete and was read back.
type Result struct {
	Plan
	// Commit has all files. It is Head where nothing was to be done.
	Commit string
	// URL is the repository's page.
	URL string
	// Created says that the repository did not exist.
	Created bool
	// Sent is how many bytes went to the storage.
	Sent int64
}
