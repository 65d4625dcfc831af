package npm

import (
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/docker/mirror"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/manifests/retry"
)

// Everything that a lock may hold, and what of it is fetched and mounted.
func TestFetch(t *testing.T) {
	r := newRegistry(t)
	plain := r.publish(t, "plain", "1.2.3")
	scoped := r.publish(t, "@scope/part", "4.5.6")
	aliased := r.publish(t, "real-name", "7.8.9")
	bare := r.publish(t, "bare", "0.1.0")
	ours := r.publish(t, "native-linux", "1.0.0")
	other := r.publish(t, "native-other", "1.0.0")
	lock := lockOf(t, 3, packages{
		"node_modules/plain":                         plain.entry(),
		"node_modules/@scope/part":                   scoped.entry(),
		"node_modules/@scope/part/node_modules/twin": plain.entry("name", "plain"),
		"node_modules/alias":                         aliased.entry("name", "real-name"),
		"node_modules/bare":                          without(bare.entry(), "resolved"),
		"node_modules/native-linux":                  ours.entry("os", []string{"linux"}, "cpu", []string{"x64"}, "libc", []string{"glibc"}),
		"node_modules/native-darwin":                 other.entry("os", []string{"darwin"}),
		"node_modules/native-arm64":                  other.entry("cpu", []string{"arm64"}),
		"node_modules/native-musl":                   other.entry("libc", "musl"),
		"node_modules/plain/node_modules/bundled":    {"version": "1.0.0", "inBundle": true},
		"node_modules/member":                        {"resolved": "packages/member", "link": true},
		"packages/member":                            {"version": "1.0.0"},
	})

	var seen []int
	opts := r.options()
	opts.Progress = func(at measure.Progress) {
		if at.Total != 5 {
			t.Errorf("progress of %d tarballs, want 5", at.Total)
		}
		seen = append(seen, int(at.Done))
	}
	got, err := Fetch(t.Context(), lock, t.TempDir(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{0, 1, 2, 3, 4, 5}, seen); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int{plain.path: 1, scoped.path: 1, aliased.path: 1, bare.path: 1, ours.path: 1}, r.requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	files := contents(t, got.Dir)
	filled := files["package-lock.json"]
	delete(files, "package-lock.json")
	want := map[string]string{}
	var bytes int64
	for _, p := range []published{plain, scoped, aliased, bare, ours} {
		want[p.file] = string(p.tarball)
		bytes += int64(len(p.tarball))
	}
	if diff := cmp.Diff(want, files); diff != "" {
		t.Errorf("folder (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(Packages{Dir: got.Dir, Tarballs: 5, Bytes: bytes, Downloaded: 5}, got); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
	if address := mirror.NPM + "/bare/-/bare-0.1.0.tgz"; !strings.Contains(filled, address) {
		t.Errorf("the lock lacks %s:\n%s", address, filled)
	}
}

// A lock that lacks nothing is mounted unchanged.
func TestFetchKeepsLock(t *testing.T) {
	r := newRegistry(t)
	lock := lockOf(t, 2, packages{"node_modules/plain": r.publish(t, "plain", "1.0.0").entry("engines", map[string]string{"node": ">=20 <30"})})
	got, err := Fetch(t.Context(), lock, t.TempDir(), r.options())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(lock), contents(t, got.Dir)["package-lock.json"]); diff != "" {
		t.Errorf("lock (-want +got):\n%s", diff)
	}
}

func TestFetchAgain(t *testing.T) {
	r := newRegistry(t)
	one, two := r.publish(t, "one", "1.0.0"), r.publish(t, "two", "1.0.0")
	lock := lockOf(t, 3, packages{"node_modules/one": one.entry(), "node_modules/two": two.entry()})
	cache := t.TempDir()
	first, err := Fetch(t.Context(), lock, cache, r.options())
	if err != nil {
		t.Fatal(err)
	}
	first.Downloaded = 0
	again := func(want map[string]int) {
		t.Helper()
		r.requests()
		got, err := Fetch(t.Context(), lock, cache, r.options())
		if err != nil {
			t.Fatal(err)
		}
		first.Downloaded = len(want)
		if diff := cmp.Diff(first, got); diff != "" {
			t.Errorf("packages (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want, r.requests()); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]string{
			"package-lock.json": string(lock), one.file: string(one.tarball), two.file: string(two.tarball),
		}, contents(t, got.Dir)); diff != "" {
			t.Errorf("folder (-want +got):\n%s", diff)
		}
	}
	again(map[string]int{})

	// The folder is lost, and a second lock shares a tarball.
	if err := os.RemoveAll(first.Dir); err != nil {
		t.Fatal(err)
	}
	again(map[string]int{})
	if _, err := Fetch(t.Context(), lockOf(t, 3, packages{"node_modules/two": two.entry()}), cache, Options{Transfer: transfer.Client{HTTP: broken}}); err != nil {
		t.Errorf("another lock of tarballs that are there: %v", err)
	}

	// One tarball is damaged, and so is its link in the folder.
	damaged := filepath.Join(first.Dir, one.file)
	if err := os.WriteFile(damaged, []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	again(map[string]int{one.path: 1})

	// The folder has another file under the tarball's name.
	if err := os.Remove(damaged); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(damaged, []byte("foreign"), 0o644); err != nil {
		t.Fatal(err)
	}
	again(map[string]int{})
}

// broken is a client without a network.
var broken = &http.Client{Transport: transportFunc(func(*http.Request) (*http.Response, error) {
	return nil, errors.New("network is unreachable")
})}

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A configured registry replaces the public one, and no other.
func TestFetchFromMirror(t *testing.T) {
	near, private := newRegistry(t), newRegistry(t)
	public, inner := pack(t, "@scope/public", "1.0.0"), private.publish(t, "inner", "1.0.0")
	near.answers["/api/npm"+public.path] = []http.HandlerFunc{whole(public.tarball)}
	lock := lockOf(t, 3, packages{
		"node_modules/@scope/public": public.entry(),
		"node_modules/inner":         inner.entry("resolved", private.URL+inner.path),
	})
	for _, address := range []string{near.URL + "/api/npm", near.URL + "/api/npm/"} {
		opts := near.options()
		opts.Registry = OptionsFromEnv(func(name string) string {
			return map[string]string{"npm_config_registry": address}[name]
		}).Registry
		if _, err := Fetch(t.Context(), lock, t.TempDir(), opts); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]int{"/api/npm" + public.path: 1}, near.requests()); diff != "" {
			t.Errorf("requests to the mirror (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]int{inner.path: 1}, private.requests()); diff != "" {
			t.Errorf("requests to the other registry (-want +got):\n%s", diff)
		}
	}
}

// What is temporary is tried again.
func TestFetchRetries(t *testing.T) {
	p := pack(t, "shaky", "1.0.0")
	for name, faults := range map[string][]http.HandlerFunc{
		"busy":       {status(http.StatusTooManyRequests), status(http.StatusServiceUnavailable)},
		"cut":        {cut(p.tarball), cut(p.tarball)},
		"hanging":    {hang(p.tarball)},
		"hung first": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t)
			r.answers[p.path] = append(faults, whole(p.tarball))
			cache := t.TempDir()
			if _, err := Fetch(t.Context(), lockOf(t, 3, packages{"node_modules/shaky": p.entry()}), cache, r.options()); err != nil {
				t.Fatal(err)
			}
			if got, want := r.requests()[p.path], len(faults)+1; got != want {
				t.Errorf("%d requests, want %d", got, want)
			}
			if left := contents(t, filepath.Join(cache, "npm", "tarballs")); len(left) != 1 {
				t.Errorf("the store has %d files, want 1", len(left))
			}
		})
	}
}

func TestFetchRefuses(t *testing.T) {
	p := pack(t, "@scope/part", "1.0.0")
	other := pack(t, "@scope/part", "6.6.6")
	for _, test := range []struct {
		name     string
		answer   http.HandlerFunc
		requests int
		check    func(r *registry, err error) bool
	}{
		{"other bytes", whole(other.tarball), 1, func(_ *registry, err error) bool {
			wrong, ok := errors.AsType[*transfer.DigestError](err)
			return ok && strings.HasPrefix(err.Error(), "fetching npm package @scope/part@1.0.0: the lock says "+p.integrity+": ") &&
				wrong.Algorithm == "sha512" && wrong.Want == fmt.Sprintf("%x", sha512.Sum512(p.tarball)) && wrong.Got == fmt.Sprintf("%x", sha512.Sum512(other.tarball))
		}},
		{"a shorter file", whole(p.tarball[:20]), 1, func(_ *registry, err error) bool {
			_, wrong := errors.AsType[*transfer.DigestError](err)
			return wrong
		}},
		{"vanished", status(http.StatusNotFound), 1, func(r *registry, err error) bool {
			var gone *GoneError
			return errors.As(err, &gone) && gone.Package == "@scope/part@1.0.0" && gone.URL == r.URL+p.path && gone.Hint() != ""
		}},
		{"forbidden", status(http.StatusForbidden), 1, func(r *registry, err error) bool {
			return strings.Contains(err.Error(), "403 Forbidden") && strings.Contains(err.Error(), r.URL+p.path)
		}},
		{"never there", status(http.StatusBadGateway), retry.Tries, func(r *registry, err error) bool {
			var unreachable *UnreachableError
			return errors.As(err, &unreachable) && unreachable.Registry == r.URL && unreachable.Missing == 1 &&
				unreachable.Total == 2 && strings.Contains(err.Error(), "1 of 2 tarballs") && unreachable.Hint() != ""
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRegistry(t)
			fine := r.publish(t, "fine", "1.0.0")
			cache := t.TempDir()
			if _, err := Fetch(t.Context(), lockOf(t, 3, packages{"node_modules/fine": fine.entry()}), cache, r.options()); err != nil {
				t.Fatal(err)
			}
			r.answers[p.path] = []http.HandlerFunc{test.answer}
			lock := lockOf(t, 3, packages{"node_modules/fine": fine.entry(), "node_modules/@scope/part": p.entry()})
			_, err := Fetch(t.Context(), lock, cache, r.options())
			if err == nil || !test.check(r, err) {
				t.Errorf("got %v", err)
			}
			if got := r.requests()[p.path]; got != test.requests {
				t.Errorf("%d requests, want %d", got, test.requests)
			}
			if left := contents(t, filepath.Join(cache, "npm", "tarballs")); len(left) != 1 {
				t.Errorf("the store has %d files, want the other package's only", len(left))
			}
		})
	}
}

// A certificate that is not trusted stays so: it is said at once, with its reason.
func TestFetchUntrusted(t *testing.T) {
	asked := 0
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it would say that we hung up
	server.StartTLS()
	defer server.Close()
	p := pack(t, "plain", "1.0.0")
	_, err := Fetch(t.Context(), lockOf(t, 3, packages{"node_modules/plain": p.entry()}), t.TempDir(), Options{Registry: server.URL})
	if err == nil || !strings.Contains(err.Error(), "certificate") || asked > 0 {
		t.Errorf("got %v after %d requests", err, asked)
	}
}

// A user's password in the registry's address is sent and never shown.
func TestFetchKeepsPassword(t *testing.T) {
	r := newRegistry(t)
	p := pack(t, "plain", "1.0.0")
	var user, password string
	for _, code := range []int{http.StatusUnauthorized, http.StatusNotFound, http.StatusBadGateway, http.StatusOK} {
		r.answers[p.path] = []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			user, password, _ = r.BasicAuth()
			w.WriteHeader(code)
		}}
		opts := r.options()
		opts.Registry = strings.Replace(r.URL, "://", "://me:s3cret@", 1)
		_, err := Fetch(t.Context(), lockOf(t, 3, packages{"node_modules/plain": p.entry()}), t.TempDir(), opts)
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%d: got %v", code, err)
		}
		if user != "me" || password != "s3cret" {
			t.Errorf("%d: sent %q %q", code, user, password)
		}
	}
}

// What arrived before an interruption is kept, and a tarball that was on its way resumes.
func TestFetchInterrupted(t *testing.T) {
	r := newRegistry(t)
	early, late := r.publish(t, "early", "1.0.0"), pack(t, "late", "1.0.0")
	ctx, interrupt := context.WithCancel(t.Context())
	cache, half := t.TempDir(), len(late.tarball)/2
	var ranges []string
	r.answers[late.path] = []http.HandlerFunc{func(w http.ResponseWriter, request *http.Request) {
		sendHalf(w, late.tarball)
		for arrived := int64(0); arrived < int64(half); time.Sleep(time.Millisecond) {
			partials, _ := filepath.Glob(filepath.Join(cache, "npm", "tarballs", "*.partial"))
			for _, partial := range partials {
				arrived = stat(t, partial).Size()
			}
		}
		interrupt()
		<-request.Context().Done()
	}, func(w http.ResponseWriter, request *http.Request) {
		ranges = append(ranges, request.Header.Get("Range"))
		whole(late.tarball)(w, request)
	}}
	lock := lockOf(t, 3, packages{"node_modules/early": early.entry(), "node_modules/late": late.entry()})
	opts := r.options()
	opts.Concurrency = 1
	if _, err := Fetch(ctx, lock, cache, opts); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if left := contents(t, filepath.Join(cache, "npm")); len(left) != 2 {
		t.Errorf("%d files are left, want a whole one and a partial one", len(left))
	}
	r.requests()
	if _, err := Fetch(t.Context(), lock, cache, opts); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int{late.path: 1}, r.requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{fmt.Sprintf("bytes=%d-", half)}, ranges); diff != "" {
		t.Errorf("ranges (-want +got):\n%s", diff)
	}
}

// Fetch removes what killed runs left behind, and the folders of locks that were not used for long.
func TestFetchTidies(t *testing.T) {
	r := newRegistry(t)
	p := r.publish(t, "plain", "1.0.0")
	cache := t.TempDir()
	fetch := func(lockVersion int) string {
		t.Helper()
		got, err := Fetch(t.Context(), lockOf(t, lockVersion, packages{"node_modules/plain": p.entry()}), cache, r.options())
		if err != nil {
			t.Fatal(err)
		}
		return got.Dir
	}
	age := func(file string, days int) {
		t.Helper()
		then := time.Now().AddDate(0, 0, -days)
		if err := os.Chtimes(file, then, then); err != nil {
			t.Fatal(err)
		}
	}
	unfinished := filepath.Join(cache, "npm", "tarballs", "1.partial")
	old, used := fetch(2), fetch(3)
	if err := os.WriteFile(unfinished, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	age(unfinished, 8)
	age(old, 29)
	age(used, 100)
	fetch(3)
	stat(t, old)
	if _, err := os.Stat(unfinished); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the unfinished file is still there: %v", err)
	}
	age(old, 31)
	fetch(3)
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the unused folder is still there: %v", err)
	}
	if left := contents(t, used); len(left) != 2 {
		t.Errorf("the folder in use has %d files, want the lock and the tarball", len(left))
	}
	// The used one's turn has come, were its use not noted.
	fetch(2)
	stat(t, used)
}

// Where the file system has no hard links the tarballs are copied, as they are from one
// file system to another.
func TestPlaceCopies(t *testing.T) {
	other, err := os.MkdirTemp("/dev/shm", "npm-")
	if err != nil {
		t.Skip("needs a second file system: ", err)
	}
	defer os.RemoveAll(other)
	source, dest := filepath.Join(t.TempDir(), "source"), filepath.Join(other, "dest")
	for _, text := range []string{"first", "second"} {
		if err := os.WriteFile(source, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := place(source, dest, other); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]string{"dest": text}, contents(t, other)); diff != "" {
			t.Errorf("copied (-want +got):\n%s", diff)
		}
	}
	if a, b := stat(t, source), stat(t, dest); os.SameFile(a, b) {
		t.Error("it is a link: nothing was tested")
	}
}

func stat(t *testing.T, file string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return info
}
