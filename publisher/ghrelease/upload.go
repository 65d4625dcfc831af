package ghrelease

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"sync"
	"time"

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
	ctx, watch := newWatchdog(ctx, s.stall)
	defer watch.end()
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
	response, err := s.client.Do(ctx, s.authorized(request), &made)
	if err := s.explain(ctx, err); err != nil {
		return publisher.Asset{}, found(err)
	}
	return made.public(clock(response.Header)), nil
}

// A watchdog ends a context when nothing has moved for a while.
type watchdog struct {
	mu    sync.Mutex
	timer *time.Timer
	stall time.Duration
	ended bool
	stop  context.CancelCauseFunc
}

// newWatchdog watches from now on. Whoever made it calls end.
func newWatchdog(ctx context.Context, stall time.Duration) (context.Context, *watchdog) {
	ctx, stop := context.WithCancelCause(ctx)
	w := &watchdog{stall: stall, stop: stop}
	w.timer = time.AfterFunc(stall, func() { stop(errStalled) })
	return ctx, w
}

// moved tells that something moved.
func (w *watchdog) moved() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.timer.Reset(w.stall)
	}
}

func (w *watchdog) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.timer.Stop()
	w.stop(nil)
}

// watchedBody is a body, sent or received, that tells a watchdog how it moves.
type watchedBody struct {
	body   io.ReadCloser
	watch  *watchdog
	moved  func(int64) // told how many bytes went by; may be nil
	closed func()
	done   int64
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	b.watch.moved()
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
