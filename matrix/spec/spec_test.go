package spec_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/goldentest"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
)

func golden(t *testing.T, name string, value any) {
	t.Helper()
	got, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	goldentest.Check(t, filepath.Join("testdata", name), append(got, '\n'))
}

func TestDefault(t *testing.T) {
	m, err := spec.Default()
	if err != nil {
		t.Fatal(err)
	}
	// The pin moves with every release of llama.cpp: it is what the file says, and the golden has the rest.
	pin := reflect.ValueOf(m.LlamaCPP)
	for i := range pin.NumField() {
		key := pin.Type().Field(i).Tag.Get("json")
		line := regexp.MustCompile(`(?m)^  ` + key + `: "?` + regexp.QuoteMeta(fmt.Sprint(pin.Field(i))) + `"?$`)
		if !line.Match(matrix.YAML) {
			t.Errorf("%s is %v", key, pin.Field(i))
		}
	}
	m.LlamaCPP = matrix.LlamaPin{}
	golden(t, "matrix.json", m)
	for expr, want := range map[string][]string{
		"seed": {"sm50", "sm60", "sm61", "sm70", "sm75", "sm80", "sm86", "sm89"},
		"all":  {"sm50", "sm60", "sm61", "sm70", "sm75", "sm80", "sm86", "sm89", "sm90", "ptx90", "sm100", "sm120"},
	} {
		targets, err := m.Select(expr)
		if err != nil {
			t.Fatal(err)
		}
		var rows []string
		for _, target := range targets {
			rows = append(rows, target.Row().String())
		}
		if diff := cmp.Diff(want, rows); diff != "" {
			t.Errorf("%s (-want +got):\n%s", expr, diff)
		}
	}
}

func TestDefaultModels(t *testing.T) {
	models, err := spec.DefaultModels()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "models.json", models)
	// The seed's, and what llcuda 1.x called them.
	for _, name := range []string{
		"google_gemma-3-1b-it-Q4_K_M", "llama-3.2-1b-Q4_K_M", "tinyllama-1.1b-Q5_K_M",
		"gemma-3-1b-Q4_K_M", "gemma-3-1b-Q5_K_M", "gemma-2-2b-Q4_K_M", "phi-3-mini-Q4_K_M", "phi-3-mini-Q5_K_M", "mistral-7b-Q4_K_M",
		"mistral-7b-Q5_K_M", "llama-3.1-8b-Q4_K_M", "llama-3.1-8b-Q5_K_M", "phi-4-Q4_K_M",
	} {
		if !slices.ContainsFunc(models, func(m matrix.Model) bool { return m.Name == name || slices.Contains(m.Aliases, name) }) {
			t.Errorf("no model is called %s", name)
		}
	}
	for _, m := range models {
		if _, err := m.Redistribution(); err != nil {
			t.Error(err)
		}
		if m.Repo == "google/gemma-3-1b-it-GGUF" {
			t.Errorf("%s is of a repository that does not exist", m.Name)
		}
		if (m.VRAM > 0) != (m.Size > 0) {
			t.Errorf("%s: %d MiB for %d bytes", m.Name, m.VRAM, m.Size)
		}
	}
}

// Each case edits the real matrix.yaml and asserts the whole message.
func TestLoadRefuses(t *testing.T) {
	for name, test := range map[string]struct{ old, new, want string }{
		"unknown key":     {"    seed: false\n    ptx: true\n", "    seed: false\n    ptx: true\n    vram: 8\n", "line 126: targets[9].vram: unknown key"},
		"unknown section": {"toolkits:\n", "tools: {}\ntoolkits:\n", "line 6: tools: unknown key"},
		"wrong case":      {"floors:\n", "Floors:\n", "line 21: Floors: unknown key\nline 6: floors: missing"},
		"duplicate key":   {"  repository:", "  repository: https://example.org/x\n  repository:", "line 31: llama_cpp.repository: given again in line 32"},
		"missing key":     {"  repository: https://github.com/ggml-org/llama.cpp\n", "", "line 31: llama_cpp.repository: missing"},
		"missing in row":  {"    architecture: Maxwell\n", "", "line 47: targets[0].architecture: missing"},
		"missing section": {"floors:\n  glibc: \"2.28\"\n  glibcxx: \"3.4.25\"\n", "", "line 6: floors: missing"},
		"null":            {`cuda: "12.4.1"`, "cuda:", "line 8: toolkits[0].cuda: want text, found nothing: put it in quotes"},
		"number for text": {`glibc: "2.28"`, "glibc: 2.28", `line 22: floors.glibc: want text, found "2.28": put it in quotes`},
		"text for number": {"- sm: 50", `- sm: "50"`, `line 47: targets[0].sm: want an integer, found "50"`},
		"hex number":      {"- sm: 50", `- sm: 0x32`, `line 47: targets[0].sm: want an integer, found "0x32"`},
		"yes for true":    {"seed: true", "seed: yes", `line 52: targets[0].seed: want true or false, found "yes"`},
		"text for list":   {"[Tesla P100]", "Tesla P100", `line 58: targets[1].gpus: want a list, found "Tesla P100"`},
		"list for keys":   {"floors:\n  glibc: \"2.28\"\n  glibcxx: \"3.4.25\"\n", "floors: []\n", "line 21: floors: want keys and values, found a list"},
		"anchor":          {"gpus: [Tesla P100]", "gpus: &p100 [Tesla P100]", "line 58: targets[1].gpus: anchors and aliases are not used here: write the value out"},
		"alias":           {"floors:\n  glibc: \"2.28\"", "floors:\n  glibc: *x", "yaml: unknown anchor 'x' referenced"},
		"two documents":   {"floors:\n", "---\nfloors:\n", "more than one document"},
		"no YAML":         {"floors:\n", "floors: [\n", "yaml: line 20: did not find expected ',' or ']'"},
		"check": {"- sm: 61", "- sm: 60",
			"line 63: targets[2].sm: 60 stands here twice"},
		"all at once": {"    architecture: Turing\n    gpus: [Tesla T4, RTX 20 series, GTX 16 series]\n", "    architecture: Ampere\n    gpus: []\n",
			"line 81: targets[4].architecture: \"Ampere\", but 7.5 is Turing\nline 82: targets[4].gpus: empty"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(string(matrix.YAML), test.old, test.new, 1)
			if text == string(matrix.YAML) {
				t.Fatalf("matrix.yaml has no %q", test.old)
			}
			_, err := spec.Load(strings.NewReader(text))
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(test.want, err.Error()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for text, want := range map[string]string{
		"":                             "empty document",
		"# nothing\n":                  "empty document",
		"[]":                           "line 1: want keys and values, found a list",
		"12":                           `line 1: want keys and values, found "12"`,
		strings.Repeat(" ", 1<<20+1):   "larger than 1048576 bytes",
		"? [a]\n: b\n":                 "line 1: \"\": unknown key\nline 1: toolkits: missing\nline 1: targets: missing\nline 1: floors: missing\nline 1: llama_cpp: missing",
		"\"a\\e[2Jb\": 1\ntargets: []": "line 1: \"a\\x1b[2Jb\": unknown key\nline 1: toolkits: missing\nline 1: floors: missing\nline 1: llama_cpp: missing",
	} {
		if _, err := spec.Load(strings.NewReader(text)); err == nil || err.Error() != want {
			t.Errorf("Load(%.40q) = %v, want %s", text, err, want)
		}
	}
}

func TestLoadModelsRefuses(t *testing.T) {
	text := strings.Replace(string(matrix.ModelsYAML), "licence: llama3.2", "license: llama3.2", 1)
	_, err := spec.LoadModels(strings.NewReader(text))
	if want := "line 64: models[5].license: unknown key\nline 57: models[5].licence: missing"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	text = strings.Replace(string(matrix.ModelsYAML), "repo: TheBloke/Tiny", "repo: Tiny", 1)
	_, err = spec.LoadModels(strings.NewReader(text))
	if want := `line 113: models[11].repo: "TinyLlama-1.1B-Chat-v1.0-GGUF" is not owner/name`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(matrix.YAML)
	f.Add(matrix.ModelsYAML)
	f.Add([]byte("? [a]\n: &x b\n<<: *x\n"))
	f.Add([]byte("targets: [{sm: 75}, ~, !!binary aGk=]\ntoolkits: \"\\0\"\n--- x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := spec.Load(bytes.NewReader(data)); err == nil {
			if err := m.Check(); err != nil {
				t.Errorf("Load took what Check refuses: %v", err)
			}
		}
		if models, err := spec.LoadModels(bytes.NewReader(data)); err == nil {
			if err := matrix.CheckModels(models); err != nil {
				t.Errorf("LoadModels took what CheckModels refuses: %v", err)
			}
		}
	})
}
