package download

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const content = "the very content"

func wanted() Want {
	sum := sha256.Sum256([]byte(content))
	return Want{Max: 100, Hash: crypto.SHA256, Encode: hex.EncodeToString, Sum: hex.EncodeToString(sum[:])}
}

func send(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) }
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// half sends half of the content and then does something else.
func half(then func(*http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "16")
		io.WriteString(w, content[:8])
		w.(http.Flusher).Flush()
		then(r)
	}
}

func is[T error](err error) bool {
	var as T
	return errors.As(err, &as)
}

func temporary(text string) func(error) bool {
	return func(err error) bool { return is[*TemporaryError](err) && strings.Contains(err.Error(), text) }
}

// Every answer a server may give: what is asked again, what comes of it, and that a file
// which was there is replaced by the wanted one or by none.
func TestInto(t *testing.T) {
	cut := half(func(*http.Request) { panic(http.ErrAbortHandler) })
	hang := half(func(r *http.Request) { <-r.Context().Done() })
	silent := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	trickle := func(w http.ResponseWriter, _ *http.Request) { // all in all for longer than a stall
		for _, b := range []byte(content) {
			time.Sleep(25 * time.Millisecond)
			w.Write([]byte{b})
			w.(http.Flusher).Flush()
		}
	}
	gone := func(err error) bool { return is[*GoneError](err) }
	wrong := func(err error) bool { return is[*DigestError](err) && strings.Contains(err.Error(), "has SHA-256 ") }
	for name, test := range map[string]struct {
		answers []http.HandlerFunc // the last is given from then on
		size    int64
		tries   int
		check   func(error) bool // nil: no error
	}{
		"whole":                {[]http.HandlerFunc{send(content)}, 0, 1, nil},
		"whole, of known size": {[]http.HandlerFunc{send(content)}, 16, 1, nil},
		"busy, then whole":     {[]http.HandlerFunc{status(429), status(408), status(503), send(content)}, 0, 4, nil},
		"cut, then whole":      {[]http.HandlerFunc{cut, send(content)}, 0, 2, nil},
		"hangs, then whole":    {[]http.HandlerFunc{silent, hang, send(content)}, 0, 3, nil},
		"slow":                 {[]http.HandlerFunc{trickle}, 0, 1, nil},
		"always busy":          {[]http.HandlerFunc{status(502)}, 0, Tries, temporary("/file: 502 Bad Gateway")},
		"always cut":           {[]http.HandlerFunc{cut}, 0, Tries, temporary("unexpected EOF")},
		"always hangs":         {[]http.HandlerFunc{hang}, 0, Tries, temporary("nothing arrived for 200ms")},
		"not there":            {[]http.HandlerFunc{status(404)}, 0, 1, gone},
		"no longer there":      {[]http.HandlerFunc{status(410)}, 0, 1, gone},
		"forbidden": {[]http.HandlerFunc{status(403)}, 0, 1, func(err error) bool {
			return !is[*TemporaryError](err) && strings.Contains(err.Error(), "403 Forbidden")
		}},
		"other bytes":        {[]http.HandlerFunc{send("the evil content"), send(content)}, 0, 1, wrong},
		"shorter than known": {[]http.HandlerFunc{send(content), send(content)}, 17, 1, wrong},
		"longer than known":  {[]http.HandlerFunc{send(content), send(content)}, 15, 1, wrong},
		"longer than may be": {[]http.HandlerFunc{send(strings.Repeat("x", 1000)), send(content)}, 0, 1, func(err error) bool {
			return strings.Contains(err.Error(), "has more than 100 bytes")
		}},
		"named as packed": {[]http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			if encoding := r.Header.Get("Accept-Encoding"); encoding != "identity" {
				w.WriteHeader(http.StatusForbidden)
			}
			w.Header().Set("Content-Encoding", "gzip")
			io.WriteString(w, content)
		}}, 0, 1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				test.answers[min(int(asked.Add(1)), len(test.answers))-1](w, r)
			}))
			defer server.Close()
			dir := t.TempDir()
			dest := filepath.Join(dir, "file")
			want := wanted()
			want.Size = test.size
			var progress int64
			size, err := Into(t.Context(), server.URL+"/file", dest, want, Options{
				FirstWait: time.Millisecond, Stall: 200 * time.Millisecond,
				Progress: func(n int64) { progress += n },
			})
			files := map[string]string{}
			var wantSize int64
			if test.check == nil {
				files["file"], wantSize = content, int64(len(content))
				if err != nil {
					t.Fatal(err)
				}
			} else if err == nil || !test.check(err) {
				t.Errorf("error %v is not the one wanted", err)
			}
			if diff := cmp.Diff(files, contents(t, dir)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if size != wantSize || progress != wantSize || int(asked.Load()) != test.tries {
				t.Errorf("size %d and progress %d, want %d; asked %d times, want %d", size, progress, wantSize, asked.Load(), test.tries)
			}
		})
	}
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(text)
	}
	return files
}

// What no other try would mend is said at once.
func TestIntoTriesOnce(t *testing.T) {
	untrusted := httptest.NewUnstartedServer(send(content))
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0) // it would say that we hung up
	untrusted.StartTLS()
	defer untrusted.Close()
	server := httptest.NewServer(send(content))
	defer server.Close()
	dir := t.TempDir()
	for name, test := range map[string]struct{ address, dest, text string }{
		"certificate": {untrusted.URL, filepath.Join(dir, "file"), "certificate"},
		"no address":  {"mirror/file", filepath.Join(dir, "file"), "is not an http or https address"},
		"no folder":   {server.URL, filepath.Join(dir, "none", "file"), "no such file"},
	} {
		_, err := Into(t.Context(), test.address, test.dest, wanted(), Options{FirstWait: time.Hour})
		if err == nil || is[*TemporaryError](err) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// The address's password is sent and not shown.
func TestIntoHidesPassword(t *testing.T) {
	for _, code := range []int{401, 404, 502, 200} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, password, _ := r.BasicAuth(); password != "s3cret" {
				t.Errorf("%d: sent %q", code, password)
			}
			w.WriteHeader(code)
		}))
		address := strings.Replace(server.URL, "://", "://me:s3cret@", 1)
		_, err := Into(t.Context(), address, filepath.Join(t.TempDir(), "file"), wanted(), Options{FirstWait: time.Millisecond})
		var temporary *TemporaryError
		if err == nil || strings.Contains(err.Error(), "s3cret") || errors.As(err, &temporary) && temporary.Server != server.URL {
			t.Errorf("%d: got %v, %+v", code, err, temporary)
		}
		server.Close()
	}
}

func TestIntoCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	server := httptest.NewServer(half(func(r *http.Request) {
		cancel()
		<-r.Context().Done()
	}))
	defer server.Close()
	dir := t.TempDir()
	if _, err := Into(ctx, server.URL, filepath.Join(dir, "file"), wanted(), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if left := contents(t, dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestSize(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if size, err := Size(file, wanted()); size != -1 || err != nil {
		t.Errorf("no file: got %d, %v", size, err)
	}
	if size, err := Size(filepath.Dir(file), wanted()); err == nil {
		t.Errorf("a folder: got %d", size)
	}
	for text, want := range map[string]int64{content: int64(len(content)), content + "!": -1, "the evil content": -1, "": -1} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if size, err := Size(file, wanted()); size != want || err != nil {
			t.Errorf("%q: got %d, %v, want %d", text, size, err, want)
		}
	}
}

// What a killed run left goes; what a living run writes, and all that has a name, stays.
func TestRemoveStale(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a [b] c")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{".fetch-dead": 2 * time.Hour, ".fetch-living": time.Minute, "named": 2 * time.Hour} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(file, then, then); err != nil {
			t.Fatal(err)
		}
	}
	RemoveStale(dir)
	RemoveStale(filepath.Join(dir, "none"))
	if diff := cmp.Diff(map[string]string{".fetch-living": ".fetch-living", "named": "named"}, contents(t, dir)); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}
