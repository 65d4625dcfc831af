package fetch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer/transfertest"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
)

// keyed is the client's verifier for a key.
type keyed struct{ *sigverify.Verifier }

func (v keyed) Verify(sums, signed []byte) (Signer, error) {
	_, err := v.Verifier.Verify(sums, signed)
	return Signer{By: "a key", ID: "key"}, err
}

func (v keyed) VerifyPointer(signed []byte) ([]byte, Signer, error) {
	statement, _, err := v.VerifyStatement(signed)
	return statement.Payload, Signer{By: "a key", ID: "key"}, err
}

// newClient is a client of a machine with a T4 that trusts the key of a release, and has little
// patience.
func newClient(t *testing.T, r *fetchtest.Release, mirrors ...string) *Client {
	t.Helper()
	f, err := os.Open("../testdata/hosts/rtx-2080-ti.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	host, err := manifests.DecodeHost(f)
	if err != nil {
		t.Fatal(err)
	}
	v, err := sigverify.New(sigverify.Policy{PublicKey: r.PublicKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	return &Client{
		Store: &store.Store{Home: filepath.Join(t.TempDir(), "store")}, Host: &host, Verifier: keyed{v}, Pointers: keyed{v}, Mirrors: mirrors,
		Transfer: &transfer.Client{Tries: 2, FirstWait: time.Millisecond, MaxRetryAfter: time.Millisecond},
	}
}

// twoReleases are two of one key.
func twoReleases(t *testing.T) (older, newer *fetchtest.Release) {
	t.Helper()
	older, newer = fetchtest.New(t, fetchtest.Options{Tag: "v1.0.0-runtime"}), fetchtest.New(t, fetchtest.Options{Tag: "v1.1.0-runtime"})
	newer.SignWith(t, older)
	return older, newer
}

func wantClass(t *testing.T, err error, want Class, text string) {
	t.Helper()
	if err == nil || Classify(err) != want || !strings.Contains(err.Error(), text) {
		t.Errorf("got class %d: %v; want class %d with %q", Classify(err), err, want, text)
	}
}

// A mirror that gives a few bytes a second is left for the next one before anything is installed,
// and waited for where there is no other.
func TestSlowMirrors(t *testing.T) {
	r := fetchtest.New(t, fetchtest.Options{})
	slow := transfertest.New(t, r.Dir, transfertest.Fault{Rate: 2 << 10})
	crawling := transfertest.New(t, r.Dir, transfertest.Fault{Rate: 1})
	good := transfertest.New(t, r.Dir, transfertest.Fault{})
	empty := transfertest.New(t, t.TempDir(), transfertest.Fault{})
	for _, test := range []struct {
		name    string
		mirrors []*transfertest.Server
		want    *transfertest.Server
	}{
		{"next", []*transfertest.Server{crawling, good}, good},
		{"next but one", []*transfertest.Server{slow, empty, good}, good},
		{"alone", []*transfertest.Server{slow}, slow},
		{"no other has it", []*transfertest.Server{empty, slow, empty}, slow},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, r)
			for _, s := range test.mirrors {
				c.Mirrors = append(c.Mirrors, s.URL)
			}
			c.Transfer.SlowWindow = time.Second
			var steps []string
			c.Step = func(what string) { steps = append(steps, what) }
			found, err := c.Resolve(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			if want := test.want.URL + "/"; found.From != want {
				t.Errorf("the release was read from %s, not %s", found.From, want)
			}
			if told := strings.Contains(strings.Join(steps, "\n"), "too slow"); told != (len(test.mirrors) > 1) {
				t.Errorf("of the slow mirror it said %q", steps)
			}
		})
	}
}

// An interrupt ends the reading of what is installed.
func TestVerifyEnds(t *testing.T) {
	r := fetchtest.New(t, fetchtest.Options{})
	c := newClient(t, r, r.Dir)
	if _, err := c.Install(t.Context(), Options{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := c.Verify(ctx)
	wantClass(t, err, Interrupted, "canceled")
}

// see has a client's store know of a pointer.
func see(t *testing.T, c *Client, p manifests.Pointer) {
	t.Helper()
	l, err := c.Store.Lock(t.Context(), "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.SeePointer("key", p), l.Close()); err != nil {
		t.Fatal(err)
	}
}

// To ask, to plan and to export changes nothing; only an installation remembers what it saw.
func TestOnlyInstallRemembersPointers(t *testing.T) {
	older, _ := twoReleases(t)
	dir := t.TempDir()
	if err := errors.Join(os.CopyFS(filepath.Join(dir, older.Manifest.Release), os.DirFS(older.Dir)), os.Mkdir(filepath.Join(dir, "current"), 0o777),
		os.WriteFile(filepath.Join(dir, "current", manifests.PointerName), older.SignPointer(t, older.Pointer(t, 7)), 0o644)); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, older, dir+"/{release}") // on this machine a folder for each release has a pointer as well
	plan, err := c.Plan(t.Context(), Options{})
	if err != nil || plan.Pointer == nil || plan.Pointer.Number != 7 || plan.Pointer.SignedBy != "a key" {
		t.Errorf("plan: %+v, %v", plan.Pointer, err)
	}
	if _, err := c.Export(t.Context(), filepath.Join(t.TempDir(), "out"), ExportOptions{}); err != nil {
		t.Error(err)
	}
	if _, any, err := c.Store.SeenPointer("key"); any || err != nil {
		t.Errorf("a plan or an export remembered: %v, %v", any, err)
	}
	c.Offline = true
	if _, err := c.Install(t.Context(), Options{}); err != nil {
		t.Fatal(err)
	}
	if p, any, err := c.Store.SeenPointer("key"); !any || p.Number != 7 || err != nil {
		t.Errorf("the installation saw %+v, %v, %v", p, any, err)
	}
}

func TestFolders(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	const tag = "v1.1.0-runtime"
	for _, test := range []struct {
		name    string
		mirrors []string
		tag     string
		offline bool
		want    []string
		err     string
	}{
		{name: "the farm's own", tag: tag, want: []string{"https://github.com/waqasm86/llcuda-farm/releases/download/v1.1.0-runtime/"}},
		{name: "the farm's own, without a network", tag: tag, offline: true},
		{name: "a tag that is not part of an address", tag: "v1 ?#/..", want: []string{"https://github.com/waqasm86/llcuda-farm/releases/download/v1%20%3F%23%2F../"}},
		{name: "web servers and folders", mirrors: []string{"https://a.example/x/", "http://b.example", "dir", "/abs/di r", "file:///abs"}, tag: tag,
			want: []string{"https://a.example/x/", "http://b.example/", "file://" + here + "/dir/", "file:///abs/di%20r/", "file:///abs/"}},
		{name: "without a network, the ones here", mirrors: []string{"https://a.example/x/", "dir", "file:///abs"}, tag: tag, offline: true,
			want: []string{"file://" + here + "/dir/", "file:///abs/"}},
		{name: "a folder for each release", mirrors: []string{"https://a.example/{release}/", "/abs/{release}"}, tag: tag,
			want: []string{"https://a.example/v1.1.0-runtime/", "file:///abs/v1.1.0-runtime/"}},
		{name: "a folder for each release, and none named", mirrors: []string{"https://a.example/{release}/"}, err: "give one with --release"},
		{name: "a mirror, and then the farm's own", mirrors: []string{"./default", "default"}, tag: tag,
			want: []string{"file://" + here + "/default/", "https://github.com/waqasm86/llcuda-farm/releases/download/v1.1.0-runtime/"}},
		{name: "one folder, and none named", mirrors: []string{"https://a.example"}, want: []string{"https://a.example/"}},
	} {
		c := &Client{Store: &store.Store{Home: t.TempDir()}, Mirrors: test.mirrors, Offline: test.offline}
		got, err := c.folders(test.tag)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: got %v, %v", test.name, got, err)
			}
			continue
		}
		if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", test.name, err, diff)
		}
	}
}

func TestOlder(t *testing.T) {
	for _, test := range []struct {
		offered, installed string
		epochs             [2]int64
		want               bool
	}{
		{"v1.0.0-runtime", "v1.1.0-runtime", [2]int64{2, 1}, true},
		{"v1.1.0-runtime", "v1.0.0-runtime", [2]int64{1, 2}, false},
		{"v1.9.0-runtime", "v1.10.0-runtime", [2]int64{2, 1}, true},
		{"v1.1.0-runtime", "v1.1.0-runtime", [2]int64{1, 2}, true}, // rebuilt under the same tag
		{"v1.1.0-runtime", "v1.1.0-runtime", [2]int64{1, 1}, false},
		{"v1.1.0-rc1", "v1.1.0-runtime", [2]int64{1, 2}, true},
		{"nightly", "v1.1.0-runtime", [2]int64{2, 1}, false},
		{"nightly", "v1.1.0-runtime", [2]int64{1, 2}, true},
	} {
		r := manifests.Release{Release: test.offered, SourceDateEpoch: test.epochs[0]}
		if got := isOlder(r, Install{Release: test.installed, SourceDateEpoch: test.epochs[1]}); got != test.want {
			t.Errorf("%s offered, %s installed, %d: got %v", test.offered, test.installed, test.epochs, got)
		}
	}
}

func TestWithdrawn(t *testing.T) {
	pointer := func(number int64, by string) *Pointer {
		return &Pointer{Pointer: manifests.Pointer{Number: number}, Signer: Signer{ID: by}}
	}
	for _, test := range []struct {
		name      string
		installed Install
		pointer   *Pointer
		want      bool
	}{
		{"a later pointer", Install{Pointer: 3, PointerBy: "a"}, pointer(4, "a"), true},
		{"the same pointer", Install{Pointer: 3, PointerBy: "a"}, pointer(3, "a"), false},
		{"an earlier pointer", Install{Pointer: 3, PointerBy: "a"}, pointer(2, "a"), false},
		{"somebody else's pointer", Install{Pointer: 3, PointerBy: "a"}, pointer(4, "b"), false},
		{"chosen by the user", Install{}, pointer(4, ""), false},
		{"no pointer", Install{Pointer: 3, PointerBy: "a"}, nil, false},
	} {
		if got := isWithdrawn(test.installed, test.pointer); got != test.want {
			t.Errorf("%s: got %v", test.name, got)
		}
	}
}

// A mirror that is down, that lacks a file, or that gives other bytes: the next one is asked.
func TestMirrors(t *testing.T) {
	older, newer := twoReleases(t)
	const bundle = "llcuda-bins-sm75.tar.zst"
	down := "http://127.0.0.1:1"
	whole := transfertest.New(t, newer.Dir, transfertest.Fault{})
	partial := t.TempDir()
	if err := errors.Join(os.CopyFS(partial, os.DirFS(newer.Dir)), os.Remove(filepath.Join(partial, bundle))); err != nil {
		t.Fatal(err)
	}
	lacking := transfertest.New(t, partial, transfertest.Fault{})
	changed := t.TempDir()
	if err := errors.Join(os.CopyFS(changed, os.DirFS(newer.Dir)), os.WriteFile(filepath.Join(changed, bundle), make([]byte, newer.Asset(t, bundle).Size), 0o644)); err != nil {
		t.Fatal(err)
	}
	lying := transfertest.New(t, changed, transfertest.Fault{})
	other := transfertest.New(t, older.Dir, transfertest.Fault{})
	for _, test := range []struct {
		name    string
		mirrors []string
		release string
		from    string
		want    Class
		text    string
	}{
		{name: "the first", mirrors: []string{whole.URL, down}, from: whole.URL},
		{name: "the first is down", mirrors: []string{down, whole.URL}, from: whole.URL},
		{name: "the first lacks the bundle", mirrors: []string{lacking.URL, whole.URL}, from: lacking.URL},
		{name: "the first has a changed bundle", mirrors: []string{lying.URL, whole.URL}, from: lying.URL},
		{name: "a folder", mirrors: []string{newer.Dir}, from: "file://" + newer.Dir},
		{name: "all are down", mirrors: []string{down, down}, want: Network, text: "looking for the newest release: "},
		{name: "all lack the bundle", mirrors: []string{lacking.URL}, want: Network, text: bundle},
		{name: "a changed bundle alone", mirrors: []string{lying.URL}, want: Untrusted, text: bundle},
		{name: "the first has another release than asked for", mirrors: []string{other.URL, whole.URL}, release: "v1.1.0-runtime", want: Untrusted, text: "is that of v1.0.0-runtime"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newClient(t, newer, test.mirrors...)
			r, err := c.Resolve(t.Context(), test.release)
			if test.from != "" && (err != nil || r.From != test.from+"/") {
				t.Errorf("resolved from %+v, %v", r, err)
			}
			outcome, err := c.Install(t.Context(), Options{Release: test.release})
			if test.want != Failed {
				wantClass(t, err, test.want, test.text)
				return
			}
			if err != nil || outcome.Install.Release != "v1.1.0-runtime" || outcome.Install.Pointer != 0 {
				t.Errorf("got %+v, %v", outcome.Install, err)
			}
		})
	}
}
