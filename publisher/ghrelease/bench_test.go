package ghrelease_test

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/publisher"
	"github.com/waqasm86/llcuda-farm/publisher/ghrelease"
	"github.com/waqasm86/llcuda-farm/publisher/ghtest"
)

// BenchmarkPublish publishes a release of four large files, and sends the same bytes by one plain
// POST after the other, as curl would: to the same server, in the same run. Of the first everything
// counts: reading and hashing the folder, finding and making the draft, the comparison, publishing.
// x-of-plain is its time by that of plain.
func BenchmarkPublish(b *testing.B) {
	release := fetchtest.New(b, fetchtest.Options{Padding: 64 << 20})
	var size int64
	for _, asset := range release.Manifest.Assets {
		size += asset.Size
	}
	b.SetBytes(size)
	var ours, plain time.Duration
	for b.Loop() {
		server := ghtest.New(b, ghtest.Options{Discard: true})
		store := newStore(b, server, ghrelease.Options{Stall: time.Minute})
		begun := time.Now()
		folder, err := publisher.OpenFolder(b.Context(), release.Dir)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := publisher.Publish(b.Context(), store, folder, publisher.Options{}); err != nil {
			b.Fatal(err)
		}
		ours += time.Since(begun)

		draft, err := store.Create(b.Context(), publisher.Draft{Tag: "plain"})
		if err != nil {
			b.Fatal(err)
		}
		begun = time.Now()
		for _, file := range folder.Files {
			post(b, draft.UploadURL+"?name="+file.Name, server.Token, filepath.Join(release.Dir, file.Name))
		}
		plain += time.Since(begun)
	}
	b.ReportMetric(float64(size*int64(b.N))/1e6/ours.Seconds(), "MB/s-publish")
	b.ReportMetric(float64(size*int64(b.N))/1e6/plain.Seconds(), "MB/s-plain")
	b.ReportMetric(ours.Seconds()/plain.Seconds(), "x-of-plain")
}

// BenchmarkUpload is one large file, by the store and by a plain POST.
func BenchmarkUpload(b *testing.B) {
	const size = 256 << 20
	name := filepath.Join(b.TempDir(), "large")
	data := make([]byte, size)
	if err := os.WriteFile(name, data, 0o644); err != nil {
		b.Fatal(err)
	}
	sum := sha256.Sum256(data)
	content := publisher.Content{Name: "large", Size: size, Open: func() (io.ReadCloser, error) { return os.Open(name) }}
	b.SetBytes(size)
	var ours, plain time.Duration
	for b.Loop() {
		server := ghtest.New(b, ghtest.Options{Discard: true})
		store := newStore(b, server, ghrelease.Options{Stall: time.Minute})
		draft, err := store.Create(b.Context(), publisher.Draft{Tag: "v1"})
		if err != nil {
			b.Fatal(err)
		}
		begun := time.Now()
		asset, err := store.Upload(b.Context(), draft, content)
		if err != nil || asset.SHA256 != hex.EncodeToString(sum[:]) {
			b.Fatalf("%+v, %v", asset, err)
		}
		ours += time.Since(begun)
		begun = time.Now()
		post(b, draft.UploadURL+"?name="+manifests.ManifestName, server.Token, name)
		plain += time.Since(begun)
	}
	b.ReportMetric(float64(size*int64(b.N))/1e6/ours.Seconds(), "MB/s-store")
	b.ReportMetric(float64(size*int64(b.N))/1e6/plain.Seconds(), "MB/s-plain")
	b.ReportMetric(ours.Seconds()/plain.Seconds(), "x-of-plain")
}

// post sends a file as the body of one request.
func post(b *testing.B, address, token, name string) {
	b.Helper()
	file, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	info, err := file.Stat()
	if err != nil {
		b.Fatal(err)
	}
	request, err := http.NewRequest(http.MethodPost, address, file)
	if err != nil {
		b.Fatal(err)
	}
	request.ContentLength = info.Size()
	request.Header.Set("Content-Type", "application/octet-stream")
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != http.StatusCreated {
		b.Fatalf("%s, %v", response.Status, err)
	}
}
