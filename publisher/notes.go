package publisher

import (
	"fmt"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/publisher/changes"
)

// NotesOptions are what release notes say beyond what is in the manifest.
type NotesOptions struct {
	// Downloads is the address of the folder with the release's files, without a slash at the end.
	Downloads string
	// Identity is who signed, with the ref, and Issuer who vouched for that. Both are empty where a key signed.
	Identity, Issuer string
	// Benchmark is how fast the release is; nil where that was not measured.
	Benchmark *manifests.Benchmark
	// Changes are what changed since the release before; nil where there is none, or where it could
	// not be read. First says that there is none.
	Changes *changes.Changes
	First   bool
}

// Notes describes a release for people, in Markdown: what is in it, how to install it, and how to verify it. The same
// arguments give the same bytes. A paragraph is one line, because GitHub shows line breaks.
func Notes(release manifests.Release, table matrix.Matrix, o NotesOptions) string {
	n := notes{release: release, table: table, NotesOptions: o}
	n.head()
	n.since()
	n.install()
	n.bundles()
	n.speed()
	n.verify()
	n.models()
	return n.text.String()
}

type notes struct {
	NotesOptions
	release manifests.Release
	table   matrix.Matrix
	text    strings.Builder
}

func (n *notes) printf(format string, args ...any) { fmt.Fprintf(&n.text, format, args...) }

// has reports whether the release has a file.
func (n *notes) has(name string) bool {
	_, has := n.release.Asset(name)
	return has
}

// link leads to a file of the release.
func (n *notes) link(text, name string) string {
	return fmt.Sprintf("[%s](%s/%s)", text, n.Downloads, name)
}

func (n *notes) head() {
	llama := n.release.LlamaCPP
	version := "llama.cpp " + llama.Version
	commit := "`" + llama.Commit + "`"
	// The commit is GitHub's own name for the source; a tree that had no repository has none.
	if source := n.table.LlamaCPP.Repository; strings.HasPrefix(source, "https://") && !strings.HasPrefix(llama.Commit, "sha256:") {
		version = fmt.Sprintf("[%s](%s/tree/%s)", version, source, llama.Commit)
		commit = fmt.Sprintf("[`%s`](%s/commit/%s)", llama.Commit[:12], source, llama.Commit)
	}
	var toolkits []string
	for _, t := range n.release.Toolkits {
		toolkits = append(toolkits, "CUDA "+t.CUDA)
	}
	code := "the code for one generation of them"
	if slices.ContainsFunc(n.release.Bundles(), func(a manifests.Artifact) bool { return a.Row.PTX }) {
		code = "machine code for one generation of them, or PTX for newer ones,"
	}
	n.printf("%s (commit %s), compiled with %s for NVIDIA GPUs. Each bundle has %s and ", version, commit, strings.Join(toolkits, " and "), code)
	n.printf("nothing else; it needs a driver, and no CUDA installation.\n\n")
}

func (n *notes) since() {
	switch {
	case n.Changes != nil:
		n.printf("%s\n", n.Changes.Markdown())
	case n.First:
		n.printf("This is the first release.\n\n")
	}
}

func (n *notes) install() {
	n.printf("## Install\n\n")
	if n.has(manifests.InstallerName) {
		n.printf("```sh\ncurl -fsSL %s/install.sh | sh\nllcuda-fetch\n```\n\n", n.Downloads)
	}
	n.printf("`llcuda-fetch` finds the GPU, picks the bundle, verifies its signature, and installs it.")
	if n.has(manifests.InstallerName) {
		n.printf(" `install.sh` installs `llcuda-fetch`.")
	}
	n.printf("\nBy hand: unpack a bundle of the table below")
	n.printf("; where the machine has none of CUDA's own libraries, also the runtime in its row, whose `lib` goes into the bundle's.\n\n")
}

func (n *notes) bundles() {
	n.printf("## Bundles\n\n")
	n.printf("| SM | Architecture | GPUs | Where | Download | CUDA runtime | Driver | glibc |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	portable := ""
	for _, a := range n.release.Bundles() {
		var downloads []string
		for _, twin := range slices.Backward(n.release.Formats(a)) { // the better one first
			downloads = append(downloads, n.link(twin.Format, twin.Name)+" "+measure.Bytes(twin.Size))
		}
		runtime, _ := n.release.Runtime(a) // Check has seen to it
		architecture := a.Architecture
		if a.Row.PTX { // it serves none of the architecture that its PTX is of
			architecture = "newer"
			portable += fmt.Sprintf("`%s` is for GPUs newer than %s that no other bundle serves with their driver: "+
				"a driver from %s compiles its PTX for them, once, at the first start.\n", a.Stem(), a.Row.SM.Capability(), a.Requires.DriverMin.PTX)
		}
		n.printf("| %s | %s | %s | %s | %s | %s %s | %s | %s |\n", a.Row.Capability(), architecture, cell(a.GPUs), cell(n.platforms(a.Row)),
			strings.Join(downloads, "<br>"), n.link(manifests.RuntimeOf(runtime.Toolkit.CUDA, *runtime.DeviceCode).String(), runtime.Name), measure.Bytes(runtime.Size), a.Requires.DriverMin.Any(), a.Requires.Glibc)
	}
	n.printf("\nDriver and glibc are the oldest that work. Both archives of a bundle hold the same tar.\n%s\n", portable)
}

// speed is the benchmark. With a release to compare with, it has that one's speeds and the ratios as well.
func (n *notes) speed() {
	b := n.Benchmark
	if b == nil {
		return
	}
	n.printf("## Speed\n\n")
	n.printf("`llama-bench` of `%s` on %s, in tokens per second: the median of %d rounds", manifests.Stem(b.Bundles[len(b.Bundles)-1].Name), b.GPU, b.Rounds)
	if len(b.Bundles) > 1 {
		n.printf(", in which the bundles took turns")
	}
	n.printf(". %s has all figures.\n\n| Model | Test |", n.link(manifests.BenchmarkName, manifests.BenchmarkName))
	line := "| --- | --- |"
	for i, bundle := range b.Bundles {
		n.printf(" %s |", bundle.Release)
		line += " ---: |"
		if i > 0 {
			n.printf(" Ratio |")
			line += " ---: |"
		}
	}
	n.printf("\n%s\n", line)
	for _, test := range b.Tests {
		n.printf("| %s | %s |", cell([]string{test.Model}), test.Test)
		for _, speed := range test.Speeds {
			n.printf(" %.1f |", speed.TokensPerSecond.Median)
			if r := speed.Ratio; r != nil {
				n.printf(" %.3f (%.3f to %.3f) |", r.Median, r.Min, r.Max)
			}
		}
		n.printf("\n")
	}
	n.printf("\n")
}

func (n *notes) platforms(row matrix.Row) []string {
	for _, target := range n.table.Targets {
		if target.Row() == row {
			return target.Platforms
		}
	}
	return nil
}

func (n *notes) verify() {
	n.printf("## Verify\n\n")
	n.printf("`llcuda-fetch` verifies all of this by itself. By hand, with [cosign](https://docs.sigstore.dev/cosign/system_config/installation/) and coreutils:\n\n```sh\n%s```\n\n", Verification(n.Downloads, n.Identity, n.Issuer))
	if n.Identity == "" {
		n.printf("`farm.pub` is the public key of whoever made this release; get it from them, not from here.\n\n")
	}
	if n.has(manifests.ProvenanceName) {
		n.printf("%s says how the bundles were built", n.link(manifests.ProvenanceName, manifests.ProvenanceName))
		if len(n.release.Of(manifests.KindSBOM)) > 0 {
			n.printf(", the `.spdx.json` files what is in them")
		}
		n.printf(".\n\n")
	}
}

// Verification are the commands that verify a release's files by hand: downloads is the address of its
// folder, and identity and issuer are empty where a key signed.
func Verification(downloads, identity, issuer string) string {
	by := " --key farm.pub"
	if identity != "" {
		by = fmt.Sprintf(" \\\n  --certificate-identity %s \\\n  --certificate-oidc-issuer %s \\\n ", identity, issuer)
	}
	return fmt.Sprintf("curl -fsSLO %[1]s/%[2]s\ncurl -fsSLO %[1]s/%[3]s\ncosign verify-blob --bundle %[3]s%[4]s %[2]s\nsha256sum --check --ignore-missing %[2]s\n",
		downloads, manifests.SumsName, manifests.SignatureName, by)
}

func (n *notes) models() {
	if len(n.release.Models) == 0 {
		return
	}
	n.printf("## Models\n\n`llcuda-fetch pull NAME` knows these by name:\n\n| Name | Size | GPU memory | Made from | License |\n| --- | --- | --- | --- | --- |\n")
	for _, m := range n.release.Models {
		size, memory := "", ""
		if m.Size > 0 {
			size = measure.Bytes(m.Size)
		}
		if m.VRAM > 0 {
			memory = fmt.Sprintf("%d MiB", m.VRAM)
		}
		n.printf("| `%s` | %s | %s | [%s](https://huggingface.co/%[4]s) | %s |\n", m.Name, size, memory, m.Source, m.Licence)
	}
	n.printf("\n")
}

// cell is a list in one cell of a table.
func cell(list []string) string { return strings.ReplaceAll(strings.Join(list, ", "), "|", `\|`) }
