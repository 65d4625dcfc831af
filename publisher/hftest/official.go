package hftest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// An Official is the official client, @huggingface/hub, of the version that official/package-lock.json names.
type Official struct {
	t      testing.TB
	folder string
}

// NewOfficial installs the client, once for each lock file, in the user's cache.
func NewOfficial(t testing.TB) *Official {
	t.Helper()
	folder, err := installed()
	if err != nil {
		t.Fatal(err)
	}
	return &Official{t: t, folder: folder}
}

func installed() (string, error) {
	_, file, _, _ := runtime.Caller(0)
	source := filepath.Join(filepath.Dir(file), "official")
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	files := map[string][]byte{}
	for _, name := range []string{".npmrc", "hub.mjs", "package-lock.json", "package.json"} {
		data, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintln(sum, name, len(data))
		sum.Write(data)
		files[name] = data
	}
	parent := filepath.Join(cache, "llcuda", "hftest")
	folder := filepath.Join(parent, "official-"+hex.EncodeToString(sum.Sum(nil))[:16])
	if _, err := os.Stat(folder); err == nil {
		return folder, nil
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", err
	}
	beside, err := os.MkdirTemp(parent, "installing-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(beside)
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(beside, name), data, 0o644); err != nil {
			return "", err
		}
	}
	cmd := exec.Command("npm", "ci", "--no-audit", "--no-fund")
	cmd.Dir = beside
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("installing the official client: %w\n%s", err, said)
	}
	if err := os.Rename(beside, folder); err != nil {
		if _, there := os.Stat(folder); there == nil { // another test was faster
			return folder, nil
		}
		return "", err
	}
	return folder, nil
}

// A Deed is one thing that the official client does: see official/hub.mjs.
type Deed struct {
	Do         string            `json:"do"`
	Hub        string            `json:"hub,omitempty"`
	Token      string            `json:"token,omitempty"`
	Repo       string            `json:"repo,omitempty"`
	Visibility string            `json:"visibility,omitempty"`
	Files      map[string]string `json:"files,omitempty"` // path in the repository → file here
	Parent     string            `json:"parent,omitempty"`
	Path       string            `json:"path,omitempty"`
	Revision   string            `json:"revision,omitempty"`
	To         string            `json:"to,omitempty"`
	Cache      string            `json:"cache,omitempty"`
}

// An OfficialError is what the official client says when it fails.
type OfficialError struct {
	Message string
	Status  int // the Hub's, 0 where there is none
}

func (e *OfficialError) Error() string { return e.Message }

// Try does one thing; value takes what comes out of it, if not nil.
func (o *Official) Try(deed Deed, value any) error {
	o.t.Helper()
	argument, err := json.Marshal(deed)
	if err != nil {
		o.t.Fatal(err)
	}
	cmd := exec.Command("node", "hub.mjs", string(argument))
	cmd.Dir = o.folder
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		o.t.Fatalf("running the official client: %v\n%s", err, out)
	}
	var answer struct {
		Value  json.RawMessage
		Error  string
		Status int
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		o.t.Fatalf("the official client says %q: %v", out, err)
	}
	if answer.Error != "" {
		return &OfficialError{Message: answer.Error, Status: answer.Status}
	}
	if value == nil {
		return nil
	}
	return json.Unmarshal(answer.Value, value)
}

// Do is Try, and a failure ends the test.
func (o *Official) Do(deed Deed, value any) {
	o.t.Helper()
	if err := o.Try(deed, value); err != nil {
		o.t.Fatalf("the official client's %s: %v", deed.Do, err)
	}
}
