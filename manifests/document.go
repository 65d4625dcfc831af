package manifests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// Limits of what is read, so that a hostile server can waste neither memory nor time. The largest
// release possible (MaxAssets bundles) is under a tenth of MaxSize.
const (
	// MaxSize bounds manifest.json, metadata.json and SHA256SUMS, in bytes.
	MaxSize = 4 << 20
	// MaxAssets is GitHub's limit on the assets of a release.
	MaxAssets = 1000
	// maxNodes bounds the values in a document: what is in memory is many times what was sent. A
	// full release of MaxAssets bundles has a quarter of it.
	maxNodes = 200_000
	// maxProblems is the number of problems after which a document is plainly something else and is
	// no longer read.
	maxProblems = 100
	// maxDepth bounds the nesting of JSON; the documents need 6.
	maxDepth = 16
	// maxText bounds every string, in bytes.
	maxText = 4096
	// maxFileSize bounds every size, so that no sum of sizes overflows.
	maxFileSize = 1 << 40
)

// A node is a JSON value as it stands in the document. encoding/json alone will not do: it takes
// keys in any case, the last of duplicate keys, null for anything and U+FFFD for broken text, and
// names the first problem only.
type node struct {
	kind   nodeKind
	text   string   // of strings, numbers and booleans
	items  []node   // of arrays
	fields []string // of objects: keys, whose values are the items
}

type nodeKind uint8

const (
	nodeObject nodeKind = iota
	nodeArray
	nodeString
	nodeNumber
	nodeBool
	nodeNull
)

func (k nodeKind) String() string {
	return [...]string{"an object", "an array", "text", "a number", "true or false", "null"}[k]
}

// decode reads one document from r into dst, a pointer to a struct whose JSON names are the fields
// wanted; those with omitempty or omitzero are optional. The name is for messages.
func decode(r io.Reader, name string, dst any) error {
	data, err := readLimited(r)
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	root, err := parse(data)
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	for i, field := range root.fields {
		if field != "schema_version" {
			continue
		}
		if got, err := strconv.Atoi(root.items[i].text); err == nil && root.items[i].kind == nodeNumber && got > SchemaVersion {
			return &VersionError{Document: name, Got: got, Known: SchemaVersion}
		}
	}
	var problems matrix.Problems
	bind(root, reflect.ValueOf(dst).Elem(), "", &problems)
	if err := problems.Err(); err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	return nil
}

func readLimited(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("larger than %d bytes", MaxSize)
	}
	return data, nil
}

// parse reads data, which must be one JSON value and nothing else.
func parse(data []byte) (node, error) {
	if !utf8.Valid(data) {
		return node{}, errors.New("not UTF-8")
	}
	var raw json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			line := 1 + bytes.Count(data[:syntax.Offset], []byte("\n"))
			return node{}, fmt.Errorf("line %d: %w", line, err)
		}
		return node{}, err
	}
	p := parser{dec: json.NewDecoder(bytes.NewReader(data)), left: maxNodes}
	p.dec.UseNumber()
	return p.value("", maxDepth)
}

// A parser makes nodes of text that is known to be JSON.
type parser struct {
	dec  *json.Decoder
	left int // nodes
}

func (p *parser) value(path string, depth int) (node, error) {
	if p.left--; p.left < 0 {
		return node{}, fmt.Errorf("more than %d values", maxNodes)
	}
	if depth == 0 {
		return node{}, fmt.Errorf("%s: nested deeper than %d", path, maxDepth)
	}
	token, err := p.dec.Token()
	if err != nil {
		return node{}, err
	}
	switch t := token.(type) {
	case string:
		return node{kind: nodeString, text: t}, nil
	case json.Number:
		return node{kind: nodeNumber, text: t.String()}, nil
	case json.Delim:
		if t == '[' {
			return p.array(path, depth)
		}
		return p.object(path, depth)
	case bool:
		return node{kind: nodeBool, text: strconv.FormatBool(t)}, nil
	}
	return node{kind: nodeNull}, nil
}

func (p *parser) array(path string, depth int) (node, error) {
	n := node{kind: nodeArray}
	for p.dec.More() {
		item, err := p.value(path+"["+strconv.Itoa(len(n.items))+"]", depth-1)
		if err != nil {
			return node{}, err
		}
		n.items = append(n.items, item)
	}
	_, err := p.dec.Token()
	return n, err
}

func (p *parser) object(path string, depth int) (node, error) {
	n := node{kind: nodeObject}
	seen := make(map[string]bool)
	for p.dec.More() {
		key, err := p.dec.Token()
		if err != nil {
			return node{}, err
		}
		field := key.(string) // More and the syntax check before leave nothing else
		at := matrix.JoinPath(path, matrix.PathKey(field))
		if seen[field] {
			return node{}, fmt.Errorf("%s: given twice", at)
		}
		seen[field] = true
		item, err := p.value(at, depth-1)
		if err != nil {
			return node{}, err
		}
		n.fields = append(n.fields, field)
		n.items = append(n.items, item)
	}
	_, err := p.dec.Token()
	return n, err
}

// bind puts a node into dst, or says why it does not belong there.
func bind(n node, dst reflect.Value, path string, problems *matrix.Problems) {
	if len(*problems) >= maxProblems {
		return
	}
	mismatch := func(want nodeKind) bool {
		if n.kind != want {
			problems.Addf(path, "want %s, found %s", want, n.kind)
		}
		return n.kind != want
	}
	switch v := dst.Addr().Interface().(type) {
	case *matrix.Code:
		bindNumberOrText(n, v, path, `what code is compiled for: want 75 or "120a"`, problems)
		return
	case *matrix.Row:
		bindNumberOrText(n, v, path, `what a bundle is for: want 75 or "ptx90"`, problems)
		return
	}
	switch dst.Kind() {
	case reflect.Pointer:
		dst.Set(reflect.New(dst.Type().Elem()))
		bind(n, dst.Elem(), path, problems)
	case reflect.Struct:
		if !mismatch(nodeObject) {
			bindFields(n, dst, path, problems)
		}
	case reflect.Slice:
		if !mismatch(nodeArray) {
			dst.Set(reflect.MakeSlice(dst.Type(), len(n.items), len(n.items)))
			for i, item := range n.items {
				bind(item, dst.Index(i), fmt.Sprintf("%s[%d]", path, i), problems)
			}
		}
	case reflect.String:
		if !mismatch(nodeString) {
			dst.SetString(n.text)
		}
	case reflect.Int, reflect.Int64:
		if !mismatch(nodeNumber) {
			i, err := strconv.ParseInt(n.text, 10, dst.Type().Bits())
			if err != nil {
				problems.Addf(path, "want an integer, found %s", shorten(n.text))
			}
			dst.SetInt(i)
		}
	case reflect.Float64:
		if !mismatch(nodeNumber) {
			x, err := strconv.ParseFloat(n.text, 64)
			if err != nil {
				problems.Addf(path, "want a number that fits, found %s", shorten(n.text))
			}
			dst.SetFloat(x)
		}
	case reflect.Bool:
		if !mismatch(nodeBool) {
			dst.SetBool(n.text == "true")
		}
	default:
		panic(fmt.Sprintf("manifests: no JSON form for %s", dst.Type()))
	}
}

// bindNumberOrText reads what has a JSON form of its own: a number, or text.
func bindNumberOrText(n node, dst json.Unmarshaler, path, what string, problems *matrix.Problems) {
	text := []byte(n.text)
	switch n.kind {
	case nodeNumber:
	case nodeString:
		text, _ = json.Marshal(n.text) // a string is never refused
	default:
		problems.Addf(path, "want a number or text, found %s", n.kind)
		return
	}
	if err := dst.UnmarshalJSON(text); err != nil {
		problems.Addf(path, "%q is not %s", shorten(n.text), what)
	}
}

func bindFields(n node, dst reflect.Value, path string, problems *matrix.Problems) {
	known := make(map[string]bool, dst.NumField())
	for i := range dst.NumField() {
		name, optional := fieldName(dst.Type().Field(i))
		known[name] = true
		at := matrix.JoinPath(path, name)
		k := slices.Index(n.fields, name)
		switch {
		case k >= 0:
			before := len(*problems)
			bind(n.items[k], dst.Field(i), at, problems)
			if optional && len(*problems) == before && isEmpty(dst.Field(i)) {
				problems.Addf(at, "empty: leave it out")
			}
		case !optional:
			problems.Addf(at, "missing")
		}
	}
	for _, name := range n.fields {
		if !known[name] {
			problems.Addf(matrix.JoinPath(path, matrix.PathKey(name)), "unknown field")
		}
	}
}

func fieldName(f reflect.StructField) (name string, optional bool) {
	name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name, options == "omitempty" || options == "omitzero"
}

// isEmpty is what omitempty and omitzero leave out.
func isEmpty(v reflect.Value) bool {
	if v.Kind() == reflect.Slice {
		return v.Len() == 0
	}
	return v.IsZero()
}

// encode writes v in the one canonical form.
func encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(normal(reflect.ValueOf(v)).Interface()); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// normal is a deep copy of v in which lists that must be there are empty instead of nil, and the
// others nil instead of empty, as decode makes them: JSON would have null for nil.
func normal(v reflect.Value) reflect.Value {
	c := reflect.New(v.Type()).Elem()
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			c.Set(reflect.New(v.Type().Elem()))
			c.Elem().Set(normal(v.Elem()))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if _, optional := fieldName(v.Type().Field(i)); !optional || !isEmpty(v.Field(i)) {
				c.Field(i).Set(normal(v.Field(i)))
			}
		}
	case reflect.Slice:
		c.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
		for i := range v.Len() {
			c.Index(i).Set(normal(v.Index(i)))
		}
	default:
		c.Set(v)
	}
	return c
}

// checkTexts reports every string below v that is too long or could not be shown to a user as it
// is: control characters rewrite terminals, broken UTF-8 does not survive JSON.
func checkTexts(v reflect.Value, path string, problems *matrix.Problems) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			checkTexts(v.Elem(), path, problems)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			name, _ := fieldName(v.Type().Field(i))
			checkTexts(v.Field(i), matrix.JoinPath(path, name), problems)
		}
	case reflect.Slice:
		for i := range v.Len() {
			checkTexts(v.Index(i), fmt.Sprintf("%s[%d]", path, i), problems)
		}
	case reflect.String:
		s := v.String()
		switch {
		case len(s) > maxText:
			problems.Addf(path, "longer than %d bytes", maxText)
		case !matrix.IsPrintable(s):
			problems.Addf(path, "%q cannot be printed in one line", s)
		}
	}
}
