package hfhub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/waqasm86/llcuda-farm/manifests/retry"
	"github.com/waqasm86/llcuda-farm/publisher"
)

const lfsType = "application/vnd.git-lfs+json"

// An object is what the Hub's storage says of one file.
type object struct {
	OID     string `json:"oid"`
	Size    int64  `json:"size"`
	Actions *struct {
		Upload *action `json:"upload"`
		Verify *action `json:"verify"`
	} `json:"actions"`
	Error *struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

type action struct {
	Href   string            `json:"href"`
	Header map[string]string `json:"header"`
}

// batch asks where files go. One without actions is there already.
func (c *Client) batch(ctx context.Context, repo string, blobs []blob) (map[string]object, error) {
	const atOnce = 100 // as the official clients; a file of 50 GB has thousands of addresses
	found := map[string]object{}
	for some := range slices.Chunk(blobs, atOnce) {
		var objects []map[string]any
		for _, b := range some {
			objects = append(objects, map[string]any{"oid": b.SHA256, "size": b.size})
		}
		var answer struct{ Objects []object }
		err := c.do(ctx, call{method: http.MethodPost, path: "/" + repo + ".git/info/lfs/objects/batch", accept: lfsType, body: map[string]any{
			"operation": "upload", "transfers": []string{"basic", "multipart"}, "hash_algo": "sha_256",
			"ref": map[string]string{"name": branch}, "objects": objects,
		}}, &answer)
		if err != nil {
			return nil, fmt.Errorf("asking where files go: %w", err)
		}
		for _, o := range answer.Objects {
			found[o.OID] = o
		}
		for _, b := range some {
			switch o, ok := found[b.SHA256]; {
			case !ok:
				return nil, fmt.Errorf("asking where %s goes: the answer does not name it", b.Path)
			case o.Error != nil:
				return nil, fmt.Errorf("asking where %s goes: %w", b.Path,
					&APIError{Request: "LFS batch", Status: o.Error.Code, Message: o.Error.Message})
			case o.Actions != nil && o.Actions.Upload == nil:
				return nil, fmt.Errorf("asking where %s goes: the answer has no upload", b.Path)
			}
		}
	}
	return found, nil
}

// upload sends the files that the storage does not have. It returns how many bytes it sent.
func (c *Client) upload(ctx context.Context, repo string, blobs []blob, report func(publisher.Progress)) (sent int64, err error) {
	if len(blobs) == 0 {
		return 0, nil
	}
	// Two names of the same bytes are one object.
	slices.SortStableFunc(blobs, func(a, b blob) int { return strings.Compare(a.SHA256, b.SHA256) })
	blobs = slices.CompactFunc(blobs, func(a, b blob) bool { return a.SHA256 == b.SHA256 })
	objects, err := c.batch(ctx, repo, blobs)
	if err != nil {
		return 0, err
	}
	report = oneAtATime(report)
	var all atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(filesAtOnce)
	for _, b := range blobs {
		if objects[b.SHA256].Actions == nil {
			continue
		}
		group.Go(func() error {
			n, err := c.bring(ctx, repo, b, objects[b.SHA256], report)
			all.Add(n)
			if err != nil {
				return fmt.Errorf("uploading %s: %w", b.Path, err)
			}
			return nil
		})
	}
	err = group.Wait()
	return all.Load(), err
}

// bring has one file in the storage: it asks for new addresses as long as the ones it has are worth
// nothing.
func (c *Client) bring(ctx context.Context, repo string, b blob, o object, report func(publisher.Progress)) (int64, error) {
	m := newMeter(b.Path, b.size, report)
	for tries := c.policy().Begin(); ; {
		err := c.transfer(ctx, b, o, m)
		if err == nil {
			m.finish()
			return m.sent(), nil
		}
		anew, ok := errors.AsType[*anewError](err)
		if !ok {
			return m.sent(), err
		}
		if tries.Wait(ctx, makeTemporary(anew.err)) != nil {
			if ctx.Err() != nil {
				return m.sent(), ctx.Err()
			}
			// Not wrapped: a 403 of the storage says nothing of what the token may do.
			return m.sent(), fmt.Errorf("beginning again %d times was not enough: %v", c.tries()-1, err)
		}
		objects, err := c.batch(ctx, repo, []blob{b})
		if err != nil {
			return m.sent(), err
		}
		if o = objects[b.SHA256]; o.Actions == nil { // it had arrived after all
			m.finish()
			return m.sent(), nil
		}
	}
}

// makeTemporary makes an error one after which the Hub is asked again, whatever kind of error it
// is.
func makeTemporary(err error) error {
	if retry.IsTemporary(err) {
		return err
	}
	return &retry.TemporaryError{Err: err}
}

// An anewError is an upload whose addresses are no longer valid, or whose fate is not known: the
// Hub is asked about the file again, and the file is sent from its start, unless it is there.
type anewError struct{ err error }

func (e *anewError) Error() string { return e.err.Error() }
func (e *anewError) Unwrap() error { return e.err }

// transfer follows one answer of the batch.
func (c *Client) transfer(ctx context.Context, b blob, o object, m *meter) error {
	file, err := b.open()
	if err != nil {
		return err
	}
	defer file.Close()
	upload := o.Actions.Upload
	if size, parts := upload.Header["chunk_size"]; parts {
		err = c.putParts(ctx, b, file, upload, size, m)
	} else {
		err = c.put(ctx, piece{file: file, size: b.size, meter: m}, upload.Href, upload.Header, nil)
	}
	if err != nil {
		return err
	}
	verify := o.Actions.Verify
	if verify == nil {
		return nil
	}
	err = c.do(ctx, call{method: http.MethodPost, path: verify.Href, accept: lfsType, body: map[string]any{"oid": b.SHA256, "size": b.size}}, nil)
	if isStatus(err, http.StatusNotFound) {
		m.add(-b.size)
		err = &anewError{err}
	}
	if err != nil {
		return fmt.Errorf("verifying: %w", err)
	}
	return nil
}

var partForm = regexp.MustCompile(`^[0-9]{1,6}$`)

// putParts sends a file in the parts that the Hub wants, and has them joined.
func (c *Client) putParts(ctx context.Context, b blob, file content, upload *action, chunk string, m *meter) error {
	size, err := strconv.ParseInt(chunk, 10, 64)
	if err != nil || size <= 0 {
		return fmt.Errorf("the Hub wants parts of %q bytes", chunk)
	}
	count := (b.size + size - 1) / size
	addresses := make([]string, count)
	for name, address := range upload.Header {
		if n, err := strconv.ParseInt(name, 10, 64); partForm.MatchString(name) && err == nil && n >= 1 && n <= count {
			addresses[n-1] = address
		}
	}
	if i := slices.Index(addresses, ""); i >= 0 {
		return fmt.Errorf("the Hub gives no address for part %d of %d", i+1, count)
	}
	type part struct {
		Number int64  `json:"partNumber"`
		ETag   string `json:"etag"`
	}
	parts := make([]part, count)
	var got atomic.Int64 // bytes of parts that arrived
	group, partCtx := errgroup.WithContext(ctx)
	group.SetLimit(partsAtOnce)
	for i := range count {
		group.Go(func() error {
			p := piece{file: file, offset: i * size, size: min(size, b.size-i*size), meter: m}
			var header http.Header
			if err := c.put(partCtx, p, addresses[i], nil, &header); err != nil {
				return fmt.Errorf("part %d of %d: %w", i+1, count, err)
			}
			etag := header.Get("ETag") // with its quotes: S3 wants them back
			if etag == "" {
				return fmt.Errorf("part %d of %d: the storage gives no ETag", i+1, count)
			}
			parts[i] = part{Number: i + 1, ETag: etag}
			got.Add(p.size)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		m.add(-got.Load())
		return err
	}
	// Whether a lost answer means that the parts were joined, only the Hub knows: a new batch
	// tells. So does one after an answer that calls them wrong: a file that changes while it is
	// sent ends here.
	err = c.do(ctx, call{method: http.MethodPost, path: upload.Href, accept: lfsType, body: map[string]any{"oid": b.SHA256, "parts": parts}, once: true, slow: true}, nil)
	if err != nil && (retry.IsTemporary(err) || isStatus(err, http.StatusForbidden) || isStatus(err, http.StatusNotFound)) {
		m.add(-b.size)
		err = &anewError{err}
	}
	if err != nil {
		return fmt.Errorf("joining the parts: %w", err)
	}
	return nil
}

// A piece is a part of a file, or all of it, that goes in one request.
type piece struct {
	file         content
	offset, size int64
	meter        *meter
}

// put sends a piece until it has arrived.
func (c *Client) put(ctx context.Context, p piece, address string, extra map[string]string, answer *http.Header) error {
	return c.retry(ctx, c.tries(), func() error {
		header, err := c.putOnce(ctx, p, address, extra)
		if err == nil && answer != nil {
			*answer = header
		}
		// The storage says so of an address that has expired.
		if isStatus(err, http.StatusForbidden) || isStatus(err, http.StatusUnauthorized) {
			err = &anewError{err}
		}
		return err
	})
}

func (c *Client) putOnce(ctx context.Context, p piece, address string, extra map[string]string) (http.Header, error) {
	name := requestName(http.MethodPut, address)
	ctx, watchdog := retry.Watch(ctx, c.stall(), &StalledError{Request: name})
	defer watchdog.End()
	body := &watched{r: io.NewSectionReader(p.file, p.offset, p.size), meter: p.meter, alive: watchdog.Moved}
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, address, body)
	if err != nil {
		return nil, err
	}
	request.ContentLength = p.size
	if p.size == 0 {
		request.Body = http.NoBody
	}
	// An address that has expired is refused before gigabytes go there in vain.
	request.Header.Set("Expect", "100-continue")
	for key, value := range extra { // what the storage's signature wants; our own token is never among it
		request.Header.Set(key, value)
	}
	response, err := c.send(ctx, request)
	if err != nil {
		body.undo()
		return nil, err
	}
	defer response.Body.Close()
	const enough = 64 << 10 // of an error's text
	said, err := io.ReadAll(io.LimitReader(response.Body, enough))
	switch {
	case err != nil:
		body.undo()
		return nil, noAnswer(ctx, name, err)
	case response.StatusCode/100 != 2:
		body.undo()
		return nil, refusal(name, response, said)
	}
	return response.Header, nil
}

// A watched body counts what the connection takes of it, and keeps the watchdog asleep as long as
// it does.
type watched struct {
	r     io.Reader
	meter *meter
	alive func()

	mu   sync.Mutex
	n    int64
	over bool
}

func (w *watched) Read(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return 0, io.ErrClosedPipe
	}
	n, err := w.r.Read(p)
	w.n += int64(n)
	w.meter.add(int64(n))
	w.alive()
	return n, err
}

// undo takes back what was counted: the connection may read on for a moment after it has failed.
func (w *watched) undo() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.meter.add(-w.n)
}

// oneAtATime makes a report safe for files that are sent side by side.
func oneAtATime(report func(publisher.Progress)) func(publisher.Progress) {
	if report == nil {
		return nil
	}
	turn := make(chan struct{}, 1)
	return func(p publisher.Progress) {
		turn <- struct{}{}
		report(p)
		<-turn
	}
}
