package changes

import (
	"slices"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// A Speed is how fast both releases are in one test, in tokens per second.
type Speed struct {
	GPU    string  `json:"gpu"`
	Bundle string  `json:"bundle"`
	Model  string  `json:"model"`
	Test   string  `json:"test"` // "pp512"
	Before float64 `json:"before"`
	After  float64 `json:"after"`
	// Ratio is how many times as fast the later release is.
	Ratio float64 `json:"ratio"`
	// SameRun says that one benchmark measured both, in turn. Else each release has its own, and what
	// differs may be the machine's.
	SameRun bool `json:"same_run"`
}

// speed compares the releases' own bundles: in the later one's benchmark if that measured the
// earlier one, too, else in the benchmark of each. A release's benchmark measures its own bundle
// last.
func speed(before, after Release) []Speed {
	list := []Speed{}
	now := after.Benchmark
	if now == nil {
		return list
	}
	last := len(now.Bundles) - 1
	own := now.Bundles[last]
	first := now.Bundles[0]
	if asset, ok := before.Asset(first.Name); ok && last > 0 && asset.Kind == manifests.KindBundle && asset.SHA256 == first.SHA256 && first.Row == own.Row {
		for _, test := range now.Tests {
			x, y := test.Speeds[0], test.Speeds[last]
			list = append(list, Speed{now.GPU, manifests.BundleName(own.Row), test.Model, test.Test,
				x.TokensPerSecond.Median, y.TokensPerSecond.Median, y.Ratio.Median, true})
		}
		return list
	}
	old := before.Benchmark
	if old == nil || old.GPU != now.GPU || old.Bundles[len(old.Bundles)-1].Row != own.Row {
		return list
	}
	for _, test := range now.Tests {
		i := slices.IndexFunc(old.Tests, func(t manifests.BenchmarkTest) bool {
			return t.Test == test.Test && modelOf(*old, t) == modelOf(*now, test)
		})
		if i < 0 {
			continue
		}
		x, y := old.Tests[i].Speeds[len(old.Bundles)-1].TokensPerSecond.Median, test.Speeds[last].TokensPerSecond.Median
		list = append(list, Speed{now.GPU, manifests.BundleName(own.Row), test.Model, test.Test, x, y, y / x, false})
	}
	return list
}

// modelOf is the digest of the model that a test ran with, whatever its file is called.
func modelOf(b manifests.Benchmark, test manifests.BenchmarkTest) string {
	i := slices.IndexFunc(b.Models, func(m manifests.BenchmarkModel) bool { return m.Name == test.Model })
	if i < 0 {
		return ""
	}
	return b.Models[i].SHA256
}
