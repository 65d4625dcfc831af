package hftest

import (
	"embed"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"testing"

	"github.com/waqasm86/llcuda-farm/publisher/prepared"
)

// An Official is the official client, @huggingface/hub, of the version that official/package-lock.json names.
type Official struct {
	t      testing.TB
	folder string
}

//go:embed official/.npmrc official/hub.mjs official/package-lock.json official/package.json
var official embed.FS

// NewOfficial installs the client, once for each lock file, in the user's cache.
func NewOfficial(t testing.TB) *Official {
	t.Helper()
	source, err := fs.Sub(official, "official")
	if err != nil {
		t.Fatal(err)
	}
	folder, err := prepared.Packages("huggingface-hub", source)
	if err != nil {
		t.Fatal(err)
	}
	return &Official{t: t, folder: folder}
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
