package hub

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	commit1 = "1111111111111111111111111111111111111111"
	commit2 = "2222222222222222222222222222222222222222"
)

// A server is a Hub with one repository, org/model, and a content network on another host
// that has the files of its LFS storage.
type server struct {
	*httptest.Server
	cdn *httptest.Server

	mu       sync.Mutex
	commits  map[string]string            // revision → commit
	files    map[string]map[string]string // commit → path → content
	token    string                       // needed, if not empty
	code     string                       // X-Error-Code of every answer, if not empty
	status   int                          // of every answer, if not 0
	failures int                          // so many answers are 503 first
	lie      string                       // what is sent for files in git, if not empty
	api      string                       // what it has to list files: "", "no revision", "no siblings", "no tree", "nothing"
	page     int                          // so many files are on a page of the tree; 0 is all
	unsized  bool                         // HEAD says nothing of sizes
	limited  map[string]string            // headers of an answer of 429, given once
	moved    string                       // another Hub, to which this one redirects everything
	requests []string                     // "HEAD /path", "GET cdn", in order
	leaked   bool                         // the content network saw an Authorization header
}

func newServer(t *testing.T) *server {
	s := &server{
		commits: map[string]string{"main": commit1, "refs/pr/1": commit2},
		files: map[string]map[string]string{
			commit1: {"model.gguf": strings.Repeat("weights ", 4096), "README.md": "# A model\n", "folder/a b#?.gguf": "small"},
			commit2: {"model.gguf": strings.Repeat("weights ", 4096), "README.md": "# Another\n"},
		},
	}
	s.Server = httptest.NewServer(http.HandlerFunc(s.hub))
	t.Cleanup(s.Server.Close)
	listener, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	s.cdn = &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.HandlerFunc(s.content)}}
	s.cdn.Start()
	t.Cleanup(s.cdn.Close)
	return s
}

// set changes the server between requests.
func (s *server) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// take gives the requests since it was called last.
func (s *server) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.requests
	s.requests = nil
	return list
}

func (s *server) hub(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r.Method+" "+r.URL.EscapedPath())
	h := w.Header()
	switch {
	case s.limited != nil:
		for name, value := range s.limited {
			h.Set(name, value)
		}
		s.limited = nil
		w.WriteHeader(http.StatusTooManyRequests)
		return
	case s.moved != "":
		http.Redirect(w, r, s.moved+r.URL.RequestURI(), http.StatusPermanentRedirect)
		return
	case s.failures > 0:
		s.failures--
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case s.status != 0:
		h.Set("X-Error-Code", s.code)
		h.Set("X-Repo-Commit", commit1)
		w.WriteHeader(s.status)
		return
	case s.token != "" && r.Header.Get("Authorization") != "Bearer "+s.token:
		h.Set("X-Error-Message", "Invalid credentials in Authorization header")
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if rest, ok := strings.CutPrefix(r.URL.EscapedPath(), "/org/old-name/"); ok {
		w.Header().Set("Location", "/org/model/"+rest+"?renamed=1")
		w.WriteHeader(http.StatusTemporaryRedirect)
		return
	}
	if rest, ok := strings.CutPrefix(r.URL.Path, "/api/models/org/model/"); ok {
		s.list(w, r, rest)
		return
	}
	rest, ok := strings.CutPrefix(r.URL.Path, "/org/model/resolve/")
	if !ok {
		h.Set("X-Error-Code", "RepoNotFound")
		w.WriteHeader(http.StatusNotFound)
		return
	}
	commit, path := "", ""
	for revision, c := range s.commits {
		for _, name := range []string{revision, c} {
			if p, ok := strings.CutPrefix(rest, name+"/"); ok {
				commit, path = c, p
			}
		}
	}
	if commit == "" {
		h.Set("X-Error-Code", "RevisionNotFound")
		w.WriteHeader(http.StatusNotFound)
		return
	}
	h.Set("X-Repo-Commit", commit)
	content, ok := s.files[commit][path]
	if !ok {
		h.Set("X-Error-Code", "EntryNotFound")
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if strings.HasSuffix(path, ".gguf") {
		h.Set("X-Linked-Etag", strconv.Quote(sha256Of(content)))
		h.Set("X-Linked-Size", strconv.Itoa(len(content)))
		h.Set("Location", s.cdn.URL+"/"+sha256Of(content)+"?signature=x")
		if s.unsized {
			h.Del("X-Linked-Size")
			if r.Method == http.MethodHead {
				h.Del("Location")
				h.Set("Content-Length", "0")
				w.WriteHeader(http.StatusOK)
				return
			}
		}
		w.WriteHeader(http.StatusFound)
		return
	}
	h.Set("ETag", `W/"`+blobOf(content)+`"`)
	if s.lie != "" {
		content = s.lie
	}
	http.ServeContent(w, r, path, time.Time{}, strings.NewReader(content))
}

// list answers the questions for a revision and for its tree.
func (s *server) list(w http.ResponseWriter, r *http.Request, rest string) {
	what, revision, _ := strings.Cut(rest, "/")
	commit := s.commits[revision]
	if _, ok := s.files[revision]; ok {
		commit = revision
	}
	if s.api == "no "+what || s.api == "nothing" {
		http.NotFound(w, r)
		return
	}
	if commit == "" {
		w.Header().Set("X-Error-Code", "RevisionNotFound")
		w.WriteHeader(http.StatusNotFound)
		return
	}
	paths := slices.Sorted(maps.Keys(s.files[commit]))
	if what == "revision" {
		answer := map[string]any{"sha": commit}
		if s.api != "no siblings" {
			var siblings []map[string]string
			for _, path := range paths {
				siblings = append(siblings, map[string]string{"rfilename": path})
			}
			answer["siblings"] = siblings
		}
		json.NewEncoder(w).Encode(answer)
		return
	}
	from, _ := strconv.Atoi(r.URL.Query().Get("cursor"))
	to := len(paths)
	if s.page > 0 && from+s.page < to {
		to = from + s.page
		w.Header().Set("Link", fmt.Sprintf(`<%s%s?recursive=true&cursor=%d>; rel="next"`, s.URL, r.URL.EscapedPath(), to))
	}
	entries := []map[string]string{{"type": "directory", "path": "folder.gguf"}}
	for _, path := range paths[from:to] {
		entries = append(entries, map[string]string{"type": "file", "path": path})
	}
	json.NewEncoder(w).Encode(entries)
}

func (s *server) content(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, strings.TrimSpace(r.Method+" cdn "+r.Header.Get("Range")))
	s.leaked = s.leaked || r.Header.Get("Authorization") != ""
	for _, files := range s.files {
		for _, content := range files {
			if r.URL.Path == "/"+sha256Of(content) {
				http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
				return
			}
		}
	}
	http.NotFound(w, r)
}

func sha256Of(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func blobOf(s string) string {
	sum := sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(s), s))
	return hex.EncodeToString(sum[:])
}
