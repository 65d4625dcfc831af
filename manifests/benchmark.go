package manifests

import (
	"fmt"
	"io"
	"reflect"
	"slices"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// A Benchmark is llcuda-bench.json: how fast bundles are on one machine, measured in turn. A release need not have one: it
// takes a GPU to make.
type Benchmark struct {
	SchemaVersion int `json:"schema_version"`
	// GPU is empty where none was used; such a benchmark is not one of a release.
	GPU string `json:"gpu,omitempty"`
	CPU string `json:"cpu"`
	// Rounds is how often each bundle was measured, and Repetitions how often each test ran in a round.
	Rounds      int `json:"rounds"`
	Repetitions int `json:"repetitions"`
	// Bundles are in the order in which they took turns. The others are compared with the first.
	Bundles []BenchmarkBundle `json:"bundles"`
	Models  []BenchmarkModel  `json:"models"`
	Tests   []BenchmarkTest   `json:"tests"`
}

// A BenchmarkBundle is the archive of a bundle that was measured.
type BenchmarkBundle struct {
	Name     string     `json:"name"`
	SHA256   string     `json:"sha256"`
	Release  string     `json:"release"`
	LlamaCPP LlamaCPP   `json:"llama_cpp"`
	Row      matrix.Row `json:"sm"`
}

// A BenchmarkModel is a model that was measured with.
type BenchmarkModel struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	// Type is what llama.cpp calls it: "gemma3 1B Q4_K - Medium".
	Type string `json:"type"`
}

// A BenchmarkTest is one test with one model.
type BenchmarkTest struct {
	// Model is the name of one of Models, and Test the name of the test, as llama-bench prints it: "pp512", "tg128".
	Model string `json:"model"`
	Test  string `json:"test"`
	// Speeds are those of the bundles, in their order.
	Speeds []BenchmarkSpeed `json:"speeds"`
}

// A BenchmarkSpeed is how fast a bundle was.
type BenchmarkSpeed struct {
	TokensPerSecond Spread `json:"tokens_per_second"` // of the rounds
	// Ratio is the speed divided by the first bundle's of the same round. The first bundle has none.
	Ratio *Spread `json:"ratio,omitempty"`
}

// A Spread is the median of numbers, and the least and the greatest of them.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// Check reports everything wrong with a benchmark, as matrix.Problems.
func (b Benchmark) Check() error {
	var p matrix.Problems
	checkTexts(reflect.ValueOf(b), "", &p)
	if b.SchemaVersion != SchemaVersion {
		p.Addf("schema_version", "%d, want %d", b.SchemaVersion, SchemaVersion)
	}
	for _, list := range []struct {
		at string
		n  int
	}{{"rounds", b.Rounds}, {"repetitions", b.Repetitions}, {"bundles", len(b.Bundles)}, {"models", len(b.Models)}, {"tests", len(b.Tests)}} {
		if list.n < 1 {
			p.Addf(list.at, "none")
		}
	}
	for i, bundle := range b.Bundles {
		at := fmt.Sprintf("bundles[%d]", i)
		if KindOf(bundle.Name) != KindBundle || Stem(bundle.Name) != BundleName(bundle.Row) {
			p.Addf(at+".name", "%q is not an archive of %s", shorten(bundle.Name), BundleName(bundle.Row))
		}
		checkSHA256(&p, at+".sha256", bundle.SHA256)
		checkName(&p, at+".release", bundle.Release)
		p.Under(at+".llama_cpp", bundle.LlamaCPP.check())
	}
	for i, model := range b.Models {
		at := fmt.Sprintf("models[%d]", i)
		if model.Name == "" {
			p.Addf(at+".name", "missing")
		}
		checkSize(&p, at+".size", model.Size, 1)
		checkSHA256(&p, at+".sha256", model.SHA256)
	}
	for i, test := range b.Tests {
		p.Under(fmt.Sprintf("tests[%d]", i), b.checkTest(test))
	}
	return p.Err()
}

func (b Benchmark) checkTest(test BenchmarkTest) error {
	var p matrix.Problems
	if !slices.ContainsFunc(b.Models, func(m BenchmarkModel) bool { return m.Name == test.Model }) {
		p.Addf("model", "%q is none of the models", shorten(test.Model))
	}
	checkName(&p, "test", test.Test)
	if len(test.Speeds) != len(b.Bundles) {
		p.Addf("speeds", "%d, and there are %d bundles", len(test.Speeds), len(b.Bundles))
	}
	for i, speed := range test.Speeds {
		at := fmt.Sprintf("speeds[%d]", i)
		speed.TokensPerSecond.check(&p, at+".tokens_per_second")
		switch {
		case i == 0 && speed.Ratio != nil:
			p.Addf(at+".ratio", "the first bundle is what the others are compared with")
		case i > 0 && speed.Ratio == nil:
			p.Addf(at+".ratio", "missing")
		case i > 0:
			speed.Ratio.check(&p, at+".ratio")
		}
	}
	return p.Err()
}

func (s Spread) check(p *matrix.Problems, at string) {
	if !(0 < s.Min && s.Min <= s.Median && s.Median <= s.Max) {
		p.Addf(at, "%v, %v, %v: want 0 < min ≤ median ≤ max", s.Min, s.Median, s.Max)
	}
}

// CheckOf reports why a benchmark is not one of a release: it measures the release's own bundle last, on a GPU.
func (b Benchmark) CheckOf(r Release) error {
	var p matrix.Problems
	if b.GPU == "" {
		p.Addf("gpu", "no GPU was used")
	}
	at := len(b.Bundles) - 1
	last := b.Bundles[at]
	if asset, ok := r.Asset(last.Name); !ok || asset.Kind != KindBundle || asset.SHA256 != last.SHA256 {
		p.Addf(fmt.Sprintf("bundles[%d]", at), "%s with sha256 %s is not of release %s", shorten(last.Name), last.SHA256, shorten(r.Release))
	}
	return p.Err()
}

// EncodeBenchmark is the one way to write a benchmark. It refuses what Check refuses.
func EncodeBenchmark(b Benchmark) ([]byte, error) {
	if err := b.Check(); err != nil {
		return nil, fmt.Errorf("writing %s: %w", BenchmarkName, err)
	}
	return encode(b)
}

// DecodeBenchmark reads a benchmark and checks it.
func DecodeBenchmark(r io.Reader) (Benchmark, error) {
	var b Benchmark
	if err := decode(r, BenchmarkName, &b); err != nil {
		return Benchmark{}, err
	}
	if err := b.Check(); err != nil {
		return Benchmark{}, fmt.Errorf("reading %s: %w", BenchmarkName, err)
	}
	return b, nil
}
