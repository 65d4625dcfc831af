package ghrelease

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-github/v66/github"

	"github.com/waqasm86/llcuda-farm/manifests/retry"
	"github.com/waqasm86/llcuda-farm/publisher"
)

// errStalled ends a request whose connection does not move.
var errStalled = errors.New("the connection does not move")

// secondaryWait is what GitHub asks to wait after a secondary limit where it does not say how long:
// https://docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api
const secondaryWait = time.Minute

// missingError is a 404. It means missing rights or a missing object; the caller knows which.
type missingError struct{ err error }

func (e *missingError) Error() string { return e.err.Error() }
func (e *missingError) Unwrap() error { return e.err }

// explain turns what go-github returns into what the publisher acts on. ctx is the request's own.
func (s *Store) explain(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(context.Cause(ctx), errStalled):
		return &publisher.TemporaryError{Err: errStalled}
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case isLocal(err):
		return err
	}
	if redirect, ok := errors.AsType[*redirectError](err); ok {
		return &publisher.RefusedError{Err: redirect, Way: "if the repository has moved, give its new name with --repo"}
	}
	if primary, ok := errors.AsType[*github.RateLimitError](err); ok {
		after := retry.Until(primary.Response.Header, primary.Rate.Reset.Time) + time.Second // which is part of the old window
		return &publisher.TemporaryError{Err: summary(primary.Response, primary.Message), After: after}
	}
	if secondary, ok := errors.AsType[*github.AbuseRateLimitError](err); ok {
		after := secondaryWait
		if secondary.RetryAfter != nil {
			after = *secondary.RetryAfter
		}
		return &publisher.TemporaryError{Err: summary(secondary.Response, secondary.Message), After: max(after, time.Second)}
	}
	if answer, ok := errors.AsType[*github.ErrorResponse](err); ok {
		return s.explainAnswer(answer)
	}
	if _, accepted := errors.AsType[*github.AcceptedError](err); accepted {
		return &publisher.TemporaryError{Err: errors.New("GitHub is not ready")}
	}
	return &publisher.TemporaryError{Err: err} // of the connection, or an answer that broke off
}

// isLocal reports whether an error is of this machine: trying again does not help.
func isLocal(err error) bool {
	_, changed := errors.AsType[*publisher.ChangedError](err)
	_, file := errors.AsType[*fs.PathError](err)
	_, certificate := errors.AsType[*tls.CertificateVerificationError](err)
	return changed || file || certificate
}

// explainAnswer sorts the answers that say no.
func (s *Store) explainAnswer(answer *github.ErrorResponse) error {
	status := answer.Response.StatusCode
	err := summary(answer.Response, message(answer))
	refused := func(way string) error { return &publisher.RefusedError{Err: err, Way: way} }
	if after, limited := limit(answer); limited {
		return &publisher.TemporaryError{Err: err, After: after}
	}
	switch {
	case status >= 500, status == http.StatusRequestTimeout, status == http.StatusConflict, status == http.StatusTooEarly:
		return &publisher.TemporaryError{Err: err}
	case status == http.StatusUnauthorized && s.token == "":
		return refused("set GITHUB_TOKEN to a token that may write the contents of " + s.owner + "/" + s.repo)
	case status == http.StatusUnauthorized:
		return refused("the token in GITHUB_TOKEN (or GH_TOKEN) is wrong or has expired: set another one and run this again; what has arrived stays")
	case status == http.StatusForbidden:
		return refused("the token may not do this: a fine-grained token needs \"Contents: read and write\" for " + s.owner + "/" + s.repo +
			", a classic one the scope repo, a workflow \"permissions: contents: write\". " + workflowChanges)
	case status == http.StatusNotFound:
		return &missingError{err}
	case status == http.StatusUnprocessableEntity && strings.Contains(strings.ToLower(err.Error()), "immutable"):
		return refused("what was published as immutable cannot be changed, nor its tag used again: publish under a new tag")
	case status == http.StatusUnprocessableEntity && exists(answer):
		return fmt.Errorf("%w: %w", publisher.ErrExists, err)
	}
	return refused("GitHub does not take this, and would not the next time: what it says above is all that it tells")
}

// workflowChanges is the other reason for "Resource not accessible by integration". A draft that
// has such a commit as its target keeps it.
const workflowChanges = "GitHub also refuses where the release's commit has other files in .github/workflows than the default branch: " +
	"push the tag first (git push origin TAG), and delete a draft that was made before, if there is one"

// exists reports whether all that is wrong is that something is there.
func exists(answer *github.ErrorResponse) bool {
	for _, e := range answer.Errors {
		if e.Code != "already_exists" {
			return false
		}
	}
	return len(answer.Errors) > 0
}

// limit reports whether an answer asks for a pause, and how long. go-github knows this of 403, and
// not of 429.
func limit(answer *github.ErrorResponse) (after time.Duration, limited bool) {
	after, asked := retry.After(answer.Response.Header)
	after = max(after, time.Second)
	switch status := answer.Response.StatusCode; {
	case status >= http.StatusInternalServerError:
		return after, asked
	case status != http.StatusTooManyRequests && status != http.StatusForbidden:
		return 0, false
	case asked:
		return after, true
	case status == http.StatusTooManyRequests, strings.Contains(strings.ToLower(answer.Message), "rate limit"):
		return secondaryWait, true
	}
	return 0, false
}

// message is what GitHub says in an answer that says no.
func message(answer *github.ErrorResponse) string {
	said := []string{answer.Message}
	for _, e := range answer.Errors {
		switch {
		case e.Message != "":
			said = append(said, e.Message)
		case e.Code != "":
			said = append(said, strings.TrimSpace(e.Resource+" "+e.Field+" "+e.Code))
		}
	}
	return strings.Join(said, "; ")
}

// summary is an answer in one line: GitHub's words and the request, without its query.
func summary(response *http.Response, said string) error {
	if said == "" {
		said = http.StatusText(response.StatusCode)
	}
	if response.Request == nil {
		return fmt.Errorf("GitHub answers %d: %s", response.StatusCode, said)
	}
	return fmt.Errorf("GitHub answers %d to %s %s: %s", response.StatusCode, response.Request.Method, response.Request.URL.Path, said)
}
