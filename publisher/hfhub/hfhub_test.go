package hfhub

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/publisher"
	"github.com/waqasm86/llcuda-farm/publisher/hftest"
)

// Files of the three ways to the Hub: in the commit, to the storage, to the storage in parts.
const (
	smallSize = 300
	basicSize = 20_000
	partsSize = 150_001
)

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
