package pypi

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/python/pythontest"
	"github.com/waqasm86/llcuda-farm/publisher/cosigntest"
)

// The index's own verifier accepts what the release workflow's publishing action signs, made here with the library that
// the action uses, for this repository's release.yml, and for no other signer and no other file.
func TestAttestation(t *testing.T) {
	stack := cosigntest.Start(t)
	dir := t.TempDir()
	dist, other := filepath.Join(dir, "llcuda-3.0.0-py3-none-any.whl"), filepath.Join(dir, "other", "llcuda-3.0.0-py3-none-any.whl")
	err := errors.Join(os.Mkdir(filepath.Dir(other), 0o755), os.WriteFile(dist, []byte("a wheel"), 0o644), os.WriteFile(other, []byte("another"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(pythontest.Tools(t), "python"), "testdata/attest.py",
		stack.TrustedRoot, stack.Config(t, map[string]string{stack.RekorV2: ""}), stack.Token(t, cosigntest.Workflow{}), manifests.Repository, dist, other)
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := "same: https://docs.pypi.org/attestations/publish/v1 None\nanother repository: refused\nanother workflow: refused\nanother file: refused\n"
	if diff := cmp.Diff(want, string(out)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
