package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go/aws"
	"github.com/aws/aws-sdk-go/aws/credentials"
	"github.com/aws/aws-sdk-go/aws/session"
	"github.com/aws/aws-sdk-go/service/s3"
	"github.com/matrixhub-ai/hfd/pkg/authenticate"
	backendhf "github.com/matrixhub-ai/hfd/pkg/backend/hf"
	backendlfs "github.com/matrixhub-ai/hfd/pkg/backend/lfs"
	"github.com/matrixhub-ai/hfd/pkg/lfs"
	hfdstorage "github.com/matrixhub-ai/hfd/pkg/storage"
)

const (
	bucket = "hub"
	secret = "test"
)

// A hub is hfd with what it lacks.
type hub struct {
	world *world
	disk  *hfdstorage.Storage
	hfd   http.Handler
	lfs   lfs.Storage
	// inside reaches the storage past its gate, outside signs addresses for the world.
	inside, outside *s3.S3

	mu      sync.Mutex
	uploads map[string]string // id of an upload in parts → oid
	sound   map[string]bool   // oids whose bytes were read and have the digest
	commits sync.RWMutex      // one at a time: hfd's check of the parent is not atomic, nor is its making of a repository
}

func newHub(folder string, world *world, inside, outside string) *hub {
	client := func(endpoint string) *s3.S3 {
		return s3.New(session.Must(session.NewSession(&aws.Config{
			Endpoint: &endpoint, Region: aws.String("us-east-1"), Credentials: credentials.NewStaticCredentials(secret, secret, ""), S3ForcePathStyle: aws.Bool(true),
		})))
	}
	h := &hub{
		world: world, disk: hfdstorage.NewStorage(hfdstorage.WithRootDir(folder)), inside: client(inside), outside: client(outside),
		lfs:     lfs.NewS3("lfs", inside, secret, secret, bucket, true, outside),
		uploads: map[string]string{}, sound: map[string]bool{},
	}
	var handler http.Handler = backendhf.NewHandler(backendhf.WithStorage(h.disk), backendhf.WithLFSStorage(h.lfs))
	handler = backendlfs.NewHandler(backendlfs.WithStorage(h.disk), backendlfs.WithLFSStorage(h.lfs), backendlfs.WithNext(handler))
	h.hfd = authenticate.AnonymousAuthenticateHandler(handler)
	return h
}

// hubStage names the kind of a request to the Hub.
func hubStage(r *http.Request) string {
	p := r.URL.Path
	switch {
	case p == "/api/repos/create":
		return "create"
	case p == "/api/validate-yaml":
		return "validate"
	case p == "/oauth/token":
		return "exchange"
	case p == "/api/complete_multipart":
		return "complete"
	case strings.HasSuffix(p, "/info/lfs/objects/batch"):
		return "batch"
	case strings.HasSuffix(p, "/info/lfs/objects/verify"):
		return "verify"
	case strings.Contains(p, "/resolve/"):
		return "resolve"
	}
	if parts := strings.Split(p, "/"); len(parts) > 5 && parts[1] == "api" {
		return parts[5] // preupload, commit, paths-info, revision, tree
	}
	return "info"
}

// repoOf is "org/name" of a request, empty where the request is not about a repository.
func repoOf(r *http.Request) string {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case len(parts) > 3 && parts[0] == "api" && parts[1] == "models":
		return parts[2] + "/" + parts[3]
	case len(parts) > 2 && parts[0] != "api":
		return parts[0] + "/" + strings.TrimSuffix(parts[1], ".git")
	}
	return ""
}

func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := make([]byte, 8)
	rand.Read(id)
	w.Header().Set("X-Request-Id", hex.EncodeToString(id))
	stage := hubStage(r)
	if !h.admit(w, r, stage) {
		return
	}
	switch stage {
	case "create":
		h.create(w, r)
	case "validate":
		validate(w, r)
	case "exchange":
		h.exchange(w, r)
	case "preupload":
		h.preupload(w, r)
	case "batch":
		h.batch(w, r)
	case "complete":
		h.complete(w, r)
	case "verify":
		h.verify(w, r)
	case "commit":
		h.commit(w, r)
	case "paths-info":
		h.pathsInfo(w, r)
	case "resolve", "download":
		h.explain(w, r)
	default:
		h.commits.RLock()
		defer h.commits.RUnlock()
		h.explain(w, r)
	}
}

// admit enforces the access rules, in the words of the real Hub, and reports whether the request may proceed.
func (h *hub) admit(w http.ResponseWriter, r *http.Request, stage string) bool {
	if stage == "exchange" || stage == "complete" { // these carry their right in themselves
		return true
	}
	token, anonymous, known := h.world.token(r)
	if !known {
		say(w, http.StatusUnauthorized, "", "Invalid credentials in Authorization header")
		return false
	}
	repo, settings := repoOf(r), h.world.get()
	elsewhere := token.Repo != "" && repo != "" && token.Repo != repo
	if slices.Contains([]string{"create", "preupload", "batch", "verify", "commit"}, stage) {
		switch {
		case anonymous:
			say(w, http.StatusUnauthorized, "", "Invalid username or password.")
			return false
		case !token.Write || elsewhere || token.Repo != "" && stage == "create":
			say(w, http.StatusForbidden, "", "You don't have the rights to do this on "+repo)
			return false
		}
		return true
	}
	if slices.Contains(settings.Private, repo) && (anonymous || elsewhere || !token.Write && !token.Gated) {
		status := http.StatusNotFound
		if anonymous {
			status = http.StatusUnauthorized
		}
		say(w, status, "RepoNotFound", "Repository not found")
		return false
	}
	if stage == "resolve" && slices.Contains(settings.Gated, repo) && !token.Gated {
		status := http.StatusForbidden
		if anonymous {
			status = http.StatusUnauthorized
		}
		say(w, status, "GatedRepo", "Access to model "+repo+" is restricted.")
		return false
	}
	return true
}

// ask has hfd answer a question of the wrapper's own.
func (h *hub) ask(method, path string, body io.Reader) *httptest.ResponseRecorder {
	request := httptest.NewRequest(method, path, body)
	answer := httptest.NewRecorder()
	h.hfd.ServeHTTP(answer, request)
	return answer
}

// head is the commit that a revision stands for; empty where there is none. hfd's own answer measures the whole
// repository, so the usual revisions are read from git.
func (h *hub) head(repo, revision string) string {
	if data, err := os.ReadFile(filepath.Join(h.disk.ResolvePath(repo), "refs", "heads", filepath.Clean("/"+revision))); err == nil {
		return strings.TrimSpace(string(data))
	}
	var info struct{ SHA string }
	answer := h.ask(http.MethodGet, "/api/models/"+repo+"/revision/"+url.PathEscape(revision), nil)
	if answer.Code != http.StatusOK || json.Unmarshal(answer.Body.Bytes(), &info) != nil {
		return ""
	}
	return info.SHA
}

func (h *hub) exists(repo string) bool {
	_, err := os.Stat(filepath.Join(h.disk.ResolvePath(repo), "HEAD"))
	return err == nil
}

// explain lets hfd answer and adds the Hub's headers to what it refuses.
func (h *hub) explain(w http.ResponseWriter, r *http.Request) {
	refused := &refusal{ResponseWriter: w}
	h.hfd.ServeHTTP(refused, r)
	if refused.status == 0 {
		return
	}
	var message struct{ Error string }
	json.Unmarshal(refused.body.Bytes(), &message)
	status, code := refused.status, ""
	switch repo, stage := repoOf(r), hubStage(r); {
	case repo == "":
	case !h.exists(repo):
		status, code = http.StatusNotFound, "RepoNotFound"
	case stage == "resolve":
		parts := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/"+repo+"/resolve/"), "/")
		revision, _ := url.PathUnescape(parts[0])
		status, code = http.StatusNotFound, "EntryNotFound"
		if commit := h.head(repo, revision); commit == "" {
			code = "RevisionNotFound"
		} else {
			w.Header().Set("X-Repo-Commit", commit)
		}
	case stage == "revision" || stage == "tree":
		status, code = http.StatusNotFound, "RevisionNotFound"
	}
	say(w, status, code, message.Error)
}

// A refusal withholds an error response of hfd's.
type refusal struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (r *refusal) WriteHeader(status int) {
	if status >= http.StatusBadRequest {
		r.status = status
		return
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *refusal) Write(p []byte) (int, error) {
	if r.status != 0 {
		return r.body.Write(p)
	}
	return r.ResponseWriter.Write(p)
}

func (h *hub) create(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var wanted struct {
		Name, Organization, Visibility string
		Private                        bool
	}
	if err := json.Unmarshal(body, &wanted); err != nil {
		say(w, http.StatusBadRequest, "", err.Error())
		return
	}
	repo := wanted.Organization + "/" + wanted.Name
	h.commits.Lock()
	defer h.commits.Unlock()
	if h.exists(repo) {
		say(w, http.StatusConflict, "", "You already created this model repo: "+repo)
		return
	}
	if wanted.Private || wanted.Visibility == "private" {
		h.world.mu.Lock()
		h.world.settings.Private = append(h.world.settings.Private, repo)
		h.world.mu.Unlock()
	}
	pass(w, h.ask(http.MethodPost, r.URL.Path, bytes.NewReader(body)))
}

func (h *hub) refused(w http.ResponseWriter, repo string, answer *httptest.ResponseRecorder) {
	var message struct{ Error string }
	json.Unmarshal(answer.Body.Bytes(), &message)
	if !h.exists(repo) {
		say(w, http.StatusNotFound, "RepoNotFound", "Repository not found")
		return
	}
	say(w, answer.Code, "", message.Error)
}

// exchange gives a token of an hour for an id token that a repository trusts.
func (h *hub) exchange(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		GrantType        string `json:"grant_type"`
		SubjectTokenType string `json:"subject_token_type"`
		SubjectToken     string `json:"subject_token"`
		Resource         string `json:"resource"`
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || r.Header.Get("Content-Type") != "application/json" ||
		asked.GrantType != "urn:ietf:params:oauth:grant-type:token-exchange" || asked.SubjectTokenType != "urn:ietf:params:oauth:token-type:id_token" {
		sayJSON(w, http.StatusBadRequest, map[string]string{"error": "invalid_request", "error_description": "Missing or malformed parameter"})
		return
	}
	if repo, ok := h.world.get().Publishers[asked.SubjectToken]; !ok || repo != asked.Resource {
		sayJSON(w, http.StatusBadRequest, map[string]string{"error": "invalid_grant", "error_description": "No trusted publisher matches"})
		return
	}
	token := make([]byte, 16)
	rand.Read(token)
	name := "hf_jwt_" + hex.EncodeToString(token)
	h.world.grant(name, Token{Write: true, Repo: asked.Resource}, time.Hour)
	sayJSON(w, http.StatusOK, map[string]any{"access_token": name, "token_type": "bearer", "expires_in": 3600,
		"issued_token_type": "urn:ietf:params:oauth:token-type:access_token"})
}

// say refuses in the Hub's way: in headers and in JSON.
func say(w http.ResponseWriter, status int, code, message string) {
	if code != "" {
		w.Header().Set("X-Error-Code", code)
	}
	if message != "" {
		w.Header().Set("X-Error-Message", strings.Join(strings.Fields(message), " "))
	}
	sayJSON(w, status, map[string]string{"error": message})
}

func sayJSON(w http.ResponseWriter, status int, value any) {
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
	}
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(value)
}

// pass hands on what hfd said.
func pass(w http.ResponseWriter, answer *httptest.ResponseRecorder) {
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.Code)
	w.Write(answer.Body.Bytes())
}
