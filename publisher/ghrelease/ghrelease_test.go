package ghrelease_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/publisher"
	"github.com/waqasm86/llcuda-farm/publisher/ghrelease"
	"github.com/waqasm86/llcuda-farm/publisher/ghtest"
)

func TestStore(t *testing.T) {
	for name, o := range map[string]ghtest.Options{"today": {PerPage: 3}, "older": {NoDigests: true}} {
		t.Run(name, func(t *testing.T) {
			checkStore(t, func(t *testing.T) publisher.Store { return newStore(t, ghtest.New(t, o), ghrelease.Options{}) })
		})
	}
}

func newStore(t testing.TB, server *ghtest.Server, o ghrelease.Options) *ghrelease.Store {
	t.Helper()
	o.APIURL = server.APIURL
	if o.Token == "" {
		o.Token = server.Token
	}
	if o.Stall == 0 {
		o.Stall = 30 * time.Second // tests run on busy machines
	}
	store, err := ghrelease.New(ghtest.Repository, o)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// newFolder is a release folder of 9 files.
func newFolder(t testing.TB, o fetchtest.Options) *publisher.Folder {
	t.Helper()
	if len(o.SMs) == 0 {
		o.SMs = []matrix.SM{75, 86}
	}
	if o.Padding == 0 {
		o.Padding = 200_000
	}
	folder, err := publisher.OpenFolder(t.Context(), fetchtest.New(t, o).Dir)
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

// fast are options for a server that is near.
func fast(t testing.TB) publisher.Options {
	return publisher.Options{
		Notes: "Notes.", FirstWait: 4 * time.Millisecond, Grace: 400 * time.Millisecond, Settle: 3 * time.Second, MaxPause: 10 * time.Second,
		Note: func(line string) { t.Log(line) },
	}
}

// wantPublished asserts the end: one release, public, with every file once.
func wantPublished(t *testing.T, server *ghtest.Server, repo string, folder *publisher.Folder) ghtest.Release {
	t.Helper()
	all := server.Releases(repo)
	if len(all) != 1 || all[0].Draft {
		t.Fatalf("there are %d releases: %+v", len(all), all)
	}
	wantFiles(t, all[0], folder)
	return all[0]
}

func wantFiles(t *testing.T, release ghtest.Release, folder *publisher.Folder) {
	t.Helper()
	var got, want []string
	for _, a := range release.Assets {
		got = append(got, fmt.Sprintf("%s %s %d %s", a.Name, a.State, a.Size, a.SHA256))
	}
	for _, f := range folder.Files {
		want = append(want, fmt.Sprintf("%s uploaded %d %s", f.Name, f.Size, f.SHA256))
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the release is not the folder (-want +got):\n%s", diff)
	}
}

// wantDraft asserts that a run that failed left a draft in which nothing whole is wrong.
func wantDraft(t *testing.T, server *ghtest.Server, folder *publisher.Folder) {
	t.Helper()
	all := server.Releases(ghtest.Repository)
	if len(all) > 1 || len(all) == 1 && !all[0].Draft {
		t.Fatalf("left %+v", all)
	}
	for _, release := range all {
		wantNothingWrong(t, release, folder)
	}
}

// wantNothingWrong asserts that no name is there twice, and that what is whole is right.
func wantNothingWrong(t *testing.T, release ghtest.Release, folder *publisher.Folder) {
	t.Helper()
	seen := map[string]bool{}
	for _, a := range release.Assets {
		if seen[a.Name] {
			t.Errorf("%s is there twice", a.Name)
		}
		seen[a.Name] = true
		right := slices.ContainsFunc(folder.Files, func(f publisher.File) bool { return f.Name == a.Name && f.SHA256 == a.SHA256 })
		if a.State == "uploaded" && !right {
			t.Errorf("%s is there with other bytes", a.Name)
		}
		if a.Name == manifests.SumsName && a.State == "uploaded" && len(release.Assets) != len(folder.Files) {
			t.Errorf("%s is there, and %d other files are not", a.Name, len(folder.Files)-len(release.Assets))
		}
	}
}

func TestPublish(t *testing.T) {
	server, folder := ghtest.New(t, ghtest.Options{PerPage: 4}), newFolder(t, fetchtest.Options{})
	store := newStore(t, server, ghrelease.Options{})
	plan, err := publisher.MakePlan(t.Context(), store, folder, fast(t))
	if err != nil || len(plan.Upload) != len(folder.Files) || !plan.Promote || plan.Release != nil {
		t.Fatalf("%+v, %v", plan, err)
	}
	if all := server.Releases(ghtest.Repository); len(all) != 0 {
		t.Fatalf("planning left %+v", all)
	}
	var mu sync.Mutex
	done := map[string]int64{}
	opts := fast(t)
	opts.Progress = func(p publisher.Progress) {
		mu.Lock()
		defer mu.Unlock()
		done[p.Name] = p.Total - p.Done
	}
	result, err := publisher.Publish(t.Context(), store, folder, opts)
	if err != nil {
		t.Fatal(err)
	}
	release := wantPublished(t, server, ghtest.Repository, folder)
	if !release.Latest || release.Title != "v1.1.0-runtime" || !strings.HasPrefix(release.Notes, "Notes.\n") {
		t.Errorf("published %+v", release)
	}
	if len(result.Sent) != len(folder.Files) || !result.Promoted || result.Release.URL != server.URL+"/octo/llcuda/releases/tag/v1.1.0-runtime" {
		t.Errorf("result %+v", result)
	}
	for _, file := range folder.Files {
		if left, told := done[file.Name]; left != 0 || !told {
			t.Errorf("told that %d bytes of %s are left (%v)", left, file.Name, told)
		}
	}
	if got := server.TagCommit(ghtest.Repository, "v1.1.0-runtime"); got != ghtest.Commit {
		t.Errorf("the tag is at %q", got)
	}
	// The order: what tells that all is there comes after all.
	var uploads []string
	for _, request := range server.Requests() {
		if strings.HasSuffix(request, "/assets") && strings.HasPrefix(request, "POST") {
			uploads = append(uploads, request)
		}
	}
	if len(uploads) != len(folder.Files) {
		t.Errorf("%d uploads for %d files", len(uploads), len(folder.Files))
	}

	// Again: nothing is sent.
	before := len(server.Requests())
	again, err := publisher.Publish(t.Context(), store, folder, fast(t))
	if err != nil || len(again.Sent) != 0 || again.Promoted {
		t.Errorf("again: %+v, %v", again, err)
	}
	for _, request := range server.Requests()[before:] {
		if !strings.HasPrefix(request, "GET") {
			t.Errorf("again: %s", request)
		}
	}
}

// Published are the releases that people see, of all pages, newest first.
func TestPublished(t *testing.T) {
	server := ghtest.New(t, ghtest.Options{PerPage: 2})
	for _, body := range []string{
		`{"tag_name":"v1.0.0"}`, `{"tag_name":"v1.1.0"}`, `{"tag_name":"v1.2.0","draft":true}`,
		`{"tag_name":"v1.3.0","prerelease":true}`, `{"tag_name":"models"}`, `{"tag_name":"v1.1.1"}`,
	} {
		request, err := http.NewRequest(http.MethodPost, server.APIURL+"/repos/"+ghtest.Repository+"/releases", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+server.Token)
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		if err != nil || response.StatusCode != http.StatusCreated {
			t.Fatalf("%s: %v, %v", body, response, err)
		}
		response.Body.Close()
	}
	got, err := newStore(t, server, ghrelease.Options{}).Published(t.Context())
	if diff := cmp.Diff([]string{"v1.1.1", "models", "v1.1.0", "v1.0.0"}, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	other, err := ghrelease.New("octo/other", ghrelease.Options{APIURL: server.APIURL, Token: server.Token})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := other.Published(t.Context()); !strings.Contains(fmt.Sprint(err), "there is no repository octo/other") {
		t.Errorf("of no repository: %v, %v", got, err)
	}
}

// The signature and SHA256SUMS are sent last, in that order, and nothing else is in flight then.
func TestSumsAreLast(t *testing.T) {
	server, folder := ghtest.New(t, ghtest.Options{}), newFolder(t, fetchtest.Options{})
	var there [2]int
	count := func(i int) func() {
		return func() {
			for _, a := range server.Releases(ghtest.Repository)[0].Assets {
				if a.State == "uploaded" {
					there[i]++
				}
			}
		}
	}
	// These let the upload fail, too, which is then tried again.
	server.Fail(ghtest.Fault{On: ghtest.Upload, Name: manifests.SignatureName, At: ghtest.Before, Status: 500, Then: count(0)},
		ghtest.Fault{On: ghtest.Upload, Name: manifests.SumsName, At: ghtest.Before, Status: 500, Then: count(1)})
	if _, err := publisher.Publish(t.Context(), newStore(t, server, ghrelease.Options{}), folder, fast(t)); err != nil {
		t.Fatal(err)
	}
	wantPublished(t, server, ghtest.Repository, folder)
	if want := [2]int{len(folder.Files) - 2, len(folder.Files) - 1}; there != want {
		t.Errorf("there before them were %d files, want %d", there, want)
	}
}

func TestDraftThenPublish(t *testing.T) {
	server, folder := ghtest.New(t, ghtest.Options{}), newFolder(t, fetchtest.Options{})
	store := newStore(t, server, ghrelease.Options{})
	opts := fast(t)
	opts.Draft = true
	result, err := publisher.Publish(t.Context(), store, folder, opts)
	if err != nil || result.Promoted || !result.Release.Draft {
		t.Fatalf("%+v, %v", result, err)
	}
	all := server.Releases(ghtest.Repository)
	if len(all) != 1 || !all[0].Draft {
		t.Fatalf("%+v", all)
	}
	wantFiles(t, all[0], folder)
	opts.Draft, opts.Latest = false, publisher.LatestFalse
	if result, err = publisher.Publish(t.Context(), store, folder, opts); err != nil || len(result.Sent) != 0 || !result.Promoted {
		t.Fatalf("%+v, %v", result, err)
	}
	if release := wantPublished(t, server, ghtest.Repository, folder); release.Latest || release.ID != all[0].ID {
		t.Errorf("%+v", release)
	}
}

// A fault and its outcome. Each run starts from an empty repository, and the next run without faults
// always completes the release.
func TestFaults(t *testing.T) {
	const bundle = "llcuda-bins-sm75.tar.gz"
	header := func(pairs ...string) http.Header {
		h := http.Header{}
		for i := 0; i < len(pairs); i += 2 {
			h.Set(pairs[i], pairs[i+1])
		}
		return h
	}
	up := func(f ghtest.Fault) ghtest.Fault {
		f.On = ghtest.Upload
		if f.Name == "" {
			f.Name = bundle
		}
		return f
	}
	soon := fmt.Sprint(time.Now().Add(time.Second).Unix())
	tests := []struct {
		name   string
		server ghtest.Options
		faults []ghtest.Fault
		// fails says that the first run fails; refused that it does so with a *RefusedError whose
		// text has this.
		fails   bool
		refused string
	}{
		{name: "dropped at the headers", faults: []ghtest.Fault{up(ghtest.Fault{At: ghtest.Before})}},
		{name: "dropped at the headers, starter left", faults: []ghtest.Fault{up(ghtest.Fault{At: ghtest.Before, Begun: true})}},
		{name: "dropped in the middle", faults: []ghtest.Fault{up(ghtest.Fault{At: ghtest.Middle})}},
		{name: "dropped in the middle, nothing left", faults: []ghtest.Fault{up(ghtest.Fault{At: ghtest.Middle, Leave: ghtest.Nothing})}},
		{name: "dropped in the middle, twice, of two files", faults: []ghtest.Fault{up(ghtest.Fault{At: ghtest.Middle, Times: 2}), up(ghtest.Fault{At: ghtest.Middle, Name: manifests.ManifestName, Times: 2})}},
		{name: "dropped after the bytes: a lost 201", faults: []ghtest.Fault{up(ghtest.Fault{At: ghtest.After})}},
		{name: "every 201 lost", faults: []ghtest.Fault{{On: ghtest.Upload, At: ghtest.After, Times: -1}}},
		{name: "500 after the bytes", faults: []ghtest.Fault{up(ghtest.Fault{At: ghtest.After, Status: 500})}},
		{name: "502 after the bytes", faults: []ghtest.Fault{up(ghtest.Fault{At: ghtest.After, Status: 502})}},
		{name: "502 and a starter", faults: []ghtest.Fault{up(ghtest.Fault{At: ghtest.Middle, Status: 502})}},
		{name: "502 at the headers and a starter", faults: []ghtest.Fault{up(ghtest.Fault{At: ghtest.Before, Begun: true, Status: 502})}},
		{name: "502 and a hidden starter that is forgotten", faults: []ghtest.Fault{up(ghtest.Fault{At: ghtest.Middle, Status: 502, Leave: ghtest.HiddenStarter, Forget: 60 * time.Millisecond})}},
		{name: "502 and a hidden starter that stays", faults: []ghtest.Fault{up(ghtest.Fault{At: ghtest.Middle, Status: 502, Leave: ghtest.HiddenStarter})}, refused: "the name is taken, and no asset of that name is listed"},
		{name: "502 without end", faults: []ghtest.Fault{up(ghtest.Fault{At: ghtest.Middle, Status: 502, Times: 5})}, fails: true},
		{name: "stalled at the headers", faults: []ghtest.Fault{up(ghtest.Fault{At: ghtest.Before, Stall: true})}},
		{name: "stalled in the middle", faults: []ghtest.Fault{up(ghtest.Fault{At: ghtest.Middle, Stall: true})}},
		{name: "stalled before the answer", faults: []ghtest.Fault{up(ghtest.Fault{At: ghtest.After, Stall: true})}},
		{name: "429 with Retry-After", faults: []ghtest.Fault{up(ghtest.Fault{Status: 429, Header: header("Retry-After", "1")})}},
		{name: "403 with Retry-After", faults: []ghtest.Fault{up(ghtest.Fault{Status: 403, Header: header("Retry-After", "1"), Message: "You have exceeded a secondary rate limit"})}},
		{name: "403 at the primary limit", faults: []ghtest.Fault{{On: ghtest.List, Status: 403, Header: header("X-RateLimit-Remaining", "0", "X-RateLimit-Reset", soon), Message: "API rate limit exceeded"}}},
		{name: "429 at the primary limit", faults: []ghtest.Fault{{On: ghtest.Create, Status: 429, Header: header("X-RateLimit-Remaining", "0", "X-RateLimit-Reset", soon)}}},
		{name: "a pause too long", faults: []ghtest.Fault{up(ghtest.Fault{Status: 403, Header: header("Retry-After", "3600")})}, fails: true},
		{name: "403 for want of rights", faults: []ghtest.Fault{{On: ghtest.Create, Status: 403, Message: "Resource not accessible by personal access token"}}, refused: "Resource not accessible"},
		{name: "the token expires in the middle", faults: []ghtest.Fault{up(ghtest.Fault{Status: 401, Message: "Bad credentials"})}, refused: "Bad credentials"},
		{name: "503 everywhere, once each", faults: []ghtest.Fault{{On: ghtest.List, Status: 503}, {On: ghtest.Create, Status: 503}, {On: ghtest.Read, Status: 503}, {On: ghtest.ListAssets, Status: 503}, {On: ghtest.Upload, Status: 503}, {On: ghtest.Promote, Status: 503}}},
		{name: "every request dropped, once each", faults: []ghtest.Fault{{On: ghtest.List}, {On: ghtest.Create}, {On: ghtest.Read}, {On: ghtest.ListAssets}, {On: ghtest.Upload}, {On: ghtest.Promote}}},
		{name: "a lost answer to the making of the draft", faults: []ghtest.Fault{{On: ghtest.Create, At: ghtest.After}}},
		{name: "the same, and the list lags", server: ghtest.Options{ListLag: 200 * time.Millisecond}, faults: []ghtest.Fault{{On: ghtest.Create, At: ghtest.After}}},
		{name: "the same twice, with 502", server: ghtest.Options{ListLag: 800 * time.Millisecond}, faults: []ghtest.Fault{{On: ghtest.Create, At: ghtest.After, Status: 502, Times: 2}}},
		{name: "the list lags longer than a lost draft is waited for", server: ghtest.Options{ListLag: 800 * time.Millisecond}, faults: []ghtest.Fault{{On: ghtest.Create, At: ghtest.After}}},
		{name: "the list lags", server: ghtest.Options{ListLag: 300 * time.Millisecond}},
		{name: "a lost answer to publishing", faults: []ghtest.Fault{{On: ghtest.Promote, At: ghtest.After}}},
		{name: "500 to publishing, though it was done", faults: []ghtest.Fault{{On: ghtest.Promote, At: ghtest.After, Status: 500}}},
		{name: "every answer to publishing is lost", faults: []ghtest.Fault{{On: ghtest.Promote, At: ghtest.After, Times: -1}}},
		{name: "a lost answer to a deletion", faults: []ghtest.Fault{up(ghtest.Fault{At: ghtest.Middle, Status: 502}), {On: ghtest.DeleteAsset, At: ghtest.After}}},
		{name: "an older server", server: ghtest.Options{NoDigests: true}, faults: []ghtest.Fault{up(ghtest.Fault{At: ghtest.After}), {On: ghtest.Storage, At: ghtest.Middle}}},
		{name: "immutable releases", server: ghtest.Options{Immutable: true}, faults: []ghtest.Fault{{On: ghtest.Promote, At: ghtest.After}}},
	}
	folder := newFolder(t, fetchtest.Options{})
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := ghtest.New(t, test.server)
			var options ghrelease.Options
			if slices.ContainsFunc(test.faults, func(f ghtest.Fault) bool { return f.Stall }) {
				options.Stall = time.Second
			}
			store := newStore(t, server, options)
			server.Fail(test.faults...)
			_, err := publisher.Publish(t.Context(), store, folder, fast(t))
			var refused *publisher.RefusedError
			switch {
			case test.refused != "":
				if !errors.As(err, &refused) || !strings.Contains(err.Error(), test.refused) || refused.Way == "" {
					t.Errorf("got %v, want %q refused", err, test.refused)
				}
			case test.fails:
				if err == nil || errors.As(err, &refused) {
					t.Errorf("got %v, want an error that is not refused", err)
				}
			case err != nil:
				t.Errorf("got %v", err)
			default:
				wantPublished(t, server, ghtest.Repository, folder)
			}
			if err != nil {
				wantDraft(t, server, folder)
			}
			for _, f := range test.faults {
				if f.Times >= 0 && server.Left() > 0 {
					t.Errorf("%d faults did not come", server.Left())
					break
				}
			}
			server.Unhide()
			store = newStore(t, server, ghrelease.Options{})
			if result, err := publisher.Publish(t.Context(), store, folder, fast(t)); err != nil {
				t.Errorf("the next run: %v", err)
			} else if test.refused == "" && !test.fails && len(result.Sent) > 0 {
				t.Errorf("the next run sent %v", result.Sent)
			}
			wantPublished(t, server, ghtest.Repository, folder)
		})
	}
}
