package hftest_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/publisher/hftest"
)

// The official client confirms the server's behavior: what it creates and uploads in all three ways is what it lists and
// downloads, and it understands the server's refusals.
func TestOfficialClient(t *testing.T) {
	hub, official := hftest.Start(t), hftest.NewOfficial(t)
	hub.Set(hftest.Settings{LargeFrom: 10_000, PartsFrom: 100_000, PartSize: 40_000})
	const repo = "org/model"
	do := func(deed hftest.Deed, value any) {
		t.Helper()
		deed.Hub, deed.Repo, deed.Token = hub.URL, repo, hftest.WriteToken
		official.Do(deed, value)
	}
	do(hftest.Deed{Do: "create"}, nil)

	folder := t.TempDir()
	contents := map[string][]byte{"README.md": []byte("---\nlicense: mit\ntags: [gguf]\n---\n# A model\n"), "folder/basic.gguf": noise(20_000), "parts.gguf": noise(150_001)}
	files := map[string]string{}
	for path, content := range contents {
		files[path] = filepath.Join(folder, filepath.Base(path))
		if err := os.WriteFile(files[path], content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	parent := hub.Head(repo)
	hub.Take()
	var commit string
	do(hftest.Deed{Do: "upload", Files: files, Parent: parent}, &commit)
	stages := map[string]int{}
	for _, request := range hub.Take() {
		stages[request.Stage]++
		if request.Token && strings.Contains("put part download", request.Stage) {
			t.Errorf("%s with a token", request.Stage)
		}
	}
	if diff := cmp.Diff(map[string]int{"preupload": 1, "batch": 1, "put": 1, "part": 4, "complete": 1, "commit": 1}, stages); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if head := hub.Head(repo); head != commit {
		t.Errorf("the head is %s, the client's commit %s", head, commit)
	}

	var listed map[string]struct {
		Size  int64
		Large bool
	}
	do(hftest.Deed{Do: "list"}, &listed)
	delete(listed, ".gitattributes")
	for path, content := range contents {
		if got := listed[path]; got.Size != int64(len(content)) || got.Large != strings.HasSuffix(path, ".gguf") {
			t.Errorf("%s is listed as %+v", path, got)
		}
		to := filepath.Join(t.TempDir(), "back")
		do(hftest.Deed{Do: "download", Path: path, To: to}, nil)
		if back, err := os.ReadFile(to); err != nil || !bytes.Equal(back, content) {
			t.Errorf("%s came back with %d bytes of %d, %v", path, len(back), len(content), err)
		}
	}
	if len(listed) != len(contents) {
		t.Errorf("%d files listed, want %d", len(listed), len(contents))
	}
	var info struct{ Tags []string }
	do(hftest.Deed{Do: "info"}, &info)
	if !strings.Contains(strings.Join(info.Tags, " "), "gguf") {
		t.Errorf("the card's tags are %q", info.Tags)
	}

	status := func(deed hftest.Deed, want int) {
		t.Helper()
		deed.Hub, deed.Repo = hub.URL, repo
		var failed *hftest.OfficialError
		if err := official.Try(deed, nil); !errors.As(err, &failed) || failed.Status != want {
			t.Errorf("%s: %v, want status %d", deed.Do, err, want)
		}
	}
	status(hftest.Deed{Do: "create", Token: hftest.WriteToken}, http.StatusConflict)
	status(hftest.Deed{Do: "upload", Token: hftest.WriteToken, Files: files, Parent: parent}, http.StatusPreconditionFailed)
	status(hftest.Deed{Do: "upload", Token: hftest.ReadToken, Files: files}, http.StatusForbidden)
	status(hftest.Deed{Do: "upload", Token: "hf_unknown", Files: files}, http.StatusUnauthorized)
	hub.Set(hftest.Settings{Gated: []string{repo}})
	status(hftest.Deed{Do: "download", Token: hftest.StrangerToken, Path: "parts.gguf", To: filepath.Join(folder, "x")}, http.StatusForbidden)
	hub.Set(hftest.Settings{Private: []string{repo}})
	status(hftest.Deed{Do: "list", Token: hftest.StrangerToken}, http.StatusNotFound)
}

func noise(n int) []byte {
	random := rand.NewChaCha8([32]byte{byte(n)})
	b := make([]byte, n)
	_, _ = random.Read(b) // never fails
	return b
}
