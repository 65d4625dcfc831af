package cli

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
)

// A page is one Markdown file of the repository.
type page struct {
	prose   string   // without fenced code
	code    []string // the lines of fenced code, and code in the prose
	anchors []string // of its headings, as GitHub makes them
}

var (
	inlineCode = regexp.MustCompile("`([^`]+)`")
	heading    = regexp.MustCompile(`(?m)^#+ (.*)$`)
	pageLink   = regexp.MustCompile(`\]\(([^()\s]+)\)`)
)

// pages are the repository's Markdown files by their paths. Those below testdata and npm are data.
func pages(t *testing.T) map[string]page {
	t.Helper()
	all := map[string]page{}
	err := filepath.WalkDir(repositoryRoot, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != repositoryRoot && (strings.HasPrefix(d.Name(), ".") || slices.Contains([]string{"testdata", "build", "dist", "node_modules"}, d.Name())):
			return filepath.SkipDir
		case filepath.Ext(path) != ".md":
			return nil
		}
		name, err := filepath.Rel(repositoryRoot, path)
		all[name] = readPage(string(read(t, path)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func readPage(text string) (p page) {
	var prose strings.Builder
	fenced := false
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
		case fenced:
			p.code = append(p.code, strings.TrimSpace(line))
		default:
			prose.WriteString(line)
		}
	}
	p.prose = prose.String()
	for _, match := range inlineCode.FindAllStringSubmatch(p.prose, -1) {
		p.code = append(p.code, match[1])
	}
	for _, match := range heading.FindAllStringSubmatch(p.prose, -1) {
		p.anchors = append(p.anchors, anchor(match[1]))
	}
	return p
}

func anchor(title string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, title)
}

// shipped are the pages that are read outside of the repository, where only whole addresses lead anywhere.
var shipped = []string{"manifests/cmd/llcuda-fetch/README.md", "manifests/python/README.md"}

// brokenLinks are the links between pages, and from pages to files, that lead nowhere.
func brokenLinks(all map[string]page, exists func(string) bool) (broken []string) {
	for name, p := range all {
		for _, match := range pageLink.FindAllStringSubmatch(p.prose, -1) {
			path, fragment, _ := strings.Cut(match[1], "#")
			target := name
			inner, here := strings.CutPrefix(path, manifests.RepositoryURL+"/blob/main/")
			switch {
			case here:
				target = inner
			case strings.Contains(path, "://"):
				continue
			case path != "" && slices.Contains(shipped, name):
				target = "nowhere"
			case path != "":
				target = filepath.Join(filepath.Dir(name), path)
			}
			if !exists(target) || fragment != "" && !slices.Contains(all[target].anchors, fragment) {
				broken = append(broken, name+": "+match[1])
			}
		}
	}
	slices.Sort(broken)
	return broken
}

func TestDocsLinks(t *testing.T) {
	all := pages(t)
	for _, broken := range brokenLinks(all, func(path string) bool {
		_, err := os.Stat(filepath.Join(repositoryRoot, path))
		return err == nil
	}) {
		t.Error(broken)
	}
	for name := range all {
		if filepath.Dir(name) == "docs" && !strings.Contains(all["README.md"].prose, "("+name+")") {
			t.Errorf("README.md does not link to %s", name)
		}
	}
}

func TestBrokenLinks(t *testing.T) {
	all := map[string]page{
		"README.md": readPage("# A B, `c`!\n[a](#a-b-c) [b](#b) [c](docs/d.md#e) [d](docs/d.md#a-b-c) [e](docs/f.md) [f](https://example.org/#x)\n```\n# no heading\n[g](h.md)\n```\n[i](#no-heading)\n"),
		"docs/d.md": readPage("## E\n[a](../README.md#a-b-c) [b](README.md)\n[c](" + manifests.RepositoryURL + "/blob/main/README.md#b) [d](" + manifests.RepositoryURL + "/blob/main/docs/d.md#e)"),
		shipped[0]:  readPage("## E\n[a](../../../README.md) [b](#e)"),
	}
	got := brokenLinks(all, func(path string) bool { _, ok := all[path]; return ok })
	want := []string{"README.md: #b", "README.md: #no-heading", "README.md: docs/d.md#a-b-c", "README.md: docs/f.md", "docs/d.md: README.md", "docs/d.md: " + manifests.RepositoryURL + "/blob/main/README.md#b", shipped[0] + ": ../../../README.md"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// checkCommand parses a command line as ci would, and runs nothing.
func checkCommand(words []string) error {
	root := newRoot(&console.Terminal{Out: io.Discard, Err: io.Discard}, &fakeEngines{})
	command, rest, err := root.Find(words)
	if err != nil {
		return err
	}
	command.InitDefaultHelpFlag()
	if err := command.ParseFlags(rest); err != nil {
		return err
	}
	if err := command.ValidateRequiredFlags(); err != nil {
		return err
	}
	return command.ValidateArgs(command.Flags().Args())
}

// The commands of ci that the pages show can be typed.
func TestDocsCommands(t *testing.T) {
	shown := 0
	for name, p := range pages(t) {
		for _, line := range p.code {
			command, ok := strings.CutPrefix(line, "go run ./ci ")
			if !ok {
				continue
			}
			shown++
			command, _, _ = strings.Cut(command, " #")
			if err := checkCommand(strings.Fields(command)); err != nil {
				t.Errorf("%s: %s: %v", name, line, err)
			}
		}
	}
	if shown < 20 {
		t.Errorf("the pages show only %d commands", shown)
	}
	for _, wrong := range []string{"bild --sm 75", "build --sn 75", "publish gitlab dist", "verify dist dist2", "plan dist"} {
		if checkCommand(strings.Fields(wrong)) == nil {
			t.Errorf("ci %s is taken for right", wrong)
		}
	}
}

// Every command of ci has examples of itself, and they can be typed.
func TestExamples(t *testing.T) {
	quoted := regexp.MustCompile(`"[^"]*"`)
	var check func(cmd *cobra.Command)
	check = func(cmd *cobra.Command) {
		if !strings.Contains(cmd.Example, "go run ./"+cmd.CommandPath()) {
			t.Errorf("%s has no example of itself", cmd.CommandPath())
		}
		for _, example := range strings.Split(cmd.Example, "\n") {
			command, ok := strings.CutPrefix(example, "  go run ./ci ")
			command, _, _ = strings.Cut(quoted.ReplaceAllString(command, "quoted"), " #")
			if err := checkCommand(strings.Fields(command)); err != nil || !ok {
				t.Errorf("%s: %q: %v", cmd.CommandPath(), example, err)
			}
		}
		for _, sub := range cmd.Commands() {
			check(sub)
		}
	}
	check(newRoot(&console.Terminal{Out: io.Discard, Err: io.Discard}, &fakeEngines{}))
}

// The targets of make that the pages show are in the Makefile.
func TestDocsMake(t *testing.T) {
	makefile := read(t, filepath.Join(repositoryRoot, "Makefile"))
	shown := 0
	for name, p := range pages(t) {
		for _, line := range p.code {
			words := strings.Fields(strings.TrimPrefix(line, "$ "))
			if len(words) < 2 || words[0] != "make" {
				continue
			}
			shown++
			if !bytes.Contains(makefile, []byte("\n"+words[1]+":")) {
				t.Errorf("%s: %s: there is no such target", name, line)
			}
		}
	}
	if shown < 3 {
		t.Errorf("the pages show only %d", shown)
	}
}

// README's table of GPUs, and the versions next to it, match the matrix.
func TestDocsGPUs(t *testing.T) {
	m, err := spec.Default()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"| SM | GPUs | bundle |", "| --- | --- | --- |"}
	newest := ""
	for _, target := range m.Targets {
		name := manifests.BundleName(target.Row())
		if target.PTX {
			newest = name
			continue
		}
		want = append(want, fmt.Sprintf("| %s | %s | %s |", target.SM.Capability(), strings.Join(target.GPUs, ", "), name))
	}
	want = append(want, fmt.Sprintf("| newer | later GPUs | %s, whose PTX the driver compiles |", newest))

	text := pages(t)["README.md"].prose
	_, section, _ := strings.Cut(text, "## Which GPU gets which bundle\n\n")
	table, _, _ := strings.Cut(section, "\n\n")
	if diff := cmp.Diff(want, strings.Split(table, "\n")); diff != "" {
		t.Errorf("README.md's table of GPUs (-the matrix +README.md):\n%s", diff)
	}
	versions := []string{"glibc " + m.Floors.Glibc}
	for _, toolkit := range m.Toolkits {
		versions = append(versions, "driver "+toolkit.DriverCubin)
		if toolkit.DriverPTX != "" {
			versions = append(versions, "PTX needs "+toolkit.DriverPTX)
		}
	}
	for _, version := range versions {
		if !strings.Contains(text, version) {
			t.Errorf("README.md does not say %q", version)
		}
	}
}
