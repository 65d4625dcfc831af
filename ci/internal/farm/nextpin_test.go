package farm

import (
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// now is when the tests look for releases.
var now = time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)

// upstream is a repository over HTTP and the registry of a package that carries its trees.
type upstream struct {
	t        *testing.T
	dir      string // of the repository
	url      string
	packages map[string]map[string]any // the registry's versions
	times    map[string]string
	gone     bool // the registry has nothing any more
}

func newUpstream(t *testing.T) *upstream {
	t.Helper()
	t.Setenv("SOURCE_DATE_EPOCH", "")
	root := t.TempDir()
	up := &upstream{t: t, dir: filepath.Join(root, "ggml-org", "llama.cpp"), packages: map[string]map[string]any{}, times: map[string]string{}}
	if err := os.MkdirAll(up.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mustGit(t, up.dir, "init", "-q", "-b", "master")
	mustGit(t, up.dir, "config", "uploadpack.allowFilter", "true")
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(&cgi.Handler{Path: git, Args: []string{"http-backend"}, Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"}})
	t.Cleanup(server.Close)
	up.url = server.URL + "/ggml-org/llama.cpp"
	tarballs := http.NewServeMux()
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if up.gone {
			http.NotFound(w, r)
			return
		}
		tarballs.ServeHTTP(w, r)
	}))
	t.Cleanup(registry.Close)
	tarballs.HandleFunc("/node-llama-cpp", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(map[string]any{"versions": up.packages, "time": up.times})
	})
	tarballs.HandleFunc("/node-llama-cpp/-/{file}", func(w http.ResponseWriter, r *http.Request) {
		version := strings.TrimSuffix(strings.TrimPrefix(r.PathValue("file"), "node-llama-cpp-"), ".tgz")
		w.Write(up.packages[version]["bytes"].([]byte))
	})
	t.Setenv("npm_config_registry", registry.URL)
	return up
}

// at runs git at a date.
func (up *upstream) at(date time.Time, args ...string) string {
	up.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", up.dir, "-c", "user.name=T", "-c", "user.email=t@example.org"}, args...)...)
	stamp := date.Format(time.RFC3339)
	cmd.Env = append(os.Environ(), "GIT_AUTHOR_DATE="+stamp, "GIT_COMMITTER_DATE="+stamp)
	out, err := cmd.CombinedOutput()
	if err != nil {
		up.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// release commits a tree that states a version, and tags it. The pin of it is returned.
func (up *upstream) release(version, tag string, date time.Time) matrix.LlamaPin {
	up.t.Helper()
	files := llamaTree()
	files["CMakeLists.txt"] = "project(\"llama.cpp\" C CXX)\n"
	if parts := strings.Split(version, "."); len(parts) == 3 {
		files["CMakeLists.txt"] += fmt.Sprintf("set(LLAMA_VERSION_MAJOR %s)\nset(LLAMA_VERSION_MINOR %s)\nset(LLAMA_VERSION_PATCH %s)\n", parts[0], parts[1], parts[2])
	}
	files["tag"] = tag
	if err := errors.Join(os.RemoveAll(filepath.Join(up.dir, "scripts")), os.RemoveAll(filepath.Join(up.dir, "tag"))); err != nil {
		up.t.Fatal(err)
	}
	writeTree(up.t, up.dir, files)
	up.at(date, "add", "-A")
	up.at(date, "commit", "-q", "-m", tag)
	up.at(date, "tag", tag)
	var count int
	fmt.Sscan(up.at(date, "rev-list", "--count", "HEAD"), &count)
	if count == 1 {
		count = 0
	}
	return matrix.LlamaPin{Repository: up.url, Ref: tag, Version: version, Commit: up.at(date, "rev-parse", "HEAD"), Tree: up.at(date, "rev-parse", "HEAD^{tree}"), Build: count, Epoch: date.Unix()}
}

// carry publishes a package with the squashed commit of a tag, as node-llama-cpp does, and returns the pin with it.
func (up *upstream) carry(pin matrix.LlamaPin, version, repository string, date time.Time) matrix.LlamaPin {
	up.t.Helper()
	commit := up.at(date, "commit-tree", pin.Tree, "-m", "## SQUASHED ##")
	clone := filepath.Join(up.t.TempDir(), "clone")
	up.at(date, "update-ref", "refs/heads/squashed", commit)
	up.at(date, "clone", "-q", "--branch", "squashed", "--single-branch", "--no-tags", up.dir, clone)
	bundle := filepath.Join(up.t.TempDir(), "b.bundle")
	mustGit(up.t, clone, "checkout", "-q", "--detach")
	mustGit(up.t, clone, "bundle", "create", "-q", bundle, "HEAD")
	content, err := os.ReadFile(bundle)
	if err != nil {
		up.t.Fatal(err)
	}
	up.at(date, "update-ref", "-d", "refs/heads/squashed")
	pkg := compressed(up.t, "gz", pack(up.t, "package/", map[string]string{
		"package.json": "{}", "llama/gitRelease.bundle": string(content), "llama/llama.cpp.info.json": fmt.Sprintf(`{"tag": %q, "llamaCppGithubRepo": %q}`, pin.Ref, repository),
	}))
	sum := sha512.Sum512(pkg)
	pin.NPMPackage, pin.NPMCommit, pin.NPMIntegrity, pin.BundlePath = "node-llama-cpp@"+version, commit, "sha512-"+base64.StdEncoding.EncodeToString(sum[:]), "package/llama/gitRelease.bundle"
	up.packages[version] = map[string]any{"dist": map[string]any{"integrity": pin.NPMIntegrity}, "bytes": pkg}
	up.times[version] = date.Format(time.RFC3339)
	return pin
}

func hours(n int) time.Time { return now.Add(-time.Duration(n) * time.Hour) }

const official = "ggml-org/llama.cpp"

// nextCase is one look for a next pin.
type nextCase struct {
	name    string
	pin     matrix.LlamaPin
	o       NextOptions
	want    matrix.LlamaPin
	notes   []string // each is in the notes, and there are no others
	problem string   // of the error
	kind    string   // of the error's type
}

func kindOf(err error) string {
	var source *SourceError
	var moved *MovedError
	var clock *ClockError
	switch {
	case errors.As(err, &moved):
		return "Moved"
	case errors.As(err, &clock):
		return "Clock"
	case errors.As(err, &source):
		return "Source"
	}
	return ""
}

func checkNext(t *testing.T, tests []nextCase) {
	t.Helper()
	cache := t.TempDir()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.o.Now.IsZero() {
				test.o.Now = now
			}
			next, err := NextPin(t.Context(), test.pin, test.o, cache, nil)
			if test.problem != "" {
				if err == nil || !strings.Contains(err.Error(), test.problem) || kindOf(err) != test.kind {
					t.Errorf("got %+v, %s %v; want %s with %q", next.Pin, kindOf(err), err, test.kind, test.problem)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, next.Pin); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(next.Notes) != len(test.notes) {
				t.Errorf("notes: %q", next.Notes)
			}
			for i, note := range test.notes {
				if !strings.Contains(strings.Join(next.Notes[min(i, len(next.Notes)):], "\n"), note) {
					t.Errorf("notes: %q, want %q", next.Notes, note)
				}
			}
		})
	}
}

func TestNextPinFromGit(t *testing.T) {
	up := newUpstream(t)
	old := up.release("0.6.9", "v0.6.9", hours(600))
	counted := up.release("", "b9999", hours(550))
	pin := up.release("0.7.3", "v0.7.3", hours(500))
	up.release("0.8.0", "v0.8.0", hours(60))
	next := up.release("0.10.0", "v0.10.0", hours(30))
	up.release("0.11.0", "v0.11.0-rc1", hours(20))
	late := up.release("0.11.0", "v0.11.0", hours(5))
	up.at(hours(5), "tag", "v0.12") // names no release
	up.at(hours(5), "tag", "-a", "-m", "later than its commit", "v0.10.1", next.Commit)
	up.release("0.13.0", "v0.13.0", hours(-48))
	lying := up.release("0.9.1", "v0.9.0", hours(100))
	pin = up.carry(pin, "3.0.0", official, hours(490))
	carried := up.carry(next, "3.1.0", official, hours(29))
	up.carry(late, "3.2.0", official, hours(4))

	const tooNew = "less than 6 hours ago"
	none := "no npm package has the tree of "
	squashed := pin
	squashed.Commit = pin.NPMCommit
	checkNext(t, []nextCase{
		// 0.10 is newer than 0.9, and an annotated tag is as new as itself.
		{name: "the newest that is old enough", pin: pin, want: carried, notes: []string{"the tag v0.13.0 is of 2026-10-03T12:00:00Z, which is not yet", "the tag v0.11.0 is of 2026-10-01T07:00:00Z, " + tooNew, "the tag v0.10.1"}},
		{name: "an hour later", pin: pin, o: NextOptions{Now: now.Add(time.Hour)}, want: up.carried("3.2.0", late), notes: []string{"v0.13.0"}},
		{name: "up to date", pin: carried, want: carried, notes: []string{"v0.13.0", "v0.11.0", "v0.10.1"}},
		{name: "a package came later", pin: next, want: carried, notes: []string{"v0.13.0", "v0.11.0", "v0.10.1"}},
		{name: "one that is too new is asked for", pin: pin, o: NextOptions{To: "v0.11.0"}, want: up.carried("3.2.0", late)},
		{name: "an older one", pin: pin, o: NextOptions{To: "v0.6.9"}, problem: "v0.6.9: 0.6.9 is older than the pinned 0.7.3", kind: "Source"},
		{name: "back to an older one", pin: pin, o: NextOptions{To: "v0.6.9", Back: true}, want: old, notes: []string{none + "v0.6.9"}},
		{name: "a build", pin: pin, o: NextOptions{To: "b9999", Back: true}, want: versioned(counted, "0.0.9999"), notes: []string{none + "b9999"}},
		{name: "from a build on", pin: versioned(counted, "0.0.9999"), o: NextOptions{To: "v0.10.0"}, want: carried},
		{name: "the pin itself", pin: pin, o: NextOptions{To: "v0.7.3"}, want: pin},
		{name: "no such tag", pin: pin, o: NextOptions{To: "v9.9.9"}, problem: "it has no tag v9.9.9", kind: "Source"},
		{name: "a branch", pin: pin, o: NextOptions{To: "master"}, problem: "it has no tag master", kind: "Source"},
		{name: "a tag and its tree differ", pin: pin, o: NextOptions{To: "v0.9.0"}, want: versioned(lying, "0.9.0"), notes: []string{"the tag is v0.9.0, and the tree's own CMakeLists.txt says 0.9.1", none}},
		{name: "the clock is slow", pin: pin, o: NextOptions{Now: hours(501)}, problem: "this machine's clock says 2026-09-10T15:00:00Z", kind: "Clock"},
		{name: "pinned by the package's commit", pin: squashed, o: NextOptions{To: "v0.10.0"}, want: carried},
	})

	// Whichever way the files come, they are the same, and so are commit, number and date.
	byGit, err := ResolveSource(t.Context(), "", carried, nil, t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	far := carried
	far.Repository = "http://127.0.0.1:1/ggml-org/llama.cpp"
	cache := t.TempDir()
	for range 2 { // then from the cache
		byNPM, err := ResolveSource(t.Context(), "", far, nil, cache, nil)
		if err != nil {
			t.Fatal(err)
		}
		byNPM.Dir, byNPM.Given = byGit.Dir, byGit.Given
		if diff := cmp.Diff(byGit, byNPM); diff != "" {
			t.Errorf("(-by git +by npm):\n%s", diff)
		}
		up.gone = true
	}

	// The same name, other files.
	up.at(now, "tag", "-f", "v0.7.3", late.Commit)
	checkNext(t, []nextCase{
		{name: "a moved tag", pin: pin, problem: "the tag v0.7.3 was moved: it is tree " + late.Tree + " now and was tree " + pin.Tree, kind: "Moved"},
		{name: "a moved tag and one that is asked for", pin: pin, o: NextOptions{To: "v0.10.0"}, problem: "was moved", kind: "Moved"},
	})
	up.at(now, "tag", "-d", "v0.7.3")
	checkNext(t, []nextCase{{name: "a tag that is gone, and no registry", pin: pin, o: NextOptions{To: "v0.10.0"}, want: next, notes: []string{"has no tag v0.7.3 any more", "no npm package: asking for the versions of the npm package node-llama-cpp"}}})
}

// carried is the pin of a release with a package that was published before.
func (up *upstream) carried(version string, pin matrix.LlamaPin) matrix.LlamaPin {
	up.t.Helper()
	when, err := time.Parse(time.RFC3339, up.times[version])
	if err != nil {
		up.t.Fatal(err)
	}
	return up.carry(pin, version, official, when)
}

func versioned(pin matrix.LlamaPin, version string) matrix.LlamaPin {
	pin.Version = version
	return pin
}

func TestNextPinFromNPM(t *testing.T) {
	up := newUpstream(t)
	old := up.carry(up.release("0.6.9", "v0.6.9", hours(600)), "3.8.0", official, hours(590))
	pin := up.carry(up.release("0.7.3", "v0.7.3", hours(500)), "3.9.0", official, hours(490))
	next := up.carry(up.release("0.8.0", "v0.8.0", hours(60)), "3.10.0", official, hours(50))
	build := up.release("", "b10361", hours(40))
	up.carry(build, "3.11.0", official, hours(39))
	up.carry(up.release("0.9.0", "v0.9.0", hours(38)), "3.12.0", "somebody/llama.cpp", hours(37))
	up.carry(up.release("0.9.1", "v0.9.1", hours(30)), "3.13.0", official, hours(29))
	up.packages["3.13.0"]["deprecated"] = "broken"
	up.carry(up.release("0.9.2", "v0.9.2", hours(20)), "4.0.0-beta.1", official, hours(19))
	late := up.carry(up.release("0.9.3", "v0.9.3", hours(10)), "3.14.0", official, hours(2))

	// By npm, the commit is the package's own, and there is no history to count.
	npm := func(pin matrix.LlamaPin) matrix.LlamaPin {
		pin.Repository, pin.Commit, pin.Build = "http://127.0.0.1:1/ggml-org/llama.cpp", pin.NPMCommit, buildOfTag(pin.Ref)
		when, err := time.Parse(time.RFC3339, up.times[strings.TrimPrefix(pin.NPMPackage, "node-llama-cpp@")])
		if err != nil {
			t.Fatal(err)
		}
		pin.Epoch = when.Unix()
		return pin
	}
	old, pin, next, late = npm(old), npm(pin), npm(next), npm(late)
	const fallback, other = "this is from npm", "has a llama.cpp of somebody/llama.cpp"
	changed := pin
	changed.NPMIntegrity = late.NPMIntegrity
	checkNext(t, []nextCase{
		{name: "the newest with a newer release", pin: pin, want: next, notes: []string{fallback, "the npm package node-llama-cpp@3.14.0 is of 2026-10-01T10:00:00Z, less than 6 hours ago", other}},
		{name: "up to date", pin: next, want: next, notes: []string{fallback, "3.14.0", other}},
		{name: "one that is too new is asked for", pin: pin, o: NextOptions{To: "v0.9.3"}, want: late, notes: []string{fallback}},
		{name: "an older one", pin: pin, o: NextOptions{To: "v0.6.9"}, problem: "0.6.9 is older than the pinned 0.7.3", kind: "Source"},
		{name: "back to an older one", pin: pin, o: NextOptions{To: "v0.6.9", Back: true}, want: old, notes: []string{fallback, other}},
		{name: "none has it", pin: pin, o: NextOptions{To: "v0.9.1"}, problem: "none of its 6 newest versions has the tag v0.9.1", kind: "Source"},
		{name: "the pin itself", pin: pin, o: NextOptions{To: "v0.7.3"}, want: pin, notes: []string{fallback, other}},
		{name: "a package that was moved", pin: changed, problem: "the package node-llama-cpp@3.9.0 was moved: it is " + pin.NPMIntegrity, kind: "Moved"},
	})
	delete(up.times, "3.14.0")
	// The commit of the package is as young.
	checkNext(t, []nextCase{{name: "a mirror without dates", pin: pin, want: next, notes: []string{fallback, "the llama.cpp of node-llama-cpp@3.14.0", other}}})
	up.gone = true
	checkNext(t, []nextCase{{name: "neither", pin: pin, problem: "asking for the versions of the npm package node-llama-cpp", kind: ""}})
}
