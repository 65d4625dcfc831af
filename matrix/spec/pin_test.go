package spec_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
)

// SetPin changes the values of the pin and no other byte, however they are written.
func TestSetPin(t *testing.T) {
	m, err := spec.Default()
	if err != nil {
		t.Fatal(err)
	}
	const section = "llama_cpp:\n"
	before, rest, _ := strings.Cut(string(matrix.YAML), section)
	_, after, _ := strings.Cut(rest, "\n\n") // what follows the pin
	wrap := func(pin string) string { return before + section + pin + "\n" + after }
	const (
		commit = "0123456789012345678901234567890123456789" // a number, to YAML
		float  = "1234567890123456789012345678901234567e89" // another
		tree   = "abcdefabcdefabcdefabcdefabcdefabcdefabcd"
	)
	integrity := "sha512-" + strings.Repeat("A", 86) + "=="
	pin := matrix.LlamaPin{
		Repository: m.LlamaCPP.Repository, Ref: "v0.6.0", Version: "0.6.0", Commit: commit, Tree: tree, Build: 12345, Epoch: 1800000000,
		NPMPackage: "some-llama@4.0.0", NPMCommit: float, NPMIntegrity: integrity, BundlePath: "package/x.bundle",
	}
	repository := "  repository: " + pin.Repository
	none := pin
	none.NPMPackage, none.NPMCommit, none.NPMIntegrity, none.BundlePath = "", "", "", ""
	const old = "  ref: v0.5.0\n  version: \"0.5.0\"\n  commit: " + tree + "\n  tree: " + tree + "\n  build: 0\n  epoch: 1\n"
	const npm = "  npm_package: a@1.2.3\n  npm_commit: " + tree + "\n  npm_integrity: sha512-BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA==\n  bundle_path: package/x.bundle\n"
	const fresh = "  ref: v0.6.0\n  version: \"0.6.0\"\n  commit: \"" + commit + "\"\n  tree: " + tree + "\n  build: 12345\n  epoch: 1800000000\n"
	for name, test := range map[string]struct {
		pin        matrix.LlamaPin
		text, want string
	}{
		"plain": {pin, repository + "\n" + old + npm,
			repository + "\n" + fresh + "  npm_package: some-llama@4.0.0\n  npm_commit: \"" + float + "\"\n  npm_integrity: " + integrity + "\n  bundle_path: package/x.bundle\n"},
		"no package": {none, repository + "\n" + old + npm, repository + "\n" + fresh + "  npm_package: \"\"\n  npm_commit: \"\"\n  npm_integrity: \"\"\n  bundle_path: \"\"\n"},
		"comments, quotes, blanks, order": {pin,
			"  # ü: of the pin\n  ref:   'v0.5.0' # quoted ü\n  tree: " + tree + "\n" + repository + " # here\n\n  version: \"0.5.0\"   \n  commit: \"" + tree + "\"\n  build: 0 # none\n  epoch: 1\n" + npm,
			"  # ü: of the pin\n  ref:   \"v0.6.0\" # quoted ü\n  tree: " + tree + "\n" + repository + " # here\n\n  version: \"0.6.0\"   \n  commit: \"" + commit + "\"\n  build: 12345 # none\n  epoch: 1800000000\n" +
				"  npm_package: some-llama@4.0.0\n  npm_commit: \"" + float + "\"\n  npm_integrity: " + integrity + "\n  bundle_path: package/x.bundle\n"},
		"one line": {pin,
			strings.TrimSuffix("  {"+strings.TrimPrefix(strings.ReplaceAll(repository+"\n"+old+npm, "\n  ", ", "), "  "), "\n") + "}\n",
			strings.TrimSuffix("  {"+strings.TrimPrefix(strings.ReplaceAll(repository+"\n"+fresh+"  npm_package: some-llama@4.0.0\n  npm_commit: \""+float+"\"\n  npm_integrity: "+integrity+"\n  bundle_path: package/x.bundle\n", "\n  ", ", "), "  "), "\n") + "}\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := spec.SetPin([]byte(wrap(test.text)), test.pin)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(wrap(test.want), string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if again, err := spec.SetPin(got, test.pin); err != nil || string(again) != string(got) {
				t.Errorf("a second time it changes more: %v", err)
			}
		})
	}

	for name, test := range map[string]struct {
		text string
		pin  func(*matrix.LlamaPin)
		want string
	}{
		"no matrix":         {"toolkits: []\n", func(*matrix.LlamaPin) {}, "targets: missing"},
		"a pin that is bad": {string(matrix.YAML), func(p *matrix.LlamaPin) { p.Commit = "main" }, `llama_cpp.commit: "main" is not 40 hex digits`},
		"a folded value":    {strings.Replace(string(matrix.YAML), "  ref: ", "  ref: >-\n    ", 1), func(*matrix.LlamaPin) {}, "cannot be edited"},
	} {
		t.Run(name, func(t *testing.T) {
			pin := pin
			test.pin(&pin)
			if got, err := spec.SetPin([]byte(test.text), pin); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, %q; want %s", err, got, test.want)
			}
		})
	}
}
