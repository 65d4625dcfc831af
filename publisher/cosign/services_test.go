package cosign_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/publisher/cosign"
	"github.com/waqasm86/llcuda-farm/publisher/cosigntest"
)

// nowhere is an address where nothing listens.
const nowhere = "http://127.0.0.1:1"

func TestServices(t *testing.T) {
	t.Parallel()
	stack := cosigntest.Start(t)
	for _, test := range []struct {
		name   string
		other  map[string]string
		logs   []string
		missed int
		want   string // the error
	}{
		{"the first log alone", map[string]string{stack.RekorV2: ""}, []string{stack.RekorV1}, 0, ""},
		{"the second log alone", map[string]string{stack.RekorV1: ""}, []string{stack.RekorV2}, 0, ""},
		{"the first log without timestamps", map[string]string{stack.RekorV2: "", stack.TSA: ""}, []string{stack.RekorV1}, 0, ""},
		{"one log down", map[string]string{stack.RekorV1: nowhere}, []string{stack.RekorV2}, 1, ""},
		{"both logs down", map[string]string{stack.RekorV1: nowhere, stack.RekorV2: nowhere}, nil, 0, "asking the transparency log: "},
		{"Fulcio down", map[string]string{stack.Fulcio: nowhere}, nil, 0, "asking the certificate authority: "},
		{"timestamps down", map[string]string{stack.TSA: nowhere}, nil, 0, "asking the timestamp authority: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			signer := cosign.Keyless(parse(t, stack.Token(t, cosigntest.Workflow{})), services(t, stack.Config(t, test.other)))
			signature, err := signer.SignFile(t.Context(), sums)
			if test.want != "" {
				var failed *cosign.ServiceError
				if !errors.As(err, &failed) || !strings.Contains(err.Error(), test.want) || len(signature.Bundle) > 0 {
					t.Errorf("got %q, %v", signature.Bundle, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.logs, signature.Logs); diff != "" || len(signature.Missed) != test.missed {
				t.Errorf("logs (-want +got):\n%smissed: %v", diff, signature.Missed)
			}
			_, err = verify(t, production(t, stack), sums, signature.Bundle)
			wantProblem(t, err, "")
		})
	}
	for name, other := range map[string]map[string]string{
		"no log":                         {stack.RekorV1: "", stack.RekorV2: ""},
		"the second log without its TSA": {stack.TSA: ""},
		"no certificate authority":       {stack.Fulcio: ""},
	} {
		if found, err := cosign.ReadServices(cosigntest.Read(t, stack.Config(t, other)), time.Now()); err == nil {
			t.Errorf("%s: got %+v", name, found)
		}
	}
	if _, err := cosign.ReadServices(cosigntest.Read(t, stack.SigningConfig), time.Now().Add(-time.Hour)); err == nil {
		t.Error("services were found before they were in service")
	}
}

// The services of the public Sigstore are those that clients know: each stands in the trusted root of sigverify.
func TestPublicServices(t *testing.T) {
	if _, err := cosign.ReadServices(nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	root := string(cosigntest.Read(t, "../../manifests/sigverify/trusted_root.json"))
	var config map[string]any
	if err := json.Unmarshal(cosigntest.Read(t, "signing_config.json"), &config); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"caUrls", "rekorTlogUrls", "tsaUrls"} {
		for _, service := range config[kind].([]any) {
			if url := service.(map[string]any)["url"].(string); !strings.Contains(root, `"`+url+`"`) {
				t.Errorf("%s: %s is not in the trusted root", kind, url)
			}
		}
	}
}

// front is a way to a service on which something goes wrong, some times.
func front(t *testing.T, to string, wrong func(n int32, w http.ResponseWriter, r *http.Request, proxy http.Handler)) (string, *atomic.Int32) {
	t.Helper()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wrong(asked.Add(1), w, r, proxy)
	}))
	t.Cleanup(server.Close)
	return server.URL, &asked
}

func TestTrouble(t *testing.T) {
	t.Parallel()
	stack := cosigntest.Start(t)
	// The first time the answer is lost, after the service did its part.
	lose := func(n int32, w http.ResponseWriter, r *http.Request, proxy http.Handler) {
		if n == 1 {
			proxy.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r)
	}
	busy := func(n int32, w http.ResponseWriter, r *http.Request, proxy http.Handler) {
		switch n {
		case 1:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		case 2:
			w.WriteHeader(http.StatusBadGateway)
		default:
			proxy.ServeHTTP(w, r)
		}
	}
	for _, test := range []struct {
		name, service string
		wrong         func(int32, http.ResponseWriter, *http.Request, http.Handler)
		asked         int32
	}{
		{"Fulcio's answer is lost", stack.Fulcio, lose, 2},
		{"Fulcio is busy", stack.Fulcio, busy, 3},
		{"the timestamp is lost", stack.TSA, lose, 2},
		{"timestamps are busy", stack.TSA, busy, 3},
		{"the first log's answer is lost", stack.RekorV1, lose, 3}, // the entry is there, and is fetched
		{"the first log is busy", stack.RekorV1, busy, 3},
		{"the second log's answer is lost", stack.RekorV2, lose, 3}, // the entry is there: another signature
		{"the second log is busy", stack.RekorV2, busy, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			url, asked := front(t, test.service, test.wrong)
			signature := signed(t, stack, stack.Config(t, map[string]string{test.service: url}), cosigntest.Workflow{})
			if asked.Load() != test.asked || len(signature.Logs) != 2 {
				t.Errorf("asked %d times, want %d; in the logs %q", asked.Load(), test.asked, signature.Logs)
			}
			_, err := verify(t, production(t, stack), sums, signature.Bundle)
			wantProblem(t, err, "")
		})
	}
	t.Run("a service that stalls is left when the user says so", func(t *testing.T) {
		t.Parallel()
		url, _ := front(t, stack.Fulcio, func(_ int32, _ http.ResponseWriter, r *http.Request, _ http.Handler) {
			io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		signer := cosign.Keyless(parse(t, stack.Token(t, cosigntest.Workflow{})), services(t, stack.Config(t, map[string]string{stack.Fulcio: url})))
		if _, err := signer.SignFile(ctx, sums); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}
