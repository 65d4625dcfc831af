package bump

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// maxListed bounds a list in the text: a pull request takes 65,536 characters.
const maxListed = 60

// Text is that of a commit or pull request: a title, an empty line, and in Markdown from where to where, and what changed that
// the farm depends on. What comes from upstream stands there as code, so that it can be neither markup nor a mention.
func (b Bump) Text() string {
	var t strings.Builder
	title := "Build llama.cpp " + b.After.Version
	if b.Before.Tree == b.After.Tree {
		title = "Name the npm package of llama.cpp " + b.After.Version
	}
	compare := fmt.Sprintf("%s/compare/%s...%s", strings.TrimSuffix(b.Before.Repository, ".git"), b.Before.Ref, b.After.Ref)
	fmt.Fprintf(&t, "%s\n\nllama.cpp %s → %s: [what changed](%s).\n\n| | before | now |\n| --- | --- | --- |\n", title, code(b.Before.Ref), code(b.After.Ref), compare)
	for _, row := range []struct {
		name  string
		value func(matrix.LlamaPin) string
	}{
		{"version", func(p matrix.LlamaPin) string { return p.Version }},
		{"commit", func(p matrix.LlamaPin) string { return p.Commit }},
		{"tree", func(p matrix.LlamaPin) string { return p.Tree }},
		{"build", func(p matrix.LlamaPin) string { return fmt.Sprint(p.Build) }},
		{"npm package", func(p matrix.LlamaPin) string { return p.NPMPackage }},
	} {
		fmt.Fprintf(&t, "| %s | %s | %s |\n", row.name, code(row.value(b.Before)), code(row.value(b.After)))
	}
	if !b.Date.IsZero() {
		fmt.Fprintf(&t, "\nReleased %s.\n", b.Date.UTC().Format("2006-01-02 15:04 UTC"))
	}
	var problems []string
	for _, problem := range b.Problems {
		line := code(problem.Error())
		if way := hint(problem); way != "" {
			line += "; " + code(way)
		}
		problems = append(problems, line)
	}
	section(&t, "It does not build yet", problems)
	section(&t, "Look at this first", b.attention())
	c := b.Changes
	section(&t, "Options", slices.Concat(c.Options.lines(), c.defaults(), c.renamed()))
	section(&t, "Programs", c.Programs.lines())
	section(&t, "Libraries", c.Libraries.lines())
	section(&t, "Functions of CUDA that the backend calls", c.CUDA.lines())
	section(&t, "Libraries of CUDA that it names", c.Linked.lines())
	section(&t, "Licenses and notices", append(c.Licenses.lines(), list("changed", c.Reworded)...))
	section(&t, "Licenses of the web UI's npm packages", c.PageLicenses.lines())
	if same := c.unchanged(); len(same) > 0 {
		fmt.Fprintf(&t, "\nUnchanged: %s.\n", strings.Join(same, ", "))
	}
	return t.String()
}

// hint is the way out of a problem, if it knows one.
func hint(problem error) string {
	if source, ok := errors.AsType[*farm.SourceError](problem); ok {
		return source.Hint
	}
	var hinted interface{ Hint() string }
	if errors.As(problem, &hinted) {
		return hinted.Hint()
	}
	return ""
}

// attention is what a reviewer must think about.
func (b Bump) attention() []string {
	var lines []string
	c := b.Changes
	if len(c.Unset.New) > 0 {
		lines = append(lines, "options that the farm sets and that are gone, so that it leaves them out: "+codes(c.Unset.New))
	}
	if len(c.Unset.Gone) > 0 {
		lines = append(lines, "options that the farm sets where they exist, as they do now: "+codes(c.Unset.Gone))
	}
	isBLAS := func(name string) bool { return strings.HasPrefix(name, "cublas") }
	if slices.ContainsFunc(slices.Concat(c.CUDA.New, c.CUDA.Gone), isBLAS) {
		lines = append(lines, "the functions of cuBLAS that are called are others: the CUDA runtimes are linked again, and users download them again")
	}
	if len(c.Linked.New) > 0 {
		lines = append(lines, "libraries of CUDA that were not named before: "+codes(c.Linked.New)+". The runtimes must have those that are linked")
	}
	for _, name := range b.Upstream {
		lines = append(lines, "upstream has "+code(name)+" now: remove it from matrix/patches")
	}
	for _, note := range b.Notes {
		lines = append(lines, code(note))
	}
	return lines
}

// defaults are the options with another default.
func (c Changes) defaults() []string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(c.Defaults)) {
		lines = append(lines, fmt.Sprintf("another default of %s: %s, before %s", code(name), code(c.Defaults[name][1]), code(c.Defaults[name][0])))
	}
	return lines
}

// renamed are the options that the new tree gives another name.
func (c Changes) renamed() []string {
	var lines []string
	for _, from := range slices.Sorted(maps.Keys(c.Renamed)) {
		if to := c.Renamed[from]; to != "" {
			lines = append(lines, code(from)+" is "+code(to)+" now")
		} else {
			lines = append(lines, code(from)+" has no effect any more")
		}
	}
	return lines
}

// unchanged are the names of what is the same in both trees.
func (c Changes) unchanged() []string {
	var same []string
	for _, part := range []struct {
		name  string
		lines int
	}{
		{"options", len(c.Options.lines()) + len(c.Defaults) + len(c.Renamed)},
		{"programs", len(c.Programs.lines())},
		{"libraries", len(c.Libraries.lines())},
		{"functions of CUDA", len(c.CUDA.lines()) + len(c.Linked.lines())},
		{"licenses", len(c.Licenses.lines()) + len(c.Reworded) + len(c.PageLicenses.lines())},
	} {
		if part.lines == 0 {
			same = append(same, part.name)
		}
	}
	return same
}

func (d Delta) lines() []string { return append(list("new", d.New), list("gone", d.Gone)...) }

// list is one line of names, or none.
func list(title string, names []string) []string {
	if len(names) == 0 {
		return nil
	}
	return []string{title + ": " + codes(names)}
}

func section(t *strings.Builder, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(t, "\n### %s\n\n", title)
	for _, line := range lines {
		fmt.Fprintf(t, "- %s\n", line)
	}
}

func codes(names []string) string {
	var quoted []string
	for _, name := range names[:min(len(names), maxListed)] {
		quoted = append(quoted, code(name))
	}
	text := strings.Join(quoted, ", ")
	if more := len(names) - maxListed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// code makes any text a code span of one line.
func code(text string) string {
	text = strings.Join(strings.Fields(strings.ReplaceAll(text, "`", "'")), " ")
	if text == "" {
		return "–"
	}
	return "`" + strings.ReplaceAll(text, "|", "¦") + "`"
}
