package hub

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
)

const (
	askTimeout   = 10 * time.Second // huggingface_hub's HF_HUB_ETAG_TIMEOUT
	askTries     = 5
	maxWait      = time.Minute // the longest Retry-After that is honoured
	maxRedirects = 10          // of the Hub to itself: a renamed repository is one
)

// A remote is what the Hub says of a file.
type remote struct {
	commit  string
	etag    string // the name of the blob in the cache
	size    int64
	sha256  string   // of files in LFS or Xet storage
	gitSHA1 string   // of files in git itself: the id of the blob
	urls    []string // where it is instead of on the Hub, if not nil
}

func (f remote) compare(ref Ref, want Want, endpoint string) error {
	if want.Size > 0 && want.Size != f.size {
		return &MismatchError{Name: ref.String(), Where: endpoint, What: "size",
			Want: strconv.FormatInt(want.Size, 10), Got: strconv.FormatInt(f.size, 10)}
	}
	if want.SHA256 != "" && f.sha256 != "" && want.SHA256 != f.sha256 {
		return &MismatchError{Name: ref.String(), Where: endpoint, What: "sha256", Want: want.SHA256, Got: f.sha256}
	}
	return nil
}

// resolveURL is where a file of a revision is.
func resolveURL(endpoint string, ref Ref, revision string) string {
	parts := strings.Split(ref.Path, "/")
	for i, part := range parts {
		parts[i] = url.PathEscape(part)
	}
	return endpoint + "/" + ref.Repo + "/resolve/" + url.PathEscape(revision) + "/" + strings.Join(parts, "/")
}

func (c *Client) authorization() http.Header {
	header := http.Header{}
	if c.Token != "" {
		header.Set("Authorization", "Bearer "+c.Token)
	}
	return header
}

// A temporaryError is one that another try may mend.
type temporaryError struct {
	err   error
	after time.Duration // what the Hub asked to wait; 0 where it did not
}

func (e *temporaryError) Error() string { return e.err.Error() }
func (e *temporaryError) Unwrap() error { return e.err }

// resolve asks the Hub about a file: once if the cache can answer for it, else until all tries are made.
func (c *Client) resolve(ctx context.Context, ref Ref, once bool) (remote, error) {
	wait := cmp.Or(c.RetryWait, time.Second)
	for try := 1; ; try++ {
		file, err := c.ask(ctx, ref)
		var temporary *temporaryError
		if !errors.As(err, &temporary) {
			return file, err
		}
		if ctx.Err() != nil {
			return remote{}, ctx.Err()
		}
		if once || try == askTries {
			return remote{}, &NetworkError{Endpoint: c.endpoint(), Err: temporary.err}
		}
		select {
		case <-time.After(max(wait, min(temporary.after, maxWait))):
		case <-ctx.Done():
			return remote{}, ctx.Err()
		}
		wait *= 2
	}
}

// ask makes one HEAD request, and one more for each redirect of the Hub to itself.
func (c *Client) ask(ctx context.Context, ref Ref) (remote, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	client := http.Client{}
	if c.HTTP != nil {
		client.Transport = c.HTTP.Transport
	}
	// The first answer has what is needed; a content network's has it no more, and must not get the token.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

	address := resolveURL(c.endpoint(), ref, ref.Revision)
	for range maxRedirects {
		request, err := http.NewRequestWithContext(ctx, http.MethodHead, address, nil)
		if err != nil {
			return remote{}, err
		}
		request.Header = c.authorization()
		request.Header.Set("Accept-Encoding", "identity") // else the size is that of something else
		request.Header.Set("User-Agent", "llcuda-fetch")
		response, err := client.Do(request)
		var untrusted *tls.CertificateVerificationError
		switch {
		case errors.As(err, &untrusted):
			return remote{}, &NetworkError{Endpoint: c.endpoint(), Err: untrusted}
		case err != nil:
			var wrapped *url.Error
			if errors.As(err, &wrapped) {
				err = wrapped.Err // without the address, which NetworkError gives
			}
			return remote{}, &temporaryError{err: err}
		}
		response.Body.Close()
		location, err := url.Parse(response.Header.Get("Location"))
		if response.StatusCode/100 == 3 && err == nil && location.String() != "" && location.Scheme == "" && location.Host == "" {
			address = request.URL.ResolveReference(location).String()
			continue
		}
		if response.StatusCode/100 > 3 {
			return remote{}, c.refusal(ref, response)
		}
		file, err := readRemote(response)
		if err != nil {
			return remote{}, &NetworkError{Endpoint: c.endpoint(), Err: err}
		}
		return file, nil
	}
	return remote{}, &NetworkError{Endpoint: c.endpoint(), Err: errors.New("it redirects without end")}
}

var (
	sha256Hex = regexp.MustCompile(`^[0-9a-f]{64}$`)
	sha1Hex   = commitID
)

// readRemote reads the headers of a Hub's answer. Proxies and log-in pages answer too: what
// lacks the Hub's headers is not the Hub.
func readRemote(response *http.Response) (remote, error) {
	h := response.Header
	file := remote{commit: h.Get("X-Repo-Commit"), etag: normalizeETag(cmp.Or(h.Get("X-Linked-Etag"), h.Get("Etag")))}
	size := h.Get("X-Linked-Size")
	if size == "" && response.StatusCode/100 == 2 {
		size = h.Get("Content-Length")
	}
	if !isCommit(file.commit) {
		return remote{}, fmt.Errorf("the answer names no commit (X-Repo-Commit %q): it does not seem to come from a Hub", file.commit)
	}
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n < 0 {
		return remote{}, fmt.Errorf("the answer names no size (X-Linked-Size %q)", size)
	}
	file.size = n
	switch {
	case sha256Hex.MatchString(file.etag):
		file.sha256 = file.etag
	case sha1Hex.MatchString(file.etag):
		file.gitSHA1 = file.etag
	default:
		return remote{}, fmt.Errorf("the answer names no digest (ETag %q)", file.etag)
	}
	return file, nil
}

func normalizeETag(etag string) string {
	return strings.Trim(strings.TrimPrefix(etag, "W/"), `"`)
}

// refusal turns an answer that is no file into what it means.
func (c *Client) refusal(ref Ref, response *http.Response) error {
	h := response.Header
	page := c.endpoint() + "/" + ref.Repo
	message := h.Get("X-Error-Message")
	switch code := h.Get("X-Error-Code"); {
	case code == "GatedRepo":
		return &GatedError{Repo: ref.Repo, Page: page, Token: c.Token != ""}
	case code == "RevisionNotFound":
		return &RevisionError{Repo: ref.Repo, Revision: ref.Revision, Page: page}
	case code == "EntryNotFound":
		return &FileError{Ref: ref, Page: page, commit: h.Get("X-Repo-Commit")}
	// The Hub says so of a token it does not know, for public repositories too.
	case response.StatusCode == http.StatusUnauthorized && c.Token != "" && code != "RepoNotFound":
		return &TokenError{Endpoint: c.endpoint()}
	case code == "RepoNotFound", response.StatusCode == http.StatusUnauthorized:
		return &RepositoryError{Repo: ref.Repo, Endpoint: c.endpoint(), Token: c.Token != ""}
	case response.StatusCode == http.StatusNotFound: // a Hub that gives no codes
		return &FileError{Ref: ref, Page: page}
	case response.StatusCode == http.StatusRequestTimeout, response.StatusCode == http.StatusTooManyRequests, response.StatusCode >= 500:
		return &temporaryError{err: errors.New(response.Status), after: transfer.RetryAfter(h)}
	}
	return &RefusedError{URL: response.Request.URL.Redacted(), Status: response.Status, Message: message[:min(len(message), 300)]}
}
