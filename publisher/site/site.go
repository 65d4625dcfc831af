// Package site writes the page that shows people a release: which bundle is for which GPU, what that
// downloads, which driver it needs, how to install and verify it, and how sizes and speed changed over
// the last releases.
//
// The command ci site calls it. In flow the manifests and the benchmarks of releases; out flows one
// HTML document that has everything in itself. It asks no server for anything and says so to the
// browser by its content security policy. It can be read without JavaScript; with it, the page finds a
// GPU by its name or in what nvidia-smi prints.
//
// The page decides nothing by itself: manifests.Pick was asked beforehand for every compute capability,
// every class of drivers and every pair of GPUs, and the page's script looks the answer up. The package
// trusts nothing in a manifest to be free of markup, and verifies no signature: the caller does.
package site

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/publisher"
)

// A Release is one of those that the page tells of.
type Release struct {
	manifests.Release
	// Benchmark is how fast it is; nil where that was not measured.
	Benchmark *manifests.Benchmark
}

// Options are what the page says beyond what is in the manifests.
type Options struct {
	// Downloads is the address of the folder with a folder for each release, without a slash at the end.
	Downloads string
	// Source is the address of llama.cpp's repository; empty where commits lead nowhere.
	Source string
	// Identity is who signed the release, with the ref, and Issuer who vouched for that. Both are empty
	// where a key signed.
	Identity, Issuer string
}

// Name is what the page is called, beside which it needs nothing.
const Name = "index.html"

// maxOlder is how many older releases the plots show: more bars would be too thin on a telephone.
const maxOlder = 7

//go:embed page.html.tmpl
var pageText string

//go:embed page.css
var styleText string

//go:embed page.js
var scriptText string

// Page is the document. Older releases, in any order, are those to compare with; others among them are
// left out.
func Page(release Release, older []Release, o Options) ([]byte, error) {
	a, err := ask(release.Release)
	if err != nil {
		return nil, fmt.Errorf("making the page of %s: %w", release.Release.Release, err)
	}
	tmpl, err := template.New("page").Funcs(template.FuncMap{
		"bytes": measure.Bytes, "join": func(list []string) string { return strings.Join(list, ", ") },
	}).Parse(pageText)
	if err != nil {
		return nil, err
	}
	history := historyOf(release, older)
	p := page{Release: release.Release, Options: o, answers: a, style: styleText, script: scriptText,
		Bundled: bundlePlots(history), Runtimes: runtimePlots(history), Speeds: speedPlots(history), Benchmark: release.Benchmark}
	p.Glibc, _ = libraries(release.Release)
	var b bytes.Buffer
	if err := tmpl.Execute(&b, p); err != nil {
		return nil, fmt.Errorf("making the page of %s: %w", release.Release.Release, err)
	}
	return b.Bytes(), nil
}

// historyOf are the last releases up to one, which is last.
func historyOf(release Release, older []Release) []Release {
	history := slices.DeleteFunc(slices.Clone(older), func(r Release) bool {
		order, ok := manifests.CompareTags(r.Release.Release, release.Release.Release)
		return !ok || order > 0
	})
	slices.SortStableFunc(history, func(a, b Release) int {
		order, _ := manifests.CompareTags(a.Release.Release, b.Release.Release)
		return order
	})
	return append(history[max(0, len(history)-maxOlder):], release)
}

// A page is what the template is filled with.
type page struct {
	manifests.Release
	Options
	answers
	Benchmark *manifests.Benchmark
	Glibc     string
	// Bundled, Runtimes and Speeds are the plots.
	Bundled, Runtimes, Speeds []plot
	style, script             string
}

// marker tells the style sheet that there is JavaScript, before anything is drawn.
const marker = `document.documentElement.className="js"`

func (p page) Style() template.CSS { return template.CSS(p.style) }
func (p page) Script() template.JS { return template.JS(p.script) }
func (p page) Marker() template.JS { return marker }

// Policy allows the page's own style and scripts, and no request.
func (p page) Policy() string {
	hash := func(text string) string {
		sum := sha256.Sum256([]byte(text))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return fmt.Sprintf("default-src 'none'; style-src %s; script-src %s %s; base-uri 'none'; form-action 'none'", hash(p.style), hash(marker), hash(p.script))
}

// Files is the address of the release's folder.
func (p page) Files() string { return p.Downloads + "/" + p.Release.Release }

// Toolkits are the versions of CUDA.
func (p page) Toolkits() string {
	var list []string
	for _, t := range p.Release.Toolkits {
		list = append(list, t.CUDA)
	}
	return strings.Join(list, " and ")
}

// Date is that of the source.
func (p page) Date() string {
	return time.Unix(p.SourceDateEpoch, 0).UTC().Format("2 January 2006")
}

// Commit is the address of llama.cpp's source; empty where it has none.
func (p page) Commit() string {
	if !strings.HasPrefix(p.Source, "https://") || strings.HasPrefix(p.LlamaCPP.Commit, "sha256:") {
		return ""
	}
	return p.Source + "/tree/" + p.LlamaCPP.Commit
}

// Has reports whether the release has a file.
func (p page) Has(name string) bool {
	_, has := p.Asset(name)
	return has
}

// Installer is the name of the script that installs the client; empty where the release has none.
func (p page) Installer() string {
	if p.Has(manifests.InstallerName) {
		return manifests.InstallerName
	}
	return ""
}

// Verification are the commands that verify the release by hand.
func (p page) Verification() string {
	return publisher.Verification(p.Files(), p.Identity, p.Issuer)
}

// Listed are the assets with digests to compare: everything but the documents about the others.
func (p page) Listed() []manifests.Artifact {
	return slices.DeleteFunc(slices.Clone(p.Assets), func(a manifests.Artifact) bool { return a.Kind == manifests.KindSBOM })
}

// A row is a kind of GPU that has a bundle.
type row struct {
	Kind         kind
	Capabilities string
	// GPUs are families of them by the bundle of their own, and Names all that are known.
	GPUs, Names []string
	Steps       []step
}

// A step is what drivers from one version on get.
type step struct {
	From   string
	Answer answer
}

// Steps are a kind's, from the newest driver downward.
func (a answers) Steps(k kind) (steps []step) {
	for class := len(k.Answers) - 1; class > 0; class-- {
		at := k.Answers[class]
		if at == none {
			break // an older driver has no more
		}
		if last := len(steps) - 1; last >= 0 && steps[last].Answer.ID == at {
			steps[last].From = a.Floors[class-1]
			continue
		}
		steps = append(steps, step{a.Floors[class-1], a.All[at]})
	}
	return steps
}

// Rows are the kinds with a bundle that have GPUs, ascending.
func (p page) Rows() (rows []row) {
	for _, k := range p.Kinds {
		r := row{Kind: k, Steps: p.Steps(k)}
		if len(r.Steps) == 0 {
			continue
		}
		var capabilities []string
		for _, product := range allProducts() {
			if !k.has(product.SM) || product.ARM64 {
				continue
			}
			r.Names = append(r.Names, product.Name)
			if text := product.SM.Capability(); !slices.Contains(capabilities, text) {
				capabilities = append(capabilities, text)
			}
		}
		for _, s := range r.Steps {
			if row := s.Answer.Bundle.Row; k.has(row.SM) && !row.PTX {
				r.GPUs = s.Answer.Bundle.GPUs
				if text := row.Capability(); !slices.Contains(capabilities, text) {
					capabilities = append(capabilities, text)
				}
			}
		}
		if len(capabilities) == 0 && !k.Open {
			continue // there is no such GPU: PTX for 9.0 would serve 9.1 as well
		}
		r.Capabilities = strings.Join(capabilities, ", ")
		if k.Open {
			r.Capabilities = strings.TrimPrefix(r.Capabilities+" and newer", " and ")
		}
		rows = append(rows, r)
	}
	// GPUs newer than the known ones come last; the sort keeps the order of the others.
	slices.SortStableFunc(rows, func(a, b row) int {
		switch {
		case a.Kind.Open == b.Kind.Open:
			return 0
		case a.Kind.Open:
			return 1
		}
		return -1
	})
	return rows
}

// Data is what the page's script looks up.
func (p page) Data() any {
	type run [2]int
	data := struct {
		Floors   []string           `json:"floors"`
		Runs     []run              `json:"runs"`  // the first capability of each run, and its kind; ascending
		Kinds    [][]int            `json:"kinds"` // the answer of each class of drivers
		Pairs    map[string][][]int `json:"pairs"`
		Products []any              `json:"products"`
	}{Floors: p.Floors, Pairs: p.Pairs}
	for _, k := range p.Kinds {
		data.Kinds = append(data.Kinds, k.Answers)
		for _, r := range k.SMs {
			data.Runs = append(data.Runs, run{int(r[0]), k.ID})
		}
	}
	slices.SortFunc(data.Runs, func(a, b run) int { return a[0] - b[0] })
	for _, product := range allProducts() {
		entry := []any{product.Name, product.SM}
		if product.ARM64 {
			entry = append(entry, 1)
		}
		data.Products = append(data.Products, entry)
	}
	return data
}

// UsesPTX reports whether the release has PTX for newer GPUs.
func (p page) UsesPTX() bool {
	return slices.ContainsFunc(p.Bundles(), func(a manifests.Artifact) bool { return a.Row.PTX })
}

// Oldest is the oldest compute capability with a bundle: with PTX alone, not that of the PTX.
func (p page) Oldest() string {
	i := slices.IndexFunc(p.Kinds, func(k kind) bool { return len(p.Steps(k)) > 0 })
	return p.Kinds[i].SMs[0][0].Capability()
}
