package hub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/retry"
)

func newClient(t *testing.T, s *server) *Client {
	return &Client{Cache: filepath.Join(t.TempDir(), "hub"), Endpoint: s.URL, RetryWait: time.Millisecond}
}

func download(t *testing.T, c *Client, name string, want Want) (Result, error) {
	t.Helper()
	n, err := ParseName(name, c.endpoint())
	if err != nil {
		t.Fatal(err)
	}
	return c.Download(t.Context(), n.ref(n.Path), want, nil)
}

func get(t *testing.T, c *Client, name string, want Want) Result {
	t.Helper()
	result, err := download(t, c, name, want)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return result
}

func refuse(t *testing.T, c *Client, name string, want Want) error {
	t.Helper()
	result, err := download(t, c, name, want)
	if err == nil {
		t.Fatalf("%s: got %+v, want an error", name, result)
	}
	return err
}

// tree lists a folder: links with their targets, small files with their content.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	list := map[string]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, _ := filepath.Rel(root, path)
		if entry.Type()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(path)
			list[name] = "-> " + target
			return err
		}
		data, err := os.ReadFile(path)
		if len(data) > 100 {
			data = fmt.Appendf(nil, "%d bytes", len(data))
		}
		list[name] = string(data)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return list
}

func TestLayout(t *testing.T) {
	s := newServer(t)
	c := newClient(t, s)
	weights := s.files[commit1]["model.gguf"]
	result := get(t, c, "org/model:model.gguf", Want{Size: int64(len(weights)), SHA256: sha256Of(weights)})
	want := Result{Path: filepath.Join(c.Cache, "models--org--model/snapshots", commit1, "model.gguf"), Commit: commit1, Size: int64(len(weights))}
	if diff := cmp.Diff(want, result); diff != "" {
		t.Error(diff)
	}
	get(t, c, "org/model:README.md@refs/pr/1", Want{})
	get(t, c, "org/model:folder/a b#?.gguf@"+commit1, Want{})
	refuse(t, c, "org/model:config.json", Want{})

	small, readme := sha256Of("small"), blobOf("# Another\n")
	if diff := cmp.Diff(map[string]string{
		"CACHEDIR.TAG": fmt.Sprintf("%d bytes", len(cacheTag)),
		".locks/models--org--model/" + sha256Of(weights) + ".lock":       "",
		".locks/models--org--model/" + small + ".lock":                   "",
		".locks/models--org--model/" + readme + ".lock":                  "",
		"models--org--model/.no_exist/" + commit1 + "/config.json":       "",
		"models--org--model/blobs/" + sha256Of(weights):                  "32768 bytes",
		"models--org--model/blobs/" + small:                              "small",
		"models--org--model/blobs/" + readme:                             "# Another\n",
		"models--org--model/refs/main":                                   commit1,
		"models--org--model/refs/refs/pr/1":                              commit2,
		"models--org--model/snapshots/" + commit1 + "/model.gguf":        "-> ../../blobs/" + sha256Of(weights),
		"models--org--model/snapshots/" + commit1 + "/folder/a b#?.gguf": "-> ../../../blobs/" + small,
		"models--org--model/snapshots/" + commit2 + "/README.md":         "-> ../../blobs/" + readme,
	}, tree(t, c.Cache)); diff != "" {
		t.Error(diff)
	}
	for _, path := range []string{result.Path, filepath.Join(c.Cache, "models--org--model/snapshots", commit2, "README.md")} {
		if err := Verify(path, Want{}); err != nil {
			t.Error(err)
		}
	}
}

func TestNoNetwork(t *testing.T) {
	s := newServer(t)
	c := newClient(t, s)
	get(t, c, "org/model:model.gguf", Want{})
	s.take()

	t.Run("a commit is not asked for", func(t *testing.T) {
		if r := get(t, c, "org/model:model.gguf@"+commit1, Want{}); !r.Cached {
			t.Errorf("%+v is not from the cache", r)
		}
		if list := s.take(); list != nil {
			t.Errorf("the server saw %q", list)
		}
	})
	t.Run("a branch is asked for once", func(t *testing.T) {
		if r := get(t, c, "org/model:model.gguf", Want{}); !r.Cached || r.Unasked != nil {
			t.Errorf("%+v is not from the cache", r)
		}
		if diff := cmp.Diff([]string{"HEAD /org/model/resolve/main/model.gguf"}, s.take()); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("offline", func(t *testing.T) {
		offline := *c
		offline.Offline = true
		if r := get(t, &offline, "org/model:model.gguf", Want{}); !r.Cached || r.Commit != commit1 {
			t.Errorf("%+v is not from the cache", r)
		}
		for _, name := range []string{"org/model:README.md", "org/model:model.gguf@v1", "org/model:model.gguf@" + commit2, "org/other:model.gguf"} {
			var missing *OfflineError
			if err := refuse(t, &offline, name, Want{}); !errors.As(err, &missing) || missing.Cache != c.Cache {
				t.Errorf("%s: %v", name, err)
			}
		}
		var mismatch *MismatchError
		if err := refuse(t, &offline, "org/model:model.gguf", Want{SHA256: sha256Of("else")}); !errors.As(err, &mismatch) {
			t.Error(err)
		}
		if list := s.take(); list != nil {
			t.Errorf("the server saw %q", list)
		}
	})
	t.Run("the Hub is down", func(t *testing.T) {
		s.set(func() { s.failures = 1 })
		r := get(t, c, "org/model:model.gguf", Want{})
		var network *NetworkError
		if !r.Cached || !errors.As(r.Unasked, &network) {
			t.Errorf("%+v does not say that the cache answered", r)
		}
		if got := len(s.take()); got != 1 {
			t.Errorf("the Hub was asked %d times although the cache has the file", got)
		}
	})
	t.Run("the Hub has removed it", func(t *testing.T) {
		s.set(func() { delete(s.files[commit1], "model.gguf") })
		var missing *FileError
		if err := refuse(t, c, "org/model:model.gguf", Want{}); !errors.As(err, &missing) {
			t.Error(err)
		}
	})
}

func TestSharedWithOthers(t *testing.T) {
	s := newServer(t)
	c := newClient(t, s)
	weights := s.files[commit1]["model.gguf"]
	get(t, c, "org/model:model.gguf", Want{})
	s.take()
	// Another revision has the same bytes.
	if r := get(t, c, "org/model:model.gguf@refs/pr/1", Want{}); !r.Cached || r.Commit != commit2 {
		t.Errorf("%+v is not from the cache", r)
	}
	if diff := cmp.Diff([]string{"HEAD /org/model/resolve/refs%2Fpr%2F1/model.gguf"}, s.take()); diff != "" {
		t.Error(diff)
	}

	// A truncated blob, and a partial file that is resumed.
	blob := filepath.Join(c.Cache, "models--org--model/blobs", sha256Of(weights))
	if err := os.Truncate(blob, 1000); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(blob+".6c6c6375.incomplete", []byte(weights[:30000]), 0o666); err != nil {
		t.Fatal(err)
	}
	if r := get(t, c, "org/model:model.gguf", Want{}); r.Cached {
		t.Error("half a file was taken for a whole one")
	}
	if got, _ := os.ReadFile(blob); string(got) != weights {
		t.Errorf("the blob has %d bytes that are not the file's", len(got))
	}
	if list := s.take(); !strings.HasPrefix(list[len(list)-1], "GET cdn bytes=30000-") {
		t.Errorf("the download did not go on: %q", list)
	}
}

func TestLocks(t *testing.T) {
	s := newServer(t)
	c := newClient(t, s)
	weights := s.files[commit1]["model.gguf"]
	lock := filepath.Join(c.Cache, ".locks/models--org--model", sha256Of(weights)+".lock")
	if err := os.MkdirAll(filepath.Dir(lock), 0o777); err != nil {
		t.Fatal(err)
	}
	other := flock.New(lock)
	if err := other.Lock(); err != nil {
		t.Fatal(err)
	}
	// The other process is done, and removes its lock file as Python's filelock does.
	c.Waiting = func(path string) {
		if path != lock {
			t.Errorf("waiting for %s, want %s", path, lock)
		}
		if err := errors.Join(os.Remove(lock), other.Unlock()); err != nil {
			t.Error(err)
		}
	}
	if r := get(t, c, "org/model:model.gguf", Want{}); r.Cached {
		t.Errorf("%+v", r)
	}
	if _, err := os.Stat(lock); err != nil {
		t.Errorf("the download ran on a lock that was gone: %v", err)
	}

	t.Run("given up", func(t *testing.T) {
		c := newClient(t, s)
		lock := filepath.Join(c.Cache, ".locks/models--org--model", sha256Of(weights)+".lock")
		if err := os.MkdirAll(filepath.Dir(lock), 0o777); err != nil {
			t.Fatal(err)
		}
		other := flock.New(lock)
		if err := other.Lock(); err != nil {
			t.Fatal(err)
		}
		defer other.Unlock()
		ctx, cancel := context.WithCancel(t.Context())
		c.Waiting = func(string) { cancel() }
		_, err := c.Download(ctx, Ref{Repo: "org/model", Path: "model.gguf", Revision: "main"}, Want{}, nil)
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Run("many at once download once", func(t *testing.T) {
		c := newClient(t, s)
		s.take()
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() { get(t, c, "org/model:model.gguf", Want{}) })
		}
		all.Wait()
		downloads := 0
		for _, r := range s.take() {
			if strings.HasPrefix(r, "GET cdn") {
				downloads++
			}
		}
		if downloads != 1 {
			t.Errorf("downloaded %d times", downloads)
		}
	})
}

func TestToken(t *testing.T) {
	s := newServer(t)
	c := newClient(t, s)
	c.Token = "hf_secret"
	s.set(func() { s.token = "hf_secret" })
	get(t, c, "org/model:model.gguf", Want{})
	get(t, c, "org/model:README.md", Want{})
	if s.leaked {
		t.Error("the token went to the content network")
	}
	c.Token = "hf_old"
	var token *TokenError
	if err := refuse(t, c, "org/model:folder/a b#?.gguf", Want{}); !errors.As(err, &token) || strings.Contains(err.Error(), "hf_") {
		t.Error(err)
	}
	c.Token = ""
	var repository *RepositoryError
	if err := refuse(t, c, "org/model:folder/a b#?.gguf", Want{}); !errors.As(err, &repository) || repository.Token {
		t.Error(err)
	}
}

func TestRenamed(t *testing.T) {
	s := newServer(t)
	c := newClient(t, s)
	r := get(t, c, "org/old-name:README.md", Want{})
	if data, err := os.ReadFile(r.Path); err != nil || string(data) != "# A model\n" {
		t.Errorf("%q, %v", data, err)
	}
}

func TestRefusals(t *testing.T) {
	tests := map[string]struct {
		name   string
		status int
		code   string
		is     func(error) bool
		asked  int
	}{
		"gated, not signed in": {"org/model:model.gguf", 401, "GatedRepo", as[*GatedError], 1},
		"gated, no access":     {"org/model:model.gguf", 403, "GatedRepo", as[*GatedError], 1},
		"forbidden":            {"org/model:model.gguf", 403, "", as[*RefusedError], 1},
		"private":              {"org/model:model.gguf", 401, "RepoNotFound", as[*RepositoryError], 1},
		"not signed in":        {"org/model:model.gguf", 401, "", as[*RepositoryError], 1},
		"no such repository":   {"org/nothing:model.gguf", 0, "", as[*RepositoryError], 1},
		"no such revision":     {"org/model:model.gguf@v9", 0, "", as[*RevisionError], 1},
		"no such file":         {"org/model:nothing.gguf", 0, "", as[*FileError], 1},
		"no codes":             {"org/model:nothing.gguf", 404, "", as[*FileError], 1},
		"too many requests":    {"org/model:model.gguf", 429, "", as[*NetworkError], retry.Tries},
		"down":                 {"org/model:model.gguf", 502, "", as[*NetworkError], retry.Tries},
		"another server":       {"org/model:model.gguf", 204, "", as[*NetworkError], 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			s.set(func() { s.status, s.code = test.status, test.code })
			c := newClient(t, s)
			err := refuse(t, c, test.name, Want{})
			if !test.is(err) {
				t.Errorf("got %T: %v", err, err)
			}
			if got := len(s.take()); got != test.asked {
				t.Errorf("asked %d times, want %d", got, test.asked)
			}
			for path := range tree(t, c.Cache) {
				if strings.Contains(path, "/snapshots/") || strings.Contains(path, "/blobs/") {
					t.Errorf("%s is left", path)
				}
			}
		})
	}
}

func as[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

func TestRetries(t *testing.T) {
	s := newServer(t)
	c := newClient(t, s)
	s.set(func() { s.failures = retry.Tries - 1 })
	if r := get(t, c, "org/model:model.gguf", Want{}); r.Unasked != nil {
		t.Errorf("%+v", r)
	}
}

func TestMismatch(t *testing.T) {
	s := newServer(t)
	tests := map[string]struct {
		name string
		want Want
		lie  string
		what string
	}{
		"size":                   {"org/model:model.gguf", Want{Size: 5}, "", "size"},
		"digest of the Hub":      {"org/model:model.gguf", Want{SHA256: sha256Of("else")}, "", "sha256"},
		"bytes of a file in git": {"org/model:README.md", Want{}, "# B model\n", "git blob id"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s.set(func() { s.lie = test.lie })
			c := newClient(t, s)
			err := refuse(t, c, test.name, test.want)
			var mismatch *MismatchError
			if !errors.As(err, &mismatch) || mismatch.What != test.what {
				t.Errorf("got %v", err)
			}
			for path := range tree(t, c.Cache) {
				if strings.Contains(path, "/snapshots/") || strings.Contains(path, "/blobs/") {
					t.Errorf("%s is left", path)
				}
			}
		})
	}
}

func TestNoLinks(t *testing.T) {
	s := newServer(t)
	c := newClient(t, s)
	c.NoLinks = true
	first := get(t, c, "org/model:README.md", Want{})
	if info, err := os.Lstat(first.Path); err != nil || !info.Mode().IsRegular() {
		t.Errorf("%v, %v", info, err)
	}
	if again := get(t, c, "org/model:README.md", Want{SHA256: sha256Of("# A model\n")}); !again.Cached {
		t.Error("downloaded twice")
	}
	// A blob that a client with links left is copied, not taken away.
	c.NoLinks = false
	get(t, c, "org/model:model.gguf", Want{})
	c.NoLinks = true
	get(t, c, "org/model:model.gguf@refs/pr/1", Want{})
	for _, path := range []string{"blobs/" + sha256Of(s.files[commit1]["model.gguf"]), "snapshots/" + commit2 + "/model.gguf"} {
		if info, err := os.Lstat(filepath.Join(c.Cache, "models--org--model", path)); err != nil || !info.Mode().IsRegular() {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
}

func TestVerify(t *testing.T) {
	s := newServer(t)
	c := newClient(t, s)
	for _, name := range []string{"org/model:README.md", "org/model:model.gguf"} {
		path := get(t, c, name, Want{}).Path
		data, _ := os.ReadFile(path)
		data[0] ^= 1
		if err := os.WriteFile(path, data, 0o666); err != nil {
			t.Fatal(err)
		}
		if err := Verify(path, Want{}); !as[*MismatchError](err) {
			t.Errorf("%s: a changed byte gave %v", name, err)
		}
	}
}
