package cosign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/sign"

	"github.com/waqasm86/llcuda-farm/manifests/retry"
	"github.com/waqasm86/llcuda-farm/publisher"
)

// The bounds on a service that is in trouble.
const (
	// tries is how often a request is sent.
	tries = 4
	// firstPause is the time before the second, half of it random; each one after that is twice as
	// long.
	firstPause = 500 * time.Millisecond
	// longestPause bounds what a service may ask for by Retry-After.
	longestPause = 20 * time.Second
	// answerTime bounds one request. A log of the second generation answers when the entry is in a
	// tree, seconds later.
	answerTime = 40 * time.Second
	// maxAnswer bounds an answer, in bytes.
	maxAnswer = 4 << 20
	// maxSaid bounds what of an error's text is shown.
	maxSaid = 300
	// noTimeout leaves time to the transport: sigstore-go's own would count all tries together.
	noTimeout = -1
)

// A ServiceError is a service that did not do its part: Status and Said are its answer, or Err is
// why there is none.
type ServiceError struct {
	Service, URL string
	Status       int
	Said         string
	Err          error
}

func (e *ServiceError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("asking %s: %v", e.Service, e.Err)
	}
	return fmt.Sprintf("asking %s: %s answers %d: %s", e.Service, e.URL, e.Status, e.Said)
}

func (e *ServiceError) Unwrap() error { return e.Err }

// Hint says the way out.
func (e *ServiceError) Hint() string {
	return "nothing was signed; the same command tries again, and --signing-config names other services"
}

// withoutAddress is an error without what http.Client puts around it: a *ServiceError has said it
// already.
func withoutAddress(err error) error {
	if around, ok := err.(*url.Error); ok {
		return around.Err
	}
	return err
}

// A patience is a transport that asks again where that may help: no answer, too many requests, and
// the server's own troubles. Every other refusal becomes a *ServiceError at once, but for 409,
// which logs mean as an answer.
type patience struct {
	ctx     context.Context // sigstore-go's requests to Fulcio and timestamp authorities carry none
	service string
	next    http.RoundTripper
}

func newPatience(ctx context.Context, service string) *patience {
	return &patience{ctx, service, http.DefaultTransport}
}

// RoundTrip implements http.RoundTripper.
func (p *patience) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		var err error
		body, err = io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil {
			return nil, err
		}
	}
	var response *http.Response
	policy := retry.Policy{Tries: tries, FirstWait: firstPause, MaxAfter: longestPause}
	err := policy.Do(p.ctx, func() (err error) {
		response, err = p.send(r, body)
		return err
	})
	if temporary, ok := errors.AsType[*retry.TemporaryError](err); ok {
		err = temporary.Err // which says that nothing was signed, and what to do
	}
	return response, err
}

// send sends a request once and reads the whole answer.
func (p *patience) send(r *http.Request, body []byte) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(p.ctx, answerTime)
	defer cancel()
	request := r.Clone(ctx)
	request.Body, request.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	if body == nil {
		request.Body = nil
	}
	failed := &ServiceError{Service: p.service, URL: r.URL.Redacted()}
	response, err := p.next.RoundTrip(request)
	var answer []byte
	if err == nil {
		answer, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer))
		response.Body.Close()
	}
	if err != nil {
		if p.ctx.Err() != nil {
			return nil, p.ctx.Err()
		}
		failed.Err = err
		return nil, &retry.TemporaryError{Err: failed}
	}
	response.Body = io.NopCloser(bytes.NewReader(answer))
	if response.StatusCode < http.StatusBadRequest || response.StatusCode == http.StatusConflict {
		return response, nil
	}
	failed.Status = response.StatusCode
	failed.Said = strings.ToValidUTF8(strings.Join(strings.Fields(string(answer[:min(len(answer), maxSaid)])), " "), "�")
	if !retry.IsBusy(response.StatusCode) {
		return nil, failed
	}
	after, _ := retry.After(response.Header)
	return nil, &retry.TemporaryError{Err: failed, After: after}
}

// An authority is Fulcio, whose refusals are of the token.
type authority struct{ sign.CertificateProvider }

// GetCertificate implements sign.CertificateProvider.
func (a *authority) GetCertificate(ctx context.Context, pair sign.Keypair, opts *sign.CertificateProviderOptions) ([]byte, error) {
	certificate, err := a.CertificateProvider.GetCertificate(ctx, pair, opts)
	failed, ok := errors.AsType[*ServiceError](err)
	if ok && failed.Status >= 400 && failed.Status < 500 && failed.Status != http.StatusTooManyRequests {
		return nil, &publisher.RefusedError{Err: failed, Way: "the certificate authority does not accept this token: it must be fresh, for the audience \"sigstore\", and of an issuer that the authority knows"}
	}
	return certificate, err
}
