// Package patches is the changes that the farm makes to llama.cpp before it compiles it: the .patch files of this
// folder, in the order of their names. Adding one is adding a file, NNNN-name.patch, as git format-patch writes it:
//
//	git format-patch --zero-commit --no-signature --no-stat -N
//
// The header gives the reason and a link to where upstream stands. A patch changes text files that exist, or adds
// new ones; it renames and deletes nothing.
//
// Where the lines to change differ between releases of llama.cpp, NNNN-name.TREE.patch beside it makes the same change
// to other releases; TREE says which.
//
// ResolveSource of ci/internal/farm applies them. It passes in the contents of a tree's files and gets the changed
// contents:
//
//	Default   ──▶ []Patch
//	Patch, file ──Apply──▶ changed files, or *ConflictError, *NotThereError, ErrUpstream
//
// A hunk applies where all of its lines are, context included, and only if they are in the file once. Its line
// numbers do not count, since other versions of llama.cpp have the same lines elsewhere, and there is no fuzz.
//
// The package reads only its own files and writes none.
package patches

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"github.com/bluekeyes/go-gitdiff/gitdiff"
)

//go:embed *.patch
var files embed.FS

// A Patch is one file of the set.
type Patch struct {
	Name   string // "0001-amx-tile-configuration.patch"
	SHA256 string // hex, of the file

	changes []*gitdiff.File
	others  []Patch
}

// Forms are the patch itself and then the same change for other trees.
func (p Patch) Forms() []Patch { return append([]Patch{p}, p.others...) }

// Default is the set that this farm applies.
func Default() ([]Patch, error) { return Read(files) }

var (
	fileName = regexp.MustCompile(`^([0-9]{4}-[a-z0-9][a-z0-9-]*)(\.[a-z0-9]+)?\.patch$`)
	link     = regexp.MustCompile(`https://[^\s/]+/\S+`)
)

// Read reads all .patch files of a folder, ascending by name.
func Read(fsys fs.FS) ([]Patch, error) {
	names, err := fs.Glob(fsys, "*.patch") // sorted, by ReadDir
	if err != nil {
		return nil, fmt.Errorf("reading the patches: %w", err)
	}
	var set []Patch
	others := map[string][]Patch{} // by the name of the patch that they are forms of
	for _, name := range names {
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, fmt.Errorf("reading the patches: %w", err)
		}
		p, err := parse(name, text)
		if err == nil {
			if match := fileName.FindStringSubmatch(name); match[2] != "" {
				others[match[1]+".patch"] = append(others[match[1]+".patch"], p)
				continue
			}
			if last := len(set) - 1; last >= 0 && set[last].Name[:4] == name[:4] {
				err = fmt.Errorf("%s has the same number, and the order of the two would be that of their words", set[last].Name)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("reading the patch %s: %w", name, err)
		}
		set = append(set, p)
	}
	for i, p := range set {
		set[i].others = others[p.Name]
		delete(others, p.Name)
	}
	for name, forms := range others {
		return nil, fmt.Errorf("reading the patch %s: there is no %s that it is another form of", forms[0].Name, name)
	}
	return set, nil
}

func parse(name string, text []byte) (Patch, error) {
	if !fileName.MatchString(name) {
		return Patch{}, errors.New("the name is not NNNN-name.patch or NNNN-name.TREE.patch")
	}
	changes, preamble, err := gitdiff.Parse(bytes.NewReader(text))
	if err != nil {
		return Patch{}, err
	}
	header, err := gitdiff.ParsePatchHeader(preamble)
	switch {
	case err != nil:
		return Patch{}, err
	case header.Title == "" || !link.MatchString(header.Body) || strings.TrimSpace(link.ReplaceAllString(header.Body, "")) == "":
		return Patch{}, errors.New("its header does not say what it does, why, and where upstream stands (an https link)")
	case len(changes) == 0:
		return Patch{}, errors.New("it changes no file")
	}
	for _, change := range changes {
		switch to := nameOf(change); {
		case !fs.ValidPath(to) || to == "." || path.Clean(to) != to:
			return Patch{}, fmt.Errorf("%q is not a path in a source tree", to)
		case change.IsDelete || change.IsRename || change.IsCopy || change.IsBinary || change.OldMode != 0 && change.NewMode != 0 && change.OldMode != change.NewMode:
			return Patch{}, fmt.Errorf("%s: it must change or add text; it deletes, renames, copies, changes a mode, or is binary", to)
		case len(change.TextFragments) == 0:
			return Patch{}, fmt.Errorf("%s: it changes nothing", to)
		}
	}
	sum := sha256.Sum256(text)
	return Patch{Name: name, SHA256: hex.EncodeToString(sum[:]), changes: changes}, nil
}

// nameOf is a file's path in the tree.
func nameOf(change *gitdiff.File) string {
	if change.NewName != "" {
		return change.NewName
	}
	return change.OldName
}

// ErrUpstream means that a tree has a patch's changes already.
var ErrUpstream = errors.New("the source has these changes already")

// NotThereError is a tree without a file that a patch changes.
type NotThereError struct{ Patch, File string }

func (e *NotThereError) Error() string {
	return fmt.Sprintf("applying the patch %s: the source does not have %s", e.Patch, e.File)
}

// Hint is the way out.
func (e *NotThereError) Hint() string { return (&ConflictError{Patch: e.Patch}).Hint() }

// ConflictError is a patch that does not apply to a tree.
type ConflictError struct {
	Patch   string
	File    string
	Hunk    int    // counted from 1 within the file
	Header  string // the hunk's own line: "@@ -220,6 +220,10 @@ …"
	Problem string
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("applying the patch %s: %s, hunk %d (%s): %s", e.Patch, e.File, e.Hunk, e.Header, e.Problem)
}

// Hint is the way out.
func (e *ConflictError) Hint() string {
	name, _, _ := strings.Cut(e.Patch, ".")
	return "adapt matrix/patches/" + e.Patch + " to this source, or put the change for it beside that as " + name + ".TREE.patch, or remove it where its reason is gone"
}

// Apply gives the new contents of the files that the patch changes, by their paths. read gives a file of the tree, or
// an error that wraps fs.ErrNotExist. Nothing is given where one of the hunks does not apply.
func (p Patch) Apply(read func(name string) ([]byte, error)) (map[string][]byte, error) {
	after := map[string][]byte{}
	applied := func(name string) ([]byte, error) {
		if text, ok := after[name]; ok {
			return text, nil
		}
		return read(name)
	}
	var conflict *ConflictError
	upstream := true // as long as every file has the patch's result
	for _, change := range p.changes {
		name := nameOf(change)
		before, err := applied(name)
		missing := errors.Is(err, fs.ErrNotExist)
		switch {
		case err != nil && !missing:
			return nil, fmt.Errorf("applying the patch %s: %w", p.Name, err)
		case missing && !change.IsNew:
			return nil, &NotThereError{p.Name, name}
		}
		text, problem := p.change(change, before, !missing)
		if problem != nil && conflict == nil {
			conflict = problem
		}
		after[name] = text
		upstream = upstream && !missing && has(change, before)
	}
	switch {
	case conflict == nil:
		return after, nil
	case upstream:
		return nil, ErrUpstream
	}
	return nil, conflict
}

// change applies one file's hunks, top to bottom.
func (p Patch) change(file *gitdiff.File, before []byte, exists bool) ([]byte, *ConflictError) {
	rest := before
	var after []byte
	for i, hunk := range file.TextFragments {
		fail := func(format string, args ...any) ([]byte, *ConflictError) {
			return nil, &ConflictError{p.Name, nameOf(file), i + 1, strings.TrimSpace(hunk.Header()), fmt.Sprintf(format, args...)}
		}
		was, is := sides(hunk)
		if file.IsNew {
			if exists {
				return fail("the source has the file already")
			}
			return is, nil
		}
		switch places := find(before, was); {
		case len(places) == 0:
			return fail("its lines are not in the file")
		case len(places) > 1:
			return fail("its lines are in the file %d times", len(places))
		default:
			at := places[0] - (len(before) - len(rest))
			if at < 0 {
				return fail("its lines come before those of the hunk before it")
			}
			after = append(append(after, rest[:at]...), is...)
			rest = rest[at+len(was):]
		}
	}
	return append(after, rest...), nil
}

// has reports whether a file already has the change that the patch makes.
func has(file *gitdiff.File, text []byte) bool {
	for _, hunk := range file.TextFragments {
		_, is := sides(hunk)
		if file.IsNew {
			return bytes.Equal(text, is)
		}
		if len(find(text, is)) != 1 {
			return false
		}
	}
	return true
}

// sides are a hunk's lines before and after it.
func sides(hunk *gitdiff.TextFragment) (was, is []byte) {
	for _, line := range hunk.Lines {
		if line.Old() {
			was = append(was, line.Line...)
		}
		if line.New() {
			is = append(is, line.Line...)
		}
	}
	return was, is
}

// find lists where whole lines stand in a text. Lines without an end stand at the text's end only.
func find(text, lines []byte) []int {
	var places []int
	for from := 0; len(lines) > 0; {
		at := bytes.Index(text[from:], lines)
		if at < 0 {
			break
		}
		at += from
		end := at + len(lines)
		if (at == 0 || text[at-1] == '\n') && (text[end-1] == '\n' || end == len(text)) {
			places = append(places, at)
		}
		from = at + 1
	}
	return places
}
