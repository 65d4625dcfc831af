package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/docker/cuda12"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/manifests/retry"
	"github.com/waqasm86/llcuda-farm/publisher/pypi"
)

func TestFetchOnce(t *testing.T) {
	m := newMirror(t)
	deb, tgz := locked(cuda12.Deb, "gcc", "a compiler"), locked(cuda12.NPM, "npm", "a package manager")
	m.answers["debian/"+deb.Path] = []http.HandlerFunc{whole("a compiler")}
	m.answers["npm/"+tgz.Path] = []http.HandlerFunc{whole("a package manager")}
	lock := cuda12.Lock{deb, tgz}
	cache := t.TempDir()

	opts := m.options()
	var last [2]int64
	opts.Progress = func(at measure.Progress) { last = [2]int64{at.Done, at.Total} }
	for range 2 {
		if err := Fetch(t.Context(), lock, cache, opts); err != nil {
			t.Fatal(err)
		}
		if want := [2]int64{deb.Size + tgz.Size, deb.Size + tgz.Size}; last != want {
			t.Errorf("progress ended at %v, want %v", last, want)
		}
	}
	want := map[string]string{deb.SHA256: "a compiler", tgz.SHA256: "a package manager"}
	if diff := cmp.Diff(want, files(t, cache)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int{"debian/" + deb.Path: 1, "npm/" + tgz.Path: 1}, m.asked); diff != "" {
		t.Errorf("a second fetch asked again (-want +got):\n%s", diff)
	}

	// A file damaged since, by size or in a byte, is brought again.
	for _, damage := range []string{"a compi", "a c0mpiler"} {
		if err := os.WriteFile(filepath.Join(FilesDir(cache), deb.SHA256), []byte(damage), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := Fetch(t.Context(), lock, cache, opts); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, files(t, cache)); diff != "" {
			t.Errorf("after damage (-want +got):\n%s", diff)
		}
	}

	// What a killed run left behind, and no later run resumed, is removed.
	unfinished, monthAgo := filepath.Join(FilesDir(cache), "1.partial"), time.Now().AddDate(0, -1, 0)
	if err := os.WriteFile(unfinished, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(unfinished, monthAgo, monthAgo); err != nil {
		t.Fatal(err)
	}
	if err := Fetch(t.Context(), lock, cache, opts); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, files(t, cache)); diff != "" {
		t.Errorf("after a killed run (-want +got):\n%s", diff)
	}
}

func TestFetchFaults(t *testing.T) {
	const content = "the very content"
	deb := locked(cuda12.Deb, "gcc", content)
	for name, test := range map[string]struct {
		answers []http.HandlerFunc
		asked   int
		check   func(error) bool // nil: no error
		left    string           // by a failure: what the next run resumes from
	}{
		"unavailable, then there": {[]http.HandlerFunc{status(503), status(429), whole(content)}, 3, nil, ""},
		"interrupted, then whole": {[]http.HandlerFunc{cut(content), whole(content)}, 2, nil, ""},
		"stalled, then whole":     {[]http.HandlerFunc{hang(content), whole(content)}, 2, nil, ""},
		"interrupted every time":  {[]http.HandlerFunc{cut(content)}, retry.Tries, func(err error) bool { return strings.Contains(err.Error(), "unexpected EOF") }, "the very"},
		"vanished": {[]http.HandlerFunc{status(404)}, 1, func(err error) bool {
			var gone *GoneError
			return errors.As(err, &gone) && gone.Name == "gcc" && strings.Contains(gone.Hint(), "go generate")
		}, ""},
		"forbidden":      {[]http.HandlerFunc{status(403)}, 1, func(err error) bool { return strings.Contains(err.Error(), "403 Forbidden") }, ""},
		"other bytes":    {[]http.HandlerFunc{whole("the evil content"), whole(content)}, 1, isDigestError, ""},
		"too short":      {[]http.HandlerFunc{whole("the very"), whole(content)}, 1, isSizeError, ""},
		"too long":       {[]http.HandlerFunc{whole(content + "!"), whole(content)}, 1, isSizeError, ""},
		"an error page":  {[]http.HandlerFunc{whole("<html>")}, 1, isSizeError, ""},
		"no such server": {nil, 0, func(err error) bool { return strings.Contains(err.Error(), "connection refused") }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMirror(t)
			m.answers["debian/"+deb.Path] = test.answers
			if test.answers == nil {
				m.Close()
			}
			cache := t.TempDir()
			var done int64
			opts := m.options()
			opts.Progress = func(at measure.Progress) { done = at.Done }
			err := Fetch(t.Context(), cuda12.Lock{deb}, cache, opts)
			want := map[string]string{}
			var wantDone int64
			if test.check == nil {
				want[deb.SHA256], wantDone = content, deb.Size
				if err != nil {
					t.Fatal(err)
				}
			} else if err == nil || !test.check(err) {
				t.Errorf("error %v is not the one wanted", err)
			}
			if test.left != "" {
				want[deb.SHA256+".partial"] = test.left
			}
			if diff := cmp.Diff(want, files(t, cache)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if got := m.asked["debian/"+deb.Path]; got != test.asked {
				t.Errorf("asked %d times, want %d", got, test.asked)
			}
			if done != wantDone {
				t.Errorf("progress ended at %d bytes, want %d", done, wantDone)
			}
		})
	}
}

// What the mirror does not give comes from Debian's archive, where it is checked against the lock
// as well. npm has none.
func TestFetchFromArchive(t *testing.T) {
	const content = "the very content"
	for name, test := range map[string]struct {
		kind            cuda12.Kind
		mirror, archive []http.HandlerFunc
		asked           int // of the archive
		want            string
	}{
		"gone":                        {cuda12.Deb, []http.HandlerFunc{status(404)}, []http.HandlerFunc{whole(content)}, 1, ""},
		"a base package":              {cuda12.Base, []http.HandlerFunc{status(410)}, []http.HandlerFunc{status(503), whole(content)}, 2, ""},
		"of CUDA":                     {cuda12.CUDA, []http.HandlerFunc{status(404)}, []http.HandlerFunc{whole(content)}, 1, ""},
		"the mirror has it":           {cuda12.Deb, []http.HandlerFunc{whole(content)}, []http.HandlerFunc{whole(content)}, 0, ""},
		"the archive has other bytes": {cuda12.Deb, []http.HandlerFunc{status(404)}, []http.HandlerFunc{whole("the evil content")}, 1, "has sha256"},
		"nobody has it":               {cuda12.Deb, []http.HandlerFunc{status(404)}, []http.HandlerFunc{status(404)}, 1, "no longer has"},
		"the archive does not answer": {cuda12.Deb, []http.HandlerFunc{status(404)}, []http.HandlerFunc{status(503)}, retry.Tries, "503"},
		"the mirror does not answer":  {cuda12.Deb, []http.HandlerFunc{status(503)}, []http.HandlerFunc{whole(content)}, 1, ""},
		"the mirror has other bytes":  {cuda12.Deb, []http.HandlerFunc{whole("the evil content")}, []http.HandlerFunc{whole(content)}, 1, ""},
		"a package of npm":            {cuda12.NPM, nil, []http.HandlerFunc{whole(content)}, 0, "no longer has"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, file := newMirror(t), locked(test.kind, "gcc", content)
			m.answers["debian/"+file.Path], m.answers["archive/"+file.Path] = test.mirror, test.archive
			cache := t.TempDir()
			err := Fetch(t.Context(), cuda12.Lock{file}, cache, m.options())
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if got := files(t, cache)[file.SHA256]; (got == content) != (test.want == "") {
				t.Errorf("the cache has %q", got)
			}
			if got := m.asked["archive/"+file.Path]; got != test.asked {
				t.Errorf("the archive was asked %d times, want %d", got, test.asked)
			}
		})
	}
	// The archive is that of the day of the lock that is built in.
	if _, err := time.Parse("20060102T150405Z", cuda12.Snapshot(cuda12.LockFile)); err != nil {
		t.Error(err)
	}
}

func isDigestError(err error) bool {
	digest, ok := errors.AsType[*transfer.DigestError](err)
	return ok && digest.Want != digest.Got
}

func isSizeError(err error) bool {
	_, ok := errors.AsType[*transfer.SizeError](err)
	return ok
}

// What an interrupted run brought is not downloaded again.
func TestFetchResumes(t *testing.T) {
	const content = "the very content"
	for name, kind := range map[string]cuda12.Kind{"debian/": cuda12.CUDA, "npm/": cuda12.NPM} {
		m, file, cache := newMirror(t), locked(kind, "big", content), t.TempDir()
		ctx, interrupt := context.WithCancel(t.Context())
		var ranges []string
		m.answers[name+file.Path] = []http.HandlerFunc{
			func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", fmt.Sprint(len(content)))
				w.Write([]byte(content[:10]))
				w.(http.Flusher).Flush()
				for partial := filepath.Join(cache, "files", file.SHA256+".partial"); ; time.Sleep(time.Millisecond) {
					if info, err := os.Stat(partial); err == nil && info.Size() == 10 {
						break
					}
				}
				interrupt()
				<-r.Context().Done()
			},
			func(w http.ResponseWriter, r *http.Request) {
				ranges = append(ranges, r.Header.Get("Range"))
				whole(content)(w, r)
			},
		}
		if err := Fetch(ctx, cuda12.Lock{file}, cache, m.options()); !errors.Is(err, context.Canceled) {
			t.Fatalf("%s: got %v", name, err)
		}
		opts := m.options()
		var first, last int64
		opts.Progress = func(at measure.Progress) {
			if first == 0 {
				first = at.Done
			}
			last = at.Done
		}
		if err := Fetch(t.Context(), cuda12.Lock{file}, cache, opts); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"bytes=10-"}, ranges); diff != "" {
			t.Errorf("%s: ranges (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(map[string]string{file.SHA256: content}, files(t, cache)); diff != "" {
			t.Errorf("%s: files (-want +got):\n%s", name, diff)
		}
		if first != 10 || last != file.Size {
			t.Errorf("%s: progress from %d to %d, want from 10 to %d", name, first, last, file.Size)
		}
	}
}

// A wheel comes from where the index says that it is, resumes there, and has the lock's digest whatever the index says.
func TestFetchWheel(t *testing.T) {
	const content = "the very content"
	sum := sha256.Sum256([]byte(content))
	wheel := cuda12.Package{
		Kind: cuda12.PyPI, Name: "nvidia-nvvm", Version: "13.3.73", Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:]),
		Path: "packages/f3/e7/00/nvidia_nvvm-13.3.73-py3-none-manylinux2010_x86_64.whl",
	}
	page := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, text)
		}
	}
	const link = `<a href="../../+f/nvidia_nvvm-13.3.73-py3-none-manylinux2010_x86_64.whl#sha256=00">`
	for name, test := range map[string]struct {
		page, file []http.HandlerFunc
		want       string // of the error
	}{
		"there":                 {[]http.HandlerFunc{page(link)}, []http.HandlerFunc{whole(content)}, ""},
		"interrupted":           {[]http.HandlerFunc{status(503), page(link)}, []http.HandlerFunc{cut(content), whole(content)}, ""},
		"only other platforms":  {[]http.HandlerFunc{page(strings.ReplaceAll(link, "x86_64", "aarch64"))}, nil, "no longer has"},
		"only another version":  {[]http.HandlerFunc{page(strings.ReplaceAll(link, "13.3.73", "13.3.33"))}, nil, "no longer has"},
		"no such project":       {nil, nil, "no longer has"},
		"listed, and not there": {[]http.HandlerFunc{page(link)}, []http.HandlerFunc{status(404)}, "no longer has"},
		"other bytes":           {[]http.HandlerFunc{page(link)}, []http.HandlerFunc{whole("the evil content")}, "has sha256"},
		"an index that refuses": {[]http.HandlerFunc{status(403)}, nil, "403"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, cache := newMirror(t), t.TempDir()
			m.answers["simple/nvidia-nvvm/"], m.answers["+f/nvidia_nvvm-13.3.73-py3-none-manylinux2010_x86_64.whl"] = test.page, test.file
			opts := m.options()
			opts.PyPI = pypi.Index{URL: m.URL + "/simple", FirstWait: time.Millisecond}
			var last measure.Progress
			opts.Progress = func(at measure.Progress) { last = at }
			err := Fetch(t.Context(), cuda12.Lock{wheel}, cache, opts)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
			if gone, ok := errors.AsType[*GoneError](err); ok && !strings.Contains(gone.Hint(), "PIP_INDEX_URL") {
				t.Errorf("the hint is %q", gone.Hint())
			}
			if test.want != "" {
				return
			}
			if diff := cmp.Diff(map[string]string{wheel.SHA256: content}, files(t, cache)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if last.Done != wheel.Size || last.Total != wheel.Size {
				t.Errorf("progress ended at %+v, want %d", last, wheel.Size)
			}
			// What is there is not asked for.
			m.Close()
			if err := Fetch(t.Context(), cuda12.Lock{wheel}, cache, opts); err != nil {
				t.Errorf("a second fetch: %v", err)
			}
		})
	}
	// The public index need not be asked.
	at, err := addresses(t.Context(), wheel, FetchOptions{PyPI: MirrorsFromEnv(func(string) string { return "" }).PyPI})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"https://files.pythonhosted.org/" + wheel.Path}, at); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

// When a mirror breaks off and does not recover, the next one resumes at the same byte.
func TestFetchFromNextMirror(t *testing.T) {
	const content = "the very content"
	broken, good := newMirror(t), newMirror(t)
	file := locked(cuda12.Deb, "big", content)
	var ranges []string
	broken.answers["debian/"+file.Path] = []http.HandlerFunc{cut(content), status(http.StatusBadGateway)}
	good.answers["debian/"+file.Path] = []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
		ranges = append(ranges, r.Header.Get("Range"))
		whole(content)(w, r)
	}}
	opts := broken.options()
	opts.Mirrors = append(opts.Mirrors, good.options().Mirrors...)
	cache := t.TempDir()
	if err := Fetch(t.Context(), cuda12.Lock{file}, cache, opts); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"bytes=8-"}, ranges); diff != "" {
		t.Errorf("ranges that the second mirror was asked for (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{file.SHA256: content}, files(t, cache)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if got := broken.asked["debian/"+file.Path]; got != retry.Tries {
		t.Errorf("the first mirror was asked %d times, want %d", got, retry.Tries)
	}
}

// BenchmarkFetchAgain is a run that finds everything there: as many files as the builder image has,
// of a tenth of its size.
func BenchmarkFetchAgain(b *testing.B) {
	const count = 1440
	cache, content := b.TempDir(), make([]byte, 100<<10)
	if err := os.MkdirAll(FilesDir(cache), 0o755); err != nil {
		b.Fatal(err)
	}
	var lock cuda12.Lock
	for i := range count {
		copy(content, fmt.Sprint(i))
		p := locked(cuda12.Deb, fmt.Sprint(i), string(content))
		if err := os.WriteFile(filepath.Join(FilesDir(cache), p.SHA256), content, 0o644); err != nil {
			b.Fatal(err)
		}
		lock = append(lock, p)
	}
	for b.Loop() {
		if err := Fetch(b.Context(), lock, cache, FetchOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

func TestFetchCancelled(t *testing.T) {
	m := newMirror(t)
	deb := locked(cuda12.Deb, "gcc", "a compiler")
	ctx, cancel := context.WithCancel(t.Context())
	m.answers["debian/"+deb.Path] = []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}}
	cache := t.TempDir()
	if err := Fetch(ctx, cuda12.Lock{deb}, cache, m.options()); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want the cancellation", err)
	}
	if diff := cmp.Diff(map[string]string{}, files(t, cache)); diff != "" {
		t.Errorf("files left (-want +got):\n%s", diff)
	}
	if got := m.asked["debian/"+deb.Path]; got != 1 {
		t.Errorf("asked %d times after the cancellation, want once", got)
	}
}
