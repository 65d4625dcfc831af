package ghtest

import (
	"slices"
	"strings"
	"time"
)

type repository struct {
	name     string
	releases []*release
	tags     map[string]tag
	latest   int64
	// workflows are the commits whose workflow files are not those of the default branch.
	workflows map[string]bool
}

// A tag is what a tag's ref leads to: a commit, or a tag object and through it a commit.
type tag struct{ commit, object string }

type release struct {
	id                 int64
	tag, commit        string
	name, body         string
	draft, pre, frozen bool
	created, published time.Time
	assets             []*asset
}

type asset struct {
	id       int64
	name     string
	label    *string
	kind     string
	state    string
	hidden   bool      // in no list
	forget   time.Time // when it is gone; never if zero
	size     int64
	sha256   string
	data     []byte
	created  time.Time
	download int
}

// A Release is what the server has.
type Release struct {
	ID        int64
	Tag       string
	Title     string
	Notes     string
	Draft     bool
	Immutable bool
	Latest    bool
	Assets    []Asset // ascending by name
}

// An Asset is one of a release.
type Asset struct {
	ID     int64
	Name   string
	State  string
	Hidden bool
	Size   int64
	SHA256 string
}

// Releases are all that a repository has, drafts included, in the order of their making.
func (s *Server) Releases(repo string) []Release {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Release
	for _, r := range s.repos[repo].releases {
		out := Release{ID: r.id, Tag: r.tag, Title: r.name, Notes: r.body, Draft: r.draft, Immutable: r.frozen, Latest: s.repos[repo].latest == r.id}
		for _, a := range s.alive(r) {
			out.Assets = append(out.Assets, Asset{ID: a.id, Name: a.name, State: a.state, Hidden: a.hidden, Size: a.size, SHA256: a.sha256})
		}
		slices.SortFunc(out.Assets, func(a, b Asset) int { return strings.Compare(a.Name, b.Name) })
		all = append(all, out)
	}
	return all
}

// alive are the assets that there are, hidden ones included. The caller holds the lock.
func (s *Server) alive(r *release) []*asset {
	r.assets = slices.DeleteFunc(r.assets, func(a *asset) bool { return !a.forget.IsZero() && time.Now().After(a.forget) })
	return r.assets
}
