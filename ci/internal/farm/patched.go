package farm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix/patches"
)

// patched applies a set of patches to a tree of the cache, and gives the folder of the result and which of them are in
// it. The set is made for the pin: there, a file that is missing is an error.
func (r resolver) patched(ctx context.Context, tree origin, set []patches.Patch, isPin bool) (string, []manifests.Patch, error) {
	pristine := r.cache.path(tree.digest)
	root, err := os.OpenRoot(pristine)
	if err != nil {
		return "", nil, fmt.Errorf("patching the source: %w", err)
	}
	defer root.Close()
	changed := map[string][]byte{}
	var applied []manifests.Patch
	key := sha256.New() // of the result, which is kept like a commit's tree
	fmt.Fprintf(key, "%s\n", tree.digest)
	for _, p := range set {
		files, err := p.Apply(func(name string) ([]byte, error) {
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
		applied = append(applied, manifests.Patch{Name: p.Name, SHA256: p.SHA256})
		fmt.Fprintf(key, "%s\n", p.SHA256)
	}
	if len(applied) == 0 {
		return pristine, nil, nil
	}
	result := origin{commit: "patched-" + hex.EncodeToString(key.Sum(nil))}
	if known, ok, err := r.cache.commit(result.commit); ok || err != nil {
		return r.cache.path(known.digest), applied, err
	}
	if result.digest, err = r.adoptChanged(ctx, root, changed); err == nil {
		err = r.cache.recordCommit(result)
	}
	if err != nil {
		return "", nil, fmt.Errorf("patching the source: %w", err)
	}
	return r.cache.path(result.digest), applied, nil
}

// adoptChanged puts a copy of a tree, with some of its files changed, into the cache.
func (r resolver) adoptChanged(ctx context.Context, root *os.Root, changed map[string][]byte) (string, error) {
	stage, remove, err := r.cache.stage()
	if err != nil {
		return "", err
	}
	defer remove()
	names, err := filesUnder(root.Name())
	if err != nil {
		return "", err
	}
	if err := copyFiles(ctx, root, stage, names); err != nil {
		return "", err
	}
	copied, err := os.OpenRoot(stage)
	if err != nil {
		return "", err
	}
	defer copied.Close()
	for name, text := range changed {
		if err := copied.MkdirAll(path.Dir(name), 0o755); err != nil {
			return "", err
		}
		if err := copied.WriteFile(name, text, 0o644); err != nil {
			return "", err
		}
	}
	return r.cache.adopt(stage)
}
