package hfhub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/retry"
	"github.com/waqasm86/llcuda-farm/publisher"
	"github.com/waqasm86/llcuda-farm/publisher/hftest"
)

func TestRefused(t *testing.T) {
	hub := startHub(t)
	files := sample(t, 5)
	if _, err := newClient(hub, hftest.WriteToken).Publish(context.Background(), repo, these(files), Options{}); err != nil {
		t.Fatal(err)
	}
	other := sample(t, 6)
	for name, test := range map[string]struct {
		token, repo string
		files       []File
		settings    hftest.Settings
		want, way   string
	}{
		"no token":              {"", repo, other, settings, "401", "HF_TOKEN"},
		"unknown token":         {"hf_unknown", repo, other, settings, "Invalid credentials", "HF_TOKEN"},
		"token to read":         {hftest.ReadToken, repo, other, settings, "403", "right to write"},
		"another's new repo":    {hftest.ReadToken, "other/new", other, settings, "403", "right to write"},
		"left out":              {hftest.WriteToken, repo, other, hftest.Settings{LargeFrom: 1 << 20, Ignored: []string{"basic.gguf"}}, "leaves out basic.gguf", ".gitignore"},
		"card":                  {hftest.WriteToken, repo, []File{{Path: "README.md", Content: []byte("---\nlicense: homemade\n---\n")}}, settings, `must be one of`, "models.yaml"},
		"card that is not YAML": {hftest.WriteToken, repo, []File{{Path: "README.md", Content: []byte("---\nlicense: [mit\n---\n")}}, settings, "yaml", "models.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			hub.Set(test.settings)
			_, err := newClient(hub, test.token).Publish(context.Background(), test.repo, these(test.files), Options{})
			var refused *publisher.RefusedError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), test.want) || !strings.Contains(refused.Hint(), test.way) {
				t.Errorf("%v (%T), want it refused with %q and %q", err, err, test.want, test.way)
			}
			hub.Set(settings)
			mustHold(t, hub, files, 1)
		})
	}
	for _, f := range []File{{Path: "../x"}, {Path: "/x"}, {Path: "a//b"}, {Path: ".git/config"}, {Path: "a\nb"}, {Path: ""}, {Path: "x", SHA256: "00"}} {
		if _, err := newClient(hub, hftest.WriteToken).Publish(context.Background(), repo, these([]File{f}), Options{}); err == nil {
			t.Errorf("%q was published", f.Path)
		}
	}
	for _, name := range []string{"model", "a/b/c", "a/b--c", "../x", "a/b.git", "a/"} {
		if CheckRepo(name) == nil {
			t.Errorf("%q is taken for a repository", name)
		}
	}
}

// A job of GitHub Actions publishes without a secret, and continues after its token's hour is over.
func TestTrustedPublisher(t *testing.T) {
	hub := startHub(t)
	if _, err := newClient(hub, hftest.WriteToken).Publish(context.Background(), repo, these(nil), Options{}); err != nil {
		t.Fatal(err) // the repository must exist, with the publisher in its settings
	}
	trusting := settings
	trusting.Publishers = map[string]string{"id-token-1": repo, "id-token-2": repo}
	hub.Set(trusting)

	var mu sync.Mutex
	asked := 0
	runner := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Header.Get("Authorization") != "Bearer runner-key" || r.URL.Query().Get("audience") != "https://huggingface.co" || r.URL.Query().Get("api-version") != "2" {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		asked++
		json.NewEncoder(w).Encode(map[string]string{"value": fmt.Sprintf("id-token-%d", asked)})
	}))
	defer runner.Close()
	environment := map[string]string{"ACTIONS_ID_TOKEN_REQUEST_URL": runner.URL + "/token?api-version=2", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "runner-key"}

	client, files := newClient(hub, ""), sample(t, 9)
	source, ok := client.TrustedPublisher(func(name string) string { return environment[name] }, repo)
	if !ok {
		t.Fatal("no trusted publisher in a job of GitHub Actions")
	}
	client.Tokens = source
	hub.Fail(hftest.Fault{Stage: "verify", Do: "revoke"}) // the hour is over
	if _, err := client.Publish(context.Background(), repo, these(files), Options{}); err != nil {
		t.Fatal(err)
	}
	mustHold(t, hub, files, 1)
	if asked != 2 {
		t.Errorf("GitHub was asked %d times, want 2", asked)
	}

	// It writes to that repository and to no other.
	client.token = nil
	asked = 0
	var refused *publisher.RefusedError
	if _, err := client.Publish(context.Background(), "org/other", these(files), Options{}); !errors.As(err, &refused) {
		t.Errorf("another repository: %v", err)
	}
	// A repository that does not trust the job.
	stranger := newClient(hub, "")
	stranger.Tokens, _ = stranger.TrustedPublisher(func(name string) string { return map[string]string{"HF_OIDC_ID_TOKEN": "id-token-9"}[name] }, repo)
	if _, err := stranger.Publish(context.Background(), repo, these(files), Options{}); !errors.As(err, &refused) || !strings.Contains(refused.Hint(), "Trusted Publishers") {
		t.Errorf("a stranger's job: %v", err)
	}
	if _, ok := stranger.TrustedPublisher(func(string) string { return "" }, repo); ok {
		t.Error("a trusted publisher without an id token")
	}
}

// The Hub's own redirects, of repositories that were renamed, are followed with the token; those
// that lead elsewhere are not followed, and the token stays here.
func TestTokenStaysHome(t *testing.T) {
	for name, elsewhere := range map[string]bool{"another port": true, "the Hub itself": false} {
		t.Run(name, func(t *testing.T) {
			var leaked bool
			other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				leaked = leaked || r.Header.Get("Authorization") != ""
				fmt.Fprint(w, `{"sha":"1111111111111111111111111111111111111111"}`)
			}))
			defer other.Close()
			var seen []string
			hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				seen = append(seen, r.URL.Path+" "+r.Header.Get("Authorization"))
				if strings.Contains(r.URL.Path, "/old/") {
					to := "/api/models/new/name/revision/main"
					if elsewhere {
						to = other.URL + to
					}
					http.Redirect(w, r, to, http.StatusTemporaryRedirect)
					return
				}
				fmt.Fprint(w, `{"sha":"1111111111111111111111111111111111111111"}`)
			}))
			defer hub.Close()
			client := &Client{Endpoint: hub.URL + "/", Tokens: StaticToken("hf_secret"), FirstWait: 1}
			head, err := client.head(context.Background(), "old/name")
			if leaked {
				t.Error("the token went to another port")
			}
			if elsewhere {
				if err == nil || strings.Contains(err.Error(), "hf_secret") {
					t.Errorf("got %+v, %v", head, err)
				}
				return
			}
			if err != nil || head.Commit == "" || len(seen) != 2 || !strings.HasSuffix(seen[1], "Bearer hf_secret") {
				t.Errorf("%+v, %v, %q", head, err, seen)
			}
		})
	}
}

// An answer determines whether and when to try again.
func TestRefusalAsks(t *testing.T) {
	type asked struct {
		Temporary bool
		After     time.Duration
	}
	for _, test := range []struct {
		status int
		header map[string]string
		want   asked
	}{
		{429, map[string]string{"RateLimit": `"api";r=0;t=55`, "Retry-After": "7"}, asked{true, 55 * time.Second}},
		{503, map[string]string{"RateLimit": `"api";r=499;t=55`, "Retry-After": "7"}, asked{true, 7 * time.Second}},
		{503, map[string]string{"Date": "Fri, 01 Jan 2010 00:00:00 GMT", "Retry-After": "Fri, 01 Jan 2010 00:01:00 GMT"}, asked{true, time.Minute}},
		{408, nil, asked{true, 0}},
		{404, map[string]string{"Retry-After": "7"}, asked{}},
	} {
		header := http.Header{}
		for name, value := range test.header {
			header.Set(name, value)
		}
		err := refusal("x", &http.Response{StatusCode: test.status, Header: header}, nil)
		temporary, ok := errors.AsType[*retry.TemporaryError](err)
		got := asked{Temporary: ok}
		if ok {
			got.After = temporary.After
		}
		if diff := cmp.Diff(test.want, got); diff != "" || !isStatus(err, test.status) {
			t.Errorf("%d %v is %v (-want +got):\n%s", test.status, test.header, err, diff)
		}
	}
}

func TestErrorsNameNoSecret(t *testing.T) {
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "<Error><Message>no</Message></Error>", http.StatusBadRequest)
	}))
	defer storage.Close()
	client := &Client{Tries: 1}
	p := piece{file: memory{bytes.NewReader([]byte("x"))}, size: 1, meter: newMeter("x", 1, nil)}
	_, err := client.putOnce(context.Background(), p, storage.URL+"/object?X-Amz-Signature=secret", nil)
	if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), `"no"`) {
		t.Error(err)
	}
	storage.Close()
	_, err = client.putOnce(context.Background(), p, storage.URL+"/object?X-Amz-Signature=secret", nil)
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}
