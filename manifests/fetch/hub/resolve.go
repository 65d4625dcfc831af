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

	"github.com/waqasm86/llcuda-farm/manifests/retry"
)

const (
	askTimeout   = 10 * time.Second // huggingface_hub's HF_HUB_ETAG_TIMEOUT
	maxWait      = time.Minute      // the longest Retry-After that is honored
	maxRedirects = 10               // a renamed repository is one
	// maxLimit is the longest wait for the next window of the Hub's limit of requests, which is of
	// five minutes: https://huggingface.co/docs/hub/rate-limits
	maxLimit = 5*time.Minute + 10*time.Second
)

// A remote is what the Hub says of a file.
type remote struct {
	commit  string
	etag    string   // the name of the blob in the cache
	size    int64    // negative if the Hub does not say it
	sha256  string   // of files in LFS or Xet storage
	gitSHA1 string   // of files in git itself: the id of the blob
	urls    []string // where it is instead of on the Hub, if not nil
}

func (f remote) compare(ref Ref, want Want, endpoint string) error {
	if want.Size > 0 && f.size >= 0 && want.Size != f.size {
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

// ask asks the Hub until it answers: once if the cache can answer for it, else until all tries are
// made.
func (c *Client) ask(ctx context.Context, once bool, try func(context.Context) error) error {
	if c.EndpointProblem != nil {
		return c.EndpointProblem
	}
	policy := retry.Policy{FirstWait: c.RetryWait, MaxAfter: maxLimit, Waiting: c.explainWait}
	if once {
		policy.Tries = 1
	}
	err := policy.Do(ctx, func() error {
		err := try(ctx)
		// Only a rate limit asks for a wait of up to maxLimit; a request to wait longer ends the
		// tries.
		if temporary, ok := errors.AsType[*retry.TemporaryError](err); ok && temporary.After > maxLimit {
			return &NetworkError{Endpoint: c.endpoint(), Err: temporary.Err}
		}
		return err
	})
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	if temporary, ok := errors.AsType[*retry.TemporaryError](err); ok {
		return &NetworkError{Endpoint: c.endpoint(), Err: temporary.Err}
	}
	return err
}

// explainWait tells the user why a wait begins, where the Hub asked for it.
func (c *Client) explainWait(why error, wait time.Duration) {
	limit, limited := errors.AsType[*RateLimitError](why)
	temporary, _ := errors.AsType[*retry.TemporaryError](why)
	switch {
	case limited:
		c.step("%s allows no more requests for now (%s): waiting %s; %s", c.endpoint(), limit.Said, wait.Round(time.Second), limit.advice())
	case temporary.After > 0:
		c.step("%s asks to wait (%s): waiting %s", c.endpoint(), temporary.Err, wait.Round(time.Second))
	}
}

func (c *Client) step(format string, args ...any) {
	if c.Step != nil {
		c.Step(fmt.Sprintf(format, args...))
	}
}

// resolve asks the Hub about a file of a revision.
func (c *Client) resolve(ctx context.Context, ref Ref, revision string, once bool) (file remote, err error) {
	err = c.ask(ctx, once, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		// The first answer that names a commit has what is needed; a content network's has it no
		// more.
		answer, err := c.do(ctx, http.MethodHead, resolveURL(c.endpoint(), ref, revision), func(h http.Header) bool { return h.Get("X-Repo-Commit") != "" })
		if err != nil {
			return err
		}
		answer.Body.Close()
		if answer.StatusCode/100 > 3 {
			return c.refusal(ref, answer)
		}
		if file, err = readRemote(answer.Response); err != nil {
			return &NetworkError{Endpoint: c.endpoint(), Err: answer.explain(err)}
		}
		return nil
	})
	return file, err
}

// An answer is the last one to a request: the Hub's, or that of another host to which it redirects.
type answer struct {
	*http.Response
	from  string // the address of the other host, empty where it is the Hub's own answer
	token bool   // it was sent
	home  string
}

// explain adds to an error who made it.
func (a answer) explain(err error) error {
	if a.from == "" {
		return err
	}
	return &RedirectError{From: a.home, To: a.from, Err: err}
}

// do makes one request, and one more for each redirect: with the token until one leads to another
// scheme, host or port, and without it from then on. A redirect to another address is the last
// answer where last says so. The caller closes the body.
func (c *Client) do(ctx context.Context, method, address string, last func(http.Header) bool) (answer, error) {
	client := http.Client{}
	if c.HTTP != nil {
		client.Transport = c.HTTP.Transport
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if c.TokenProblem != nil && c.Warn != nil {
		c.Warn(c.TokenProblem)
	}
	a := answer{home: c.endpoint(), token: c.Token != ""}
	header := c.authorization()
	for range maxRedirects {
		request, err := http.NewRequestWithContext(ctx, method, address, nil)
		if err != nil {
			return a, err
		}
		request.Header = header.Clone()
		request.Header.Set("Accept-Encoding", "identity") // else the size is that of something else
		request.Header.Set("User-Agent", "llcuda-fetch")
		a.Response, err = client.Do(request)
		if untrusted, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
			return a, &NetworkError{Endpoint: c.endpoint(), Err: a.explain(untrusted)}
		}
		if err != nil {
			if wrapped, ok := errors.AsType[*url.Error](err); ok {
				err = wrapped.Err // without the address, which NetworkError gives
			}
			return a, &retry.TemporaryError{Err: a.explain(err)}
		}
		location, err := url.Parse(a.Header.Get("Location"))
		if a.StatusCode/100 != 3 || err != nil || location.String() == "" {
			return a, nil
		}
		target := request.URL.ResolveReference(location)
		if (location.Scheme != "" || location.Host != "") && last(a.Header) {
			return a, nil
		}
		a.Body.Close()
		if target.Scheme != request.URL.Scheme || target.Host != request.URL.Host {
			a.from, a.token, header = target.Scheme+"://"+target.Host, false, http.Header{}
			if target.Scheme != "https" && (target.Scheme != "http" || request.URL.Scheme == "https") {
				return a, &NetworkError{Endpoint: c.endpoint(), Err: a.explain(errors.New("that is not an https address"))}
			}
		}
		address = target.String()
	}
	return a, &NetworkError{Endpoint: c.endpoint(), Err: a.explain(errors.New("it redirects without end"))}
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
	// Some Hubs say nothing of the size to HEAD, or that it is 0: then the download tells.
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n < 0 || n == 0 && file.etag != emptySHA256 && file.etag != emptyBlob {
		n = -1
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

// The digests of an empty file.
const (
	emptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	emptyBlob   = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
)

func normalizeETag(etag string) string {
	return strings.Trim(strings.TrimPrefix(etag, "W/"), `"`)
}

// refusal turns an answer that is not a file into what it means.
func (c *Client) refusal(ref Ref, a answer) error {
	err := c.meaning(ref, a)
	if temporary, ok := errors.AsType[*retry.TemporaryError](err); ok {
		return &retry.TemporaryError{Err: a.explain(temporary.Err), After: temporary.After}
	}
	_, noFile := errors.AsType[*FileError](err)
	_, noRevision := errors.AsType[*RevisionError](err)
	if c.TokenProblem != nil && !noFile && !noRevision {
		err = fmt.Errorf("%w; no token was sent: %w", err, c.TokenProblem)
	}
	return a.explain(err)
}

func (c *Client) meaning(ref Ref, a answer) error {
	h := a.Header
	endpoint := cmp.Or(a.from, c.endpoint())
	page := endpoint + "/" + ref.Repo
	message := h.Get("X-Error-Message")
	message = message[:min(len(message), 300)]
	switch code := h.Get("X-Error-Code"); {
	case code == "GatedRepo":
		return &GatedError{Repo: ref.Repo, Page: page, Token: a.token}
	case code == "RevisionNotFound":
		return &RevisionError{Repo: ref.Repo, Revision: ref.Revision, Page: page}
	case code == "EntryNotFound":
		return &FileError{Ref: ref, Page: page, commit: h.Get("X-Repo-Commit")}
	// The Hub says so of a token it does not know, for public repositories too.
	case a.StatusCode == http.StatusUnauthorized && a.token && code != "RepoNotFound":
		return &TokenError{Endpoint: endpoint}
	case code == "RepoNotFound", a.StatusCode == http.StatusUnauthorized, a.StatusCode == http.StatusNotFound && ref.Path == "":
		return &RepositoryError{Repo: ref.Repo, Endpoint: endpoint, Token: a.token}
	case a.StatusCode == http.StatusNotFound: // a Hub that gives no codes
		return &FileError{Ref: ref, Page: page}
	case a.StatusCode == http.StatusTooManyRequests:
		after, _ := retry.After(h)
		return &retry.TemporaryError{Err: &RateLimitError{Said: cmp.Or(message, a.Status), After: after, Token: a.token}, After: after}
	case retry.IsBusy(a.StatusCode):
		said := errors.New(a.Status)
		if message != "" {
			said = fmt.Errorf("%s: %q", a.Status, message)
		}
		after, _ := retry.After(h)
		return &retry.TemporaryError{Err: said, After: min(after, maxWait)}
	}
	return &RefusedError{URL: a.Request.URL.Redacted(), Status: a.Status, Message: message}
}
