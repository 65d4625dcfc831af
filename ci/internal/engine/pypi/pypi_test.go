package pypi

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/docker/wheel"
	"github.com/waqasm86/llcuda-farm/publisher/pypi"
)

func sumOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// registry is an index with a source distribution and two wheels of one project.
type registry struct {
	*httptest.Server
	asked []string
	wheel string // what is served for the wheel for any platform
	sums  bool   // the index lists digests
}

func start(t *testing.T) *registry {
	r := &registry{wheel: "the wheel", sums: true}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		r.asked = append(r.asked, request.URL.Path)
		switch request.URL.Path {
		case "/simple/a-b/":
			w.Header().Set("Content-Type", "text/html")
			for name, text := range map[string]string{"a_b-1.0.tar.gz": "source", "a_b-1.0-cp311-cp311-linux_x86_64.whl": "binary", "a_b-1.0-py3-none-any.whl": "the wheel", "a_b-1.0.1-py3-none-any.whl": "newer"} {
				fragment := ""
				if r.sums {
					fragment = "#sha256=" + sumOf(text)
				}
				fmt.Fprintf(w, "<a href=/files/%s%s>%s</a>", name, fragment, name)
			}
		case "/files/a_b-1.0-py3-none-any.whl":
			fmt.Fprint(w, r.wheel)
		default:
			http.NotFound(w, request)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *registry) options() Options {
	return Options{pypi.Index{URL: r.URL + "/simple", FirstWait: time.Millisecond}}
}

func lock(sums ...string) []byte {
	text := "# a comment\nA.B==1.0"
	for _, sum := range sums {
		text += " \\\n    --hash=sha256:" + sum
	}
	return []byte(text + "\n")
}

// The wheel of the lock is brought once, whichever of the file's kinds the lock has digests of too.
func TestFetch(t *testing.T) {
	r := start(t)
	dir := t.TempDir()
	got, err := Fetch(t.Context(), lock(sumOf("source"), sumOf("the wheel"), sumOf("binary")), dir, r.options())
	if err != nil {
		t.Fatal(err)
	}
	want := Packages{Dir: filepath.Join(dir, "pypi"), Names: []string{sumOf("the wheel") + ".whl"}, Downloaded: 1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
	text, err := os.ReadFile(filepath.Join(got.Dir, got.Names[0]))
	if err != nil || string(text) != "the wheel" {
		t.Errorf("it is %q, %v", text, err)
	}
	asked := len(r.asked)
	again, err := Fetch(t.Context(), lock(sumOf("source"), sumOf("the wheel")), dir, r.options())
	want.Downloaded = 0
	if diff := cmp.Diff(want, again); diff != "" || err != nil || len(r.asked) != asked {
		t.Errorf("the second time it asked %q: %v\n%s", r.asked[asked:], err, diff)
	}
	// A damaged file is brought again.
	if err := os.WriteFile(filepath.Join(got.Dir, got.Names[0]), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if again, err := Fetch(t.Context(), lock(sumOf("the wheel")), dir, r.options()); err != nil || again.Downloaded != 1 {
		t.Errorf("a damaged file: %+v, %v", again, err)
	}
	r.sums = false
	if _, err := Fetch(t.Context(), lock(sumOf("the wheel")), t.TempDir(), r.options()); err != nil {
		t.Errorf("an index without digests: %v", err)
	}
}

func TestFetchRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		lock   string
		change func(*registry)
		within string
	}{
		"other bytes":       {string(lock(sumOf("the wheel"))), func(r *registry) { r.wheel = "evil" }, "has sha256"},
		"no such digest":    {string(lock(sumOf("another"))), nil, "has no wheel of it"},
		"only a source":     {string(lock(sumOf("source"))), nil, "has no wheel of it"},
		"only for one CPU":  {string(lock(sumOf("binary"))), nil, "has no wheel of it"},
		"unknown project":   {"z==1 --hash=sha256:" + sumOf("x"), nil, "has no wheel of it"},
		"no digests at all": {string(lock(sumOf("the wheel"), sumOf("source"))), func(r *registry) { r.sums = false }, "does not tell the SHA-256"},
		"no index":          {string(lock(sumOf("the wheel"))), func(r *registry) { r.Close() }, "fetching the Python package A.B 1.0"},
		"no hash":           {"a==1\n", nil, "want NAME==VERSION"},
		"short hash":        {"a==1 --hash=sha256:12\n", nil, "want NAME==VERSION"},
		"weak hash":         {"a==1 --hash=md5:" + sumOf("x") + "\n", nil, "want NAME==VERSION"},
		"range":             {"a>=1 --hash=sha256:" + sumOf("x") + "\n", nil, "want NAME==VERSION"},
		"marker":            {"a==1 ; python_version < '3' --hash=sha256:" + sumOf("x") + "\n", nil, "want NAME==VERSION"},
		"option":            {"--index-url https://evil.example.org\n", nil, "want NAME==VERSION"},
		"address":           {"a @ https://evil.example.org/a.whl\n", nil, "want NAME==VERSION"},
		"nothing":           {"# nothing\n", nil, "there is none"},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			if test.change != nil {
				test.change(r)
			}
			dir := t.TempDir()
			got, err := Fetch(t.Context(), []byte(test.lock), dir, r.options())
			if err == nil || !strings.Contains(err.Error(), test.within) {
				t.Errorf("got %+v, %v; want %q", got, err, test.within)
			}
			if unreachable, ok := errors.AsType[*UnreachableError](err); ok && !strings.Contains(unreachable.Hint(), "PIP_INDEX_URL") {
				t.Errorf("hint %q", unreachable.Hint())
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "pypi", "*")); len(left) > 0 {
				t.Errorf("it left %q", left)
			}
		})
	}
}

// The lock in the tree is one of these, and has hatchling.
func TestLock(t *testing.T) {
	all, err := parseLock(wheel.Requirements)
	if err != nil {
		t.Fatal(err)
	}
	versions := map[string]string{}
	for _, r := range all {
		versions[r.name] = r.version
	}
	if versions["hatchling"] != "1.33.0" || versions["pathspec"] == "" {
		t.Errorf("it has %v", versions)
	}
	if _, err := wheel.DefaultLock(); err != nil || wheel.Snapshot() == "" {
		t.Errorf("packages.lock: %v, of %q", err, wheel.Snapshot())
	}
}
