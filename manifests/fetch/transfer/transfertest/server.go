// Package transfertest is a release server for tests: it serves a folder on the loopback interface and fails on demand.
//
// Tests of the packages that download call it. The input is a folder and a Fault; the output is a real HTTP server
// whose requests are counted. It never listens on another interface.
package transfertest

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Fault says what a server does wrong; the zero value is a good server.
type Fault struct {
	Times     int    // how many requests it spoils: 0 is all of them
	Nth       int    // the one request that it spoils, from 1 on: 0 is as Times says
	Status    int    // answers with it
	After     string // the Retry-After of Status
	Drop      int64  // cuts the connection after so many bytes of a body
	Stall     int64  // sends nothing more after so many bytes of a body
	NoRanges  bool   // answers every Range with 200 and all bytes
	LieRanges bool   // says in Content-Range what was not asked for
	Flip      bool   // serves other bytes of the same length
	Truncate  int64  // says that the file is so much shorter, in bytes
	Redirect  string // an address before the path, to which it sends
	Change    bool   // gives another ETag, and other bytes, to every request
	Rate      int64  // bytes a second of each body
	Drip      bool   // sends a header without end, a byte at a time
}

// A Server serves a folder.
type Server struct {
	URL string

	mu       sync.Mutex
	fault    Fault
	requests []*http.Request
	sent     int64
}

// New starts a server on 127.0.0.1, or on the host given, such as "127.0.0.2".
func New(t testing.TB, dir string, fault Fault, host ...string) *Server {
	t.Helper()
	s := &Server{fault: fault}
	at := "127.0.0.1"
	if len(host) > 0 {
		at = host[0]
	}
	l, err := net.Listen("tcp", at+":0")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, dir) }))
	server.Listener.Close()
	server.Listener = l
	server.Start()
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	s.URL = server.URL
	return s
}

// Requests are the requests so far.
func (s *Server) Requests() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*http.Request(nil), s.requests...)
}

// Sent is how many bytes of bodies were written so far.
func (s *Server) Sent() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request, dir string) {
	s.mu.Lock()
	s.requests = append(s.requests, r)
	count, fault := len(s.requests), s.fault
	s.mu.Unlock()
	if fault.Times > 0 && count > fault.Times || fault.Nth > 0 && count != fault.Nth {
		fault = Fault{NoRanges: fault.NoRanges}
	}
	switch {
	case fault.Drip:
		drip(w)
		return
	case fault.Redirect != "":
		http.Redirect(w, r, fault.Redirect+r.URL.Path, http.StatusFound)
		return
	case fault.Status != 0:
		if fault.After != "" {
			w.Header().Set("Retry-After", fault.After)
		}
		w.WriteHeader(fault.Status)
		return
	}
	data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(filepath.Clean("/"+r.URL.Path))))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	etag := `"good"`
	if fault.Flip || fault.Change && count > 1 {
		for i := range data {
			data[i] ^= 0xff
		}
	}
	if fault.Change {
		etag = fmt.Sprintf(`"%d"`, count)
	}
	data = data[:int64(len(data))-fault.Truncate]
	w.Header().Set("ETag", etag)
	from, to, size := int64(0), int64(len(data))-1, int64(len(data))
	status := http.StatusOK
	if span, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok && !fault.NoRanges {
		if condition := r.Header.Get("If-Range"); condition == "" || condition == etag {
			if n, _ := fmt.Sscanf(span, "%d-%d", &from, &to); n < 1 || from >= size {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", size))
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return
			}
			to = min(to, size-1)
			status = http.StatusPartialContent
			shown := from
			if fault.LieRanges {
				shown++
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", shown, to, size))
		}
	}
	w.Header().Set("Content-Length", fmt.Sprint(to-from+1))
	w.WriteHeader(status)
	body := data[from : to+1]
	cut := max(fault.Drop, fault.Stall)
	if cut > 0 && int64(len(body)) > cut {
		body = body[:cut]
	}
	n := 0
	if fault.Rate > 0 {
		n = s.trickle(w, body, fault.Rate)
	} else {
		n = s.write(w, body)
	}
	if int64(n) < to-from+1 {
		w.(http.Flusher).Flush()
		if fault.Stall > 0 {
			<-r.Context().Done()
		}
		panic(http.ErrAbortHandler)
	}
}

// write writes a part of a body. A client that hangs up is not the server's fault.
//
// The bytes count as sent before they are, less what the client did not take: it may have them all
// and be done before the server's Write returns.
func (s *Server) write(w http.ResponseWriter, part []byte) int {
	s.count(len(part))
	n, _ := w.Write(part)
	s.count(n - len(part))
	return n
}

func (s *Server) count(bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent += int64(bytes)
}

// trickle writes a body at a rate, in bytes a second, until the client hangs up.
func (s *Server) trickle(w http.ResponseWriter, body []byte, rate int64) (written int) {
	const most = 100 // writes a second
	pause := max(time.Second/most, time.Second/time.Duration(rate))
	step := int(max(rate/most, 1))
	for len(body) > 0 {
		part := body[:min(step, len(body))]
		n := s.write(w, part)
		written, body = written+n, body[n:]
		if n < len(part) || http.NewResponseController(w).Flush() != nil {
			break
		}
		time.Sleep(pause)
	}
	return written
}

// drip sends a header that does not end, until the client hangs up.
func drip(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	for rest := "HTTP/1.1 200 OK\r\nX: "; ; rest = "x" {
		if _, err := conn.Write([]byte(rest)); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
