package farm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/waqasm86/llcuda-farm/matrix"
)

const (
	// reachTimeout is how long a git server may take to name its refs. It
	// protects the fallback: a host behind a silent firewall answers never.
	reachTimeout = 30 * time.Second
	// gitGrace is how long an interrupted git may take to clean up.
	gitGrace = 5 * time.Second
)

var (
	fullCommit    = regexp.MustCompile(`^[0-9a-f]{40}$`)
	partialCommit = regexp.MustCompile(`^[0-9a-f]{7,39}$`)
)

// pinned takes the pin's tree: its commit from git, else from the npm package.
func (r resolver) pinned(ctx context.Context, pin matrix.LlamaPin) (origin, error) {
	if tree, ok, err := r.cache.commit(pin.Commit); ok || err != nil {
		return tree, err
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
		// A server may refuse to give a commit by its id; the ref may be it.
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
		// Part of an id, or a server that gives no commit by its id.
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

// lookUp asks a repository which commit a ref is. An empty commit means that ref
// may be part of a commit's id.
func lookUp(ctx context.Context, where, ref string) (commit, tag string, err error) {
	if ref == "" {
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

// remoteRefs is what a repository says about the given refs.
func remoteRefs(ctx context.Context, where string, names ...string) (map[string]string, error) {
	limited, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	out, err := git(limited, "", append([]string{"ls-remote", "--", where}, names...)...)
	if err != nil {
		if limited.Err() != nil && ctx.Err() == nil {
			return nil, fmt.Errorf("asking %s: no answer in %s", where, reachTimeout)
		}
		return nil, fmt.Errorf("asking %s: %w", where, err)
	}
	refs := map[string]string{}
	for line := range strings.Lines(out) {
		if id, name, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok && slices.Contains(names, name) {
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
	case ref == "" && heads["HEAD"] != "":
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

// repository is a bare one that lives as long as a tree is taken from it.
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
	if err != nil {
		remove()
		return repository{}, nil, err
	}
	return repository{resolver: r, dir: dir, where: where}, remove, nil
}

// fetch gets commits only, where the server can filter: a build number needs the
// whole history, and a checkout then fetches the files of its own commit.
func (r repository) fetch(ctx context.Context, refspecs ...string) error {
	_, err := git(ctx, r.dir, append([]string{"fetch", "-q", "--no-tags", "--filter=tree:0", "origin"}, refspecs...)...)
	if err != nil {
		return fmt.Errorf("fetching %s from %s: %w", strings.Join(refspecs, " "), r.where, err)
	}
	return nil
}

func (r repository) commit(ctx context.Context, name string) (string, error) {
	return git(ctx, r.dir, "rev-parse", "-q", "--verify", name+"^{commit}")
}

// tree checks a commit out and moves it into the cache.
func (r repository) tree(ctx context.Context, commit, tag string) (origin, error) {
	tree := origin{commit: commit, tag: tag}
	var err error
	if tree.date, err = commitDate(ctx, r.dir, commit); err != nil {
		return origin{}, err
	}
	if tree.build, err = buildNumber(ctx, r.dir, commit); err != nil {
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
	if tree.digest, err = r.cache.adopt(stage); err != nil {
		return origin{}, notLlama(r.where, err)
	}
	return tree, r.cache.recordCommit(tree)
}

func commitDate(ctx context.Context, dir, commit string) (int64, error) {
	text, err := git(ctx, dir, "show", "-s", "--format=%ct", commit)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

// buildNumber counts the commits, as llama.cpp does. A history that was cut
// short or squashed has no number.
func buildNumber(ctx context.Context, dir, commit string) (int, error) {
	shallow, err := git(ctx, dir, "rev-parse", "--is-shallow-repository")
	if err != nil {
		return 0, err
	}
	text, err := git(ctx, dir, "rev-list", "--count", commit)
	if err != nil {
		return 0, err
	}
	count, err := strconv.Atoi(text)
	if err != nil {
		return 0, err
	}
	if shallow == "true" || count == 1 {
		return 0, nil
	}
	return count, nil
}

// workTree lists what a checked-out folder holds of its repository, and says
// which commit that is.
func workTree(ctx context.Context, dir string) ([]string, origin, error) {
	commit, err := git(ctx, dir, "rev-parse", "-q", "--verify", "HEAD^{commit}")
	if err != nil {
		return nil, origin{}, err
	}
	tree := origin{commit: commit}
	if tree.date, err = commitDate(ctx, dir, commit); err != nil {
		return nil, origin{}, err
	}
	if tree.build, err = buildNumber(ctx, dir, commit); err != nil {
		return nil, origin{}, err
	}
	changes, err := git(ctx, dir, "status", "--porcelain")
	if err != nil {
		return nil, origin{}, err
	}
	if changes != "" {
		tree.commit += "-dirty"
	}
	out, err := git(ctx, dir, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	if err != nil {
		return nil, origin{}, err
	}
	var names []string
	for name := range strings.SplitSeq(strings.TrimSuffix(out, "\x00"), "\x00") {
		// A file that is tracked and deleted is listed, and so is a submodule.
		if info, err := os.Lstat(filepath.Join(dir, name)); err == nil && !info.IsDir() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), tree, nil
}

// isWorkTree says whether dir is the top of a git work tree. A folder inside one
// is a plain folder: the commit of the whole says nothing about it.
func isWorkTree(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, ".git"))
	return err == nil
}

func isBareRepository(dir string) bool {
	head, err := os.Stat(filepath.Join(dir, "HEAD"))
	objects, err2 := os.Stat(filepath.Join(dir, "objects"))
	return err == nil && err2 == nil && head.Mode().IsRegular() && objects.IsDir()
}

// git runs git in dir and gives its output without the last newline. It asks
// nothing, and neither the caller's repository nor line-ending settings count.
func git(ctx context.Context, dir string, args ...string) (string, error) {
	fixed := []string{"-c", "core.autocrlf=false", "-c", "core.eol=lf", "-c", "advice.detachedHead=false"}
	if dir != "" {
		fixed = append([]string{"-C", dir}, fixed...)
	}
	cmd := exec.CommandContext(ctx, "git", append(fixed, args...)...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains([]string{"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX"}, name)
	}), "GIT_TERMINAL_PROMPT=0", "LC_ALL=C")
	// git's own helpers talk to the network, and end with it only as a group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = gitGrace
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if errors.Is(err, exec.ErrNotFound) {
			return "", &SourceError{Problem: "git is not installed", Hint: "install git, or give a tarball or a folder with --llama"}
		}
		return "", fmt.Errorf("git %s: %s", args[0], lastLine(stderr.String(), err))
	}
	return strings.TrimSuffix(stdout.String(), "\n"), nil
}

// lastLine picks the line of git's complaint that says why.
func lastLine(text string, err error) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for _, line := range lines {
		if rest, ok := strings.CutPrefix(line, "fatal: "); ok {
			return rest
		}
	}
	if last := lines[len(lines)-1]; last != "" {
		return last
	}
	return err.Error()
}
