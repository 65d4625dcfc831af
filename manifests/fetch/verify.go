package fetch

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// A DamageError is an installation whose files are not those that were installed.
type DamageError struct {
	Install  Install
	Findings []Finding
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("verifying %s of release %s: %d files are not as they were signed", e.Install.Bundle, e.Install.Release, len(e.Findings))
}

// Hint says what helps.
func (e *DamageError) Hint() string {
	return "llcuda-fetch install --force --release " + e.Install.Release + " repairs it; if nobody changed the files, the disk may be failing"
}

// Verify checks the current installation from the signature to the last byte, or, on a machine that
// has none, the newest installation in the store. It uses no network. A *DamageError lists what is
// wrong.
func (c *Client) Verify(ctx context.Context) (Install, *Release, error) {
	i, err := c.Store.Current()
	if errors.Is(err, ErrNotInstalled) {
		if base, have := c.base(); have {
			i, err = base, nil
		}
	}
	if err != nil {
		return Install{}, nil, err
	}
	r, err := c.verify(ctx, i)
	return i, r, err
}

// verify checks an installation.
func (c *Client) verify(ctx context.Context, i Install) (*Release, error) {
	kept := *c
	kept.SkipSignature = c.SkipSignature || i.SignedBy == ""
	r, err := kept.storedRelease(i.Release)
	if err != nil {
		return nil, err
	}
	damage := &DamageError{Install: i}
	read := map[string]bool{"": true} // where libraries of the machine's own serve, there is no runtime
	for _, a := range slices.Concat(r.Bundles(), r.Runtimes()) {
		dir, _ := c.Store.Folder(a)
		if dir = c.Store.Relative(dir); dir != i.Folder && dir != i.Runtime {
			continue
		}
		read[dir] = true
		findings, err := c.Store.Verify(ctx, a, i.RuntimeNames)
		if err != nil {
			return r, err
		}
		for _, f := range findings {
			damage.Findings = append(damage.Findings, Finding{Path: dir + "/" + f.Path, Detail: f.Detail})
		}
	}
	if !c.Store.Unchanged(i) {
		damage.Findings = append(damage.Findings, Finding{Path: i.Folder + "/" + manifests.MetadataName, Detail: "it is not the one that was unpacked"})
	}
	for _, dir := range []string{i.Folder, i.Runtime} {
		if !read[dir] {
			damage.Findings = append(damage.Findings, Finding{Path: dir, Detail: "the release has no such archive"})
		}
	}
	if err := c.Store.Sound(i); err != nil && len(damage.Findings) == 0 {
		damage.Findings = append(damage.Findings, Finding{Path: i.Folder, Detail: err.Error()})
	}
	if len(damage.Findings) > 0 {
		return r, damage
	}
	return r, nil
}
