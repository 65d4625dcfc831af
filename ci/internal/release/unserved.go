package release

import (
	"context"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/publisher"
)

// unserved finds what bundles need of CUDA's libraries and their runtimes do not have. A runtime has only what the source
// that it was made for calls.
func (d Dir) unserved(ctx context.Context, r manifests.Release) ([]publisher.Finding, error) {
	bundles, runtimes := r.Bundles(), r.Runtimes()
	archives := slices.Concat(bundles, runtimes)
	libraries := make(map[string]*bundler.Libraries, len(archives))
	var mu sync.Mutex
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(readLimit())
	for _, a := range archives {
		group.Go(func() error {
			read, err := bundler.ReadLibraries(groupCtx, d.Path(a.Name))
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			libraries[a.Name] = read
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var findings []publisher.Finding
	for _, bundle := range bundles {
		runtime, _ := r.Runtime(bundle) // Check has seen to it
		for _, f := range libraries[bundle.Name].CheckServed(libraries[runtime.Name], *bundle.Toolkit) {
			findings = append(findings, publisher.Finding{Name: bundle.Name, Rule: f.Rule, Detail: f.Path + ": " + f.Detail})
		}
	}
	return findings, nil
}
