// Package ghrelease is a publisher.Store on GitHub Releases, on github.com and on GitHub
// Enterprise.
//
// ci's commands make one with New and give it to publisher.Publish. It takes a repository, a token
// and the publisher's requests, and returns GitHub's answers in the publisher's terms. Its errors
// are sorted by what resolves them: trying again (*publisher.TemporaryError), a person
// (*publisher.RefusedError), or reading the release again (publisher.ErrExists, publisher.ErrGone).
//
// Requests are made and errors read by go-github, but its types for releases lack the digest of an
// asset and whether a release is immutable, and its uploads cannot be repeated on a new connection:
// so the package has its own for both.
//
// The token goes to the API's host and to the upload host that belongs to it, and nowhere else: a
// redirect that leads away is an error, and downloads follow one without the token. The package
// never tries anything twice, never logs and never prints.
package ghrelease

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-github/v66/github"

	"github.com/waqasm86/llcuda-farm/manifests/retry"
	"github.com/waqasm86/llcuda-farm/publisher"
)

// What GitHub allows:
// https://docs.github.com/en/repositories/releasing-projects-on-github/about-releases
const (
	// MaxSize is the size that an asset must stay below, in bytes.
	MaxSize = 2 << 30
	// MaxAssets is how many assets a release may have.
	MaxAssets = 1000
)

// Options are how to reach GitHub. The zero value is github.com without a token: it reads what is
// public.
type Options struct {
	// APIURL is "https://api.github.com" if empty; "https://HOST/api/v3" on a GitHub Enterprise
	// Server.
	APIURL string
	Token  string
	// Commit is the commit that the release's tag has, or is to have: 40 hex digits. If empty, a
	// new tag is put on the repository's default branch, and one that exists is taken as it is.
	Commit string
	// HTTP is the client for everything. nil: one with Go's defaults, which honors the proxy
	// variables and SSL_CERT_FILE.
	HTTP *http.Client
	// Stall is how long a connection may move no byte, and how long an answer may take: 1 minute.
	Stall time.Duration
}

// A Store is the releases of one repository.
type Store struct {
	client      *github.Client
	http        *http.Client // does not leave the API's host
	plain       *http.Client // has no token
	api         *url.URL
	token       string
	owner, repo string
	commit      string
	stall       time.Duration
}

var _ publisher.Store = (*Store)(nil)

// New makes a Store for a repository, "owner/name". Its errors are of the arguments: nothing is
// sent yet.
func New(repository string, o Options) (*Store, error) {
	owner, repo, ok := strings.Cut(repository, "/")
	if !ok || !isName(owner) || !isName(repo) {
		return nil, fmt.Errorf("%q is not a repository: owner/name", repository)
	}
	api, err := apiURL(cmp.Or(o.APIURL, defaultAPI))
	if err != nil {
		return nil, err
	}
	plain := o.HTTP
	if plain == nil {
		plain = &http.Client{Transport: newTransport()}
	}
	guarded := *plain
	guarded.CheckRedirect = stayOn(api)
	client := github.NewClient(&guarded)
	client.BaseURL, client.UploadURL = api, api
	client.UserAgent = "llcuda-farm"
	return &Store{
		client: client, http: &guarded, plain: plain, api: api, token: o.Token, owner: owner, repo: repo, commit: o.Commit,
		stall: cmp.Or(o.Stall, time.Minute),
	}, nil
}

func isName(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	})
}

// newTransport is Go's own transport with buffers for large files: with its 4 KiB an upload is a
// system call for each.
func newTransport() *http.Transport {
	const buffer = 256 << 10
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.WriteBufferSize = buffer
	transport.MaxIdleConnsPerHost = 8
	return transport
}

// Check refuses what GitHub would, before anything is sent.
func Check(folder *publisher.Folder) error {
	if len(folder.Files) > MaxAssets {
		return &publisher.RefusedError{
			Err: fmt.Errorf("the release has %d files, and GitHub allows %d", len(folder.Files), MaxAssets),
			Way: "build fewer SMs into one release",
		}
	}
	for _, file := range folder.Files {
		if file.Size >= MaxSize || file.Size == 0 {
			return &publisher.RefusedError{
				Err: fmt.Errorf("%s has %d bytes: GitHub takes files from 1 byte to less than 2 GiB", file.Name, file.Size),
				Way: "files of that size need another place than a GitHub release",
			}
		}
	}
	return nil
}

// path is an address below the repository's.
func (s *Store) path(format string, args ...any) string {
	return "repos/" + s.owner + "/" + s.repo + fmt.Sprintf(format, args...)
}

// call makes one request of the API and reads the answer into dst.
func (s *Store) call(ctx context.Context, method, path string, body, dst any) (*github.Response, error) {
	request, err := s.client.NewRequest(method, path, body)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.stall, errStalled)
	defer cancel()
	response, err := s.client.Do(ctx, s.authorize(request), dst)
	return response, s.explain(ctx, err)
}

// authorize gives a request the token. Go's client forwards it on redirects within the host only,
// which stayOn sees to.
func (s *Store) authorize(request *http.Request) *http.Request {
	if s.token != "" {
		request.Header.Set("Authorization", "Bearer "+s.token)
	}
	return request
}

// pages reads a list to its end.
func pages[T any](ctx context.Context, s *Store, path string) ([]T, error) {
	var all []T
	for page := 1; page != 0; {
		var some []T
		response, err := s.call(ctx, http.MethodGet, fmt.Sprintf("%s?per_page=100&page=%d", path, page), nil, &some)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
		page = response.NextPage
	}
	return all, nil
}

// Download implements publisher.Store.
func (s *Store) Download(ctx context.Context, asset publisher.Asset) (io.ReadCloser, error) {
	request, err := s.client.NewRequest(http.MethodGet, s.path("/releases/assets/%d", asset.ID), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/octet-stream")
	watched, watch := retry.Watch(ctx, s.stall, errStalled)
	first := *s.http
	first.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := first.Do(s.authorize(request).WithContext(watched))
	if err == nil && response.StatusCode == http.StatusFound {
		response.Body.Close()
		var to *url.URL
		if to, err = response.Location(); err == nil {
			// The other host wants no token, and must not get it.
			var next *http.Request
			if next, err = http.NewRequestWithContext(watched, http.MethodGet, to.String(), nil); err == nil {
				response, err = s.plain.Do(next)
			}
		}
	}
	if err == nil {
		err = github.CheckResponse(response)
	}
	if err != nil {
		err = s.explain(watched, err)
		watch.End()
		return nil, missingAsGone(err)
	}
	return &watchedBody{body: response.Body, watch: watch, closed: watch.End}, nil
}

// missingAsGone is the error of a request for something by its number, where "not found" does not
// mean missing rights.
func missingAsGone(err error) error {
	if missing, ok := errors.AsType[*missingError](err); ok {
		return fmt.Errorf("%w: %w", publisher.ErrGone, missing.err)
	}
	return err
}
