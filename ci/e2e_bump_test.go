package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
	"github.com/waqasm86/llcuda-farm/publisher/cosigntest"
)

// bumpVariable has TestBump move from one release of the real llama.cpp to another: v0.4.0...v0.5.0.
const bumpVariable = "LLCUDA_TEST_BUMP"

// keepVariable is a folder where TestBump keeps both releases, and what people read of them. Bundles that are there already
// are not built again.
const keepVariable = "LLCUDA_TEST_KEEP"

// wholeLimit is how long compiling the whole llama.cpp may take, on a machine with two cores.
const wholeLimit = 3 * time.Hour

// TestBump walks with the real llama.cpp the way that testChain walks with minillama. It compiles all of it twice, for one SM.
func TestBump(t *testing.T) {
	from, to, ok := strings.Cut(os.Getenv(bumpVariable), "...")
	if !ok {
		t.Skipf("it compiles for hours: %s=v0.4.0...v0.5.0 runs it", bumpVariable)
	}
	keep := os.Getenv(keepVariable)
	if keep == "" {
		keep = t.TempDir()
	}
	f := newFarm(t)
	c := f.newChain(t)
	c.limit = wholeLimit
	m := move{before: "v0.0.1-bump", after: "v0.0.2-bump", from: strings.TrimPrefix(from, "v"), to: strings.TrimPrefix(to, "v"), bump: []string{"--to", to}}
	m.dir, m.next = filepath.Join(keep, m.before), filepath.Join(keep, m.after)
	c.run(t, f.bin, cosigntest.Workflow{}, "bump", "--to", from, "--back").want(t, 0)
	c.merge(t, "Go back to "+from)
	c.release(t, c.compile(t), m.before, m.dir, nil).want(t, 0, "notes     of a first release")
	said := c.bump(t, f, m)
	for name, text := range map[string]string{"bump.md": said.request, "notes.md": said.notes, "index.html": said.page} {
		if err := os.WriteFile(filepath.Join(keep, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// A move is from the release of one llama.cpp to the release of the next.
type move struct {
	before, after string   // releases
	from, to      string   // versions of llama.cpp
	dir, next     string   // folders of both releases
	bump          []string // flags
	build         []string
}

// told is what people read of a move: the text of the pull request, the notes of the release, and the page.
type told struct{ request, notes, page string }

// bumpMinillama moves from the minillama of the release in dir to the one that is tagged next.
func (c *chain) bumpMinillama(t *testing.T, f *farm, dir string) {
	upstream := filepath.Join(t.TempDir(), "upstream")
	command(t, "", "git", "clone", "--quiet", f.llama, upstream)
	change(t, upstream, "CMakeLists.txt", func(text string) string {
		return strings.Replace(text, "set(LLAMA_VERSION_MINOR 5)", "set(LLAMA_VERSION_MINOR 6)", 1)
	})
	change(t, upstream, "ggml/CMakeLists.txt", func(text string) string {
		return text + "option(GGML_MINI \"ggml: is small\" ON)\n"
	})
	commitLlama(t, upstream, "v0.6.0", "2020-02-01T00:00:00Z")
	c.pin(t, upstream, "v0.5.0", "0.5.0")

	// git takes the folder for what the address leads to.
	t.Setenv("GIT_CONFIG_COUNT", "1")
	t.Setenv("GIT_CONFIG_KEY_0", "url."+upstream+".insteadOf")
	t.Setenv("GIT_CONFIG_VALUE_0", pinned(t).Repository)
	none := httptest.NewServer(http.NotFoundHandler()) // no npm package carries minillama
	t.Cleanup(none.Close)
	t.Setenv("npm_config_registry", none.URL)
	said := c.bump(t, f, move{before: e2eRelease, after: "v0.0.2-test", from: "0.5.0", to: "0.6.0", dir: dir, next: t.TempDir(), build: []string{"--base", "made"}})
	for _, want := range []string{"- new: `GGML_MINI=ON`", "Unchanged: programs, libraries, functions of CUDA, licenses."} {
		if !strings.Contains(said.request, want) {
			t.Errorf("bump does not say %q:\n%s", want, said.request)
		}
	}
}

// commitLlama commits the files of a llama.cpp and tags them. The same files give the same commit.
func commitLlama(t testing.TB, dir, tag, date string) {
	t.Helper()
	script := `if [ ! -d .git ]; then git init --quiet; fi
		git add --all
		git -c user.name=T -c user.email=t@example.org commit --quiet --message "$1"
		git tag "$1"`
	command(t, dir, "env", "GIT_AUTHOR_DATE="+date, "GIT_COMMITTER_DATE="+date, "sh", "-ec", script, "sh", tag)
}

func pinned(t *testing.T) matrix.LlamaPin {
	t.Helper()
	m, err := spec.Default()
	if err != nil {
		t.Fatal(err)
	}
	return m.LlamaCPP
}

// pin commits a pin to the checkout: a tag in a repository, which no npm package carries.
func (c *chain) pin(t *testing.T, repository, tag, version string) {
	t.Helper()
	git := func(args ...string) string { return strings.TrimSpace(command(t, repository, "git", args...)) }
	pin := pinned(t)
	pin.Ref, pin.Version, pin.Build = tag, version, 0
	pin.Commit, pin.Tree = git("rev-parse", tag), git("rev-parse", tag+"^{tree}")
	fmt.Sscan(git("show", "--no-patch", "--format=%ct", tag), &pin.Epoch)
	pin.NPMPackage, pin.NPMCommit, pin.NPMIntegrity, pin.BundlePath = "", "", "", ""
	change(t, c.checkout, "matrix/matrix.yaml", func(text string) string {
		changed, err := spec.SetPin([]byte(text), pin)
		if err != nil {
			t.Fatal(err)
		}
		return string(changed)
	})
	c.merge(t, "Pin llama.cpp "+version)
}

// merge commits what was changed in the checkout to the default branch.
func (c *chain) merge(t *testing.T, title string) {
	t.Helper()
	command(t, c.checkout, "git", "-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "--quiet", "--all", "--message", title)
	command(t, c.checkout, "git", "push", "--quiet", "origin", "HEAD:refs/heads/main")
}

// compile makes a ci of the checkout, with its pin.
func (c *chain) compile(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "ci")
	command(t, c.checkout, "go", "build", "-trimpath", "-o", bin, "./ci")
	return bin
}

// release makes and publishes a release of one SM.
func (c *chain) release(t *testing.T, bin, tag, dir string, build []string) result {
	t.Helper()
	return c.run(t, bin, releaseWorkflow(tag), slices.Concat([]string{"release", "--release", tag, "--sm", "75", "--out", dir}, build, c.signing())...)
}

// public are the flags of commands that verify, and signing those of commands that sign.
func (c *chain) public() []string { return []string{"--trusted-root", c.sigstore.TrustedRoot} }

func (c *chain) signing() []string {
	return append(c.public(), "--signing-config", c.sigstore.SigningConfig)
}

// bump does what follows a new tag of llama.cpp, by the commands of the workflows: it moves the pin, builds and publishes
// what it leads to, tells people and clients, and a user's machine follows.
func (c *chain) bump(t *testing.T, f *farm, m move) told {
	t.Helper()
	u := &user{t: t, home: t.TempDir(), client: filepath.Join(unpackClient(t, m.dir), "llcuda-fetch"), trustedRoot: c.sigstore.TrustedRoot}

	// A machine that has the release before.
	c.point(t, f.bin, m.before, c.page(t, f.bin, m.dir))
	u.run("--mirror", c.mirror(t)+"/{release}", "install").want(t, 0, "of release "+m.before+" installed")
	u.wantVersion(m.from)

	// The pull request.
	look := append([]string{"bump"}, m.bump...)
	bumped := c.run(t, f.bin, cosigntest.Workflow{}, look...)
	bumped.want(t, 0)
	title, text, _ := strings.Cut(bumped.stdout, "\n\n")
	if want := "Build llama.cpp " + m.to; title != want {
		t.Fatalf("the pull request is called %q, want %q", title, want)
	}
	link := fmt.Sprintf("%s/compare/v%s...v%s", strings.TrimSuffix(pinned(t).Repository, ".git"), m.from, m.to)
	if !strings.Contains(text, "("+link+")") {
		t.Errorf("the pull request does not link to %s:\n%s", link, text)
	}
	if diff := cmp.Diff("matrix/matrix.yaml\n", command(t, c.checkout, "git", "diff", "--name-only")); diff != "" {
		t.Errorf("files that it changed (-want +got):\n%s", diff)
	}
	c.merge(t, title)
	c.run(t, f.bin, cosigntest.Workflow{}, look...).want(t, 0, "up to date: llama.cpp "+m.to)

	// The release, by a ci that has the new pin.
	bin := c.compile(t)
	c.release(t, bin, m.after, m.next, m.build).want(t, 0, "notes     with the changes since "+m.before, "agree; signed by "+manifests.SignerIdentity)
	compared := c.run(t, bin, cosigntest.Workflow{}, append([]string{"compare", m.before, m.after}, c.public()...)...)
	compared.want(t, 0, "- llama.cpp: "+m.from+" → "+m.to+": "+link)
	releases := c.github.Releases(manifests.Repository)
	last := releases[len(releases)-1]
	if last.Tag != m.after || !last.Latest || !strings.Contains(last.Notes, strings.TrimSpace(compared.stdout)) {
		t.Errorf("the newest release is %s, latest: %v; its notes, which should say the same as compare:\n%s", last.Tag, last.Latest, last.Notes)
	}

	// The page and the pointer.
	file := c.page(t, bin, m.next, m.dir)
	shown, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{m.after, m.before, m.to, bundleName("sm75")} {
		if !strings.Contains(string(shown), want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	c.point(t, bin, m.after, file)
	if beside := command(t, c.origin, "git", "show", manifests.PointerBranch+":index.html"); beside != string(shown) {
		t.Error("the page beside the pointer is another one")
	}

	u.update(c, m)
	return told{bumped.stdout, last.Notes, string(shown)}
}

// page writes the page of releases, and returns its name.
func (c *chain) page(t *testing.T, bin string, releases ...string) string {
	t.Helper()
	dir := t.TempDir()
	c.run(t, bin, cosigntest.Workflow{}, slices.Concat([]string{"site", "--signed", "--out", dir}, c.public(), releases)...).want(t, 0)
	return filepath.Join(dir, "index.html")
}

// point has clients take a release, as pointer.yml does on the default branch.
func (c *chain) point(t *testing.T, bin, tag, page string) {
	t.Helper()
	path, ref, _ := strings.Cut(manifests.PointerWorkflow, "@")
	c.run(t, bin, cosigntest.Workflow{Path: path, Ref: ref}, append([]string{"pointer", "--release", tag, "--page", page}, c.signing()...)...).
		want(t, 0, ": "+tag+", until")
}

// mirror serves what GitHub does: the pointer of the branch, and the releases.
func (c *chain) mirror(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/current/"+manifests.PointerName {
			http.Redirect(w, r, c.github.URL+"/"+manifests.Repository+"/releases/download"+r.URL.Path, http.StatusFound)
			return
		}
		signed, err := exec.CommandContext(r.Context(), "git", "-C", c.origin, "cat-file", "blob", manifests.PointerBranch+":"+manifests.PointerName).Output()
		if err != nil {
			http.NotFound(w, r)
			return
		}
		w.Write(signed)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// A user has a T4, no CUDA, and the client of a release.
type user struct {
	t                         *testing.T
	home, client, trustedRoot string
}

func (u *user) run(args ...string) result {
	u.t.Helper()
	host := filepath.Join("..", "manifests", "testdata", "hosts", "t4-without-cuda.json")
	return startProcess(u.t, u.client, append([]string{"--home", u.home, "--trusted-root", u.trustedRoot, "--as-host", host}, args...)...).wait()
}

// wantVersion starts what is installed.
func (u *user) wantVersion(version string) {
	u.t.Helper()
	u.run("run", "llama-server", "--version").want(u.t, 0, "version: "+version+" ")
	u.run("verify").want(u.t, 0)
}

// update follows the pointer: the new bundle alone is downloaded, and the way back needs nothing.
func (u *user) update(c *chain, m move) {
	u.t.Helper()
	asked := len(c.github.Requests())
	archives := func() (names []string) {
		archive := regexp.MustCompile(`/releases/download/[^/]+/(.*\.tar\..*)$`)
		for _, request := range c.github.Requests()[asked:] {
			if match := archive.FindStringSubmatch(request); match != nil {
				names = append(names, match[1])
			}
		}
		return names
	}
	u.run("install", "--update").want(u.t, 0, "of release "+m.after+" installed")
	downloaded := archives()
	// A large archive comes in pieces.
	if diff := cmp.Diff([]string{bundleName("sm75") + ".tar.zst"}, slices.Compact(slices.Clone(downloaded))); diff != "" {
		u.t.Errorf("archives that the update downloaded (-want +got):\n%s", diff)
	}
	u.wantVersion(m.to)
	if kept := installedIn(u.t, u.home); len(kept) != 2 {
		u.t.Errorf("bundles in the store: %q, want both", kept)
	}
	u.run("install", "--update").want(u.t, 0, "of release "+m.after+" is installed")
	u.run("rollback").want(u.t, 0)
	u.wantVersion(m.from)
	u.run("install", "--update").want(u.t, 0)
	u.wantVersion(m.to)
	if diff := cmp.Diff(downloaded, archives()); diff != "" {
		u.t.Errorf("archives that were downloaded in the end (-want +got):\n%s", diff)
	}
}
