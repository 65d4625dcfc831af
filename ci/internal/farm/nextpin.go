package farm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// minAge is how old a release must be before NextPin takes it by itself: what upstream takes back, it takes back in the
// first hours.
const minAge = 6 * time.Hour

// NextOptions are NextPin's options. Now is required; without the others it looks for the newest release.
type NextOptions struct {
	Repository string // asked in place of the pin's: a URL, or a folder by its whole path
	To         string // the tag to move to, however new it is
	Back       bool   // lets To be older than the pin
	Now        time.Time
}

// Next is the pin as it should be: the given one where there is nothing newer.
type Next struct {
	Pin   matrix.LlamaPin
	Date  time.Time // of the tag or package
	Notes []string  // what was left aside, and why
}

// A MovedError is a name upstream that has led to other files before.
type MovedError struct{ Where, Name, Was, Is string }

func (e *MovedError) Error() string {
	return fmt.Sprintf("asking %s: %s was moved: it is %s now and was %s when it was pinned", e.Where, e.Name, e.Is, e.Was)
}

// Hint is the way out.
func (e *MovedError) Hint() string {
	return "find out from upstream why, before anything is built from it; the pin stays what it was"
}

// A ClockError is a clock that cannot tell how old a release is.
type ClockError struct{ Now, Pinned time.Time }

func (e *ClockError) Error() string {
	return fmt.Sprintf("looking for releases: this machine's clock says %s, and the pinned commit is of %s", e.Now.UTC().Format(time.RFC3339), e.Pinned.UTC().Format(time.RFC3339))
}

// Hint is the way out.
func (e *ClockError) Hint() string { return "set the clock" }

// NextPin finds the release of llama.cpp that the pin should move to, and brings its tree to the cache.
//
// It asks the pin's git repository for tags of the form v1.2.3, and takes the newest that is at least six hours old. Where
// the repository cannot be reached, it takes the newest npm package whose git bundle has a newer release. A tag or package
// that the pin names and that has other files now is a *MovedError, whatever else is new.
//
// The next pin names an npm package only if the package has the same tree as the tag.
func NextPin(ctx context.Context, pin matrix.LlamaPin, o NextOptions, cacheDir string, progress func(string)) (Next, error) {
	if progress == nil {
		progress = func(string) {}
	}
	if pinned := time.Unix(pin.Epoch, 0); o.Now.Before(pinned) {
		return Next{}, &ClockError{o.Now, pinned}
	}
	cache, err := openTreeCache(cacheDir)
	if err != nil {
		return Next{}, err
	}
	defer cache.close()
	n := nextPin{resolver{cache, progress}, pin, o, nil}
	where := cmp.Or(o.Repository, pin.Repository)
	progress("asking " + where)
	tags, err := remoteTags(ctx, where)
	var next Next
	switch {
	case err == nil:
		next, err = n.fromGit(ctx, where, tags)
	case ctx.Err() != nil || isSourceError(err):
		return Next{}, err
	default:
		progress(fmt.Sprintf("%v; looking for an npm package", err))
		n.note("%v; this is from npm", err)
		var npmErr error
		if next, npmErr = n.fromNPM(ctx); npmErr != nil {
			err = errors.Join(err, npmErr)
		} else {
			err = nil
		}
	}
	next.Notes = n.notes
	return next, err
}

func isSourceError(err error) bool {
	var user *SourceError
	return errors.As(err, &user)
}

// nextPin is one search under way.
type nextPin struct {
	resolver
	pin   matrix.LlamaPin
	o     NextOptions
	notes []string
}

func (n *nextPin) note(format string, args ...any) {
	n.notes = append(n.notes, fmt.Sprintf(format, args...))
}

// remoteTags are the commits that the tags of a repository lead to.
func remoteTags(ctx context.Context, where string) (map[string]string, error) {
	refs, err := matchingRefs(ctx, where, "refs/tags/*")
	if err != nil {
		return nil, err
	}
	tags := map[string]string{}
	for ref, id := range refs {
		name := strings.TrimPrefix(ref, "refs/tags/")
		if plain, peeled := strings.CutSuffix(name, "^{}"); peeled {
			tags[plain] = id
		} else if refs[ref+"^{}"] == "" {
			tags[name] = id
		}
	}
	return tags, nil
}

// releaseTag is how llama.cpp tags its releases.
var releaseTag = regexp.MustCompile(`^v((?:0|[1-9][0-9]*)\.(?:0|[1-9][0-9]*)\.(?:0|[1-9][0-9]*))$`)

// newer reports whether a tag is that of a release after the pin's.
func (n *nextPin) newer(tag string) bool {
	match := releaseTag.FindStringSubmatch(tag)
	return match != nil && matrix.CompareVersions(match[1], n.pin.Version) > 0
}

func (n *nextPin) fromGit(ctx context.Context, where string, tags map[string]string) (Next, error) {
	repo, done, err := n.newRepository(ctx, where)
	if err != nil {
		return Next{}, err
	}
	defer done()
	if err := n.unmoved(ctx, repo, tags); err != nil {
		return Next{}, err
	}
	if n.o.To != "" {
		if tags[n.o.To] == "" {
			return Next{}, &SourceError{Given: where, Problem: "it has no tag " + n.o.To, Hint: "list them with: git ls-remote --tags " + where}
		}
		if n.o.To == n.pin.Ref {
			return n.same(ctx)
		}
		date, err := repo.tagDate(ctx, n.o.To)
		if err != nil {
			return Next{}, err
		}
		return n.tagged(ctx, repo, n.o.To, tags[n.o.To], date)
	}
	releases := slices.SortedFunc(maps.Keys(tags), func(a, b string) int {
		return matrix.CompareVersions(strings.TrimPrefix(b, "v"), strings.TrimPrefix(a, "v"))
	})
	for _, tag := range releases {
		if !n.newer(tag) {
			continue
		}
		date, err := repo.tagDate(ctx, tag)
		if err != nil {
			return Next{}, err
		}
		if n.oldEnough("the tag "+tag, date) {
			return n.tagged(ctx, repo, tag, tags[tag], date)
		}
	}
	return n.same(ctx)
}

// oldEnough notes what is not.
func (n *nextPin) oldEnough(what string, date time.Time) bool {
	switch age := n.o.Now.Sub(date); {
	case age < 0:
		n.note("%s is of %s, which is not yet: the clock of this machine or of its maker is wrong", what, date.UTC().Format(time.RFC3339))
	case age < minAge:
		n.note("%s is of %s, less than %.0f hours ago: it is taken later", what, date.UTC().Format(time.RFC3339), minAge.Hours())
	default:
		return true
	}
	return false
}

// unmoved returns an error if the pin's tag has other files now. The commit may be another: that of the npm package.
func (n *nextPin) unmoved(ctx context.Context, repo repository, tags map[string]string) error {
	switch commit := tags[n.pin.Ref]; commit {
	case n.pin.Commit:
		return nil
	case "":
		n.note("%s has no tag %s any more, which is pinned", repo.where, n.pin.Ref)
		return nil
	default:
		if _, err := repo.tagDate(ctx, n.pin.Ref); err != nil {
			return err
		}
		tree, err := git(ctx, repo.dir, "rev-parse", "-q", "--verify", commit+"^{tree}")
		if err != nil {
			return fmt.Errorf("reading the tree of %s: %w", n.pin.Ref, err)
		}
		if tree != n.pin.Tree {
			return &MovedError{repo.where, "the tag " + n.pin.Ref, "tree " + n.pin.Tree, "tree " + tree}
		}
		return nil
	}
}

// tagDate fetches a tag with its history, and returns its date: that of an annotated tag itself, or that of its commit.
func (r repository) tagDate(ctx context.Context, tag string) (time.Time, error) {
	ref := "refs/tags/" + tag
	r.progress("fetching the history of " + tag + " from " + r.where)
	if err := r.fetch(ctx, ref+":"+ref); err != nil {
		return time.Time{}, err
	}
	text, err := git(ctx, r.dir, "for-each-ref", "--format=%(creatordate:unix)", ref)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the date of %s: %w", tag, err)
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the date of %s: %w", tag, err)
	}
	return time.Unix(seconds, 0), nil
}

// same is the pin itself, which may still lack an npm package.
func (n *nextPin) same(ctx context.Context) (Next, error) {
	pin := n.pin
	if pin.NPMPackage != "" {
		return Next{Pin: pin}, nil
	}
	err := n.findPackage(ctx, &pin, time.Unix(pin.Epoch, 0))
	return Next{Pin: pin}, err
}

func (n *nextPin) tagged(ctx context.Context, repo repository, tag, commit string, date time.Time) (Next, error) {
	tree, err := repo.tree(ctx, commit, tag)
	if err != nil {
		return Next{}, err
	}
	pin, err := n.pinOf(tree, tag)
	if err != nil {
		return Next{}, err
	}
	err = n.findPackage(ctx, &pin, date)
	return Next{Pin: pin, Date: date}, err
}

// pinOf is the pin of a tree, without an npm package.
func (n *nextPin) pinOf(tree origin, tag string) (matrix.LlamaPin, error) {
	stated, err := statedVersion(n.cache.path(tree.sums.digest))
	if err != nil {
		return matrix.LlamaPin{}, err
	}
	build := cmp.Or(tree.build, buildOfTag(tag))
	version := stated
	if match := releaseTag.FindStringSubmatch(tag); match != nil {
		version = match[1]
		if stated != "" && stated != version {
			n.note("the tag is %s, and the tree's own CMakeLists.txt says %s", tag, stated)
		}
	}
	switch {
	case version == "" && buildOfTag(tag) > 0:
		// llama.cpp counted builds before it had versions: each is older than every version.
		version = fmt.Sprintf("0.0.%d", buildOfTag(tag))
	case version == "":
		return matrix.LlamaPin{}, &SourceError{Given: tag, Problem: "neither the tag nor the tree states a version", Hint: "give a tag like v0.5.0 with --to"}
	}
	if matrix.CompareVersions(version, n.pin.Version) < 0 && !n.o.Back {
		return matrix.LlamaPin{}, &SourceError{Given: tag, Problem: fmt.Sprintf("%s is older than the pinned %s", version, n.pin.Version), Hint: "add --back to go back to it"}
	}
	return matrix.LlamaPin{Repository: n.pin.Repository, Ref: tag, Version: version, Commit: tree.commit, Tree: tree.tree, Build: build, Epoch: tree.date}, nil
}
