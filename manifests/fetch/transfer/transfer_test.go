package transfer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer/transfertest"
)

const size = 1 << 20

// sample is a folder with a file, and what the file holds.
func sample(t testing.TB) (dir string, data []byte, sum string) {
	t.Helper()
	dir, data = t.TempDir(), make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	if err := os.WriteFile(filepath.Join(dir, "file"), data, 0o666); err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(data)
	return dir, data, hex.EncodeToString(digest[:])
}

func client() *Client {
	return &Client{RangeSize: size / 8, Tries: 3, FirstWait: time.Millisecond, MaxRetryAfter: time.Millisecond, StallTimeout: 300 * time.Millisecond}
}

func is[T error](err error) bool {
	var as T
	return errors.As(err, &as)
}

type mirrors = []transfertest.Fault

// Every fault of a server, and what comes of it: the file, or an error and what is left; and how
// many bytes were sent for it.
func TestFetch(t *testing.T) {
	network, digest := is[*NetworkError], is[*DigestError]
	for name, test := range map[string]struct {
		mirrors mirrors
		streams int
		there   int   // bytes of an earlier run
		spoiled bool  // and they are wrong
		sent    int64 // bytes, at most; 0 is not claimed
		check   func(error) bool
		left    bool // of a failure: the partial file
	}{
		"good":                        {mirrors: mirrors{{}}, sent: size},
		"good, single stream":         {mirrors: mirrors{{}}, streams: 1, sent: size},
		"resumed":                     {mirrors: mirrors{{}}, there: size / 2, sent: size / 2},
		"resumed, single stream":      {mirrors: mirrors{{}}, streams: 1, there: size / 2, sent: size / 2},
		"whole already":               {mirrors: mirrors{{Status: 500}}, there: size},
		"earlier run wrong":           {mirrors: mirrors{{}}, there: size / 2, spoiled: true, sent: size * 3 / 2},
		"earlier run wrong, no range": {mirrors: mirrors{{NoRanges: true}}, there: size / 2, spoiled: true},
		"no ranges":                   {mirrors: mirrors{{NoRanges: true}}, sent: size},
		"no ranges, resumed":          {mirrors: mirrors{{NoRanges: true}}, there: 1000, sent: size},
		"dropped":                     {mirrors: mirrors{{Drop: 100000, Times: 3}}, streams: 1, sent: size},
		"dropped, parallel":           {mirrors: mirrors{{Drop: 100000, Times: 1}}, sent: size + 3*size/8},
		"dropped always":              {mirrors: mirrors{{Drop: 100000}}, streams: 1, sent: size},
		"stalled":                     {mirrors: mirrors{{Stall: 100000, Times: 1}}, streams: 1, sent: size},
		"next mirror, same byte":      {mirrors: mirrors{{Drop: 100000, Times: 1, NoRanges: true}, {}}, sent: 2 * size},
		"busy":                        {mirrors: mirrors{{Status: 429, After: "7200", Times: 1}}, sent: size},
		"unavailable":                 {mirrors: mirrors{{Status: 503, After: "Fri, 31 Dec 2100 23:59:59 GMT", Times: 2}}, sent: size},
		"not there, next":             {mirrors: mirrors{{Status: 404}, {Status: 403}, {}}, sent: size},
		"lies about ranges, next":     {mirrors: mirrors{{LieRanges: true}, {}}},
		"lies about ranges":           {mirrors: mirrors{{LieRanges: true}}, check: is[*RangeError], left: true},
		"wrong bytes":                 {mirrors: mirrors{{Flip: true}}, sent: size, check: digest},
		"wrong bytes, next":           {mirrors: mirrors{{Flip: true}, {}}, sent: 2 * size},
		"wrong bytes, other down":     {mirrors: mirrors{{Flip: true}, {Status: 404}}, check: digest},
		"changes":                     {mirrors: mirrors{{Change: true}}, check: func(err error) bool { return network(err) || digest(err) }, left: true},
		"changes, next":               {mirrors: mirrors{{Change: true}, {}}},
		"shorter":                     {mirrors: mirrors{{Truncate: 1}}, streams: 1, check: is[*SizeError], left: true},
		"shorter, in ranges":          {mirrors: mirrors{{Truncate: 1}}, check: is[*SizeError], left: true},
		"always down":                 {mirrors: mirrors{{Status: 500}, {Status: 404}}, check: network, left: true},
		"none":                        {check: network, left: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir, data, sum := sample(t)
			blob := Blob{Name: "file", Size: size, SHA256: sum}
			var servers []*transfertest.Server
			for _, fault := range test.mirrors {
				s := transfertest.New(t, dir, fault)
				servers = append(servers, s)
				blob.URLs = append(blob.URLs, s.URL+"/file")
			}
			partial := filepath.Join(t.TempDir(), "file.partial")
			if test.there > 0 {
				there := bytes.Clone(data[:test.there])
				if test.spoiled {
					there[5]++
				}
				if err := os.WriteFile(partial, there, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			c := client()
			c.Streams = test.streams
			var followed []byte
			var last Progress
			err := c.Fetch(t.Context(), blob, partial, func(r io.Reader) error {
				var err error
				followed, err = io.ReadAll(r)
				return err
			}, func(p Progress) { last = p })
			if test.check != nil {
				if err == nil || !test.check(err) {
					t.Errorf("error %v is not the one wanted", err)
				}
				if _, err := os.Stat(partial); !test.spoiled && !test.left && err == nil {
					t.Error("the bad partial file is still there")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(partial)
			if err != nil || !bytes.Equal(got, data) || !bytes.Equal(followed, data) {
				t.Errorf("the file or what followed is wrong: %d and %d bytes, %v", len(got), len(followed), err)
			}
			last.Source = ""
			from := int64(test.there)
			if test.spoiled { // and thrown away
				from = 0
			}
			if diff := cmp.Diff(Progress{Name: "file", Done: size, Total: size, From: from}, last); diff != "" {
				t.Errorf("last progress (-want +got):\n%s", diff)
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

// A token stays with the host it is for.
func TestFetchRedirect(t *testing.T) {
	dir, _, sum := sample(t)
	far := transfertest.New(t, dir, transfertest.Fault{}, "127.0.0.2")
	near := transfertest.New(t, dir, transfertest.Fault{Redirect: far.URL})
	header := http.Header{"Authorization": {"Bearer x"}, "X-Token": {"x"}}
	err := client().Fetch(t.Context(), Blob{Name: "file", Size: size, SHA256: sum, URLs: []string{near.URL + "/file"}, Header: header},
		filepath.Join(t.TempDir(), "p"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range near.Requests() {
		if r.Header.Get("X-Token") == "" || r.Header.Get("Authorization") == "" {
			t.Error("the header did not reach its host")
		}
	}
	for _, r := range far.Requests() {
		if r.Header.Get("X-Token")+r.Header.Get("Authorization")+r.Header.Get("Referer") != "" {
			t.Errorf("leaked: %v", r.Header)
		}
	}
}

func TestFetchFile(t *testing.T) {
	dir, _, sum := sample(t)
	blob := Blob{Name: "file", Size: -1, SHA256: sum, URLs: []string{"file://" + dir, "file://" + dir + "/file"}}
	if err := client().Fetch(t.Context(), blob, filepath.Join(t.TempDir(), "p"), nil, nil); err != nil {
		t.Error(err)
	}
	blob.Size, blob.URLs = 1<<60, nil
	if err := client().Fetch(t.Context(), blob, filepath.Join(t.TempDir(), "p"), nil, nil); !is[*SpaceError](err) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
}

// The follower's error and the context's end a transfer that hangs.
func TestFetchEnds(t *testing.T) {
	dir, _, sum := sample(t)
	s := transfertest.New(t, dir, transfertest.Fault{Stall: 1000})
	c := client()
	c.StallTimeout = time.Hour
	blob := Blob{Name: "file", Size: size, SHA256: sum, URLs: []string{s.URL + "/file"}}
	full := errors.New("no more")
	err := c.Fetch(t.Context(), blob, filepath.Join(t.TempDir(), "p"), func(r io.Reader) error {
		_, _ = io.ReadFull(r, make([]byte, 10))
		return full
	}, nil)
	if !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := c.Fetch(ctx, blob, filepath.Join(t.TempDir(), "p"), nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestGet(t *testing.T) {
	dir, data, _ := sample(t)
	bad, good := transfertest.New(t, dir, transfertest.Fault{Status: 404}), transfertest.New(t, dir, transfertest.Fault{Status: 503, Times: 1})
	urls := []string{bad.URL + "/file", good.URL + "/file"}
	got, from, err := client().Get(t.Context(), urls, size)
	if err != nil || !bytes.Equal(got, data) || from != urls[1] {
		t.Errorf("got %d bytes from %q, %v", len(got), from, err)
	}
	if _, _, err := client().Get(t.Context(), urls, size-1); !is[*NetworkError](err) || !strings.Contains(err.Error(), "more than") {
		t.Errorf("got %v", err)
	}
}

// A host name that does not resolve, and a proxy that wants a password, are answers: waiting
// changes neither.
func TestGetEndsAtOnce(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusProxyAuthRequired) }))
	defer proxy.Close()
	through, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	tries := 0
	count := func(err error) func(context.Context, string, string) (net.Conn, error) {
		return func(ctx context.Context, network, address string) (net.Conn, error) {
			if tries++; err != nil {
				return nil, err
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		}
	}
	for _, test := range []struct {
		name      string
		transport *http.Transport
		tries     int
	}{
		{"no such name", &http.Transport{DialContext: count(&net.DNSError{Name: "mirror", IsNotFound: true})}, 1},
		{"a name server that does not answer", &http.Transport{DialContext: count(&net.DNSError{Name: "mirror", IsTimeout: true})}, 3},
		{"a proxy that wants a password", &http.Transport{DialContext: count(nil), Proxy: http.ProxyURL(through)}, 1},
		{"a server that refuses", &http.Transport{DialContext: count(errors.New("refused"))}, 3},
	} {
		tries = 0
		c := client()
		c.HTTP, c.Tries = &http.Client{Transport: test.transport}, 3
		if _, _, err := c.Get(t.Context(), []string{"https://mirror/x"}, size); !is[*NetworkError](err) || tries != test.tries {
			t.Errorf("%s: %d tries, want %d: %v", test.name, tries, test.tries, err)
		}
	}
}

// TestMain is also the process that TestFetchKilled kills.
func TestMain(m *testing.M) {
	if address := os.Getenv("TRANSFER_URL"); address != "" {
		c := client()
		err := c.Fetch(context.Background(), Blob{Name: "file", Size: size, SHA256: os.Getenv("TRANSFER_SUM"), URLs: []string{address}},
			os.Getenv("TRANSFER_PARTIAL"), nil, nil)
		if err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Whenever a process is killed, the next one resumes from a prefix.
func TestFetchKilled(t *testing.T) {
	dir, data, sum := sample(t)
	s := transfertest.New(t, dir, transfertest.Fault{})
	partial := filepath.Join(t.TempDir(), "p")
	for i := range 20 {
		if i%4 == 0 {
			_ = os.Remove(partial)
		}
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), "TRANSFER_URL="+s.URL+"/file", "TRANSFER_SUM="+sum, "TRANSFER_PARTIAL="+partial)
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(rand.N(40 * time.Millisecond))
		_ = child.Process.Kill()
		_ = child.Wait()
		got, err := os.ReadFile(partial)
		if err != nil && !os.IsNotExist(err) || !bytes.HasPrefix(data, got) {
			t.Fatalf("after a kill %d bytes are not prefix: %v", len(got), err)
		}
	}
	if err := client().Fetch(t.Context(), Blob{Name: "file", Size: size, SHA256: sum, URLs: []string{s.URL + "/file"}}, partial, nil, nil); err != nil {
		t.Fatal(err)
	}
}

// Several processes with one partial file wait for each other, and the bytes come once.
func TestFetchTogether(t *testing.T) {
	dir, data, sum := sample(t)
	s := transfertest.New(t, dir, transfertest.Fault{})
	partial := filepath.Join(t.TempDir(), "p")
	failed := make(chan error)
	for range 3 {
		go func() {
			child := exec.Command(os.Args[0])
			child.Env = append(os.Environ(), "TRANSFER_URL="+s.URL+"/file", "TRANSFER_SUM="+sum, "TRANSFER_PARTIAL="+partial)
			failed <- child.Run()
		}()
	}
	for range 3 {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	if got, err := os.ReadFile(partial); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came, %v", len(got), err)
	}
	if s.Sent() != size {
		t.Errorf("%d bytes were sent, not %d", s.Sent(), size)
	}
}

// A body longer than the blob and a redirect from https to http are refused.
func TestFetchRefuses(t *testing.T) {
	dir, _, sum := sample(t)
	plain := transfertest.New(t, dir, transfertest.Fault{NoRanges: true})
	secure := httptest.NewTLSServer(http.RedirectHandler(plain.URL+"/file", http.StatusFound))
	defer secure.Close()
	c := client()
	c.HTTP = secure.Client()
	blob := Blob{Name: "file", Size: size, SHA256: sum, URLs: []string{secure.URL}}
	if err := c.Fetch(t.Context(), blob, filepath.Join(t.TempDir(), "p"), nil, nil); !errors.Is(err, errInsecure) {
		t.Errorf("got %v", err)
	}
	if n := len(plain.Requests()); n != 0 {
		t.Errorf("%d requests went out in the clear", n)
	}
	blob.Size, blob.URLs = size-1, []string{plain.URL + "/file"}
	if err := c.Fetch(t.Context(), blob, filepath.Join(t.TempDir(), "p"), nil, nil); !is[*NetworkError](err) {
		t.Errorf("got %v", err)
	}
}
