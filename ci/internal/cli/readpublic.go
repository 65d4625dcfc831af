package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waqasm86/llcuda-farm/publisher"
)

// How patient the reading of what was just published is: it takes GitHub's servers for downloads a moment to have it.
const (
	publicTries = 8
	publicWait  = 500 * time.Millisecond
	publicStall = time.Minute
)

// readPublic downloads files from where the public gets them, by nothing but their addresses, and compares size and
// digest. Nothing is written: the bytes are hashed as they come.
func readPublic(ctx context.Context, downloads string, files []publisher.File, progress func(publisher.Progress)) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(downloadLimit)
	for _, file := range files {
		group.Go(func() error {
			r := publicFile{File: file, address: downloads + "/" + file.Name, sum: sha256.New(), progress: progress}
			return r.read(ctx)
		})
	}
	return group.Wait()
}

// publicFile is one file that is read back.
type publicFile struct {
	publisher.File
	address  string
	progress func(publisher.Progress)
	sum      hash.Hash
	have     int64
}

// errAway is an answer that may be another one in a moment.
var errAway = errors.New("not there")

func (f *publicFile) read(ctx context.Context) error {
	wait := publicWait
	for try := 1; ; try++ {
		before := f.have
		err := f.once(ctx)
		switch {
		case err == nil:
			return f.compare()
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case f.have > before: // it moves
			try, wait = 0, publicWait
		case try >= publicTries && errors.Is(err, errAway):
			return &refusal{err, "it was published, and nobody but you can download it: is the repository private? Else look at the release, and run this again"}
		case try >= publicTries:
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
		wait *= 2
	}
}

// once reads on from where the last try ended.
func (f *publicFile) once(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stall := time.AfterFunc(publicStall, cancel)
	defer stall.Stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.address, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept-Encoding", "identity")
	if f.have > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", f.have))
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	switch from := fmt.Sprintf("bytes %d-", f.have); {
	case response.StatusCode == http.StatusPartialContent && strings.HasPrefix(response.Header.Get("Content-Range"), from):
	case response.StatusCode == http.StatusOK:
		f.have = 0
		f.sum.Reset()
	default:
		return fmt.Errorf("%s: %w: %s", f.address, errAway, response.Status)
	}
	buf := make([]byte, 128<<10)
	for {
		n, err := response.Body.Read(buf)
		f.sum.Write(buf[:n])
		f.have += int64(n)
		f.progress(publisher.Progress{Name: f.Name, Done: min(f.have, f.Size), Total: f.Size})
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("%s: %w", f.address, err)
		case f.have > f.Size:
			return nil // compare says so
		}
		stall.Reset(publicStall)
	}
}

func (f *publicFile) compare() error {
	if got := hex.EncodeToString(f.sum.Sum(nil)); f.have != f.Size || got != f.SHA256 {
		return &refusal{
			fmt.Errorf("%s is not what was published: %d bytes, sha256 %s; it must be %d, %s", f.address, f.have, got, f.Size, f.SHA256),
			"somebody changed the release, or a proxy on the way changes downloads: look at the release",
		}
	}
	return nil
}
