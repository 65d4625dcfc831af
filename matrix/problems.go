package matrix

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxShown bounds an error's length: the documents checked may come from a stranger.
const maxShown = 100

// A Problem is one thing wrong in a document. Path says where: "targets[3].architecture".
type Problem struct {
	Path   string
	Detail string
}

// Problems is everything found wrong in one document, as an error. The checks of a document report through it, so
// that an editor of the document sees all problems at once.
type Problems []Problem

// Addf adds a problem at a path.
func (p *Problems) Addf(path, format string, args ...any) {
	*p = append(*p, Problem{Path: path, Detail: fmt.Sprintf(format, args...)})
}

// Under adds the problems in err, which a check of one part returned, below the path of that part.
func (p *Problems) Under(path string, err error) {
	if err == nil {
		return
	}
	var inner Problems
	if !errors.As(err, &inner) {
		p.Addf(path, "%v", err)
		return
	}
	for _, problem := range inner {
		problem.Path = JoinPath(path, problem.Path)
		*p = append(*p, problem)
	}
}

// JoinPath is the path of a part of what stands at path: a field's name, or "[3]".
func JoinPath(path, part string) string {
	if path == "" || part == "" || part[0] == '[' {
		return path + part
	}
	return path + "." + part
}

// PathKey is a key that a document's author chose, as it may stand in a path or a message: quoted where it is not plain,
// cut where it is long.
func PathKey(key string) string {
	const enough = 64
	if len(key) > enough {
		key = strings.ToValidUTF8(key[:enough], "") + "…"
	}
	if key == "" || !IsPrintable(key) || strings.ContainsAny(key, ` .[]"`) {
		return strconv.Quote(key)
	}
	return key
}

// IsPrintable reports whether s can be shown to a user as it is, in one line: control characters rewrite terminals, and
// text that is not UTF-8 does not survive JSON.
func IsPrintable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// Err is the problems as an error, or nil where there are none.
func (p Problems) Err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

func (p Problems) Error() string {
	var b strings.Builder
	for i, problem := range p {
		if i > 0 {
			b.WriteByte('\n')
		}
		if i == maxShown {
			fmt.Fprintf(&b, "and %d more", len(p)-maxShown)
			break
		}
		if problem.Path != "" {
			b.WriteString(problem.Path + ": ")
		}
		b.WriteString(problem.Detail)
	}
	return b.String()
}
