package release

import (
	"os"
	"strings"
	"testing"

	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
)

// The benchmark of a release is the one that its manifest describes, or none.
func TestTellBenchmark(t *testing.T) {
	r := fetchtest.New(t, fetchtest.Options{})
	bundle := r.Manifest.Bundles()[0]
	speed := manifests.Spread{Median: 2, Min: 1, Max: 3}
	data, err := manifests.EncodeBenchmark(manifests.Benchmark{
		SchemaVersion: manifests.SchemaVersion, GPU: "Tesla T4", CPU: "a CPU", Rounds: 1, Repetitions: 1,
		Bundles: []manifests.BenchmarkBundle{{Name: bundle.Name, SHA256: bundle.SHA256, Release: bundle.Release, LlamaCPP: *bundle.LlamaCPP, Row: bundle.Row}},
		Models:  []manifests.BenchmarkModel{{Name: "m", Size: 1, SHA256: strings.Repeat("0", 64), Type: "t"}},
		Tests:   []manifests.BenchmarkTest{{Model: "m", Test: "pp512", Speeds: []manifests.BenchmarkSpeed{{TokensPerSecond: speed}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	described, err := manifests.New(r.Manifest.Release, append(r.Manifest.Assets, manifests.Artifact{
		Name: manifests.BenchmarkName, Kind: manifests.KindProvenance, Size: int64(len(data)), SHA256: fetchtest.SHA256(data), URL: manifests.BenchmarkName,
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		manifest  manifests.Release
		benchmark string
		want      string // "none", "read", or what is refused
	}{
		"as described":  {described, string(data), "read"},
		"not there":     {described, "", "none"},
		"another":       {described, strings.Replace(string(data), `"median": 2`, `"median": 2.5`, 1), "is not the file that manifest.json describes"},
		"not described": {r.Manifest, string(data), "none"},
	} {
		dir := Dir(t.TempDir())
		manifest, err := manifests.Encode(test.manifest)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir.Path(manifests.ManifestName), manifest, 0o644); err != nil {
			t.Fatal(err)
		}
		if test.benchmark != "" {
			if err := os.WriteFile(dir.Path(manifests.BenchmarkName), []byte(test.benchmark), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		told, err := dir.Tell(t.Context(), nil, false)
		switch {
		case test.want == "read" && (err != nil || told.Benchmark == nil || told.Benchmark.Tests[0].Speeds[0].TokensPerSecond != speed):
			t.Errorf("%s: %+v, %v", name, told.Benchmark, err)
		case test.want == "none" && (err != nil || told.Benchmark != nil):
			t.Errorf("%s: %+v, %v", name, told.Benchmark, err)
		case test.want != "read" && test.want != "none" && (!isAs[*failure.Refusal](err) || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}
