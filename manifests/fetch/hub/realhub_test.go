package hub

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
	"github.com/waqasm86/llcuda-farm/publisher/hftest"
)

// These tests use a real Hub, with its storage on another host, and the official client beside ours.

const realRepo = "org/model"

// fill has the official client upload a large file and a small one. It returns their contents.
func fill(t *testing.T, real *hftest.Hub, official *hftest.Official) map[string][]byte {
	t.Helper()
	weights := make([]byte, 3<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(weights) // never fails
	contents := map[string][]byte{"model.gguf": weights, "README.md": []byte("# A model\n"), "folder/notes.txt": []byte("small\n")}
	folder, files := t.TempDir(), map[string]string{}
	for path, content := range contents {
		files[path] = filepath.Join(folder, filepath.Base(path))
		if err := os.WriteFile(files[path], content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	real.Set(hftest.Settings{LargeFrom: 1 << 20})
	official.Do(hftest.Deed{Do: "create", Hub: real.URL, Token: hftest.WriteToken, Repo: realRepo}, nil)
	official.Do(hftest.Deed{Do: "upload", Hub: real.URL, Token: hftest.WriteToken, Repo: realRepo, Files: files}, nil)
	real.Take()
	return contents
}

func realClient(t *testing.T, real *hftest.Hub, token string) *Client {
	return &Client{Cache: t.TempDir(), Endpoint: real.URL, Token: token, RetryWait: 1, Transfer: &transfer.Client{FirstWait: 1}}
}

func stages(requests []hftest.Request) (list []string) {
	for _, r := range requests {
		list = append(list, strings.TrimSpace(r.Method+" "+r.Stage+" "+r.Range))
	}
	return list
}

func TestRealHub(t *testing.T) {
	real, official := hftest.Start(t), hftest.NewOfficial(t)
	contents := fill(t, real, official)
	weights := Ref{Repo: realRepo, Path: "model.gguf", Revision: "main"}
	want := Want{Size: int64(len(contents[weights.Path])), SHA256: sha256Of(string(contents[weights.Path]))}

	t.Run("redirect to another host", func(t *testing.T) {
		client := realClient(t, real, hftest.ReadToken)
		for path, content := range contents {
			got, err := client.Download(context.Background(), Ref{Repo: realRepo, Path: path, Revision: "main"}, Want{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if data, err := os.ReadFile(got.Path); err != nil || !bytes.Equal(data, content) {
				t.Errorf("%s: %d bytes of %d, %v", path, len(data), len(content), err)
			}
			if err := Verify(got.Path, Want{}); err != nil {
				t.Error(err)
			}
			if got.Commit != real.Head(realRepo) {
				t.Errorf("%s is of commit %s", path, got.Commit)
			}
		}
		for _, request := range real.Take() {
			// The storage would refuse it, as S3 does.
			if request.Stage == "download" && request.Token {
				t.Error("the token went to another host")
			}
		}
		got, err := client.Download(context.Background(), weights, want, nil)
		if err != nil || !got.Cached {
			t.Errorf("the second time: %+v, %v", got, err)
		}
		if diff := cmp.Diff([]string{"HEAD resolve"}, stages(real.Take())); diff != "" {
			t.Errorf("requests the second time (-want +got):\n%s", diff)
		}
	})

	t.Run("resume", func(t *testing.T) {
		client := realClient(t, real, "")
		// What an interrupted run left: the first half.
		partial := filepath.Join(client.Cache, "models--org--model", "blobs", want.SHA256+"."+ownPartial+".incomplete")
		if err := os.MkdirAll(filepath.Dir(partial), 0o777); err != nil {
			t.Fatal(err)
		}
		half := contents[weights.Path][:want.Size/2]
		if err := os.WriteFile(partial, half, 0o666); err != nil {
			t.Fatal(err)
		}
		got, err := client.Download(context.Background(), weights, want, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := Verify(got.Path, want); err != nil {
			t.Error(err)
		}
		log := real.Take()
		if !slices.ContainsFunc(log, func(r hftest.Request) bool { return r.Stage == "download" && strings.HasPrefix(r.Range, "bytes=") }) ||
			slices.ContainsFunc(log, func(r hftest.Request) bool {
				return r.Stage == "download" && (r.Range == "" || strings.HasPrefix(r.Range, "bytes=0-"))
			}) {
			t.Errorf("not only the second half was asked for: %q", stages(log))
		}
	})

	for name, fault := range map[string]hftest.Fault{
		"dropped answer":  {Stage: "resolve", Do: "drop", Count: 2},
		"dropped storage": {Stage: "download", Do: "drop", Count: 2},
		"503":             {Stage: "resolve", Do: "status", Status: 503, Count: 2},
		"429":             {Stage: "resolve", Do: "status", Status: 429, Header: map[string]string{"Retry-After": "0"}},
		"503 at storage":  {Stage: "download", Do: "status", Status: 503},
	} {
		t.Run(name, func(t *testing.T) {
			real.Fail(fault)
			got, err := realClient(t, real, hftest.ReadToken).Download(context.Background(), weights, want, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := Verify(got.Path, want); err != nil {
				t.Error(err)
			}
			if left := real.Unspent(); len(left) > 0 {
				t.Errorf("these did not happen: %+v", left)
			}
		})
	}
	real.Fail()

	for name, test := range map[string]struct {
		settings hftest.Settings
		token    string
		ref      Ref
		want     any
	}{
		"gated, anonymous":     {hftest.Settings{Gated: []string{realRepo}}, "", weights, new(*GatedError)},
		"gated, a stranger":    {hftest.Settings{Gated: []string{realRepo}}, hftest.StrangerToken, weights, new(*GatedError)},
		"gated, access":        {hftest.Settings{Gated: []string{realRepo}}, hftest.ReadToken, weights, nil},
		"private, anonymous":   {hftest.Settings{Private: []string{realRepo}}, "", weights, new(*RepositoryError)},
		"private, a stranger":  {hftest.Settings{Private: []string{realRepo}}, hftest.StrangerToken, weights, new(*RepositoryError)},
		"private, access":      {hftest.Settings{Private: []string{realRepo}}, hftest.WriteToken, weights, nil},
		"unknown token":        {hftest.Settings{}, "hf_unknown", weights, new(*TokenError)},
		"no such repository":   {hftest.Settings{}, hftest.ReadToken, Ref{Repo: "org/other", Path: "x", Revision: "main"}, new(*RepositoryError)},
		"no such revision":     {hftest.Settings{}, hftest.ReadToken, Ref{Repo: realRepo, Path: "README.md", Revision: "v9"}, new(*RevisionError)},
		"no such file":         {hftest.Settings{}, hftest.ReadToken, Ref{Repo: realRepo, Path: "other.gguf", Revision: "main"}, new(*FileError)},
		"another digest":       {hftest.Settings{}, hftest.ReadToken, weights, new(*MismatchError)},
		"public, and no token": {hftest.Settings{}, "", weights, nil},
	} {
		t.Run(name, func(t *testing.T) {
			real.Set(test.settings)
			wanted := Want{}
			if name == "another digest" {
				wanted.SHA256 = strings.Repeat("0", 64)
			}
			got, err := realClient(t, real, test.token).Download(context.Background(), test.ref, wanted, nil)
			switch {
			case test.want == nil && err != nil:
				t.Fatal(err)
			case test.want == nil:
				if err := Verify(got.Path, want); err != nil {
					t.Error(err)
				}
			case !errors.As(err, test.want):
				t.Errorf("%v (%T), want a %T", err, err, test.want)
			}
		})
	}
}

// Neither downloads what the other has.
func TestCacheSharedWithOfficialClient(t *testing.T) {
	real, official := hftest.Start(t), hftest.NewOfficial(t)
	contents := fill(t, real, official)
	const path = "model.gguf" // not in a folder: the official scan does not look into those
	ref := Ref{Repo: realRepo, Path: path, Revision: "main"}
	head := real.Head(realRepo)
	type cached struct {
		Path      string
		Downloads int
	}

	t.Run("ours first", func(t *testing.T) {
		client := realClient(t, real, hftest.ReadToken)
		got, err := client.Download(context.Background(), ref, Want{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var scan struct {
			Warnings []string
			Files    []struct {
				Repo, Commit, Path, Blob string
				Refs                     []string
				Size                     int64
			}
		}
		official.Do(hftest.Deed{Do: "scan", Cache: client.Cache}, &scan)
		if len(scan.Warnings) > 0 || len(scan.Files) != 1 {
			t.Fatalf("the official client finds %+v", scan)
		}
		file := scan.Files[0]
		if file.Repo != realRepo || file.Commit != head || file.Path != got.Path || file.Size != got.Size || !slices.Equal(file.Refs, []string{"main"}) {
			t.Errorf("the official client finds %+v, want %+v", file, got)
		}
		real.Take()
		for _, revision := range []string{"main", head} {
			var found cached
			official.Do(hftest.Deed{Do: "cache", Hub: real.URL, Repo: realRepo, Path: path, Revision: revision, Cache: client.Cache}, &found)
			if data, err := os.ReadFile(found.Path); err != nil || found.Downloads != 0 || !bytes.Equal(data, contents[path]) {
				t.Errorf("at %s: %d downloads, %d bytes, %v", revision, found.Downloads, len(data), err)
			}
		}
		for _, request := range real.Take() {
			if request.Stage == "resolve" || request.Stage == "download" {
				t.Errorf("the official client asked for what the cache has: %+v", request)
			}
		}
	})

	t.Run("theirs first", func(t *testing.T) {
		client := realClient(t, real, hftest.ReadToken)
		var first cached
		official.Do(hftest.Deed{Do: "cache", Hub: real.URL, Repo: realRepo, Path: path, Revision: head, Cache: client.Cache}, &first)
		if first.Downloads == 0 {
			t.Fatal("the official client downloaded nothing")
		}
		real.Take()
		// By commit, the network is not needed at all; by branch, to ask which commit that is.
		for revision, want := range map[string][]string{head: nil, "main": {"HEAD resolve"}} {
			got, err := client.Download(context.Background(), Ref{Repo: realRepo, Path: path, Revision: revision}, Want{}, nil)
			if err != nil || !got.Cached {
				t.Errorf("at %s: %+v, %v", revision, got, err)
				continue
			}
			if err := Verify(got.Path, Want{SHA256: sha256Of(string(contents[path]))}); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(want, stages(real.Take())); diff != "" {
				t.Errorf("requests at %s (-want +got):\n%s", revision, diff)
			}
		}
		offline := *client
		offline.Offline = true
		if _, err := offline.Download(context.Background(), ref, Want{}, nil); err != nil {
			t.Errorf("offline: %v", err)
		}
	})

	// What our client brought, the official one uploads to another repository: nothing was lost on the way.
	t.Run("round trip", func(t *testing.T) {
		got, err := realClient(t, real, "").Download(context.Background(), ref, Want{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		const copied = "org/copy"
		official.Do(hftest.Deed{Do: "create", Hub: real.URL, Token: hftest.WriteToken, Repo: copied}, nil)
		real.Take()
		official.Do(hftest.Deed{Do: "upload", Hub: real.URL, Token: hftest.WriteToken, Repo: copied, Files: map[string]string{"copy.gguf": got.Path}}, nil)
		for _, request := range real.Take() {
			if request.Stage == "put" {
				t.Error("the storage did not know the bytes again")
			}
		}
		files, _ := real.Files(copied)
		if diff := cmp.Diff(map[string]hftest.Listed{"copy.gguf": {Size: got.Size, SHA256: sha256Of(string(contents[path])), Large: true}}, files); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}
