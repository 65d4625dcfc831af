package spec

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// pinKey is the matrix's key for the pin.
const pinKey = "llama_cpp"

var errUneditable = errors.New("the pin is written in a way that cannot be edited: write each of its values in one line after its key")

// SetPin changes the values of the pin in the text of a matrix, and returns the new text: whatever is not one of these
// values stays as it is, byte by byte. The text must be a matrix that Load takes, and so is the result.
func SetPin(text []byte, pin matrix.LlamaPin) ([]byte, error) {
	want, err := Load(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	edits, err := pinEdits(text, pin)
	if err != nil {
		return nil, err
	}
	// The last one first, so that the offsets of the others stay.
	slices.SortFunc(edits, func(a, b edit) int { return cmp.Compare(b.at, a.at) })
	edited := slices.Clone(text)
	for _, e := range edits {
		edited = slices.Replace(edited, e.at, e.at+len(e.old), []byte(e.new)...)
	}
	want.LlamaCPP = pin
	got, err := Load(bytes.NewReader(edited))
	if err != nil {
		return nil, fmt.Errorf("with the new pin: %w", err)
	}
	if !reflect.DeepEqual(got, want) {
		return nil, errUneditable
	}
	return edited, nil
}

// An edit replaces a part of a text.
type edit struct {
	at       int // of its first byte
	old, new string
}

func pinEdits(text []byte, pin matrix.LlamaPin) ([]edit, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return nil, err
	}
	values := map[string]reflect.Value{}
	fields := reflect.ValueOf(pin)
	for i := range fields.NumField() {
		values[fields.Type().Field(i).Tag.Get("json")] = fields.Field(i)
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	var edits []edit
	section := valueOf(root.Content[0], pinKey)
	for i := 0; i < len(section.Content); i += 2 {
		node := section.Content[i+1]
		value := fmt.Sprint(values[section.Content[i].Value])
		if node.Value == value {
			continue
		}
		at := len(bytes.Join(lines[:node.Line-1], nil))
		line := lines[node.Line-1]
		at += len(string([]rune(string(line))[:node.Column-1])) // columns count characters
		old := scalar(string(text[at:]), node)
		if !bytes.HasPrefix(text[at:], []byte(old)) {
			return nil, errUneditable
		}
		edits = append(edits, edit{at, old, written(value, node, values[section.Content[i].Value].Kind() == reflect.String)})
	}
	return edits, nil
}

// valueOf is the value of a key that Load has seen.
func valueOf(mapping *yaml.Node, key string) *yaml.Node {
	for i := 0; i < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return &yaml.Node{}
}

// scalar is how a value is written at the beginning of a text. What it cannot tell, SetPin's comparison refuses.
func scalar(text string, node *yaml.Node) string {
	switch node.Style &^ yaml.TaggedStyle {
	case yaml.DoubleQuotedStyle, yaml.SingleQuotedStyle:
		if end := strings.IndexByte(text[1:], text[0]); end >= 0 {
			return text[:end+2]
		}
	}
	return node.Value
}

// written is a value as it is written in the place of another: quoted like that one, or where it would otherwise be a
// number, as a commit of digits alone would.
func written(value string, before *yaml.Node, isText bool) string {
	var plain yaml.Node
	err := yaml.Unmarshal([]byte(value), &plain)
	reads := err == nil && len(plain.Content) == 1 && plain.Content[0].Kind == yaml.ScalarNode && plain.Content[0].Tag == "!!str" && plain.Content[0].Value == value
	if isText && (!reads || before.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0) {
		return strconv.Quote(value)
	}
	return value
}
