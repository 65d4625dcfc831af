package ghtest

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

//go:embed testdata/octokit testdata/octokit/.npmrc
var octokit embed.FS

// Octokit is a folder with GitHub's own client, the recorded traffic, and the script that uses the client: what
// testdata/octokit names, installed from the npm registry once for each lock file, in the user's cache.
func Octokit(t testing.TB) string {
	t.Helper()
	folder, err := installed()
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

func installed() (string, error) {
	source, err := fs.Sub(octokit, "testdata/octokit")
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	err = fs.WalkDir(source, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(source, name)
		fmt.Fprintf(sum, "%s %d\n%s", name, len(data), data)
		return err
	})
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	parent := filepath.Join(cache, "llcuda", "ghtest")
	folder := filepath.Join(parent, "octokit-"+hex.EncodeToString(sum.Sum(nil))[:16])
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
	if err := os.CopyFS(beside, source); err != nil {
		return "", err
	}
	cmd := exec.Command("npm", "ci", "--no-audit", "--no-fund")
	cmd.Dir = beside
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("installing GitHub's client: %w\n%s", err, said)
	}
	if err := os.Rename(beside, folder); err != nil {
		if _, there := os.Stat(folder); there == nil { // another test was faster
			return folder, nil
		}
		return "", err
	}
	return folder, nil
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
