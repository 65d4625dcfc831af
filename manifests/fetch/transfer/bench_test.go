package transfer

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkFetch gives Fetch's time as a ratio to http.Get, SHA-256 and io.Copy over the same bytes
// in the same run.
func BenchmarkFetch(b *testing.B) {
	const length = 64 << 20
	dir := b.TempDir()
	data := make([]byte, length)
	if err := os.WriteFile(filepath.Join(dir, "file"), data, 0o666); err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256(data)
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	blob := Blob{Name: "file", Size: length, SHA256: hex.EncodeToString(digest[:]), URLs: []string{server.URL + "/file"}}
	var plain, ours time.Duration
	for b.Loop() {
		start := time.Now()
		response, err := http.Get(blob.URLs[0])
		if err != nil {
			b.Fatal(err)
		}
		f, err := os.Create(filepath.Join(dir, "plain"))
		if err != nil {
			b.Fatal(err)
		}
		sum := sha256.New()
		if _, err := io.Copy(io.MultiWriter(f, sum), response.Body); err != nil {
			b.Fatal(err)
		}
		response.Body.Close()
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
		f.Close()
		plain += time.Since(start)

		partial := filepath.Join(dir, "partial")
		start = time.Now()
		if err := (&Client{}).Fetch(b.Context(), blob, partial, nil, nil); err != nil {
			b.Fatal(err)
		}
		ours += time.Since(start)
		if err := os.Remove(partial); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(ours.Seconds()/plain.Seconds(), "×plain")
	b.ReportMetric(0, "ns/op")
}
