package cli

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/publisher"
)

// What is read back is taken if it is what was published, however it comes, and refused if it is not.
func TestReadPublic(t *testing.T) {
	data := strings.Repeat("0123456789", 1000)
	var breaks atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("%s has a token", r.URL)
		}
		var from int
		_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		switch r.URL.Path {
		case "/right":
		case "/breaks": // and goes on where it broke
			if breaks.Add(1) == 1 {
				w.Header().Set("Content-Length", fmt.Sprint(len(data)))
				fmt.Fprint(w, data[:4000])
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
			if from == 0 {
				t.Error("it begins anew")
			}
		case "/forgets": // where it broke
			from = 0
			if breaks.Add(-1) == 1 {
				w.Header().Set("Content-Length", fmt.Sprint(len(data)))
				fmt.Fprint(w, data[:4000])
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
		case "/other":
			fmt.Fprint(w, strings.Repeat("9876543210", 1000))
			return
		case "/longer":
			fmt.Fprint(w, data+"more")
			return
		case "/shorter":
			fmt.Fprint(w, data[1:])
			return
		}
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
			w.WriteHeader(http.StatusPartialContent)
		}
		fmt.Fprint(w, data[from:])
	}))
	defer server.Close()
	for _, test := range []struct {
		name  string
		right bool
	}{{"right", true}, {"breaks", true}, {"forgets", true}, {"other", false}, {"longer", false}, {"shorter", false}} {
		var last atomic.Int64
		file := publisher.File{Name: test.name, Size: int64(len(data)), SHA256: fetchtest.SHA256([]byte(data))}
		err := readPublic(t.Context(), server.URL, []publisher.File{file}, func(p publisher.Progress) { last.Store(p.Done) })
		switch {
		case test.right && (err != nil || last.Load() != file.Size):
			t.Errorf("%s: %v after %d bytes", test.name, err, last.Load())
		case !test.right && !isAs[*refusal](err):
			t.Errorf("%s: got %v", test.name, err)
		}
	}
}
