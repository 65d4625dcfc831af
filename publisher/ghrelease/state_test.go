package ghrelease_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/publisher"
	"github.com/waqasm86/llcuda-farm/publisher/ghrelease"
	"github.com/waqasm86/llcuda-farm/publisher/ghtest"
)

// The state before a run, and its outcome. Nothing complete and correct is ever deleted.
func TestWhatIsThere(t *testing.T) {
	tests := []struct {
		name    string
		server  ghtest.Options
		store   ghrelease.Options
		options func(*publisher.Options)
		before  func(*site)
		refused string // what the message has; empty if it is published
		deletes int    // how many DELETE requests there are
		after   func(*testing.T, ghtest.Release)
	}{
		{name: "half of it in a draft of ours", before: func(s *site) { s.put(s.draft(ours), s.all()[:4]...) }},
		{name: "all of it in a draft of ours", before: func(s *site) { s.put(s.draft("old notes "+ours), s.all()...) }, after: func(t *testing.T, r ghtest.Release) {
			if !strings.HasPrefix(r.Notes, "Notes.\n") || r.Title != tag {
				t.Errorf("%+v", r)
			}
		}},
		{name: "a person's draft keeps its words", before: func(s *site) { s.put(s.draft("Written by hand."), bundle) }, after: func(t *testing.T, r ghtest.Release) {
			if r.Notes != "Written by hand." || r.Title != "By hand" {
				t.Errorf("%+v", r)
			}
		}},
		{name: "SHA256SUMS before all others", before: func(s *site) { s.put(s.draft(ours), manifests.SumsName) }},
		{name: "empty twins of ours", before: func(s *site) { s.draft(ours); s.draft(ours); s.draft(ours) }, deletes: 2},
		{name: "an empty twin beside a full one", before: func(s *site) { s.draft(ours); s.put(s.draft(ours), bundle) }, deletes: 1},
		{name: "an empty twin beside a public release", before: func(s *site) {
			r := s.draft("")
			s.draft(ours)
			s.put(r, s.all()...)
			s.publish(r)
		}, deletes: 1},
		{name: "two drafts with files", before: func(s *site) { s.put(s.draft(ours), bundle); s.put(s.draft(ours), bundle) }, refused: "2 drafts are of tag"},
		{name: "two drafts of persons", before: func(s *site) { s.draft("one"); s.draft("two") }, refused: "2 drafts are of tag"},
		{name: "an upload that broke off", before: func(s *site) { s.starter(s.draft(ours), bundle) }, deletes: 1},
		{name: "one of another name", before: func(s *site) { s.starter(s.draft(ours), "something") }, deletes: 1},
		{name: "an upload that is on its way", before: func(s *site) {
			r := s.draft(ours)
			slow := contentOf(bundle, nil)
			data, err := os.ReadFile(filepath.Join(s.dir, bundle))
			s.must(err)
			began, ended := make(chan bool), make(chan error, 1)
			slow.Size, slow.Open = int64(len(data)), func() (io.ReadCloser, error) {
				return &slowly{r: strings.NewReader(string(data)), half: int64(len(data)) / 2, began: began, pause: 60 * time.Millisecond}, nil
			}
			go func() {
				_, err := s.store.Upload(s.t.Context(), r, slow)
				ended <- err
			}()
			<-began
			s.t.Cleanup(func() {
				if err := <-ended; err != nil {
					s.t.Errorf("it was disturbed: %v", err)
				}
			})
		}},
		{name: "another file in the draft", before: func(s *site) { s.upload(s.draft(ours), "something", []byte("x")) }, refused: "something: there, and no part of the folder"},
		{name: "other bytes in the draft", before: func(s *site) { s.upload(s.draft(ours), bundle, []byte("x")) }, refused: bundle + ": there with other contents"},
		{name: "other bytes in the draft, to be replaced", options: func(o *publisher.Options) { o.Replace = true },
			before: func(s *site) { r := s.draft(ours); s.upload(r, bundle, []byte("x")); s.put(r, "manifest.json") }, deletes: 1},
		{name: "public, and the same", before: func(s *site) { r := s.draft(""); s.put(r, s.all()...); s.publish(r) }},
		{name: "public and immutable, and the same", server: ghtest.Options{Immutable: true}, before: func(s *site) { r := s.draft(""); s.put(r, s.all()...); s.publish(r) }},
		{name: "public, and a file is missing", before: func(s *site) { r := s.draft(""); s.put(r, s.all()[1:]...); s.publish(r) }},
		{name: "public, and an upload broke off", before: func(s *site) { r := s.draft(""); s.put(r, s.all()[1:]...); s.publish(r); s.starter(r, s.all()[0]) }, deletes: 1},
		{name: "public and immutable, and a file is missing", server: ghtest.Options{Immutable: true}, before: func(s *site) { r := s.draft(""); s.put(r, s.all()[1:]...); s.publish(r) }, refused: "missing, and the release is immutable"},
		{name: "public, with other bytes, and nothing is replaced", options: func(o *publisher.Options) { o.Replace = true },
			before: func(s *site) { r := s.draft(""); s.upload(r, bundle, []byte("x")); s.publish(r) }, refused: bundle + ": there with other contents"},
		{name: "public, with another file", before: func(s *site) {
			r := s.draft("")
			s.put(r, s.all()...)
			s.upload(r, "something", []byte("x"))
			s.publish(r)
		}, refused: "something: there, and no part of the folder"},
		{name: "the tag is where it is to be", store: ghrelease.Options{Commit: strings.Repeat("1", 40)}, before: func(s *site) { s.server.SetTag(ghtest.Repository, tag, strings.Repeat("1", 40), false) }},
		{name: "an annotated tag is where it is to be", store: ghrelease.Options{Commit: strings.Repeat("1", 40)}, before: func(s *site) { s.server.SetTag(ghtest.Repository, tag, strings.Repeat("1", 40), true) }},
		{name: "the tag is elsewhere", store: ghrelease.Options{Commit: strings.Repeat("1", 40)}, before: func(s *site) { s.server.SetTag(ghtest.Repository, tag, strings.Repeat("2", 40), false) }, refused: "is at commit 2222"},
		{name: "an annotated tag is elsewhere", store: ghrelease.Options{Commit: strings.Repeat("1", 40)}, before: func(s *site) { s.server.SetTag(ghtest.Repository, tag, strings.Repeat("2", 40), true) }, refused: "is at commit 2222"},
		{name: "the tag is at a commit with other workflows", store: ghrelease.Options{Commit: strings.Repeat("1", 40)}, before: func(s *site) {
			s.server.SetTag(ghtest.Repository, tag, strings.Repeat("1", 40), false)
			s.server.SetWorkflows(ghtest.Repository, strings.Repeat("1", 40))
		}},
		{name: "an annotated tag and a draft, at a commit with other workflows", store: ghrelease.Options{Commit: strings.Repeat("1", 40)}, before: func(s *site) {
			s.server.SetTag(ghtest.Repository, tag, strings.Repeat("1", 40), true)
			s.server.SetWorkflows(ghtest.Repository, strings.Repeat("1", 40))
			s.draft(ours)
		}},
		{name: "the tag is made where it is to be", store: ghrelease.Options{Commit: strings.Repeat("1", 40)}, before: func(s *site) { s.draft(ours) }},
	}
	dir := fetchtest.New(t, fetchtest.Options{Padding: 20_000}).Dir
	folder, err := publisher.OpenFolder(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := &site{t: t, server: ghtest.New(t, test.server), folder: folder, dir: dir}
			s.store = newStore(t, s.server, test.store)
			test.before(s)
			before := s.server.Releases(ghtest.Repository)
			seen := len(s.server.Requests())
			opts := fast(t)
			if test.options != nil {
				test.options(&opts)
			}
			_, err := publisher.Publish(t.Context(), s.store, folder, opts)
			var refused *publisher.RefusedError
			if test.refused != "" {
				if !errors.As(err, &refused) || !strings.Contains(err.Error(), test.refused) || refused.Way == "" {
					t.Errorf("got %v, want %q refused", err, test.refused)
				}
				for _, request := range s.server.Requests()[seen:] {
					if !strings.HasPrefix(request, "GET ") {
						t.Errorf("%s, though it was refused", request)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			release := wantPublished(t, s.server, ghtest.Repository, folder)
			if test.after != nil {
				test.after(t, release)
			}
			if test.store.Commit != "" && s.server.TagCommit(ghtest.Repository, tag) != test.store.Commit {
				t.Errorf("the tag is at %s", s.server.TagCommit(ghtest.Repository, tag))
			}
			deletes := 0
			for _, request := range s.server.Requests()[seen:] {
				if strings.HasPrefix(request, "DELETE ") {
					deletes++
				}
			}
			if deletes != test.deletes {
				t.Errorf("%d things were deleted, want %d", deletes, test.deletes)
			}
			for _, r := range before {
				for _, a := range r.Assets {
					for _, file := range folder.Files {
						kept := func(b ghtest.Asset) bool { return b.ID == a.ID }
						if file.Name == a.Name && file.SHA256 == a.SHA256 && !contains(release.Assets, kept) {
							t.Errorf("%s was whole and right, and is another one now", a.Name)
						}
					}
				}
			}
		})
	}
}

func contains(list []ghtest.Asset, is func(ghtest.Asset) bool) bool {
	for _, a := range list {
		if is(a) {
			return true
		}
	}
	return false
}

// slowly pauses in the middle, and tells when it does.
type slowly struct {
	r     *strings.Reader
	half  int64
	began chan bool
	pause time.Duration
}

func (s *slowly) Read(b []byte) (int, error) {
	if sent := s.r.Size() - int64(s.r.Len()); sent < s.half {
		b = b[:min(int64(len(b)), s.half-sent)]
	} else if s.began != nil {
		time.Sleep(s.pause / 2)
		close(s.began)
		s.began = nil
		time.Sleep(s.pause)
	}
	return s.r.Read(b)
}

func (s *slowly) Close() error { return nil }

// A file that changes on the way is never published, and nothing of it stays.
func TestFolderChanges(t *testing.T) {
	dir := fetchtest.New(t, fetchtest.Options{Padding: 20_000}).Dir
	folder, err := publisher.OpenFolder(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	server := ghtest.New(t, ghtest.Options{})
	name := filepath.Join(dir, bundle)
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = publisher.Publish(t.Context(), newStore(t, server, ghrelease.Options{}), folder, fast(t))
	var changed *publisher.ChangedError
	if !errors.As(err, &changed) || changed.Path != name {
		t.Errorf("got %v", err)
	}
	for _, release := range server.Releases(ghtest.Repository) {
		wantNothingWrong(t, release, folder)
	}
	if _, err := publisher.OpenFolder(t.Context(), dir); err == nil {
		t.Error("the folder is taken")
	}
}

// The token goes to no other host: not where an upload's address or a redirect leads.
func TestTokenStays(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s came to another host, with %q", r.Method, r.URL, r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	server, folder := ghtest.New(t, ghtest.Options{}), newFolder(t, fetchtest.Options{})
	var moved *httptest.Server
	moved = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/old/"): // a repository that was renamed, on the same host
			http.Redirect(w, r, moved.URL+strings.TrimPrefix(r.URL.Path, "/old"), http.StatusMovedPermanently)
		case strings.HasPrefix(r.URL.Path, "/away/"):
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
		default:
			if r.Header.Get("Authorization") != "Bearer secret-token" {
				t.Errorf("%s has no token on its own host", r.URL)
			}
			_, _ = w.Write([]byte("[]"))
		}
	}))
	defer moved.Close()
	store := func(path string) *ghrelease.Store {
		s, err := ghrelease.New(ghtest.Repository, ghrelease.Options{APIURL: moved.URL + path, Token: "secret-token"})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if _, err := store("/old").Find(t.Context(), tag); err != nil {
		t.Errorf("on the same host: %v", err)
	}
	var refused *publisher.RefusedError
	_, err := publisher.Publish(t.Context(), store("/away"), folder, fast(t))
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "where the token is not sent") || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
	release := publisher.Release{ID: 1, UploadURL: elsewhere.URL + "/upload"}
	_, err = newStore(t, server, ghrelease.Options{}).Upload(t.Context(), release, contentOf("a", []byte("a")))
	if !errors.As(err, &refused) {
		t.Errorf("got %v", err)
	}
}

// A body that has begun can be sent again from its first byte, where the server sends the upload
// elsewhere on its host.
func TestUploadIsSentAgain(t *testing.T) {
	data := strings.Repeat("0123456789", 100_000)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/first" {
			_, _ = io.CopyN(io.Discard, r.Body, 1000)
			http.Redirect(w, r, "/second", http.StatusTemporaryRedirect)
			return
		}
		got, err := io.ReadAll(r.Body)
		if err != nil || string(got) != data || r.ContentLength != int64(len(data)) || r.Header.Get("Authorization") == "" {
			t.Errorf("%d bytes came of %d, %v", len(got), r.ContentLength, err)
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"id":7,"name":"a","state":"uploaded","size":1000000}`)
	}))
	defer server.Close()
	store, err := ghrelease.New(ghtest.Repository, ghrelease.Options{APIURL: server.URL, Token: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	asset, err := store.Upload(t.Context(), publisher.Release{ID: 1, UploadURL: server.URL + "/first"}, contentOf("a", []byte(data)))
	if err != nil || asset.ID != 7 || !asset.Whole {
		t.Errorf("%+v, %v", asset, err)
	}
}

func TestAddresses(t *testing.T) {
	for _, pair := range [][2]string{
		{"https://github.com", "https://api.github.com"},
		{"https://octo.ghe.com", "https://api.octo.ghe.com"},
		{"https://git.example.com", "https://git.example.com/api/v3"},
		{"https://git.example.com:8443", "https://git.example.com:8443/api/v3"},
	} {
		if api, err := ghrelease.APIURLOf(pair[0]); err != nil || api != pair[1] {
			t.Errorf("the API of %s is %s, %v", pair[0], api, err)
		}
		for _, api := range []string{pair[1], pair[1] + "/"} {
			if server, err := ghrelease.ServerURLOf(api); err != nil || server != pair[0] {
				t.Errorf("the server of %s is %s, %v", api, server, err)
			}
		}
	}
	if server, err := ghrelease.ServerURLOf(""); err != nil || server != "https://github.com" {
		t.Errorf("%s, %v", server, err)
	}
	for _, wrong := range []string{"http://api.github.com", "api.github.com", "https://x:secret@api.github.com", "https://api.github.com?x", "ftp://api.github.com"} {
		if _, err := ghrelease.New("a/b", ghrelease.Options{APIURL: wrong}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", wrong, err)
		}
	}
	for _, wrong := range []string{"", "a", "a/", "/b", "a/b/c", "a/..", "a b/c", "a/b?c"} {
		if _, err := ghrelease.New(wrong, ghrelease.Options{}); err == nil {
			t.Errorf("%q is taken for a repository", wrong)
		}
	}
}

// An interrupt ends it at once, and leaves a draft that the next run completes.
func TestInterrupted(t *testing.T) {
	server, folder := ghtest.New(t, ghtest.Options{}), newFolder(t, fetchtest.Options{})
	store := newStore(t, server, ghrelease.Options{Stall: time.Minute})
	ctx, cancel := context.WithCancel(t.Context())
	server.Fail(ghtest.Fault{On: ghtest.Upload, Name: bundle, At: ghtest.Middle, Stall: true, Then: func() { time.AfterFunc(20*time.Millisecond, cancel) }})
	begun := time.Now()
	if _, err := publisher.Publish(ctx, store, folder, fast(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("it ended after %s", took)
	}
	wantDraft(t, server, folder)
	if _, err := publisher.Publish(t.Context(), store, folder, fast(t)); err != nil {
		t.Fatal(err)
	}
	wantPublished(t, server, ghtest.Repository, folder)
}

// A token that may not change workflows, and a release whose target is a commit that has others.
// The error names the way out.
func TestTargetWithOtherWorkflows(t *testing.T) {
	commit := strings.Repeat("1", 40)
	dir := fetchtest.New(t, fetchtest.Options{}).Dir
	folder, err := publisher.OpenFolder(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, before := range map[string]func(*site){
		"the tag is not there":          func(*site) {},
		"a draft has the commit by now": func(s *site) { s.draft(ours) },
		"a draft had it before the tag": func(s *site) {
			s.draft(ours)
			s.server.SetTag(ghtest.Repository, tag, commit, false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &site{t: t, server: ghtest.New(t, ghtest.Options{}), folder: folder, dir: dir}
			s.store = newStore(t, s.server, ghrelease.Options{Commit: commit})
			before(s)
			s.server.SetWorkflows(ghtest.Repository, commit)
			_, err := publisher.Publish(t.Context(), s.store, folder, fast(t))
			var refused *publisher.RefusedError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), "Resource not accessible by integration") ||
				!strings.Contains(refused.Way, ".github/workflows") || !strings.Contains(refused.Way, "git push origin TAG") {
				t.Errorf("got %v", err)
			}
			for _, r := range s.server.Releases(ghtest.Repository) {
				if !r.Draft {
					t.Errorf("%s is public", r.Tag)
				}
			}
		})
	}
}
