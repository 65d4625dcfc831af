package changes_test

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/goldentest"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
	"github.com/waqasm86/llcuda-farm/publisher/changes"
)

const llama = "https://github.com/ggml-org/llama.cpp"

func digest(digit string) string { return strings.Repeat(digit, 64) }

// release is one of all bundles of the matrix, with sizes that follow from the row. An edit changes
// it before it is checked.
func release(t *testing.T, tag string, edit func(r *changes.Release)) changes.Release {
	t.Helper()
	table, err := spec.Default()
	if err != nil {
		t.Fatal(err)
	}
	source := manifests.LlamaCPP{Version: "0.4.0", Commit: strings.Repeat("4", 40)}
	r := changes.Release{Files: map[string][]manifests.File{}}
	var assets []manifests.Artifact
	twins := func(a manifests.Artifact, stem string, size int64) {
		for _, format := range manifests.Formats() {
			a.Name, a.URL, a.Format, a.SHA256, a.Size = stem+"."+format, stem+"."+format, format, digest("1"), size
			assets = append(assets, a)
			size /= 2
		}
	}
	served := map[matrix.Runtime]manifests.DeviceCode{}
	for _, target := range table.Targets {
		toolkit, _ := table.ToolkitOf(target)
		of := &manifests.Toolkit{CUDA: toolkit.CUDA, NVCC: toolkit.NVCC}
		row, code := target.Row(), manifests.DeviceCode{Cubin: []matrix.Code{target.Code()}, PTX: []matrix.Code{}}
		need := manifests.Requires{
			DriverMin: manifests.DriverMin{Cubin: toolkit.DriverCubin}, Glibc: "2.27", GLIBCXX: "3.4.25",
			Libraries: []string{"libcuda.so.1", "libstdc++.so.6"}, CPUVariants: []string{"haswell", "x64"},
		}
		size := 80_000_000 + 100_000*int64(row.SM)
		if row.PTX {
			code.Cubin, code.PTX, size = code.PTX, code.Cubin, size+50_000
			need.DriverMin = manifests.DriverMin{PTX: toolkit.DriverPTX}
		}
		runtime, ok := served[toolkit.Runtime(row)]
		if !ok {
			runtime = manifests.DeviceCode{Cubin: []matrix.Code{}, PTX: []matrix.Code{}}
		}
		runtime.Cubin, runtime.PTX = append(runtime.Cubin, code.Cubin...), append(runtime.PTX, code.PTX...)
		served[toolkit.Runtime(row)] = runtime
		name := manifests.BundleName(row)
		twins(manifests.Artifact{
			Kind: manifests.KindBundle, Tar: &manifests.Digest{SHA256: digest("a"), Size: 1}, Release: tag, SourceDateEpoch: 1, LlamaCPP: &source, Toolkit: of,
			Row: row, Architecture: target.Architecture, GPUs: target.GPUs, DeviceCode: &code, Requires: &need,
		}, name, size)
		r.Files[name] = []manifests.File{
			{Path: "LICENSE", Mode: "0644", SHA256: digest("1")},
			{Path: of.ProgramsDir() + "/llama-cli", Mode: "0755", SHA256: digest("2")},
			{Path: of.ProgramsDir() + "/llama-server", Mode: "0755", SHA256: digest("3")},
			{Path: "lib/libggml-cuda.so", Mode: "0755", SHA256: digest("4")},
			{Path: "lib/libllama.so", Mode: "0777", Link: "libllama.so.0.4.0"},
			{Path: "lib/libllama.so.0.4.0", Mode: "0755", SHA256: digest("5")},
		}
	}
	for _, toolkit := range table.Toolkits {
		for runtime, code := range served {
			if runtime.Toolkit == toolkit.Name {
				tar := manifests.Digest{SHA256: digest("b"), Size: 1}
				twins(manifests.Artifact{
					Kind: manifests.KindCUDART, Tar: &tar, Toolkit: &manifests.Toolkit{CUDA: toolkit.CUDA, NVCC: toolkit.NVCC}, DeviceCode: &code,
					Libraries: []manifests.File{{Path: "lib/libcudart.so", Mode: "0755", SHA256: digest("6")}},
				}, manifests.RuntimeName(runtime, tar), 200_000_000)
			}
		}
	}
	assets = append(assets,
		manifests.Artifact{Name: "llcuda-3.0.0-py3-none-any.whl", Kind: manifests.KindClient, Size: 1, SHA256: digest("7"), URL: "llcuda-3.0.0-py3-none-any.whl"},
		manifests.Artifact{Name: "install.sh", Kind: manifests.KindClient, Size: 1, SHA256: digest("8"), URL: "install.sh"})
	models := []matrix.Model{{Name: "gemma", Repo: "o/gemma", File: "gemma.gguf", Source: "o/weights", Licence: "gemma"}}
	if r.Release, err = manifests.New(tag, assets, models); err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		edit(&r)
		for i := range r.Assets { // what all must agree on
			if a := &r.Assets[i]; a.Kind == manifests.KindBundle {
				a.LlamaCPP = &r.LlamaCPP
			}
		}
		if err := r.Check(); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// each changes both archives of some bundles; of all where no row is given.
func each(r *changes.Release, change func(a *manifests.Artifact), rows ...matrix.Row) {
	for i := range r.Assets {
		a := &r.Assets[i]
		if a.Kind != manifests.KindBundle || len(rows) > 0 && !slices.Contains(rows, a.Row) {
			continue
		}
		code, need := *a.DeviceCode, *a.Requires
		a.DeviceCode, a.Requires = &code, &need
		change(a)
	}
}

// drop removes the archives of a bundle.
func drop(r *changes.Release, row matrix.Row) {
	var left []manifests.Artifact
	for _, a := range r.Assets {
		if a.Kind != manifests.KindBundle || a.Row != row {
			left = append(left, a)
		}
	}
	r.Assets = left
}

// benchmark measures bundles of these releases, in turn, at these speeds.
func benchmark(model string, speeds []float64, releases ...changes.Release) *manifests.Benchmark {
	b := &manifests.Benchmark{
		SchemaVersion: manifests.SchemaVersion, GPU: "NVIDIA H100", CPU: "Some CPU", Rounds: 5, Repetitions: 3,
		Models: []manifests.BenchmarkModel{{Name: model, Size: 1, SHA256: digest("9"), Type: "tiny"}},
	}
	test := manifests.BenchmarkTest{Model: model, Test: "pp512"}
	for i, r := range releases {
		bundle, _ := r.Bundle(matrix.Row{SM: 90})
		b.Bundles = append(b.Bundles, manifests.BenchmarkBundle{Name: bundle.Name, SHA256: bundle.SHA256, Release: r.Release.Release, LlamaCPP: r.LlamaCPP, Row: bundle.Row})
		speed := manifests.BenchmarkSpeed{TokensPerSecond: manifests.Spread{Median: speeds[i], Min: speeds[i], Max: speeds[i]}}
		if i > 0 {
			ratio := speeds[i] / speeds[0]
			speed.Ratio = &manifests.Spread{Median: ratio, Min: ratio, Max: ratio}
		}
		test.Speeds = append(test.Speeds, speed)
	}
	b.Tests = []manifests.BenchmarkTest{test}
	return b
}

// newer is what another llama.cpp, compiler and matrix change at once.
func newer(r *changes.Release) {
	r.LlamaCPP = manifests.LlamaCPP{Version: "0.5.0", Commit: strings.Repeat("5", 40)}
	drop(r, matrix.Row{SM: 50})
	each(r, func(a *manifests.Artifact) {
		a.Tar = &manifests.Digest{SHA256: digest("c"), Size: 1}
		a.Requires.CPUVariants = []string{"haswell", "x64", "zen4"}
		a.Size += 1_234_567
		a.SHA256 = digest("d")
	})
	each(r, func(a *manifests.Artifact) { a.Requires.Glibc, a.Size = "2.28", a.Size-9_000_000 }, matrix.Row{SM: 75}, matrix.Row{SM: 120})
	each(r, func(a *manifests.Artifact) { a.Requires.DriverMin.PTX = "560.28" }, matrix.Row{SM: 90, PTX: true})
	for i := range r.Assets {
		switch a := &r.Assets[i]; {
		case strings.HasPrefix(a.Name, "llcuda-cudart-cu12-sm8x-"):
			a.Name = "llcuda-cudart-cu12-sm8x-eeeeeeeeeeee." + a.Format
			a.URL, a.Tar, a.Size = a.Name, &manifests.Digest{SHA256: digest("e"), Size: 1}, a.Size/2
		case strings.HasSuffix(a.Name, ".whl"):
			a.Name, a.URL = "llcuda-3.1.0-py3-none-any.whl", "llcuda-3.1.0-py3-none-any.whl"
		case a.Name == "install.sh":
			a.SHA256 = digest("f")
		}
	}
	var assets []manifests.Artifact
	for _, a := range r.Assets { // the runtime of 5.x has no bundle any more
		if !strings.HasPrefix(a.Name, "llcuda-cudart-cu12-sm5x-") {
			assets = append(assets, a)
		}
	}
	r.Assets = assets
	r.Models = append(r.Models, matrix.Model{Name: "qwen", Repo: "o/qwen", File: "qwen.gguf", Source: "o/weights", Licence: "apache-2.0"})
	for name, files := range r.Files {
		files[1].SHA256, files[2].SHA256, files[3].SHA256 = digest("a"), digest("b"), digest("c")
		files[5].Path = "lib/libllama.so.0.5.0"
		r.Files[name] = append(files, manifests.File{Path: "lib/libggml-cpu-zen4.so", Mode: "0755", SHA256: digest("d")})
	}
	delete(r.Files, "llcuda-bins-sm120")
}

func TestCompare(t *testing.T) {
	const old, now = "v1.2.0-runtime", "v1.3.0-runtime"
	before := release(t, old, nil)
	for name, after := range map[string]changes.Release{
		"newer": release(t, now, newer),
		// The same llama.cpp, released again for one file in all bundles.
		"patch": release(t, "v1.2.1-runtime", func(r *changes.Release) {
			each(r, func(a *manifests.Artifact) { a.Tar = &manifests.Digest{SHA256: digest("c"), Size: 1} })
			for _, files := range r.Files {
				files[2].SHA256 = digest("a")
			}
		}),
		"same": release(t, old, nil),
		// One that was rebuilt under the tag that it had.
		"retagged": release(t, old, func(r *changes.Release) {
			each(r, func(a *manifests.Artifact) { a.Tar, a.Size = &manifests.Digest{SHA256: digest("c"), Size: 1}, a.Size+1 }, matrix.Row{SM: 61})
		}),
		// A commit that has the version of the release before it, and files without a bill of materials.
		"commit": release(t, now, func(r *changes.Release) {
			r.LlamaCPP.Commit, r.Files = strings.Repeat("6", 40), nil
		}),
	} {
		if name == "newer" {
			before.Benchmark = benchmark("a.gguf", []float64{1000}, before)
			after.Benchmark = benchmark("b.gguf", []float64{1100}, after)
		}
		got := changes.Compare(before, after, llama)
		goldentest.Check(t, filepath.Join("testdata", name+".golden.md"), []byte(got.Markdown()))
		if name == "newer" {
			text, err := json.MarshalIndent(got, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			goldentest.Check(t, filepath.Join("testdata", name+".golden.json"), append(text, '\n'))
		}
	}
	// The way back says the same of it the other way round.
	back := changes.Compare(release(t, now, newer), release(t, old, nil), llama)
	goldentest.Check(t, filepath.Join("testdata", "back.golden.md"), []byte(back.Markdown()))
}

func TestCompareURL(t *testing.T) {
	commit := func(digit string) string { return strings.Repeat(digit, 40) }
	for name, test := range map[string]struct {
		before, after    manifests.LlamaCPP
		repository, want string
	}{
		"versions":       {manifests.LlamaCPP{Version: "0.4.0", Commit: commit("4")}, manifests.LlamaCPP{Version: "0.5.0", Commit: commit("5")}, llama, llama + "/compare/v0.4.0...v0.5.0"},
		"builds":         {manifests.LlamaCPP{Version: "b8390", Commit: commit("4")}, manifests.LlamaCPP{Version: "0.5.0", Commit: commit("5")}, llama, llama + "/compare/b8390...v0.5.0"},
		"one version":    {manifests.LlamaCPP{Version: "0.5.0", Commit: commit("4")}, manifests.LlamaCPP{Version: "0.5.0", Commit: commit("5")}, llama, llama + "/compare/" + commit("4") + "..." + commit("5")},
		"no release's":   {manifests.LlamaCPP{Version: "0.4.0", Commit: commit("4")}, manifests.LlamaCPP{Version: "0.5.0-dev", Commit: commit("5")}, llama, llama + "/compare/" + commit("4") + "..." + commit("5")},
		"one commit":     {manifests.LlamaCPP{Version: "0.5.0", Commit: commit("5")}, manifests.LlamaCPP{Version: "0.5.0", Commit: commit("5")}, llama, ""},
		"a tree":         {manifests.LlamaCPP{Version: "0.4.0", Commit: "sha256:" + digest("4")}, manifests.LlamaCPP{Version: "0.5.0", Commit: commit("5")}, llama, ""},
		"to a tree":      {manifests.LlamaCPP{Version: "0.4.0", Commit: commit("4")}, manifests.LlamaCPP{Version: "0.5.0", Commit: "sha256:" + digest("5")}, llama, ""},
		"no repository":  {manifests.LlamaCPP{Version: "0.4.0", Commit: commit("4")}, manifests.LlamaCPP{Version: "0.5.0", Commit: commit("5")}, "", ""},
		"on this disk":   {manifests.LlamaCPP{Version: "0.4.0", Commit: commit("4")}, manifests.LlamaCPP{Version: "0.5.0", Commit: commit("5")}, "/src/llama.cpp", ""},
		"back in time":   {manifests.LlamaCPP{Version: "0.5.0", Commit: commit("5")}, manifests.LlamaCPP{Version: "0.4.0", Commit: commit("4")}, llama, llama + "/compare/v0.5.0...v0.4.0"},
		"words for both": {manifests.LlamaCPP{Version: "beta", Commit: commit("4")}, manifests.LlamaCPP{Version: "", Commit: commit("5")}, llama, llama + "/compare/" + commit("4") + "..." + commit("5")},
	} {
		edit := func(l manifests.LlamaCPP) changes.Release {
			return changes.Release{Release: manifests.Release{LlamaCPP: l}}
		}
		if got := changes.Compare(edit(test.before), edit(test.after), test.repository).LlamaCPP.URL; got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

// Speeds are compared where they mean something: in one run, or on one GPU with one model.
func TestSpeed(t *testing.T) {
	before := release(t, "v1", nil)
	after := release(t, "v2", newer)
	// One that neither of them knows.
	other := release(t, "v0", func(r *changes.Release) { each(r, func(a *manifests.Artifact) { a.SHA256 = digest("0") }) })
	with := func(r changes.Release, b *manifests.Benchmark, edits ...func(*manifests.Benchmark)) changes.Release {
		for _, edit := range edits {
			edit(b)
		}
		r.Benchmark = b
		return r
	}
	row := func(model string, x, y, ratio float64, same bool) []changes.Speed {
		return []changes.Speed{{GPU: "NVIDIA H100", Bundle: "llcuda-bins-sm90", Model: model, Test: "pp512", Before: x, After: y, Ratio: ratio, SameRun: same}}
	}
	for name, test := range map[string]struct {
		before, after changes.Release
		want          []changes.Speed
	}{
		"in turn":             {before, with(after, benchmark("m", []float64{100, 90}, before, after)), row("m", 100, 90, 0.9, true)},
		"in turn, and alone":  {with(before, benchmark("m", []float64{50}, before)), with(after, benchmark("m", []float64{100, 90}, before, after)), row("m", 100, 90, 0.9, true)},
		"alone":               {with(before, benchmark("m", []float64{80}, before)), with(after, benchmark("n", []float64{100}, after)), row("n", 80, 100, 1.25, false)},
		"beside another":      {with(before, benchmark("m", []float64{1, 80}, other, before)), with(after, benchmark("m", []float64{1, 100}, other, after)), row("m", 80, 100, 1.25, false)},
		"not measured":        {with(before, benchmark("m", []float64{80}, before)), after, []changes.Speed{}},
		"not measured before": {before, with(after, benchmark("m", []float64{100}, after)), []changes.Speed{}},
		"another GPU": {with(before, benchmark("m", []float64{80}, before), func(b *manifests.Benchmark) { b.GPU = "Tesla T4" }),
			with(after, benchmark("m", []float64{100}, after)), []changes.Speed{}},
		"another model": {with(before, benchmark("m", []float64{80}, before), func(b *manifests.Benchmark) { b.Models[0].SHA256 = digest("8") }),
			with(after, benchmark("m", []float64{100}, after)), []changes.Speed{}},
		"another test": {with(before, benchmark("m", []float64{80}, before), func(b *manifests.Benchmark) { b.Tests[0].Test = "tg128" }),
			with(after, benchmark("m", []float64{100}, after)), []changes.Speed{}},
		"another SM": {with(before, benchmark("m", []float64{80}, before), func(b *manifests.Benchmark) { b.Bundles[0].Row = matrix.Row{SM: 89} }),
			with(after, benchmark("m", []float64{100}, after)), []changes.Speed{}},
		"its PTX": {with(before, benchmark("m", []float64{80}, before), func(b *manifests.Benchmark) { b.Bundles[0].Row.PTX = true }),
			with(after, benchmark("m", []float64{100}, after)), []changes.Speed{}},
	} {
		if diff := cmp.Diff(test.want, changes.Compare(test.before, test.after, llama).Speed); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestFiles(t *testing.T) {
	list := func(paths string) (files []manifests.File) {
		for path := range strings.FieldsSeq(paths) {
			path, sum, _ := strings.Cut(path, "=")
			files = append(files, manifests.File{Path: path, Mode: "0755", SHA256: digest(sum + "0")[:64]})
		}
		return files
	}
	for name, test := range map[string]struct {
		before, after string
		want          changes.Files
	}{
		"nothing":         {"LICENSE lib/a.so", "LICENSE lib/a.so", changes.Files{Same: 2}},
		"metadata":        {"metadata.json=1", "metadata.json=2", changes.Files{}},
		"each kind":       {"a b=1 c", "b=2 c d", changes.Files{Added: []string{"d"}, Gone: []string{"a"}, Changed: []string{"b"}, Same: 1}},
		"a version":       {"lib/liba.so.1.2 lib/libb.so.1", "lib/liba.so.1.3 lib/libb.so.1", changes.Files{Renamed: []changes.Rename{{"lib/liba.so.1.2", "lib/liba.so.1.3"}}, Same: 1}},
		"its first one":   {"lib/liba.so", "lib/liba.so.1", changes.Files{Renamed: []changes.Rename{{"lib/liba.so", "lib/liba.so.1"}}}},
		"another toolkit": {"binaries/cuda12/llama-cli", "binaries/cuda13/llama-cli", changes.Files{Renamed: []changes.Rename{{"binaries/cuda12/llama-cli", "binaries/cuda13/llama-cli"}}}},
		"two of one name": {"lib/liba.so.1", "lib/liba.so.2 lib/liba.so.3", changes.Files{Added: []string{"lib/liba.so.2", "lib/liba.so.3"}, Gone: []string{"lib/liba.so.1"}}},
		"two gone":        {"lib/liba.so.1 lib/liba.so.2", "lib/liba.so.3", changes.Files{Added: []string{"lib/liba.so.3"}, Gone: []string{"lib/liba.so.1", "lib/liba.so.2"}}},
		"another library": {"lib/liba.so.1", "lib/libb.so.1", changes.Files{Added: []string{"lib/libb.so.1"}, Gone: []string{"lib/liba.so.1"}}},
		"moved":           {"lib/liba.so.1", "binaries/cuda12/liba.so.1", changes.Files{Added: []string{"binaries/cuda12/liba.so.1"}, Gone: []string{"lib/liba.so.1"}}},
	} {
		of := func(tag, paths string) changes.Release {
			r := release(t, tag, nil)
			r.Files = map[string][]manifests.File{"llcuda-bins-sm75": list(paths)}
			return r
		}
		for _, b := range changes.Compare(of("v1", test.before), of("v2", test.after), "").Bundles {
			want := &test.want
			if (b.Row != matrix.Row{SM: 75}) {
				want = nil
			}
			if diff := cmp.Diff(want, b.Files); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", name, b.Name, diff)
			}
		}
	}
}

func TestPrevious(t *testing.T) {
	for name, test := range map[string]struct{ tag, published, want string }{
		"first":             {"v1.0.0-runtime", "", ""},
		"second":            {"v1.1.0-runtime", "v1.0.0-runtime", "v1.0.0-runtime"},
		"newest of many":    {"v1.10.0-runtime", "v1.9.0-runtime v1.8.0-runtime v1.2.0-runtime", "v1.9.0-runtime"},
		"in any order":      {"v1.10.0-runtime", "v1.2.0-runtime v1.9.0-runtime v1.8.0-runtime", "v1.9.0-runtime"},
		"itself":            {"v1.1.0-runtime", "v1.1.0-runtime v1.0.0-runtime", "v1.0.0-runtime"},
		"itself alone":      {"v1.1.0-runtime", "v1.1.0-runtime", ""},
		"mended":            {"v1.1.1-runtime", "v1.2.0-runtime v1.1.0-runtime v1.0.0-runtime", "v1.1.0-runtime"},
		"older than all":    {"v0.9.0", "v1.2.0-runtime v1.1.0-runtime", ""},
		"others' tags":      {"v1.1.0-runtime", "models-2 nightly v1.0.0-runtime vscode", "v1.0.0-runtime"},
		"only others' tags": {"v1.1.0-runtime", "models-2 nightly", ""},
		"no version":        {"trial", "v1.2.0-runtime v1.1.0-runtime", "v1.2.0-runtime"},
		"of another name":   {"v1.1.0", "v1.1.0-runtime v1.0.0-runtime", "v1.0.0-runtime"},
	} {
		if got := changes.Previous(test.tag, strings.Fields(test.published)); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}
