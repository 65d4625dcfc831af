// Package transfer brings bytes of a known digest from mirrors to a file.
//
// The client calls it for releases and models, and the farm for the builder's packages. The input
// is a Blob (name, size, digest, mirrors) and the path of a partial file; when Fetch returns nil
// the file is whole, has the digest and is on disk, and the caller renames it. Save is Fetch to a
// file's own name.
//
//	mirror ──▶ ranges, in order ──▶ partial file, SHA-256, follower, progress
//
// The partial file is at every moment a prefix of the blob: ranges that are fetched side by side
// wait in memory, at most Streams × RangeSize bytes, and are written in order. So nothing but the
// file's length is kept for the next run, and a process killed at any moment leaves a file to
// resume from. After a power failure the prefix may be damaged; then the digest is wrong, and the
// blob is fetched again from its first byte.
//
// Mirrors are tried in turn, each from the byte where the one before it ended. One that gives too
// few bytes for a while is left for the next, and taken up again, the fastest first, if none of the
// others has the blob; where there is but one, it is never given up.
//
// When the digest does not hold and more than one source gave the bytes, it is not known which one
// lied: each mirror is then tried by itself from byte 0. A mirror that gave all the bytes of a
// wrong digest is not asked again.
//
// The partial file is locked with flock(2) while Fetch runs; a second process waits for it. A
// caller that renames the file afterward must keep other writers away by a lock of its own, which
// is the only one where the file system has no flock. Save renames it itself, under the lock.
//
// Content-Encoding is never applied, Blob.Header never follows a redirect to another scheme, host
// or port, and https never becomes http. Proxies and certificates are the HTTP client's: Go's own
// honors the proxy variables and SSL_CERT_FILE. The package never unpacks, logs or prints.
package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests/retry"
)

// A Client brings blobs. The zero value will do; it may be used by several goroutines at once.
type Client struct {
	HTTP *http.Client // nil: one with Go's defaults, which honors the proxy variables and SSL_CERT_FILE
	// Streams is how many ranges of one blob are fetched at once: 4. 1 is a single stream.
	Streams int
	// RangeSize is a range's length in bytes: 4 MiB. Memory is Streams × RangeSize, and 4 MiB more
	// where there is a follower.
	RangeSize int64
	// Tries is how often in a row a mirror may bring nothing before the next one is asked: 5.
	Tries int
	// FirstWait is before the second try, half of it random; it doubles up to 30 seconds: 1 second.
	FirstWait time.Duration
	// MaxRetryAfter caps what a server may ask to wait: 1 minute.
	MaxRetryAfter time.Duration
	// StallTimeout is how long a connection may bring no byte: 30 seconds.
	StallTimeout time.Duration
	// SlowRate is how many bytes a second a mirror must give over each SlowWindow, or the next one
	// is asked: 16 KiB. With a negative rate, no mirror is abandoned.
	SlowRate int64
	// SlowWindow is how long a mirror may be slower than SlowRate: 1 minute.
	SlowWindow time.Duration
}

const (
	copyBuffer    = 128 << 10 // bytes a read; Go's own 32 KiB costs four times the system calls
	followBuffer  = 4 << 20   // bytes by which a follower may be behind
	lockPoll      = 100 * time.Millisecond
	progressEvery = 100 * time.Millisecond
	// lagFactor is how many times slower than SlowRate a single range must be to be asked for
	// again, with those that came after it: on a slow line, what is thrown away took long to come.
	lagFactor = 16
)

// defaultHTTP is Go's own client, with as many idle connections as there are streams: with two, the
// others would be opened again for every range.
var defaultHTTP = func() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 16
	return &http.Client{Transport: transport}
}()

func (c *Client) withDefaults() *Client {
	d := *c
	d.HTTP = cmp.Or(d.HTTP, defaultHTTP)
	d.Streams = cmp.Or(d.Streams, 4)
	d.RangeSize = cmp.Or(d.RangeSize, 4<<20)
	d.StallTimeout = cmp.Or(d.StallTimeout, 30*time.Second)
	d.SlowRate = cmp.Or(d.SlowRate, 16<<10)
	d.SlowWindow = cmp.Or(d.SlowWindow, time.Minute)
	return &d
}

// policy is how often one mirror is asked.
func (c *Client) policy() retry.Policy {
	return retry.Policy{Tries: c.Tries, FirstWait: c.FirstWait, MaxAfter: c.MaxRetryAfter}
}

// Patient returns the same client, except that it never abandons a mirror for being slow.
func (c *Client) Patient() *Client {
	p := *c
	p.SlowRate = -1
	return &p
}

// Fetch brings the blob's bytes into the file partial, resuming after what it holds already. When
// it returns nil the file is whole, has the digest, and is fsynced, unless it is a transient one;
// the caller renames it.
//
// follow, if not nil, reads the same bytes in order while they come, from byte 0, what was there
// already included. It sees io.EOF only after the digest held. Its error ends the transfer. When
// the bytes turn out wrong its reader fails and it is called again from byte 0; the error that it
// returned is dropped. A slow follower slows the transfer down.
//
// progress, if not nil, is called at most ten times a second, and once at the end, never by two
// goroutines at once.
//
// Errors: *DigestError, *NetworkError, *SpaceError, follow's, the context's, or one of the file
// system.
func (c *Client) Fetch(ctx context.Context, b Blob, partial string, follow func(io.Reader) error, progress func(Progress)) error {
	f, unlock, err := openPartial(ctx, partial)
	if err != nil {
		return fmt.Errorf("fetching %s: %w", b.Name, err)
	}
	defer unlock()
	return c.fetch(ctx, b, f, follow, progress)
}

// fetch is Fetch into a file that this process has the lock of.
func (c *Client) fetch(ctx context.Context, b Blob, f *os.File, follow func(io.Reader) error, progress func(Progress)) error {
	c = c.withDefaults()
	if b.sum() == "" { // nothing says that what is there belongs to this blob
		if err := f.Truncate(0); err != nil {
			return fmt.Errorf("fetching %s: %w", b.Name, err)
		}
	}
	t := &transfer{Client: c, blob: b, file: f, follow: follow, progress: progress, refused: map[string]error{}, slow: map[string]*SlowError{}}
	t.http = c.HTTP
	if len(b.URLs) > 0 {
		t.http = guardRedirects(c.HTTP, b.Header)
	}
	err := t.run(ctx)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if local, ok := errors.AsType[*localError](err); ok {
		return local.err
	}
	return err
}

// A transfer is one call of Fetch.
type transfer struct {
	*Client
	http     *http.Client
	blob     Blob
	file     *os.File
	follow   func(io.Reader) error
	progress func(Progress)
	told     time.Time
	refused  map[string]error      // mirrors not to be asked again, as they are shown
	changed  bool                  // a pass ended because the server's file changed
	alone    bool                  // no mirror continues where another one ended
	slow     map[string]*SlowError // mirrors to be asked again when no other one is left, as they are shown
	meter    *meter                // of the mirror that is asked

	// Of one pass from byte 0 to the digest:
	have    int64
	from    int64 // what the file held
	total   int64 // negative if it is not known
	sum     hash.Hash
	pipe    *pipe
	done    chan error
	sources map[string]bool // "" is an earlier run
}

func (t *transfer) run(ctx context.Context) error {
	for {
		err := t.pass(ctx)
		_, local := errors.AsType[*localError](err)
		digest, wrong := errors.AsType[*DigestError](err)
		switch {
		case err == nil || ctx.Err() != nil || local:
			return err
		case wrong:
			only := len(t.sources) == 1 && !t.sources[""]
			if only {
				t.refused[digest.Mirror] = digest
			} else if t.alone { // no byte of a mirror's is in it: an empty blob
				return errors.Join(err, os.Remove(t.file.Name()))
			}
			t.alone = true
		case !errors.Is(err, errChanged):
			return err
		}
		if err := t.file.Truncate(0); err != nil {
			return err
		}
	}
}

// pass goes from byte 0 to the digest once: over what the file holds, then over the mirrors.
func (t *transfer) pass(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t.have, t.from, t.total, t.sum, t.sources = 0, 0, t.blob.Size, t.blob.newHash(), map[string]bool{}
	t.pipe, t.done, t.meter = nil, nil, nil
	if t.follow != nil {
		p := newPipe(followBuffer)
		t.pipe, t.done = p, make(chan error, 1)
		go func() {
			err := t.follow(p)
			if err != nil {
				p.refuse(err)
				cancel(err) // also where no byte is on its way
			} else {
				_, _ = io.Copy(io.Discard, p) // the reader has what it wants; the writer continues
			}
			t.done <- err
		}()
		stop := context.AfterFunc(ctx, func() { p.end(context.Cause(ctx)) })
		defer stop()
	}
	err := t.bring(ctx)
	if t.pipe == nil {
		return err
	}
	before := context.Cause(ctx)
	t.pipe.end(err)
	followed := <-t.done
	if followed != nil && (err == nil || before != nil && errors.Is(before, followed)) {
		return &localError{followed} // it failed by itself, not because its reader did
	}
	return err
}

// bring goes over the mirrors, in order, and then over those that were slow.
func (t *transfer) bring(ctx context.Context) error {
	if err := t.readPrefix(ctx); err != nil {
		return &localError{err}
	}
	if t.isWhole() {
		return t.finish("")
	}
	if err := t.checkSpace(); err != nil {
		return &localError{err}
	}
	var failed []error
	try := func(address string, patient bool) (done bool, err error) {
		shown := redact(address)
		err = t.fetchFrom(ctx, address, shown, patient)
		_, local := errors.AsType[*localError](err)
		slow, isSlow := errors.AsType[*SlowError](err)
		switch {
		case err == nil:
			return true, t.finish(shown)
		case ctx.Err() != nil:
			return true, &localError{context.Cause(ctx)}
		case local, errors.Is(err, errChanged):
			return true, err
		case isSlow:
			t.slow[shown] = slow
		case t.alone && t.have > 0:
			t.refused[shown] = err
		default:
			failed = append(failed, err)
		}
		if t.alone && t.have > 0 { // no other mirror continues what this one began
			return true, errChanged
		}
		return false, nil
	}
	for _, address := range t.blob.URLs {
		shown := redact(address)
		if err := t.refused[shown]; err != nil {
			failed = append(failed, err)
		} else if t.slow[shown] == nil {
			if done, err := try(address, len(t.blob.URLs) == 1); done {
				return err
			}
		}
	}
	for _, address := range t.slowMirrors() {
		if done, err := try(address, true); done {
			return err
		}
	}
	if len(failed) == 0 {
		failed = append(failed, errors.New("there is no mirror to ask"))
	}
	err := errors.Join(failed...)
	if _, wrong := errors.AsType[*DigestError](err); wrong { // graver news than that others do not answer
		return &localError{errors.Join(err, os.Remove(t.file.Name()))}
	}
	return &NetworkError{Name: t.blob.Name, Err: err}
}

// slowMirrors are the mirrors that were too slow, the fastest first.
func (t *transfer) slowMirrors() []string {
	list := slices.DeleteFunc(slices.Clone(t.blob.URLs), func(address string) bool {
		shown := redact(address)
		return t.slow[shown] == nil || t.refused[shown] != nil
	})
	slices.SortStableFunc(list, func(a, b string) int { return cmp.Compare(t.slow[redact(b)].Rate, t.slow[redact(a)].Rate) })
	return list
}

// fetchFrom fetches from one mirror until the blob is whole or the mirror is given up: with a
// *SlowError because it is slow, unless it is patient.
func (t *transfer) fetchFrom(ctx context.Context, address, shown string, patient bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t.meter = t.newMeter(func(m *meter, rate int64) {
		if !patient {
			cancel(&SlowError{URL: shown, Rate: rate, Window: t.SlowWindow})
		} else if m.lags() && rate < t.SlowRate/lagFactor {
			m.interrupt(errLags)
		}
	})
	defer t.meter.end()
	t.meter.slow.Store(t.slow[shown] != nil)
	etag, started := "", t.have
	for tries := t.policy().Begin(); ; {
		before := t.have
		trying, end := t.meter.begin(ctx)
		err := t.attempt(trying, address, shown, &etag)
		end(nil)
		if err == nil && t.have < t.blob.Size { // a shorter answer than asked for
			err = &retry.TemporaryError{Err: fmt.Errorf("%s: %w", shown, io.ErrUnexpectedEOF)}
		}
		_, local := errors.AsType[*localError](err)
		switch {
		case err == nil || local:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case retry.IsTemporary(err) && t.blob.sum() == "" && etag == "" && t.have > started:
			return errors.Join(errors.New("going on is not safe without a digest or an ETag"), err)
		}
		if t.have > before {
			tries.Reset()
		}
		if err := tries.Wait(ctx, err); err != nil {
			return err
		}
	}
}
