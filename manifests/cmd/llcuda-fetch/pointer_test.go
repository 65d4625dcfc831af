package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer/transfertest"
	"github.com/waqasm86/llcuda-farm/manifests/killtest"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
	"github.com/waqasm86/llcuda-farm/publisher/pointer"
)

// A mirror has two releases and a release pointer, by one key, on a web server.
type mirror struct {
	t             *testing.T
	dir, url, key string
	older, newer  *fetchtest.Release
}

func newMirror(t *testing.T) *mirror {
	t.Helper()
	m := &mirror{t: t, dir: t.TempDir(), key: filepath.Join(t.TempDir(), "key.pub")}
	m.older, m.newer = fetchtest.New(t, fetchtest.Options{Tag: "v1.0.0-runtime"}), fetchtest.New(t, fetchtest.Options{Tag: "v1.1.0-runtime"})
	m.newer.SignWith(t, m.older)
	for _, r := range []*fetchtest.Release{m.older, m.newer} {
		if err := os.CopyFS(filepath.Join(m.dir, r.Manifest.Release), os.DirFS(r.Dir)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(m.key, m.older.PublicKey(t), 0o644); err != nil {
		t.Fatal(err)
	}
	m.url = transfertest.New(t, m.dir, transfertest.Fault{}).URL + "/{release}"
	return m
}

// point publishes a release pointer, whatever it is.
func (m *mirror) point(signed []byte) {
	m.t.Helper()
	at := filepath.Join(m.dir, "current", manifests.PointerName)
	if err := os.MkdirAll(filepath.Dir(at), 0o777); err != nil {
		m.t.Fatal(err)
	}
	beside := at + ".new"
	if err := os.WriteFile(beside, signed, 0o644); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(beside, at); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mirror) command(home string, args ...string) *exec.Cmd {
	return child(m.t, "llcuda-fetch", append([]string{"--home", home, "--public-key", m.key, "--mirror", m.url, "--as-host", "../../testdata/hosts/rtx-2080-ti.json"}, args...)...)
}

// TestPointerAttacks tries every way in which an attacker could name a release other than the farm's. Each attempt ends
// as an attack on a release does, and a pointer that was followed before stays the newest seen.
func TestPointerAttacks(t *testing.T) {
	replaced := func(t *testing.T, data []byte, from, to string) []byte {
		t.Helper()
		changed := bytes.Replace(data, []byte(from), []byte(to), 1)
		if bytes.Equal(changed, data) {
			t.Fatalf("there is no %q to replace", from)
		}
		return changed
	}
	// statement changes a well-formed statement and signs it with the farm's own key.
	statement := func(from, to string) func(*testing.T, *mirror) []byte {
		return func(t *testing.T, m *mirror) []byte {
			data, err := manifests.EncodePointer(m.newer.Pointer(t, 2))
			if err != nil {
				t.Fatal(err)
			}
			return m.newer.SignStatement(t, replaced(t, data, from, to))
		}
	}
	changed := func(change func(*mirror, *manifests.Pointer)) func(*testing.T, *mirror) []byte {
		return func(t *testing.T, m *mirror) []byte {
			p := m.newer.Pointer(t, 2)
			change(m, &p)
			return m.newer.SignPointer(t, p)
		}
	}
	const verifying = "verifying the signature: "
	for name, test := range map[string]struct {
		seen int64 // a pointer that was followed before, to nowhere
		made func(*testing.T, *mirror) []byte
		want string
	}{
		"not signed": {made: func(t *testing.T, m *mirror) []byte {
			data, err := manifests.EncodePointer(m.newer.Pointer(t, 2))
			if err != nil {
				t.Fatal(err)
			}
			return data
		}, want: verifying},
		"an empty file": {made: func(*testing.T, *mirror) []byte { return nil }, want: verifying},
		"a web page":    {made: func(*testing.T, *mirror) []byte { return []byte("<html>log in</html>") }, want: verifying},
		"a signature without a signature": {made: func(t *testing.T, m *mirror) []byte {
			return replaced(t, m.newer.SignPointer(t, m.newer.Pointer(t, 2)), `"signatures":[{`, `"signatures":[],"was":[{`)
		}, want: verifying},
		"another signer": {made: func(t *testing.T, m *mirror) []byte {
			return fetchtest.New(t, fetchtest.Options{}).SignPointer(t, m.newer.Pointer(t, 2))
		}, want: verifying},
		"changed after signing": {made: func(t *testing.T, m *mirror) []byte {
			older, err := manifests.EncodePointer(m.older.Pointer(t, 2))
			if err != nil {
				t.Fatal(err)
			}
			newer, err := manifests.EncodePointer(m.newer.Pointer(t, 2))
			if err != nil {
				t.Fatal(err)
			}
			encode := base64.StdEncoding.EncodeToString
			return replaced(t, m.newer.SignStatement(t, newer), encode(newer), encode(older))
		}, want: verifying},
		"the signature of a release":      {made: func(t *testing.T, m *mirror) []byte { return m.newer.Read(t, manifests.SignatureName) }, want: "it is over a file, not over a statement"},
		"another signed statement":        {made: statement("release-pointer/v1", "provenance/v1"), want: "it is a statement of type"},
		"a pointer about another file":    {made: statement(`"manifest.json"`, `"SHA256SUMS"`), want: "subject: want manifest.json alone"},
		"two numbers":                     {made: statement(`"number"`, `"number": 9, "number"`), want: verifying},
		"a number below zero":             {made: statement(`"number": 2`, `"number": -2`), want: "number: -2 is not between"},
		"a pointer that is good for ever": {made: statement(`"expires": "2`, `"expires": "9`), want: "and at most"},
		"a release that is a path":        {made: statement(`"v1.1.0-runtime"`, `"../../v1.1.0-runtime"`), want: "is not a name"},
		"too large": {made: func(t *testing.T, m *mirror) []byte {
			return append(m.newer.SignPointer(t, m.newer.Pointer(t, 2)), bytes.Repeat([]byte(" "), manifests.MaxPointerSize)...)
		}, want: "has more than 65536 bytes"},
		"expired":         {made: changed(func(_ *mirror, p *manifests.Pointer) { p.Issued, p.Expires = p.Issued.AddDate(0, -1, 0), p.Issued }), want: "release pointer 2 expired at"},
		"from the future": {made: changed(func(_ *mirror, p *manifests.Pointer) { p.Issued = p.Issued.AddDate(0, 0, 2) }), want: "which is before"},
		"an older number": {seen: 3, made: changed(func(*mirror, *manifests.Pointer) {}), want: "release pointer 2 names v1.1.0-runtime"},
		"an older number of another release": {seen: 3, made: changed(func(m *mirror, p *manifests.Pointer) {
			p.Release, p.Manifest = "v1.0.0-runtime", m.older.Pointer(t, 1).Manifest
		}), want: "was seen before"},
		"the same number for another": {seen: 2, made: changed(func(m *mirror, p *manifests.Pointer) {
			p.Release, p.Manifest = "v1.0.0-runtime", m.older.Pointer(t, 1).Manifest
		}), want: "two release pointers have the number 2"},
		"another release's manifest":      {made: changed(func(m *mirror, p *manifests.Pointer) { p.Manifest = m.older.Pointer(t, 1).Manifest }), want: "for its manifest.json, and here is one with"},
		"another manifest":                {made: changed(func(_ *mirror, p *manifests.Pointer) { p.Manifest = strings.Repeat("0", 64) }), want: "for its manifest.json, and here is one with"},
		"another release by its manifest": {made: changed(func(_ *mirror, p *manifests.Pointer) { p.Release = "v1.0.0-runtime" }), want: "for its manifest.json, and here is one with"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMirror(t)
			home := filepath.Join(t.TempDir(), "store")
			if test.seen > 0 { // a run that saw a pointer, and could not get the release that it names
				p := m.newer.Pointer(t, test.seen)
				manifest := filepath.Join(m.dir, p.Release, manifests.ManifestName)
				if err := os.Rename(manifest, manifest+".away"); err != nil {
					t.Fatal(err)
				}
				m.point(m.newer.SignPointer(t, p))
				if out, err := m.command(home).CombinedOutput(); err == nil || !strings.Contains(string(out), "404") {
					t.Fatalf("the release was to be missing: %v\n%s", err, out)
				}
				if err := os.Rename(manifest+".away", manifest); err != nil {
					t.Fatal(err)
				}
			}
			m.point(test.made(t, m))
			wantRefused(t, m.command(home), home, test.want)
			if got := newestSeen(t, home); test.seen > 0 && got != test.seen {
				t.Errorf("the newest seen is number %d, and was %d", got, test.seen)
			}
		})
	}
}

// newestSeen is the number of the newest release pointer that a store knows of; 0 is none.
func newestSeen(t *testing.T, home string) int64 {
	t.Helper()
	c, err := fetch.New(home, os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	seen, err := c.Store.SeenPointers()
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) == 0 {
		return 0
	}
	if len(seen) > 1 {
		t.Fatalf("pointers of %d signers were seen, and there is one", len(seen))
	}
	return seen[0].Pointer.Number
}

// Many concurrent runs, killed at any moment, on a mirror that keeps moving forward and back: the newest pointer seen
// never gets older, and the store is sound.
func TestPointersSeenNeverGoBack(t *testing.T) {
	const workers, runs = 4, 25
	m := newMirror(t)
	home := filepath.Join(t.TempDir(), "store")
	first := m.older.SignPointer(t, m.older.Pointer(t, 1))
	m.point(first)
	if out, err := m.command(home).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	killer := killtest.New(1, time.Second)

	var mu sync.Mutex
	random := rand.New(rand.NewPCG(1, 2))
	published, highest := [][]byte{first}, int64(1)
	refused, followed := 0, 0
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for range runs {
				mu.Lock()
				if random.IntN(3) == 0 { // an old one again
					m.point(published[random.IntN(len(published))])
				} else {
					r, number := m.older, int64(len(published)+1)
					if random.IntN(2) == 0 {
						r = m.newer
					}
					published = append(published, r.SignPointer(t, r.Pointer(t, number)))
					m.point(published[number-1])
				}
				mu.Unlock()

				cmd := m.command(home, "install", "--update", "--allow-older")
				killed, err := killer.Run(cmd)

				mu.Lock()
				switch {
				case killed:
				case err == nil:
					followed++
				case cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == exitUntrusted:
					refused++
				default:
					t.Error(err)
				}
				got := newestSeen(t, home)
				if got < highest || got > int64(len(published)) {
					t.Errorf("the newest pointer seen is number %d; number %d was seen before, and %d were published", got, highest, len(published))
				}
				highest = got
				mu.Unlock()
			}
		})
	}
	group.Wait()
	t.Logf("of %d pointers, the last followed was %d; %d runs were killed, %d were led back and refused, %d ended well", len(published), highest, killer.Killed(), refused, followed)
	if killer.Killed() == 0 || refused == 0 || followed == 0 || highest < 2 {
		t.Error("that was no test")
	}
	(&machine{t: t, home: home}).sound()
}

// What the publisher pushes to a branch of a real git repository, and a server gives out from there as GitHub's does, the
// client follows: on to a newer release, and back where the farm takes one back.
func TestPublishedPointerIsFollowed(t *testing.T) {
	m := newMirror(t)
	far, home := filepath.Join(t.TempDir(), "far.git"), filepath.Join(t.TempDir(), "store")
	near := t.TempDir()
	for _, dir := range []string{far, near} {
		if out, err := child(t, "git", "init", "--quiet", "--bare", dir).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	files := http.FileServer(http.Dir(m.dir))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/current/"+manifests.PointerName {
			files.ServeHTTP(w, r)
			return
		}
		data, err := child(t, "git", "-C", far, "cat-file", "blob", "refs/heads/"+manifests.PointerBranch+":"+manifests.PointerName).Output()
		if err != nil {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(data)
	}))
	defer server.Close()
	m.url = server.URL + "/{release}"
	verifier, err := sigverify.New(sigverify.Policy{PublicKey: m.older.PublicKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i, step := range []struct {
		release *fetchtest.Release
		back    bool
	}{{m.older, false}, {m.newer, false}, {m.older, true}, {m.newer, false}} {
		_, _, err := pointer.Publish(ctx, pointer.Branch{Dir: near, Remote: far}, pointer.Options{
			Release: step.release.Manifest.Release, Back: step.back, Verifier: verifier,
			Manifest: func(context.Context, string) (string, error) { return step.release.Pointer(t, 1).Manifest, nil },
			Sign: func(_ context.Context, statement []byte) ([]byte, error) {
				return m.older.SignStatement(t, statement), nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		out, err := m.command(home, "install", "--update").CombinedOutput()
		if want := "of release " + step.release.Manifest.Release + " installed"; err != nil || !strings.Contains(string(out), want) {
			t.Fatalf("step %d: %v; want %q:\n%s", i, err, want, out)
		}
		if got := newestSeen(t, home); got != int64(i+1) {
			t.Errorf("step %d: the newest pointer seen is number %d", i, got)
		}
	}
}
