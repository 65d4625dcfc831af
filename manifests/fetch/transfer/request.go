package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/waqasm86/llcuda-farm/manifests/retry"
)

// request asks for the bytes from..to, both included; a negative to is the end. The body fails when
// nothing comes for StallTimeout; the caller closes it. Its bytes are counted by the meter.
func (c *Client) request(ctx context.Context, client *http.Client, m *meter, address, shown string, header http.Header, from, to int64, etag string) (*http.Response, error) {
	ctx, watch := retry.Watch(ctx, c.StallTimeout, fmt.Errorf("nothing arrived for %s", c.StallTimeout))
	m.open.Add(1)
	end := sync.OnceFunc(func() { watch.End(); m.open.Add(-1) })
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		end()
		return nil, err
	}
	for k, v := range header {
		request.Header[http.CanonicalHeaderKey(k)] = v
	}
	request.Header.Set("Accept-Encoding", "identity") // else a file sent as gzip arrives unpacked
	request.Header.Del("Range")
	if from > 0 || to >= 0 {
		request.Header.Set("Range", rangeHeader(from, to))
		if etag != "" {
			request.Header.Set("If-Range", etag)
		}
	}
	response, err := client.Do(request)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("%s: %w", shown, cause)
		}
		end()
		_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
		// What a proxy answers to CONNECT is an error without a type: net/http.Transport.dialConn.
		if untrusted || errors.Is(err, errInsecure) || errors.Is(err, errRedirects) || strings.Contains(err.Error(), http.StatusText(http.StatusProxyAuthRequired)) {
			return nil, err
		}
		return nil, &retry.TemporaryError{Err: err}
	}
	watch.Rest()
	response.Body = &body{ReadCloser: response.Body, ctx: ctx, end: end, meter: m, watch: watch, shown: shown}
	switch code := response.StatusCode; {
	case code == http.StatusOK, code == http.StatusPartialContent, code == http.StatusRequestedRangeNotSatisfiable:
		return response, nil
	default:
		response.Body.Close()
		err := &StatusError{URL: shown, Code: code, Status: response.Status}
		if retry.IsBusy(code) {
			after, _ := retry.After(response.Header)
			return nil, &retry.TemporaryError{Err: err, After: after}
		}
		return nil, err
	}
}

// A body is a response's body with a watch on it.
type body struct {
	io.ReadCloser
	ctx   context.Context
	end   func()
	meter *meter
	watch *retry.Watchdog
	shown string
}

func (b *body) Read(p []byte) (int, error) {
	b.watch.Moved() // only while it reads: a slow disk or follower is not a stall
	n, err := b.ReadCloser.Read(p)
	b.watch.Rest()
	b.meter.received.Add(int64(n))
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
		err = &retry.TemporaryError{Err: fmt.Errorf("%s: %w", b.shown, err)}
	}
	return n, err
}

func (b *body) Close() error {
	b.end()
	return b.ReadCloser.Close()
}

// redact is an address without its password.
func redact(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "an address that cannot be read"
	}
	return u.Redacted()
}

var (
	errInsecure  = errors.New("refusing a redirect from https to http")
	errRedirects = errors.New("it redirects without end")
)

// guardRedirects is the client with a check on redirects before its own.
func guardRedirects(client *http.Client, header http.Header) *http.Client {
	g := *client
	own := client.CheckRedirect
	g.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if via[len(via)-1].URL.Scheme == "https" && r.URL.Scheme != "https" {
			return errInsecure
		}
		home := via[0].URL
		for _, v := range append(via[1:len(via):len(via)], r) { // once away, always away
			if v.URL.Scheme != home.Scheme || v.URL.Host != home.Host {
				for k := range header {
					r.Header.Del(k)
				}
				for _, k := range []string{"Authorization", "Cookie", "Referer"} {
					r.Header.Del(k)
				}
			}
		}
		if own != nil {
			return own(r, via)
		}
		if len(via) >= 10 {
			return errRedirects
		}
		return nil
	}
	return &g
}
