package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
)

// linkAndTry links a bundle to CUDA libraries and tries its programs. Libraries that were found on
// the machine and do not work are replaced by the farm's own: they may be of a CUDA that is too
// old, or lack their own dependencies.
func (w *installer) linkAndTry(ctx context.Context, best offer, i *Install) (store.Probe, error) {
	fetched := best.needsRuntime()
	if !fetched && len(i.Libraries) > 0 {
		shared, err := w.store.Shared(*i)
		if err != nil {
			return store.Probe{}, err
		}
		if shared {
			w.client.step("another machine uses this bundle with other CUDA libraries: linking it to the farm's, which work on both")
			fetched = true
		}
	}
	if fetched {
		if err := w.useRuntime(ctx, best, i); err != nil {
			return store.Probe{}, err
		}
	}
	probe, err := w.try(ctx, i)
	var failed *store.ProbeError
	if !errors.As(err, &failed) || fetched || i.Through == manifests.ThroughCPU || len(i.Libraries) == 0 {
		return probe, err
	}
	w.client.step("the CUDA libraries from %s do not work (%s); downloading ours", i.Libraries[0].Source, failed.Problem)
	if err := w.useRuntime(ctx, best, i); err != nil {
		return store.Probe{}, err
	}
	return w.try(ctx, i)
}

// try links a bundle to the installation's CUDA libraries and starts its programs.
func (w *installer) try(ctx context.Context, i *Install) (store.Probe, error) {
	if len(i.Libraries) > 0 { // on the CPU alone, what other machines need of the bundle stays as it is
		var err error
		if i.Links, err = w.store.Link(w.store.Dir(*i), i.Libraries); err != nil {
			return store.Probe{}, err
		}
	}
	w.client.step("trying the programs")
	onGPU := i.Through != manifests.ThroughCPU && i.Machine.Kind != launch.AnyKind && w.client.Host == nil
	return store.TryPrograms(ctx, w.store.Programs(*i), onGPU)
}

// useRuntime gets the farm's CUDA libraries into the store and makes the installation use them.
func (w *installer) useRuntime(ctx context.Context, best offer, i *Install) error {
	if err := w.adopt(ctx, best.release, best.runtime, nil); err != nil {
		return err
	}
	folder, _ := w.store.Folder(best.runtime)
	i.Runtime, i.Libraries = w.store.Relative(folder), nil
	for _, file := range best.runtime.Libraries {
		if path.Dir(file.Path) == launch.LibrariesDir {
			i.Libraries = append(i.Libraries, manifests.CUDALibrary{Name: path.Base(file.Path), Path: path.Join(i.Runtime, file.Path), Source: "store"})
		}
	}
	return nil
}

// adopt gets an archive of a release into the store. It is unpacked while it is downloaded, and
// moved to its place once the digest of its bytes and every file in it are verified.
func (w *installer) adopt(ctx context.Context, r *Release, a manifests.Artifact, runtimeNames []string) error {
	c := w.client
	if _, there := w.store.Folder(a); there && !w.force {
		problem := c.checkUnpacked(ctx, a, runtimeNames)
		if problem == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		c.step("%s in the store is not as it was published (%v): unpacking it again", a.Stem(), problem)
	}
	urls, err := c.urls(r, a)
	if err != nil {
		return err
	}
	if len(urls) == 0 {
		return &OfflineError{a.Name}
	}
	stage, err := w.store.Stage(a)
	if err != nil {
		return err
	}
	partial := w.store.Partial(a.SHA256)
	var refused error
	follow := func(stream io.Reader) error {
		err := stage.Unpack(ctx, stream)
		if refused = nil; is[*store.ArchiveError](err) {
			// The digest may show that these are not the release's bytes at all, and that is the
			// error to report then.
			refused = err
			_, err = io.Copy(io.Discard, stream)
		}
		return err
	}
	blob := transfer.Blob{Name: a.Name, Size: a.Size, SHA256: a.SHA256, URLs: urls, Transient: true}
	if err := c.transfer().Fetch(ctx, blob, partial, follow, c.Progress); err != nil {
		return errors.Join(c.blame(err), stage.Close())
	}
	// If the archive is removed before Adopt makes the file system write, it is never written to
	// disk, and leaves its space to what was unpacked from it.
	if err := errors.Join(refused, os.Remove(partial)); err != nil {
		return errors.Join(err, stage.Close())
	}
	c.step("writing %s to disk", a.Stem())
	return errors.Join(stage.Adopt(runtimeNames), stage.Close())
}

// checkUnpacked verifies an archive that lies unpacked in the store.
func (c *Client) checkUnpacked(ctx context.Context, a manifests.Artifact, runtimeNames []string) error {
	findings, err := c.Store.Verify(ctx, a, runtimeNames)
	folder, _ := c.Store.Folder(a)
	switch {
	case err != nil:
		return err
	case len(findings) > 0:
		return fmt.Errorf("%s: %s", findings[0].Path, findings[0].Detail)
	case a.Kind == manifests.KindBundle && !c.isRecorded(c.Store.Relative(folder)):
		return errors.New("no installation has it")
	}
	return nil
}

// isRecorded reports whether an installation has a bundle's folder, and the metadata.json in it is
// the one that was unpacked. The manifest vouches for the archive as a whole; the list of a
// folder's files lies in the folder itself.
func (c *Client) isRecorded(folder string) bool {
	list, err := c.Store.List()
	return err == nil && slices.ContainsFunc(list, func(i Install) bool { return i.Folder == folder && c.Store.Unchanged(i) })
}
