package npm

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waqasm86/llcuda-farm/docker/mirror"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
)

// registry is a small npm registry. Each path has a list of answers, the last of which is
// given from then on.
type registry struct {
	*httptest.Server
	mu      sync.Mutex
	answers map[string][]http.HandlerFunc
	asked   map[string]int
}

func newRegistry(t *testing.T) *registry {
	r := &registry{answers: map[string][]http.HandlerFunc{}, asked: map[string]int{}}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *registry) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	r.asked[request.URL.Path]++
	answer := http.NotFound
	if list := r.answers[request.URL.Path]; len(list) > 0 {
		answer = list[0]
		if len(list) > 1 {
			r.answers[request.URL.Path] = list[1:]
		}
	}
	r.mu.Unlock()
	answer(w, request)
}

// requests returns the requests since the last call.
func (r *registry) requests() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := maps.Clone(r.asked)
	clear(r.asked)
	return asked
}

// publish makes a tarball of a package and serves it.
func (r *registry) publish(t *testing.T, name, version string) published {
	p := pack(t, name, version)
	r.answers[p.path] = []http.HandlerFunc{whole(p.tarball)}
	return p
}

func (r *registry) options() Options {
	return Options{Registry: r.URL, Transfer: transfer.Client{FirstWait: time.Millisecond, StallTimeout: 200 * time.Millisecond}}
}

// published is one version of a package.
type published struct {
	name, version string
	path          string // on every registry
	tarball       []byte
	integrity     string
	file          string // in npm's cache
}

func pack(t *testing.T, name, version string) published {
	t.Helper()
	var out bytes.Buffer
	zipper := gzip.NewWriter(&out)
	archive := tar.NewWriter(zipper)
	manifest := fmt.Sprintf(`{"name":%q,"version":%q}`, name, version)
	if err := archive.WriteHeader(&tar.Header{Name: "package/package.json", Mode: 0o644, Size: int64(len(manifest))}); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Write([]byte(manifest)); err != nil {
		t.Fatal(err)
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zipper.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha512.Sum512(out.Bytes())
	digits := fmt.Sprintf("%x", sum)
	return published{
		name: name, version: version,
		path:      fmt.Sprintf("/%s/-/%s-%s.tgz", name, path.Base(name), version),
		tarball:   out.Bytes(),
		integrity: "sha512-" + base64.StdEncoding.EncodeToString(sum[:]),
		file:      fmt.Sprintf("_cacache/content-v2/sha512/%s/%s/%s", digits[:2], digits[2:4], digits[4:]),
	}
}

// entry is the package in a lock, as npm writes it. More fields come as pairs.
func (p published) entry(more ...any) map[string]any {
	e := map[string]any{"version": p.version, "resolved": mirror.NPM + p.path, "integrity": p.integrity}
	for i := 0; i < len(more); i += 2 {
		e[more[i].(string)] = more[i+1]
	}
	return e
}

// without takes a field out of an entry.
func without(e map[string]any, field string) map[string]any {
	e = maps.Clone(e)
	delete(e, field)
	return e
}

type packages map[string]map[string]any

// lockOf writes a lock of the project "ui".
func lockOf(t *testing.T, version int, entries packages) []byte {
	t.Helper()
	entries = maps.Clone(entries)
	if entries[""] == nil {
		entries[""] = map[string]any{"name": "ui", "version": "1.0.0"}
	}
	text, err := json.MarshalIndent(map[string]any{
		"name": "ui", "version": "1.0.0", "lockfileVersion": version, "requires": true, "packages": entries,
	}, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func whole(content []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content)) // with ranges
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// cut promises the whole content and breaks the connection half way.
func cut(content []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		sendHalf(w, content)
		panic(http.ErrAbortHandler)
	}
}

// hang sends half of the content and then nothing, until the client gives up.
func hang(content []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		sendHalf(w, content)
		<-r.Context().Done()
	}
}

func sendHalf(w http.ResponseWriter, content []byte) {
	w.Header().Set("Content-Length", fmt.Sprint(len(content)))
	w.Write(content[:len(content)/2])
	w.(http.Flusher).Flush()
}

// contents returns the contents of a folder, by path.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(file)
		found[strings.TrimPrefix(file, dir+"/")] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
