package ghrelease

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/publisher"
)

// A release is GitHub's, with the fields that go-github v66 lacks.
type release struct {
	ID         int64   `json:"id"`
	TagName    string  `json:"tag_name"`
	Draft      bool    `json:"draft"`
	Prerelease bool    `json:"prerelease"`
	Immutable  bool    `json:"immutable"`
	Body       string  `json:"body"`
	HTMLURL    string  `json:"html_url"`
	UploadURL  string  `json:"upload_url"`
	Assets     []asset `json:"assets"`
}

// An asset is GitHub's.
type asset struct {
	ID    int64  `json:"id"`
	Name  string `json:"name"`
	Size  int64  `json:"size"`
	State string `json:"state"`
	// Digest is "sha256:…", and null on servers that do not know it and for assets that are not
	// whole.
	Digest    string    `json:"digest"`
	UpdatedAt time.Time `json:"updated_at"`
}

// uploaded is the state of a complete asset. "starter" is the state of an incomplete one, though the
// schema has no such state.
const uploaded = "uploaded"

func (r release) public(now time.Time) publisher.Release {
	// The template of
	// https://docs.github.com/en/rest/using-the-rest-api/getting-started-with-the-rest-api#hypermedia
	upload, _, _ := strings.Cut(r.UploadURL, "{")
	out := publisher.Release{ID: r.ID, Tag: r.TagName, Draft: r.Draft, Immutable: r.Immutable, Notes: r.Body, URL: r.HTMLURL, UploadURL: upload}
	for _, a := range r.Assets {
		out.Assets = append(out.Assets, a.public(now))
	}
	return out
}

func (a asset) public(now time.Time) publisher.Asset {
	out := publisher.Asset{ID: a.ID, Name: a.Name, Size: a.Size, Whole: a.State == uploaded}
	if digest, ok := strings.CutPrefix(a.Digest, "sha256:"); ok && out.Whole {
		out.SHA256 = strings.ToLower(digest)
	}
	if !a.UpdatedAt.IsZero() {
		out.Age = max(now.Sub(a.UpdatedAt), 0)
	}
	return out
}

// clock is GitHub's time as an answer told it.
func clock(header http.Header) time.Time {
	if date, err := http.ParseTime(header.Get("Date")); err == nil {
		return date
	}
	return time.Now()
}

// Find implements publisher.Store. It also refuses a tag that is at another commit than
// Options.Commit.
func (s *Store) Find(ctx context.Context, tag string) ([]publisher.Release, error) {
	// By tag GitHub gives published releases only: drafts are found by listing all.
	list, err := pages[release](ctx, s, s.path("/releases"))
	if err != nil {
		return nil, s.noRepository(err)
	}
	var found []publisher.Release
	for _, r := range list {
		// A release made while the pages were read moves others to the next one.
		known := slices.ContainsFunc(found, func(f publisher.Release) bool { return f.ID == r.ID })
		if r.TagName == tag && !known {
			found = append(found, r.public(time.Now()))
		}
	}
	_, err = s.checkTag(ctx, tag)
	return found, err
}

// Published lists the tags of the releases that are public and no pre-releases, newest first.
func (s *Store) Published(ctx context.Context) ([]string, error) {
	list, err := pages[release](ctx, s, s.path("/releases"))
	if err != nil {
		return nil, s.noRepository(err)
	}
	var tags []string
	for _, r := range list {
		// A release made while the pages were read moves others to the next one.
		if !r.Draft && !r.Prerelease && !slices.Contains(tags, r.TagName) {
			tags = append(tags, r.TagName)
		}
	}
	return tags, nil
}

// noRepository says what a 404 on the repository means.
func (s *Store) noRepository(err error) error {
	missing, ok := errors.AsType[*missingError](err)
	if !ok {
		return err
	}
	way := "is the name right? The token must be allowed to see the repository: GitHub does not tell one that is hidden from one that does not exist"
	if s.token == "" {
		way = "is the name right? If the repository is private, set GITHUB_TOKEN"
	} else if s.commit != "" {
		way += ". " + workflowChanges
	}
	return &publisher.RefusedError{Err: fmt.Errorf("there is no repository %s/%s: %w", s.owner, s.repo, missing.err), Way: way}
}

// checkTag checks that a tag that exists is at the commit that it is to be at, and reports whether
// it exists. It is not looked for where no commit is wanted.
func (s *Store) checkTag(ctx context.Context, tag string) (exists bool, err error) {
	if s.commit == "" {
		return false, nil
	}
	type object struct {
		Object struct {
			Type string `json:"type"`
			SHA  string `json:"sha"`
		} `json:"object"`
	}
	var ref object
	_, err = s.call(ctx, http.MethodGet, s.path("/git/ref/tags/%s", url.PathEscape(tag)), nil, &ref)
	if _, missing := errors.AsType[*missingError](err); missing {
		return false, nil // it is made when the release is published
	}
	for hops := 0; err == nil && ref.Object.Type == "tag" && hops < 5; hops++ { // annotated, perhaps of another tag
		sha := ref.Object.SHA
		ref = object{}
		_, err = s.call(ctx, http.MethodGet, s.path("/git/tags/%s", sha), nil, &ref)
	}
	if err != nil {
		return false, err
	}
	if ref.Object.SHA != s.commit {
		return true, &publisher.RefusedError{
			Err: fmt.Errorf("the tag %s is at commit %s, and this release is of %s", tag, ref.Object.SHA, s.commit),
			Way: "a tag that people may have is never moved: publish under a new tag, or from the commit that this one is at",
		}
	}
	return true, nil
}

// commitFor is the commit to send with a release: only where its tag is still to be made there.
// GitHub has no use for it where the tag exists, and refuses a workflow's token that names a commit
// whose workflow files are not those of the default branch: https://github.com/cli/cli/issues/9514
func (s *Store) commitFor(ctx context.Context, tag string) (string, error) {
	exists, err := s.checkTag(ctx, tag)
	if err != nil || exists {
		return "", err
	}
	return s.commit, nil
}

// changes is what is sent to make or change a release.
type changes struct {
	// TagName is always sent: a change of a draft without it may put the draft on another tag.
	TagName string `json:"tag_name"`
	Commit  string `json:"target_commitish,omitempty"`
	Name    string `json:"name,omitempty"`
	Body    string `json:"body,omitempty"`
	Draft   bool   `json:"draft"`
	Latest  string `json:"make_latest,omitempty"`
}

// Create implements publisher.Store.
func (s *Store) Create(ctx context.Context, draft publisher.Draft) (publisher.Release, error) {
	commit, err := s.commitFor(ctx, draft.Tag)
	if err != nil {
		return publisher.Release{}, err
	}
	var made release
	response, err := s.call(ctx, http.MethodPost, s.path("/releases"),
		changes{TagName: draft.Tag, Commit: commit, Name: draft.Title, Body: draft.Notes, Draft: true}, &made)
	if err != nil {
		return publisher.Release{}, s.noRepository(err)
	}
	return made.public(clock(response.Header)), nil
}

// Promote implements publisher.Store.
func (s *Store) Promote(ctx context.Context, r publisher.Release, draft publisher.Draft, latest publisher.Latest) (publisher.Release, error) {
	commit, err := s.commitFor(ctx, r.Tag)
	if err != nil {
		return publisher.Release{}, err
	}
	var made release
	response, err := s.call(ctx, http.MethodPatch, s.path("/releases/%d", r.ID),
		changes{TagName: r.Tag, Commit: commit, Name: draft.Title, Body: draft.Notes, Draft: false, Latest: string(latest)}, &made)
	if err != nil {
		return publisher.Release{}, missingAsGone(err)
	}
	return made.public(clock(response.Header)), nil
}

// Discard implements publisher.Store.
func (s *Store) Discard(ctx context.Context, r publisher.Release) error {
	_, err := s.call(ctx, http.MethodDelete, s.path("/releases/%d", r.ID), nil, nil)
	return missingAsGone(err)
}

// Read implements publisher.Store.
func (s *Store) Read(ctx context.Context, id int64) (publisher.Release, error) {
	var r release
	response, err := s.call(ctx, http.MethodGet, s.path("/releases/%d", id), nil, &r)
	if err != nil {
		return publisher.Release{}, missingAsGone(err)
	}
	list, err := pages[asset](ctx, s, s.path("/releases/%d/assets", id))
	if err != nil {
		return publisher.Release{}, missingAsGone(err)
	}
	// An asset that broke off is sometimes in one of the two only. The list is the newer.
	for _, a := range r.Assets {
		if !slices.ContainsFunc(list, func(b asset) bool { return b.ID == a.ID }) {
			list = append(list, a)
		}
	}
	r.Assets = list
	return r.public(clock(response.Header)), nil
}

// Delete implements publisher.Store.
func (s *Store) Delete(ctx context.Context, a publisher.Asset) error {
	_, err := s.call(ctx, http.MethodDelete, s.path("/releases/assets/%d", a.ID), nil, nil)
	return missingAsGone(err)
}
