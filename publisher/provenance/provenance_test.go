package provenance_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/publisher/provenance"
)

func facts() provenance.Facts {
	bundle := func(row matrix.Row) manifests.Metadata {
		return manifests.Metadata{
			Name: manifests.BundleName(row), Release: "v1", Row: row,
			LlamaCPP: manifests.LlamaCPP{Version: "0.5.0", Commit: strings.Repeat("c", 40), Build: 7},
			Toolkit:  manifests.Toolkit{CUDA: "12.4.1", NVCC: "12.4.131"},
			Build: manifests.Build{
				BuilderImage: "sha256:" + strings.Repeat("1", 64), HostImage: "sha256:" + strings.Repeat("1", 64), BaseImage: "debian@sha256:" + strings.Repeat("2", 64),
				HostCMake: []string{"-DGGML_CUDA=OFF"}, CUDACMake: []string{"-DCMAKE_CUDA_ARCHITECTURES=" + row.String()},
				Patches:         []manifests.Patch{{Name: "0001-mend.patch", SHA256: strings.Repeat("f", 64)}},
				SourceDateEpoch: 1790553600, Engine: "dagger v0.15.1",
			},
		}
	}
	return provenance.Facts{
		Bundles:    []manifests.Metadata{bundle(matrix.Row{SM: 86, PTX: true}), bundle(matrix.Row{SM: 75}), bundle(matrix.Row{SM: 86})},
		Repository: "https://github.com/ggml-org/llama.cpp",
		Files: []manifests.Artifact{
			{Name: "llcuda-bins-sm86.tar.gz", SHA256: strings.Repeat("a", 64)},
			{Name: "llcuda-bins-sm75.tar.gz", SHA256: strings.Repeat("b", 64)},
			{Name: "llcuda-cudart-cu12-0.tar.gz", SHA256: strings.Repeat("d", 64)},
			{Name: "llcuda-bins-ptx86.tar.gz", SHA256: strings.Repeat("e", 64)},
		},
	}
}

const workflow = manifests.SignerIdentity + "@refs/tags/v1"

func TestStatement(t *testing.T) {
	text, err := provenance.Statement(facts(), provenance.Run{Builder: workflow, Invocation: manifests.RepositoryURL + "/actions/runs/42/attempts/1"})
	if err != nil {
		t.Fatal(err)
	}
	if problems := provenance.Check(text, facts(), workflow); len(problems) > 0 {
		t.Errorf("its own check finds %q", problems)
	}
	for _, want := range []string{
		`"_type":"https://in-toto.io/Statement/v1"`, `"predicateType":"https://slsa.dev/provenance/v1"`,
		`"invocationId":"` + manifests.RepositoryURL + `/actions/runs/42/attempts/1"`, `"id":"` + workflow + `"`,
		`"gitCommit":"` + strings.Repeat("c", 40) + `"`, `"sms":[75,86,"ptx86"]`, `"ptx86":["-DCMAKE_CUDA_ARCHITECTURES=ptx86"]`, `"source_date_epoch":1790553600`,
		`{"digest":{"sha256":"` + strings.Repeat("f", 64) + `"},"name":"patches/0001-mend.patch"}`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s is not in\n%s", want, text)
		}
	}
	unknown := facts()
	unknown.Repository = ""
	if problems := provenance.Check(text, unknown, workflow); len(problems) > 0 {
		t.Errorf("by who does not know the repository the check finds %q", problems)
	}
	local, err := provenance.Statement(facts(), provenance.Run{})
	if err != nil {
		t.Fatal(err)
	}
	if problems := provenance.Check(local, facts(), ""); len(problems) > 0 {
		t.Errorf("of a local build its own check finds %q", problems)
	}
	tree := facts()
	for i := range tree.Bundles {
		tree.Bundles[i].LlamaCPP.Commit = "sha256:" + strings.Repeat("e", 64)
	}
	text, err = provenance.Statement(tree, provenance.Run{})
	if err != nil || !strings.Contains(string(text), `"sha256":"`+strings.Repeat("e", 64)+`"`) {
		t.Errorf("a source without a repository: %s, %v", text, err)
	}
	if text, err := provenance.Statement(provenance.Facts{}, provenance.Run{}); err == nil {
		t.Errorf("of nothing: %s", text)
	}
}

func TestCheck(t *testing.T) {
	good, err := provenance.Statement(facts(), provenance.Run{Builder: workflow})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		text   func(map[string]any)
		facts  func(*provenance.Facts)
		signer string
		want   string
	}{
		{name: "another archive", facts: func(f *provenance.Facts) { f.Files[0].SHA256 = strings.Repeat("0", 64) }, want: "for llcuda-bins-sm86.tar.gz, which is 000"},
		{name: "an archive more", facts: func(f *provenance.Facts) { f.Files = append(f.Files, manifests.Artifact{Name: "x"}) }, want: "x is not in it"},
		{name: "an archive less", facts: func(f *provenance.Facts) { f.Files = f.Files[:2] }, want: "it names llcuda-cudart-cu12-0.tar.gz"},
		{name: "another release", facts: func(f *provenance.Facts) { f.Bundles[1].Release = "v2" }, want: "externalParameters"},
		{name: "another source", facts: func(f *provenance.Facts) { f.Bundles[1].LlamaCPP.Commit = strings.Repeat("0", 40) }, want: "resolvedDependencies"},
		{name: "another repository", facts: func(f *provenance.Facts) { f.Repository = "https://example.org/llama" }, want: "externalParameters"},
		{name: "another builder image", facts: func(f *provenance.Facts) { f.Bundles[0].Build.BuilderImage = "sha256:" + strings.Repeat("0", 64) }, want: "resolvedDependencies"},
		{name: "other arguments", facts: func(f *provenance.Facts) { f.Bundles[0].Build.CUDACMake = nil }, want: "internalParameters"},
		{name: "machine code for PTX", facts: func(f *provenance.Facts) { f.Bundles[0].Row.PTX = false }, want: "externalParameters"},
		{name: "another workflow", signer: manifests.SignerIdentity + "@refs/tags/v2", want: "signed by"},
		{name: "a person", signer: "somebody@example.org", want: "did not sign"},
		{name: "another predicate", text: func(s map[string]any) { s["predicateType"] = "https://spdx.dev/Document" }, want: "of type"},
		{name: "half a predicate", text: func(s map[string]any) { delete(s["predicate"].(map[string]any), "runDetails") }, want: "runDetails required"},
		{name: "another way to build", text: func(s map[string]any) {
			s["predicate"].(map[string]any)["buildDefinition"].(map[string]any)["buildType"] = "https://example.org"
		}, want: "buildType"},
		{name: "a field more", text: func(s map[string]any) { s["predicate"].(map[string]any)["more"] = 1 }, want: "not SLSA's"},
		{name: "a subject twice", text: func(s map[string]any) {
			s["subject"] = append(s["subject"].([]any), s["subject"].([]any)[0])
		}, want: "twice"},
		{name: "no statement", text: func(s map[string]any) { clear(s) }, want: "not an in-toto statement"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text, f, signer := good, facts(), workflow
			if test.text != nil {
				var statement map[string]any
				if err := json.Unmarshal(good, &statement); err != nil {
					t.Fatal(err)
				}
				test.text(statement)
				if text, err = json.Marshal(statement); err != nil {
					t.Fatal(err)
				}
			}
			if test.facts != nil {
				test.facts(&f)
			}
			if test.signer != "" {
				signer = test.signer
			}
			if problems := strings.Join(provenance.Check(text, f, signer), "\n"); !strings.Contains(problems, test.want) {
				t.Errorf("found %q, want %q among it", problems, test.want)
			}
		})
	}
}
