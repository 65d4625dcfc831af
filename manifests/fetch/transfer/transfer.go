// Package transfer brings bytes of a known digest from mirrors to a file.
//
// The fetch package and its hub call it. In go a Blob (name, size, SHA-256, mirrors) and the path of a partial file;
// when Fetch returns nil the file is whole, has the digest and is on disk, and the caller renames it.
//
//	mirror ──▶ ranges, in order ──▶ partial file, SHA-256, follower, progress
//
// The partial file is at every moment a prefix of the blob: ranges that are fetched side by side wait in memory, at
// most Streams × RangeSize bytes, and are written in order. So nothing but the file's length is kept for the next
// run, and a process killed at any moment leaves a file to go on from. After a power failure the prefix may be
// damaged; then the digest does not hold, and the blob is fetched anew from its first byte.
//
// Mirrors are tried in turn and go on at the same byte. One that gives too few bytes for a while is left for the next, and
// taken up again, the fastest first, if none of the others has the blob; where there is but one, it is never given up.
//
// When the digest does not hold and more than one source gave
// the bytes, nobody knows which one lied: each mirror is then tried by itself from byte 0. A mirror that gave all
// the bytes of a wrong digest is not asked again.
//
// The partial file is locked with flock(2) while Fetch runs; a second process waits for it. Whoever renames the
// file afterwards must keep other writers away by a lock of his own, which is the only one where the file system has no
// flock.
//
// Content-Encoding is never applied, Blob.Header never follows a redirect to another scheme, host or port, and https
// never becomes http. Proxies and certificates are the HTTP client's: Go's own honours the proxy variables and
// SSL_CERT_FILE. The package never renames, unpacks, logs or prints.
package transfer

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/manifests/measure"
)

// A Blob is a file to bring.
type Blob struct {
	Name   string      // for messages
	Size   int64       // bytes; negative if it is not known
	SHA256 string      // lower-case hex; empty only where nobody knows it, and then nothing is resumed from an earlier run
	URLs   []string    // mirrors, in order of trial: http, https, file
	Header http.Header // sent to the URLs' own hosts, never after a redirect to another scheme, host or port
	// Transient is a blob whose file is thrown away once it is whole, because the follower made of it what is wanted. It
	// is not written to disk for its own sake: that would take as long as what was made of it.
	Transient bool
}

// Progress is how far a blob is.
type Progress = measure.Progress

// A Client brings blobs. The zero value will do; it may be used by several goroutines at once.
type Client struct {
	HTTP *http.Client // nil: one with Go's defaults, which honours the proxy variables and SSL_CERT_FILE
	// Streams is how many ranges of one blob are fetched at once: 4. 1 is a single stream.
	Streams int
	// RangeSize is a range's length in bytes: 4 MiB. Memory is Streams × RangeSize, and 4 MiB where somebody follows.
	RangeSize int64
	// Tries is how often in a row a mirror may bring nothing before the next one is asked: 5.
	Tries int
	// FirstWait is before the second try, half of it random; it doubles up to 30 seconds: 1 second.
	FirstWait time.Duration
	// MaxRetryAfter caps what a server may ask to wait: 1 minute.
	MaxRetryAfter time.Duration
	// StallTimeout is how long a connection may bring no byte: 30 seconds.
	StallTimeout time.Duration
	// SlowRate is how many bytes a second a mirror must give over each SlowWindow, or the next one is asked: 16 KiB. A
	// negative one has none given up.
	SlowRate int64
	// SlowWindow is how long a mirror may be slower than SlowRate: 1 minute.
	SlowWindow time.Duration
}

const (
	copyBuffer    = 128 << 10 // bytes a read; Go's own 32 KiB costs four times the system calls
	followBuffer  = 4 << 20   // bytes by which a follower may be behind
	longestWait   = 30 * time.Second
	lockPoll      = 100 * time.Millisecond
	progressEvery = 100 * time.Millisecond
	// lagFactor is how many times slower than SlowRate a single range must be to be asked for anew, with those that
	// came after it: on a slow line, what is thrown away so took long to come.
	lagFactor = 16
)

// defaultHTTP is Go's own client, with as many idle connections as there are streams: with two, the others would be
// made anew for every range.
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
	d.Tries = cmp.Or(d.Tries, 5)
	d.FirstWait = cmp.Or(d.FirstWait, time.Second)
	d.MaxRetryAfter = cmp.Or(d.MaxRetryAfter, time.Minute)
	d.StallTimeout = cmp.Or(d.StallTimeout, 30*time.Second)
	d.SlowRate = cmp.Or(d.SlowRate, 16<<10)
	d.SlowWindow = cmp.Or(d.SlowWindow, time.Minute)
	return &d
}

// Patient is the same client, which gives no mirror up for being slow.
func (c *Client) Patient() *Client {
	p := *c
	p.SlowRate = -1
	return &p
}

// Fetch brings the blob's bytes into the file partial, going on from what it holds already. When it returns nil the
// file is whole, has the digest, and is fsynced, unless it is a transient one; the caller renames it.
//
// follow, if not nil, reads the same bytes in order while they come, from byte 0, what was there already included. It
// sees io.EOF only after the digest held. Its error ends the transfer. When the bytes turn out wrong its reader fails
// and it is called anew from byte 0, its error of that time dropped. A slow follower slows the transfer down.
//
// progress, if not nil, is called at most ten times a second, and once at the end, never by two goroutines at once.
//
// Errors: *DigestError, *NetworkError, *SpaceError, follow's, the context's, or one of the file system.
func (c *Client) Fetch(ctx context.Context, b Blob, partial string, follow func(io.Reader) error, progress func(Progress)) error {
	c = c.withDefaults()
	f, err := lock(ctx, partial)
	if err != nil {
		return fmt.Errorf("fetching %s: %w", b.Name, err)
	}
	defer f.Close()
	if b.SHA256 == "" { // nothing says that what is there belongs to this blob
		if err := f.Truncate(0); err != nil {
			return fmt.Errorf("fetching %s: %w", b.Name, err)
		}
	}
	t := &transfer{Client: c, blob: b, file: f, follow: follow, progress: progress, refused: map[string]error{}, slow: map[string]*SlowError{}}
	t.http = c.HTTP
	if len(b.URLs) > 0 {
		t.http = guarded(c.HTTP, b.Header)
	}
	err = t.run(ctx)
	var local *localError
	switch {
	case ctx.Err() != nil && err != nil:
		return context.Cause(ctx)
	case errors.As(err, &local):
		return local.err
	}
	return err
}

// lock opens the file and waits until no other process has it.
func lock(ctx context.Context, path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o666)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		// Some network file systems have no such locks: flock(2) names ENOLCK, Lustre gives ENOSYS, others EOPNOTSUPP.
		if err == unix.ENOLCK || err == unix.ENOSYS || err == unix.EOPNOTSUPP {
			return f, nil
		}
		if err == nil {
			// Whoever had it may have renamed or removed it meanwhile: then this is no longer the partial file.
			mine, err := f.Stat()
			if err != nil {
				f.Close()
				return nil, err
			}
			if there, err := os.Lstat(path); err == nil && os.SameFile(mine, there) {
				return f, nil
			}
			f.Close()
			continue
		}
		f.Close()
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		if err := sleep(ctx, lockPoll); err != nil {
			return nil, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// backOff sleeps for wait, half of it random, or for as long as the server asked, and gives the wait after this one.
func backOff(ctx context.Context, wait, asked time.Duration) (next time.Duration, err error) {
	return min(2*wait, longestWait), sleep(ctx, max(asked, wait/2+rand.N(wait/2+1)))
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
	alone    bool                  // no mirror goes on where another one ended
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
		var local *localError
		var digest *DigestError
		switch {
		case err == nil || ctx.Err() != nil || errors.As(err, &local):
			return err
		case errors.As(err, &digest):
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
	t.have, t.from, t.total, t.sum, t.sources = 0, 0, t.blob.Size, sha256.New(), map[string]bool{}
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
				_, _ = io.Copy(io.Discard, p) // it has what it wants; the writer goes on
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

func (t *transfer) bring(ctx context.Context) error {
	if err := t.prefix(ctx); err != nil {
		return &localError{err}
	}
	if t.whole() {
		return t.finish("")
	}
	if err := t.preflight(); err != nil {
		return &localError{err}
	}
	var failed []error
	try := func(address string, patient bool) (done bool, err error) {
		shown := redacted(address)
		err = t.mirror(ctx, address, shown, patient)
		var local *localError
		var slow *SlowError
		switch {
		case err == nil:
			return true, t.finish(shown)
		case ctx.Err() != nil:
			return true, &localError{context.Cause(ctx)}
		case errors.As(err, &local), errors.Is(err, errChanged):
			return true, err
		case errors.As(err, &slow):
			t.slow[shown] = slow
		case t.alone && t.have > 0:
			t.refused[shown] = err
		default:
			failed = append(failed, err)
		}
		if t.alone && t.have > 0 { // what this mirror began no other one goes on with
			return true, errChanged
		}
		return false, nil
	}
	for _, address := range t.blob.URLs {
		shown := redacted(address)
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
	var digest *DigestError
	if err := errors.Join(failed...); errors.As(err, &digest) { // graver news than that others do not answer
		return &localError{errors.Join(err, os.Remove(t.file.Name()))}
	}
	return &NetworkError{Name: t.blob.Name, Err: errors.Join(failed...)}
}

// slowMirrors are the mirrors that were too slow, the fastest first.
func (t *transfer) slowMirrors() []string {
	list := slices.DeleteFunc(slices.Clone(t.blob.URLs), func(address string) bool {
		shown := redacted(address)
		return t.slow[shown] == nil || t.refused[shown] != nil
	})
	slices.SortStableFunc(list, func(a, b string) int { return cmp.Compare(t.slow[redacted(b)].Rate, t.slow[redacted(a)].Rate) })
	return list
}

func (t *transfer) whole() bool {
	if t.blob.Size >= 0 {
		return t.have == t.blob.Size
	}
	return t.have > 0 && t.blob.SHA256 != "" && t.got() == t.blob.SHA256
}

func (t *transfer) got() string { return hex.EncodeToString(t.sum.Sum(nil)) }

// prefix goes over what the file holds.
func (t *transfer) prefix(ctx context.Context) error {
	info, err := t.file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", t.file.Name())
	}
	size := info.Size()
	if t.blob.Size >= 0 && size > t.blob.Size {
		size = 0
		if err := t.file.Truncate(0); err != nil {
			return err
		}
	}
	t.from = size
	buf := make([]byte, copyBuffer)
	for r := io.NewSectionReader(t.file, 0, size); ; {
		n, err := r.Read(buf)
		if n > 0 {
			t.sources[""] = true
			if err := t.feed(buf[:n]); err != nil {
				return err
			}
			t.tell("", false)
		}
		if err == io.EOF {
			return nil
		}
		if err := cmp.Or(err, context.Cause(ctx)); err != nil {
			return err
		}
	}
}

// feed hands bytes that are in the file to the hash and the follower.
func (t *transfer) feed(b []byte) error {
	t.sum.Write(b)
	t.have += int64(len(b))
	if t.pipe != nil {
		if _, err := t.pipe.Write(b); err != nil {
			return fmt.Errorf("following %s: %w", t.blob.Name, err)
		}
	}
	return nil
}

// write puts the next bytes into the file.
func (t *transfer) write(b []byte, source string) error {
	if len(b) == 0 {
		return nil
	}
	if t.blob.Size >= 0 && t.have+int64(len(b)) > t.blob.Size {
		return &SizeError{URL: source, Want: t.blob.Size, Got: -1}
	}
	t.meter.busy.Store(true)
	defer t.meter.busy.Store(false)
	if _, err := t.file.WriteAt(b, t.have); err != nil {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			free, _ := free(t.file.Name())
			err = &SpaceError{Path: t.file.Name(), Need: max(t.total-t.have, -1), Free: free, Err: err}
		}
		return &localError{err}
	}
	t.sources[source] = true
	if err := t.feed(b); err != nil {
		return &localError{err}
	}
	t.tell(source, false)
	return nil
}

func (t *transfer) tell(source string, last bool) {
	if now := time.Now(); t.progress != nil && (last || now.Sub(t.told) >= progressEvery) {
		t.told = now
		t.progress(Progress{Name: t.blob.Name, Done: t.have, Total: t.total, From: t.from, Source: source, Slow: t.meter != nil && t.meter.slow.Load()})
	}
}

func free(path string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}

func (t *transfer) preflight() error {
	if t.blob.Size < 0 {
		return nil
	}
	// A file system that does not say what is free is asked by writing to it.
	if free, err := free(t.file.Name()); err == nil && free < t.blob.Size-t.have {
		return &SpaceError{Path: t.file.Name(), Need: t.blob.Size - t.have, Free: free}
	}
	return nil
}

// finish holds the digest against all bytes.
func (t *transfer) finish(source string) error {
	if got := t.got(); t.blob.SHA256 != "" && got != t.blob.SHA256 {
		return &DigestError{Name: t.blob.Name, Mirror: cmp.Or(source, t.file.Name()), Want: t.blob.SHA256, Got: got}
	}
	// A killed process may have left more than was read, where the size is not known.
	if err := t.file.Truncate(t.have); err != nil {
		return &localError{err}
	}
	if !t.blob.Transient {
		if err := t.file.Sync(); err != nil {
			return &localError{err}
		}
	}
	t.total = t.have
	t.tell(source, true)
	return nil
}

// mirror fetches from one mirror until the blob is whole or the mirror is given up: with a *SlowError because it is slow,
// unless it is patient.
func (t *transfer) mirror(ctx context.Context, address, shown string, patient bool) error {
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
	wait := t.FirstWait
	for try := 1; ; try++ {
		before := t.have
		trying, end := t.meter.begin(ctx)
		err := t.attempt(trying, address, shown, &etag)
		end(nil)
		if err == nil && t.have < t.blob.Size { // a shorter answer than asked for
			err = &temporaryError{err: fmt.Errorf("%s: %w", shown, io.ErrUnexpectedEOF)}
		}
		if err == nil {
			return nil
		}
		var temporary *temporaryError
		var local *localError
		if ctx.Err() != nil && !errors.As(err, &local) {
			return context.Cause(ctx)
		}
		if !errors.As(err, &temporary) {
			return err
		}
		if t.have > before {
			try, wait = 1, t.FirstWait
		}
		if try >= t.Tries {
			return err
		}
		if t.blob.SHA256 == "" && etag == "" && t.have > started {
			return errors.Join(errors.New("going on is not safe without a digest or an ETag"), err)
		}
		if wait, err = backOff(ctx, wait, temporary.after); err != nil {
			return err
		}
	}
}

// request asks for the bytes from..to, both included; a negative to is the end. The body fails when nothing comes for
// StallTimeout; the caller closes it. Its bytes are counted by the meter.
func (c *Client) request(ctx context.Context, client *http.Client, m *meter, address, shown string, header http.Header, from, to int64, etag string) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	watch := time.AfterFunc(c.StallTimeout, func() { cancel(fmt.Errorf("nothing arrived for %s", c.StallTimeout)) })
	m.open.Add(1)
	end := sync.OnceFunc(func() { watch.Stop(); cancel(nil); m.open.Add(-1) })
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
		request.Header.Set("Range", asked(from, to))
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
		var untrusted *tls.CertificateVerificationError
		// What a proxy answers to CONNECT is an error without a type: net/http.Transport.dialConn.
		if errors.As(err, &untrusted) || errors.Is(err, errInsecure) || errors.Is(err, errRedirects) || strings.Contains(err.Error(), http.StatusText(http.StatusProxyAuthRequired)) {
			return nil, err
		}
		return nil, &temporaryError{err: err}
	}
	watch.Stop()
	response.Body = &body{ReadCloser: response.Body, ctx: ctx, end: end, meter: m, watch: watch, patience: c.StallTimeout, shown: shown}
	switch code := response.StatusCode; {
	case code == http.StatusOK, code == http.StatusPartialContent, code == http.StatusRequestedRangeNotSatisfiable:
		return response, nil
	default:
		response.Body.Close()
		err := &StatusError{URL: shown, Code: code, Status: response.Status}
		if code == http.StatusTooManyRequests || code == http.StatusRequestTimeout || code >= 500 {
			return nil, &temporaryError{err: err, after: min(RetryAfter(response.Header), c.MaxRetryAfter)}
		}
		return nil, err
	}
}

// A body is a response's body with a watch on it.
type body struct {
	io.ReadCloser
	ctx      context.Context
	end      func()
	meter    *meter
	watch    *time.Timer
	patience time.Duration
	shown    string
}

func (b *body) Read(p []byte) (int, error) {
	b.watch.Reset(b.patience) // only while it reads: a slow disk or follower is no stall
	n, err := b.ReadCloser.Read(p)
	b.watch.Stop()
	b.meter.received.Add(int64(n))
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
		err = &temporaryError{err: fmt.Errorf("%s: %w", b.shown, err)}
	}
	return n, err
}

func (b *body) Close() error {
	b.end()
	return b.ReadCloser.Close()
}

func asked(from, to int64) string {
	if to < 0 {
		return fmt.Sprintf("bytes=%d-", from)
	}
	return fmt.Sprintf("bytes=%d-%d", from, to)
}

// usedUp is the time to the next window in the header of a limit of requests that is used up, `"api";r=0;t=55`:
// https://www.ietf.org/archive/id/draft-ietf-httpapi-ratelimit-headers-09.html
var usedUp = regexp.MustCompile(`;\s*r=0\s*;\s*t=([0-9]{1,9})`)

// RetryAfter is how long an answer asks to wait, 0 where it does not: until the window of a limit of requests ends, or
// seconds, or until a date (RFC 9110, 10.2.3).
func RetryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if match := usedUp.FindStringSubmatch(h.Get("RateLimit")); match != nil {
		text = match[1]
	}
	if seconds, err := strconv.Atoi(text); err == nil {
		return time.Duration(min(max(seconds, 0), 1<<20)) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}

// checkRange holds a 206 against what was asked for, and gives the last byte and the file's size, -1 for "*".
func checkRange(r *http.Response, shown string, from, to, size int64) (last, total int64, err error) {
	text := r.Header.Get("Content-Range")
	refused := &RangeError{URL: shown, Asked: asked(from, to), Got: text}
	span, all, ok := strings.Cut(strings.TrimPrefix(text, "bytes "), "/")
	first, end, ok2 := strings.Cut(span, "-")
	begin, err1 := strconv.ParseInt(first, 10, 64)
	last, err2 := strconv.ParseInt(end, 10, 64)
	total = -1
	var err3 error
	if all != "*" {
		total, err3 = strconv.ParseInt(all, 10, 64)
	}
	if !strings.HasPrefix(text, "bytes ") || !ok || !ok2 || cmp.Or(err1, err2, err3) != nil || begin != from || last < begin ||
		to >= 0 && last != to || total >= 0 && last >= total || r.ContentLength >= 0 && r.ContentLength != last-begin+1 {
		return 0, 0, refused
	}
	if size >= 0 && total >= 0 && total != size {
		return 0, 0, &SizeError{URL: shown, Want: size, Got: total}
	}
	if size >= 0 && last >= size {
		return 0, 0, refused
	}
	return last, total, nil
}

// attempt fetches from one mirror until the blob is whole or something fails.
func (t *transfer) attempt(ctx context.Context, address, shown string, etag *string) error {
	if strings.HasPrefix(address, "file:") {
		return t.fromFile(ctx, address, shown)
	}
	if u, err := url.Parse(address); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%s is not an http, https or file address", shown)
	}
	to := int64(-1)
	parallel := t.Streams > 1 && t.blob.Size-t.have > t.RangeSize && (t.blob.SHA256 != "" || *etag != "")
	if parallel {
		to = t.have + t.RangeSize - 1
	}
	response, err := t.request(ctx, t.http, t.meter, address, shown, t.blob.Header, t.have, to, *etag)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusRequestedRangeNotSatisfiable:
		if t.blob.Size < 0 && t.blob.SHA256 == "" && response.Header.Get("Content-Range") == fmt.Sprintf("bytes */%d", t.have) {
			return nil
		}
		return &RangeError{URL: shown, Asked: asked(t.have, to), Got: response.Status}
	case http.StatusOK:
		*etag = strong(response.Header)
		length := response.ContentLength
		if length >= 0 && t.blob.Size >= 0 && length != t.blob.Size {
			return &SizeError{URL: shown, Want: t.blob.Size, Got: length}
		}
		if t.blob.Size < 0 {
			t.total = length
		}
		if err := t.skip(response.Body); err != nil {
			return err
		}
		return t.stream(response.Body, shown, length)
	}
	if to < 0 && t.have == 0 {
		return &RangeError{URL: shown, Asked: "all", Got: response.Header.Get("Content-Range")}
	}
	last, total, err := checkRange(response, shown, t.have, to, t.blob.Size)
	if err != nil {
		return err
	}
	now := strong(response.Header)
	if *etag != "" && now != "" && now != *etag {
		return &RangeError{URL: shown, Asked: "If-Range: " + *etag, Got: "ETag: " + now}
	}
	*etag = now
	if t.blob.Size < 0 {
		t.total = total
	}
	if !parallel {
		return t.stream(response.Body, shown, last+1)
	}
	return t.ranges(ctx, address, shown, *etag, response.Body, last+1)
}

// strong is a response's ETag if it is a strong one: RFC 9110, 13.1.5.
func strong(h http.Header) string {
	if etag := h.Get("ETag"); strings.HasPrefix(etag, `"`) {
		return etag
	}
	return ""
}

// skip goes over the bytes that are there already in a body that begins at byte 0.
func (t *transfer) skip(r io.Reader) error {
	buf, there := make([]byte, copyBuffer), make([]byte, copyBuffer)
	for at := int64(0); at < t.have; {
		n, err := r.Read(buf[:min(copyBuffer, t.have-at)])
		if n > 0 {
			if _, err := t.file.ReadAt(there[:n], at); err != nil {
				return &localError{err}
			}
			if !bytes.Equal(buf[:n], there[:n]) {
				if t.alone || t.changed { // once a call: a server that changes all the time is no mirror
					return errors.New("the server gives other bytes than before")
				}
				t.changed = true
				return errChanged
			}
			at += int64(n)
		}
		if err == io.EOF && at < t.have {
			return &temporaryError{err: io.ErrUnexpectedEOF}
		}
		if err != nil && err != io.EOF {
			return err
		}
	}
	return nil
}

// stream writes a body whose last byte is the one before end; a negative end is not known.
func (t *transfer) stream(r io.Reader, shown string, end int64) error {
	buf := make([]byte, copyBuffer)
	for {
		n, err := r.Read(buf)
		if end >= 0 && t.have+int64(n) > end {
			return &SizeError{URL: shown, Want: end, Got: -1}
		}
		if err := t.write(buf[:n], shown); err != nil {
			return err
		}
		switch {
		case err == io.EOF && end >= 0 && t.have < end:
			return &temporaryError{err: fmt.Errorf("%s: %w", shown, io.ErrUnexpectedEOF)}
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// A piece is one range in memory.
type piece struct {
	bytes []byte // what came, also where err is not nil
	err   error
}

// ranges fetches the rest in ranges, Streams at a time, the first of them from a body that is open already, and
// writes them in order.
func (t *transfer) ranges(ctx context.Context, address, shown, etag string, first io.ReadCloser, end int64) error {
	ctx, cancel := context.WithCancel(ctx)
	next := end
	var pending []chan piece
	var spare [][]byte
	defer func() { // nothing of this attempt outlives it
		cancel()
		for _, p := range pending {
			<-p
			t.meter.ready.Add(-1)
		}
	}()
	fill := func() {
		for len(pending) < t.Streams-1 && next < t.blob.Size {
			from, to := next, min(next+t.RangeSize, t.blob.Size)-1
			var buf []byte
			if len(spare) > 0 {
				buf, spare = spare[0], spare[1:]
			} else {
				buf = make([]byte, t.RangeSize)
			}
			p := make(chan piece, 1)
			go func() {
				got := t.piece(ctx, address, shown, etag, from, to, buf)
				t.meter.ready.Add(1)
				p <- got
			}()
			pending, next = append(pending, p), to+1
		}
	}
	fill()
	if err := t.stream(io.LimitReader(first, end-t.have), shown, end); err != nil {
		return err
	}
	first.Close() // of which nothing is wanted any more
	for len(pending) > 0 {
		var got piece
		got, pending = <-pending[0], pending[1:]
		t.meter.ready.Add(-1)
		if err := t.write(got.bytes, shown); err != nil {
			return err
		}
		if got.err != nil {
			return got.err
		}
		spare = append(spare, got.bytes[:cap(got.bytes)])
		fill()
	}
	return nil
}

func (t *transfer) piece(ctx context.Context, address, shown, etag string, from, to int64, buf []byte) piece {
	response, err := t.request(ctx, t.http, t.meter, address, shown, t.blob.Header, from, to, etag)
	if err != nil {
		return piece{err: err}
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusPartialContent { // it did ranges before: let the next try see what it is now
		return piece{err: &temporaryError{err: &StatusError{URL: shown, Code: response.StatusCode, Status: response.Status}}}
	}
	if _, _, err := checkRange(response, shown, from, to, t.blob.Size); err != nil {
		return piece{err: err}
	}
	n, err := io.ReadFull(response.Body, buf[:to-from+1])
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = &temporaryError{err: fmt.Errorf("%s: %w", shown, io.ErrUnexpectedEOF)}
	}
	return piece{bytes: buf[:n], err: err}
}

// openFile opens what a file address names, if it is a regular file.
func openFile(address, shown string) (*os.File, int64, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host != "" && u.Host != "localhost" || !filepath.IsAbs(u.Path) {
		return nil, 0, fmt.Errorf("%s is not the address of a local file", shown)
	}
	f, err := os.OpenFile(u.Path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe must not hang
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", shown)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

func (t *transfer) fromFile(ctx context.Context, address, shown string) error {
	f, size, err := openFile(address, shown)
	if err != nil {
		return err
	}
	defer f.Close()
	if t.blob.Size >= 0 && size != t.blob.Size {
		return &SizeError{URL: shown, Want: t.blob.Size, Got: size}
	}
	t.total = size
	return t.stream(&cancelReader{ctx, t.meter, io.NewSectionReader(f, t.have, size-t.have)}, shown, size)
}

// A cancelReader ends with its context.
type cancelReader struct {
	ctx   context.Context
	meter *meter
	r     io.Reader
}

func (c *cancelReader) Read(b []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	n, err := c.r.Read(b)
	c.meter.received.Add(int64(n))
	return n, err
}

func redacted(address string) string {
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

// guarded is the client with a check on redirects before its own.
func guarded(client *http.Client, header http.Header) *http.Client {
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

// Get returns a small document, at most limit bytes, from the first URL that gives it, and that URL. A document that
// is longer, or comes more slowly than SlowRate or after the context's deadline, counts as not given. Errors: *NetworkError, or the context's.
func (c *Client) Get(ctx context.Context, urls []string, limit int64) ([]byte, string, error) {
	c = c.withDefaults()
	client := guarded(c.HTTP, nil)
	var failed []error
	name := "a document"
	for _, address := range urls {
		shown := redacted(address)
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
	wait := c.FirstWait
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
	for try := 1; ; try++ {
		document, err := c.get(ctx, client, m, address, shown, limit)
		if err == nil {
			return document, nil
		}
		if ctx.Err() != nil {
			return nil, ended()
		}
		before = err
		var temporary *temporaryError
		var unknown *net.DNSError // nobody knows the name: that is an answer, and waiting changes none
		if !errors.As(err, &temporary) || try >= c.Tries || errors.As(err, &unknown) && unknown.IsNotFound {
			return nil, err
		}
		if wait, err = backOff(ctx, wait, temporary.after); err != nil {
			return nil, ended()
		}
	}
}

func (c *Client) get(ctx context.Context, client *http.Client, m *meter, address, shown string, limit int64) ([]byte, error) {
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
