package cli

import (
	"crypto/elliptic"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/waqasm86/llcuda-farm/ci/internal/release"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
)

// A built release of one SM, and what it was built with.
type built struct {
	dir   release.Dir
	cache string
	llama string
	as    *release.Credential
	build []string
}

func buildRelease(t *testing.T) built {
	t.Helper()
	work := t.TempDir()
	b := built{dir: release.Dir(filepath.Join(work, "dist")), cache: filepath.Join(work, "cache"), llama: filepath.Join(work, "llama")}
	key, _, err := cryptoutils.GeneratePEMEncodedECDSAKeyPair(elliptic.P256(), nil)
	err = errors.Join(err, os.WriteFile(filepath.Join(work, "key.pem"), key, 0o600),
		os.MkdirAll(filepath.Join(b.llama, "ggml/src/ggml-cuda"), 0o755),
		os.WriteFile(filepath.Join(b.llama, "ggml/src/ggml-cuda/CMakeLists.txt"), nil, 0o644),
		os.WriteFile(filepath.Join(b.llama, "CMakeLists.txt"), []byte("project(\"llama.cpp\" C CXX)\nset(LLAMA_VERSION_MAJOR 0)\nset(LLAMA_VERSION_MINOR 7)\nset(LLAMA_VERSION_PATCH 3)\n"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("FATBINS", filepath.Join("..", "..", "..", "bundler", "testdata", "fatbin"))
	t.Setenv("SOURCE_DATE_EPOCH", "")
	if b.as, err = (&signing{key: filepath.Join(work, "key.pem")}).openKey(sigverify.Release); err != nil {
		t.Fatal(err)
	}
	b.build = []string{"build", "--sm", "75", "--llama", b.llama, "--release", "v1", "--out", string(b.dir), "--cache", b.cache}
	b.ci(t, b.build...)
	return b
}

// again is the same build into a folder of its own.
func (b built) again(t *testing.T) buildCommand {
	t.Helper()
	opts := buildOptions{release: "v1", out: filepath.Join(t.TempDir(), "dist"), selection: selection{sms: []string{"75"}, llama: b.llama, cache: b.cache}}
	return buildCommand{buildOptions: opts, dir: release.Dir(opts.out)}
}

func (b built) ci(t *testing.T, args ...string) {
	t.Helper()
	said, err := os.Create(filepath.Join(t.TempDir(), "said"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	if got := run(t.Context(), args, newTerminal(said, said), &fakeEngines{}); got != exitDone {
		text, _ := os.ReadFile(said.Name())
		t.Fatalf("ci %q exits with %d\n%s", args, got, text)
	}
}

func (b built) ledger(t *testing.T) *release.Ledger {
	t.Helper()
	known, err := release.OpenLedger(b.cache)
	if err != nil {
		t.Fatal(err)
	}
	return known
}

func (b built) checks(t *testing.T) release.Checks {
	t.Helper()
	m, err := spec.Default()
	if err != nil {
		t.Fatal(err)
	}
	return release.Checks{RulesFor: rulesIn(m, (&fakeEngines{}).BuildPaths()), Verifier: b.as.Verifier}
}

// Only a folder with everything that would be built, completely described, counts as built.
func TestAlreadyBuilt(t *testing.T) {
	made := buildRelease(t)
	const bundle = "llcuda-bins-sm75.tar.zst"
	remove := func(name string) func(*buildCommand) error {
		return func(b *buildCommand) error { return os.Remove(b.dir.Path(name)) }
	}
	for name, test := range map[string]struct {
		change func(*buildCommand) error
		want   bool
	}{
		"as it was built":   {func(*buildCommand) error { return nil }, true},
		"with a client":     {func(b *buildCommand) error { return os.WriteFile(b.dir.Path(manifests.InstallerName), nil, 0o644) }, true},
		"another release":   {func(b *buildCommand) error { b.release = "v2"; return nil }, false},
		"another source":    {func(b *buildCommand) error { b.source.Digest = "sha256:other"; return nil }, false},
		"another SM":        {func(b *buildCommand) error { b.targets[0].SM = 86; return nil }, false},
		"other patches":     {func(b *buildCommand) error { b.source.Patches = []manifests.Patch{{Name: "x"}}; return nil }, false},
		"no folder":         {func(b *buildCommand) error { return os.RemoveAll(string(b.dir)) }, false},
		"no manifest":       {remove(manifests.ManifestName), false},
		"no sums":           {remove(manifests.SumsName), false}, // the build was killed before it wrote them
		"an archive less":   {remove(bundle), false},
		"a changed archive": {func(b *buildCommand) error { return os.Truncate(b.dir.Path(bundle), 100) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			said, err := os.Create(filepath.Join(t.TempDir(), "said"))
			if err != nil {
				t.Fatal(err)
			}
			defer said.Close()
			b := made.again(t)
			b.term, b.backend = newTerminal(said, said), &fakeEngines{}
			if err := errors.Join(b.choose(), b.resolveSource(t.Context()), os.CopyFS(string(b.dir), os.DirFS(string(made.dir)))); err != nil {
				t.Fatal(err)
			}
			if err := test.change(&b); err != nil {
				t.Fatal(err)
			}
			if got, err := b.already(t.Context()); err != nil || got != test.want {
				t.Errorf("got %v, %v, want %v", got, err, test.want)
			}
		})
	}
}
