package manifests_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/goldentest"
)

func benchmark() manifests.Benchmark {
	of := func(tag, digit string) manifests.BenchmarkBundle {
		return manifests.BenchmarkBundle{Name: "llcuda-bins-sm75.tar.zst", SHA256: hash(digit), Release: tag, LlamaCPP: llama, Row: sm(75)}
	}
	return manifests.Benchmark{
		SchemaVersion: 1, GPU: "Tesla T4", CPU: "Intel(R) Xeon(R) CPU @ 2.00GHz", Rounds: 5, Repetitions: 3,
		Bundles: []manifests.BenchmarkBundle{of("v1.0.0-runtime", "9"), of(release, "2")},
		Models:  []manifests.BenchmarkModel{{Name: "a model.gguf", Size: 806_058_240, SHA256: hash("3"), Type: "gemma3 1B Q4_K - Medium"}},
		Tests: []manifests.BenchmarkTest{{Model: "a model.gguf", Test: "pp512", Speeds: []manifests.BenchmarkSpeed{
			{TokensPerSecond: manifests.Spread{Median: 2500.5, Min: 2400, Max: 2550.25}},
			{TokensPerSecond: manifests.Spread{Median: 2510, Min: 2450, Max: 2600}, Ratio: &manifests.Spread{Median: 1.0038, Min: 0.9912, Max: 1.0107}},
		}}},
	}
}

func TestBenchmark(t *testing.T) {
	want := benchmark()
	data, err := manifests.EncodeBenchmark(want)
	if err != nil {
		t.Fatal(err)
	}
	goldentest.Check(t, filepath.Join("testdata", manifests.BenchmarkName), data)
	got, err := manifests.DecodeBenchmark(strings.NewReader(string(data)))
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("read again: %v\n%s", err, diff)
	}
	if kind := manifests.KindOf(manifests.BenchmarkName); kind != manifests.KindProvenance {
		t.Errorf("its kind is %q, which clients of earlier releases must know", kind)
	}
}

func TestBenchmarkCheck(t *testing.T) {
	for name, test := range map[string]struct {
		edit func(*manifests.Benchmark)
		want string
	}{
		"another schema":   {func(b *manifests.Benchmark) { b.SchemaVersion = 2 }, "schema_version: 2, want 1"},
		"nothing measured": {func(b *manifests.Benchmark) { b.Tests = nil }, "tests: none"},
		"no bundle":        {func(b *manifests.Benchmark) { b.Bundles = nil }, "bundles: none"},
		"no round":         {func(b *manifests.Benchmark) { b.Rounds = 0 }, "rounds: none"},
		"another SM":       {func(b *manifests.Benchmark) { b.Bundles[1].Row = sm(80) }, "bundles[1].name"},
		"PTX":              {func(b *manifests.Benchmark) { b.Bundles[1].Row = ptx(75) }, "bundles[1].name: \"llcuda-bins-sm75.tar.zst\" is not an archive of llcuda-bins-ptx75"},
		"no archive":       {func(b *manifests.Benchmark) { b.Bundles[0].Name = "llcuda-bins-sm75.spdx.json" }, "bundles[0].name"},
		"no digest":        {func(b *manifests.Benchmark) { b.Bundles[0].SHA256 = "x" }, "bundles[0].sha256"},
		"no commit":        {func(b *manifests.Benchmark) { b.Bundles[0].LlamaCPP.Commit = "" }, "bundles[0].llama_cpp.commit"},
		"an empty model":   {func(b *manifests.Benchmark) { b.Models[0].Size = 0 }, "models[0].size"},
		"no name":          {func(b *manifests.Benchmark) { b.Models[0].Name, b.Tests[0].Model = "", "" }, "models[0].name: missing"},
		"another model":    {func(b *manifests.Benchmark) { b.Tests[0].Model = "b.gguf" }, `tests[0].model: "b.gguf" is none of the models`},
		"no test":          {func(b *manifests.Benchmark) { b.Tests[0].Test = "pp 512" }, "tests[0].test"},
		"a speed missing":  {func(b *manifests.Benchmark) { b.Tests[0].Speeds = b.Tests[0].Speeds[:1] }, "tests[0].speeds: 1, and there are 2 bundles"},
		"stood still":      {func(b *manifests.Benchmark) { b.Tests[0].Speeds[0].TokensPerSecond.Min = 0 }, "tests[0].speeds[0].tokens_per_second"},
		"not a median":     {func(b *manifests.Benchmark) { b.Tests[0].Speeds[1].Ratio.Median = 2 }, "tests[0].speeds[1].ratio"},
		"no ratio":         {func(b *manifests.Benchmark) { b.Tests[0].Speeds[1].Ratio = nil }, "tests[0].speeds[1].ratio: missing"},
		"two baselines":    {func(b *manifests.Benchmark) { b.Tests[0].Speeds[0].Ratio = b.Tests[0].Speeds[1].Ratio }, "tests[0].speeds[0].ratio"},
		"control text":     {func(b *manifests.Benchmark) { b.GPU = "\x1b[2J" }, "gpu"},
	} {
		t.Run(name, func(t *testing.T) {
			b := benchmark()
			test.edit(&b)
			if _, err := manifests.EncodeBenchmark(b); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("it says %v, want %s", err, test.want)
			}
		})
	}
	for text, want := range map[string]string{
		`"median": 2500.5`: "tests[0].speeds[0].tokens_per_second",
		`"rounds": 5`:      "rounds: want an integer",
	} {
		data, err := manifests.EncodeBenchmark(benchmark())
		if err != nil {
			t.Fatal(err)
		}
		for _, number := range []string{`"1"`, "-0.5", "1e999", "null"} {
			key, _, _ := strings.Cut(text, ": ")
			broken := strings.Replace(string(data), text, key+": "+number, 1)
			if _, err := manifests.DecodeBenchmark(strings.NewReader(broken)); err == nil || !strings.Contains(err.Error(), strings.SplitN(want, ":", 2)[0]) {
				t.Errorf("%s: it says %v", number, err)
			}
		}
	}
}

func TestBenchmarkCheckOf(t *testing.T) {
	r := sample(t)
	for name, test := range map[string]struct {
		edit func(*manifests.Benchmark)
		want string
	}{
		"its own":          {func(*manifests.Benchmark) {}, ""},
		"alone":            {func(b *manifests.Benchmark) { b.Bundles = b.Bundles[1:] }, ""},
		"no GPU":           {func(b *manifests.Benchmark) { b.GPU = "" }, "gpu: no GPU was used"},
		"other bytes":      {func(b *manifests.Benchmark) { b.Bundles[1].SHA256 = hash("8") }, "bundles[1]"},
		"another bundle":   {func(b *manifests.Benchmark) { b.Bundles[1].Name = "llcuda-bins-sm99.tar.zst" }, "bundles[1]"},
		"only as baseline": {func(b *manifests.Benchmark) { b.Bundles[0], b.Bundles[1] = b.Bundles[1], b.Bundles[0] }, "bundles[1]"},
	} {
		t.Run(name, func(t *testing.T) {
			b := benchmark()
			test.edit(&b)
			err := b.CheckOf(r)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("it says %v, want %q", err, test.want)
			}
		})
	}
}
