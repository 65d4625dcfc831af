package publisher

import (
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
)

// A ChangedError is a file that changed while it was being published.
type ChangedError struct{ Path string }

func (e *ChangedError) Error() string { return e.Path + " changed while it was being published" }

// Hint says the way out.
func (e *ChangedError) Hint() string {
	return "nothing may write to a release folder that is being published; ci verify says whether it is still whole"
}

// sameFile reads a file and checks its bytes against the digest, so that an upload of other bytes
// cannot succeed.
type sameFile struct {
	file File
	r    *os.File
	sum  hash.Hash
	left int64
}

func (s *sameFile) Read(b []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n, err := s.r.Read(b[:min(int64(len(b)), s.left)])
	s.sum.Write(b[:n])
	s.left -= int64(n)
	switch {
	case errors.Is(err, io.EOF):
		return 0, &ChangedError{s.file.path}
	case err != nil:
		return n, fmt.Errorf("reading %s: %w", s.file.path, err)
	case s.left == 0 && hex.EncodeToString(s.sum.Sum(nil)) != s.file.SHA256:
		return 0, &ChangedError{s.file.path}
	}
	return n, nil
}

func (s *sameFile) Close() error { return s.r.Close() }
