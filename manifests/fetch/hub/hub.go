// Package hub brings single files of Hugging Face repositories to this machine,
// into the cache that huggingface_hub uses, in its layout and with its locks, so
// that neither downloads what the other has.
//
// The client calls it for models. In go a file's name (Ref) and what the
// manifest says of it (Want); out comes the path under which llama.cpp, or
// Python's huggingface_hub, finds it (Result):
//
//	HEAD resolve  →  compare with Want  →  lock  →  blobs/<etag>.6c6c6375.incomplete
//	→  whole and of the right digest  →  blobs/<etag>  ←  snapshots/<commit>/<path>
//
// A file in the cache is returned with no network where the revision is a commit
// or the client is offline. Otherwise the Hub is asked once; where it does not
// answer, the cache does, and Result.Unasked says why.
//
// The package also says how many of a model's layers a machine's GPUs hold (Layers).
//
// It never sends the token to another host than the Hub's, never follows a
// redirect of the Hub's that leads elsewhere (package transfer does, without the
// token), never deletes what others put into the cache, never writes outside it,
// and never prints. Windows is not supported.
//
// The layout and its rules are huggingface_hub's, src/huggingface_hub/file_download.py:
// https://github.com/huggingface/huggingface_hub/blob/main/src/huggingface_hub/file_download.py
package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
)

// DefaultEndpoint is the Hub that everybody means.
const DefaultEndpoint = "https://huggingface.co"

// A Client downloads from one Hub into one cache. Its fields are not changed while it is used.
type Client struct {
	// Cache is the folder that holds models--org--name. Required.
	Cache string
	// Endpoint is the Hub's address without a slash at its end; DefaultEndpoint where empty.
	Endpoint string
	// Token goes to the Endpoint and nowhere else. Public files need none.
	Token string
	// Offline keeps the client from using the network.
	Offline bool
	// NoLinks makes the snapshots hold files, for file systems without symbolic links.
	// Where a link cannot be made, that happens by itself.
	NoLinks bool
	// HTTP asks the Hub about files; nil: http.DefaultClient. Its timeout, redirects and cookies are the client's own matter.
	HTTP *http.Client
	// Transfer downloads; nil: its zero value.
	Transfer *transfer.Client
	// RetryWait is the time before the Hub is asked a second time; it doubles from try to try. A second where 0.
	RetryWait time.Duration
	// Waiting, if not nil, hears the path of the lock when another process is downloading the same file.
	Waiting func(lock string)
}

// Want is what the manifest says of a file. What it does not say is zero.
type Want struct {
	Size   int64  // bytes
	SHA256 string // lower-case hex
}

// A Result is a file in the cache.
type Result struct {
	// Path is in the snapshot: it ends in the file's own name.
	Path string
	// Commit is the commit of the repository that the file is of.
	Commit string
	// Size is in bytes.
	Size int64
	// Cached says that nothing was downloaded.
	Cached bool
	// Unasked is why the Hub gave no answer, where the cache answered for it: the file
	// may be older than the Hub's.
	Unasked error
}

// Download brings a file into the cache. progress, if not nil, hears of the bytes as they come.
//
// Errors: *OfflineError, *NetworkError, *GatedError, *RepositoryError, *RevisionError, *FileError, *TokenError,
// *RefusedError, *MismatchError (which is never tried again), those of transfer.Client.Fetch, and the file system's.
func (c *Client) Download(ctx context.Context, ref Ref, want Want, progress func(transfer.Progress)) (Result, error) {
	if err := ref.check(); err != nil {
		return Result{}, err
	}
	if c.Cache == "" {
		return Result{}, errors.New("no folder given for the Hub's cache")
	}
	store := c.repository(ref)
	cached, found, unfit := store.find(ref, want)
	switch {
	case found && unfit == nil && (c.Offline || isCommit(ref.Revision)):
		return cached, nil
	case c.Offline && unfit != nil:
		return Result{}, unfit
	case c.Offline:
		return Result{}, &OfflineError{Ref: ref, Cache: c.Cache}
	}

	file, err := c.resolve(ctx, ref, found && unfit == nil)
	if err != nil {
		var missing *FileError
		if errors.As(err, &missing) {
			store.rememberMissing(ref, missing.commit)
		}
		if ctx.Err() != nil || !found || unfit != nil || !cacheAnswersFor(err) {
			return Result{}, err
		}
		cached.Unasked = err
		return cached, nil
	}
	if err := file.compare(ref, want, c.endpoint()); err != nil {
		return Result{}, err
	}
	return c.place(ctx, store, ref, want, file, progress)
}

// A Known is what somebody who has a file of the Hub's says of it.
type Known struct {
	Commit string // the commit of the repository
	Size   int64  // bytes
	SHA256 string // lower-case hex
}

// Import brings a file into the cache from other addresses than the Hub's, with no word from the Hub: an exported folder,
// or a mirror. Its bytes must have the digest given. The token is not sent. Errors: those of Download but the Hub's.
func (c *Client) Import(ctx context.Context, ref Ref, want Want, known Known, urls []string, progress func(transfer.Progress)) (Result, error) {
	if err := ref.check(); err != nil {
		return Result{}, err
	}
	if c.Cache == "" {
		return Result{}, errors.New("no folder given for the Hub's cache")
	}
	if !isCommit(known.Commit) || !sha256Hex.MatchString(known.SHA256) || known.Size <= 0 || len(urls) == 0 {
		return Result{}, fmt.Errorf("importing %s: commit, size, sha256 and an address are needed", ref)
	}
	file := remote{commit: known.Commit, etag: known.SHA256, size: known.Size, sha256: known.SHA256, urls: urls}
	if err := file.compare(ref, want, urls[0]); err != nil {
		return Result{}, err
	}
	return c.place(ctx, c.repository(ref), ref, want, file, progress)
}

// cacheAnswersFor tells whether a file in the cache will do although the Hub gave an error.
// It will not where the Hub knows the repository and says that the file is not in it.
func cacheAnswersFor(err error) bool {
	var revision *RevisionError
	var file *FileError
	return !errors.As(err, &revision) && !errors.As(err, &file)
}

// place has the file in the cache and returns it.
func (c *Client) place(ctx context.Context, store repository, ref Ref, want Want, file remote, progress func(transfer.Progress)) (Result, error) {
	result := Result{Path: store.pointer(file.commit, ref.Path), Commit: file.commit, Size: file.size, Cached: true}
	if unfit := fits(result.Path, Want{Size: file.size, SHA256: want.SHA256}); unfit == nil {
		// Best effort: the cache may be mounted read-only, and the file is there.
		_ = store.writeRef(ref.Revision, file.commit)
		return result, nil
	}
	if err := store.prepare(ref, file); err != nil {
		return Result{}, fmt.Errorf("preparing the cache %s: %w", c.Cache, err)
	}
	partial, unlock, err := store.lock(ctx, file.etag, c.Waiting)
	if err != nil {
		return Result{}, err
	}
	defer unlock()

	// What another process brought while this one waited, or what another revision has.
	blob := store.blob(file.etag)
	if fits(blob, Want{Size: file.size, SHA256: cmp.Or(file.sha256, want.SHA256)}) != nil {
		if err := c.fetch(ctx, ref, want, file, partial, progress); err != nil {
			return Result{}, err
		}
		if err := os.Rename(partial, blob); err != nil {
			return Result{}, err
		}
		result.Cached = false
	}
	if err := store.link(file.etag, result.Path, c.NoLinks, !result.Cached); err != nil {
		return Result{}, fmt.Errorf("linking %s: %w", ref, err)
	}
	return result, nil
}

// fetch downloads the file to partial and checks it.
func (c *Client) fetch(ctx context.Context, ref Ref, want Want, file remote, partial string, progress func(transfer.Progress)) error {
	// Made here, the file has the mode that the user's umask gives, as huggingface_hub's have.
	made, err := os.OpenFile(partial, os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	if err := made.Close(); err != nil {
		return err
	}
	client := c.Transfer
	if client == nil {
		client = &transfer.Client{}
	}
	blob := transfer.Blob{
		Name:   ref.String(),
		Size:   file.size,
		SHA256: cmp.Or(file.sha256, want.SHA256),
		// By commit: a branch may move between the question and the download.
		URLs:   []string{resolveURL(c.endpoint(), ref, file.commit)},
		Header: c.authorization(),
	}
	if file.urls != nil {
		blob.URLs, blob.Header = file.urls, nil
	}
	if err := client.Fetch(ctx, blob, partial, nil, progress); err != nil {
		return fmt.Errorf("downloading %s: %w", ref, err)
	}
	if file.gitSHA1 == "" {
		return nil
	}
	got, err := gitBlob(partial)
	if err != nil {
		return err
	}
	if got != file.gitSHA1 {
		mismatch := &MismatchError{Name: ref.String(), Where: "the download", What: "git blob id", Want: file.gitSHA1, Got: got}
		return errors.Join(mismatch, os.Remove(partial)) // else the next run would go on from it
	}
	return nil
}

func (c *Client) endpoint() string { return cmp.Or(c.Endpoint, DefaultEndpoint) }

func (c *Client) repository(ref Ref) repository {
	name := "models--" + ref.folder()
	return repository{
		cache: c.Cache,
		root:  filepath.Join(c.Cache, name),
		locks: filepath.Join(c.Cache, ".locks", name),
	}
}
