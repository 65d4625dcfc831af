// Package changes says what changed between two releases, for people.
//
// Release notes and `ci compare` call it, so that both say the same. In flow two manifests, with
// the benchmarks and the lists of files that belong to them; out flows a Changes, which is its own
// JSON, and the same as Markdown. The package is pure: it reads no file and asks no server, and the
// same releases give the same bytes.
//
//	Release, Release ──Compare──▶ Changes ──Markdown──▶ text
//
// It compares what users have of a release. Why two builds of one archive are not the same bytes is
// for `ci reproduce`, by bundler.CompareArchives.
package changes

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// A Release is what is compared of one release.
type Release struct {
	manifests.Release
	// Benchmark is nil where the speed was not measured.
	Benchmark *manifests.Benchmark
	// Files are the regular files of each bundle, by the bundle's name. A bundle whose files are not
	// known is absent.
	Files map[string][]manifests.File
}

// Changes are what changed between two releases. Lists ascend, bundles by their row.
type Changes struct {
	// Before and After are the tags.
	Before string `json:"before"`
	After  string `json:"after"`
	// Same says that the two manifests are the same, so that every file is.
	Same     bool     `json:"same"`
	LlamaCPP LlamaCPP `json:"llama_cpp"`
	// Bundles and Runtimes are all that either release has.
	Bundles  []Bundle  `json:"bundles"`
	Runtimes []Runtime `json:"runtimes"`
	// Clients are llcuda-fetch, its installer, and the wheels of the Python package.
	Clients Names `json:"clients"`
	Models  Names `json:"models"`
	// Speed has the tests that both releases ran, with the same model on the same GPU.
	Speed []Speed `json:"speed"`
}

// LlamaCPP is the source of both releases.
type LlamaCPP struct {
	Before manifests.LlamaCPP `json:"before"`
	After  manifests.LlamaCPP `json:"after"`
	// URL is the page with the commits between the two; empty where there are none, or no such page.
	URL string `json:"url,omitempty"`
}

// A State says which of two releases has something.
type State string

// The states.
const (
	StateNew       State = "new"       // the later release alone
	StateGone      State = "gone"      // the earlier one alone
	StateUnchanged State = "unchanged" // both, with the same bytes
	StateChanged   State = "changed"
)

// A Bundle is the bundle of one row in both releases.
type Bundle struct {
	Name  string     `json:"name"`
	Row   matrix.Row `json:"sm"`
	State State      `json:"state"`
	Sizes []Size     `json:"sizes"`
	Facts []Fact     `json:"facts,omitempty"`
	// Files is nil unless both releases have the bundle and its files are known of both.
	Files *Files `json:"files,omitempty"`
}

// A Size is the size, in bytes, of an archive of one format; 0 where a release has none.
type Size struct {
	Format string `json:"format"`
	Before int64  `json:"before"`
	After  int64  `json:"after"`
}

// A Fact is something that the manifest says of a bundle, and no longer says so. Those of one value
// have Before and After, of which one may be empty; lists have what was added and what is gone.
type Fact struct {
	What   string   `json:"what"`
	Before string   `json:"before,omitempty"`
	After  string   `json:"after,omitempty"`
	Added  []string `json:"added,omitempty"`
	Gone   []string `json:"gone,omitempty"`
}

// Files are how the files of a bundle changed. Each is in one of the lists, or the same.
type Files struct {
	Added   []string `json:"added,omitempty"`
	Gone    []string `json:"gone,omitempty"`
	Renamed []Rename `json:"renamed,omitempty"` // with another version or toolkit in its path
	Changed []string `json:"changed,omitempty"`
	Same    int      `json:"same"`
}

// A Rename is one file under two paths.
type Rename struct {
	Before string `json:"before"`
	After  string `json:"after"`
}

// A Runtime is the CUDA runtime for an SM major, for PTX, or for a toolkit.
type Runtime struct {
	Name string `json:"name"` // "cu12-sm7x"
	// State is unchanged where the archives hold the same tar: who has it need not download it again.
	State State `json:"state"`
	// Before and After are the names of the archives, without the format.
	Before string `json:"before_archive,omitempty"`
	After  string `json:"after_archive,omitempty"`
	Sizes  []Size `json:"sizes"`
}

// Names are things that were added, that are gone, and that changed, by their names.
type Names struct {
	Added   []string `json:"added,omitempty"`
	Gone    []string `json:"gone,omitempty"`
	Changed []string `json:"changed,omitempty"`
}

// Compare compares two releases. The repository is llama.cpp's, such as
// "https://github.com/ggml-org/llama.cpp"; it may be empty.
func Compare(before, after Release, repository string) Changes {
	return Changes{
		Before: before.Release.Release, After: after.Release.Release,
		Same:     reflect.DeepEqual(before.Release, after.Release),
		LlamaCPP: LlamaCPP{before.LlamaCPP, after.LlamaCPP, compareURL(repository, before.LlamaCPP, after.LlamaCPP)},
		Bundles:  bundles(before, after),
		Runtimes: runtimes(before.Release, after.Release),
		Clients:  clients(before.Release, after.Release),
		Models:   models(before.Models, after.Models),
		Speed:    speed(before, after),
	}
}

// compareURL is GitHub's page with what lies between two commits. It shows tags, which people know
// better, where there are two of them.
func compareURL(repository string, before, after manifests.LlamaCPP) string {
	// A tree that had no repository has a digest instead of a commit.
	isTree := func(l manifests.LlamaCPP) bool { return strings.HasPrefix(l.Commit, "sha256:") }
	if !strings.HasPrefix(repository, "https://") || isTree(before) || isTree(after) || before.Commit == after.Commit {
		return ""
	}
	from, to := tagOf(before.Version), tagOf(after.Version)
	if from == "" || to == "" || from == to {
		from, to = before.Commit, after.Commit
	}
	return repository + "/compare/" + from + "..." + to
}

// tagOf is the tag that llama.cpp gives to a version; empty where it is not that of a release.
func tagOf(version string) string {
	build, isBuild := strings.CutPrefix(version, "b")
	switch {
	case !matrix.IsVersion(build):
		return ""
	case isBuild:
		return version
	}
	return "v" + version
}

// state is that of something by its digests, empty where a release does not have it.
func state(before, after string) State {
	switch {
	case before == "":
		return StateNew
	case after == "":
		return StateGone
	case before == after:
		return StateUnchanged
	}
	return StateChanged
}

func tarOf(archive manifests.Artifact) string {
	if archive.Tar == nil {
		return ""
	}
	return archive.Tar.SHA256
}

func bundles(before, after Release) []Bundle {
	old, now := map[matrix.Row]manifests.Artifact{}, map[matrix.Row]manifests.Artifact{}
	for _, a := range before.Bundles() {
		old[a.Row] = a
	}
	for _, a := range after.Bundles() {
		now[a.Row] = a
	}
	all := []Bundle{}
	for _, row := range slices.SortedFunc(maps.Keys(union(old, now)), matrix.Row.Compare) {
		x, y := old[row], now[row]
		b := Bundle{Name: manifests.BundleName(row), Row: row, State: state(tarOf(x), tarOf(y)), Sizes: sizes(before.Formats(x), after.Formats(y))}
		if b.State == StateChanged || b.State == StateUnchanged {
			b.Facts = facts(x, y)
			files, known := before.Files[b.Name]
			again, knownAgain := after.Files[b.Name]
			if known && knownAgain {
				b.Files = compareFiles(files, again)
			}
		}
		all = append(all, b)
	}
	return all
}

// union has the keys of both maps.
func union[K comparable, V any](x, y map[K]V) map[K]V {
	all := maps.Clone(x)
	maps.Copy(all, y)
	return all
}

// keysOf are the keys of both maps, ascending, each once.
func keysOf[K cmp.Ordered, V any](x, y map[K]V) []K {
	return slices.Sorted(maps.Keys(union(x, y)))
}

// sizes are those of the two archives of a bundle or runtime, the smaller format first.
func sizes(before, after []manifests.Artifact) []Size {
	of := func(archives []manifests.Artifact, format string) int64 {
		i := slices.IndexFunc(archives, func(a manifests.Artifact) bool { return a.Format == format })
		if i < 0 {
			return 0
		}
		return archives[i].Size
	}
	var all []Size
	for _, format := range slices.Backward(manifests.Formats()) {
		all = append(all, Size{format, of(before, format), of(after, format)})
	}
	return all
}

// The kinds of facts, in the order in which people want to know of them.
const (
	whatCUDA      = "CUDA"
	whatDriver    = "Driver"
	whatPTXDriver = "Driver for PTX"
	whatGlibc     = "glibc"
	whatGLIBCXX   = "GLIBCXX"
	whatCubin     = "Machine code"
	whatPTX       = "PTX"
	whatVariants  = "CPU variants"
	whatLibraries = "Libraries needed"
	whatGPUs      = "GPUs"
)

var (
	kinds = []string{whatCUDA, whatDriver, whatPTXDriver, whatGlibc, whatGLIBCXX, whatCubin, whatPTX, whatVariants, whatLibraries, whatGPUs}
	// requirements are those that keep a release from running on a machine that ran the one before.
	requirements = []string{whatDriver, whatPTXDriver, whatGlibc, whatGLIBCXX}
)

// facts are what a bundle's entries in two manifests say differently. What every release changes,
// digests and times, is left out.
func facts(before, after manifests.Artifact) []Fact {
	var list []Fact
	for _, f := range []Fact{
		{What: whatCUDA, Before: before.Toolkit.CUDA, After: after.Toolkit.CUDA},
		{What: whatDriver, Before: before.Requires.DriverMin.Cubin, After: after.Requires.DriverMin.Cubin},
		{What: whatPTXDriver, Before: before.Requires.DriverMin.PTX, After: after.Requires.DriverMin.PTX},
		{What: whatGlibc, Before: before.Requires.Glibc, After: after.Requires.Glibc},
		{What: whatGLIBCXX, Before: before.Requires.GLIBCXX, After: after.Requires.GLIBCXX},
	} {
		if f.Before != f.After {
			list = append(list, f)
		}
	}
	for _, set := range []struct {
		what          string
		before, after []string
	}{
		{whatCubin, codes(before.DeviceCode.Cubin), codes(after.DeviceCode.Cubin)},
		{whatPTX, codes(before.DeviceCode.PTX), codes(after.DeviceCode.PTX)},
		{whatVariants, before.Requires.CPUVariants, after.Requires.CPUVariants},
		{whatLibraries, before.Requires.Libraries, after.Requires.Libraries},
		{whatGPUs, before.GPUs, after.GPUs},
	} {
		f := Fact{What: set.what, Added: without(set.after, set.before), Gone: without(set.before, set.after)}
		if len(f.Added)+len(f.Gone) > 0 {
			list = append(list, f)
		}
	}
	return list
}

func codes(list []matrix.Code) []string {
	var texts []string
	for _, c := range list {
		texts = append(texts, c.String())
	}
	return texts
}

// without are the texts of a list that another lacks.
func without(list, other []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(other, s) })
}

func runtimes(before, after manifests.Release) []Runtime {
	byName := func(r manifests.Release) map[string]manifests.Artifact {
		all := map[string]manifests.Artifact{}
		for _, a := range r.Runtimes() {
			all[manifests.RuntimeOf(a.Toolkit.CUDA, *a.DeviceCode).String()] = a
		}
		return all
	}
	old, now := byName(before), byName(after)
	all := []Runtime{}
	for _, name := range keysOf(old, now) {
		x, y := old[name], now[name]
		all = append(all, Runtime{Name: name, State: state(tarOf(x), tarOf(y)), Before: x.Stem(), After: y.Stem(), Sizes: sizes(before.Formats(x), after.Formats(y))})
	}
	return all
}

func clients(before, after manifests.Release) Names {
	digests := func(r manifests.Release) map[string]string {
		all := map[string]string{}
		for _, a := range r.Of(manifests.KindClient) {
			all[a.Name] = a.SHA256
		}
		return all
	}
	return names(digests(before), digests(after))
}

func models(before, after []matrix.Model) Names {
	byName := func(list []matrix.Model) map[string]matrix.Model {
		all := map[string]matrix.Model{}
		for _, m := range list {
			all[m.Name] = m
		}
		return all
	}
	return names(byName(before), byName(after))
}

func names[V any](before, after map[string]V) Names {
	var n Names
	for _, name := range keysOf(before, after) {
		old, was := before[name]
		now, is := after[name]
		switch {
		case !was:
			n.Added = append(n.Added, name)
		case !is:
			n.Gone = append(n.Gone, name)
		case !reflect.DeepEqual(old, now):
			n.Changed = append(n.Changed, name)
		}
	}
	return n
}
