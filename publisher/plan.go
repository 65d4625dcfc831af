package publisher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A Plan is what there is to do for a folder to be published.
type Plan struct {
	// Release is the draft or release that is there, nil where there is none.
	Release *Release
	// Keep are the files that are there already.
	Keep []File
	// Upload are those that are not.
	Upload []File
	// Unfinished are assets that were begun and are not whole. They are deleted, unless they turn
	// out to be on their way.
	Unfinished []Asset
	// Replace are assets of a draft that are whole and differ from ours. Without Options.Replace
	// there are none.
	Replace []Asset
	// Promote says that the release is not public yet.
	Promote bool
}

// Done reports whether there is nothing to do: the release is public and the same.
func (p Plan) Done() bool {
	return p.Release != nil && !p.Promote && len(p.Upload)+len(p.Unfinished)+len(p.Replace) == 0
}

// MakePlan reads what the server has and returns what there is to do. It changes nothing.
func MakePlan(ctx context.Context, store Store, folder *Folder, opts Options) (Plan, error) {
	p := newPublication(store, folder, opts)
	found, err := p.find(ctx)
	if err != nil {
		return Plan{}, err
	}
	release, _, err := choose(found)
	if err != nil || release == nil {
		return Plan{Upload: folder.Files, Promote: true}, err
	}
	whole, err := p.read(ctx, release.ID)
	if err != nil {
		return Plan{}, err
	}
	return p.compare(whole)
}

// choose returns which of a tag's releases to continue with, and which drafts beside it are empty
// twins of it, left by a run that was killed or lost an answer, or by a concurrent run. chosen is nil
// where there is none.
func choose(found []Release) (chosen *Release, twins []Release, err error) {
	var drafts []Release
	for i, r := range found {
		if !r.Draft {
			chosen = &found[i]
		} else {
			drafts = append(drafts, r)
		}
	}
	slices.SortFunc(drafts, func(a, b Release) int { return int(a.ID - b.ID) })
	var full, empty []Release
	for _, r := range drafts {
		if len(r.Assets) == 0 && hasMark(r) {
			empty = append(empty, r)
		} else {
			full = append(full, r)
		}
	}
	switch {
	case chosen != nil:
		return chosen, empty, nil
	case len(full) > 1:
		var list []string
		for _, r := range full {
			list = append(list, r.URL)
		}
		return nil, nil, &RefusedError{
			Err: fmt.Errorf("%d drafts are of tag %s: %s", len(full), full[0].Tag, strings.Join(list, ", ")),
			Way: "a person must choose: delete all but one of them, then run this again",
		}
	case len(full) == 1:
		return &full[0], empty, nil
	case len(empty) > 0:
		return &empty[0], empty[1:], nil
	}
	return nil, nil, nil
}

// compare checks what the server has against the folder. It refuses anything that is in the way and
// may not be touched.
func (p *publication) compare(r Release) (Plan, error) {
	plan := Plan{Release: &r, Promote: r.Draft && !p.Draft}
	var differ, foreign []string
	there := map[string]bool{}
	for _, asset := range r.Assets {
		i := slices.IndexFunc(p.folder.Files, func(f File) bool { return f.Name == asset.Name })
		switch {
		case !asset.Whole:
			plan.Unfinished = append(plan.Unfinished, asset)
		case i < 0:
			foreign = append(foreign, asset.Name)
		case p.isSame(p.folder.Files[i], asset):
			there[asset.Name] = true
		case r.Draft && p.Replace:
			plan.Replace = append(plan.Replace, asset)
		default:
			differ = append(differ, asset.Name)
			there[asset.Name] = true
		}
	}
	for _, file := range p.folder.Files {
		if there[file.Name] {
			plan.Keep = append(plan.Keep, file)
		} else {
			plan.Upload = append(plan.Upload, file)
		}
	}
	var wrong []error
	if len(differ) > 0 {
		wrong = append(wrong, fmt.Errorf("%s: there with other contents", strings.Join(differ, ", ")))
	}
	if len(foreign) > 0 {
		wrong = append(wrong, fmt.Errorf("%s: there, and no part of the folder", strings.Join(foreign, ", ")))
	}
	if r.Immutable && len(plan.Upload) > 0 {
		var names []string
		for _, file := range plan.Upload {
			names = append(names, file.Name)
		}
		wrong = append(wrong, fmt.Errorf("%s: missing, and the release is immutable", strings.Join(names, ", ")))
	}
	if len(wrong) == 0 {
		return plan, nil
	}
	way := "a published release is never changed: publish the folder under a new tag"
	what := "published"
	if r.Draft {
		what = "a draft"
		way = "if the draft is of an earlier try, --replace puts these files in their place; else delete it at " + r.URL
		if len(foreign) > 0 {
			way = "look at " + r.URL + " and delete there what is not to be published"
		}
	}
	return plan, &RefusedError{Err: fmt.Errorf("%s is %s and differs:\n%w", r.Tag, what, errors.Join(wrong...)), Way: way}
}

// isSame reports whether an asset is a file of ours.
func (p *publication) isSame(file File, asset Asset) bool {
	return asset.Whole && asset.Size == file.Size && asset.SHA256 == file.SHA256
}
