package transfer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer/transfertest"
)

// hurried is a client for which a mirror is slow soon, and that has time for everything else.
func hurried() *Client {
	c := client()
	c.StallTimeout, c.SlowWindow, c.SlowRate = time.Hour, 600*time.Millisecond, 64<<10
	return c
}

// A slow mirror is abandoned for the next one, which continues at the same byte; where no other
// mirror has the blob, the transfer waits for the slow one.
func TestFetchSlow(t *testing.T) {
	const crawl, slow = 10, 32 << 10 // bytes a second, both less than hurried wants
	const short = 64 << 10           // a blob that comes even so
	for name, test := range map[string]struct {
		mirrors mirrors
		size    int64 // size, where it is 0
		sent    int64 // bytes, at most, over all mirrors; 0 is not claimed
		last    int   // the mirror that gave the last byte
		says    bool  // progress says that it is slow
	}{
		"next":                          {mirrors: mirrors{{Rate: crawl}, {}}, sent: size + 1000, last: 1},
		"next, no ranges":               {mirrors: mirrors{{Rate: crawl, NoRanges: true}, {}}, sent: size + 1000, last: 1},
		"next but one":                  {mirrors: mirrors{{Rate: crawl}, {Status: 404}, {}}, sent: size + 1000, last: 2},
		"slow in the middle":            {mirrors: mirrors{{Rate: crawl, Nth: 5}, {}}, last: 1},
		"stalled":                       {mirrors: mirrors{{Stall: 1000}, {}}, last: 1},
		"a byte a connection":           {mirrors: mirrors{{Drop: 1}, {}}, last: 1},
		"a header without end":          {mirrors: mirrors{{Drip: true}, {}}, sent: size, last: 1},
		"wants to be left alone":        {mirrors: mirrors{{Status: 503, After: "1"}, {}}, sent: size, last: 1},
		"alone":                         {mirrors: mirrors{{Rate: slow}}, size: short, sent: short, says: true},
		"the others do not have it":     {mirrors: mirrors{{Rate: slow}, {Status: 404}}, size: short, says: true},
		"all, the fastest is taken":     {mirrors: mirrors{{Rate: crawl}, {Rate: slow}, {Rate: crawl}}, size: short, last: 1, says: true},
		"the other one gives bad bytes": {mirrors: mirrors{{Rate: slow}, {Flip: true}}, size: short, says: true},
		"one range of four":             {mirrors: mirrors{{Rate: crawl, Nth: 3}}},
		"the first range of four":       {mirrors: mirrors{{Rate: crawl, Nth: 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, data, sum := sample(t)
			blob := Blob{Name: "file", Size: size, SHA256: sum}
			if test.size > 0 {
				data = data[:test.size]
				digest := sha256.Sum256(data)
				blob.Size, blob.SHA256 = test.size, hex.EncodeToString(digest[:])
				if err := os.WriteFile(filepath.Join(dir, "file"), data, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			var servers []*transfertest.Server
			for _, fault := range test.mirrors {
				s := transfertest.New(t, dir, fault)
				servers = append(servers, s)
				blob.URLs = append(blob.URLs, s.URL+"/file")
			}
			c := hurried()
			if test.mirrors[0].Status != 0 {
				c.MaxRetryAfter = time.Hour
			}
			said := false
			var last Progress
			partial := filepath.Join(t.TempDir(), "p")
			if err := c.Fetch(t.Context(), blob, partial, nil, func(p Progress) { last, said = p, said || p.Slow }); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(partial); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if want := blob.URLs[test.last]; last.Source != want {
				t.Errorf("the last bytes are from %s, not %s", last.Source, want)
			}
			if test.says && !said {
				t.Error("progress does not say that the mirror is slow")
			}
			var sent int64
			for _, s := range servers {
				sent += s.Sent()
			}
			if test.sent > 0 && sent > test.sent {
				t.Errorf("%d bytes were sent, at most %d are needed", sent, test.sent)
			}
		})
	}
}

// A slow follower is not the mirror's fault.
func TestFetchSlowFollower(t *testing.T) {
	dir := t.TempDir()
	data := make([]byte, 3*followBuffer) // more than waits in memory for the follower
	digest := sha256.Sum256(data)
	if err := os.WriteFile(filepath.Join(dir, "file"), data, 0o666); err != nil {
		t.Fatal(err)
	}
	first, second := transfertest.New(t, dir, transfertest.Fault{}), transfertest.New(t, dir, transfertest.Fault{})
	c := hurried()
	c.SlowWindow, c.SlowRate = time.Second, 1
	blob := Blob{Name: "file", Size: int64(len(data)), SHA256: hex.EncodeToString(digest[:]), URLs: []string{first.URL + "/file", second.URL + "/file"}}
	err := c.Fetch(t.Context(), blob, filepath.Join(t.TempDir(), "p"), func(r io.Reader) error {
		time.Sleep(2 * c.SlowWindow)
		_, err := io.Copy(io.Discard, r)
		return err
	}, nil)
	if err != nil || len(second.Requests()) > 0 {
		t.Errorf("%d requests to the second mirror, %v", len(second.Requests()), err)
	}
}

// A document that comes too slowly is taken from the next address; a patient client waits for it.
func TestGetSlow(t *testing.T) {
	dir, data, _ := sample(t)
	good := transfertest.New(t, dir, transfertest.Fault{})
	for name, fault := range map[string]transfertest.Fault{"body": {Rate: 10}, "header": {Drip: true}} {
		slow := transfertest.New(t, dir, fault)
		got, from, err := hurried().Get(t.Context(), []string{slow.URL + "/file", good.URL + "/file"}, size)
		if err != nil || from != good.URL+"/file" || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes from %s, %v", name, len(got), from, err)
		}
		if _, _, err := hurried().Get(t.Context(), []string{slow.URL + "/file"}, size); !is[*SlowError](err) || !is[*NetworkError](err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	slow := transfertest.New(t, dir, transfertest.Fault{Rate: 512 << 10})
	patient := hurried()
	patient.SlowRate = 1 << 30
	if got, _, err := patient.Patient().Get(t.Context(), []string{slow.URL + "/file"}, size); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// A server that sends without end is cut off: bodies by what was asked for, redirects by their
// number.
func TestEndless(t *testing.T) {
	dir, _, sum := sample(t)
	redirects := 0
	mux := http.NewServeMux()
	mux.HandleFunc("/body", func(w http.ResponseWriter, _ *http.Request) {
		for chunk := make([]byte, size/4); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/range", func(w http.ResponseWriter, _ *http.Request) { // chunked, so that no length contradicts the range
		w.Header().Set("Content-Range", "bytes 5-9/*")
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(make([]byte, size))
	})
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) {
		redirects++
		http.Redirect(w, r, "/redirect", http.StatusFound)
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	partial := filepath.Join(t.TempDir(), "p")
	length := func() int64 {
		info, err := os.Stat(partial)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}

	err := client().Fetch(t.Context(), Blob{Name: "file", Size: size, SHA256: sum, URLs: []string{server.URL + "/body"}}, partial, nil, nil)
	if !is[*SizeError](err) || length() > size {
		t.Errorf("a body without end: %d bytes, %v", length(), err)
	}
	if _, _, err := client().Get(t.Context(), []string{server.URL + "/body"}, size); !is[*SizeError](err) {
		t.Errorf("a document without end: %v", err)
	}

	if err := os.WriteFile(partial, make([]byte, 5), 0o666); err != nil {
		t.Fatal(err)
	}
	err = client().Fetch(t.Context(), Blob{Name: "file", Size: -1, SHA256: sum, URLs: []string{server.URL + "/range"}}, partial, nil, nil)
	if !is[*SizeError](err) || length() > 10 {
		t.Errorf("more than its own range: %d bytes, %v", length(), err)
	}

	_, _, err = client().Get(t.Context(), []string{server.URL + "/redirect", "file://" + dir + "/file"}, size)
	if err != nil || redirects != 10 {
		t.Errorf("%d redirects, %v", redirects, err)
	}
	_, _, err = client().Get(t.Context(), []string{server.URL + "/redirect"}, size)
	if !is[*NetworkError](err) || !strings.Contains(err.Error(), "it redirects without end") {
		t.Errorf("redirects without end: %v", err)
	}
}

// The context ends what waits for a slow server, whatever it waits for.
func TestSlowEnds(t *testing.T) {
	dir, _, sum := sample(t)
	for name, fault := range map[string]transfertest.Fault{
		"body": {Rate: 10}, "one range": {Rate: 10, Nth: 3}, "header": {Drip: true}, "wait": {Status: 503, After: "60"}, "stall": {Stall: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := transfertest.New(t, dir, fault)
			c := hurried()
			c.SlowWindow, c.MaxRetryAfter = time.Hour, time.Hour
			for what, wait := range map[string]func(context.Context) error{
				"fetch": func(ctx context.Context) error {
					return c.Fetch(ctx, Blob{Name: "file", Size: size, SHA256: sum, URLs: []string{s.URL + "/file"}}, filepath.Join(t.TempDir(), "p"), nil, nil)
				},
				"get": func(ctx context.Context) error {
					_, _, err := c.Get(ctx, []string{s.URL + "/file"}, size)
					return err
				},
			} {
				if fault.Nth > 0 && what == "get" {
					continue
				}
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(200*time.Millisecond, cancel)
				if err := wait(ctx); !errors.Is(err, context.Canceled) {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}
