package farm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix/patches"
)

// patched applies a set of patches to a tree of the cache, and returns the folder of the result and
// the patches that it contains. The set is made for the pin: there, a missing file is an error.
func (r resolver) patched(ctx context.Context, tree origin, set []patches.Patch, isPin bool) (string, []manifests.Patch, error) {
	pristine := r.cache.path(tree.sums.digest)
	root, err := os.OpenRoot(pristine)
	if err != nil {
		return "", nil, fmt.Errorf("patching the source: %w", err)
	}
	defer root.Close()
	changed := map[string][]byte{}
	var applied []manifests.Patch
	for _, p := range set {
		form, files, err := applyForm(p, func(name string) ([]byte, error) {
			if text, ok := changed[name]; ok {
				return text, nil
			}
			return root.ReadFile(name)
		})
		var elsewhere *patches.NotThereError
		switch {
		case errors.Is(err, patches.ErrUpstream):
			r.progress(fmt.Sprintf("the patch %s is dropped: %v", p.Name, err))
			continue
		case errors.As(err, &elsewhere) && !isPin:
			r.progress(fmt.Sprintf("the patch %s is left out: the source does not have %s", p.Name, elsewhere.File))
			continue
		case err != nil:
			return "", nil, err
		}
		for name, text := range files {
			changed[name] = text
		}
		applied = append(applied, manifests.Patch{Name: form.Name, SHA256: form.SHA256})
	}
	if len(applied) == 0 {
		return pristine, nil, nil
	}
	dir, err := r.changed(ctx, root, tree.sums.with(changed).gitTree(nil), changed)
	if err != nil {
		return "", nil, fmt.Errorf("patching the source: %w", err)
	}
	return dir, applied, nil
}

// applyForm applies the first form of a patch that fits. If none fits, the error is that of the patch itself.
func applyForm(p patches.Patch, read func(name string) ([]byte, error)) (form patches.Patch, files map[string][]byte, err error) {
	for i, form := range p.Forms() {
		files, formErr := form.Apply(read)
		if formErr == nil || errors.Is(formErr, patches.ErrUpstream) {
			return form, files, formErr
		}
		if i == 0 {
			err = formErr
		}
	}
	return p, nil, err
}

// changed returns a copy of a tree with some of its files changed, from the cache if it is there. The
// copy is named by the id of the git tree that its files must make, and is hashed each time: nothing
// in the cache is trusted.
func (r resolver) changed(ctx context.Context, root *os.Root, id string, changed map[string][]byte) (string, error) {
	dir := r.cache.path("patched-" + id)
	if there, err := hashTree(dir); err == nil && there.gitTree(nil) == id {
		return dir, nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("removing a changed tree from the source cache: %w", err)
	}
	stage, remove, err := r.cache.stage()
	if err != nil {
		return "", err
	}
	defer remove()
	if err := copyChanged(ctx, root, stage, changed); err != nil {
		return "", err
	}
	if err := normalise(stage); err != nil {
		return "", err
	}
	made, err := hashTree(stage)
	if err == nil && made.gitTree(nil) != id {
		err = fmt.Errorf("the patched tree is %s and must be %s", made.gitTree(nil), id)
	}
	if err != nil {
		return "", err
	}
	if err := os.Rename(stage, dir); err != nil {
		// Another process may have been first with the same tree.
		if there, hashErr := hashTree(dir); hashErr != nil || there.gitTree(nil) != id {
			return "", err
		}
	}
	return dir, nil
}

// copyChanged copies a tree, with some of its files changed.
func copyChanged(ctx context.Context, root *os.Root, stage string, changed map[string][]byte) error {
	names, err := filesUnder(root.Name())
	if err != nil {
		return err
	}
	if err := copyFiles(ctx, root, stage, names); err != nil {
		return err
	}
	copied, err := os.OpenRoot(stage)
	if err != nil {
		return err
	}
	defer copied.Close()
	for name, text := range changed {
		if err := copied.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		if err := copied.WriteFile(name, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
