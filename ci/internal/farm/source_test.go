package farm

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestResolveSourceForms(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "")
	repo, commits := llamaRepo(t)
	plain := t.TempDir()
	writeTree(t, plain, llamaTree())
	checkout := filepath.Join(t.TempDir(), "checkout")
	mustGit(t, repo, "clone", "-q", "--branch", "v0.7.3", repo, checkout)
	bundle := filepath.Join(t.TempDir(), "b.bundle")
	mustGit(t, repo, "bundle", "create", "-q", bundle, "--all")
	archive := filepath.Join(t.TempDir(), "a.tar")
	mustGit(t, repo, "archive", "--prefix=llama.cpp-0.7.3/", "-o", archive, "v0.7.3")
	sums, err := hashTree(plain)
	if err != nil {
		t.Fatal(err)
	}
	digest := sums.digest
	cache := t.TempDir()
	fallback := time.Unix(fallbackEpoch, 0).UTC()
	tarball := func(how string) string { return save(t, "x", compressed(t, how, pack(t, "top/", llamaTree()))) }

	// The trees of v0.7.3 all have one digest, whichever way they came.
	tests := []struct {
		name, given string
		want        Source
	}{
		{"folder", plain, Source{Version: "0.7.3", Epoch: fallback}},
		{"work tree", checkout, Source{Commit: commits[1], Version: "0.7.3", Build: 2, Epoch: commitTime}},
		{"repository at a tag", repo + "@v0.7.3", Source{Commit: commits[1], Version: "0.7.3", Build: 2, Epoch: commitTime}},
		{"URL at a commit", "file://" + repo + "@" + commits[1], Source{Commit: commits[1], Version: "0.7.3", Build: 2, Epoch: commitTime}},
		{"URL at a short commit", "file://" + repo + "@" + commits[1][:9], Source{Commit: commits[1], Version: "0.7.3", Build: 2, Epoch: commitTime}},
		{"git bundle at a tag", bundle + "@v0.7.3", Source{Commit: commits[1], Version: "0.7.3", Build: 2, Epoch: commitTime}},
		{"tar of git archive", archive, Source{Commit: commits[1], Version: "0.7.3", Epoch: commitTime}},
		{"tar", tarball(""), Source{Version: "0.7.3", Epoch: commitTime}},
		{"tar.gz", tarball("gz"), Source{Version: "0.7.3", Epoch: commitTime}},
		{"tar.zst", tarball("zst"), Source{Version: "0.7.3", Epoch: commitTime}},
		{"tar.xz", tarball("xz"), Source{Version: "0.7.3", Epoch: commitTime}},
		{"tar without a top folder", save(t, "x", pack(t, "./", llamaTree())), Source{Version: "0.7.3", Epoch: commitTime}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := ResolveSource(t.Context(), test.given, noPin, nil, cache, nil)
			if err != nil {
				t.Fatal(err)
			}
			test.want.Given, test.want.Digest, test.want.Dir = test.given, digest, filepath.Join(cache, "trees", digest[len(digestPrefix):])
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if again, err := hashTree(got.Dir); err != nil || again.digest != digest {
				t.Errorf("the tree's digest is %s, %v", again.digest, err)
			}
		})
	}
	leftovers, err := filepath.Glob(filepath.Join(cache, "unfinished-*"))
	if err != nil || len(leftovers) > 0 {
		t.Errorf("left in the cache: %v, %v", leftovers, err)
	}
}

// What a killed process left unfinished in the cache is removed, unless another process is using the cache.
func TestUnfinishedTreesAreRemoved(t *testing.T) {
	cache := t.TempDir()
	folder, file := filepath.Join(cache, "unfinished-123"), filepath.Join(cache, "unfinished-456")
	leave := func() {
		if err := errors.Join(os.MkdirAll(filepath.Join(folder, "ggml"), 0o755), os.WriteFile(file, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	open := func() *treeCache {
		c, err := openTreeCache(cache)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	there := func() bool {
		_, first := os.Stat(folder)
		_, second := os.Stat(file)
		return first == nil && second == nil
	}
	leave()
	first := open()
	if there() {
		t.Error("what a killed process left is still there")
	}
	leave() // as the first process at work does
	second := open()
	if !there() {
		t.Error("what a process at work has not finished was removed")
	}
	if err := errors.Join(second.close(), first.close(), open().close()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(folder); err == nil {
		t.Error("it is still there after both")
	}
}

func TestResolveSourceHistory(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "")
	repo, commits := llamaRepo(t)
	cache := t.TempDir()
	resolve := func(given string) Source {
		t.Helper()
		src, err := ResolveSource(t.Context(), given, noPin, nil, cache, nil)
		if err != nil {
			t.Fatal(err)
		}
		return src
	}
	if src := resolve("file://" + repo); src.Commit != commits[2] || src.Build != 3 {
		t.Errorf("the default branch gives %+v", src)
	}
	if src := resolve("file://" + repo + "@main"); src.Commit != commits[2] {
		t.Errorf("the branch gives %+v", src)
	}
	// A tree that states no version is named by its tag, else by its commit: the
	// first commit could as well be a squashed history, so it has no number.
	if src := resolve("file://" + repo + "@b1"); src.Version != "b1" || src.Build != 0 {
		t.Errorf("the tag gives %+v", src)
	}
	if src := resolve("file://" + repo + "@" + commits[0]); src.Version != commits[0][:shortCommit] {
		t.Errorf("the first commit gives %+v", src)
	}

	// A build's own tag has the number that a squashed or truncated history lacks.
	mustGit(t, repo, "tag", "b8390", commits[0])
	cut := filepath.Join(t.TempDir(), "cut")
	mustGit(t, repo, "tag", "b10361", commits[2])
	mustGit(t, repo, "clone", "-q", "--depth=2", "--branch=b10361", "file://"+repo, cut)
	bundle := filepath.Join(t.TempDir(), "release.bundle")
	mustGit(t, repo, "bundle", "create", "-q", bundle, "b8390")
	for given, want := range map[string]int{"file://" + repo + "@b8390": 8390, bundle + "@b8390": 8390, cut + "@b10361": 10361, "file://" + repo + "@b10361": 3} {
		src, err := ResolveSource(t.Context(), given, noPin, nil, t.TempDir(), nil)
		if err != nil || src.Build != want || len(src.Warnings) > 0 {
			t.Errorf("%s gives %+v, %v, want the number %d", given, src, err, want)
		}
	}

	shallow := filepath.Join(t.TempDir(), "shallow")
	mustGit(t, repo, "clone", "-q", "--depth=2", "file://"+repo, shallow)
	for _, given := range []string{shallow, shallow + "@HEAD", "file://" + shallow} {
		src, err := ResolveSource(t.Context(), given, noPin, nil, t.TempDir(), nil)
		if err != nil || src.Commit != commits[2] || src.Build != 0 || !strings.Contains(strings.Join(src.Warnings, "\n"), "git fetch --unshallow --filter=tree:0") {
			t.Errorf("the shallow clone %s gives %+v, %v", given, src, err)
		}
	}

	// A change makes the tree another one, and the commit says so.
	writeTree(t, shallow, map[string]string{"untracked.c": "int y;\n", ".gitignore": "*.o\n", "x.o": "object"})
	clean, dirty := resolve("file://"+repo), resolve(shallow)
	if dirty.Commit != commits[2]+"-dirty" || dirty.Digest == clean.Digest {
		t.Errorf("a changed work tree gives %+v", dirty)
	}
	if _, err := os.Stat(filepath.Join(dirty.Dir, "untracked.c")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dirty.Dir, "x.o")); err == nil {
		t.Error("an ignored file was taken")
	}

	t.Setenv("SOURCE_DATE_EPOCH", "86400")
	if src := resolve("file://" + repo); src.Epoch != time.Unix(86400, 0).UTC() {
		t.Errorf("with SOURCE_DATE_EPOCH the date is %v", src.Epoch)
	}
}

// A commit that was fetched once no longer needs its repository, and a cached
// tree that was changed is not used.
func TestResolveSourceFromCache(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "")
	repo, commits := llamaRepo(t)
	cache := t.TempDir()
	given := "file://" + repo + "@" + commits[1]
	first, err := ResolveSource(t.Context(), given, noPin, nil, cache, nil)
	if err != nil {
		t.Fatal(err)
	}
	pin := pinned(t, repo, commits[1])
	away := repo + ".away"
	if err := os.Rename(repo, away); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Rename(away, repo) })
	second, err := ResolveSource(t.Context(), given, noPin, nil, cache, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("from the cache (-first +second):\n%s", diff)
	}
	if src, err := ResolveSource(t.Context(), "", pin, nil, cache, nil); err != nil || src.Digest != first.Digest {
		t.Errorf("the pin gives %+v, %v", src, err)
	}
	if err := os.WriteFile(filepath.Join(first.Dir, "ggml/src/ggml.c"), []byte("int evil;\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if src, err := ResolveSource(t.Context(), given, noPin, nil, cache, nil); err == nil {
		t.Errorf("a changed tree was used: %+v", src)
	}
	if err := os.Rename(away, repo); err != nil {
		t.Fatal(err)
	}
	if third, err := ResolveSource(t.Context(), given, noPin, nil, cache, nil); err != nil || third.Digest != first.Digest {
		t.Errorf("fetched again: %+v, %v", third, err)
	}
}

func TestResolveSourceRefuses(t *testing.T) {
	repo, _ := llamaRepo(t)
	plain := t.TempDir()
	writeTree(t, plain, llamaTree())
	tarball := save(t, "x.tar", pack(t, "top/", llamaTree()))
	hostile := func(h tar.Header) string { return save(t, "x.tar", pack(t, "top/", llamaTree(), &h)) }
	outside := t.TempDir()
	writeTree(t, outside, llamaTree())
	if err := os.Symlink("/etc", filepath.Join(outside, "etc")); err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(t.TempDir(), "b.bundle")
	mustGit(t, repo, "bundle", "create", "-q", bundle, "v0.7.3", "b1")
	noCUDA := t.TempDir()
	writeTree(t, noCUDA, llamaTreeWithout("ggml/src/ggml-cuda/CMakeLists.txt"))

	user := func(parts ...string) []string { return append(parts, "user") }
	tests := []struct {
		name, given string
		want        []string
	}{
		{"nothing there", "/nonexistent/llama", user("no such file or folder")},
		{"a word", "llama", user("no such file or folder, and no URL")},
		{"an option", "--upload-pack=x", user("not a source")},
		{"an option as ref", repo + "@--x", user("not a source")},
		{"an empty ref", repo + "@", user("nothing follows the @")},
		{"a URL of nothing", "https://", user("not a URL")},
		{"a folder at a ref", plain + "@v1", user("v1 does not apply")},
		{"a tarball at a ref", tarball + "@v1", user("v1 does not apply")},
		{"an unknown tag", repo + "@v9", user("no tag or branch v9", "git ls-remote")},
		{"an unknown commit", repo + "@" + strings.Repeat("a", 40), user("no commit aaaa")},
		{"an unknown short commit", repo + "@aaaaaaaa", user("no commit aaaa")},
		{"a bundle without a head", bundle, user("which commit is meant", "refs/tags/v0.7.3")},
		{"another project", t.TempDir(), user("not a llama.cpp tree: it lacks CMakeLists.txt and the folder ggml/src/ggml-cuda")},
		{"no CUDA backend", noCUDA, user("it lacks the folder ggml/src/ggml-cuda")},
		{"another project in a tarball", save(t, "x.tar", pack(t, "top/", map[string]string{"CMakeLists.txt": "project(other)\n", "a/b": ""})), user(`project("llama.cpp")`)},
		{"not an archive", save(t, "x.tar", bytes.Repeat([]byte("text "), 300)), []string{"reading the tarball"}},
		{"an empty file", save(t, "x.tar", nil), []string{"too short"}},
		{"a name that leaves the tree", hostile(tar.Header{Name: "top/../../evil"}), []string{"leaves the tree"}},
		{"an absolute name", hostile(tar.Header{Name: "/evil"}), []string{"leaves the tree"}},
		{"a link out of the tree", hostile(tar.Header{Name: "top/l", Typeflag: tar.TypeSymlink, Linkname: "../../x"}), []string{"leaves the tree"}},
		{"a hard link out of the tree", hostile(tar.Header{Name: "top/l", Typeflag: tar.TypeLink, Linkname: "../../etc/passwd"}), []string{"unpacking top/l"}},
		{"a device", hostile(tar.Header{Name: "top/d", Typeflag: tar.TypeBlock}), []string{"no place"}},
		{"the same file twice", hostile(tar.Header{Name: "top/CMakeLists.txt"}), []string{"exists"}},
		{"more than fits", save(t, "x.tar", bomb(t)), []string{"more than"}},
		{"a folder with a link out of it", outside, []string{"leaves the tree"}},
		{"a server that is not there", "http://127.0.0.1:1/x.git", []string{"asking http://127.0.0.1:1/x.git"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cache := t.TempDir()
			src, err := ResolveSource(t.Context(), test.given, noPin, nil, cache, nil)
			if err == nil {
				t.Fatalf("accepted as %+v", src)
			}
			text := err.Error()
			if wrong, ok := errors.AsType[*SourceError](err); ok {
				text += " " + wrong.Hint + " user"
			}
			for _, want := range test.want {
				if !strings.Contains(text, want) {
					t.Errorf("error is %q, want one with %q", text, want)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(cache, "*", "*")); len(left) > 0 {
				t.Errorf("left in the cache: %v", left)
			}
		})
	}
}

// The error for a source that must be given in another form says which form.
func TestResolveSourceSaysTheWay(t *testing.T) {
	repo, commits := llamaRepo(t)
	crlf := filepath.Join(t.TempDir(), "crlf")
	mustGit(t, repo, "-c", "core.autocrlf=true", "clone", "-q", repo, crlf)
	attributes := filepath.Join(t.TempDir(), "attributes")
	mustGit(t, repo, "clone", "-q", "-n", repo, attributes)
	writeTree(t, attributes, map[string]string{".git/info/attributes": "* text eol=crlf\n"})
	mustGit(t, attributes, "checkout", "-q", "main")
	foreign := filepath.Join(t.TempDir(), "foreign")
	mustGit(t, repo, "clone", "-q", repo, foreign)
	folder := func(files map[string]string) string {
		dir := t.TempDir()
		writeTree(t, dir, llamaTree())
		writeTree(t, dir, files)
		return dir
	}
	fifo := folder(nil)
	if err := syscall.Mkfifo(filepath.Join(fifo, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, given   string
		problem, hint string
		env           string
	}{
		{name: "CRLF", given: crlf, problem: "core.autocrlf", hint: crlf + "@HEAD"},
		{name: "CRLF by attributes", given: attributes, problem: "CRLF line ends", hint: attributes + "@HEAD"},
		// This is how git's own tests make it treat every repository as another user's.
		{name: "foreign", given: foreign, problem: "another user", hint: "git config --global --add safe.directory " + foreign, env: "GIT_TEST_ASSUME_DIFFERENT_OWNER"},
		{name: "foreign at a ref", given: foreign + "@main", problem: "another user", hint: "safe.directory " + foreign, env: "GIT_TEST_ASSUME_DIFFERENT_OWNER"},
		{name: "link up", given: folder(map[string]string{"build/bin/x": "→ ../../../y"}), problem: "build/bin/x is a link that leaves the tree, to ../../../y", hint: "remove build"},
		{name: "absolute link", given: folder(map[string]string{"out/x": "→ /usr/lib/x.so"}), problem: "leaves the tree, to /usr/lib/x.so", hint: "remove out"},
		{name: "pipe", given: fifo, problem: "pipe is neither a file nor a link", hint: "remove pipe"},
		{name: "link in a tarball", given: save(t, "x", pack(t, "", map[string]string{"CMakeLists.txt": "x", "b/l": "→ ../../z"})), problem: "leaves the tree, to ../../z", hint: "remove b"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.env != "" {
				t.Setenv(test.env, "1")
			}
			src, err := ResolveSource(t.Context(), test.given, noPin, nil, t.TempDir(), nil)
			var user *SourceError
			if !errors.As(err, &user) || !strings.Contains(err.Error(), test.problem) || !strings.Contains(user.Hint, test.hint) {
				t.Errorf("got %+v, %v; want an error with %q and a hint with %q", src, err, test.problem, test.hint)
			}
		})
	}
	if src, err := ResolveSource(t.Context(), crlf+"@HEAD", noPin, nil, t.TempDir(), nil); err != nil || src.Commit != commits[2] {
		t.Errorf("HEAD of the CRLF clone gives %+v, %v", src, err)
	}
	byHand := folder(map[string]string{"out/CMakeCache.txt": "x"})
	if src, err := ResolveSource(t.Context(), byHand, noPin, nil, t.TempDir(), nil); err != nil || !strings.Contains(strings.Join(src.Warnings, "\n"), "remove out,") {
		t.Errorf("a folder with a build gives %+v, %v", src, err)
	}
}

func TestSplitRef(t *testing.T) {
	for given, want := range map[string][2]string{
		"https://example.org/llama.git":             {"https://example.org/llama.git", ""},
		"https://example.org/llama.git@v1":          {"https://example.org/llama.git", "v1"},
		"https://user@example.org/llama.git":        {"https://user@example.org/llama.git", ""},
		"https://user@example.org/llama.git@feat/x": {"https://user@example.org/llama.git", "feat/x"},
		"git@example.org:ggml/llama.cpp.git":        {"git@example.org:ggml/llama.cpp.git", ""},
		"git@example.org:ggml/llama.cpp.git@b1234":  {"git@example.org:ggml/llama.cpp.git", "b1234"},
		"ssh://git@example.org/llama.git":           {"ssh://git@example.org/llama.git", ""},
		"@v0.4.0":                                   {"", "v0.4.0"},
		"./llama@v1":                                {"./llama", "v1"},
	} {
		base, ref := splitRef(given)
		if diff := cmp.Diff(want, [2]string{base, ref}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", given, diff)
		}
	}
}

func TestStaysInside(t *testing.T) {
	for _, test := range []struct {
		name, target string
		want         bool
	}{
		{"a/b", "c", true}, {"a/b", "../c", true}, {"a/b", "../../c", false}, {"b", "..", false}, {"b", ".", true}, {"b", "/etc", false}, {"a/b", "x/../../../y", false},
	} {
		if got := staysInside(test.name, test.target); got != test.want {
			t.Errorf("staysInside(%q, %q) is %v", test.name, test.target, got)
		}
	}
}

// A server that never answers does not delay cancellation.
func TestResolveSourceStops(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stopped := make(chan time.Time, 1)
	go func() {
		if conn, err := listener.Accept(); err == nil {
			defer conn.Close()
			stopped <- time.Now()
			cancel()
			<-t.Context().Done()
		}
	}()
	_, err = ResolveSource(ctx, "http://"+listener.Addr().String()+"/x.git", noPin, nil, t.TempDir(), nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	if took := time.Since(<-stopped); took > gitGrace/2 {
		t.Errorf("it took %v to stop", took)
	}
}

// A server that filters, as the large ones do, gives the files only when they
// are checked out.
func TestResolveSourceFromFilteringServer(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "")
	repo, commits := llamaRepo(t)
	mustGit(t, repo, "config", "uploadpack.allowFilter", "true")
	plain := t.TempDir()
	writeTree(t, plain, llamaTree())
	want, err := hashTree(plain)
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"v0.7.3", commits[1], commits[1][:9]} {
		src, err := ResolveSource(t.Context(), "file://"+repo+"@"+ref, noPin, nil, t.TempDir(), nil)
		if err != nil || src.Digest != want.digest || src.Build != 2 {
			t.Errorf("%s: got %+v, %v", ref, src, err)
		}
	}
}
