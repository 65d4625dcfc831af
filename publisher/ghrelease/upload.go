package ghrelease

import (
	"context"
	"fmt"
	"io"
	"net/url"

	"github.com/waqasm86/llcuda-farm/manifests/retry"
	"github.com/waqasm86/llcuda-farm/publisher"
)

// Upload implements publisher.Store.
func (s *Store) Upload(ctx context.Context, r publisher.Release, content publisher.Content) (publisher.Asset, error) {
	to, err := url.Parse(r.UploadURL)
	if err != nil || !uploadsBeside(s.api, to) {
		return publisher.Asset{}, &publisher.RefusedError{
			Err: fmt.Errorf("GitHub names %q for uploads, which is not beside %s: the token is not sent there", r.UploadURL, s.api.Host),
			Way: "give the server's own address with --api-url",
		}
	}
	to.RawQuery = url.Values{"name": {content.Name}}.Encode()
	ctx, watch := retry.Watch(ctx, s.stall, errStalled)
	defer watch.End()
	open := func() (io.ReadCloser, error) {
		body, err := content.Open()
		if err != nil {
			return nil, err
		}
		return &watchedBody{body: body, watch: watch, moved: content.Sent, closed: func() {}}, nil
	}
	body, err := open()
	if err != nil {
		return publisher.Asset{}, err
	}
	request, err := s.client.NewUploadRequest(to.String(), body, content.Size, "application/octet-stream")
	if err != nil {
		body.Close()
		return publisher.Asset{}, err
	}
	request.GetBody = open // for connections that turn out to be closed, and for redirects
	var made asset
	response, err := s.client.Do(ctx, s.authorize(request), &made)
	if err := s.explain(ctx, err); err != nil {
		return publisher.Asset{}, missingAsGone(err)
	}
	return made.public(clock(response.Header)), nil
}

// A watchedBody is a body, sent or received, that tells a watchdog how it moves.
type watchedBody struct {
	body   io.ReadCloser
	watch  *retry.Watchdog
	moved  func(int64) // told how many bytes went by; may be nil
	closed func()
	done   int64
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	b.watch.Moved()
	b.done += int64(n)
	if b.moved != nil && n > 0 {
		b.moved(b.done)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.closed()
	return b.body.Close()
}
