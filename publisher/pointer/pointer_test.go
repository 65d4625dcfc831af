package pointer

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
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
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
	"github.com/waqasm86/llcuda-farm/publisher"
	"github.com/waqasm86/llcuda-farm/publisher/cosign"
)

// newSigner gives the signing half and the verifying half of a key.
func newSigner(t *testing.T) (*cosign.Signer, *sigverify.Verifier) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := cosign.WithKey(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil)
	if err != nil {
		t.Fatal(err)
	}
	public, err := signer.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := sigverify.New(sigverify.Policy{PublicKey: public})
	if err != nil {
		t.Fatal(err)
	}
	return signer, verifier
}

// digest is that of a release's manifest, made up.
func digest(release string) string {
	return strings.Repeat(fmt.Sprintf("%x", release[len(release)-1]%16), 64)
}

// options publish with a key of the test's own.
func options(t *testing.T, release string) Options {
	signer, verifier := newSigner(t)
	return Options{
		Release:  release,
		Manifest: func(_ context.Context, release string) (string, error) { return digest(release), nil },
		Sign: func(ctx context.Context, statement []byte) ([]byte, error) {
			signed, err := signer.SignStatement(ctx, statement)
			return signed.Bundle, err
		},
		Verifier: verifier,
	}
}

// git runs git in a folder.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// newBranch is a branch in a repository that is somewhere else, and its repository.
func newBranch(t *testing.T) (Branch, string) {
	t.Helper()
	far, near := filepath.Join(t.TempDir(), "far.git"), t.TempDir()
	git(t, ".", "init", "--quiet", "--bare", far)
	git(t, ".", "init", "--quiet", near)
	git(t, near, "remote", "add", "origin", far)
	return Branch{Dir: near, Remote: "origin"}, far
}

// What is true of every Place.
func TestPlaces(t *testing.T) {
	for name, place := range map[string]func(*testing.T) Place{
		"branch": func(t *testing.T) Place { b, _ := newBranch(t); return b },
		"file":   func(t *testing.T) Place { return File(filepath.Join(t.TempDir(), "current", manifests.PointerName)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, ctx := place(t), t.Context()
			read := func(want string) State {
				t.Helper()
				s, err := p.Read(ctx)
				if err != nil || string(s.Signed) != want || (s.Signed == nil) != (want == "") {
					t.Fatalf("read %q, %v; want %q", s.Signed, err, want)
				}
				return s
			}
			write := func(from State, text string, want error) {
				t.Helper()
				if err := p.Write(ctx, from, []byte(text), "for "+text); !errors.Is(err, want) || want == nil && err != nil {
					t.Fatalf("writing %q: %v, want %v", text, err, want)
				}
			}
			empty := read("")
			write(empty, "one", nil)
			one := read("one")
			write(empty, "another one", ErrMoved)
			read("one")
			write(one, "two", nil)
			write(one, "another two", ErrMoved)
			two := read("two")
			write(two, "three", nil)
			read("three")

			var won sync.Map
			three := read("three")
			var group sync.WaitGroup
			for i := range 8 {
				group.Go(func() {
					text := fmt.Sprint("four by ", i)
					switch err := p.Write(ctx, three, []byte(text), text); {
					case err == nil:
						won.Store(text, true)
					case !errors.Is(err, ErrMoved):
						t.Errorf("%s: %v", text, err)
					}
				})
			}
			group.Wait()
			var winners []string
			won.Range(func(text, _ any) bool { winners = append(winners, text.(string)); return true })
			if len(winners) != 1 {
				t.Fatalf("of eight at once these won: %q", winners)
			}
			read(winners[0])
		})
	}
}

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

func TestPublish(t *testing.T) {
	place := File(filepath.Join(t.TempDir(), manifests.PointerName))
	good := options(t, "")
	forged := func() []byte { // by another key
		o := options(t, "")
		data, err := manifests.EncodePointer(manifests.Pointer{Release: "v9.0.0", Manifest: digest("v9.0.0"), Number: 99, Issued: time.Unix(1e9, 0).UTC(), Expires: time.Unix(1e9+1, 0).UTC()})
		if err != nil {
			t.Fatal(err)
		}
		signed, err := o.Sign(t.Context(), data)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}()
	missing := errors.New("no such release")
	for _, step := range []struct {
		name    string
		change  func(*Options)
		release string
		before  func() // what another publisher does first
		number  int64
		names   string
		// withdrawn are the tags of the withdrawn releases, with blanks between them.
		withdrawn string
		err       any // a pointer to an error's type, or a sentinel
	}{
		{name: "made anew, and there is none", err: ErrNoPresent},
		{name: "the first", release: "v1.0.0-runtime", number: 1, names: "v1.0.0-runtime"},
		{name: "the next release", release: "v1.1.0-runtime", number: 2, names: "v1.1.0-runtime"},
		{name: "made anew", number: 3, names: "v1.1.0-runtime"},
		{name: "an older release", release: "v1.0.0-runtime", err: new(*BackError)},
		{name: "an older release on purpose", release: "v1.0.0-runtime", change: func(o *Options) { o.Back = true }, number: 4, names: "v1.0.0-runtime"},
		{name: "a release that is not there", release: "v2.0.0-runtime", change: func(o *Options) {
			o.Manifest = func(context.Context, string) (string, error) { return "", missing }
		}, err: missing},
		{name: "the same tag with another manifest", release: "v1.0.0-runtime", change: func(o *Options) {
			o.Manifest = func(context.Context, string) (string, error) { return strings.Repeat("f", 64), nil }
		}, err: new(*BackError)},
		{name: "made anew, and the manifest is another one", change: func(o *Options) {
			o.Manifest = func(context.Context, string) (string, error) { return strings.Repeat("f", 64), nil }
		}, err: new(*BackError)},
		{name: "a number too low", change: func(o *Options) { o.Number = 4 }, err: new(*NumberError)},
		{name: "a number", change: func(o *Options) { o.Number = 50 }, number: 50, names: "v1.0.0-runtime"},
		{name: "a tag that says nothing of older and newer", release: "nightly", number: 51, names: "nightly"},
		{name: "a life too long", change: func(o *Options) { o.Life = 2 * manifests.MaxPointerLife }, err: nil},
		{name: "signed with another key than clients know", change: func(o *Options) { o.Sign = options(t, "").Sign }, err: new(*sigverify.SignatureError)},
		{name: "signed something else", change: func(o *Options) {
			o.Sign = func(ctx context.Context, statement []byte) ([]byte, error) {
				return good.Sign(ctx, bytes.Replace(statement, []byte("nightly"), []byte("daylily"), 1))
			}
		}, err: nil},
		{name: "a short life", change: func(o *Options) { o.Life = time.Hour }, number: 52, names: "nightly"},
		{name: "somebody forged one", before: func() { write(t, place, forged) }, err: new(*PresentError)},
		{name: "it is replaced by number", release: "v1.1.0-runtime", change: func(o *Options) { o.Number = 100 }, number: 100, names: "v1.1.0-runtime"},
		{name: "an older release is withdrawn", change: func(o *Options) { o.Withdraw = bad("v1.0.0-runtime") }, number: 101, names: "v1.1.0-runtime", withdrawn: "v1.0.0-runtime"},
		{name: "later pointers keep that", number: 102, names: "v1.1.0-runtime", withdrawn: "v1.0.0-runtime"},
		{name: "the current one is withdrawn", change: func(o *Options) { o.Withdraw = bad("v1.1.0-runtime") }, err: new(*WithdrawError)},
		{name: "a withdrawn one is named", release: "v1.0.0-runtime", change: func(o *Options) { o.Back = true }, err: new(*WithdrawError)},
		{name: "another one is withdrawn, and named instead", release: "v1.0.5-runtime", change: func(o *Options) { o.Withdraw, o.Back = bad("v1.1.0-runtime"), true },
			number: 103, names: "v1.0.5-runtime", withdrawn: "v1.0.0-runtime v1.1.0-runtime"},
		{name: "without a reason", change: func(o *Options) { o.Withdraw.Release = "v0.9.0" }, err: nil},
		{name: "one is restored that is not withdrawn", change: func(o *Options) { o.Restore = "v0.9.0" }, err: new(*WithdrawError)},
		{name: "one is restored and named", release: "v1.1.0-runtime", change: func(o *Options) { o.Restore = "v1.1.0-runtime" }, number: 104, names: "v1.1.0-runtime", withdrawn: "v1.0.0-runtime"},
		{name: "the other one is restored", change: func(o *Options) { o.Restore = "v1.0.0-runtime" }, number: 105, names: "v1.1.0-runtime"},
		{name: "somebody emptied it", before: func() { write(t, place, nil) }, err: new(*PresentError)},
	} {
		if step.before != nil {
			step.before()
		}
		was, err := os.ReadFile(string(place))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		o := good
		o.Release = step.release
		if step.change != nil {
			step.change(&o)
		}
		now, _, err := Publish(t.Context(), place, o)
		is, _ := os.ReadFile(string(place))
		if step.number == 0 {
			sentinel, _ := step.err.(error)
			switch {
			case err == nil,
				sentinel != nil && !errors.Is(err, sentinel),
				sentinel == nil && step.err != nil && !errors.As(err, step.err):
				t.Errorf("%s: got %+v, %v", step.name, now, err)
			}
			if !bytes.Equal(was, is) {
				t.Errorf("%s: it was refused, and the pointer changed", step.name)
			}
			continue
		}
		if err != nil || now.Number != step.number || now.Release != step.names || now.Manifest != digest(step.names) {
			t.Errorf("%s: got %+v, %v", step.name, now, err)
		}
		public, err := read(good.Verifier, is)
		if diff := cmp.Diff(now, public); err != nil || diff != "" {
			t.Errorf("%s: public is %v (-said +public):\n%s", step.name, err, diff)
		}
		var withdrawn []string
		for _, w := range public.Withdrawn {
			withdrawn = append(withdrawn, w.Release)
		}
		if diff := cmp.Diff(strings.Fields(step.withdrawn), withdrawn, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: withdrawn (-want +got):\n%s", step.name, diff)
		}
		life := o.Life
		if life == 0 {
			life = DefaultLife
		}
		if age := time.Since(now.Issued); now.Expires.Sub(now.Issued) != life || age < 0 || age > time.Minute {
			t.Errorf("%s: issued %s, expires %s", step.name, now.Issued, now.Expires)
		}
	}
}

func bad(release string) manifests.Withdrawal {
	return manifests.Withdrawal{Release: release, Reason: "wrong results on Pascal"}
}

// Whatever the present pointer says of its issue and its number, the farm continues with one that clients accept: those
// that accepted the present one, and those that never saw it.
func TestAfterAnyPointer(t *testing.T) {
	o := options(t, "v1.1.0-runtime")
	for name, test := range map[string]struct {
		ahead  time.Duration // of the present pointer's issue
		number int64         // the present pointer's; 0 is the greatest that its issue allows, and -n the n-th before
		ask    int64         // Options.Number
	}{
		"of yesterday":                               {ahead: -24 * time.Hour, number: 7},
		"of yesterday, with the greatest number":     {ahead: -24 * time.Hour},
		"of now, with the greatest number":           {},
		"in an hour":                                 {ahead: time.Hour, number: 7},
		"in an hour, with the greatest number":       {ahead: time.Hour},
		"in an hour, with the number before":         {ahead: time.Hour, number: -1},
		"as late as clients take it":                 {ahead: manifests.MaxClockLag},
		"a second before":                            {ahead: manifests.MaxClockLag - time.Second},
		"a few seconds later than clients take it":   {ahead: manifests.MaxClockLag + 30*time.Second},
		"in a month, with the greatest number":       {ahead: 30 * 24 * time.Hour},
		"in a month, with a small number":            {ahead: 30 * 24 * time.Hour, number: 7},
		"in a hundred years":                         {ahead: 100 * 365 * 24 * time.Hour},
		"in a hundred years, and a number is given":  {ahead: 100 * 365 * 24 * time.Hour, ask: 1_700_000_000},
		"in an hour, and the next number is given":   {ahead: time.Hour, number: 41, ask: 42},
		"in an hour, and a number is given far away": {ahead: time.Hour, number: 41, ask: 1_700_000_000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := time.Now().UTC().Truncate(time.Second)
			present := manifests.Pointer{Release: "v1.0.0-runtime", Manifest: digest("v1.0.0-runtime"), Number: test.number, Issued: now.Add(test.ahead)}
			present.Expires = present.Issued.Add(DefaultLife)
			if test.number <= 0 {
				present.Number = present.Issued.Unix() + test.number
			}
			statement, err := manifests.EncodePointer(present)
			if err != nil {
				t.Fatal(err)
			}
			signed, err := o.Sign(t.Context(), statement)
			if err != nil {
				t.Fatal(err)
			}
			place := File(filepath.Join(t.TempDir(), manifests.PointerName))
			write(t, place, signed)
			taken := present.CheckTime(now) == nil
			before := manifests.Pointer{}
			if taken {
				before = present
			}
			o := o
			o.Number = test.ask
			for range 3 { // and on
				next, _, err := Publish(t.Context(), place, o)
				if err != nil {
					t.Fatal(err)
				}
				if err := next.CheckTime(time.Now()); err != nil {
					t.Errorf("clients refuse it: %v", err)
				}
				if err := next.CheckAfter(before); err != nil || next.Number <= before.Number {
					t.Errorf("clients refuse it: %+v after %+v", next, before)
				}
				if want := max(present.Number+1, now.Unix()); taken && before.Equal(present) && next.Issued.Unix() > want+2 {
					t.Errorf("it is issued at %s, and could be at %s", next.Issued, time.Unix(want, 0).UTC())
				}
				before, o.Number = next, 0
			}
		})
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

func write(t *testing.T, place File, data []byte) {
	t.Helper()
	if err := os.WriteFile(string(place), data, 0o644); err != nil {
		t.Fatal(err)
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
