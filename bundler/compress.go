package bundler

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"

	"github.com/waqasm86/llcuda-farm/manifests"
)

const (
	// gzipBlock is what one thread compresses at a time. It decides bytes, so it is fixed; each block knows the 32 kB before
	// it, which keeps the loss against one thread far below 1 %.
	gzipBlock = 1 << 20
	// zstdWindow is how far back a match may reach. It spans the kernels that libggml-cuda.so repeats from one
	// translation unit to the next, and is the largest that `zstd -d` takes without being asked to.
	zstdWindow = 128 << 20
)

// newCompressor gives a writer whose output depends on its input alone, not on threads or time.
func newCompressor(w io.Writer, format string, threads int) (io.WriteCloser, error) {
	switch format {
	case manifests.FormatTarGz:
		z, err := pgzip.NewWriterLevel(w, pgzip.BestCompression)
		if err != nil {
			return nil, err
		}
		z.ModTime = time.Unix(0, 0) // "no time is available" in RFC 1952; the zero time.Time would give an arbitrary one
		return z, z.SetConcurrency(gzipBlock, threads)
	case manifests.FormatTarZst:
		return zstd.NewWriter(w,
			zstd.WithEncoderLevel(zstd.SpeedBestCompression),
			zstd.WithWindowSize(zstdWindow),
			zstd.WithEncoderConcurrency(threads))
	}
	return nil, fmt.Errorf("compressing: unknown format %q", format)
}

// newDecompressor reads one gzip member or zstd frame. What follows it stays unread in r.
func newDecompressor(r *bufio.Reader, format string) (io.ReadCloser, error) {
	switch format {
	case manifests.FormatTarGz:
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		z.Multistream(false)
		return z, nil
	case manifests.FormatTarZst:
		z, err := zstd.NewReader(newFrameReader(r), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return nil, fmt.Errorf("decompressing: unknown format %q", format)
}

// errTrailing is data after the compressed stream: nobody would look at it, and it would change the file's digest.
var errTrailing = errors.New("data follows the compressed stream")

// errTooLarge is more data than the reader was ready for.
var errTooLarge = errors.New("the archive holds more than it may")

// digestArchive hashes a compressed file and the tar inside it, which may not be larger than limit.
func digestArchive(r io.Reader, format string, limit int64) (file, tarDigest manifests.Digest, err error) {
	outer, inner := newDigester(io.Discard), newDigester(io.Discard)
	src := bufio.NewReaderSize(io.TeeReader(r, outer), 1<<20)
	z, err := newDecompressor(src, format)
	if err != nil {
		return file, tarDigest, err
	}
	defer z.Close()
	n, err := io.Copy(inner, io.LimitReader(z, limit+1))
	if err != nil {
		return file, tarDigest, err
	}
	if n > limit {
		return file, tarDigest, errTooLarge
	}
	if _, err := src.ReadByte(); err != io.EOF {
		return file, tarDigest, errTrailing
	}
	return outer.digest(), inner.digest(), nil
}
