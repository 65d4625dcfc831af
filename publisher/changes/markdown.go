package changes

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// maxListed is how many names a line lists: more are not read, and GitHub takes notes of 125,000
// characters. The JSON has all.
const maxListed = 12

// Markdown says what changed, as release notes do: a list, and a table of the sizes whose columns
// line up in a terminal, too. Nothing that is the same takes a line, except what users ask first.
func (c Changes) Markdown() string {
	if c.Same {
		return fmt.Sprintf("Both are %s, and the same: no file and no model differs.\n", c.After)
	}
	m := markdown{Changes: c}
	m.printf("## Changes since %s\n\n", c.Before)
	if c.Before == c.After {
		m.line("Both releases call themselves %s, and they are not the same.", c.After)
	}
	m.llama()
	m.states()
	m.facts()
	m.runtimes()
	m.speed()
	m.files()
	m.names("Clients", c.Clients)
	m.names("Models", c.Models)
	m.sizes()
	return m.text.String()
}

type markdown struct {
	Changes
	text strings.Builder
}

func (m *markdown) printf(format string, args ...any) { fmt.Fprintf(&m.text, format, args...) }

// line is one entry of the list.
func (m *markdown) line(format string, args ...any) { m.printf("- "+format+"\n", args...) }

func (m *markdown) llama() {
	before, after := m.LlamaCPP.Before, m.LlamaCPP.After
	link := ""
	if m.LlamaCPP.URL != "" {
		link = ": " + m.LlamaCPP.URL
	}
	switch {
	case before.Commit == after.Commit:
		m.line("llama.cpp: %s, unchanged", after.Version)
	case before.Version == after.Version:
		m.line("llama.cpp: %s, commit `%s` → `%s`%s", after.Version, short(before.Commit), short(after.Commit), link)
	default:
		m.line("llama.cpp: %s → %s%s", before.Version, after.Version, link)
	}
}

// short is the beginning of a commit or digest, which tells it from others.
func short(commit string) string { return commit[:min(len(commit), 12)] }

// states names the bundles that only one release has.
func (m *markdown) states() {
	for _, state := range []State{StateNew, StateGone} {
		var rows []matrix.Row
		for _, b := range m.Bundles {
			if b.State == state {
				rows = append(rows, b.Row)
			}
		}
		if len(rows) > 0 {
			m.line("Bundles %s: %s", state, list(rows))
		}
	}
}

// facts has a line for each fact, with all bundles of which it is true.
func (m *markdown) facts() {
	required := false
	for _, what := range kinds {
		var same grouping
		for _, b := range m.Bundles {
			for _, f := range b.Facts {
				if f.What == what {
					required = required || slices.Contains(requirements, what)
					same.add(f.text(), b.Row)
				}
			}
		}
		for _, text := range same.texts {
			m.line("%s (%s)", text, m.which(same.of[text]))
		}
	}
	if !required && m.both() > 0 {
		m.line("Driver, glibc and GLIBCXX needed: unchanged")
	}
}

// A grouping is lines, each with the bundles of which it is true.
type grouping struct {
	texts []string // in the order in which they were added
	of    map[string][]matrix.Row
}

func (g *grouping) add(text string, row matrix.Row) {
	if g.of == nil {
		g.of = map[string][]matrix.Row{}
	}
	if g.of[text] == nil {
		g.texts = append(g.texts, text)
	}
	g.of[text] = append(g.of[text], row)
}

func (f Fact) text() string {
	if f.Before+f.After == "" {
		return f.What + ": " + listed("added", f.Added, "gone", f.Gone)
	}
	value := func(s string) string {
		if s == "" {
			return "none"
		}
		return s
	}
	return fmt.Sprintf("%s: %s → %s", f.What, value(f.Before), value(f.After))
}

// which names bundles that both releases have.
func (m *markdown) which(rows []matrix.Row) string {
	switch both := m.both(); {
	case len(rows) < both:
		return list(rows)
	case both < len(m.Bundles):
		return "all bundles of both releases"
	}
	return "all bundles"
}

// both is how many bundles both releases have.
func (m *markdown) both() int {
	n := 0
	for _, b := range m.Bundles {
		if b.State != StateNew && b.State != StateGone {
			n++
		}
	}
	return n
}

func list[T fmt.Stringer](items []T) string {
	var texts []string
	for _, item := range items {
		texts = append(texts, item.String())
	}
	return strings.Join(texts, ", ")
}

// listed writes lists of names, each behind a word; those that are empty are left out.
func listed(wordsAndNames ...any) string {
	var parts []string
	for pair := range slices.Chunk(wordsAndNames, 2) {
		names := pair[1].([]string)
		if len(names) == 0 {
			continue
		}
		text := pair[0].(string) + " `" + strings.Join(names[:min(len(names), maxListed)], "`, `") + "`"
		if more := len(names) - maxListed; more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}

func (m *markdown) runtimes() {
	var same []string
	for _, r := range m.Runtimes {
		download := r.Sizes[0]
		switch r.State {
		case StateUnchanged:
			same = append(same, r.Name)
		case StateChanged:
			m.line("CUDA runtime %s: another one, to be downloaded again, %s", r.Name, change(download))
		case StateNew:
			m.line("CUDA runtime %s: new, %s", r.Name, change(download))
		case StateGone:
			m.line("CUDA runtime %s: gone", r.Name)
		}
	}
	if len(same) > 0 {
		m.line("CUDA runtimes unchanged, no download: %s", strings.Join(same, ", "))
	}
}

// change is a size, and what became of it.
func change(s Size) string {
	switch difference := s.After - s.Before; {
	case s.Before == 0:
		return measure.Bytes(s.After)
	case difference == 0:
		return measure.Bytes(s.After) + " as before"
	default:
		return measure.Bytes(s.After) + ", " + signed(difference, s.Before)
	}
}

// signed is a difference in bytes and in percent.
func signed(difference, of int64) string {
	sign, size := "+", difference
	if size < 0 {
		sign, size = "-", -size
	}
	return fmt.Sprintf("%s%s (%+.1f%%)", sign, measure.Bytes(size), 100*float64(difference)/float64(of))
}

func (m *markdown) speed() {
	for i, s := range m.Speed {
		if i == 0 {
			how := ", measured in turn"
			if !s.SameRun {
				how = ", measured in separate runs"
			}
			m.line("Speed of `%s` on %s, in tokens per second%s:", s.Bundle, s.GPU, how)
		}
		m.printf("  - `%s` %s: %.1f → %.1f (%+.1f%%)\n", s.Model, s.Test, s.Before, s.After, 100*(s.Ratio-1))
	}
}

// files has a line for each kind of change, with all bundles whose files changed like that.
func (m *markdown) files() {
	var same grouping
	var unknown []matrix.Row
	for _, b := range m.Bundles {
		switch {
		case b.State == StateNew || b.State == StateGone:
		case b.Files == nil:
			unknown = append(unknown, b.Row)
		default:
			same.add(b.Files.text(), b.Row)
		}
	}
	for _, text := range same.texts {
		m.line("Files of %s: %s", m.which(same.of[text]), text)
	}
	if len(unknown) > 0 {
		m.line("Files not compared, because there is neither a bill of materials nor an archive to read: %s", m.which(unknown))
	}
}

// maxChanged is how many changed files are named: another llama.cpp or compiler changes nearly all.
const maxChanged = 4

func (f *Files) text() string {
	var renamed []string
	for _, r := range f.Renamed {
		renamed = append(renamed, r.Before+"` → `"+r.After)
	}
	text := listed("added", inAnyToolkit(f.Added), "gone", inAnyToolkit(f.Gone), "renamed", renamed)
	rest := ""
	switch n := len(f.Changed); {
	case n == 0 && text == "":
		return "the same"
	case n == 0:
		return text
	case n > maxChanged:
		rest = fmt.Sprintf("changed %d of %d", n, n+f.Same)
	default:
		rest = listed("changed", inAnyToolkit(f.Changed))
	}
	if text != "" {
		text += "; "
	}
	return text + rest
}

var programsDir = regexp.MustCompile(`^binaries/cuda[0-9]+/`)

// inAnyToolkit writes the folder of the programs in one way, so that one line does for the bundles
// of all toolkits.
func inAnyToolkit(paths []string) []string {
	var all []string
	for _, path := range paths {
		all = append(all, programsDir.ReplaceAllString(path, "binaries/*/"))
	}
	return all
}

func (m *markdown) names(what string, n Names) {
	if text := listed("added", n.Added, "gone", n.Gone, "changed", n.Changed); text != "" {
		m.line("%s: %s", what, text)
	}
}

// sizes is the table: a row for each bundle, by its two archives.
func (m *markdown) sizes() {
	if !slices.ContainsFunc(m.Bundles, func(b Bundle) bool {
		return slices.ContainsFunc(b.Sizes, func(s Size) bool { return s.Before != s.After })
	}) {
		m.line("Sizes: unchanged")
		return
	}
	header := []string{"SM"}
	for _, format := range slices.Backward(manifests.Formats()) {
		header = append(header, format, "Change")
	}
	rows := [][]string{header}
	for _, b := range m.Bundles {
		row := []string{b.Row.Capability()}
		for _, s := range b.Sizes {
			switch {
			case s.Before == 0 && s.After == 0:
				row = append(row, "", "")
			case s.Before == 0:
				row = append(row, measure.Bytes(s.After), string(StateNew))
			case s.After == 0:
				row = append(row, "", string(StateGone))
			case s.Before == s.After:
				row = append(row, measure.Bytes(s.After), "same")
			default:
				row = append(row, measure.Bytes(s.After), signed(s.After-s.Before, s.Before))
			}
		}
		rows = append(rows, row)
	}
	m.printf("\n%s", table(rows))
}

// table is a table in Markdown whose columns are filled up with blanks, the first row its header.
func table(rows [][]string) string {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell), len("---:"))
		}
	}
	var text strings.Builder
	for n, row := range rows {
		for i, cell := range row {
			fmt.Fprintf(&text, "| %*s ", widths[i], cell)
		}
		text.WriteString("|\n")
		if n == 0 {
			for _, width := range widths {
				text.WriteString("| " + strings.Repeat("-", width-1) + ": ")
			}
			text.WriteString("|\n")
		}
	}
	return text.String()
}
