package release

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/publisher"
)

// Benchmark is how fast a release in the folder is; nil where that was not measured. One that cannot be read, or measures
// something else, is a *failure.Refusal.
func (d Dir) Benchmark(of manifests.Release) (*manifests.Benchmark, error) {
	data, err := os.ReadFile(d.Path(manifests.BenchmarkName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := manifests.DecodeBenchmark(bytes.NewReader(data))
	if err == nil {
		err = b.CheckOf(of)
	}
	if err != nil {
		return nil, failure.Refuse(fmt.Errorf("reading %s: %w", d.Path(manifests.BenchmarkName), err), "ci bench writes it, of the release's own bundle; or remove it: a release need not have one")
	}
	return &b, nil
}

// describedBenchmark is the benchmark that a manifest describes; nil where that has none, or the folder does not have it.
func (d Dir) describedBenchmark(of manifests.Release) (*manifests.Benchmark, error) {
	asset, described := of.Asset(manifests.BenchmarkName)
	if !described {
		return nil, nil
	}
	if there, err := d.holds(asset); err != nil || !there {
		return nil, err
	}
	return d.Benchmark(of)
}

// benchmark finds a benchmark that is not one of the release.
func (v *verification) benchmark() error {
	if !v.read() {
		return nil
	}
	_, err := v.dir.Benchmark(v.folder.Release)
	if refused, ok := errors.AsType[*failure.Refusal](err); ok {
		v.add(manifests.BenchmarkName, publisher.RuleFormat, "%v", refused)
		return nil
	}
	return err
}
