package transfer

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests/retry"
)

// attempt fetches from one mirror until the blob is whole or something fails.
func (t *transfer) attempt(ctx context.Context, address, shown string, etag *string) error {
	if strings.HasPrefix(address, "file:") {
		return t.copyFile(ctx, address, shown)
	}
	if u, err := url.Parse(address); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%s is not an http, https or file address", shown)
	}
	to := int64(-1)
	parallel := t.Streams > 1 && t.blob.Size-t.have > t.RangeSize && (t.blob.sum() != "" || *etag != "")
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
		if t.blob.Size < 0 && t.blob.sum() == "" && response.Header.Get("Content-Range") == fmt.Sprintf("bytes */%d", t.have) {
			return nil
		}
		// Of a blob whose size is not known, an earlier run may have left more than there is.
		if t.blob.Size < 0 && t.sources[""] && !t.changed {
			t.changed = true
			return errChanged
		}
		return &RangeError{URL: shown, Asked: rangeHeader(t.have, to), Got: response.Status}
	case http.StatusOK:
		*etag = strongETag(response.Header)
		length := response.ContentLength
		if length >= 0 && t.blob.Size >= 0 && length != t.blob.Size {
			return &SizeError{URL: shown, Want: t.blob.Size, Got: length}
		}
		if t.blob.Size < 0 {
			t.total = length
		}
		if limit := t.blob.limit(); length > limit {
			return &SizeError{URL: shown, Want: limit, Got: -1}
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
	now := strongETag(response.Header)
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
	return t.fetchRanges(ctx, address, shown, *etag, response.Body, last+1)
}

// rangeHeader is the value of Range for the bytes from..to, both included; a negative to is the
// end.
func rangeHeader(from, to int64) string {
	if to < 0 {
		return fmt.Sprintf("bytes=%d-", from)
	}
	return fmt.Sprintf("bytes=%d-%d", from, to)
}

// checkRange checks a 206 against what was asked for, and returns the last byte and the file's
// size, -1 for "*".
func checkRange(r *http.Response, shown string, from, to, size int64) (last, total int64, err error) {
	text := r.Header.Get("Content-Range")
	refused := &RangeError{URL: shown, Asked: rangeHeader(from, to), Got: text}
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

// strongETag is a response's ETag if it is a strong one: RFC 9110, 13.1.5.
func strongETag(h http.Header) string {
	if etag := h.Get("ETag"); strings.HasPrefix(etag, `"`) {
		return etag
	}
	return ""
}

// skip goes over the bytes that are there already in a body that begins at byte 0.
func (t *transfer) skip(r io.Reader) error {
	if t.have == 0 {
		return nil
	}
	buf, there := make([]byte, copyBuffer), make([]byte, copyBuffer)
	for at := int64(0); at < t.have; {
		n, err := r.Read(buf[:min(copyBuffer, t.have-at)])
		if n > 0 {
			if _, err := t.file.ReadAt(there[:n], at); err != nil {
				return &localError{err}
			}
			if !bytes.Equal(buf[:n], there[:n]) {
				if t.alone || t.changed { // once a call: a server that changes all the time is not a mirror
					return errors.New("the server gives other bytes than before")
				}
				t.changed = true
				return errChanged
			}
			at += int64(n)
		}
		if err == io.EOF && at < t.have {
			return &retry.TemporaryError{Err: io.ErrUnexpectedEOF}
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
			return &retry.TemporaryError{Err: fmt.Errorf("%s: %w", shown, io.ErrUnexpectedEOF)}
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

// fetchRanges fetches the rest in ranges, Streams at a time, the first of them from a body that is
// open already, and writes them in order.
func (t *transfer) fetchRanges(ctx context.Context, address, shown, etag string, first io.ReadCloser, end int64) error {
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
				got := t.fetchPiece(ctx, address, shown, etag, from, to, buf)
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
	first.Close() // the rest of it is not needed
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

func (t *transfer) fetchPiece(ctx context.Context, address, shown, etag string, from, to int64, buf []byte) piece {
	response, err := t.request(ctx, t.http, t.meter, address, shown, t.blob.Header, from, to, etag)
	if err != nil {
		return piece{err: err}
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusPartialContent { // it did ranges before: let the next try see what it is now
		return piece{err: &retry.TemporaryError{Err: &StatusError{URL: shown, Code: response.StatusCode, Status: response.Status}}}
	}
	if _, _, err := checkRange(response, shown, from, to, t.blob.Size); err != nil {
		return piece{err: err}
	}
	n, err := io.ReadFull(response.Body, buf[:to-from+1])
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = &retry.TemporaryError{Err: fmt.Errorf("%s: %w", shown, io.ErrUnexpectedEOF)}
	}
	return piece{bytes: buf[:n], err: err}
}
