package pointer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/publisher"
)

// PageName is the file beside the pointer that shows people the current release.
const PageName = "index.html"

// A Branch is a Place: a branch with the pointer, a page for people, and nothing else. Each pointer is
// a commit on top of the one before, so the branch is also the history of all pointers, and never needs
// to be forced.
type Branch struct {
	// Dir is a git repository, whose remotes and credentials are used, and whose objects the commits are made among. Its
	// work tree, index and branches are not touched.
	Dir string
	// Remote is the name of one of its remotes, or an address.
	Remote string
	// Name is the branch's; manifests.PointerBranch if empty.
	Name string
	// Page is what Write puts beside the pointer; empty leaves the page that is there.
	Page []byte
}

// The author of the commits. They are not signed: the pointer is.
const (
	author      = "llcuda release pointer"
	authorEmail = "release-pointer@users.noreply.github.com"
)

func (b Branch) ref() string {
	if b.Name == "" {
		return "refs/heads/" + manifests.PointerBranch
	}
	return "refs/heads/" + b.Name
}

// Read implements Place.
func (b Branch) Read(ctx context.Context) (State, error) {
	tip, err := b.tip(ctx)
	if err != nil || tip == "" {
		return State{}, err
	}
	if _, err := b.git(ctx, nil, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", b.Remote, b.ref()); err != nil {
		return State{}, err
	}
	// A branch without the file has a broken pointer; it is not a branch to start from scratch.
	signed, err := b.git(ctx, nil, "cat-file", "blob", tip+":"+manifests.PointerName)
	if err != nil {
		return State{}, err
	}
	return State{Signed: signed, Version: tip}, nil
}

// Has reports whether the branch has a commit in its history. It completes a shallow clone for that.
func (b Branch) Has(ctx context.Context, commit string) (bool, error) {
	tip, err := b.tip(ctx)
	if err != nil || tip == "" {
		return false, err
	}
	fetch := []string{"fetch", "--quiet", "--no-tags", "--no-write-fetch-head"}
	shallow, err := b.git(ctx, nil, "rev-parse", "--is-shallow-repository")
	if err != nil {
		return false, err
	}
	if string(bytes.TrimSpace(shallow)) == "true" {
		fetch = append(fetch, "--unshallow")
	}
	if _, err := b.git(ctx, nil, append(fetch, b.Remote, b.ref())...); err != nil {
		return false, err
	}
	_, err = b.git(ctx, nil, "cat-file", "-e", commit+"^{commit}")
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		return false, nil // git has no other way to say that there is none
	}
	_, err = b.git(ctx, nil, "merge-base", "--is-ancestor", commit, tip)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 1 {
		return false, nil
	}
	return err == nil, err
}

// tip is the commit that the remote's branch is at; empty if there is no branch.
func (b Branch) tip(ctx context.Context) (string, error) {
	out, err := b.git(ctx, nil, "ls-remote", b.Remote, b.ref())
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(out)) { // of every ref that ends so
		if tip, ref, _ := strings.Cut(strings.TrimSpace(line), "\t"); ref == b.ref() {
			return tip, nil
		}
	}
	return "", nil
}

// Write implements Place.
func (b Branch) Write(ctx context.Context, read State, signed []byte, what string) error {
	entry, err := b.entry(ctx, manifests.PointerName, signed)
	if err != nil {
		return err
	}
	page, err := b.page(ctx, read)
	if err != nil {
		return err
	}
	tree, err := b.git(ctx, append(entry, page...), "mktree")
	if err != nil {
		return err
	}
	args := []string{"commit-tree", "-m", what}
	if read.Version != "" {
		args = append(args, "-p", read.Version)
	}
	made, err := b.git(ctx, nil, append(args, string(bytes.TrimSpace(tree)))...)
	if err != nil {
		return err
	}
	commit := string(bytes.TrimSpace(made))
	_, pushed := b.git(ctx, nil, "push", "--quiet", "--no-verify", "--force-with-lease="+b.ref()+":"+read.Version, b.Remote, commit+":"+b.ref())
	if pushed == nil {
		return nil
	}
	// What the remote says counts, not what the connection did: the answer to a push that succeeded may have been lost.
	tip, err := b.tip(context.WithoutCancel(ctx))
	switch {
	case err != nil:
		return errors.Join(pushed, err)
	case tip == commit:
		return nil
	case tip != read.Version, isBusy(pushed):
		return ErrMoved
	case isRefused(pushed):
		return &publisher.RefusedError{Err: pushed, Way: "pushing to the branch " + strings.TrimPrefix(b.ref(), "refs/heads/") + " requires the permission contents: write, and no rule of the repository may forbid it"}
	}
	return pushed
}

// entry keeps a file among git's objects, and is its line in a tree.
func (b Branch) entry(ctx context.Context, name string, data []byte) ([]byte, error) {
	blob, err := b.git(ctx, data, "hash-object", "-w", "--stdin")
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "100644 blob %s\t%s\n", bytes.TrimSpace(blob), name), nil
}

// page is the page's line in the tree to write; empty if there is no page.
func (b Branch) page(ctx context.Context, read State) ([]byte, error) {
	switch {
	case len(b.Page) > 0:
		return b.entry(ctx, PageName, b.Page)
	case read.Version != "":
		return b.git(ctx, nil, "ls-tree", "--full-tree", read.Version, "--", PageName)
	}
	return nil, nil
}

// isBusy reports whether the remote was updating the branch for another client.
func isBusy(err error) bool {
	return strings.Contains(err.Error(), "cannot lock ref")
}

// isRefused reports whether a remote will refuse the push if it is retried. git has no exit codes for that.
func isRefused(err error) bool {
	for _, sign := range []string{"[remote rejected]", "Authentication failed", "could not read Username", "ermission denied", "ermission to", "403"} {
		if strings.Contains(err.Error(), sign) {
			return true
		}
	}
	return false
}

// gitGrace is how long an interrupted git may take to remove its lock files, and its helpers to end.
const gitGrace = 5 * time.Second

// git runs git and returns what it printed.
func (b Branch) git(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = gitGrace // a helper of git's or a hook may hold the pipe
	cmd.Dir = b.Dir
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "LC_ALL=C",
		"GIT_AUTHOR_NAME="+author, "GIT_AUTHOR_EMAIL="+authorEmail, "GIT_COMMITTER_NAME="+author, "GIT_COMMITTER_EMAIL="+authorEmail)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(said.String()))
	}
	return out.Bytes(), nil
}
