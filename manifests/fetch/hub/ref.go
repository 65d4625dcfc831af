package hub

import (
	"fmt"
	"regexp"
	"strings"
)

// A Ref names one file of a repository of models.
type Ref struct {
	Repo     string // "org/name"
	Path     string // with slashes, inside the repository
	Revision string // a branch, a tag or a commit; "main" where none is given
}

// String gives what ParseName reads.
func (r Ref) String() string {
	return Name{Repo: r.Repo, Path: r.Path, Revision: r.Revision}.String()
}

// A RefError reports text that does not name a file of a repository.
type RefError struct{ Problem string }

func (e *RefError) Error() string { return e.Problem }

func refError(format string, args ...any) error { return &RefError{fmt.Sprintf(format, args...)} }

// The Hub's own rule for names, with an owner: src/huggingface_hub/utils/_validators.py.
var repoName = regexp.MustCompile(`^[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?/[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?$`)

var commitID = regexp.MustCompile(`^[0-9a-f]{40}$`)

func isCommit(revision string) bool { return commitID.MatchString(revision) }

// check keeps everything out that would be another path, here or at the Hub.
func (r Ref) check() error {
	if !repoName.MatchString(r.Repo) || strings.Contains(r.Repo, "--") || strings.Contains(r.Repo, "..") {
		return refError("reading the name of a repository: %q is not of the form org/name", r.Repo)
	}
	if !isLocal(r.Path) {
		return refError("reading the name of a file of %s: %q is not a path inside a repository", r.Repo, r.Path)
	}
	if !isLocal(r.Revision) {
		return refError("reading a revision of %s: %q is not a branch, a tag or a commit", r.Repo, r.Revision)
	}
	return nil
}

// isLocal is stricter than filepath.IsLocal: no part may be empty, and nothing in it may be special to a terminal or another system.
func isLocal(path string) bool {
	if len(path) > 1024 { // below the limit of file systems for a path, 4096, with the cache's folder before it
		return false
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." || len(part) > 255 {
			return false
		}
	}
	return !strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' || r == '\uFFFD' })
}

// folder is the repository in the cache's spelling, without what it is a repository of.
func (r Ref) folder() string { return strings.ReplaceAll(r.Repo, "/", "--") }
