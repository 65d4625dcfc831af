package hfhub

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/publisher"
)

// A blob is a file that was read once: what the Hub must be told of it.
type blob struct {
	File
	size    int64
	changed time.Time // of Local
	sample  []byte    // the first bytes, from which the Hub tells texts from data
}

const sampleSize = 512

// check keeps out what would be another path, at the Hub or for those who download it.
func (f File) check() error {
	for part := range strings.SplitSeq(f.Path, "/") {
		if part == "" || part == "." || part == ".." || part == ".git" {
			return fmt.Errorf("%q is not a path in a repository", f.Path)
		}
	}
	if strings.ContainsFunc(f.Path, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }) {
		return fmt.Errorf("%q is not a path in a repository", f.Path)
	}
	if f.SHA256 != "" && !sha256Form.MatchString(f.SHA256) {
		return fmt.Errorf("%s: %q is not a sha256", f.Path, f.SHA256)
	}
	return nil
}

// read looks at a file, and computes its digest where that is not known. known are digests from
// before.
func read(ctx context.Context, f File, known map[string]blob) (blob, error) {
	if err := f.check(); err != nil {
		return blob{}, err
	}
	b := blob{File: f, size: int64(len(f.Content))}
	if f.Local == "" {
		sum := sha256.Sum256(f.Content)
		b.SHA256 = hex.EncodeToString(sum[:])
		b.sample = append([]byte{}, f.Content[:min(len(f.Content), sampleSize)]...) // never null to the Hub
		return b, nil
	}
	file, err := os.Open(f.Local)
	if err != nil {
		return blob{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return blob{}, err
	}
	if !info.Mode().IsRegular() {
		return blob{}, fmt.Errorf("%s is not a file", f.Local)
	}
	b.size, b.changed = info.Size(), info.ModTime()
	if before, ok := known[f.Local]; ok && before.size == b.size && before.changed.Equal(b.changed) {
		before.File.Path = f.Path
		return before, nil
	}
	b.sample = make([]byte, min(b.size, sampleSize))
	if _, err := io.ReadFull(file, b.sample); err != nil {
		return blob{}, fmt.Errorf("reading %s: %w", f.Local, err)
	}
	if b.SHA256 == "" {
		if b.SHA256, err = b.digest(ctx, file, sha256.New(), nil); err != nil {
			return blob{}, err
		}
	}
	known[f.Local] = b
	return b, nil
}

// Digest reads a file on this machine: its sha256 in lower-case hex, and its size. report, if not
// nil, hears how far it is.
func Digest(ctx context.Context, local string, report func(publisher.Progress)) (sum string, size int64, err error) {
	file, err := os.Open(local)
	if err != nil {
		return "", 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", 0, err
	}
	b := blob{File: File{Local: local}, size: info.Size()}
	m := newMeter(filepath.Base(local), b.size, report)
	if sum, err = b.digest(ctx, file, sha256.New(), m); err != nil {
		return "", 0, err
	}
	m.finish()
	return sum, b.size, nil
}

// digest reads all of a file.
func (b blob) digest(ctx context.Context, file *os.File, h hash.Hash, meter *meter) (string, error) {
	buffer := make([]byte, 1<<20)
	for offset := int64(0); offset < b.size; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := file.ReadAt(buffer[:min(int64(len(buffer)), b.size-offset)], offset)
		h.Write(buffer[:n])
		offset += int64(n)
		meter.add(int64(n))
		if err != nil && offset < b.size {
			if errors.Is(err, io.EOF) {
				return "", &ChangedError{Local: b.Local}
			}
			return "", fmt.Errorf("reading %s: %w", b.Local, err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// gitOID is the id that git gives to the file: what the Hub knows small files by.
func (b blob) gitOID(ctx context.Context) (string, error) {
	h := sha1.New()
	fmt.Fprintf(h, "blob %d\x00", b.size)
	if b.Local == "" {
		h.Write(b.Content)
		return hex.EncodeToString(h.Sum(nil)), nil
	}
	file, err := b.open()
	if err != nil {
		return "", err
	}
	defer file.Close()
	return b.digest(ctx, file.(*os.File), h, nil)
}

// A content is a file's bytes, read from anywhere, by several at once.
type content interface {
	io.ReaderAt
	io.Closer
}

type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// open opens the file that was read before: the same one, unchanged.
func (b blob) open() (content, error) {
	if b.Local == "" {
		return memory{bytes.NewReader(b.Content)}, nil
	}
	file, err := os.Open(b.Local)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && (info.Size() != b.size || !info.ModTime().Equal(b.changed)) {
		err = &ChangedError{Local: b.Local}
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// whole reads a file that goes into the commit itself.
func (b blob) whole() ([]byte, error) {
	if b.Local == "" {
		return b.Content, nil
	}
	file, err := b.open()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data := make([]byte, b.size)
	if _, err := file.ReadAt(data, 0); err != nil && b.size > 0 {
		return nil, fmt.Errorf("reading %s: %w", b.Local, err)
	}
	return data, nil
}

// is reports whether an entry of the Hub's is this file.
func (b blob) is(ctx context.Context, e entry) (bool, error) {
	switch {
	case e.LFS != nil:
		return e.LFS.OID == b.SHA256, nil
	case e.Type != "file" || e.Size != b.size:
		return false, nil
	}
	oid, err := b.gitOID(ctx)
	return oid == e.OID, err
}
