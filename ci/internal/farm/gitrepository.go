package farm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A repository is a bare one that lives as long as a tree is taken from it.
type repository struct {
	resolver
	dir   string
	where string
}

func (r resolver) newRepository(ctx context.Context, where string) (repository, func(), error) {
	dir, remove, err := r.cache.stage()
	if err != nil {
		return repository{}, nil, err
	}
	_, err = git(ctx, "", "init", "-q", "--bare", dir)
	if err == nil {
		_, err = git(ctx, dir, "remote", "add", "origin", where)
	}
	if err == nil {
		// The tree's own .gitattributes do not change what is checked out: the files are those of
		// the commit.
		err = os.MkdirAll(filepath.Join(dir, "info"), 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "info", "attributes"), []byte("* -text -ident -filter -working-tree-encoding\n"), 0o644)
	}
	if err != nil {
		remove()
		return repository{}, nil, err
	}
	return repository{resolver: r, dir: dir, where: where}, remove, nil
}

// fetch gets commits only, where the server can filter: a build number needs the whole history, and
// a checkout then fetches the files of its own commit.
func (r repository) fetch(ctx context.Context, refspecs ...string) error {
	how := "--filter=tree:0"
	if isShallow(ctx, strings.TrimPrefix(r.where, "file://")) {
		// With a filter, git 2.39 asks such a repository for the commits beyond its end, in a
		// process of its own for each answer, without end.
		how = "--update-shallow"
	}
	_, err := git(ctx, r.dir, append([]string{"fetch", "-q", "--no-tags", how, "origin"}, refspecs...)...)
	if err != nil {
		return fmt.Errorf("fetching %s from %s: %w", strings.Join(refspecs, " "), r.where, err)
	}
	return nil
}

// commit returns the id of the commit that a name refers to.
func (r repository) commit(ctx context.Context, name string) (string, error) {
	return git(ctx, r.dir, "rev-parse", "-q", "--verify", name+"^{commit}")
}

// tree checks a commit out and moves it into the cache.
func (r repository) tree(ctx context.Context, commit, tag string) (origin, error) {
	object, err := git(ctx, r.dir, "cat-file", "commit", commit)
	if err != nil {
		return origin{}, fmt.Errorf("reading %s: %w", commit, err)
	}
	rec := commitRecord{Object: []byte(object)}
	if gitID("commit", rec.Object) != commit {
		rec.Object = append(rec.Object, '\n') // which git's output lost
	}
	tree := origin{commit: commit, tag: tag}
	if tree.tree, tree.date, err = readCommit(rec.Object); err != nil {
		return origin{}, err
	}
	if tree.build, tree.warnings, err = buildNumber(ctx, r.dir, commit); err != nil {
		return origin{}, err
	}
	rec.Build = tree.build
	if rec.Submodules, err = submodules(ctx, r.dir, commit); err != nil {
		return origin{}, err
	}
	stage, remove, err := r.cache.stage()
	if err != nil {
		return origin{}, err
	}
	defer remove()
	if _, err := git(ctx, r.dir, "--work-tree="+stage, "read-tree", "-m", "-u", commit); err != nil {
		return origin{}, fmt.Errorf("checking %s out: %w", commit, err)
	}
	sums, err := r.cache.adopt(stage)
	if err != nil {
		return origin{}, badTree(r.where, err)
	}
	if got := sums.gitTree(rec.Submodules); got != tree.tree {
		return origin{}, &TreeError{Commit: commit, Want: tree.tree, Got: got}
	}
	tree.sums, rec.Digest = sums, sums.digest
	if len(tree.warnings) > 0 {
		return tree, nil // another time the number may be known
	}
	return tree, r.cache.recordCommit(commit, rec)
}

// submodules are the commits that a tree refers to, by path. Their files are not fetched: no part
// of llama.cpp that the farm compiles is in one.
func submodules(ctx context.Context, dir, commit string) (map[string]string, error) {
	out, err := git(ctx, dir, "ls-tree", "-r", "-z", commit)
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for line := range strings.SplitSeq(out, "\x00") {
		// 160000 commit ID<tab>PATH
		what, name, _ := strings.Cut(line, "\t")
		if fields := strings.Fields(what); len(fields) == 3 && fields[0] == gitSubmodule {
			found[name] = fields[2]
		}
	}
	return found, nil
}

// commitDate is the time of a commit, in seconds.
func commitDate(ctx context.Context, dir, commit string) (int64, error) {
	text, err := git(ctx, dir, "show", "-s", "--format=%ct", commit)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

// buildNumber counts the commits, as llama.cpp does. A history that was cut short or squashed has
// no number; the former deserves a warning.
func buildNumber(ctx context.Context, dir, commit string) (int, []string, error) {
	shallow, err := git(ctx, dir, "rev-parse", "--is-shallow-repository")
	if err != nil {
		return 0, nil, err
	}
	text, err := git(ctx, dir, "rev-list", "--count", commit)
	if err != nil {
		return 0, nil, err
	}
	count, err := strconv.Atoi(text)
	if err != nil {
		return 0, nil, err
	}
	switch {
	case shallow == "true":
		return 0, []string{"no build number: the history is cut short; git fetch --unshallow --filter=tree:0 brings the rest"}, nil
	case count == 1:
		return 0, nil, nil
	}
	return count, nil, nil
}

// isShallow reports whether a folder is a repository whose history is cut short.
func isShallow(ctx context.Context, dir string) bool {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return false
	}
	shallow, err := git(ctx, dir, "rev-parse", "--is-shallow-repository")
	return err == nil && shallow == "true"
}

// isBareRepository reports whether a folder is a repository without a work tree.
func isBareRepository(dir string) bool {
	head, err := os.Stat(filepath.Join(dir, "HEAD"))
	objects, err2 := os.Stat(filepath.Join(dir, "objects"))
	return err == nil && err2 == nil && head.Mode().IsRegular() && objects.IsDir()
}
