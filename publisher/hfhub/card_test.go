package hfhub

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/goldentest"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/publisher/hftest"
)

func catalogue() Catalogue {
	digest := func(c string) string { return strings.Repeat(c, 64) }
	return Catalogue{}.With(
		Model{Name: "tinyllama-1.1b-Q5_K_M", File: "tinyllama-1.1b-Q5_K_M.gguf", Size: 783017344, SHA256: digest("a"), Architecture: "llama", Quantisation: "Q5_K_M",
			Parameters: 1_100_048_384, Context: 2048, VRAM: 1622, Weights: "TinyLlama/TinyLlama-1.1B-Chat-v1.0", Licence: "apache-2.0",
			Origin: "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF:tinyllama-1.1b-chat-v1.0.Q5_K_M.gguf@" + strings.Repeat("1", 40)},
		Model{Name: "llama-3.2-1b-Q4_K_M", File: "llama-3.2-1b-Q4_K_M.gguf", Size: 807694464, SHA256: digest("b"), Architecture: "llama", Quantisation: "Q4_K_M",
			Parameters: 1_235_814_432, Context: 131072, VRAM: 1916, Weights: "meta-llama/Llama-3.2-1B-Instruct", Licence: "llama3.2",
			Origin: "bartowski/Llama-3.2-1B-Instruct-GGUF:Llama-3.2-1B-Instruct-Q4_K_M.gguf@" + strings.Repeat("2", 40)},
		Model{Name: "gemma-3-1b-it-Q4_K_M", File: "gemma-3-1b-it-Q4_K_M.gguf", Size: 806058272, SHA256: digest("c"), Architecture: "gemma3",
			VRAM: 2153, Weights: "google/gemma-3-1b-it", Licence: "gemma"},
	)
}

func TestCard(t *testing.T) {
	all := catalogue()
	card, err := all.Card(DefaultEndpoint, "owner/llcuda-models")
	if err != nil {
		t.Fatal(err)
	}
	goldentest.Check(t, filepath.Join("testdata", "README.md"), card)
	notice, err := all.Notice()
	if err != nil {
		t.Fatal(err)
	}
	goldentest.Check(t, filepath.Join("testdata", "NOTICE"), notice)
	data, err := all.Encode()
	if err != nil {
		t.Fatal(err)
	}
	goldentest.Check(t, filepath.Join("testdata", "models.json"), data)
	back, err := DecodeCatalogue(data)
	if diff := cmp.Diff(all, back); err != nil || diff != "" {
		t.Errorf("%v, read back (-want +got):\n%s", err, diff)
	}
	one, err := Catalogue{all[0]}.Card(DefaultEndpoint, "owner/llcuda-models")
	if err != nil {
		t.Fatal(err)
	}
	goldentest.Check(t, filepath.Join("testdata", "one-licence.md"), one)

	for name, text := range map[string]string{
		"another schema": `{"schema_version":2,"models":[]}`,
		"unknown field":  `{"schema_version":1,"models":[{"name":"x","colour":"red"}]}`,
		"two documents":  `{"schema_version":1,"models":[]}{}`,
		"no JSON":        "---\n",
	} {
		if _, err := DecodeCatalogue([]byte(text)); err == nil {
			t.Errorf("%s was read", name)
		}
	}
	for name, edit := range map[string]func(*Model){
		"a name that is a table": func(m *Model) { m.Name = "a | b" },
		"a file elsewhere":       func(m *Model) { m.File = "../x.gguf" },
		"a digest of nothing":    func(m *Model) { m.SHA256 = "" },
		"a licence in lines":     func(m *Model) { m.Licence = "mit\nlicense: other" },
		"an origin in code":      func(m *Model) { m.Origin = "a`b" },
		"no weights":             func(m *Model) { m.Weights = "" },
		"a negative number":      func(m *Model) { m.Context = -1 },
		"an odd architecture":    func(m *Model) { m.Architecture = "<script>" },
	} {
		bad := slices.Clone(all)
		edit(&bad[0])
		if _, err := bad.Encode(); err == nil {
			t.Errorf("%s was written", name)
		}
		text, err := json.Marshal(catalogueDocument{catalogueVersion, bad})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeCatalogue(text); err == nil {
			t.Errorf("%s was read", name)
		}
	}
	if text, err := json.Marshal(catalogueDocument{catalogueVersion, Catalogue{all[1], all[0]}}); err != nil {
		t.Fatal(err)
	} else if _, err := DecodeCatalogue(text); err == nil {
		t.Error("models in disorder were read")
	}
	var refused *matrix.LicenceError
	if _, err := all.With(Model{Name: "x", Licence: "secret"}).Card(DefaultEndpoint, "a/b"); !errors.As(err, &refused) {
		t.Errorf("an unknown licence: %v", err)
	}
}

// What the front matter says is what a YAML parser reads in it: the Hub checks the card, the repository's metadata come
// from it, and the official client shows them.
func TestCardAtTheHub(t *testing.T) {
	hub, official := startHub(t), hftest.NewOfficial(t)
	all := catalogue()
	for name, test := range map[string]struct {
		models Catalogue
		want   map[string]any
	}{
		"several": {all, map[string]any{
			"license": "other", "license_name": "apache-2.0-and-gemma-and-llama3.2", "license_link": hub.URL + "/org/several/blob/main/NOTICE",
			"base_model": []any{"TinyLlama/TinyLlama-1.1B-Chat-v1.0", "google/gemma-3-1b-it", "meta-llama/Llama-3.2-1B-Instruct"},
		}},
		"one": {all[1:2], map[string]any{
			"license": "llama3.2", "license_name": "Llama 3.2 Community License", "license_link": "https://www.llama.com/llama3_2/license/",
			"base_model": []any{"meta-llama/Llama-3.2-1B-Instruct"},
		}},
		"none": {nil, map[string]any{}},
	} {
		t.Run(name, func(t *testing.T) {
			repo := "org/" + name
			card, err := test.models.Card(hub.URL, repo)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := newClient(hub, hftest.WriteToken).Publish(context.Background(), repo, these([]File{{Path: CardName, Content: card}}), Options{}); err != nil {
				t.Fatal(err)
			}
			if len(test.models) > 0 {
				test.want["base_model_relation"] = "quantized"
			}
			test.want["pipeline_tag"], test.want["library_name"] = "text-generation", "gguf"
			test.want["tags"] = []any{"gguf", "llama.cpp", "llcuda", "quantized"}
			var info struct{ CardData map[string]any }
			official.Do(hftest.Deed{Do: "info", Hub: hub.URL, Token: hftest.WriteToken, Repo: repo}, &info)
			if diff := cmp.Diff(test.want, info.CardData); diff != "" {
				t.Errorf("the card's data (-want +got):\n%s", diff)
			}
		})
	}
}

func TestScalar(t *testing.T) {
	for text, want := range map[string]string{
		"apache-2.0": "apache-2.0", "google/gemma": "google/gemma",
		"no": `"no"`, "Null": `"Null"`, "2.35": `"2.35"`, "a: b": `"a: b"`, "-": `"-"`, "": `""`, "a #b": `"a #b"`, "é\n": `"\u00e9\n"`,
	} {
		if got := scalar(text); got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
		var back string
		if s := scalar(text); s[0] == '"' && (json.Unmarshal([]byte(s), &back) != nil || back != text) {
			t.Errorf("%s does not read as %q", s, text)
		}
	}
	if slices.ContainsFunc(notTexts, func(s string) bool { return strings.ToLower(s) != s }) {
		t.Error("notTexts are lower case")
	}
}
