package image

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waqasm86/llcuda-farm/docker/cuda12"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
)

// A testMirror is a small Debian mirror and npm registry in one. Each path has a list
// of answers, the last of which is given from then on.
type testMirror struct {
	*httptest.Server
	mu      sync.Mutex
	answers map[string][]http.HandlerFunc
	asked   map[string]int
}

func newMirror(t *testing.T) *testMirror {
	m := &testMirror{answers: make(map[string][]http.HandlerFunc), asked: make(map[string]int)}
	m.Server = httptest.NewServer(m)
	t.Cleanup(m.Close)
	return m
}

func (m *testMirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	path := strings.TrimPrefix(r.URL.Path, "/")
	m.asked[path]++
	answer := http.NotFound
	if list := m.answers[path]; len(list) > 0 {
		answer = list[0]
		if len(list) > 1 {
			m.answers[path] = list[1:]
		}
	}
	m.mu.Unlock()
	answer(w, r)
}

func (m *testMirror) options() FetchOptions {
	return FetchOptions{
		Mirrors: []string{m.URL + "/debian/"}, NPMRegistry: m.URL + "/npm", Archive: m.URL + "/archive/",
		Transfer: transfer.Client{FirstWait: time.Millisecond, StallTimeout: 200 * time.Millisecond},
	}
}

func whole(content string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content)) // with ranges
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// cut promises the whole content and breaks the connection half way.
func cut(content string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write([]byte(content[:len(content)/2]))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

// hang sends half of the content and then nothing, until the client gives up.
func hang(content string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write([]byte(content[:len(content)/2]))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
}

func locked(kind cuda12.Kind, name, content string) cuda12.Package {
	sum := sha256.Sum256([]byte(content))
	return cuda12.Package{Kind: kind, Name: name, Version: "1", Path: "pool/" + name + ".deb", Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}
}

func files(t *testing.T, cache string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	entries, err := os.ReadDir(FilesDir(cache))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(FilesDir(cache), e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		found[e.Name()] = string(content)
	}
	return found
}
