// Package download brings files whose digest is known beforehand from HTTP
// servers to this machine.
//
// Whatever keeps such files calls it: the builder image's packages, the web
// UI's npm packages, the source that lies in an npm package. In go an address,
// a path and what a lock or a pin says of the file (Want); a file appears under
// its path when it is whole, on disk and what is wanted, and not before:
//
//	.fetch-*  hashed while it is written, fsynced  →  dest
//
// Every error is told apart by what helps: another try (TemporaryError, after
// all tries were made), another server (GoneError), or nothing (DigestError,
// which is never tried again). A certificate that is not trusted stays so and is
// not tried again either. Errors name the address without its password; the
// caller says what it was that it wanted, and what the way out is.
//
// Proxies and certificates are the HTTP client's: Go's own honours the proxy
// variables and SSL_CERT_FILE. The package never unpacks, never trusts a size or
// a name that a server gives, keeps no partial file for a later run, and never
// prints.
package download

import (
	"cmp"
	"context"
	"crypto"
	_ "crypto/sha256" // crypto.SHA256.New
	_ "crypto/sha512" // crypto.SHA512.New
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

const (
	// Tries is how often a server is asked before it counts as unreachable.
	Tries = 5

	firstWait = time.Second      // doubles from try to try: all in all about 15 seconds of outage
	stall     = 60 * time.Second // a try that brings nothing for so long is given up
)

// Want is what is known of a file.
type Want struct {
	Size   int64               // 0 where it is not known
	Max    int64               // where Size is not known: ends a download that would fill the disk
	Hash   crypto.Hash         // SHA256 or SHA512
	Encode func([]byte) string // how Sum is written, such as hex.EncodeToString
	Sum    string
}

// Options are Into's options; the zero value will do.
type Options struct {
	Client    *http.Client  // http.DefaultClient
	FirstWait time.Duration // before the second try; a second
	Stall     time.Duration // without a byte until a try is given up; a minute
	// Progress hears of bytes as they arrive, and of a negative number of them
	// when a try failed.
	Progress func(n int64)
}

// GoneError says that the server does not have the file.
type GoneError struct{ URL, Status string }

func (e *GoneError) Error() string { return e.URL + ": " + e.Status }

// DigestError says that the server's file is not the one that is wanted.
type DigestError struct {
	URL       string
	Hash      crypto.Hash
	Want, Got string
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("%s has %s %s, the lock says %s", e.URL, e.Hash, e.Got, e.Want)
}

// TemporaryError is what another try may mend. Into has made all tries.
type TemporaryError struct {
	Server string // the part of the address that a user can change: https://host:port
	Err    error
}

func (e *TemporaryError) Error() string { return e.Err.Error() }
func (e *TemporaryError) Unwrap() error { return e.Err }

// Into brings the file at an address to dest, over what is there, and gives its size.
func Into(ctx context.Context, address, dest string, want Want, opts Options) (int64, error) {
	opts.Client = cmp.Or(opts.Client, http.DefaultClient)
	opts.Stall = cmp.Or(opts.Stall, stall)
	if opts.Progress == nil {
		opts.Progress = func(int64) {}
	}
	wait := cmp.Or(opts.FirstWait, firstWait)
	for try := 1; ; try++ {
		size, err := once(ctx, address, dest, want, opts)
		var temporary *TemporaryError
		switch {
		case err == nil:
			return size, nil
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case !errors.As(err, &temporary) || try == Tries:
			return 0, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		wait *= 2
	}
}

func once(ctx context.Context, address, dest string, want Want, opts Options) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(opts.Stall, func() { cancel(fmt.Errorf("nothing arrived for %s", opts.Stall)) })
	defer stalled.Stop()

	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, err
	}
	shown := request.URL.Redacted()
	if scheme := request.URL.Scheme; request.URL.Host == "" || scheme != "http" && scheme != "https" {
		return 0, fmt.Errorf("%s is not an http or https address", shown)
	}
	request.Header.Set("Accept-Encoding", "identity") // else a file sent as gzip arrives unpacked
	temporary := func(err error) error {
		return &TemporaryError{Server: request.URL.Scheme + "://" + request.URL.Host, Err: err}
	}
	response, err := opts.Client.Do(request)
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.As(err, &untrusted):
		return 0, err
	case err != nil:
		return 0, temporary(err)
	}
	defer response.Body.Close()
	switch code := response.StatusCode; {
	case code == http.StatusOK:
	case code == http.StatusNotFound || code == http.StatusGone:
		return 0, &GoneError{URL: shown, Status: response.Status}
	case code == http.StatusTooManyRequests || code == http.StatusRequestTimeout || code >= 500:
		return 0, temporary(fmt.Errorf("%s: %s", shown, response.Status))
	default:
		return 0, fmt.Errorf("%s: %s", shown, response.Status)
	}

	var size int64
	sum := want.Hash.New()
	limit := cmp.Or(want.Size, want.Max)
	body := io.LimitReader(response.Body, limit+1) // one more shows a file that is too long
	arriving := readerFunc(func(b []byte) (int, error) {
		n, err := body.Read(b)
		stalled.Reset(opts.Stall)
		size += int64(n)
		opts.Progress(int64(n))
		sum.Write(b[:n])
		if err != nil && err != io.EOF { // marked here, where it is not the disk that fails
			err = temporary(fmt.Errorf("%s: %w", shown, err))
		}
		return n, err
	})
	err = WriteNew(dest, filepath.Dir(dest), func(w io.Writer) error {
		if _, err := io.Copy(w, arriving); err != nil {
			return err
		}
		if want.Size == 0 && size > limit {
			return fmt.Errorf("%s has more than %d bytes", shown, limit)
		}
		if got := want.Encode(sum.Sum(nil)); got != want.Sum || want.Size != 0 && size != want.Size {
			return &DigestError{URL: shown, Hash: want.Hash, Want: want.Sum, Got: got}
		}
		return nil
	})
	if err != nil {
		opts.Progress(-size)
		return 0, err
	}
	return size, nil
}

// Size is the size of a file that is what is wanted, or -1 if it is not or is not there.
func Size(file string, want Want) (int64, error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	defer f.Close()
	sum := want.Hash.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return -1, err
	}
	if want.Encode(sum.Sum(nil)) != want.Sum || want.Size != 0 && size != want.Size {
		return -1, nil
	}
	return size, nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
