package archive

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// decompress reads one gzip member or zstd frame. What follows it stays unread in r.
func decompress(r *bufio.Reader, format string) (io.ReadCloser, error) {
	switch format {
	case manifests.FormatTarGz:
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		z.Multistream(false)
		return z, nil
	case manifests.FormatTarZst:
		z, err := zstd.NewReader(newFrameReader(r), zstd.WithDecoderMaxWindow(Window), zstd.WithDecoderMaxMemory(Window), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return nil, fmt.Errorf("the format %q is not known", format)
}

// hasExtras reports whether a stream is gzip with a header that holds more than it must.
func hasExtras(stream io.Reader) bool {
	z, ok := stream.(*gzip.Reader)
	return ok && (z.Name != "" || z.Comment != "" || len(z.Extra) > 0 || z.ModTime.Unix() != 0)
}

// DigestTar reads the compressed stream in r, with nothing behind it, and returns the digest of the
// bytes inside, of which there may be limit.
func DigestTar(r io.Reader, format string, limit int64) (manifests.Digest, error) {
	buffered := bufio.NewReaderSize(r, 1<<20)
	stream, err := decompress(buffered, format)
	if err != nil {
		return manifests.Digest{}, err
	}
	inner := NewDigester(io.Discard)
	n, err := io.Copy(inner, io.LimitReader(stream, limit+1))
	stream.Close()
	if err != nil {
		return manifests.Digest{}, err
	}
	if _, err := buffered.ReadByte(); n > limit || err != io.EOF {
		return manifests.Digest{}, fmt.Errorf("it holds more than the %d bytes expected", limit)
	}
	return inner.Digest(), nil
}

// A source counts what is read of an archive, and keeps the error that ended it. A decoder may read
// ahead in a goroutine.
type source struct {
	ctx context.Context
	r   io.Reader
	n   atomic.Int64
	err error // read once the decoder is closed
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.n.Add(int64(n))
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// A tarReader hashes the tar, and ends it where it grows beyond its limits.
type tarReader struct {
	r      io.Reader
	packed *source
	sum    *Digester
	limit  int64
}

func (t *tarReader) left() int64 { return t.limit - t.sum.size }

func (t *tarReader) Read(p []byte) (int, error) {
	if t.packed.ctx.Err() != nil { // a bomb would keep expanding for long from the bytes that were received already
		return 0, context.Cause(t.packed.ctx)
	}
	n, err := t.r.Read(p)
	_, _ = t.sum.Write(p[:n])
	switch {
	case t.left() < 0:
		return 0, fmt.Errorf("it unpacks to more than the %d bytes allowed", t.limit)
	case t.sum.size > ratioFloor && t.sum.size > MaxRatio*t.packed.n.Load():
		return 0, fmt.Errorf("it unpacks to more than %d times its own size", MaxRatio)
	}
	return n, err
}

// A Digester hashes and counts what is written through it.
type Digester struct {
	w    io.Writer
	hash hash.Hash
	size int64
}

// NewDigester returns a Digester that writes to w.
func NewDigester(w io.Writer) *Digester { return &Digester{w: w, hash: sha256.New()} }

func (d *Digester) Write(p []byte) (int, error) {
	n, err := d.w.Write(p)
	d.hash.Write(p[:n])
	d.size += int64(n)
	return n, err
}

// Digest returns the digest of what was written so far.
func (d *Digester) Digest() manifests.Digest {
	return manifests.Digest{SHA256: hex.EncodeToString(d.hash.Sum(nil)), Size: d.size}
}

// WithContext returns a reader that ends with the context: a large file takes long to read.
func WithContext(ctx context.Context, r io.Reader) io.Reader { return &contextReader{ctx, r} }

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
