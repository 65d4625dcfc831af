package hfhub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests/retry"
)

// A call is one request to the Hub's own interface.
type call struct {
	method, path string // path begins with a slash, or is a whole address
	body         any    // made JSON; []byte goes as it is
	contentType  string // of []byte
	accept       string
	// once says that it must not be repeated without looking what the first one did.
	once bool
	// slow gives the Hub five times as long.
	slow bool
}

// do makes a request until it is answered, and reads the answer into value if that is not nil.
func (c *Client) do(ctx context.Context, r call, value any) error {
	var body []byte
	switch b := r.body.(type) {
	case nil:
	case []byte:
		body = b
	default:
		var err error
		if body, err = json.Marshal(b); err != nil {
			return err
		}
		r.contentType = "application/json"
	}
	address := r.path
	if strings.HasPrefix(address, "/") {
		address = c.endpoint() + address
	}
	tries := c.tries()
	if r.once {
		tries = 1
	}
	return c.retry(ctx, tries, func() error {
		answer, err := c.ask(ctx, r, address, body)
		if err != nil || value == nil {
			return err
		}
		if raw, ok := value.(*[]byte); ok {
			*raw = answer
			return nil
		}
		if err := json.Unmarshal(answer, value); err != nil {
			return fmt.Errorf("%s: reading the answer: %w", requestName(r.method, address), err)
		}
		return nil
	})
}

// retry repeats a request while retrying may help, with the waits that the Hub asks for.
func (c *Client) retry(ctx context.Context, tries int, try func() error) error {
	policy := c.policy()
	policy.Tries = tries
	err := policy.Do(ctx, try)
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// policy is how often the Hub and its storage are asked.
func (c *Client) policy() retry.Policy {
	policy := retry.Policy{Tries: c.Tries, FirstWait: c.firstWait(), LongestWait: maxWaits * c.firstWait(), MaxAfter: maxAsked}
	if c.Waiting != nil {
		policy.Waiting = func(why error, wait time.Duration) { c.Waiting(wait, why) }
	}
	return policy
}

// ask makes one request, once more with another token where the Hub does not know this one, and
// once for each redirect of the Hub to itself.
func (c *Client) ask(ctx context.Context, r call, address string, body []byte) ([]byte, error) {
	renewed := false
	for range maxRedirects {
		own, token := c.isOwn(address), ""
		if own {
			var err error
			if token, err = c.currentToken(ctx, ""); err != nil {
				return nil, err
			}
		}
		answer, err := c.askOnce(ctx, r, address, body, token)
		redirect, redirected := errors.AsType[*redirectError](err)
		switch {
		case redirected:
			to, err := redirect.from.Parse(redirect.location)
			if err != nil {
				return nil, fmt.Errorf("%s: it redirects to no address", requestName(r.method, address))
			}
			if address = to.String(); own && !c.isOwn(address) {
				return nil, fmt.Errorf("%s: it redirects to %s://%s, which is not the Hub", requestName(r.method, redirect.from.String()), to.Scheme, to.Host)
			}
		case isStatus(err, http.StatusUnauthorized) && token != "" && !renewed:
			renewed = true
			switch _, noNew := c.currentToken(ctx, token); {
			case errors.Is(noNew, errNoOther):
				return nil, err
			case noNew != nil:
				return nil, noNew
			}
		default:
			return answer, err
		}
	}
	return nil, fmt.Errorf("%s: it redirects without end", requestName(r.method, address))
}

type redirectError struct {
	from     *url.URL
	location string
}

func (e *redirectError) Error() string { return "redirected" }

func (c *Client) askOnce(ctx context.Context, r call, address string, body []byte, token string) ([]byte, error) {
	timeout := c.stall()
	if r.slow {
		timeout *= 5
	}
	name := requestName(r.method, address)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, &StalledError{Request: name})
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, r.method, address, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if r.contentType != "" {
		request.Header.Set("Content-Type", r.contentType)
	}
	if r.accept != "" {
		request.Header.Set("Accept", r.accept)
	}
	response, err := c.send(ctx, request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if location := response.Header.Get("Location"); response.StatusCode/100 == 3 && location != "" {
		return nil, &redirectError{from: request.URL, location: location}
	}
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, noAnswer(ctx, name, err)
	case response.StatusCode/100 != 2:
		return nil, refusal(name, response, answer)
	case len(answer) > maxAnswer:
		return nil, fmt.Errorf("%s: the answer is longer than %d bytes", name, maxAnswer)
	}
	return answer, nil
}

// send makes one request. It returns redirects as answers: a caller that follows one decides what to
// send along.
func (c *Client) send(ctx context.Context, request *http.Request) (*http.Response, error) {
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if c.HTTP != nil {
		client.Transport = c.HTTP.Transport
	}
	request.Header.Set("User-Agent", "llcuda-farm")
	response, err := client.Do(request)
	if err != nil {
		return nil, noAnswer(ctx, requestName(request.Method, request.URL.String()), err)
	}
	return response, nil
}

// noAnswer is why there was no answer, without what is secret in an address. The request may have
// been carried out.
func noAnswer(ctx context.Context, name string, err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	if stalled, ok := errors.AsType[*StalledError](context.Cause(ctx)); ok {
		return &retry.TemporaryError{Err: stalled}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return &retry.TemporaryError{Err: fmt.Errorf("%s: %w", name, err)}
}

// refusal reads an answer that is an error: the Hub's headers, its JSON, or the storage's XML.
func refusal(name string, response *http.Response, body []byte) error {
	h := response.Header
	message := h.Get("X-Error-Message")
	if message == "" {
		var said struct {
			Error       string
			Description string `json:"error_description"`
			Errors      []struct{ Message string }
		}
		switch {
		case json.Unmarshal(body, &said) != nil:
			if match := xmlMessage.FindSubmatch(body); match != nil {
				message = string(match[1])
			}
		case len(said.Errors) > 0:
			for _, e := range said.Errors {
				message += e.Message + "\n"
			}
		default:
			message = strings.TrimSpace(said.Error + " " + said.Description)
		}
	}
	const enough = 600 // bytes for a person to read
	message = strings.ToValidUTF8(strings.TrimSpace(message), "?")
	err := &APIError{Request: name, Status: response.StatusCode, Code: h.Get("X-Error-Code"), Message: message[:min(len(message), enough)], ID: h.Get("X-Request-Id")}
	if retry.IsBusy(response.StatusCode) {
		after, _ := retry.After(h)
		return &retry.TemporaryError{Err: err, After: after}
	}
	return err
}

var xmlMessage = regexp.MustCompile(`<Message>([^<]*)</Message>`)

// requestName names a request to a person: what an address is signed with is left out.
func requestName(method, address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return method
	}
	return strings.TrimSpace(method + " " + u.Scheme + "://" + u.Host + u.EscapedPath())
}

// isOwn reports whether an address is the Hub's own: of the same scheme, host and port. Only there
// the token goes.
func (c *Client) isOwn(address string) bool {
	own, err := url.Parse(c.endpoint())
	if err != nil {
		return false
	}
	u, err := url.Parse(address)
	return err == nil && u.Scheme == own.Scheme && u.Host == own.Host && u.User == nil
}
