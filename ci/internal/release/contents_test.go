package release

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
	"github.com/waqasm86/llcuda-farm/publisher"
)

// allBundles is a release with every bundle of the matrix.
func allBundles(t *testing.T, tag string) *fetchtest.Release {
	t.Helper()
	table, err := spec.Default()
	if err != nil {
		t.Fatal(err)
	}
	options := fetchtest.Options{Tag: tag, Linked: true}
	for _, target := range table.Targets {
		if target.PTX {
			options.PTX = append(options.PTX, target.SM)
		} else {
			options.SMs = append(options.SMs, target.SM)
		}
	}
	return fetchtest.New(t, options)
}

// add adds an asset to a release, which it describes and signs again.
func add(t *testing.T, r *fetchtest.Release, name, text string) {
	t.Helper()
	r.Manifest.Assets = slices.DeleteFunc(r.Manifest.Assets, func(a manifests.Artifact) bool { return a.Name == name })
	asset := manifests.Artifact{Name: name, Kind: manifests.KindOf(name), Size: int64(len(text)), SHA256: fetchtest.SHA256([]byte(text)), URL: name}
	again, err := manifests.New(r.Manifest.Release, append(r.Manifest.Assets, asset), r.Manifest.Models)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(Dir(r.Dir).Path(name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	r.Manifest = again
	r.Finish(t)
}

// bill is a bill of materials with one file.
func bill(path string) string {
	return `{"spdxVersion":"SPDX-2.3","files":[{"fileName":"./` + path + `","checksums":[{"algorithm":"SHA256","checksumValue":"` + strings.Repeat("a", 64) + `"}]}]}`
}

// speedOf is a benchmark of a release's first bundle.
func speedOf(t *testing.T, r manifests.Release) string {
	t.Helper()
	bundle := r.Bundles()[0]
	one := manifests.Spread{Median: 1, Min: 1, Max: 1}
	text, err := manifests.EncodeBenchmark(manifests.Benchmark{
		SchemaVersion: manifests.SchemaVersion, GPU: "Tesla T4", CPU: "Some CPU", Rounds: 1, Repetitions: 1,
		Bundles: []manifests.BenchmarkBundle{{Name: bundle.Name, SHA256: bundle.SHA256, Release: r.Release, LlamaCPP: r.LlamaCPP, Row: bundle.Row}},
		Models:  []manifests.BenchmarkModel{{Name: "m", Size: 1, SHA256: strings.Repeat("b", 64), Type: "tiny"}},
		Tests:   []manifests.BenchmarkTest{{Model: "m", Test: "pp512", Speeds: []manifests.BenchmarkSpeed{{TokensPerSecond: one}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The files come from the bills of materials, else from the archives, else from nowhere.
func TestRead(t *testing.T) {
	made := allBundles(t, "v1.1.0-runtime")
	dir := Dir(made.Dir)
	add(t, made, manifests.BenchmarkName, speedOf(t, made.Manifest))
	read := func() map[string]string {
		t.Helper()
		r, err := dir.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if r.Release.Release != "v1.1.0-runtime" || r.Benchmark == nil {
			t.Errorf("release %q, benchmark %v", r.Release.Release, r.Benchmark)
		}
		first := map[string]string{}
		for name, files := range r.Files {
			first[name] = files[0].Path
		}
		return first
	}
	want := map[string]string{}
	for _, bundle := range made.Manifest.Bundles() {
		want[bundle.Stem()] = "LICENSE"
	}
	if len(want) < 11 {
		t.Errorf("the release has %d bundles", len(want))
	}
	if diff := cmp.Diff(want, read()); diff != "" {
		t.Errorf("from archives (-want +got):\n%s", diff)
	}
	// A folder with one of the two formats, or neither, as `llcuda-fetch export` makes it.
	for _, name := range []string{"llcuda-bins-sm50.tar.zst", "llcuda-bins-sm60.tar.zst", "llcuda-bins-sm60.tar.gz"} {
		if err := os.Remove(dir.Path(name)); err != nil {
			t.Fatal(err)
		}
	}
	delete(want, "llcuda-bins-sm60")
	if diff := cmp.Diff(want, read()); diff != "" {
		t.Errorf("without archives (-want +got):\n%s", diff)
	}
	// With bills of materials, no archive is read.
	want = map[string]string{}
	for _, bundle := range made.Manifest.Bundles() {
		add(t, made, manifests.SBOMName(bundle.Name), bill("of-"+bundle.Stem()))
		want[bundle.Stem()] = "of-" + bundle.Stem()
		for _, twin := range made.Manifest.Formats(bundle) {
			if err := os.WriteFile(dir.Path(twin.Name), []byte("damaged"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if diff := cmp.Diff(want, read()); diff != "" {
		t.Errorf("from bills of materials (-want +got):\n%s", diff)
	}
}

// What is not what the manifest describes is refused, and so is what cannot be shown.
func TestReadRefuses(t *testing.T) {
	const archive, sbomName = "llcuda-bins-sm75.tar.zst", "llcuda-bins-sm75.spdx.json"
	write := func(t *testing.T, r *fetchtest.Release, name, text string) {
		if err := os.WriteFile(Dir(r.Dir).Path(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		damage func(t *testing.T, r *fetchtest.Release)
		within string
	}{
		"an archive cut off": {func(t *testing.T, r *fetchtest.Release) {
			write(t, r, archive, string(r.Read(t, archive)[:500]))
		}, archive + " is refused for"},
		"another's archive": {func(t *testing.T, r *fetchtest.Release) {
			other := fetchtest.New(t, fetchtest.Options{Tag: "v1.0.0-runtime"})
			write(t, r, archive, string(other.Read(t, archive)))
		}, "it is not what manifest.json describes"},
		"another bill": {func(t *testing.T, r *fetchtest.Release) {
			add(t, r, sbomName, bill("a"))
			write(t, r, sbomName, bill("b"))
		}, "is not the file that manifest.json describes"},
		"a folder": {func(t *testing.T, r *fetchtest.Release) {
			add(t, r, sbomName, bill("a"))
			if err := errors.Join(os.Remove(Dir(r.Dir).Path(sbomName)), os.Mkdir(Dir(r.Dir).Path(sbomName), 0o755)); err != nil {
				t.Fatal(err)
			}
		}, "is not the file that manifest.json describes"},
		"not a bill":        {func(t *testing.T, r *fetchtest.Release) { add(t, r, sbomName, "[]") }, "it is not an SPDX document"},
		"a terminal's bill": {func(t *testing.T, r *fetchtest.Release) { add(t, r, sbomName, bill(`a\u001b[2J`)) }, "has no path below"},
		"too much":          {func(t *testing.T, r *fetchtest.Release) { add(t, r, sbomName, strings.Repeat(" ", maxBill+1)) }, "a bill of materials at most"},
		"another benchmark": {func(t *testing.T, r *fetchtest.Release) {
			add(t, r, manifests.BenchmarkName, speedOf(t, r.Manifest))
			write(t, r, manifests.BenchmarkName, "{}")
		}, "is not the file that manifest.json describes"},
		"another's benchmark": {func(t *testing.T, r *fetchtest.Release) {
			add(t, r, manifests.BenchmarkName, speedOf(t, fetchtest.New(t, fetchtest.Options{Tag: "v1.0.0-runtime"}).Manifest))
		}, "is not of release v1.1.0-runtime"},
	} {
		r := fetchtest.New(t, fetchtest.Options{})
		test.damage(t, r)
		_, err := Dir(r.Dir).Read(t.Context())
		if !isAs[*failure.Refusal](err) || !strings.Contains(err.Error(), test.within) || hintOf(err) == "" {
			t.Errorf("%s: got %v, hint %q", name, err, hintOf(err))
		}
	}
}

// Of a published release no archive is downloaded.
func TestReadPublic(t *testing.T) {
	made := allBundles(t, "v1.1.0-runtime")
	add(t, made, manifests.BenchmarkName, speedOf(t, made.Manifest))
	for _, bundle := range made.Manifest.Bundles() {
		add(t, made, manifests.SBOMName(bundle.Name), bill("of-"+bundle.Stem()))
	}
	verifier, err := sigverify.New(sigverify.Release("", "", nil, made.PublicKey(t)))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var archives []string
	files := http.FileServer(http.Dir(made.Dir))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if manifests.IsArchive(strings.TrimPrefix(r.URL.Path, "/")) {
			mu.Lock()
			archives = append(archives, r.URL.Path)
			mu.Unlock()
		}
		files.ServeHTTP(w, r)
	}))
	defer server.Close()
	public := Public{Folder: server.URL + "/"}
	got, err := public.Read(t.Context(), "v1.1.0-runtime", verifier, Dir(t.TempDir()), func(publisher.Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	want, err := Dir(made.Dir).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(asJSON(t, want), asJSON(t, got)); diff != "" || len(archives) > 0 {
		t.Errorf("downloaded %v (-folder +public):\n%s", archives, diff)
	}
	if _, err := public.Read(t.Context(), "v1.0.0-runtime", verifier, Dir(t.TempDir()), func(publisher.Progress) {}); !isAs[*failure.Refusal](err) {
		t.Errorf("another tag: %v", err)
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
