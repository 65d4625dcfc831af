package site

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/goldentest"
	"github.com/waqasm86/llcuda-farm/matrix"
)

var testdata = filepath.Join("..", "..", "manifests", "testdata")

// seed is a release with all bundles of the matrix.
func seed(t testing.TB) manifests.Release {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(testdata, "seed.json"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := manifests.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// hosts are the machines that Pick is tested with.
func hosts(t testing.TB) map[string]manifests.Host {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(testdata, "hosts", "*.json"))
	if err != nil || len(files) < 40 {
		t.Fatalf("%d hosts, %v", len(files), err)
	}
	all := map[string]manifests.Host{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		host, err := manifests.DecodeHost(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[strings.TrimSuffix(filepath.Base(file), ".json")] = host
	}
	return all
}

var opts = Options{
	Downloads: "https://example.org/releases/download", Source: "https://example.org/llama.cpp",
	Identity: "https://example.org/release.yml@refs/tags/v1.1.0-runtime", Issuer: "https://issuer.example.org",
}

// past are three releases with their speeds, the latest first; sizes and speeds differ.
func past(t testing.TB) []Release {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(testdata, manifests.BenchmarkName))
	if err != nil {
		t.Fatal(err)
	}
	var all []Release
	for i, tag := range []string{"v1.1.0-runtime", "v1.0.1-runtime", "v1.0.0-runtime"} {
		r := seed(t)
		r.Release = tag
		r.Assets = append(r.Assets, manifests.Artifact{Name: manifests.InstallerName, Kind: manifests.KindClient, Size: 10238, SHA256: strings.Repeat("5", 64), URL: manifests.InstallerName})
		for j := range r.Assets {
			r.Assets[j].Size += r.Assets[j].Size * int64(j-2*i) / 100
			r.Assets[j].Release = ""
		}
		benchmark, err := manifests.DecodeBenchmark(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		speeds := benchmark.Tests[0].Speeds
		speeds[len(speeds)-1].TokensPerSecond = manifests.Spread{Median: 2500 - 100*float64(i), Min: 2400 - 100*float64(i), Max: 2600}
		all = append(all, Release{r, &benchmark})
	}
	return all
}

// document is the page of those releases.
func document(t testing.TB) []byte {
	t.Helper()
	all := past(t)
	page, err := Page(all[0], all[1:], opts)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

// TestRows compares the table that a person reads with its golden file: read it before you commit it.
func TestRows(t *testing.T) {
	var b strings.Builder
	with := func(row matrix.Row) manifests.Release {
		r := seed(t)
		r.Assets = slices.DeleteFunc(r.Assets, func(a manifests.Artifact) bool { return a.Kind == manifests.KindBundle && a.Row != row })
		return r
	}
	for _, r := range []manifests.Release{seed(t), with(matrix.Row{SM: 86}), with(matrix.Row{SM: 90}), with(matrix.Row{SM: 90, PTX: true})} {
		a, err := ask(r)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%d bundles, drivers %q\n", len(r.Bundles()), a.Floors)
		for _, row := range (page{Release: r, answers: a}).Rows() {
			fmt.Fprintf(&b, "%s: %s; %d names\n", row.Capabilities, strings.Join(row.GPUs, ", "), len(row.Names))
			for _, s := range row.Steps {
				fmt.Fprintf(&b, "  from %s: %s through %s, %d or %d bytes\n", s.From, s.Answer.Bundle.Name, s.Answer.Through, s.Answer.Bytes(), s.Answer.All())
			}
		}
	}
	goldentest.Check(t, filepath.Join("testdata", "rows.txt"), []byte(b.String()))
}

// Pick itself says what the page says of sizes, with CUDA's libraries and without.
func TestSizes(t *testing.T) {
	r := seed(t)
	a, err := ask(r)
	if err != nil {
		t.Fatal(err)
	}
	host := hosts(t)["rtx-3090"]
	checked := 0
	for _, k := range a.Kinds {
		for class, at := range k.Answers {
			if at == none {
				continue
			}
			host.GPUs, host.Driver.Version, host.CUDALibraries = []manifests.GPU{{SM: k.SMs[0][0]}}, a.class(class), nil
			without, err := manifests.Pick(r, host, manifests.PickOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, toolkit := range r.Toolkits {
				for _, name := range toolkit.CUDALibraries() {
					host.CUDALibraries = append(host.CUDALibraries, manifests.CUDALibrary{Name: name, Path: "/" + name, Source: toolkit.CUDA})
				}
			}
			with, err := manifests.Pick(r, host, manifests.PickOptions{})
			if err != nil {
				t.Fatal(err)
			}
			got, want := []int64{a.All[at].Bytes(), a.All[at].All()}, []int64{with.DownloadBytes, without.DownloadBytes}
			if diff := cmp.Diff(want, got); diff != "" || with.DownloadBytes == without.DownloadBytes {
				t.Errorf("%v, driver %s (-want +got):\n%s", k.SMs, host.Driver.Version, diff)
			}
			checked++
		}
	}
	if checked < 20 {
		t.Errorf("%d were checked", checked)
	}
}

// Every name is there once, and with the capability that its family in the matrix has.
func TestProducts(t *testing.T) {
	seen := map[string]bool{}
	r := seed(t)
	for _, p := range allProducts() {
		if seen[p.Name] || p.Name == "" || !p.SM.Valid() {
			t.Errorf("%q, %d: twice, or not a product", p.Name, p.SM)
		}
		seen[p.Name] = true
	}
	for _, bundle := range r.Bundles() {
		if bundle.Row.PTX {
			continue // for GPUs that may have no name yet
		}
		for _, family := range bundle.GPUs {
			words := strings.Fields(strings.TrimSuffix(family, " series"))
			for i, word := range words {
				words[i] = strings.TrimRight(word, "0") // "GTX 900 series" is GTX 980, "RTX 30 series" RTX 3090
			}
			if !slices.ContainsFunc(allProducts(), func(p product) bool {
				return p.SM.Major() == bundle.Row.SM.Major() && !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(p.Name, word) })
			}) {
				t.Errorf("%s: no product is of the family %q", bundle.Row, family)
			}
		}
	}
}

func TestPlots(t *testing.T) {
	history := past(t)
	slices.Reverse(history)
	history[0].Benchmark.GPU = "another"
	// The oldest had no PTX yet.
	history[0].Assets = slices.DeleteFunc(history[0].Assets, func(a manifests.Artifact) bool { return strings.Contains(a.Name, "-ptx90") })
	type drawn struct{ Title, Sub, Latest, Change, Releases string }
	draw := func(list []plot) (all []drawn) {
		for _, p := range list {
			var releases []string
			for _, b := range p.Bars {
				releases = append(releases, b.Release)
				if b.Y < 0 || b.X < 0 || b.Height <= 0 || b.X+b.Width > PlotWidth || b.Y+b.Height > PlotHeight || b.HasSpread != (p.Sub != "") || b.HasSpread && (b.Low <= b.Y || b.High >= b.Y) {
					t.Errorf("%s: the bar %+v leaves the plot", p.Title, b)
				}
			}
			all = append(all, drawn{p.Title, p.Sub, p.Latest, p.Change, strings.Join(releases, " ")})
		}
		return all
	}
	const three = "v1.0.0-runtime v1.0.1-runtime v1.1.0-runtime"
	bundles, runtimes := draw(bundlePlots(history)), draw(runtimePlots(history))
	titles := func(list []drawn) string {
		var all []string
		for _, d := range list {
			all = append(all, d.Title)
		}
		return strings.Join(all, ", ")
	}
	order := []string{"5.0, 6.0, 6.1, 7.0, 7.5, 8.0, 8.6, 8.9, 9.0, PTX 9.0, 10.0, 12.0", "cu12-ptx90, cu12-sm5x, cu12-sm6x, cu12-sm7x, cu12-sm8x, cu12-sm9x, cu13"}
	if diff := cmp.Diff(order, []string{titles(bundles), titles(runtimes)}); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	want := []drawn{{"5.0", "", "30.0 MB", "+1.9\u202f%", three}, {"PTX 9.0", "", "32.3 MB", "+2.0\u202f%", "v1.0.1-runtime v1.1.0-runtime"},
		{"cu12-ptx90", "", "117.5 MB", "+1.6\u202f%", "v1.0.1-runtime v1.1.0-runtime"}, {"cu13", "", "532.9 MB", "+1.5\u202f%", three}}
	if diff := cmp.Diff(want, []drawn{bundles[0], bundles[9], runtimes[0], runtimes[6]}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// A release that was measured on another GPU is not in the plot.
	speed := []drawn{{"pp512", "a model.gguf", "2500.0", "+4.2\u202f%", "v1.0.1-runtime v1.1.0-runtime"}}
	if diff := cmp.Diff(speed, draw(speedPlots(history))[:1]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	history[2].Benchmark = nil
	if got := speedPlots(history); got != nil {
		t.Errorf("without a benchmark there are %d plots", len(got))
	}
}

// The same releases give the same bytes, with everything that was measured in them.
func TestPage(t *testing.T) {
	once, again := document(t), document(t)
	if !bytes.Equal(once, again) {
		t.Error("the page is another one the second time")
	}
	if n := bytes.Count(once, []byte(`class="spread"`)); n != 3 {
		t.Errorf("%d spreads are drawn", n)
	}
	if len(once) > 128<<10 {
		t.Errorf("the page has %d bytes", len(once))
	}
}

func TestHistory(t *testing.T) {
	of := func(tag string) Release { return Release{Release: manifests.Release{Release: tag}} }
	var many []Release
	for i := range 12 {
		many = append(many, of(fmt.Sprintf("v1.%d.0-runtime", i)))
	}
	for _, test := range []struct {
		current string
		older   []Release
		want    string
	}{
		{"v1.2.0-runtime", nil, "v1.2.0-runtime"},
		{"v1.2.0-runtime", []Release{of("v1.10.0-runtime"), of("v1.1.0-runtime"), of("v1.2.0-runtime"), of("v0.9.0-runtime"), of("other")}, "v0.9.0-runtime v1.1.0-runtime v1.2.0-runtime"},
		{"v1.11.0-runtime", many, "v1.4.0-runtime v1.5.0-runtime v1.6.0-runtime v1.7.0-runtime v1.8.0-runtime v1.9.0-runtime v1.10.0-runtime v1.11.0-runtime"},
	} {
		var got []string
		for _, r := range historyOf(of(test.current), test.older) {
			got = append(got, r.Release.Release)
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: %q, want %q", test.current, got, test.want)
		}
	}
}

// A release of one bundle, without the client, has a page as well.
func TestSmallRelease(t *testing.T) {
	for _, test := range []struct {
		row       matrix.Row
		ptx       int
		has, lack string // what it says of GPUs
	}{
		{matrix.Row{SM: 90, PTX: true}, 1, `scope="rowgroup">10.0, 10.3, 12.0 and newer<`, "GPUs older than 9.1 have no bundle"},
		{matrix.Row{SM: 90}, 0, `scope="rowgroup">9.0<`, "GPUs older than 9.0 have no bundle"},
		{matrix.Row{SM: 75}, 0, `scope="rowgroup">7.5<`, "GPUs older than 7.5 have no bundle"},
	} {
		r := seed(t)
		bundle, _ := r.Bundle(test.row)
		runtime, ok := r.Runtime(bundle)
		if !ok {
			t.Fatalf("%s has no runtime", test.row)
		}
		r.Assets = slices.DeleteFunc(r.Assets, func(a manifests.Artifact) bool {
			return a.Kind == manifests.KindBundle && a.Row != test.row || a.Kind == manifests.KindCUDART && a.Stem() != runtime.Stem()
		})
		page, err := Page(Release{r, nil}, nil, Options{Downloads: "https://example.org"})
		if err != nil {
			t.Fatal(err)
		}
		for text, want := range map[string]int{
			"llcuda-bins-sm86": 0, "install.sh": 0, "farm.pub": 2, "<h2 id=\"speed-title\">": 0, "From v": 0, "compile PTX once": test.ptx, test.has: 1, test.lack: 1,
			`<th role="rowheader"`: 1,
		} {
			if got := bytes.Count(page, []byte(text)); got != want {
				t.Errorf("%s: %q is there %d times, want %d", test.row, text, got, want)
			}
		}
	}
}
