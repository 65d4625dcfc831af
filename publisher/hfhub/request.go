package hfhub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
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
			return fmt.Errorf("%s: reading the answer: %w", naming(r.method, address), err)
		}
		return nil
	})
}

// retry repeats what a later try may mend, with the waits that the Hub asks for.
func (c *Client) retry(ctx context.Context, tries int, try func() error) error {
	for n := 1; ; n++ {
		err := try()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !isTemporary(err) || n >= tries:
			return err
		}
		if err := c.wait(ctx, n, err); err != nil {
			return err
		}
	}
}

// wait waits before try n+1: as long as the answer asks for, or longer from try to try.
func (c *Client) wait(ctx context.Context, n int, why error) error {
	wait := c.firstWait() * min(maxWaits, time.Duration(1)<<min(n-1, 10))
	wait = max(wait/2+rand.N(wait/2+1), min(asked(why), maxAsked))
	if c.Waiting != nil {
		c.Waiting(wait, why)
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// resetForm is the time to the next window in the header of https://www.ietf.org/archive/id/draft-ietf-httpapi-ratelimit-headers-09.html:
// ratelimit: "api";r=0;t=55
var resetForm = regexp.MustCompile(`;\s*t=(\d{1,6})\b`)

// asked is how long an answer asks to wait, 0 where it does not. The window counts only where the limit was hit: the Hub
// names it in every answer.
func asked(err error) time.Duration {
	var answer *APIError
	if !errors.As(err, &answer) {
		return 0
	}
	if match := resetForm.FindStringSubmatch(answer.header.Get("RateLimit")); answer.Status == http.StatusTooManyRequests && match != nil {
		n, _ := strconv.Atoi(match[1])
		return time.Duration(n) * time.Second
	}
	after := answer.header.Get("Retry-After")
	if n, err := strconv.Atoi(after); err == nil && n >= 0 {
		return time.Duration(min(n, 1_000_000)) * time.Second
	}
	if at, err := http.ParseTime(after); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// ask makes one request, once more with another token where the Hub does not know this one, and once for each redirect
// of the Hub to itself.
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
		var redirect *redirectError
		switch {
		case errors.As(err, &redirect):
			to, err := redirect.from.Parse(redirect.location)
			if err != nil {
				return nil, fmt.Errorf("%s: it redirects to no address", naming(r.method, address))
			}
			if address = to.String(); own && !c.isOwn(address) {
				return nil, fmt.Errorf("%s: it redirects to %s://%s, which is not the Hub", naming(r.method, redirect.from.String()), to.Scheme, to.Host)
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
	return nil, fmt.Errorf("%s: it redirects without end", naming(r.method, address))
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
	name := naming(r.method, address)
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
		return nil, unanswered(ctx, name, err)
	case response.StatusCode/100 != 2:
		return nil, refusal(name, response, answer)
	case len(answer) > maxAnswer:
		return nil, fmt.Errorf("%s: the answer is longer than %d bytes", name, maxAnswer)
	}
	return answer, nil
}

// send makes one request. Redirects are answers: whoever follows them decides what goes along.
func (c *Client) send(ctx context.Context, request *http.Request) (*http.Response, error) {
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if c.HTTP != nil {
		client.Transport = c.HTTP.Transport
	}
	request.Header.Set("User-Agent", "llcuda-farm")
	response, err := client.Do(request)
	if err != nil {
		return nil, unanswered(ctx, naming(request.Method, request.URL.String()), err)
	}
	return response, nil
}

// unanswered says why there was no answer, without what is secret in an address.
func unanswered(ctx context.Context, name string, err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	var stalled *StalledError
	if errors.As(context.Cause(ctx), &stalled) {
		return &unansweredError{stalled}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return &unansweredError{fmt.Errorf("%s: %w", name, err)}
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
	return &APIError{Request: name, Status: response.StatusCode, Code: h.Get("X-Error-Code"), Message: message[:min(len(message), enough)], ID: h.Get("X-Request-Id"), header: h}
}

var xmlMessage = regexp.MustCompile(`<Message>([^<]*)</Message>`)

// naming names a request to a person: what an address is signed with is left out.
func naming(method, address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return method
	}
	return strings.TrimSpace(method + " " + u.Scheme + "://" + u.Host + u.EscapedPath())
}

// isOwn tells whether an address is the Hub's own: of the same scheme, host and port. Only there the token goes.
func (c *Client) isOwn(address string) bool {
	own, err := url.Parse(c.endpoint())
	if err != nil {
		return false
	}
	u, err := url.Parse(address)
	return err == nil && u.Scheme == own.Scheme && u.Host == own.Host && u.User == nil
}
