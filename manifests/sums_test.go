package manifests_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// GNU's own sha256sum checks a folder of files, and finds the one that was changed.
func TestSumsBySha256sum(t *testing.T) {
	dir := t.TempDir()
	var sums manifests.Sums
	for _, name := range []string{"manifest.json", "llcuda-bins-sm75.tar.zst", "-dash", "_under", "llcuda-bins-sm75.tar.gz"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("contents of "+name), 0o644); err != nil {
			t.Fatal(err)
		}
		sums = append(sums, manifests.Sum{Name: name, SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte("contents of "+name)))})
	}
	if err := os.WriteFile(filepath.Join(dir, manifests.SumsName), sums.Encode(), 0o644); err != nil {
		t.Fatal(err)
	}
	check := func() (string, error) {
		cmd := exec.Command("sha256sum", "--check", "--strict", manifests.SumsName)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := check()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := "-dash: OK\n_under: OK\nllcuda-bins-sm75.tar.gz: OK\nllcuda-bins-sm75.tar.zst: OK\nmanifest.json: OK\n"
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := os.WriteFile(filepath.Join(dir, "manifest.json"), []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := check(); err == nil || !strings.Contains(out, "manifest.json: FAILED") {
		t.Errorf("a changed file was accepted: %v\n%s", err, out)
	}

	// And the reverse: sha256sum writes, DecodeSums reads.
	cmd := exec.Command("sha256sum", "_under", "llcuda-bins-sm75.tar.gz")
	cmd.Dir = dir
	text, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	got, err := manifests.DecodeSums(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(manifests.Sums{sums[3], sums[4]}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDecodeSumsRefuses(t *testing.T) {
	a, b := hash("a"), hash("b")
	for name, test := range map[string]struct{ text, want string }{
		"empty":           {"", "the last line does not end"},
		"blank":           {"\n", "line 1 is not a digest, two blanks and a name"},
		"cut":             {a + "  x", "the last line does not end"},
		"blank line":      {a + "  x\n\n" + b + "  y\n", "line 2 is not a digest, two blanks and a name"},
		"carriage return": {a + "  x\r\n", `line 1: "x\r" is not a name: letters, digits and ._- with no dot in front`},
		"binary mode":     {a + " *x\n", "line 1 is not a digest, two blanks and a name"},
		"escaped name":    {`\` + a + "  x\n", `line 1: "\\` + a + `" is not 64 lower-case hex digits`},
		"BSD's form":      {"SHA256 (x) = " + a + "\n", "line 1 is not a digest, two blanks and a name"},
		"comment":         {"# sums\n" + a + "  x\n", "line 1 is not a digest, two blanks and a name"},
		"upper case":      {hash("A") + "  x\n", `line 1: "` + hash("A") + `" is not 64 lower-case hex digits`},
		"another hash":    {a[:40] + "  x\n", `line 1: "` + a[:40] + `" is not 64 lower-case hex digits`},
		"path":            {a + "  ../x\n", `line 1: "../x" is not a name: letters, digits and ._- with no dot in front`},
		"three blanks":    {a + "   x\n", `line 1: " x" is not a name: letters, digits and ._- with no dot in front`},
		"twice":           {a + "  x\n" + b + "  x\n", `line 2: "x" comes after "x": names ascend, each once`},
		"order":           {a + "  y\n" + b + "  x\n", `line 2: "x" comes after "y": names ascend, each once`},
		"itself":          {a + "  SHA256SUMS\n", "line 1: SHA256SUMS cannot be covered by SHA256SUMS"},
		"signature":       {a + "  SHA256SUMS.sigstore.json\n", "line 1: SHA256SUMS.sigstore.json cannot be covered by SHA256SUMS"},
		"too large":       {strings.Repeat(a+"  x\n", 70_000), "larger than 4194304 bytes"},
	} {
		_, err := manifests.DecodeSums(strings.NewReader(test.text))
		if want := "reading SHA256SUMS: " + test.want; err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
	}
	if err := (manifests.Sums{}).Check(); err == nil {
		t.Error("an empty list was accepted")
	}
}

func FuzzDecodeSums(f *testing.F) {
	f.Add([]byte(hash("a") + "  x\n" + hash("b") + "  y.tar.gz\n"))
	f.Add([]byte(`\` + hash("a") + "  x\\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		sums, err := manifests.DecodeSums(bytes.NewReader(data))
		if err != nil {
			return
		}
		if got := sums.Encode(); !bytes.Equal(data, got) {
			t.Errorf("accepted %q, but writes %q", data, got)
		}
	})
}
