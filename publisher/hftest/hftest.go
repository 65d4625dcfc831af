// Package hftest runs a real Hub for tests: repositories in git, large files in an S3 storage on a host of its own, tokens,
// gated and private repositories, uploads in parts. What goes wrong with it, and when, the tests say.
//
// The tests of publisher/hfhub, of ci's publish command and of the client's cache call it. The server is the program in
// the folder server, a module of its own (so that its dependencies stay out of this one), compiled once for each content
// of that folder and kept in the user's cache. The official client, @huggingface/hub, vouches for it: see Official.
package hftest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/waqasm86/llcuda-farm/publisher/prepared"
)

// The tokens that a Hub knows from the start.
const (
	WriteToken    = "hf_write"    // may do everything
	ReadToken     = "hf_read"     // may read, gated repositories too
	StrangerToken = "hf_stranger" // may read what is public
)

// A Token is what its bearer may do.
type Token struct {
	Write bool   `json:"write"`
	Repo  string `json:"repo"`  // confines it to one repository, if not empty
	Gated bool   `json:"gated"` // its owner was given access to the gated repositories
}

// Settings are what tests change about a Hub. What is left zero is the Hub's default.
type Settings struct {
	Tokens     map[string]Token  `json:"tokens,omitempty"`     // more than those of the start
	Publishers map[string]string `json:"publishers,omitempty"` // id token → the repository that trusts it
	Private    []string          `json:"private,omitempty"`
	Gated      []string          `json:"gated,omitempty"`
	Ignored    []string          `json:"ignored,omitempty"`     // paths that .gitignore leaves out
	LargeFrom  int64             `json:"large_from,omitempty"`  // bytes from which a file goes to LFS; 10 MiB
	PartsFrom  int64             `json:"parts_from,omitempty"`  // bytes from which an upload has parts; 64 MiB
	PartSize   int64             `json:"part_size,omitempty"`   // 16 MiB
	URLSeconds int               `json:"url_seconds,omitempty"` // how long signed addresses are good for; an hour
}

// A Fault is something that goes wrong: see the type of the same name in server/world.go for its stages and deeds.
type Fault struct {
	Stage  string            `json:"stage"`
	Do     string            `json:"do"`
	Skip   int               `json:"skip,omitempty"`  // how many requests pass first
	Count  int               `json:"count,omitempty"` // how many it befalls: 0 is one, below 0 all
	Bytes  int64             `json:"bytes,omitempty"` // of the body, that are read first
	Status int               `json:"status,omitempty"`
	Header map[string]string `json:"header,omitempty"`
	Body   string            `json:"body,omitempty"`
}

// A Request is a request that the Hub or its storage received.
type Request struct {
	Stage  string `json:"stage"`
	Method string `json:"method"`
	Path   string `json:"path"`
	Range  string `json:"range"`
	Status int    `json:"status"` // 0 where the connection was dropped
	Bytes  int64  `json:"bytes"`  // read of its body
	Token  bool   `json:"token"`  // it had an Authorization header
}

// A Hub is a running server.
type Hub struct {
	URL, Storage string

	t       testing.TB
	control string
}

// Start runs a Hub until the test ends.
func Start(t testing.TB) *Hub {
	t.Helper()
	program, err := compiled()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, t.TempDir())
	cmd.Stderr = os.Stderr
	// git, which the server calls, must not read this machine's configuration.
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close() // which ends it
		cmd.Wait()
	})
	var addresses struct{ Hub, Storage, Control string }
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &addresses)
	}
	if err != nil {
		t.Fatalf("the Hub says %q: %v", line, err)
	}
	return &Hub{URL: addresses.Hub, Storage: addresses.Storage, control: addresses.Control, t: t}
}

// compiled is the server's program.
func compiled() (string, error) {
	_, file, _, _ := runtime.Caller(0)
	return prepared.Program("hub", filepath.Join(filepath.Dir(file), "server"))
}

// Set changes the Hub's settings.
func (h *Hub) Set(s Settings) {
	h.t.Helper()
	tokens := map[string]Token{WriteToken: {Write: true, Gated: true}, ReadToken: {Gated: true}, StrangerToken: {}}
	for name, token := range s.Tokens {
		tokens[name] = token
	}
	s.Tokens = tokens
	h.put("settings", s)
}

// Fail makes these faults happen from now on, and no others.
func (h *Hub) Fail(faults ...Fault) {
	h.t.Helper()
	if faults == nil {
		faults = []Fault{}
	}
	h.put("faults", faults)
}

// Unspent are the faults that have not happened, so that a test can tell that its faults did.
func (h *Hub) Unspent() []Fault {
	h.t.Helper()
	var faults []Fault
	h.read("faults", &faults)
	return faults
}

// Take returns the requests since its last call.
func (h *Hub) Take() []Request {
	h.t.Helper()
	var log []Request
	h.read("log", &log)
	return log
}

func (h *Hub) put(name string, value any) {
	h.t.Helper()
	body, err := json.Marshal(value)
	if err != nil {
		h.t.Fatal(err)
	}
	request, err := http.NewRequest(http.MethodPut, h.control+"/"+name, bytes.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	h.send(request)
}

func (h *Hub) read(name string, value any) {
	h.t.Helper()
	request, err := http.NewRequest(http.MethodGet, h.control+"/"+name, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := json.Unmarshal(h.send(request), value); err != nil {
		h.t.Fatal(err)
	}
}

// Get reads an address of the Hub with WriteToken.
func (h *Hub) Get(path string) []byte {
	h.t.Helper()
	request, err := http.NewRequest(http.MethodGet, h.URL+path, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+WriteToken)
	return h.send(request)
}

func (h *Hub) send(request *http.Request) []byte {
	h.t.Helper()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		h.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode/100 != 2 {
		h.t.Fatalf("%s %s: %s: %s %v", request.Method, request.URL, response.Status, body, err)
	}
	return body
}

// A Listed is a file in the head of a repository.
type Listed struct {
	Size int64
	// SHA256 is that of its content, as read through the Hub and its storage now.
	SHA256 string
	// Large says that it lies in LFS storage.
	Large bool
}

// Files reads everything in the head of a repository, and how many commits led there.
func (h *Hub) Files(repo string) (files map[string]Listed, commits int) {
	h.t.Helper()
	var tree []struct {
		Type, Path string
		LFS        *struct{ OID string }
	}
	if err := json.Unmarshal(h.Get("/api/models/"+repo+"/tree/main?recursive=true"), &tree); err != nil {
		h.t.Fatal(err)
	}
	files = map[string]Listed{}
	for _, entry := range tree {
		if entry.Type != "file" || entry.Path == ".gitattributes" {
			continue
		}
		content := h.Read(repo, "main", entry.Path)
		sum := sha256.Sum256(content)
		listed := Listed{Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:]), Large: entry.LFS != nil}
		if listed.Large && entry.LFS.OID != listed.SHA256 {
			h.t.Errorf("%s of %s has the digest %s, its pointer says %s", entry.Path, repo, listed.SHA256, entry.LFS.OID)
		}
		files[entry.Path] = listed
	}
	return files, len(h.Commits(repo, 1000))
}

// A Commit is one of a repository's history.
type Commit struct{ ID, Title string }

// Commits are the newest so many of a repository, the newest first.
func (h *Hub) Commits(repo string, limit int) (log []Commit) {
	h.t.Helper()
	if err := json.Unmarshal(h.Get(fmt.Sprintf("/api/models/%s/commits/main?limit=%d", repo, limit)), &log); err != nil {
		h.t.Fatal(err)
	}
	return log
}

// Large lists the digests of the files of a repository's head that lie in LFS storage. The Hub has read their bytes.
func (h *Hub) Large(repo string) map[string]string {
	h.t.Helper()
	var tree []struct {
		Path string
		LFS  *struct{ OID string }
	}
	if err := json.Unmarshal(h.Get("/api/models/"+repo+"/tree/main?recursive=true"), &tree); err != nil {
		h.t.Fatal(err)
	}
	large := map[string]string{}
	for _, entry := range tree {
		if entry.LFS != nil {
			large[entry.Path] = entry.LFS.OID
		}
	}
	return large
}

// Read downloads a file, following the Hub to its storage.
func (h *Hub) Read(repo, revision, path string) []byte {
	h.t.Helper()
	return h.Get("/" + repo + "/resolve/" + revision + "/" + path)
}

// Head is the commit at the head of a repository.
func (h *Hub) Head(repo string) string {
	h.t.Helper()
	var info struct{ SHA string }
	if err := json.Unmarshal(h.Get("/api/models/"+repo+"/revision/main"), &info); err != nil {
		h.t.Fatal(err)
	}
	return info.SHA
}
