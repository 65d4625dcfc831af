package pointer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/publisher"
)

// The page stays beside the pointer until another one replaces it, wherever in the repository the
// command runs.
func TestBranchPage(t *testing.T) {
	b, far := newBranch(t)
	b.Dir = filepath.Join(b.Dir, "deep")
	if err := os.Mkdir(b.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct{ page, want string }{
		{"", ""}, {"<p>one", "<p>one"}, {"", "<p>one"}, {"<p>two", "<p>two"}, {"", "<p>two"},
	} {
		state, err := b.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		signed := fmt.Sprint("pointer ", i)
		b.Page = []byte(step.page)
		if err := b.Write(t.Context(), state, []byte(signed), signed); err != nil {
			t.Fatal(err)
		}
		want := manifests.PointerName
		if step.want != "" {
			want += "\n" + PageName
			if got := git(t, far, "cat-file", "blob", "pointer:"+PageName); got != step.want {
				t.Errorf("step %d: the page is %q, want %q", i, got, step.want)
			}
		}
		if got := git(t, far, "ls-tree", "--name-only", "pointer"); got != want {
			t.Errorf("step %d: the branch has %q, want %q", i, got, want)
		}
		if got := git(t, far, "cat-file", "blob", "pointer:"+manifests.PointerName); got != signed {
			t.Errorf("step %d: the pointer is %q", i, got)
		}
	}
	if commits := git(t, far, "rev-list", "--count", "pointer"); commits != "5" {
		t.Errorf("the branch has %s commits", commits)
	}
}

// A branch has what was merged into it, and nothing else: not a commit of another branch or of a tag alone.
func TestBranchHas(t *testing.T) {
	_, far := newBranch(t)
	source := t.TempDir()
	git(t, ".", "init", "--quiet", "--initial-branch=main", source)
	commit := func(text string) string {
		git(t, source, "commit", "--quiet", "--allow-empty", "-m", text)
		return git(t, source, "rev-parse", "HEAD")
	}
	first := commit("first")
	git(t, source, "checkout", "--quiet", "-b", "other")
	stray := commit("stray")
	git(t, source, "tag", "v9.9.9")
	git(t, source, "checkout", "--quiet", "main")
	git(t, source, "checkout", "--quiet", "-b", "merged")
	merged := commit("merged")
	git(t, source, "checkout", "--quiet", "main")
	git(t, source, "merge", "--quiet", "--no-ff", "-m", "merge", "merged")
	last := commit("last")
	git(t, source, "push", "--quiet", far, "main", "v9.9.9")
	unknown := strings.Repeat("ab", 20)
	for name, clone := range map[string][]string{
		"whole": {"clone", "--quiet"}, "shallow": {"clone", "--quiet", "--depth=1", "--branch=main"}, "of the tag": {"clone", "--quiet", "--depth=1", "--branch=v9.9.9"},
	} {
		dir := filepath.Join(t.TempDir(), "clone")
		git(t, ".", append(clone, "file://"+far, dir)...)
		b := Branch{Dir: dir, Remote: "origin", Name: "main"}
		for commit, want := range map[string]bool{first: true, merged: true, last: true, stray: false, unknown: false} {
			if got, err := b.Has(t.Context(), commit); err != nil || got != want {
				t.Errorf("%s clone: %s: got %v, %v, want %v", name, commit, got, err, want)
			}
		}
		b.Name = "nowhere"
		if got, err := b.Has(t.Context(), first); err != nil || got {
			t.Errorf("%s clone: a branch that is not there has a commit: %v, %v", name, got, err)
		}
		b.Remote = filepath.Join(t.TempDir(), "nowhere.git")
		if _, err := b.Has(t.Context(), first); err == nil {
			t.Errorf("%s clone: a remote that does not answer says something", name)
		}
	}
}

// Many publishers publish concurrently to one branch, each from its own clone: each gets its own number, and the branch
// has all of their commits, one on top of the other, and nothing else.
func TestManyPublishAtOnce(t *testing.T) {
	const publishers = 6
	first, far := newBranch(t)
	o := options(t, "v1.0.0-runtime")
	numbers := make([]int64, publishers)
	var group sync.WaitGroup
	for i := range publishers {
		b := first
		b.Dir = t.TempDir()
		git(t, ".", "init", "--quiet", b.Dir)
		b.Remote = far
		group.Go(func() {
			now, _, err := Publish(t.Context(), b, o)
			if err != nil {
				t.Error(err)
			}
			numbers[i] = now.Number
		})
	}
	group.Wait()
	slices.Sort(numbers)
	if diff := cmp.Diff([]int64{1, 2, 3, 4, 5, 6}, numbers); diff != "" {
		t.Errorf("numbers (-want +got):\n%s", diff)
	}
	for i, commit := range strings.Fields(git(t, far, "rev-list", "--reverse", "refs/heads/pointer")) {
		if files := git(t, far, "ls-tree", "-r", "--name-only", commit); files != manifests.PointerName {
			t.Errorf("commit %d has %q", i, files)
		}
		p, err := read(o.Verifier, []byte(git(t, far, "cat-file", "blob", commit+":"+manifests.PointerName)))
		if err != nil || p.Number != int64(i+1) {
			t.Errorf("commit %d has pointer %+v, %v", i, p, err)
		}
		if subject := git(t, far, "show", "-s", "--format=%s", commit); !strings.HasPrefix(subject, fmt.Sprintf("Pointer %d: v1.0.0-runtime, until ", i+1)) {
			t.Errorf("commit %d says %q", i, subject)
		}
	}
}

// The repository that git runs in stays as it is: no branch, no file, no change of what is staged. Its clone may be
// shallow, as that of a workflow is.
func TestBranchLeavesTheWorkTreeAlone(t *testing.T) {
	_, far := newBranch(t)
	source := t.TempDir()
	git(t, ".", "init", "--quiet", "--initial-branch=main", source)
	for i := range 3 {
		git(t, source, "commit", "--quiet", "--allow-empty", "-m", fmt.Sprint(i))
	}
	git(t, source, "push", "--quiet", far, "main")
	clone := filepath.Join(t.TempDir(), "clone")
	git(t, ".", "clone", "--quiet", "--depth=1", "--branch=main", "file://"+far, clone)
	if err := os.WriteFile(filepath.Join(clone, "mine"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	git(t, clone, "add", "mine")
	status := func() string {
		return git(t, clone, "status", "--porcelain=v2", "--branch") + git(t, clone, "for-each-ref") + git(t, clone, "rev-list", "--all", "--count")
	}
	before := status()
	b := Branch{Dir: clone, Remote: "origin"}
	o := options(t, "v1.0.0-runtime")
	for want := range int64(3) {
		now, _, err := Publish(t.Context(), b, o)
		if err != nil || now.Number != want+1 {
			t.Fatalf("got %+v, %v", now, err)
		}
	}
	if diff := cmp.Diff(before, status()); diff != "" {
		t.Errorf("the repository changed (-before +after):\n%s", diff)
	}
}

// The remote updated the branch, and its answer was lost: that is a success, not a second pointer.
func TestLostAnswer(t *testing.T) {
	b, far := newBranch(t)
	hook := filepath.Join(far, "hooks", "reference-transaction")
	if err := os.WriteFile(hook, []byte("#!/bin/sh\n[ \"$1\" = committed ] && kill -9 $PPID\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("git", "-C", b.Dir, "push", "origin", git(t, b.Dir, "commit-tree", "-m", "x", git(t, b.Dir, "mktree"))+":refs/heads/other").CombinedOutput(); err == nil {
		t.Fatalf("the answer was to be lost:\n%s", out)
	}
	now, _, err := Publish(t.Context(), b, options(t, "v1.0.0-runtime"))
	if err != nil || now.Number != 1 {
		t.Errorf("got %+v, %v", now, err)
	}
	if commits := git(t, far, "rev-list", "--count", "refs/heads/pointer"); commits != "1" {
		t.Errorf("the branch has %s commits", commits)
	}
}

// An interrupt ends a push, also where the remote does not answer it, and something that git started stays.
func TestInterruptedPush(t *testing.T) {
	b, far := newBranch(t)
	started := filepath.Join(t.TempDir(), "started")
	if err := os.WriteFile(filepath.Join(far, "hooks", "pre-receive"), []byte("#!/bin/sh\necho $$ >"+started+".new\nmv "+started+".new "+started+"\nexec sleep 60\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	var hook int
	go func() {
		defer interrupt()
		for t.Context().Err() == nil {
			if text, err := os.ReadFile(started); err == nil {
				hook, _ = strconv.Atoi(strings.TrimSpace(string(text)))
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	if _, _, err := Publish(ctx, b, options(t, "v1.0.0-runtime")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if hook == 0 || syscall.Kill(hook, syscall.SIGKILL) != nil {
		t.Errorf("the hook, process %d, has ended before Publish did", hook)
	}
}

func TestRefusedPush(t *testing.T) {
	b, far := newBranch(t)
	if err := os.WriteFile(filepath.Join(far, "hooks", "pre-receive"), []byte("#!/bin/sh\necho protected branch\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, _, err := Publish(t.Context(), b, options(t, "v1.0.0-runtime"))
	var refused *publisher.RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "protected branch") || !strings.Contains(refused.Hint(), "contents: write") {
		t.Errorf("got %v", err)
	}
	b.Remote = filepath.Join(t.TempDir(), "nowhere.git")
	if _, _, err := Publish(t.Context(), b, options(t, "v1.0.0-runtime")); err == nil || !strings.Contains(err.Error(), "git ls-remote") || errors.As(err, &refused) {
		t.Errorf("got %v", err)
	}
}

// A branch that has something else under that name is not started from scratch.
func TestBranchOfSomethingElse(t *testing.T) {
	b, far := newBranch(t)
	source := t.TempDir()
	git(t, ".", "init", "--quiet", "--initial-branch=pointer", source)
	git(t, source, "commit", "--quiet", "--allow-empty", "-m", "x")
	git(t, source, "push", "--quiet", far, "pointer")
	before := git(t, far, "rev-parse", "refs/heads/pointer")
	if now, _, err := Publish(t.Context(), b, options(t, "v1.0.0-runtime")); err == nil || !strings.Contains(err.Error(), manifests.PointerName) {
		t.Errorf("got %+v, %v", now, err)
	}
	if after := git(t, far, "rev-parse", "refs/heads/pointer"); after != before {
		t.Errorf("the branch was changed: %s", after)
	}
}
