package hfhub

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/waqasm86/llcuda-farm/publisher"
)

// An APIError is an answer that is not what was asked for.
type APIError struct {
	// Request is its method and address, without what is secret in it.
	Request string
	Status  int
	// Code and Message are the Hub's X-Error-Code and X-Error-Message; Message may be the body's.
	Code, Message string
	// ID is how the Hub's own people find the request.
	ID string
}

func (e *APIError) Error() string {
	s := fmt.Sprintf("%s: %d %s", e.Request, e.Status, http.StatusText(e.Status))
	if e.Code != "" {
		s += " (" + e.Code + ")"
	}
	if e.Message != "" {
		s += fmt.Sprintf(": %q", e.Message)
	}
	if e.ID != "" {
		s += ", request " + e.ID
	}
	return s
}

// A StalledError is an upload that moved no byte, or an answer that did not come, for too long.
type StalledError struct{ Request string }

func (e *StalledError) Error() string { return e.Request + ": nothing moves any more" }

// A ChangedError is a file that is another one than a moment ago.
type ChangedError struct{ Local string }

func (e *ChangedError) Error() string { return e.Local + " was changed while it was published" }

// Hint says what helps.
func (e *ChangedError) Hint() string {
	return "let nothing write to it, then publish again: nothing was committed"
}

// errStale is a head that is not the one that the commit was made for.
var errStale = errors.New("the head of the repository keeps moving: others are publishing to it")

// isStatus reports whether an error is an answer with that status.
func isStatus(err error, status int) bool {
	answer, ok := errors.AsType[*APIError](err)
	return ok && answer.Status == status
}

// isCode reports whether an error is an answer with that X-Error-Code.
func isCode(err error, code string) bool {
	answer, ok := errors.AsType[*APIError](err)
	return ok && answer.Code == code
}

// explain turns an answer that the Hub would repeat into an error with a way out, for the person who
// publishes to repo.
func explain(err error, repo string) error {
	answer, ok := errors.AsType[*APIError](err)
	if _, already := errors.AsType[*publisher.RefusedError](err); !ok || already {
		return err
	}
	way := ""
	switch {
	case answer.Code == "GatedRepo":
		way = "ask its owner for access, with the account that the token belongs to"
	case answer.Status == http.StatusUnauthorized:
		way = "set HF_TOKEN to a token that is valid and may write to " + repo + "; one that expired meanwhile must be replaced. What was uploaded is not sent again"
	case answer.Status == http.StatusForbidden:
		way = "the token must have the right to write to " + repo + ": a fine-grained token names it, and one from GitHub Actions writes only to the repository whose settings trust the workflow"
	case answer.Code == "RepoNotFound", answer.Status == http.StatusNotFound:
		way = "check the name " + repo + ": it does not exist, or the token may not see it"
	case answer.Status == http.StatusConflict:
		way = "somebody else is changing " + repo + ": wait, and publish again"
	case answer.Status == http.StatusPaymentRequired, answer.Status == http.StatusInsufficientStorage:
		way = "the storage of the owner of " + repo + " is full"
	default:
		return err
	}
	return &publisher.RefusedError{Err: err, Way: way}
}
