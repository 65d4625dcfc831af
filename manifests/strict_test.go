package manifests_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// Every value of a document is removed, duplicated, set to null, changed to another type and joined
// by an unknown field, one at a time. The only changes that may pass are the absences named here.
func TestEveryFieldCounts(t *testing.T) {
	for _, test := range []struct {
		name    string
		data    []byte
		decode  func([]byte) error
		missing []string // what may be left out
		least   int      // changes to try, or the walk is at fault
	}{
		{manifests.ManifestName, encode(t, sample(t)), func(b []byte) error { _, err := decode(b); return err },
			[]string{"models[0].aliases", "models[0].revision", "models[0].vram_mib"}, 300},
		{manifests.MetadataName, encodeMetadata(t, metadata()), func(b []byte) error { _, err := manifests.DecodeMetadata(bytes.NewReader(b)); return err }, []string{"build.patches", "requires.glibcxx"}, 300},
		{manifests.MetadataName, encodeMetadata(t, ptxMetadata()), func(b []byte) error { _, err := manifests.DecodeMetadata(bytes.NewReader(b)); return err }, []string{"build.patches", "requires.glibcxx"}, 300},
		{manifests.PointerName, encodePointer(t, pointer()), func(b []byte) error { _, err := manifests.DecodePointer(b); return err }, nil, 80},
	} {
		var root any
		if err := json.Unmarshal(test.data, &root); err != nil {
			t.Fatal(err)
		}
		var passed []string
		count := 0
		try := func(what, path string, data []byte) {
			count++
			err := test.decode(data)
			switch {
			case err == nil && what == "without":
				passed = append(passed, path)
			case err == nil:
				t.Errorf("%s: %s %s is accepted", test.name, path, what)
			}
		}
		render := func() []byte {
			data, err := json.Marshal(root)
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
		var walk func(v any, path string)
		walk = func(v any, path string) {
			switch v := v.(type) {
			case map[string]any:
				for _, key := range slices.Sorted(maps.Keys(v)) {
					value, at := v[key], strings.TrimPrefix(path+"."+key, ".")
					for what, other := range map[string]any{"as null": nil, "as true": true, "as an object": map[string]any{}} {
						v[key] = other
						try(what, at, render())
					}
					if _, isText := value.(string); isText {
						v[key] = 1
						try("as a number", at, render())
						v[key] = ""
						try("as empty text", at, render())
					} else {
						v[key] = "1"
						try("as text", at, render())
					}
					delete(v, key)
					try("without", at, render())
					v[strings.ToUpper(key)] = value
					try("in capitals", at, render())
					delete(v, strings.ToUpper(key))
					v[key+"\x00twice"] = value // the next lines make it the same key
					v[key] = value
					try("twice", at, bytes.Replace(render(), []byte(key+`\u0000twice`), []byte(key), 1))
					delete(v, key+"\x00twice")
					walk(value, at)
				}
				v["stranger"] = 1
				try("with a stranger", path, render())
				delete(v, "stranger")
			case []any:
				for i, item := range v {
					v[i] = nil
					try("as null", fmt.Sprintf("%s[%d]", path, i), render())
					v[i] = item
					walk(item, fmt.Sprintf("%s[%d]", path, i))
				}
			}
		}
		walk(root, "")
		if err := test.decode(render()); err != nil {
			t.Fatalf("%s: the walk left a change behind: %v", test.name, err)
		}
		if !slices.Equal(test.missing, passed) {
			t.Errorf("%s: may be left out: %q, want %q", test.name, passed, test.missing)
		}
		if count < test.least {
			t.Errorf("%s: only %d changes tried", test.name, count)
		}
	}
}
