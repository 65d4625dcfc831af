package publisher

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests/retry"
)

// Options are how to publish. The zero value publishes, and makes the release the latest one.
type Options struct {
	// Notes are the release's description, in Markdown. It is called as its tag.
	Notes string
	// Draft leaves the release a draft, for review. The same command without it publishes that draft.
	Draft bool
	// Latest is LatestTrue if empty.
	Latest Latest
	// Replace puts our files in the place of a draft's that differ. What is published is never
	// replaced.
	Replace bool

	// Limit is how many files are sent at once: 3.
	Limit int
	// Tries is how often a step is tried while it brings temporary errors: 5.
	Tries int
	// FirstWait is before the second try, half of it random; it doubles up to 30 seconds: 1 second.
	FirstWait time.Duration
	// MaxPause bounds how long, in total, one step waits where the server asks for it: 15 minutes.
	MaxPause time.Duration
	// Settle is how long a new draft may take to be listed: 1 minute. After a sixth of it one whose
	// answer was lost is taken for not made; if it is listed later, it is discarded.
	Settle time.Duration
	// Grace is how long an asset that is not whole is taken for one that is on its way, sent by
	// another run; and how long a name may be taken by an asset that is not listed: 2 minutes.
	Grace time.Duration

	// Progress, if not nil, receives the progress of each file. It is called by several goroutines
	// at once.
	Progress func(Progress)
	// Note, if not nil, receives the reason for a delay, as a line for people. It is called by
	// several goroutines at once.
	Note func(string)
}

// abandoned is the age from which an incomplete asset no longer counts as an upload in progress.
const abandoned = 15 * time.Minute

// maxRounds bounds how often a run starts over because another run changed what it had read.
const maxRounds = 8

// A Result is what came of publishing.
type Result struct {
	Release Release
	// Promoted says that this run made it public.
	Promoted bool
	// Sent are the files that this run sent, in the folder's order.
	Sent []File
}

// A publication is one call of Publish or MakePlan.
type publication struct {
	Options
	store  Store
	folder *Folder
	draft  Draft
	gate   gate
	// made counts the drafts that this run made or may have made; until unsure, one of them may be
	// listed that was not yet.
	made   int
	unsure time.Time

	mu     sync.Mutex
	sent   map[string]bool
	digest map[int64]string // of assets whose digest the server does not state
}

func newPublication(store Store, folder *Folder, opts Options) *publication {
	opts.Latest = cmp.Or(opts.Latest, LatestTrue)
	opts.Limit = cmp.Or(opts.Limit, 3)
	opts.Tries = cmp.Or(opts.Tries, 5)
	opts.FirstWait = cmp.Or(opts.FirstWait, time.Second)
	opts.MaxPause = cmp.Or(opts.MaxPause, 15*time.Minute)
	opts.Settle = cmp.Or(opts.Settle, time.Minute)
	opts.Grace = cmp.Or(opts.Grace, 2*time.Minute)
	tag := folder.Release.Release
	return &publication{
		Options: opts, store: store, folder: folder,
		draft: Draft{Tag: tag, Title: tag, Notes: opts.Notes + "\n" + mark + "\n"},
		sent:  map[string]bool{}, digest: map[int64]string{},
	}
}

func (p *publication) note(format string, args ...any) {
	if p.Note != nil {
		p.Note(fmt.Sprintf(format, args...))
	}
}

// Publish brings the folder to the server: it makes or finds the draft, sends what is missing,
// reads everything back, and promotes the draft when it is whole and the same. A release that is
// public and the same already is left as it is. Run again after any error, or a kill at any moment,
// it resumes.
//
// Errors: *RefusedError where a person has to do something, *TemporaryError where running it again
// is enough, *ChangedError, the context's.
func Publish(ctx context.Context, store Store, folder *Folder, opts Options) (Result, error) {
	p := newPublication(store, folder, opts)
	for round := 1; ; round++ {
		release, promoted, err := p.run(ctx)
		switch {
		case err == nil:
			result := Result{Release: release, Promoted: promoted}
			for _, file := range folder.Files {
				if p.sent[file.Name] {
					result.Sent = append(result.Sent, file)
				}
			}
			return result, nil
		case ctx.Err() != nil:
			return Result{}, context.Cause(ctx)
		case round < maxRounds && (errors.Is(err, ErrGone) || errors.Is(err, ErrExists)):
			p.note("%v: somebody else changed the release %s; looking again", err, p.draft.Tag)
			if err := p.poll(ctx, round, p.Settle); err != nil {
				return Result{}, err
			}
		default:
			return Result{}, err
		}
	}
}

// run publishes once. ErrGone and ErrExists mean that another run changed what it relied on.
func (p *publication) run(ctx context.Context) (release Release, promoted bool, err error) {
	id, err := p.open(ctx)
	if err != nil {
		return Release{}, false, err
	}
	plan, err := p.fill(ctx, id)
	if err != nil {
		return Release{}, false, err
	}
	if !plan.Promote {
		return *plan.Release, false, p.sweep(ctx)
	}
	if err := p.promote(ctx, *plan.Release); err != nil {
		return Release{}, false, err
	}
	if release, err = p.read(ctx, id); err != nil {
		return Release{}, false, err
	}
	if plan, err = p.compare(release); err == nil && !plan.Done() {
		err = fmt.Errorf("reading %s after publishing it: it is not what was published, but has %d files less", p.draft.Tag, len(plan.Upload))
	}
	return release, true, errors.Join(err, p.sweep(ctx))
}

// sweep discards a draft that this run may have made without knowing it, and that was not listed
// when it looked.
func (p *publication) sweep(ctx context.Context) error {
	for time.Now().Before(p.unsure) {
		p.note("making sure that no second draft of %s is left", p.draft.Tag)
		if err := retry.Sleep(ctx, min(time.Until(p.unsure), p.Settle/6)); err != nil {
			return err
		}
		found, err := p.find(ctx)
		if err != nil {
			return err
		}
		_, twins, err := choose(found)
		if err != nil {
			return err
		}
		if err := p.discard(ctx, twins); err != nil {
			return err
		}
		if len(found) >= p.made {
			return nil
		}
	}
	return nil
}

// open finds the release to continue with, or makes a draft.
func (p *publication) open(ctx context.Context) (int64, error) {
	step := p.patience("making the draft of " + p.draft.Tag)
	for {
		found, err := p.find(ctx)
		if err != nil {
			return 0, err
		}
		release, twins, err := choose(found)
		if err != nil {
			return 0, err
		}
		if err := p.discard(ctx, twins); err != nil {
			return 0, err
		}
		if release != nil {
			if len(found) >= p.made {
				p.unsure = time.Time{}
			}
			return release.ID, nil
		}
		if err := p.gate.wait(ctx); err != nil {
			return 0, err
		}
		p.made++
		made, err := p.store.Create(ctx, p.draft)
		if err == nil {
			err = p.awaitListed(ctx, func(r Release) bool { return r.ID == made.ID }, made.ID)
			if err != nil {
				return 0, err
			}
			continue
		}
		if errors.Is(err, ErrExists) {
			return 0, err
		}
		if err := step.wait(ctx, err); err != nil {
			return 0, err
		}
		p.unsure = time.Now().Add(p.Settle)
		// The draft may have been made, and only the answer lost. Lists lag, so one look is not
		// enough.
		if err := p.awaitListed(ctx, func(Release) bool { return true }, 0); err != nil && !retry.IsTemporary(err) {
			return 0, err
		}
	}
}

// awaitListed waits until a draft that was made is listed, for only then are those listed that were
// made before it. A draft that was made for sure is waited for longer than one that may have been.
func (p *publication) awaitListed(ctx context.Context, is func(Release) bool, id int64) error {
	settle := p.Settle
	if id == 0 {
		settle /= 6
	}
	begun := time.Now()
	for look := 0; ; look++ {
		found, err := p.find(ctx)
		if err != nil || slices.ContainsFunc(found, is) {
			return err
		}
		if id != 0 {
			// Another run may have discarded it as a twin of its own.
			if _, err := p.read(ctx, id); errors.Is(err, ErrGone) {
				return nil
			} else if err != nil {
				return err
			}
		}
		if time.Since(begun) > settle {
			return &TemporaryError{Err: fmt.Errorf("making the draft of %s: it is not listed after %s", p.draft.Tag, settle)}
		}
		if err := p.poll(ctx, look, settle); err != nil {
			return err
		}
	}
}

// discard removes empty twins of the draft, each after another look at it.
func (p *publication) discard(ctx context.Context, twins []Release) error {
	for _, twin := range twins {
		now, err := p.read(ctx, twin.ID)
		if errors.Is(err, ErrGone) {
			continue
		}
		if err != nil {
			return err
		}
		if !now.Draft || len(now.Assets) > 0 || !hasMark(now) {
			return ErrExists
		}
		p.note("discarding %s: an empty second draft of %s", now.URL, now.Tag)
		err = p.retry(ctx, "discarding an empty draft of "+now.Tag, func() error { return p.store.Discard(ctx, now) })
		if err != nil && !errors.Is(err, ErrGone) {
			return err
		}
	}
	return nil
}

func (p *publication) find(ctx context.Context) (found []Release, err error) {
	err = p.retry(ctx, "looking for "+p.draft.Tag, func() (err error) {
		found, err = p.store.Find(ctx, p.draft.Tag)
		return err
	})
	return found, err
}

// read reads a release, and computes the digests that the server does not state from the bytes.
func (p *publication) read(ctx context.Context, id int64) (release Release, err error) {
	err = p.retry(ctx, "reading "+p.draft.Tag, func() (err error) {
		release, err = p.store.Read(ctx, id)
		return err
	})
	if err != nil {
		return Release{}, err
	}
	for i, asset := range release.Assets {
		ours := slices.ContainsFunc(p.folder.Files, func(f File) bool { return f.Name == asset.Name && f.Size == asset.Size })
		if ours && asset.Whole && asset.SHA256 == "" {
			if release.Assets[i].SHA256, err = p.digestOf(ctx, asset); err != nil {
				return Release{}, err
			}
		}
	}
	return release, nil
}

// digestOf reads an asset's bytes, once.
func (p *publication) digestOf(ctx context.Context, asset Asset) (string, error) {
	p.mu.Lock()
	known := p.digest[asset.ID]
	p.mu.Unlock()
	if known != "" {
		return known, nil
	}
	sum := sha256.New()
	err := p.retry(ctx, "reading "+asset.Name, func() error {
		sum.Reset()
		body, err := p.store.Download(ctx, asset)
		if err != nil {
			return err
		}
		defer body.Close()
		if _, err := io.Copy(sum, body); err != nil {
			return &TemporaryError{Err: err}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.digest[asset.ID] = hex.EncodeToString(sum.Sum(nil))
	return p.digest[asset.ID], nil
}

// promote makes the draft public.
func (p *publication) promote(ctx context.Context, release Release) error {
	draft := p.draft
	if !hasMark(release) { // a person wrote its title and notes
		draft.Title, draft.Notes = "", ""
	}
	for step := p.patience("publishing " + draft.Tag); ; {
		if err := p.gate.wait(ctx); err != nil {
			return err
		}
		// The point of no return: from here on the release is public.
		_, err := p.store.Promote(ctx, release, draft, p.Latest)
		if err == nil || errors.Is(err, ErrExists) || errors.Is(err, ErrGone) {
			return err
		}
		if retry.IsTemporary(err) { // it may have been done, and only the answer lost
			if now, err := p.read(ctx, release.ID); err == nil && !now.Draft {
				return nil
			}
		}
		if err := step.wait(ctx, err); err != nil {
			return err
		}
	}
}
