package transfer

import (
	"cmp"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"math"
	"net/http"
	"os"

	"github.com/waqasm86/llcuda-farm/manifests/measure"
)

// A Blob is a file to download.
type Blob struct {
	Name string // for messages
	Size int64  // bytes; negative if it is not known
	Max  int64  // where Size is not known: a longer file is refused, because it would fill the disk; 0 means no limit
	// SHA256 or SHA512 is the digest of the bytes, in lower-case hex. Both are empty only where it
	// is not known, and then nothing is resumed from an earlier run.
	SHA256, SHA512 string
	URLs           []string    // mirrors, in order of trial: http, https, file
	Header         http.Header // sent to the URLs' own hosts, never after a redirect to another scheme, host or port
	// Transient is a blob whose file is thrown away once it is whole, because the follower made of
	// it what is wanted. It is not written to disk for its own sake: that would take as long as
	// what was made of it.
	Transient bool
}

// sum is the digest that the bytes must have; empty if it is not known.
func (b Blob) sum() string { return cmp.Or(b.SHA512, b.SHA256) }

// limit is how many bytes are taken.
func (b Blob) limit() int64 {
	if b.Size >= 0 {
		return b.Size
	}
	return cmp.Or(b.Max, math.MaxInt64)
}

func (b Blob) algorithm() string {
	if b.SHA512 != "" {
		return "sha512"
	}
	return "sha256"
}

func (b Blob) newHash() hash.Hash {
	if b.SHA512 != "" {
		return sha512.New()
	}
	return sha256.New()
}

// SizeOf reads a file and returns its size, or -1 if there is no file or it is not the blob.
func (b Blob) SizeOf(path string) (int64, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	defer f.Close()
	sum := b.newHash()
	size, err := io.Copy(sum, f)
	if err != nil {
		return -1, err
	}
	if hex.EncodeToString(sum.Sum(nil)) != b.sum() || b.Size >= 0 && size != b.Size {
		return -1, nil
	}
	return size, nil
}

// Progress is how far a blob is.
type Progress = measure.Progress
