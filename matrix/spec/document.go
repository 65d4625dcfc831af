package spec

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// maxSize bounds a document in bytes; both files are a few kilobytes.
const maxSize = 1 << 20

// A document is one YAML file on its way into a Go value: the line of every path, and what was found wrong.
type document struct {
	lines    map[string]int
	problems matrix.Problems
}

// load reads the one document in r into the struct that dst points to, then has it checked. Keys are the fields' JSON
// names, so that a value reads the same in the YAML and in a manifest; fields with omitempty are optional.
func load(r io.Reader, dst any, check func() error) error {
	data, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	if err != nil {
		return err
	}
	if len(data) > maxSize {
		return fmt.Errorf("larger than %d bytes", maxSize)
	}
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	var root yaml.Node
	if err := dec.Decode(&root); errors.Is(err, io.EOF) {
		return errors.New("empty document")
	} else if err != nil {
		return err
	}
	if err := dec.Decode(new(yaml.Node)); err == nil {
		return errors.New("more than one document")
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	doc := document{lines: make(map[string]int)}
	doc.value(root.Content[0], reflect.ValueOf(dst).Elem(), "")
	if len(doc.problems) == 0 {
		// Only a document of the right shape is worth checking: every missing key would be reported twice.
		doc.problems.Under("", check())
	}
	return doc.err()
}

func (d *document) value(n *yaml.Node, dst reflect.Value, path string) {
	d.lines[path] = n.Line
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.problems.Addf(path, "anchors and aliases are not used here: write the value out")
		return
	}
	switch dst.Kind() {
	case reflect.Struct:
		d.mapping(n, dst, path)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.problems.Addf(path, "want a list, found %s", describe(n))
			return
		}
		list := reflect.MakeSlice(dst.Type(), len(n.Content), len(n.Content))
		for i, item := range n.Content {
			d.value(item, list.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
		dst.Set(list)
	case reflect.String:
		if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
			d.problems.Addf(path, "want text, found %s: put it in quotes", describe(n))
			return
		}
		dst.SetString(n.Value)
	case reflect.Bool:
		b, err := strconv.ParseBool(n.Value)
		if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" || err != nil {
			d.problems.Addf(path, "want true or false, found %s", describe(n))
			return
		}
		dst.SetBool(b)
	case reflect.Int, reflect.Int64:
		i, err := strconv.ParseInt(n.Value, 10, dst.Type().Bits())
		if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || err != nil {
			d.problems.Addf(path, "want an integer, found %s", describe(n))
			return
		}
		dst.SetInt(i)
	default:
		panic(fmt.Sprintf("spec: no YAML form for %s", dst.Type()))
	}
}

func (d *document) mapping(n *yaml.Node, dst reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.problems.Addf(path, "want keys and values, found %s", describe(n))
		return
	}
	fields := make(map[string]reflect.Value)
	missing := []string{}
	for i := range dst.NumField() {
		name, options, _ := strings.Cut(dst.Type().Field(i).Tag.Get("json"), ",")
		fields[name] = dst.Field(i)
		if options != "omitempty" {
			missing = append(missing, name)
		}
	}
	seen := make(map[string]bool)
	for i := 0; i < len(n.Content); i += 2 {
		key := n.Content[i]
		at := matrix.JoinPath(path, matrix.PathKey(key.Value))
		field, known := fields[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode || !known:
			d.lines[at] = key.Line
			d.problems.Addf(at, "unknown key")
		case seen[key.Value]:
			d.problems.Addf(at, "given again in line %d", key.Line)
		default:
			seen[key.Value] = true
			missing = slices.DeleteFunc(missing, func(name string) bool { return name == key.Value })
			d.value(n.Content[i+1], field, at)
		}
	}
	for _, name := range missing {
		d.problems.Addf(matrix.JoinPath(path, name), "missing")
	}
}

// err is the problems, each with the line it is in: its own, or that of the part it is missing from.
func (d *document) err() error {
	var found matrix.Problems
	for _, p := range d.problems {
		at := p.Path
		for d.lines[at] == 0 && at != "" {
			at = at[:max(strings.LastIndexAny(at, ".["), 0)]
		}
		where := p.Path
		if line := d.lines[at]; line > 0 {
			where = strings.TrimSuffix(fmt.Sprintf("line %d: %s", line, p.Path), ": ")
		}
		found.Addf(where, "%s", p.Detail)
	}
	return found.Err()
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "nothing"
		}
		return strconv.Quote(n.Value)
	}
	return "an alias"
}
