package hfhub

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/retry"
	"github.com/waqasm86/llcuda-farm/publisher"
	"github.com/waqasm86/llcuda-farm/publisher/hftest"
)

const repo = "org/models"

// Files of the three ways to the Hub: in the commit, to the storage, to the storage in parts.
const (
	smallSize = 300
	basicSize = 20_000
	partsSize = 150_001
)

var settings = hftest.Settings{LargeFrom: 10_000, PartsFrom: 100_000, PartSize: 40_000}

func startHub(t testing.TB) *hftest.Hub {
	hub := hftest.Start(t)
	hub.Set(settings)
	return hub
}

func newClient(hub *hftest.Hub, token string) *Client {
	return &Client{Endpoint: hub.URL, Tokens: StaticToken(token), FirstWait: time.Millisecond, Stall: 20 * time.Second}
}

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return b
}

// sample is one file of each kind.
func sample(t testing.TB, seed byte) []File {
	t.Helper()
	folder := t.TempDir()
	files := []File{{Path: "README.md", Content: fmt.Appendf(nil, "---\nlicense: mit\n---\n# Sample %d\n", seed)}}
	for name, size := range map[string]int{"folder/small.txt": smallSize, "basic.gguf": basicSize, "parts.gguf": partsSize} {
		local := filepath.Join(folder, filepath.Base(name))
		if err := os.WriteFile(local, noise(seed, size), 0o644); err != nil {
			t.Fatal(err)
		}
		files = append(files, File{Path: name, Local: local})
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return files
}

func these(files []File) BuildFunc {
	return func(context.Context, *Head) ([]File, error) { return files, nil }
}

// listed is what the Hub must have of files.
func listed(t testing.TB, files []File) map[string]hftest.Listed {
	t.Helper()
	want := map[string]hftest.Listed{}
	for _, f := range files {
		content := f.Content
		if f.Local != "" {
			var err error
			if content, err = os.ReadFile(f.Local); err != nil {
				t.Fatal(err)
			}
		}
		sum := sha256.Sum256(content)
		want[f.Path] = hftest.Listed{Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:]), Large: len(content) >= 10_000}
	}
	return want
}

// mustHold asserts the final state: these files, whole, nothing else, in so many commits after the
// Hub's first.
func mustHold(t testing.TB, hub *hftest.Hub, files []File, commits int) {
	t.Helper()
	got, count := hub.Files(repo)
	if diff := cmp.Diff(listed(t, files), got); diff != "" {
		t.Errorf("what the repository holds (-want +got):\n%s", diff)
	}
	if count != commits+1 {
		t.Errorf("%d commits, want %d and the first", count, commits)
	}
}

func count(log []hftest.Request) map[string]int {
	stages := map[string]int{}
	for _, r := range log {
		stages[r.Stage]++
	}
	return stages
}

func TestPublish(t *testing.T) {
	hub := startHub(t)
	client, files := newClient(hub, hftest.WriteToken), sample(t, 1)

	head, err := client.Head(context.Background(), repo)
	if err != nil || head.Commit != "" {
		t.Errorf("the head of what does not exist is %+v, %v", head, err)
	}
	hub.Take()

	var mu sync.Mutex
	progress := map[string][]publisher.Progress{}
	result, err := client.Publish(context.Background(), repo, these(files), Options{Message: "Publish the sample", Progress: func(p publisher.Progress) {
		mu.Lock()
		defer mu.Unlock()
		progress[p.Name] = append(progress[p.Name], p)
	}})
	if err != nil {
		t.Fatal(err)
	}
	mustHold(t, hub, files, 1)
	if !result.Created || result.Commit != hub.Head(repo) || result.Sent != basicSize+partsSize || len(result.Missing()) != len(files) {
		t.Errorf("the result is %+v", result)
	}
	for name, size := range map[string]int64{"basic.gguf": basicSize, "parts.gguf": partsSize} {
		if list := progress[name]; len(list) == 0 || list[len(list)-1] != (publisher.Progress{Name: name, Done: size, Total: size}) {
			t.Errorf("progress of %s: %+v", name, list)
		}
	}
	log := hub.Take()
	want := map[string]int{"create": 1, "validate": 1, "preupload": 1, "batch": 1, "put": 1, "part": 4, "complete": 1, "verify": 2, "commit": 1}
	got := count(log)
	for _, stage := range []string{"revision", "paths-info", "tree", "commits", "resolve", "download"} { // those that read
		delete(got, stage)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	for _, r := range log {
		if r.Token && slices.Contains([]string{"put", "part", "download"}, r.Stage) {
			t.Errorf("a token went to the storage: %+v", r)
		}
	}

	t.Run("again", func(t *testing.T) {
		again, err := newClient(hub, hftest.WriteToken).Publish(context.Background(), repo, these(files), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if again.Commit != result.Commit || len(again.Missing()) > 0 || again.Sent != 0 {
			t.Errorf("the result is %+v", again)
		}
		if diff := cmp.Diff(map[string]int{"revision": 1, "paths-info": 1}, count(hub.Take())); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
		mustHold(t, hub, files, 1)
	})

	t.Run("the same bytes under another name", func(t *testing.T) {
		moved := slices.Clone(files)
		for i := range moved {
			if moved[i].Path == "parts.gguf" {
				moved = append(moved, File{Path: "copy.gguf", Local: moved[i].Local})
			}
		}
		hub.Take()
		result, err := client.Publish(context.Background(), repo, these(moved), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if n := count(hub.Take()); result.Sent != 0 || n["put"]+n["part"] != 0 || n["commit"] != 1 {
			t.Errorf("%d bytes sent, requests %v", result.Sent, n)
		}
		mustHold(t, hub, moved, 2)
	})

	t.Run("one file changed", func(t *testing.T) {
		changed := sample(t, 1)
		for _, f := range changed {
			if f.Path == "basic.gguf" {
				if err := os.WriteFile(f.Local, noise(2, basicSize), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		result, err := client.Publish(context.Background(), repo, these(changed), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if missing := result.Missing(); len(missing) != 1 || missing[0].Path != "basic.gguf" || result.Sent != basicSize {
			t.Errorf("the result is %+v", result)
		}
	})
}

// The official client reads what ours wrote: the list, the bytes, and the card.
func TestOfficialClientReads(t *testing.T) {
	hub, official := startHub(t), hftest.NewOfficial(t)
	files := sample(t, 3)
	if _, err := newClient(hub, hftest.WriteToken).Publish(context.Background(), repo, these(files), Options{Private: true}); err != nil {
		t.Fatal(err)
	}
	var list map[string]struct {
		Size  int64
		OID   string
		Large bool
	}
	official.Do(hftest.Deed{Do: "list", Hub: hub.URL, Token: hftest.WriteToken, Repo: repo}, &list)
	delete(list, ".gitattributes")
	for path, want := range listed(t, files) {
		got := list[path]
		if got.Size != want.Size || got.Large != want.Large || got.Large && got.OID != want.SHA256 {
			t.Errorf("%s is listed as %+v, want %+v", path, got, want)
		}
		to := filepath.Join(t.TempDir(), "back")
		official.Do(hftest.Deed{Do: "download", Hub: hub.URL, Token: hftest.WriteToken, Repo: repo, Path: path, To: to}, nil)
		data, err := os.ReadFile(to)
		if sum := sha256.Sum256(data); err != nil || hex.EncodeToString(sum[:]) != want.SHA256 {
			t.Errorf("%s came back with %d bytes, %v", path, len(data), err)
		}
	}
	if len(list) != len(files) {
		t.Errorf("%d files are listed, want %d", len(list), len(files))
	}
	// Private is private.
	var failed *hftest.OfficialError
	if err := official.Try(hftest.Deed{Do: "list", Hub: hub.URL, Repo: repo}, nil); !errors.As(err, &failed) || failed.Status != http.StatusUnauthorized {
		t.Errorf("anonymously: %v", err)
	}
}

// Whatever goes wrong at whatever stage: the publication ends well by itself, or stops, and the
// same call again ends well. Every case asserts the final state: each file once and whole, in one
// commit, and no large file sent again that had arrived.
func TestFaults(t *testing.T) {
	limit := map[string]string{"RateLimit": `"api";r=0;t=0`, "Retry-After": "7200"}
	var cases []struct {
		name   string
		faults []hftest.Fault
		// stops says that the first call fails.
		stops bool
		// resent is how many bytes may arrive twice. What did not arrive does not count.
		resent int64
	}
	add := func(name string, stops bool, resent int64, faults ...hftest.Fault) {
		cases = append(cases, struct {
			name   string
			faults []hftest.Fault
			stops  bool
			resent int64
		}{name, faults, stops, resent})
	}
	// After a failure to join them, parts are worth nothing.
	resent := map[string]int64{"complete": partsSize}
	for _, stage := range []string{"revision", "create", "validate", "preupload", "batch", "put", "part", "complete", "verify", "commit"} {
		again := resent[stage]
		add("connection dropped at "+stage, false, again, hftest.Fault{Stage: stage, Do: "drop"})
		add("connection dropped in the middle of "+stage, false, again, hftest.Fault{Stage: stage, Do: "drop", Bytes: 100})
		add("answer lost at "+stage, false, again, hftest.Fault{Stage: stage, Do: "drop-after"})
		add("503 at "+stage, false, 2*again, hftest.Fault{Stage: stage, Do: "status", Status: 503, Count: 2})
		add("500 after "+stage+" was carried out", false, again, hftest.Fault{Stage: stage, Do: "status-after", Status: 500})
		add("429 at "+stage, false, again, hftest.Fault{Stage: stage, Do: "status", Status: 429, Header: limit})
		if slices.Contains([]string{"batch", "put", "part", "complete", "commit"}, stage) { // one for each way to notice it
			add("stalled at "+stage, false, 3*again, hftest.Fault{Stage: stage, Do: "stall", Bytes: 10})
		}
		// What is on its way in parts when another file fails is sent again.
		add("down for good at "+stage, true, partsSize+5*again, hftest.Fault{Stage: stage, Do: "drop", Count: -1})
	}
	add("paths-info dropped", false, 0, hftest.Fault{Stage: "paths-info", Do: "drop"})
	add("conflicting operation", false, 0, hftest.Fault{Stage: "create", Do: "status", Status: 409, Body: `{"error":"Conflict: another conflicting operation is in progress. Please try again."}`})
	add("made by somebody else meanwhile", false, 0, hftest.Fault{Stage: "create", Do: "status-after", Status: 409, Body: `{"error":"You already created this model repo"}`})
	add("address expired", false, 0, hftest.Fault{Stage: "put", Do: "expire"})
	add("part's address expired", false, partsSize, hftest.Fault{Stage: "part", Do: "expire", Skip: 2})
	add("all parts' addresses expired", false, 2*partsSize, hftest.Fault{Stage: "part", Do: "expire", Count: 4})
	add("stale parent", false, 0, hftest.Fault{Stage: "commit", Do: "overtake"})
	add("stale parent three times", false, 0, hftest.Fault{Stage: "commit", Do: "overtake", Count: 3})
	for _, stage := range []string{"preupload", "batch", "verify", "commit"} {
		add("token expired before "+stage, true, map[string]int64{"verify": partsSize}[stage], hftest.Fault{Stage: stage, Do: "revoke"})
	}

	hub := startHub(t)
	for i, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			repo := fmt.Sprintf("org/case-%d", i)
			hub.Set(settings)
			files := sample(t, byte(i)) // other bytes: the storage knows the last case's
			publish := func() (Result, error) {
				client := newClient(hub, hftest.WriteToken)
				if strings.HasPrefix(test.name, "stalled") {
					client.Stall = 500 * time.Millisecond // a busy machine may take as long for a good answer
				}
				return client.Publish(context.Background(), repo, these(files), Options{})
			}
			hub.Take()
			hub.Fail(test.faults...)
			result, err := publish()
			sent := int64(0)
			if test.stops {
				if err == nil {
					t.Fatal("the first call did not stop")
				}
				var refused *publisher.RefusedError
				if strings.HasPrefix(test.name, "token") && (!errors.As(err, &refused) || !strings.Contains(refused.Hint(), "HF_TOKEN")) {
					t.Errorf("%v is not refused with a way out", err)
				}
				hub.Fail()
				hub.Set(settings) // the token is good again
				result, err = publish()
			}
			if err != nil {
				t.Fatal(err)
			}
			if left := hub.Unspent(); len(left) > 0 {
				t.Errorf("these did not happen: %+v", left)
			}
			commits := 0
			for _, r := range hub.Take() {
				if (r.Stage == "put" || r.Stage == "part") && r.Status == http.StatusOK {
					sent += r.Bytes
				}
				if r.Stage == "commit" && r.Status == http.StatusOK {
					commits++
				}
			}
			want := listed(t, files)
			got, number := hub.Files(repo)
			overtaken := 0
			if _, ok := got["OTHER.md"]; ok { // what others committed is still there
				overtaken = max(1, test.faults[0].Count)
				delete(got, "OTHER.md")
			} else if strings.HasPrefix(test.name, "stale") {
				t.Error("another one's commit is lost")
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("what the repository holds (-want +got):\n%s", diff)
			}
			if number != 2+overtaken {
				t.Errorf("%d commits, want the first, %d of others, and one of ours", number, overtaken)
			}
			if most := basicSize + partsSize + test.resent; sent > most {
				t.Errorf("%d bytes arrived, want at most %d", sent, most)
			}
			if result.Commit != hub.Head(repo) && overtaken == 0 {
				t.Errorf("the result's commit is %s", result.Commit)
			}
		})
	}
}

func TestAddressesThatExpire(t *testing.T) {
	hub := startHub(t)
	short := settings
	short.URLSeconds = 1
	hub.Set(short)
	// The first file takes longer than the addresses of the others are good for.
	client, files := newClient(hub, hftest.WriteToken), sample(t, 4)
	hub.Fail(hftest.Fault{Stage: "batch", Do: "status", Status: 503})
	slow := &http.Transport{}
	client.HTTP = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.Method == http.MethodPut && strings.Contains(r.URL.RawQuery, "partNumber=1&") {
			time.Sleep(2100 * time.Millisecond)
		}
		return slow.RoundTrip(r)
	})}
	// Only the first try is slow, else no address would ever be good.
	var once sync.Once
	inner := client.HTTP.Transport
	client.HTTP.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		delayed := false
		if r.Method == http.MethodPut && strings.Contains(r.URL.RawQuery, "partNumber=1&") {
			once.Do(func() { delayed = true })
		}
		if delayed {
			return inner.RoundTrip(r)
		}
		return slow.RoundTrip(r)
	})
	if _, err := client.Publish(context.Background(), repo, these(files), Options{}); err != nil {
		t.Fatal(err)
	}
	mustHold(t, hub, files, 1)
	if n := count(hub.Take()); n["batch"] != 3 {
		t.Errorf("%d batches, want one refused, one, and one for new addresses", n["batch"])
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestTwoPublishers(t *testing.T) {
	hub := startHub(t)
	const many = 4
	var group sync.WaitGroup
	errs := make([]error, many)
	var all []File
	for i := range many {
		mine := sample(t, byte(100+i))
		for j := range mine {
			mine[j].Path = fmt.Sprintf("%d/%s", i, mine[j].Path)
		}
		all = append(all, mine...)
		// All of them also keep one list of everything: what each finds there stays.
		build := func(ctx context.Context, head *Head) ([]File, error) {
			list, _, err := head.Read(ctx, "list.txt")
			if err != nil {
				return nil, err
			}
			lines := strings.Fields(string(list))
			if line := fmt.Sprint(i); !slices.Contains(lines, line) {
				lines = append(lines, line)
			}
			slices.Sort(lines)
			return append(slices.Clone(mine), File{Path: "list.txt", Content: []byte(strings.Join(lines, "\n"))}), nil
		}
		group.Go(func() {
			client := newClient(hub, hftest.WriteToken)
			_, errs[i] = client.Publish(context.Background(), repo, build, Options{})
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	all = append(all, File{Path: "list.txt", Content: []byte("0\n1\n2\n3")})
	mustHold(t, hub, all, many)
}

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

func TestFileChanges(t *testing.T) {
	hub := startHub(t)
	files := sample(t, 7)
	client := newClient(hub, hftest.WriteToken)
	hub.Fail(hftest.Fault{Stage: "preupload", Do: "status", Status: 503})
	client.Waiting = func(time.Duration, error) { // after the digests were computed
		for _, f := range files {
			if f.Path == "parts.gguf" {
				if err := os.WriteFile(f.Local, noise(8, partsSize), 0o644); err != nil {
					t.Error(err)
				}
				if err := os.Chtimes(f.Local, time.Time{}, time.Now().Add(time.Hour)); err != nil {
					t.Error(err)
				}
			}
		}
	}
	var changed *ChangedError
	if _, err := client.Publish(context.Background(), repo, these(files), Options{}); !errors.As(err, &changed) {
		t.Fatalf("%v, want a ChangedError", err)
	}
	mustHold(t, hub, nil, 0)
	client.Waiting = nil
	if _, err := client.Publish(context.Background(), repo, these(files), Options{}); err != nil {
		t.Fatal(err)
	}
	mustHold(t, hub, files, 1)
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
