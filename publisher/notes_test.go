package publisher_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/manifests/goldentest"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/publisher"
	"github.com/waqasm86/llcuda-farm/publisher/changes"
)

func TestNotes(t *testing.T) {
	table := matrix.Matrix{
		Targets:  []matrix.Target{{SM: 50, Platforms: []string{"Local"}}, {SM: 75, Platforms: []string{"Colab", "Kaggle"}}, {SM: 90, Platforms: []string{"Enterprise"}}, {SM: 90, PTX: true, Platforms: []string{"Local", "Enterprise"}}},
		LlamaCPP: matrix.LlamaPin{Repository: "https://github.com/ggml-org/llama.cpp"},
	}
	models := []matrix.Model{
		{Name: "gemma-3-1b-it-Q4_K_M", Repo: "unsloth/gemma-3-1b-it-GGUF", File: "gemma-3-1b-it-Q4_K_M.gguf", Size: 806_058_240,
			SHA256: strings.Repeat("b", 64), Source: "google/gemma-3-1b-it", Licence: "gemma", VRAM: 1200},
		{Name: "tinyllama-1.1b-Q5_K_M", Repo: "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF", File: "tinyllama-1.1b-chat-v1.0.Q5_K_M.gguf",
			Source: "TinyLlama/TinyLlama-1.1B-Chat-v1.0", Licence: "apache-2.0"},
	}
	made := fetchtest.New(t, fetchtest.Options{SMs: []matrix.SM{75, 50, 90}, PTX: []matrix.SM{90}, Models: models, Linked: true}).Manifest
	digest := strings.Repeat("a", 64)
	var assets []manifests.Artifact
	for _, a := range made.Assets {
		if a.Kind == manifests.KindCUDART { // its digest is the compiler's
			a.Name = a.Top() + "-aaaaaaaaaaaa." + a.Format
			a.URL, a.Size, a.Tar = a.Name, 240_000_000, &manifests.Digest{SHA256: digest, Size: 500_000_000}
		} else {
			a.Size = 28_000_000 + int64(a.Row.SM)*100_000
		}
		if a.Row.PTX {
			a.GPUs, a.Size = []string{"GPUs newer than Hopper"}, a.Size+50_000
		}
		a.SHA256 = digest
		assets = append(assets, a)
	}
	for name, kind := range map[string]manifests.Kind{
		"install.sh": manifests.KindClient, "llcuda-fetch-linux-amd64.tar.gz": manifests.KindClient,
		"llcuda-bins-sm75.spdx.json": manifests.KindSBOM, "llcuda-provenance.sigstore.json": manifests.KindProvenance, "llcuda-bench.json": manifests.KindProvenance,
	} {
		assets = append(assets, manifests.Artifact{Name: name, Kind: kind, Size: 1000, SHA256: digest, URL: name})
	}
	full, err := manifests.New(made.Release, assets, models)
	if err != nil {
		t.Fatal(err)
	}
	bare := fetchtest.New(t, fetchtest.Options{}).Manifest
	bare.LlamaCPP.Commit = "sha256:" + digest
	for i := range bare.Assets {
		bare.Assets[i].Size = 1_000_000
		if bare.Assets[i].Kind == manifests.KindCUDART {
			bare.Assets[i].Name = "llcuda-cudart-cu12-aaaaaaaaaaaa." + bare.Assets[i].Format
		}
	}
	benchmark := manifests.Benchmark{
		GPU: "NVIDIA H100 80GB HBM3", Rounds: 5,
		Bundles: []manifests.BenchmarkBundle{{Name: "llcuda-bins-sm90.tar.zst", Release: "v1.0.0-runtime"}, {Name: "llcuda-bins-sm90.tar.zst", Release: made.Release}},
		Tests: []manifests.BenchmarkTest{{Model: "a|b.gguf", Test: "pp512", Speeds: []manifests.BenchmarkSpeed{
			{TokensPerSecond: manifests.Spread{Median: 12345.68, Min: 12000, Max: 12400}},
			{TokensPerSecond: manifests.Spread{Median: 12469.14, Min: 12100, Max: 12500}, Ratio: &manifests.Spread{Median: 1.0112, Min: 0.9984, Max: 1.0205}},
		}}},
	}
	alone := benchmark
	alone.Bundles, alone.Tests = benchmark.Bundles[1:], []manifests.BenchmarkTest{{Model: "tiny.gguf", Test: "tg128", Speeds: benchmark.Tests[0].Speeds[:1]}}
	// The release before had one bundle less and another llama.cpp; the one after it is the same but for the archives.
	earlier, patched := changes.Release{Release: full}, changes.Release{Release: full}
	earlier.Release.Release, patched.Release.Release = "v1.0.0-runtime", "v1.1.1-runtime"
	earlier.LlamaCPP = manifests.LlamaCPP{Version: "0.4.0", Commit: strings.Repeat("4", 40)}
	earlier.Assets = slices.DeleteFunc(slices.Clone(full.Assets), func(a manifests.Artifact) bool { return a.Row == matrix.Row{SM: 50} })
	patched.Assets = slices.Clone(full.Assets)
	for i := range patched.Assets {
		if a := &patched.Assets[i]; a.Kind == manifests.KindBundle {
			a.Tar = &manifests.Digest{SHA256: strings.Repeat("b", 64), Size: 1}
		}
	}
	// What their bills of materials name.
	bills := func(server string) map[string][]manifests.File {
		all := map[string][]manifests.File{}
		for _, row := range []matrix.Row{{SM: 50}, {SM: 75}, {SM: 90}, {SM: 90, PTX: true}} {
			all[manifests.BundleName(row)] = []manifests.File{{Path: "LICENSE", SHA256: digest}, {Path: "binaries/cuda12/llama-server", SHA256: strings.Repeat(server, 64)}}
		}
		return all
	}
	now := changes.Release{Release: full, Benchmark: &alone, Files: bills("2")}
	earlier.Files, patched.Files = bills("1"), bills("3")
	since := changes.Compare(earlier, now, table.LlamaCPP.Repository)
	mended := changes.Compare(now, patched, table.LlamaCPP.Repository)
	const downloads = "https://github.com/waqasm86/llcuda-farm/releases/download/v1.1.0-runtime"
	for name, got := range map[string]string{
		"full":  publisher.Notes(full, table, publisher.NotesOptions{Downloads: downloads, Identity: manifests.SignerIdentity + "@refs/tags/v1.1.0-runtime", Issuer: manifests.SignerIssuer, Benchmark: &benchmark}),
		"key":   publisher.Notes(bare, table, publisher.NotesOptions{Downloads: downloads, Benchmark: &alone}),
		"since": publisher.Notes(full, table, publisher.NotesOptions{Downloads: downloads, Benchmark: &alone, Changes: &since}),
		"patch": publisher.Notes(patched.Release, table, publisher.NotesOptions{Downloads: downloads, Changes: &mended}),
		"first": publisher.Notes(bare, table, publisher.NotesOptions{Downloads: downloads, First: true}),
	} {
		goldentest.Check(t, filepath.Join("testdata", "notes-"+name+".golden.md"), []byte(got))
	}
}
