package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/publisher/cosigntest"
	"github.com/waqasm86/llcuda-farm/publisher/ghtest"
)

// From compiled bundles to programs that run, by nothing but the commands of a release: built by the farm, signed by
// what the release workflow is on GitHub, verified as the public, and installed by the client under the
// policy that it has in production, on four machines. Only the trusted root is not the public one.
func (f *farm) testChain(t *testing.T) {
	dir := t.TempDir()
	linkFiles(t, f.release(t), dir, "*")
	c := f.newChain(t)
	sigstore, github := c.sigstore, c.github
	workflow := releaseWorkflow(e2eRelease)
	ci := func(args ...string) result {
		t.Helper()
		return c.run(t, f.bin, workflow, args...)
	}
	public := c.public()
	release := append([]string{"release", "--release", e2eRelease, "--sm", "all", "--llama", f.llama, "--base", "made", "--out", dir}, c.signing()...)

	// publish refuses a folder that is not signed.
	ci(append([]string{"publish", "github", dir}, public...)...).want(t, 3)
	if there := github.Releases(manifests.Repository); len(there) > 0 {
		t.Fatalf("an unsigned folder made a release: %v", there)
	}
	ci(append(release, "--dry-run")...).want(t, 0, "nothing: the bundles are in "+dir, manifests.SignerIdentity+"@"+workflow.Ref)
	if there := github.Releases(manifests.Repository); len(there) > 0 {
		t.Fatalf("a dry run made a release: %v", there)
	}
	ci(append(release, "--draft")...).want(t, 0, "a draft of "+e2eRelease)
	ci(release...).want(t, 0, "0 of them sent now", "agree; signed by "+manifests.SignerIdentity)
	ci(release...).want(t, 0, "already published, and the same")
	ci(append([]string{"verify", "--release", e2eRelease}, public...)...).want(t, 0, "agree")

	releases := github.Releases(manifests.Repository)
	if len(releases) != 1 || releases[0].Draft {
		t.Fatalf("releases on the server: %v", releases)
	}
	var names []string
	for _, asset := range releases[0].Assets {
		names = append(names, asset.Name)
	}
	if want := fileNames(t, dir); !slices.Equal(want, names) {
		t.Errorf("assets %v, want the folder's files %v", names, want)
	}

	unpacked := unpackClient(t, dir)
	client := filepath.Join(unpacked, "llcuda-fetch")
	folder := fmt.Sprintf("%s/%s/releases/download/%s", github.URL, manifests.Repository, e2eRelease)
	for _, host := range []struct {
		name, file, bundle string
	}{
		{"a T4 on Colab", "colab-t4", "llcuda-bins-sm75"},
		{"a P100 on Kaggle", "kaggle-p100", "llcuda-bins-sm60"},
		{"an H100", "h100", "llcuda-bins-sm90"},
		{"this machine", "", ""},
	} {
		t.Run(host.name, func(t *testing.T) {
			home := t.TempDir()
			// In front of a command, the flags of any command are accepted.
			args := []string{"--home", home, "--mirror", folder, "--trusted-root", sigstore.TrustedRoot}
			if host.file != "" {
				args = append(args, "--as-host", filepath.Join("..", "manifests", "testdata", "hosts", host.file+".json"))
			} else {
				args = append(args, "--allow-cpu")
			}
			startProcess(t, client, append(slices.Clone(args), "install")...).wait().
				want(t, 0, host.bundle, "signed by "+manifests.SignerIdentity+"@"+workflow.Ref)
			startProcess(t, client, append(slices.Clone(args), "run", "llama-server", "--version")...).wait().
				want(t, 0, "version: 0.5.0 ")
			startProcess(t, client, append(slices.Clone(args), "verify")...).wait().want(t, 0)
		})
	}

	// The exported files are all that pip needs without a network, and the client it installs is the released one.
	t.Run("Wheel", func(t *testing.T) {
		folder, environment := t.TempDir(), filepath.Join(t.TempDir(), "with a blank and ü")
		startProcess(t, client, "export", "--to", folder, "--sm", "75", "--mirror", dir, "--trusted-root", sigstore.TrustedRoot).wait().want(t, 0, ".whl")
		command(t, "", "python3", "-m", "venv", environment)
		python := filepath.Join(environment, "bin", "python")
		command(t, "", "unshare", "--net", "--", python, "-m", "pip", "install", "--no-index", "--find-links", folder, "llcuda")
		installed := strings.TrimSpace(command(t, "", python, "-I", "-c", "import llcuda, os; print(os.path.dirname(llcuda.__file__))"))
		for name, mode := range map[string]fs.FileMode{"llcuda-fetch": 0o755, "llcuda-probe": 0o755} {
			got, want := filepath.Join(installed, "_bin", name), filepath.Join(unpacked, name)
			if info, err := os.Stat(got); err != nil || info.Mode() != mode {
				t.Errorf("%s: %v, %v", name, info, err)
			}
			command(t, "", "cmp", got, want)
		}
		command(t, "", filepath.Join(environment, "bin", "llcuda-fetch"), "--version")
		command(t, "", python, "-m", "pip", "uninstall", "--yes", "llcuda")
		if left, err := filepath.Glob(filepath.Join(filepath.Dir(installed), "llcuda*")); err != nil || len(left) > 0 {
			t.Errorf("uninstalling leaves %q, %v", left, err)
		}
	})

	// A workflow of another repository signs the same files, as well as an attacker could.
	t.Run("Forged", func(t *testing.T) {
		forged := t.TempDir()
		linkFiles(t, f.release(t), forged, "*")
		workflow := cosigntest.Workflow{Repository: "evil/" + filepath.Base(manifests.Repository), Ref: workflow.Ref}
		address := "https://github.com/" + workflow.Repository + strings.TrimPrefix(manifests.SignerIdentity, manifests.RepositoryURL)
		c.run(t, f.bin, workflow, append([]string{"sign", forged, "--identity", address}, c.signing()...)...).want(t, 0)
		home := t.TempDir()
		startProcess(t, client, "install", "--home", home, "--mirror", forged, "--trusted-root", sigstore.TrustedRoot, "--allow-cpu").wait().want(t, 3, "hint: ")
		if left := installedIn(t, home); len(left) > 0 {
			t.Errorf("installed all the same: %v", left)
		}
	})

	// What was published builds again to the same bytes.
	t.Run("Reproduce", func(t *testing.T) {
		again := append([]string{"reproduce", "--release", e2eRelease, "--sm", "75", "--llama", f.llama, "--base", "made"}, public...)
		said := ci(again...)
		said.want(t, 0)
		for _, asset := range readManifest(t, dir).Assets {
			if asset.SM == "75" && !regexp.MustCompile(regexp.QuoteMeta(asset.Name)+`: the same: sha256 `+asset.SHA256).MatchString(said.stdout) {
				t.Errorf("%s is not said to be the same", asset.Name)
			}
		}
	})

	t.Run("Bump", func(t *testing.T) { c.bumpMinillama(t, f, dir) })
}

// A chain is what the commands of a release meet: a checkout of the repository, and GitHub with releases and a Sigstore.
type chain struct {
	checkout string
	origin   string // the repository that the checkout was made of, bare
	sigstore *cosigntest.Stack
	github   *ghtest.Server
	limit    time.Duration // of a command
}

// newChain checks out the last commit.
func (f *farm) newChain(t *testing.T) *chain {
	c := &chain{
		checkout: filepath.Join(t.TempDir(), "checkout"), origin: filepath.Join(t.TempDir(), "origin"), sigstore: cosigntest.Start(t), limit: commandLimit,
		github: ghtest.New(t, ghtest.Options{Repositories: []string{manifests.Repository}, Immutable: true}),
	}
	command(t, "..", "git", "clone", "--quiet", "--shared", ".", c.checkout)
	command(t, "", "git", "clone", "--quiet", "--bare", "--shared", c.checkout, c.origin)
	command(t, c.checkout, "git", "remote", "set-url", "origin", c.origin)
	command(t, c.checkout, "git", "push", "--quiet", "origin", "HEAD:refs/heads/main")
	return c
}

// releaseWorkflow is release.yml, which runs for a tag.
func releaseWorkflow(tag string) cosigntest.Workflow {
	return cosigntest.Workflow{Ref: "refs/tags/" + tag}
}

// run runs a ci in the checkout, as a workflow does for its commit on GitHub's runner.
func (c *chain) run(t *testing.T, bin string, workflow cosigntest.Workflow, args ...string) result {
	t.Helper()
	workflow.Commit = strings.TrimSpace(command(t, c.checkout, "git", "rev-parse", "HEAD"))
	environment := []string{"-C", c.checkout, "GITHUB_TOKEN=" + c.github.Token, "GITHUB_API_URL=" + c.github.APIURL, "GITHUB_SERVER_URL=" + c.github.URL,
		// The packaged client knows the numbers of the repository that signs.
		"GITHUB_ACTIONS=true", "GITHUB_SHA=" + workflow.Commit, "GITHUB_REPOSITORY=" + manifests.Repository,
		"GITHUB_REPOSITORY_ID=" + cosigntest.RepositoryID, "GITHUB_REPOSITORY_OWNER_ID=" + cosigntest.OwnerID}
	for name, value := range c.sigstore.Runner(t, workflow) {
		environment = append(environment, name+"="+value)
	}
	return startFor(t, c.limit, "env", slices.Concat(environment, []string{bin}, args)...).wait()
}

// unpackClient unpacks the client of a release.
func unpackClient(t *testing.T, dir string) string {
	t.Helper()
	unpacked := t.TempDir()
	command(t, unpacked, "tar", "-xf", filepath.Join(dir, "llcuda-fetch-linux-"+runtime.GOARCH+".tar.gz"))
	return unpacked
}

// installedIn lists the bundles of a store.
func installedIn(t testing.TB, home string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(home, "bundles"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}
