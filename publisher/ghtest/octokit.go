package ghtest

import (
	"embed"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/waqasm86/llcuda-farm/publisher/prepared"
)

//go:embed testdata/octokit testdata/octokit/.npmrc
var octokit embed.FS

// Octokit is a folder with GitHub's own client, the recorded traffic, and the script that uses the client: what
// testdata/octokit names, installed from the npm registry once for each lock file, in the user's cache.
func Octokit(t testing.TB) string {
	t.Helper()
	source, err := fs.Sub(octokit, "testdata/octokit")
	if err != nil {
		t.Fatal(err)
	}
	folder, err := prepared.Packages("octokit", source)
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

// A Recorded is one request and its answer, as GitHub's engineers recorded them.
type Recorded struct {
	Scope    string          `json:"scope"`
	Method   string          `json:"method"`
	Path     string          `json:"path"`
	Body     any             `json:"body"`
	Status   int             `json:"status"`
	Response json.RawMessage `json:"response"`
}

// Recording is the recorded traffic of a scenario: "release-assets", "release-assets-conflict".
func Recording(t testing.TB, scenario string) []Recorded {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(Octokit(t), "node_modules/@octokit/fixtures/scenarios/api.github.com", scenario, "normalized-fixture.json"))
	if err != nil {
		t.Fatal(err)
	}
	var list []Recorded
	if err := json.Unmarshal(data, &list); err != nil {
		t.Fatal(err)
	}
	return list
}
