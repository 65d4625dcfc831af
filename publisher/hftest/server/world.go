package main

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Token is what its bearer may do.
type Token struct {
	Write bool `json:"write"`
	// Repo confines it to one repository, if not empty.
	Repo string `json:"repo"`
	// Gated says that its owner was given access to the gated repositories.
	Gated bool `json:"gated"`
}

// Settings are what tests change about the Hub.
type Settings struct {
	Tokens map[string]Token `json:"tokens"`
	// Publishers are the id tokens that can be exchanged, with the repository that trusts them.
	Publishers map[string]string `json:"publishers"`
	Private    []string          `json:"private"`
	Gated      []string          `json:"gated"`
	// Ignored are files that the repositories' .gitignore leaves out.
	Ignored []string `json:"ignored"`
	// LargeFrom is the size in bytes from which a file goes to LFS storage whatever its name.
	LargeFrom int64 `json:"large_from"`
	// PartsFrom is the size from which an upload has parts, PartSize theirs.
	PartsFrom int64 `json:"parts_from"`
	PartSize  int64 `json:"part_size"`
	// URLSeconds is how long signed addresses of the storage are good for.
	URLSeconds int `json:"url_seconds"`
}

// A Fault is something that goes wrong.
type Fault struct {
	// Stage is the kind of request it befalls: see hubStage and storageStage.
	Stage string `json:"stage"`
	// Skip is how many of them it lets pass first.
	Skip int `json:"skip"`
	// Count is how many it befalls: 0 means one, below 0 all.
	Count int `json:"count"`
	// Do is what happens:
	//
	//	drop         Bytes of the body are read, then the connection ends
	//	drop-after   the request is carried out, then the connection ends
	//	status       Status is answered, with Header and Body
	//	status-after the request is carried out, then Status is answered
	//	stall        Bytes of the body are read, then nothing more happens
	//	revoke       the request's token is forgotten, then the request continues
	//	overtake     another client's commit comes in between
	//	expire       the address has expired
	Do     string            `json:"do"`
	Bytes  int64             `json:"bytes"`
	Status int               `json:"status"`
	Header map[string]string `json:"header"`
	Body   string            `json:"body"`
}

// A Request is one line of the log.
type Request struct {
	Stage  string `json:"stage"`
	Method string `json:"method"`
	Path   string `json:"path"`
	Range  string `json:"range"`
	// Status is 0 where the connection was dropped.
	Status int   `json:"status"`
	Bytes  int64 `json:"bytes"`
	// Token says that it had an Authorization header.
	Token bool `json:"token"`
}

// A world is what the hub, its storage and the tests share.
type world struct {
	mu       sync.Mutex
	settings Settings
	faults   []*Fault
	log      []Request
	expiries map[string]time.Time // of tokens that were exchanged
}

func newWorld() *world { return &world{settings: defaults(), expiries: map[string]time.Time{}} }

func defaults() Settings {
	return Settings{
		Tokens:    map[string]Token{"hf_write": {Write: true, Gated: true}, "hf_read": {Gated: true}, "hf_stranger": {}},
		LargeFrom: 10 << 20, PartsFrom: 64 << 20, PartSize: 16 << 20, URLSeconds: 3600,
	}
}

func (w *world) get() Settings {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.settings
}

// fault takes the next fault of a stage, if its turn has come.
func (w *world) fault(stage string) *Fault {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, f := range w.faults {
		if f.Stage != stage {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			return nil
		}
		hit := *f
		if f.Count--; f.Count == 0 || f.Count == -1 && hit.Count == 0 {
			w.faults = slices.Delete(w.faults, i, i+1)
		}
		return &hit
	}
	return nil
}

func (w *world) record(r Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, r)
}

// token returns what a request's token allows. known is false for a token that was never issued; a request without a
// token is anonymous.
func (w *world) token(r *http.Request) (t Token, anonymous, known bool) {
	name, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return Token{}, true, true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if expiry, ok := w.expiries[name]; ok && time.Now().After(expiry) {
		return Token{}, false, false
	}
	t, known = w.settings.Tokens[name]
	return t, false, known
}

func (w *world) revoke(r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.settings.Tokens, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
}

func (w *world) grant(name string, t Token, lifetime time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settings.Tokens[name] = t
	w.expiries[name] = time.Now().Add(lifetime)
}

// ServeHTTP is the tests' side: PUT /settings, PUT /faults, and GET /log, which empties it.
func (w *world) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	var err error
	switch r.Method + " " + r.URL.Path {
	case "PUT /settings":
		s := defaults()
		if err = json.NewDecoder(r.Body).Decode(&s); err == nil {
			w.mu.Lock()
			w.settings = s
			w.mu.Unlock()
		}
	case "PUT /faults":
		var faults []*Fault
		if err = json.NewDecoder(r.Body).Decode(&faults); err == nil {
			w.mu.Lock()
			w.faults = faults
			w.mu.Unlock()
		}
	case "GET /faults":
		w.mu.Lock()
		defer w.mu.Unlock()
		err = json.NewEncoder(out).Encode(w.faults)
	case "GET /log":
		w.mu.Lock()
		defer w.mu.Unlock()
		err = json.NewEncoder(out).Encode(w.log)
		w.log = nil
	default:
		http.NotFound(out, r)
	}
	if err != nil {
		http.Error(out, err.Error(), http.StatusBadRequest)
	}
}
