package serve

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// hold listens on a free port, and answers every request with success, as another server would.
func hold(t *testing.T, address string) int {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { _ = http.Serve(l, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})) }()
	return l.Addr().(*net.TCPAddr).Port
}

// A port that is taken is not used, and a process that answers there is not mistaken for the server. This does not run
// in parallel with the other tests, whose servers want the usual port, too.
func TestPorts(t *testing.T) {
	s := server(t, "")
	s.Port = hold(t, "127.0.0.1:0")
	events, err := run(t, s, nil)
	var as *ExitError
	if !errors.As(err, &as) || as.Reason != ReasonPort || as.Code != nil || !strings.Contains(err.Error(), fmt.Sprintf("127.0.0.1:%d", s.Port)) {
		t.Errorf("%v", err)
	}
	if _, started := last[Starting](events); started || len(events) != 1 {
		t.Errorf("events %v", events)
	}

	// Another process takes the port after it was seen to be free.
	for name, port := range map[string]int{"any": 0, "one asked for": 0} {
		s := server(t, "late")
		if name != "any" {
			if s.Port, err = freePort("127.0.0.1", 0); err != nil {
				t.Fatal(err)
			}
		}
		var ports []int
		events, err := run(t, s, func(e Event, stop func()) {
			if starting, ok := e.(Starting); ok {
				if ports = append(ports, starting.Port); len(ports) == 1 {
					port = hold(t, fmt.Sprintf("127.0.0.1:%d", starting.Port))
				}
			}
			stopWhenReady(e, stop)
		})
		ready, isReady := last[Ready](events)
		if name == "any" {
			if err != nil || len(ports) != 2 || ports[0] == ports[1] || ready.URL != fmt.Sprintf("http://127.0.0.1:%d", ports[1]) {
				t.Errorf("%s: ports %v, %+v: %v", name, ports, ready, err)
			}
			continue
		}
		if !errors.As(err, &as) || as.Reason != ReasonPort || isReady || port != s.Port {
			t.Errorf("%s: ports %v, ready %v: %v", name, ports, isReady, err)
		}
	}
}

// A server that has ended listens nowhere, whichever process has its port now.
func TestEndedDoesNotListen(t *testing.T) {
	t.Parallel()
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	p, err := start("/bin/true", nil, nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	<-p.ended
	if p.listens(other.Addr().(*net.TCPAddr).Port) {
		t.Error("it is said to listen on the port of another")
	}
}

// Servers that start at once get a port each.
func TestAtOnce(t *testing.T) {
	t.Parallel()
	const servers = 4
	var mu sync.Mutex
	var group sync.WaitGroup
	urls := map[string]bool{}
	all := make(chan struct{})
	for range servers {
		group.Go(func() {
			if _, err := run(t, server(t, "late"), func(e Event, stop func()) {
				if ready, ok := e.(Ready); ok {
					mu.Lock()
					if urls[ready.URL] = true; len(urls) == servers {
						close(all)
					}
					mu.Unlock()
					select {
					case <-all:
					case <-time.After(20 * time.Second):
					}
					stop()
				}
			}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if len(urls) != servers {
		t.Errorf("ready at %v", urls)
	}
}

// A server is asked where it is, whatever its address is made of.
func TestAddress(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ host, prefix, key, want string }{
		{"0.0.0.0", "", "", "http://127.0.0.1:%d"},
		{"127.0.0.2", "", "", "http://127.0.0.2:%d"},
		{"localhost", "/llm", "", "http://localhost:%d/llm"},
		{"", "/llm", "secret", "http://127.0.0.1:%d/llm"},
	} {
		s := server(t, "")
		s.Host, s.Prefix, s.Key = test.host, test.prefix, test.key
		s.Environ = append(s.Environ, "LLCUDA_TEST_PREFIX="+test.prefix, "LLCUDA_TEST_KEY="+test.key)
		events, err := run(t, s, stopWhenReady)
		starting, _ := last[Starting](events)
		if ready, ok := last[Ready](events); err != nil || !ok || ready.URL != fmt.Sprintf(test.want, starting.Port) {
			t.Errorf("%s: %+v: %v", test.host, ready, err)
		}
	}
	if got := (Server{Host: "::"}).address(1); got != "http://[::1]:1" {
		t.Error(got)
	}
}
