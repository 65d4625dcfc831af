package bundler_test

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// unpackTar is the tar in an archive.
func unpackTar(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var r io.Reader
	if strings.HasSuffix(name, ".gz") {
		r, err = gzip.NewReader(f)
	} else {
		var d *zstd.Decoder
		if d, err = zstd.NewReader(f); err == nil {
			defer d.Close()
		}
		r = d
	}
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func sha256Of(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// mixedTree is a bundle with a large file of the kind that compresses: runs of noise that come back
// changed, near and far, as kernels do in device code.
func mixedTree(t testing.TB, size int) string {
	t.Helper()
	dir := newTree(t, "sm75.fatbin")
	rng := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 0, size+1<<12)
	for len(data) < size {
		if len(data) > 1<<12 && rng.IntN(4) > 0 {
			n := 16 + rng.IntN(1<<11)
			from := len(data) - n - rng.IntN(min(len(data)-n, 16<<20))
			data = append(data, data[from:from+n]...)
			continue
		}
		for range 1 + rng.IntN(64) {
			data = append(data, byte(rng.ExpFloat64()*16))
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "THIRD_PARTY_LICENSES.txt"), data[:size], 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// bigTree has a license that does not compress, so that packing takes a while and some room.
func bigTree(t testing.TB, size int64) string {
	t.Helper()
	dir := newTree(t, "sm75.fatbin")
	random, err := os.Open("/dev/urandom")
	if err != nil {
		t.Fatal(err)
	}
	defer random.Close()
	f, err := os.Create(filepath.Join(dir, "THIRD_PARTY_LICENSES.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.CopyN(f, random, size); err != nil {
		t.Fatal(err)
	}
	return dir
}
