// Package ghtest is a GitHub server for tests: releases, their assets and tags, as GitHub Enterprise serves them.
//
// The tests of ghrelease, and those of the commands above it, call it. They configure the faults that GitHub should
// have, and get an address that any GitHub client accepts and, at the end, the state of the server. API and uploads are
// on one host, downloads are redirected to another one, as on GitHub.
//
// Every request and every answer is checked against GitHub's own description of the API (testdata), and a violation
// fails the test. Beyond the description the server does what GitHub is known to do: drafts are not found by tag, share
// tags, and are listed late; uploads that break off leave assets in state "starter", which block their name, and are
// listed or not; a name that is taken is 422; the tag is made when a release is published; a release whose target is a
// commit with other workflow files than the default branch takes a token that may change them; immutable releases take
// nothing more. GitHub's own client confirms that the server behaves as that client expects, and recorded answers confirm
// that its answers have the form of GitHub's.
package ghtest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
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

// Options are what kind of GitHub it is. The zero value is github.com of today, without delays.
type Options struct {
	// Token is the one that may write: "ghp_test" if empty.
	Token string
	// Repositories are those there are: Repository if none is given.
	Repositories []string
	// ListLag is how long it takes until a release that was made is listed.
	ListLag time.Duration
	// NoDigests is an older server, which does not know the digests of assets.
	NoDigests bool
	// Immutable makes every release immutable when it is published.
	Immutable bool
	// PerPage bounds the length of a page, below GitHub's 100.
	PerPage int
	// Discard keeps no bytes, for benchmarks.
	Discard bool
}

// Repository is the repository that there is where Options name none, and Commit the head of its default branch.
const (
	Repository = "octo/llcuda"
	Commit     = "00000000000000000000000000000000000000aa"
)

// Server is a GitHub server.
type Server struct {
	// URL is the server's address, APIURL that of its API, and Token the one that may write.
	URL, APIURL, Token string

	t       testing.TB
	o       Options
	schema  *schema
	storage *httptest.Server
	ended   chan struct{}

	mu       sync.Mutex
	token    string
	lastID   int64
	repos    map[string]*repository
	faults   []*Fault
	requests []string
}

// New starts a server, which ends with the test.
func New(t testing.TB, o Options) *Server {
	t.Helper()
	if o.Token == "" {
		o.Token = "ghp_test"
	}
	if len(o.Repositories) == 0 {
		o.Repositories = []string{Repository}
	}
	if o.PerPage == 0 {
		o.PerPage = 100
	}
	s := &Server{t: t, o: o, Token: o.Token, token: o.Token, schema: loadSchema(t), repos: map[string]*repository{}, lastID: 1000, ended: make(chan struct{})}
	for _, name := range o.Repositories {
		s.AddRepository(name)
	}
	s.storage = listen(t, "127.0.0.2:0", http.HandlerFunc(s.serveStorage))
	api := listen(t, "127.0.0.1:0", http.HandlerFunc(s.serve))
	t.Cleanup(func() { close(s.ended) }) // before the servers wait for what still runs
	s.URL = api.URL
	s.APIURL = api.URL + apiPrefix
	return s
}

const (
	apiPrefix    = "/api/v3"
	uploadPrefix = "/api/uploads"
)

func listen(t testing.TB, address string, handler http.Handler) *httptest.Server {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: handler}}
	server.Start()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server
}

// AddRepository makes an empty repository.
func (s *Server) AddRepository(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.repos[name] = &repository{name: name, tags: map[string]tag{}, workflows: map[string]bool{}}
}

// SetTag makes a tag, annotated or not.
func (s *Server) SetTag(repo, name, commit string, annotated bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	made := tag{commit: commit}
	if annotated {
		sum := sha256.Sum256([]byte(name + commit))
		made.object = hex.EncodeToString(sum[:20])
	}
	s.repos[repo].tags[name] = made
}

// SetWorkflows says that a commit has other workflow files than the default branch. The token may not change workflows: a
// release whose target is that commit is refused, whether its tag exists or not.
func (s *Server) SetWorkflows(repo, commit string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.repos[repo].workflows[commit] = true
}

// TagCommit is the commit that a tag is at, empty where there is no tag.
func (s *Server) TagCommit(repo, name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.repos[repo].tags[name].commit
}

// Unhide forgets the assets that are in no list.
func (s *Server) Unhide() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, repo := range s.repos {
		for _, r := range repo.releases {
			r.assets = slices.DeleteFunc(r.assets, func(a *asset) bool { return a.hidden })
		}
	}
}

// Requests are those there were so far, "POST /repos/octo/llcuda/releases" and the like, downloads included.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

func (s *Server) id() int64 {
	s.lastID++
	return s.lastID
}

// A request is one that was routed.
type request struct {
	*http.Request
	op     Op
	repo   *repository
	params map[string]string
	body   []byte // of JSON requests
}

// number is a parameter that is an id.
func (r *request) number(name string) int64 {
	n, _ := strconv.ParseInt(r.params[name], 10, 64)
	return n
}

// An answer is what is sent, unless a fault comes between.
type answer struct {
	status int
	header http.Header
	body   any
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	var api bool
	for _, prefix := range []string{apiPrefix, uploadPrefix} {
		if rest, ok := strings.CutPrefix(path, prefix); ok {
			path, api = rest, true
		}
	}
	s.mu.Lock()
	s.requests = append(s.requests, r.Method+" "+path)
	s.mu.Unlock()
	if !api {
		s.serveWeb(w, r)
		return
	}
	route, params := match(r.Method, path, strings.HasPrefix(r.URL.Path, uploadPrefix))
	if route == nil {
		s.t.Errorf("ghtest: %s %s is not a request that GitHub knows", r.Method, r.URL.Path)
		http.NotFound(w, r)
		return
	}
	req := &request{Request: r, op: route.op, params: params}
	if route.op != Upload {
		var err error
		if req.body, err = io.ReadAll(r.Body); err != nil {
			return // the client is gone
		}
		r.Body = io.NopCloser(bytes.NewReader(req.body))
	}
	s.schema.request(s.t, route, req)
	fault := s.fault(req)
	if fault != nil && fault.At == Before {
		s.refuse(w, req, fault)
		return
	}
	out := s.answer(route, req, fault)
	if out == nil {
		return // it broke off
	}
	s.schema.answer(s.t, route, req, *out)
	if fault != nil && fault.At == After {
		s.broken(w, req, fault)
		return
	}
	s.write(w, *out)
}

// answer lets the route's handler work, if the request may do that.
func (s *Server) answer(route *route, req *request, fault *Fault) *answer {
	s.mu.Lock()
	repo := s.repos[req.params["owner"]+"/"+req.params["repo"]]
	given, authorized := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "), false
	if given == req.Header.Get("Authorization") { // the older form
		given = strings.TrimPrefix(given, "token ")
	}
	authorized = given == s.token
	s.mu.Unlock()
	switch {
	case given != "" && !authorized:
		return problem(http.StatusUnauthorized, "Bad credentials")
	case repo == nil, !authorized && req.Method != http.MethodGet:
		return problem(http.StatusNotFound, "Not Found")
	}
	req.repo = repo
	if route.op == Upload {
		return s.upload(req, fault)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := route.handle(s, req, authorized)
	return &out
}

func (s *Server) write(w http.ResponseWriter, a answer) {
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.Header().Set("X-RateLimit-Limit", "5000")
	if w.Header().Get("X-RateLimit-Remaining") == "" {
		w.Header().Set("X-RateLimit-Remaining", "4999")
		w.Header().Set("X-RateLimit-Reset", strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10))
	}
	if a.body == nil {
		w.WriteHeader(a.status)
		return
	}
	data, err := json.Marshal(a.body)
	if err != nil {
		s.t.Errorf("ghtest: %v", err)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(a.status)
	_, _ = w.Write(data)
}

const docs = "https://docs.github.com/rest"

// problem is an answer that says no.
func problem(status int, message string) *answer {
	return &answer{status: status, body: map[string]any{"message": message, "documentation_url": docs, "status": strconv.Itoa(status)}}
}

// invalid is a 422 about one field.
func invalid(resource, field, code string) answer {
	return answer{status: http.StatusUnprocessableEntity, body: map[string]any{
		"message": "Validation Failed", "documentation_url": docs,
		"errors": []any{map[string]any{"resource": resource, "code": code, "field": field}},
	}}
}

// serveWeb is the part for browsers and downloads, which knows no token.
func (s *Server) serveWeb(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "" {
		s.t.Errorf("ghtest: a token was sent to %s", r.URL.Path)
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(parts) != 6 || parts[2] != "releases" || (r.Method != http.MethodGet && r.Method != http.MethodHead) {
		http.NotFound(w, r)
		return
	}
	repo := s.repos[parts[0]+"/"+parts[1]]
	if repo == nil {
		http.NotFound(w, r)
		return
	}
	latest := parts[3] == "latest" && parts[4] == "download"
	for _, release := range repo.releases {
		switch {
		case release.draft:
		case latest && release.id == repo.latest:
			http.Redirect(w, r, fmt.Sprintf("/%s/releases/download/%s/%s", repo.name, release.tag, parts[5]), http.StatusFound)
			return
		case !latest && parts[3] == "download" && release.tag == parts[4]:
			for _, a := range release.assets {
				if a.name == parts[5] && a.state == uploaded {
					http.Redirect(w, r, s.blob(a), http.StatusFound)
					return
				}
			}
		}
	}
	http.NotFound(w, r)
}

// blob is where an asset's bytes are: on another host, by a signed address.
func (s *Server) blob(a *asset) string {
	return fmt.Sprintf("%s/blob/%d?sig=signed", s.storage.URL, a.id)
}

// serveStorage is the other host.
func (s *Server) serveStorage(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "" {
		s.t.Errorf("ghtest: a token was sent to another host")
	}
	id, _ := strconv.ParseInt(strings.TrimPrefix(r.URL.Path, "/blob/"), 10, 64)
	s.mu.Lock()
	var found *asset
	for _, repo := range s.repos {
		for _, release := range repo.releases {
			for _, a := range release.assets {
				if a.id == id && r.URL.Query().Get("sig") == "signed" {
					a.download++
					taken := *a
					found = &taken
				}
			}
		}
	}
	s.mu.Unlock()
	if found == nil {
		http.NotFound(w, r)
		return
	}
	if fault := s.fault(&request{Request: r, op: Storage, params: map[string]string{"name": found.name}}); fault != nil {
		if fault.At == Middle {
			w.Header().Set("Content-Length", strconv.Itoa(len(found.data)))
			_, _ = w.Write(found.data[:len(found.data)/2])
			w.(http.Flusher).Flush()
		}
		s.broken(w, &request{Request: r}, fault)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"`+found.sha256+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(found.data))
}
