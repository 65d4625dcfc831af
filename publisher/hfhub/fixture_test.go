package hfhub

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/publisher/hftest"
)

const repo = "org/models"

var settings = hftest.Settings{LargeFrom: 10_000, PartsFrom: 100_000, PartSize: 40_000}

func startHub(t testing.TB) *hftest.Hub {
	hub := hftest.Start(t)
	hub.Set(settings)
	return hub
}

func newClient(hub *hftest.Hub, token string) *Client {
	return &Client{Endpoint: hub.URL, Tokens: StaticToken(token), FirstWait: time.Millisecond, Stall: 20 * time.Second}
}

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return b
}

// sample is one file of each kind.
func sample(t testing.TB, seed byte) []File {
	t.Helper()
	folder := t.TempDir()
	files := []File{{Path: "README.md", Content: fmt.Appendf(nil, "---\nlicense: mit\n---\n# Sample %d\n", seed)}}
	for name, size := range map[string]int{"folder/small.txt": smallSize, "basic.gguf": basicSize, "parts.gguf": partsSize} {
		local := filepath.Join(folder, filepath.Base(name))
		if err := os.WriteFile(local, noise(seed, size), 0o644); err != nil {
			t.Fatal(err)
		}
		files = append(files, File{Path: name, Local: local})
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return files
}

func these(files []File) BuildFunc {
	return func(context.Context, *Head) ([]File, error) { return files, nil }
}

// listed is what the Hub must have of files.
func listed(t testing.TB, files []File) map[string]hftest.Listed {
	t.Helper()
	want := map[string]hftest.Listed{}
	for _, f := range files {
		content := f.Content
		if f.Local != "" {
			var err error
			if content, err = os.ReadFile(f.Local); err != nil {
				t.Fatal(err)
			}
		}
		sum := sha256.Sum256(content)
		want[f.Path] = hftest.Listed{Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:]), Large: len(content) >= 10_000}
	}
	return want
}

// mustHold asserts the final state: these files, whole, nothing else, in so many commits after the
// Hub's first.
func mustHold(t testing.TB, hub *hftest.Hub, files []File, commits int) {
	t.Helper()
	got, count := hub.Files(repo)
	if diff := cmp.Diff(listed(t, files), got); diff != "" {
		t.Errorf("what the repository holds (-want +got):\n%s", diff)
	}
	if count != commits+1 {
		t.Errorf("%d commits, want %d and the first", count, commits)
	}
}

func count(log []hftest.Request) map[string]int {
	stages := map[string]int{}
	for _, r := range log {
		stages[r.Stage]++
	}
	return stages
}
