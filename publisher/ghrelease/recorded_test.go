package ghrelease_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/waqasm86/llcuda-farm/publisher"
	"github.com/waqasm86/llcuda-farm/publisher/ghrelease"
	"github.com/waqasm86/llcuda-farm/publisher/ghtest"
)

// recorded answers as GitHub did, request by request. What is read by its number here was read by
// its tag there; an upload had a label there, and has none here.
type recorded struct {
	t     *testing.T
	mu    sync.Mutex
	steps []ghtest.Recorded
	url   string
	// release is the first answer.
	release []byte
}

var githubHosts = regexp.MustCompile(`https://(api|uploads)\.github\.com`)

func (r *recorded) rewrite(data []byte) []byte { return githubHosts.ReplaceAll(data, []byte(r.url)) }

func (r *recorded) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	switch path := request.URL.Path; {
	case request.Method == http.MethodGet && strings.HasSuffix(path, "/releases/1000"):
		_, _ = w.Write(r.release)
		return
	case len(r.steps) == 0:
		r.t.Errorf("%s %s is after the end of the recording", request.Method, path)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	step := r.steps[0]
	r.steps = r.steps[1:]
	path, query, _ := strings.Cut(step.Path, "?")
	name, _, _ := strings.Cut(query, "&")
	if request.Method != strings.ToUpper(step.Method) || request.URL.Path != path || query != "" && request.URL.RawQuery != name {
		r.t.Errorf("%s %s, and recorded was %s %s", request.Method, request.URL, step.Method, step.Path)
	}
	w.WriteHeader(step.Status)
	if string(step.Response) != `""` {
		_, _ = w.Write(r.rewrite(step.Response))
	}
}

// The store reads GitHub's own answers. The server of ghtest checks its answers against the
// description; these were recorded from GitHub.
func TestRecorded(t *testing.T) {
	for _, scenario := range []string{"release-assets", "release-assets-conflict"} {
		t.Run(scenario, func(t *testing.T) {
			play := &recorded{t: t, steps: ghtest.Recording(t, scenario)}
			server := httptest.NewServer(play)
			defer server.Close()
			play.url = server.URL
			play.release, play.steps = play.rewrite(play.steps[0].Response), play.steps[1:]
			if scenario == "release-assets" { // getting and renaming an asset is not what the store does
				play.steps = append(play.steps[:2:2], play.steps[4:]...)
			}
			store, err := ghrelease.New("octokit-fixture-org/"+scenario, ghrelease.Options{APIURL: server.URL, Token: "0000000000000000000000000000000000000001"})
			if err != nil {
				t.Fatal(err)
			}
			content := contentOf("test-upload.txt", []byte("Hello, world!\n"))
			release := publisher.Release{ID: 1000, UploadURL: server.URL + "/repos/octokit-fixture-org/" + scenario + "/releases/1000/assets"}
			first, err := store.Upload(t.Context(), release, content)
			if conflict := scenario == "release-assets-conflict"; conflict != errors.Is(err, publisher.ErrExists) || !conflict && err != nil {
				t.Fatalf("uploading: %+v, %v", first, err)
			}
			now, err := store.Read(t.Context(), 1000)
			if err != nil || now.Tag != "v1.0.0" || now.Draft || now.UploadURL != release.UploadURL || len(now.Assets) != 1 {
				t.Fatalf("reading: %+v, %v", now, err)
			}
			if a := now.Assets[0]; a.ID != 1000 || a.Name != content.Name || a.Size != content.Size || !a.Whole || a.SHA256 != "" {
				t.Errorf("the asset is %+v", a)
			}
			if err := store.Delete(t.Context(), now.Assets[0]); err != nil {
				t.Errorf("deleting: %v", err)
			}
			if scenario == "release-assets-conflict" {
				if second, err := store.Upload(t.Context(), release, content); err != nil || second.ID != 1001 || !second.Whole || second.Size != content.Size {
					t.Errorf("uploading again: %+v, %v", second, err)
				}
			}
			if len(play.steps) > 0 {
				t.Errorf("%d recorded requests were not made", len(play.steps))
			}
		})
	}
}
