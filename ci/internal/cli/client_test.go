package cli

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/publisher/cosign"
	"github.com/waqasm86/llcuda-farm/publisher/cosigntest"
)

// A client that was packaged with the numbers of the repository and its owner takes what that repository's workflow signed,
// and nothing of a later repository, or owner, of the same names. One without them cannot tell.
func TestClientComparesNumbers(t *testing.T) {
	stack := cosigntest.Start(t)
	services, err := cosign.ReadServices(cosigntest.Read(t, stack.SigningConfig), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	const here = "github.com/waqasm86/llcuda-farm/manifests."
	host, err := filepath.Abs(filepath.Join(repositoryRoot, "manifests", "testdata", "hosts", "colab-t4.json"))
	if err != nil {
		t.Fatal(err)
	}
	built := func(stamps string) string {
		program := filepath.Join(t.TempDir(), "llcuda-fetch")
		cmd := exec.Command("go", "build", "-o", program, "-tags", "grpcnotrace", "-ldflags", stamps, "./manifests/cmd/llcuda-fetch")
		cmd.Dir = repositoryRoot
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return program
	}
	programs := map[string]string{
		"stamped": built("-X " + here + "RepositoryID=" + cosigntest.RepositoryID + " -X " + here + "OwnerID=" + cosigntest.OwnerID),
		"plain":   built(""),
	}
	release := fetchtest.New(t, fetchtest.Options{Tag: cosigntest.Tag})
	for _, test := range []struct {
		workflow cosigntest.Workflow
		want     map[string]bool
	}{
		{cosigntest.Workflow{}, map[string]bool{"stamped": true, "plain": true}},
		{cosigntest.Workflow{RepositoryID: "7"}, map[string]bool{"stamped": false, "plain": true}},
		{cosigntest.Workflow{OwnerID: "7"}, map[string]bool{"stamped": false, "plain": true}},
	} {
		token, err := cosign.ParseToken(stack.Token(t, test.workflow))
		if err != nil {
			t.Fatal(err)
		}
		signRelease(t, release, cosign.Keyless(token, services))
		for name, want := range test.want {
			cmd := exec.Command(programs[name], "install", "--from", release.Dir, "--trusted-root", stack.TrustedRoot, "--as-host", host, "--home", filepath.Join(t.TempDir(), "store"))
			out, err := cmd.CombinedOutput()
			code := cmd.ProcessState.ExitCode()
			if want && err != nil || !want && (code != 3 || !strings.Contains(string(out), "verifying the signature")) {
				t.Errorf("%+v, the %s client: exit code %d\n%s", test.workflow, name, code, out)
			}
		}
	}
}
