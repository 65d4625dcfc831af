// Package hub brings single files of Hugging Face repositories to this machine, into the cache that
// huggingface_hub uses, in its layout and with its locks, so that neither downloads what the other
// has.
//
// The client calls it for models. The input is a file's name (Ref) and what the manifest says of it
// (Want); the output is the path under which llama.cpp, or Python's huggingface_hub, finds it
// (Result):
//
//	HEAD resolve  →  compare with Want  →  lock  →  blobs/<etag>.6c6c6375.incomplete
//	→  whole and of the right digest  →  blobs/<etag>  ←  snapshots/<commit>/<path>
//
// A model may be several files: Find says which, from a name as users write it (Name): all parts of
// a split model, and the projector of one that sees. All of them are asked for before the first
// byte comes.
//
// A file in the cache is returned with no network where the revision is a commit or the client is
// offline. Otherwise the Hub is asked once; where it does not answer, the cache does, and
// Result.Unasked says why.
//
// The package also says how many of a model's layers a machine's GPUs hold (Layers).
//
// It never sends the token to another host than the Hub's, where redirects are followed without it,
// never deletes what others put into the cache, never writes outside it, and never prints. Windows
// is not supported.
//
// The layout and its rules are huggingface_hub's, src/huggingface_hub/file_download.py:
// https://github.com/huggingface/huggingface_hub/blob/main/src/huggingface_hub/file_download.py
package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
)

// DefaultEndpoint is the public Hub.
const DefaultEndpoint = "https://huggingface.co"

// A Client downloads from one Hub into one cache. Its fields are not changed while it is used.
type Client struct {
	// Cache is the folder that holds models--org--name. Required.
	Cache string
	// Endpoint is the Hub's address without a slash at its end; DefaultEndpoint where empty.
	Endpoint string
	// Token goes to the Endpoint and nowhere else. Public files need none.
	Token string
	// EndpointProblem is why the Endpoint cannot be asked, and TokenProblem why there is no Token
	// although one was configured. The first is an error of whatever asks the Hub; without a token
	// public files come all the same.
	EndpointProblem, TokenProblem error
	// Offline keeps the client from using the network.
	Offline bool
	// NoLinks makes the snapshots hold files, for file systems without symbolic links.
	// Where a link cannot be made, that happens by itself.
	NoLinks bool
	// HTTP asks the Hub about files; nil: http.DefaultClient. Its timeout, redirects and cookies
	// are the client's own matter.
	HTTP *http.Client
	// Transfer downloads; nil: its zero value.
	Transfer *transfer.Client
	// RetryWait is the time before the Hub is asked a second time; it doubles from try to try. A
	// second where 0.
	RetryWait time.Duration
	// Waiting, if not nil, hears the path of the lock when another process is downloading the same
	// file.
	Waiting func(lock string)
	// Step, if not nil, gets a sentence when the Hub makes the client wait. Warn, if not nil, gets
	// a TokenProblem each time that the Hub is asked without the token, and an error for a listing
	// that does not show whether there is a projector.
	Step func(string)
	Warn func(error)
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

// A File is a file to bring into the cache.
type File struct {
	Ref  Ref
	Want Want
	// Known, if not nil, is what is known of the file from one who has it, and URLs where it is: an
	// exported folder, or a mirror. Then the Hub is not asked, and the token not sent.
	Known *Known
	URLs  []string

	asked *located // what Find learned, if it had to ask
}

// A Known is what is known of a file of the Hub's from one who has it.
type Known struct {
	Commit string // the commit of the repository
	Size   int64  // bytes
	SHA256 string // lower-case hex
}

// Download brings a file into the cache. progress, if not nil, hears of the bytes as they come.
//
// Errors: *OfflineError, *NetworkError, *GatedError, *RepositoryError, *RevisionError, *FileError,
// *TokenError, *RedirectError, *RefusedError, *MismatchError (which is never tried again),
// *CacheError, those of transfer.Client.Fetch, and the file system's.
func (c *Client) Download(ctx context.Context, ref Ref, want Want, progress func(transfer.Progress)) (Result, error) {
	results, err := c.DownloadAll(ctx, ref.String(), []File{{Ref: ref, Want: want}}, progress)
	if err != nil {
		return Result{}, err
	}
	return results[0], nil
}

// DownloadAll brings the files of one model into the cache, from one commit of their repository.
// Each is asked for, and the room for all of them is looked for, before the first byte comes.
// progress hears of them as of one download with that name. Its errors are Download's.
func (c *Client) DownloadAll(ctx context.Context, name string, files []File, progress func(transfer.Progress)) ([]Result, error) {
	located, err := c.locateAll(ctx, files)
	if err != nil {
		return nil, err
	}
	return c.placeAll(ctx, name, located, progress)
}

// A located file is one that the cache has, or one that is known to be elsewhere.
type located struct {
	File
	cached Result // where remote is nil
	remote *remote
}

func (c *Client) locateAll(ctx context.Context, files []File) ([]located, error) {
	list := make([]located, len(files))
	asking, commit := *c, ""
	var unasked error
	for i, f := range files {
		var err error
		if list[i], err = asking.locate(ctx, f, commit); err != nil {
			return nil, err
		}
		switch {
		case list[i].remote != nil && f.Known == nil:
			commit = list[i].remote.commit // a branch may move between two questions
		case list[i].cached.Unasked != nil:
			// The Hub was asked often enough. The files of one model are of one commit, so the
			// cache answers for all.
			asking.Offline, unasked = true, list[i].cached.Unasked
		}
	}
	for i := range list {
		if list[i].remote == nil {
			list[i].cached.Unasked = unasked
		}
	}
	return list, nil
}

// locate looks for a file in the cache, or asks the Hub about it: at a commit, if one is given,
// instead of its revision.
func (c *Client) locate(ctx context.Context, f File, commit string) (located, error) {
	if f.asked != nil {
		return *f.asked, nil
	}
	found := located{File: f}
	ref, want := f.Ref, f.Want
	if err := ref.check(); err != nil {
		return found, err
	}
	if c.Cache == "" {
		return found, errors.New("no folder given for the Hub's cache")
	}
	if k := f.Known; k != nil {
		if !isCommit(k.Commit) || !sha256Hex.MatchString(k.SHA256) || k.Size <= 0 || len(f.URLs) == 0 {
			return found, fmt.Errorf("importing %s: commit, size, sha256 and an address are needed", ref)
		}
		found.remote = &remote{commit: k.Commit, etag: k.SHA256, size: k.Size, sha256: k.SHA256, urls: f.URLs}
		return found, found.remote.compare(ref, want, f.URLs[0])
	}
	store := c.repository(ref)
	cached, there, unfit := store.find(ref, want)
	switch {
	case there && unfit == nil && (c.Offline || isCommit(ref.Revision)):
		found.cached = cached
		return found, nil
	case c.Offline && unfit != nil:
		return found, unfit
	case c.Offline:
		return found, &OfflineError{Ref: ref, Cache: c.Cache}
	}
	file, err := c.resolve(ctx, ref, cmp.Or(commit, ref.Revision), there && unfit == nil)
	if err != nil {
		if missing, ok := errors.AsType[*FileError](err); ok {
			store.rememberMissing(ref, missing.commit)
		}
		if ctx.Err() != nil || !there || unfit != nil || !cacheAnswersFor(err) {
			return found, err
		}
		found.cached, found.cached.Unasked = cached, err
		return found, nil
	}
	found.remote = &file
	return found, file.compare(ref, want, c.endpoint())
}

// placeAll has the files in the cache.
func (c *Client) placeAll(ctx context.Context, name string, files []located, progress func(transfer.Progress)) ([]Result, error) {
	all := c.sum(name, files)
	if len(files) > 1 {
		if err := all.fits(c.Cache); err != nil {
			return nil, err
		}
	}
	results := make([]Result, len(files))
	var size int64
	for i, f := range files {
		if results[i] = f.cached; f.remote == nil {
			size += f.cached.Size
			continue
		}
		report := progress
		if progress != nil && len(files) > 1 {
			report = all.part(i, progress)
		}
		var err error
		if results[i], err = c.place(ctx, c.repository(f.Ref), f.Ref, f.Want, *f.remote, report); err != nil {
			return nil, c.cacheError(err)
		}
		size += results[i].Size
	}
	if progress != nil && len(files) > 1 && all.began {
		progress(transfer.Progress{Name: name, Done: size, Total: size, From: all.there, Source: all.source})
	}
	return results, nil
}

// cacheError says of an error of the file system's that this user may not write there.
func (c *Client) cacheError(err error) error {
	var path string
	if one, ok := errors.AsType[*fs.PathError](err); ok {
		path = one.Path
	} else if two, ok := errors.AsType[*os.LinkError](err); ok {
		path = two.New
	}
	if strings.HasPrefix(path, c.Cache) && (errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS)) {
		return &CacheError{Cache: c.Cache, Err: err}
	}
	return err
}

// cacheAnswersFor reports whether a file in the cache will do although the Hub gave an error. It
// will not where the Hub knows the repository and says that the file is not in it.
func cacheAnswersFor(err error) bool {
	_, noRevision := errors.AsType[*RevisionError](err)
	_, noFile := errors.AsType[*FileError](err)
	return !noRevision && !noFile
}

// place has the file in the cache and returns it.
func (c *Client) place(ctx context.Context, store repository, ref Ref, want Want, file remote, progress func(transfer.Progress)) (Result, error) {
	result := Result{Path: store.pointer(file.commit, ref.Path), Commit: file.commit, Size: file.size, Cached: true}
	there := Want{Size: file.size, SHA256: want.SHA256}
	if file.size < 0 {
		there.SHA256 = cmp.Or(want.SHA256, file.sha256)
	}
	if info, err := os.Stat(result.Path); err == nil && fits(result.Path, there) == nil {
		// Best effort: the cache may be mounted read-only, and the file is there.
		_ = store.writeRef(ref.Revision, file.commit)
		result.Size = info.Size()
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
		if partial, err = store.openPartial(partial); err != nil {
			return Result{}, err
		}
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
	info, err := os.Stat(result.Path)
	if err != nil {
		return Result{}, err
	}
	result.Size = info.Size()
	return result, nil
}

// fetch downloads the file to partial and checks it.
func (c *Client) fetch(ctx context.Context, ref Ref, want Want, file remote, partial string, progress func(transfer.Progress)) error {
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
	if file.size < 0 && want.Size > 0 {
		blob.Size = want.Size
	}
	if file.urls != nil {
		blob.URLs, blob.Header = file.urls, nil
	}
	if err := client.Fetch(ctx, blob, partial, nil, progress); err != nil {
		status, ok := errors.AsType[*transfer.StatusError](err)
		if ok && status.Code == http.StatusTooManyRequests && file.urls == nil {
			err = &NetworkError{Endpoint: c.endpoint(), Err: errors.Join(&RateLimitError{Said: status.Status, Token: c.Token != ""}, err)}
		}
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
		return errors.Join(mismatch, os.Remove(partial)) // else the next run would resume from it
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
