package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
)

// Get returns a small document, at most limit bytes, from the first URL that gives it, and that
// URL. A document that is longer, or comes more slowly than SlowRate or after the context's
// deadline, counts as not given. Errors: *NetworkError, or the context's.
func (c *Client) Get(ctx context.Context, urls []string, limit int64) ([]byte, string, error) {
	c = c.withDefaults()
	client := guardRedirects(c.HTTP, nil)
	var failed []error
	name := "a document"
	for _, address := range urls {
		shown := redact(address)
		if u, err := url.Parse(address); err == nil && len(failed) == 0 {
			name = filepath.Base(u.Path)
		}
		document, err := c.getFrom(ctx, client, address, shown, limit)
		if err == nil {
			return document, address, nil
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil, "", context.Cause(ctx)
		}
		failed = append(failed, err)
	}
	if len(failed) == 0 {
		failed = append(failed, errors.New("there is no mirror to ask"))
	}
	return nil, "", &NetworkError{Name: name, Err: errors.Join(failed...)}
}

// getFrom asks one address until it answers or is given up.
func (c *Client) getFrom(ctx context.Context, client *http.Client, address, shown string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m := c.newMeter(func(_ *meter, rate int64) { cancel(&SlowError{URL: shown, Rate: rate, Window: c.SlowWindow}) })
	defer m.end()
	var before error // of an earlier try
	ended := func() error {
		cause := context.Cause(ctx)
		switch {
		case !errors.Is(ctx.Err(), context.DeadlineExceeded):
			return cause
		case before != nil:
			return fmt.Errorf("%w; %w", before, cause)
		}
		return fmt.Errorf("%s: %w", shown, cause)
	}
	for tries := c.policy().Begin(); ; {
		document, err := c.readDocument(ctx, client, m, address, shown, limit)
		if err == nil {
			return document, nil
		}
		if ctx.Err() != nil {
			return nil, ended()
		}
		before = err
		// That the name does not exist is an answer, and waiting does not change it.
		if unknown, ok := errors.AsType[*net.DNSError](err); ok && unknown.IsNotFound {
			return nil, err
		}
		if err := tries.Wait(ctx, err); err != nil {
			if ctx.Err() != nil {
				return nil, ended()
			}
			return nil, err
		}
	}
}

// readDocument asks one address once.
func (c *Client) readDocument(ctx context.Context, client *http.Client, m *meter, address, shown string, limit int64) ([]byte, error) {
	var r io.ReadCloser
	if strings.HasPrefix(address, "file:") {
		f, _, err := openFile(address, shown)
		if err != nil {
			return nil, err
		}
		r = f
	} else {
		response, err := c.request(ctx, client, m, address, shown, nil, 0, -1, "")
		if err != nil {
			return nil, err
		}
		if r = response.Body; response.StatusCode != http.StatusOK {
			r.Close()
			return nil, &StatusError{URL: shown, Code: response.StatusCode, Status: response.Status}
		}
	}
	defer r.Close()
	document, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(document)) > limit {
		return nil, &SizeError{URL: shown, Want: limit, Got: -1}
	}
	return document, nil
}
