package transfer

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

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

// copyFile brings the rest of the blob from a file of this machine.
func (t *transfer) copyFile(ctx context.Context, address, shown string) error {
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
