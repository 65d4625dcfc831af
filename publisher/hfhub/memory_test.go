package hfhub

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/waqasm86/llcuda-farm/publisher"
)

// A sink is a Hub that keeps nothing: what the real server is too small for. It has one repository
// and takes one file.
func sink(t testing.TB, partSize int64) *httptest.Server {
	const first, second = "1111111111111111111111111111111111111111", "2222222222222222222222222222222222222222"
	var oid atomic.Value
	var size, got, committed atomic.Int64
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		say := func(value any) { json.NewEncoder(w).Encode(value) }
		switch path := r.URL.Path; {
		case r.Method == http.MethodPut:
			n, err := io.Copy(io.Discard, r.Body)
			if err != nil {
				t.Error(err)
			}
			got.Add(n)
			w.Header().Set("ETag", `"x"`)
		case strings.HasSuffix(path, "/revision/main"):
			say(map[string]string{"sha": []string{first, second}[committed.Load()]})
		case strings.HasSuffix(path, "/paths-info/"+second):
			say([]any{map[string]any{"type": "file", "path": "model.gguf", "size": size.Load(), "lfs": map[string]any{"oid": oid.Load()}}})
		case strings.Contains(path, "/paths-info/"):
			say([]any{})
		case strings.Contains(path, "/preupload/"):
			say(map[string]any{"files": []any{map[string]string{"path": "model.gguf", "uploadMode": "lfs"}}})
		case strings.HasSuffix(path, "/batch"):
			var asked struct{ Objects []object }
			if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
				t.Error(err)
			}
			o := asked.Objects[0]
			oid.Store(o.OID)
			size.Store(o.Size)
			header := map[string]string{"chunk_size": fmt.Sprint(partSize)}
			for n := int64(1); (n-1)*partSize < o.Size; n++ {
				header[fmt.Sprint(n)] = fmt.Sprintf("%s/part/%d", server.URL, n)
			}
			say(map[string]any{"objects": []any{map[string]any{"oid": o.OID, "size": o.Size,
				"actions": map[string]any{"upload": map[string]any{"href": server.URL + "/complete", "header": header}}}}})
		case path == "/complete":
			if got.Load() != size.Load() {
				t.Errorf("%d bytes arrived of %d", got.Load(), size.Load())
			}
		case strings.Contains(path, "/commit/"):
			committed.Store(1)
			say(struct{}{})
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return server
}

// publishSparse publishes a file of zeros that takes no disk and tells the most memory that was in
// use.
func publishSparse(t testing.TB, size int64) (peak uint64) {
	local := filepath.Join(t.TempDir(), "model.gguf")
	if err := os.WriteFile(local, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(local, size); err != nil {
		t.Fatal(err)
	}
	watch := func(publisher.Progress) {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		peak = max(peak, m.HeapInuse+m.StackInuse)
	}
	server := sink(t, 64<<20)
	client := &Client{Endpoint: server.URL, Tokens: StaticToken("hf_write"), Tries: 1}
	sum, got, err := Digest(context.Background(), local, watch)
	if err != nil || got != size {
		t.Fatal(got, err)
	}
	if _, err := client.Publish(context.Background(), "org/model", these([]File{{Path: "model.gguf", Local: local, SHA256: sum}}), Options{Progress: watch}); err != nil {
		t.Fatal(err)
	}
	return peak
}

// Memory does not grow with the file: the server's is counted, too.
func TestMemory(t *testing.T) {
	const size, most = 256 << 20, 48 << 20
	if peak := publishSparse(t, size); peak == 0 || peak > most {
		t.Errorf("%d MiB in use while %d MiB were published", peak>>20, size>>20)
	}
}

// BenchmarkPublish is a whole publication: reading for the digest, and sending. 50 GB is the
// largest that the Hub takes.
func BenchmarkPublish(b *testing.B) {
	for _, gigabytes := range []int64{1, 50} {
		b.Run(fmt.Sprintf("%dGB", gigabytes), func(b *testing.B) {
			size := gigabytes * 1_000_000_000
			b.SetBytes(size)
			var peak uint64
			for b.Loop() {
				peak = max(peak, publishSparse(b, size))
			}
			b.ReportMetric(float64(peak)/(1<<20), "peak-MiB")
		})
	}
}
