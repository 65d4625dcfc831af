package hfhub

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// Card is the page of a repository at an address, owner/name at its end.
func (c Catalogue) Card(endpoint, repo string) ([]byte, error) {
	licences, err := c.Licences()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	c.head(&b, endpoint+"/"+repo, licences)
	_, title, _ := strings.Cut(repo, "/")
	fmt.Fprintf(&b, "\n# %s\n\n", title)
	fmt.Fprintf(&b, "Models for [llama.cpp](https://github.com/ggml-org/llama.cpp) as quantized GGUF files.\n")
	var shown []string
	for _, id := range slices.Sorted(maps.Keys(licences)) {
		if text := licences[id].Display; text != "" && !slices.Contains(shown, text) {
			shown = append(shown, text)
			fmt.Fprintf(&b, "\n**%s**\n", text)
		}
	}

	fmt.Fprintf(&b, "\n## Files\n\n| file | size | parameters | quantization | architecture | context | GPU memory | license |\n| --- | ---: | ---: | --- | --- | ---: | ---: | --- |\n")
	for _, m := range c {
		l := licences[m.Licence]
		fmt.Fprintf(&b, "| [%s](%s) | %s | %s | %s | %s | %s | %s | [%s](%s) |\n", m.File, "./resolve/main/"+m.File, measure.Bytes(m.Size),
			countOf(m.Parameters), cmp.Or(m.Quantisation, "–"), m.Architecture, tokensOf(m.Context), memoryOf(m.VRAM), l.Name, TextName(l.ID))
	}
	fmt.Fprintf(&b, "\nGPU memory is for the whole model with a context of 4096 tokens; with less of it, some layers stay on the CPU.\n")
	fmt.Fprintf(&b, "Every file keeps the license of the weights that it was made from: see [%s](%s).\n", NoticeName, NoticeName)

	fmt.Fprintf(&b, "\n## How to run\n\nWith [llcuda-fetch](%s), which also brings llama.cpp for the GPU it finds:\n\n```\n", manifests.RepositoryURL)
	if len(c) > 0 {
		fmt.Fprintf(&b, "llcuda-fetch\nllcuda-fetch pull %s:%s\nllcuda-fetch run llama-server -m %s:%s -ngl 99\n", repo, c[0].File, repo, c[0].File)
	}
	fmt.Fprintf(&b, "```\n")

	fmt.Fprintf(&b, "\n## Where they come from\n\n| file | made from | copied from | sha256 |\n| --- | --- | --- | --- |\n")
	for _, m := range c {
		origin := "made by the publisher"
		if m.Origin != "" {
			origin = "`" + m.Origin + "`"
		}
		fmt.Fprintf(&b, "| %s | [%s](%s/%s) | %s | `%s` |\n", m.File, m.Weights, endpoint, m.Weights, origin, m.SHA256)
	}
	return b.Bytes(), nil
}

// head is the card's front matter: https://huggingface.co/docs/hub/model-cards#model-card-metadata
func (c Catalogue) head(b *bytes.Buffer, page string, licences map[string]matrix.Licence) {
	line := func(key, value string) { fmt.Fprintf(b, "%s: %s\n", key, scalar(value)) }
	list := func(key string, values []string) {
		fmt.Fprintf(b, "%s:\n", key)
		for _, v := range values {
			fmt.Fprintf(b, "  - %s\n", scalar(v))
		}
	}
	b.WriteString("---\n")
	switch ids := slices.Sorted(maps.Keys(licences)); len(ids) {
	case 0:
	case 1:
		line("license", ids[0])
		line("license_name", licences[ids[0]].Name)
		line("license_link", licences[ids[0]].Link)
	default: // the Hub's word for several, which the notice tells apart
		line("license", "other")
		line("license_name", strings.Join(ids, "-and-"))
		line("license_link", page+"/blob/main/"+NoticeName)
	}
	var weights []string
	for _, m := range c {
		if !slices.Contains(weights, m.Weights) {
			weights = append(weights, m.Weights)
		}
	}
	slices.Sort(weights)
	if len(weights) > 0 {
		list("base_model", weights)
		line("base_model_relation", "quantized")
	}
	line("pipeline_tag", "text-generation")
	line("library_name", "gguf")
	list("tags", []string{"gguf", "llama.cpp", "llcuda", "quantized"})
	b.WriteString("---\n")
}

// plainForm matches texts that YAML reads as strings even without quotes; notTexts are the
// exceptions among them.
var (
	plainForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._/-]*$`)
	notTexts  = []string{"y", "n", "yes", "no", "true", "false", "on", "off", "null"}
)

// scalar is a text in YAML. Go's escapes are among those of YAML's quotes:
// https://yaml.org/spec/1.2.2/#57-escaped-characters
func scalar(s string) string {
	if plainForm.MatchString(s) && !slices.Contains(notTexts, strings.ToLower(s)) {
		return s
	}
	return strconv.QuoteToASCII(s)
}

// Notice returns the NOTICE file that the licenses require.
func (c Catalogue) Notice() ([]byte, error) {
	licences, err := c.Licences()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "The files of this repository are models by others. Each was changed: its weights were converted to\nGGUF and quantized. Each keeps its license, a copy of which is in the folder licences.\n")
	for _, m := range c {
		l := licences[m.Licence]
		how := "quantized"
		if m.Quantisation != "" {
			how += " to " + m.Quantisation
		}
		fmt.Fprintf(&b, "\n%s\n  made from %s, %s\n  %s, %s: %s\n", m.File, m.Weights, how, l.Name, l.Link, TextName(l.ID))
		if l.Notice != "" {
			fmt.Fprintf(&b, "  %s\n", l.Notice)
		}
	}
	return b.Bytes(), nil
}

func countOf(n int64) string {
	switch {
	case n == 0:
		return "–"
	case n < 1_000_000_000:
		return fmt.Sprintf("%.0f M", float64(n)/1e6)
	}
	return fmt.Sprintf("%.2f B", float64(n)/1e9)
}

func tokensOf(n int64) string {
	if n == 0 {
		return "–"
	}
	return fmt.Sprint(n)
}

func memoryOf(mib int) string {
	return fmt.Sprintf("%.1f GiB", float64(mib)/1024)
}
