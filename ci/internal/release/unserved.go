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

// unserved finds what bundles take from CUDA's libraries and their runtimes do not give: a runtime has only what the
// source that it was made for calls. Archives whose libraries are not known are left out.
func unserved(r manifests.Release, libraries map[string]*bundler.Libraries) []publisher.Finding {
	var findings []publisher.Finding
	for _, bundle := range r.Bundles() {
		runtime, _ := r.Runtime(bundle) // Check has seen to it
		takes, gives := libraries[bundle.Name], libraries[runtime.Name]
		if takes == nil || gives == nil {
			continue
		}
		for _, f := range takes.CheckServed(gives) {
			findings = append(findings, publisher.Finding{Name: bundle.Name, Rule: f.Rule, Detail: f.Path + ": " + f.Detail})
		}
	}
	return findings
}

// libraries are those of the release's archives, by the names of the archives to download. What the ledger knows is not
// read.
func (d Dir) libraries(ctx context.Context, r manifests.Release, known *Ledger) (map[string]*bundler.Libraries, error) {
	all := map[string]*bundler.Libraries{}
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readLimit())
	for _, a := range slices.Concat(r.Bundles(), r.Runtimes()) {
		group.Go(func() error {
			read := known.Libraries(d.Path(a.Name))
			if read == nil {
				var err error
				if read, err = bundler.ReadLibraries(ctx, d.Path(a.Name)); err != nil {
					return err
				}
				if err := known.NoteLibraries(d.Path(a.Name), a, read); err != nil {
					return err
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all[a.Name] = read
			return nil
		})
	}
	return all, group.Wait()
}
