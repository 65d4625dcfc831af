package farm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// dirty follows the commit of a work tree whose files are not the commit's.
const dirty = "-dirty"

// workTree lists the files of its repository that a checked-out folder contains, and returns their commit.
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

// Uncommitted reports whether a file is tracked by git and is not as in the commit. Outside of a repository none is.
func Uncommitted(ctx context.Context, file string) (bool, error) {
	changes, err := git(ctx, filepath.Dir(file), "status", "--porcelain", "--untracked-files=no", "--", filepath.Base(file))
	if err != nil {
		return false, ctx.Err()
	}
	return changes != "", nil
}

// checkLineEnds refuses a work tree whose files git itself gave the line ends of Windows, as it
// does where core.autocrlf is set: compilers and shells would see another tree than the commit's.
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

// isWorkTree reports whether dir is the top of a git work tree. A folder inside one is a plain
// folder: the commit of the whole says nothing about it.
func isWorkTree(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, ".git"))
	return err == nil
}
