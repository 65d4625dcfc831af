package publisher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/retry"
)

// fill sends what a release lacks until a read shows that nothing is missing, and gives that last
// look at it.
func (p *publication) fill(ctx context.Context, id int64) (Plan, error) {
	for round := 1; ; round++ {
		release, err := p.read(ctx, id)
		if err != nil {
			return Plan{}, err
		}
		plan, err := p.compare(release)
		if err != nil {
			return Plan{}, err
		}
		if len(plan.Upload)+len(plan.Unfinished)+len(plan.Replace) == 0 {
			return plan, nil
		}
		if round > maxRounds {
			return Plan{}, &TemporaryError{Err: fmt.Errorf("filling %s: somebody else keeps changing it", release.Tag)}
		}
		for _, asset := range plan.Replace {
			if err := p.delete(ctx, asset); err != nil {
				return Plan{}, err
			}
		}
		if err := p.send(ctx, plan); err != nil {
			return Plan{}, err
		}
	}
}

// isLast reports whether a file may become public only after all others: it tells that they are
// there.
func isLast(f File) bool { return f.Name == manifests.SignatureName || f.Name == manifests.SumsName }

// send sends the plan's files, several at once; the signature and then SHA256SUMS when all others
// are there.
func (p *publication) send(ctx context.Context, plan Plan) error {
	release := *plan.Release
	unfinished := func(name string) *Asset {
		for i, asset := range plan.Unfinished {
			if asset.Name == name {
				return &plan.Unfinished[i]
			}
		}
		return nil
	}
	// Those that have to be waited for come after the ones that can be sent at once.
	var files, waiting []File
	for _, file := range plan.Upload {
		switch {
		case isLast(file):
		case unfinished(file.Name) != nil:
			waiting = append(waiting, file)
		default:
			files = append(files, file)
		}
	}
	group, groupCtx := errgroup.WithContext(ctx)
	// More connections are not faster, and the server counts requests.
	group.SetLimit(p.Limit)
	for _, file := range append(files, waiting...) {
		group.Go(func() error { return p.put(groupCtx, release, file, unfinished(file.Name)) })
	}
	for _, asset := range plan.Unfinished {
		if !slices.ContainsFunc(p.folder.Files, func(f File) bool { return f.Name == asset.Name }) {
			group.Go(func() error {
				_, err := p.outwait(groupCtx, release, asset)
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, file := range p.folder.Files {
		if isLast(file) && slices.Contains(plan.Upload, file) {
			if err := p.put(ctx, release, file, unfinished(file.Name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// blockedTries is how many tries in a row, at the least, find a name taken by nothing that is
// listed before that counts.
const blockedTries = 4

// put sends one file until the release has it. there is an asset of its name that is not whole, if
// there is one.
func (p *publication) put(ctx context.Context, release Release, file File, there *Asset) error {
	step := p.patience("uploading " + file.Name)
	listing := retry.Policy{Tries: -1, FirstWait: p.FirstWait}.Begin()
	var blocked []time.Time // the tries in a row that found the name taken by nothing that is listed
	for round := 0; ; {
		if there != nil {
			if round++; round > maxRounds {
				return &TemporaryError{Err: fmt.Errorf("uploading %s: somebody else keeps sending it, and never ends", file.Name)}
			}
			whole, err := p.outwait(ctx, release, *there)
			if err != nil {
				return err
			}
			if whole != nil {
				return p.checkOurs(release, file, *whole)
			}
		}
		if err := p.gate.wait(ctx); err != nil {
			return err
		}
		begun := time.Now()
		asset, failed := p.store.Upload(ctx, release, p.content(file))
		if failed == nil {
			failed = p.checkArrival(ctx, file, asset)
		}
		if failed == nil {
			p.mu.Lock()
			p.sent[file.Name] = true
			p.mu.Unlock()
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var err error
		there, err = p.look(ctx, release, file.Name)
		switch permanent := !retry.IsTemporary(failed) && !errors.Is(failed, ErrExists); {
		case permanent && err == nil && there != nil && p.isSame(file, *there):
			return nil // another run sent it, and perhaps even published the release, which then accepts no more files
		case permanent:
			return fmt.Errorf("uploading %s: %w", file.Name, failed)
		case err != nil:
			return err
		}
		if there != nil || !errors.Is(failed, ErrExists) {
			blocked = nil
		}
		switch {
		case there != nil && there.Whole: // only the answer was lost, or another run sent it
			return p.checkOurs(release, file, *there)
		case there != nil && errors.Is(failed, ErrExists):
			continue
		case there != nil:
			// What began when this try did is what this try left.
			if took := time.Since(begun); there.Age <= took+2*time.Second && there.Age >= took-5*time.Second {
				if err := p.delete(ctx, *there); err != nil {
					return err
				}
				there = nil
			}
		case errors.Is(failed, ErrExists):
			// The name is taken by something that is not listed: the server lags, or lost an upload
			// halfway and forgets it after a while. It has no number by which it could be deleted.
			// Between two runs, an asset of the other run may also have been deleted before it
			// could be seen.
			if blocked = append(blocked, begun); len(blocked) > blockedTries && begun.Sub(blocked[0]) > p.Grace {
				return &RefusedError{
					Err: fmt.Errorf("uploading %s: the name is taken, and no asset of that name is listed", file.Name),
					Way: "what is left of a broken upload blocks it: run this again later; if that does not help, delete the draft at " + release.URL + " and run it again",
				}
			}
			p.note("uploading %s: the name is taken by something that is not listed; waiting", file.Name)
			if err := listing.Wait(ctx, &TemporaryError{Err: failed}); err != nil {
				return err
			}
			continue
		}
		if err := step.wait(ctx, failed); err != nil {
			return err
		}
	}
}

// content is a file as a Store takes it.
func (p *publication) content(file File) Content {
	content := Content{Name: file.Name, Size: file.Size, Open: file.open}
	if p.Progress != nil {
		content.Sent = func(n int64) { p.Progress(Progress{Name: file.Name, Done: n, Total: file.Size}) }
	}
	return content
}

// checkArrival compares the answer to an upload with what was sent. An asset of other bytes is
// deleted: this run made it.
func (p *publication) checkArrival(ctx context.Context, file File, asset Asset) (err error) {
	if asset.Whole && asset.SHA256 == "" {
		if asset.SHA256, err = p.digestOf(ctx, asset); err != nil {
			return err
		}
	}
	if p.isSame(file, asset) {
		return nil
	}
	if asset.ID != 0 {
		if err := p.delete(ctx, asset); err != nil {
			return err
		}
	}
	return &TemporaryError{Err: fmt.Errorf("%d bytes with sha256 %s arrived as %d with %q", file.Size, file.SHA256, asset.Size, asset.SHA256)}
}

// checkOurs refuses a whole asset that is not the file that is to be there.
func (p *publication) checkOurs(release Release, file File, asset Asset) error {
	if p.isSame(file, asset) {
		return nil
	}
	return &RefusedError{
		Err: fmt.Errorf("uploading %s: somebody else sent another file of that name meanwhile", file.Name),
		Way: "look at " + release.URL + " and delete what is not to be published, then run this again",
	}
}

// look is what a release has under a name, nil if nothing.
func (p *publication) look(ctx context.Context, release Release, name string) (*Asset, error) {
	now, err := p.read(ctx, release.ID)
	if err != nil {
		return nil, err
	}
	for _, asset := range now.Assets {
		if asset.Name == name {
			return &asset, nil
		}
	}
	return nil, nil
}

// outwait waits for an asset that another run may be sending. It ends when the asset is whole, or
// gone; when it can no longer be on its way it is deleted.
func (p *publication) outwait(ctx context.Context, release Release, asset Asset) (whole *Asset, err error) {
	first := time.Now()
	for look := 0; ; look++ {
		now, err := p.look(ctx, release, asset.Name)
		switch {
		case err != nil || now == nil:
			return nil, err
		case now.Whole:
			return now, nil
		case now.ID != asset.ID:
			asset, first = *now, time.Now()
		case time.Since(first) > p.Grace || now.Age > abandoned:
			return nil, p.delete(ctx, *now)
		}
		if look == 0 {
			p.note("%s: begun %s ago and not whole; waiting up to %s for whoever may be sending it", asset.Name, now.Age.Round(time.Second), p.Grace)
		}
		if err := p.poll(ctx, look, p.Grace); err != nil {
			return nil, err
		}
	}
}

// delete removes an asset that is not whole, or not right.
func (p *publication) delete(ctx context.Context, asset Asset) error {
	err := p.retry(ctx, "deleting "+asset.Name, func() error { return p.store.Delete(ctx, asset) })
	if errors.Is(err, ErrGone) {
		return nil
	}
	return err
}
