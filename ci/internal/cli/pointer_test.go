package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
	"github.com/waqasm86/llcuda-farm/publisher/cosign"
	"github.com/waqasm86/llcuda-farm/publisher/cosigntest"
)

// runPointer runs the command in a folder and expects an exit code, and a text in its output.
func runPointer(t *testing.T, dir string, code int, text string, args ...string) {
	t.Helper()
	cmd := exec.Command("ci", append([]string{"pointer"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "SIGSTORE_ID_TOKEN=", runnerURL+"=", "GITHUB_SERVER_URL=")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code || !strings.Contains(string(out), text) {
		t.Fatalf("pointer %q: exit code %d, want %d with %q:\n%s", args, got, code, text, out)
	}
}

func tempFile(t *testing.T, data []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// signRelease signs a test's release again.
func signRelease(t *testing.T, r *fetchtest.Release, signer *cosign.Signer) {
	t.Helper()
	signature, err := signer.SignFile(t.Context(), r.Read(t, manifests.SumsName))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.Dir, manifests.SignatureName), signature.Bundle, 0o644); err != nil {
		t.Fatal(err)
	}
}

// wantPointer reads a release pointer under a policy and expects its number and its release.
func wantPointer(t *testing.T, policy sigverify.Policy, signed []byte, number int64, release *fetchtest.Release) {
	t.Helper()
	v, err := sigverify.New(policy)
	if err != nil {
		t.Fatal(err)
	}
	statement, _, err := v.VerifyStatement(signed)
	if err != nil {
		t.Fatal(err)
	}
	p, err := manifests.DecodePointer(statement.Payload)
	if err != nil {
		t.Fatal(err)
	}
	if want := release.Pointer(t, number); p.Number != number || p.Release != want.Release || p.Manifest != want.Manifest {
		t.Errorf("the pointer is %+v, want number %d of %s", p, number, want.Release)
	}
}

// A workflow on the default branch names the release that a tag's workflow signed, and pushes that to a branch: on a real
// Sigstore and a real git, by the policies of production.
func TestPointerByWorkflow(t *testing.T) {
	stack := cosigntest.Start(t)
	services, err := cosign.ReadServices(cosigntest.Read(t, stack.SigningConfig), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	work, far := t.TempDir(), filepath.Join(t.TempDir(), "far.git")
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", far}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	if out, err := exec.Command("git", "init", "--quiet", "--bare", far).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	commit := func(ref, parent string) string {
		args := []string{"commit-tree", "-m", ref, strings.TrimSpace(git("hash-object", "-t", "tree", "-w", "/dev/null"))}
		if parent != "" {
			args = append(args, "-p", parent)
		}
		made := strings.TrimSpace(git(args...))
		git("update-ref", ref, made)
		return made
	}
	released := commit("refs/heads/main", "")
	commit("refs/heads/main", released)
	stray := commit("refs/tags/v9.9.9", released)
	signed := func(tag, commit string) *fetchtest.Release {
		release := fetchtest.New(t, fetchtest.Options{Tag: tag})
		token, err := cosign.ParseToken(stack.Token(t, cosigntest.Workflow{Ref: "refs/tags/" + tag, Commit: commit}))
		if err != nil {
			t.Fatal(err)
		}
		signRelease(t, release, cosign.Keyless(token, services))
		return release
	}
	release := signed(cosigntest.Tag, released)
	public := func() []byte { return []byte(git("cat-file", "blob", "refs/heads/pointer:"+manifests.PointerName)) }
	as := func(w cosigntest.Workflow) []string {
		return []string{"--oidc-token", tempFile(t, []byte(stack.Token(t, w))), "--signing-config", stack.SigningConfig, "--trusted-root", stack.TrustedRoot,
			"--dir", release.Dir, "--remote", far}
	}
	mine := cosigntest.Workflow{Path: ".github/workflows/pointer.yml", Ref: "refs/heads/main"}
	policy := sigverify.Pointer("", "", cosigntest.Read(t, stack.TrustedRoot), nil)

	runPointer(t, work, exitUsage, "there is no release pointer yet", as(mine)...)
	runPointer(t, work, exitDone, "release pointer 1: "+cosigntest.Tag+", until ", append(as(mine), "--release", cosigntest.Tag)...)
	wantPointer(t, policy, public(), 1, release)
	page := "<p>the page of a release\n"
	runPointer(t, work, exitUsage, "--page is for a branch", append(as(mine), "--page", tempFile(t, []byte(page)), "--out", filepath.Join(work, "pointer"))...)
	runPointer(t, work, exitUsage, "is empty", append(as(mine), "--page", tempFile(t, nil))...)
	runPointer(t, work, exitUsage, "no such file", append(as(mine), "--page", filepath.Join(work, "nowhere"))...)
	runPointer(t, work, exitDone, "release pointer 2: "+cosigntest.Tag+", until ", append(as(mine), "--expires", "12h", "--page", tempFile(t, []byte(page)))...)
	wantPointer(t, policy, public(), 2, release)
	if got := git("cat-file", "blob", "refs/heads/pointer:index.html"); got != page {
		t.Errorf("beside the pointer is %q", got)
	}

	// No other signer is accepted: not the release's own workflow, another branch, or another repository.
	for _, other := range []cosigntest.Workflow{
		{},
		{Path: mine.Path, Ref: "refs/heads/other"},
		{Path: mine.Path, Ref: "refs/tags/main"},
		{Path: mine.Path, Ref: mine.Ref, Repository: "evil/llcuda-farm"},
	} {
		runPointer(t, work, exitRefused, "hint: clients accept a pointer that the workflow signed on the default branch", as(other)...)
	}
	// A tag pushed outside the default branch, regardless of the signer, and an unknown commit.
	runPointer(t, work, exitRefused, "which is not on the branch main", append(as(mine), "--release", "v9.9.9", "--dir", signed("v9.9.9", stray).Dir)...)
	runPointer(t, work, exitRefused, "which is not on the branch main", append(as(mine), "--release", "v9.9.9", "--dir", signed("v9.9.9", "").Dir)...)
	// A release that does not hold is not named.
	runPointer(t, work, exitRefused, "release v9.0.0-runtime was asked for", append(as(mine), "--release", "v9.0.0-runtime")...)
	if err := os.WriteFile(filepath.Join(release.Dir, manifests.SumsName), append(release.Read(t, manifests.SumsName), '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	runPointer(t, work, exitRefused, "verifying the signature", as(mine)...)
	wantPointer(t, policy, public(), 2, release)
	if commits := git("rev-list", "--count", "refs/heads/pointer"); commits != "2\n" {
		t.Errorf("the branch has %s commits", commits)
	}
}

// A private farm signs with a key, and its pointer is a file on its own web server.
func TestPointerByKey(t *testing.T) {
	newKey := func() (string, *cosign.Signer) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		signer, err := cosign.WithKey(text, nil)
		if err != nil {
			t.Fatal(err)
		}
		return tempFile(t, text), signer
	}
	key, signer := newKey()
	publicKey, err := signer.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	policy := sigverify.Policy{PublicKey: publicKey}
	older, newer := fetchtest.New(t, fetchtest.Options{Tag: "v1.0.0-runtime"}), fetchtest.New(t, fetchtest.Options{Tag: "v1.1.0-runtime"})
	signRelease(t, older, signer)
	signRelease(t, newer, signer)
	work := t.TempDir()
	out := filepath.Join(work, "mirror", "current", manifests.PointerName)
	to := func(r *fetchtest.Release, more ...string) []string {
		return append([]string{"--key", key, "--out", out, "--dir", r.Dir, "--release", r.Manifest.Release}, more...)
	}
	public := func() []byte { return cosigntest.Read(t, out) }

	runPointer(t, work, exitDone, "release pointer 1: v1.0.0-runtime", to(older)...)
	runPointer(t, work, exitDone, "release pointer 2: v1.1.0-runtime", to(newer)...)
	runPointer(t, work, exitRefused, "release v1.0.0-runtime is older than v1.1.0-runtime", to(older)...)
	wantPointer(t, policy, public(), 2, newer)
	runPointer(t, work, exitDone, "release pointer 3: v1.0.0-runtime", to(older, "--back")...)
	wantPointer(t, policy, public(), 3, older)
	runPointer(t, work, exitRefused, "number 3 does not come after 3", to(older, "--number", "3")...)

	// A release is taken back, that is kept, and it is undone.
	why := []string{"--withdraw", "v1.1.0-runtime", "--reason", "wrong results on Pascal"}
	runPointer(t, work, exitRefused, "hint: name the one to use instead, too: --release TAG --back", to(newer, why...)...)
	runPointer(t, work, exitDone, "withdrawn v1.1.0-runtime: wrong results on Pascal", to(older, why...)...)
	runPointer(t, work, exitDone, "withdrawn v1.1.0-runtime: wrong results on Pascal", "--key", key, "--out", out, "--dir", older.Dir)
	wantPointer(t, policy, public(), 5, older)
	runPointer(t, work, exitRefused, "hint: --restore v1.1.0-runtime makes it a release like any other again", to(newer)...)
	runPointer(t, work, exitRefused, "release v1.0.0-runtime is not withdrawn", to(older, "--restore", "v1.0.0-runtime")...)
	runPointer(t, work, exitDone, "release pointer 6: v1.1.0-runtime", to(newer, "--restore", "v1.1.0-runtime")...)
	wantPointer(t, policy, public(), 6, newer)

	// An unknown signer's key, and a pointer of another farm.
	other, stranger := newKey()
	runPointer(t, work, exitRefused, "verifying the signature", to(older, "--key", other)...)
	signRelease(t, newer, stranger)
	runPointer(t, work, exitRefused, "--number N replaces it", to(newer, "--key", other)...)
	runPointer(t, work, exitDone, "release pointer 10: v1.1.0-runtime", to(newer, "--key", other, "--number", "10")...)

	for _, wrong := range []struct{ text, flag, value string }{
		{"want more than nothing, and at most 366 days", "--expires", "400d"},
		{"want more than nothing", "--expires", "-1h"},
		{"want more than nothing", "--expires", "soon"},
		{"numbers begin at 1", "--number", "-1"},
		{"is not a folder", "--dir", "nowhere"},
		{"letters, digits and ._- only", "--release", "../x"},
		{"is not owner/name", "--repo", "x"},
		{"--withdraw and --reason belong together", "--withdraw", "v1.0.0-runtime"},
		{"--withdraw and --reason belong together", "--reason", "none"},
		{"letters, digits and ._- only", "--restore", "../x"},
	} {
		runPointer(t, work, exitUsage, wrong.text, to(newer, wrong.flag, wrong.value)...)
	}
}
