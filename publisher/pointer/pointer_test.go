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
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
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

func write(t *testing.T, place File, data []byte) {
	t.Helper()
	if err := os.WriteFile(string(place), data, 0o644); err != nil {
		t.Fatal(err)
	}
}
