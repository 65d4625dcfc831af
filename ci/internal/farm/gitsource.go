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
	fullCommit = regexp.MustCompile(`^[0-9a-f]{40}$`)
	// foreignRepository is how git refuses the repository of somebody else.
	foreignRepository = regexp.MustCompile(`dubious ownership in repository at '([^']+)'`)
	partialCommit     = regexp.MustCompile(`^[0-9a-f]{7,39}$`)
)

// A TreeError is a tree whose files are not those of the commit that it is said to be.
type TreeError struct{ Commit, Want, Got string }

func (e *TreeError) Error() string {
	return fmt.Sprintf("the files are not those of commit %s: git's id of their tree is %s instead of %s", e.Commit, e.Got, e.Want)
}

// Hint says what can be wrong.
func (e *TreeError) Hint() string {
	return "the source was changed, or matrix.yaml has the tree of another commit; git rev-parse " + e.Commit + "^{tree} tells"
}

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
	if err == nil {
		// The tree's own .gitattributes do not change what is checked out: the files are those of the commit.
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

// fetch gets commits only, where the server can filter: a build number needs the
// whole history, and a checkout then fetches the files of its own commit.
func (r repository) fetch(ctx context.Context, refspecs ...string) error {
	how := "--filter=tree:0"
	if isShallow(ctx, strings.TrimPrefix(r.where, "file://")) {
		// With a filter, git 2.39 asks such a repository for the commits beyond its end, in a process of its own for
		// each answer, without end.
		how = "--update-shallow"
	}
	_, err := git(ctx, r.dir, append([]string{"fetch", "-q", "--no-tags", how, "origin"}, refspecs...)...)
	if err != nil {
		return fmt.Errorf("fetching %s from %s: %w", strings.Join(refspecs, " "), r.where, err)
	}
	return nil
}

// isShallow says whether a folder is a repository whose history is cut short.
func isShallow(ctx context.Context, dir string) bool {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return false
	}
	shallow, err := git(ctx, dir, "rev-parse", "--is-shallow-repository")
	return err == nil && shallow == "true"
}

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

// submodules are the commits that a tree refers to, by path. Their files are not
// fetched: no part of llama.cpp that the farm compiles is in one.
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

func commitDate(ctx context.Context, dir, commit string) (int64, error) {
	text, err := git(ctx, dir, "show", "-s", "--format=%ct", commit)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

// buildNumber counts the commits, as llama.cpp does. A history that was cut
// short or squashed has no number; the former deserves a warning.
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

// dirty follows the commit of a work tree whose files are not the commit's.
const dirty = "-dirty"

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
	if tree.build, tree.warnings, err = buildNumber(ctx, dir, commit); err != nil {
		return nil, origin{}, err
	}
	if err := checkLineEnds(ctx, dir); err != nil {
		return nil, origin{}, err
	}
	changes, err := git(ctx, dir, "status", "--porcelain")
	if err != nil {
		return nil, origin{}, err
	}
	if changes != "" {
		tree.commit += dirty
	} else {
		if tree.tree, err = git(ctx, dir, "rev-parse", "-q", "--verify", "HEAD^{tree}"); err != nil {
			return nil, origin{}, err
		}
		if tree.submodules, err = submodules(ctx, dir, commit); err != nil {
			return nil, origin{}, err
		}
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

// checkLineEnds refuses a work tree whose files git itself gave the line ends of
// Windows, as it does where core.autocrlf is set: compilers and shells would see
// another tree than the commit's.
func checkLineEnds(ctx context.Context, dir string) error {
	out, err := git(ctx, dir, "ls-files", "--eol", "-z")
	if err != nil {
		return err
	}
	var text, changed int
	for line := range strings.SplitSeq(out, "\x00") {
		// i/lf w/crlf attr/… <tab>PATH
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] == "i/lf" {
			text++
			if fields[1] == "w/crlf" {
				changed++
			}
		}
	}
	if changed*2 <= text {
		return nil
	}
	return &SourceError{Given: dir, Problem: fmt.Sprintf("%d of its files have CRLF line ends where the commit has LF, as git's core.autocrlf makes them", changed),
		Hint: "give " + dir + "@HEAD, which takes the commit's own files, or clone with -c core.autocrlf=false"}
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
		if match := foreignRepository.FindStringSubmatch(stderr.String()); match != nil {
			return "", &SourceError{Given: match[1], Problem: "the repository belongs to another user, and git runs what its configuration says",
				Hint: "git config --global --add safe.directory " + match[1]}
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
