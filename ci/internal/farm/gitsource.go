package farm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// reachTimeout is how long a git server may take to name its refs. It protects the fallback: behind
// a silent firewall no answer ever comes.
const reachTimeout = 30 * time.Second

var (
	fullCommit    = regexp.MustCompile(`^[0-9a-f]{40}$`)
	partialCommit = regexp.MustCompile(`^[0-9a-f]{7,39}$`)
)

// A TreeError is a tree whose files are not those of the commit that it is said to be.
type TreeError struct{ Commit, Want, Got string }

func (e *TreeError) Error() string {
	return fmt.Sprintf("the files are not those of commit %s: git's id of their tree is %s instead of %s", e.Commit, e.Got, e.Want)
}

// Hint suggests what can be wrong.
func (e *TreeError) Hint() string {
	return "the source was changed, or matrix.yaml has the tree of another commit; git rev-parse " + e.Commit + "^{tree} tells"
}

// pinned takes the pin's tree: its commit from git, else from the npm package.
func (r resolver) pinned(ctx context.Context, pin matrix.LlamaPin) (origin, error) {
	for _, commit := range []string{pin.Commit, pin.NPMCommit} {
		if tree, ok, err := r.cache.commit(commit); ok || err != nil {
			tree.commit = pin.Commit
			return tree, err
		}
	}
	tree, err := r.pinnedFromGit(ctx, pin)
	if err == nil || ctx.Err() != nil || pin.NPMPackage == "" {
		return tree, err
	}
	r.progress(fmt.Sprintf("%v; taking the npm package %s", err, pin.NPMPackage))
	tree, npmErr := r.npmPackage(ctx, pin)
	if npmErr != nil {
		return origin{}, errors.Join(err, npmErr)
	}
	return tree, nil
}

func (r resolver) pinnedFromGit(ctx context.Context, pin matrix.LlamaPin) (origin, error) {
	if _, err := remoteRefs(ctx, pin.Repository, "HEAD"); err != nil {
		return origin{}, err
	}
	repo, done, err := r.newRepository(ctx, pin.Repository)
	if err != nil {
		return origin{}, err
	}
	defer done()
	r.progress("fetching " + pin.Commit + " from " + pin.Repository)
	err = repo.fetch(ctx, pin.Commit)
	if err != nil && pin.Ref != "" {
		// A server may refuse to serve a commit by its id; the ref may point to it.
		err = repo.fetch(ctx, pin.Ref)
	}
	if err != nil {
		return origin{}, err
	}
	if _, err := repo.commit(ctx, pin.Commit); err != nil {
		return origin{}, fmt.Errorf("%s of %s does not lead to the pinned commit %s", pin.Ref, pin.Repository, pin.Commit)
	}
	return repo.tree(ctx, pin.Commit, "")
}

// gitURL takes a tree from a repository that git can reach.
func (r resolver) gitURL(ctx context.Context, where, ref string) (origin, error) {
	if fullCommit.MatchString(ref) {
		if tree, ok, err := r.cache.commit(ref); ok || err != nil {
			return tree, err
		}
	}
	if _, err := os.Stat(where); err == nil {
		if where, err = filepath.Abs(where); err != nil {
			return origin{}, err
		}
	}
	r.progress("asking " + where)
	commit, tag := ref, ""
	if !fullCommit.MatchString(ref) {
		var err error
		if commit, tag, err = lookUp(ctx, where, ref); err != nil {
			return origin{}, err
		}
	}
	if commit != "" {
		if tree, ok, err := r.cache.commit(commit); ok || err != nil {
			tree.tag = tag
			return tree, err
		}
	}
	repo, done, err := r.newRepository(ctx, where)
	if err != nil {
		return origin{}, err
	}
	defer done()
	if commit != "" {
		r.progress("fetching " + commit + " from " + where)
		err = repo.fetch(ctx, commit)
	}
	if commit == "" || err != nil {
		// Part of an id, or a server that does not serve commits by id.
		r.progress("fetching the history of " + where)
		if err := repo.fetch(ctx, "HEAD", "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"); err != nil {
			return origin{}, err
		}
		if commit == "" {
			commit = ref
		}
	}
	if commit, err = repo.commit(ctx, commit); err != nil {
		if ctx.Err() != nil {
			return origin{}, ctx.Err()
		}
		return origin{}, &SourceError{Given: where, Problem: "it has no commit " + ref, Hint: "give a tag, a branch or a commit of it after the @"}
	}
	return repo.tree(ctx, commit, tag)
}

// lookUp asks a repository which commit a ref is. An empty commit means that ref may be part of a
// commit's id.
func lookUp(ctx context.Context, where, ref string) (commit, tag string, err error) {
	if ref == "" || ref == "HEAD" {
		refs, err := remoteRefs(ctx, where, "HEAD")
		if err != nil {
			return "", "", err
		}
		if refs["HEAD"] == "" {
			return "", "", &SourceError{Given: where, Problem: "the repository is empty", Hint: "give one with commits"}
		}
		return refs["HEAD"], "", nil
	}
	asTag, asBranch := "refs/tags/"+ref, "refs/heads/"+ref
	refs, err := remoteRefs(ctx, where, asTag, asTag+"^{}", asBranch)
	if err != nil {
		return "", "", err
	}
	switch {
	case refs[asTag+"^{}"] != "":
		return refs[asTag+"^{}"], ref, nil
	case refs[asTag] != "":
		return refs[asTag], ref, nil
	case refs[asBranch] != "":
		return refs[asBranch], "", nil
	case partialCommit.MatchString(ref):
		return "", "", nil
	}
	return "", "", &SourceError{Given: where, Problem: "it has no tag or branch " + ref, Hint: "list them with: git ls-remote " + where}
}

// remoteRefs returns what a repository says about the given refs.
func remoteRefs(ctx context.Context, where string, names ...string) (map[string]string, error) {
	refs, err := matchingRefs(ctx, where, names...)
	maps.DeleteFunc(refs, func(name, _ string) bool { return !slices.Contains(names, name) })
	return refs, err
}

// matchingRefs returns the refs of a repository that match one of git's patterns.
func matchingRefs(ctx context.Context, where string, patterns ...string) (map[string]string, error) {
	limited, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	out, err := git(limited, "", append([]string{"ls-remote", "--", where}, patterns...)...)
	if err != nil {
		if limited.Err() != nil && ctx.Err() == nil {
			return nil, fmt.Errorf("asking %s: no answer in %s", where, reachTimeout)
		}
		return nil, fmt.Errorf("asking %s: %w", where, err)
	}
	refs := map[string]string{}
	for line := range strings.Lines(out) {
		if id, name, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
			refs[name] = id
		}
	}
	return refs, nil
}

// bundle takes a tree from a git bundle file.
func (r resolver) bundle(ctx context.Context, file, ref string) (origin, error) {
	file, err := filepath.Abs(file)
	if err != nil {
		return origin{}, err
	}
	repo, done, err := r.newRepository(ctx, file)
	if err != nil {
		return origin{}, err
	}
	defer done()
	r.progress("reading " + filepath.Base(file))
	out, err := git(ctx, repo.dir, "bundle", "unbundle", file)
	if err != nil {
		return origin{}, fmt.Errorf("reading the git bundle: %w", err)
	}
	heads := map[string]string{}
	var names []string
	for line := range strings.Lines(out) {
		if id, name, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			heads[name] = id
			names = append(names, name)
		}
	}
	var id, tag string
	switch {
	case (ref == "" || ref == "HEAD") && heads["HEAD"] != "":
		id = heads["HEAD"]
	case ref == "" && len(names) == 1:
		id = heads[names[0]]
	case heads["refs/tags/"+ref] != "":
		id, tag = heads["refs/tags/"+ref], ref
	case heads["refs/heads/"+ref] != "":
		id = heads["refs/heads/"+ref]
	case fullCommit.MatchString(ref) || partialCommit.MatchString(ref):
		id = ref
	}
	var commit string
	if id != "" {
		commit, err = repo.commit(ctx, id)
	}
	if id == "" || err != nil {
		if ctx.Err() != nil {
			return origin{}, ctx.Err()
		}
		return origin{}, &SourceError{Given: file, Problem: "the bundle does not say which commit is meant",
			Hint: "give one of these after an @: " + strings.Join(names, ", ")}
	}
	return repo.tree(ctx, commit, tag)
}
