package hfhub

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// The files that a repository of models has beside them.
const (
	CardName      = "README.md"   // the page, made from the catalogue
	CatalogueName = "models.json" // what the page says, for programs; the next publication begins with it
	NoticeName    = "NOTICE"      // what the licences want said
)

// TextName is where a repository has the text of a licence.
func TextName(licence string) string { return "licences/" + licence + ".txt" }

// A Model is one file of a repository, and what its page says of it.
type Model struct {
	Name         string `json:"name"`
	File         string `json:"file"`
	Size         int64  `json:"size"`
	SHA256       string `json:"sha256"`
	Architecture string `json:"architecture"`
	// Quantisation and the numbers are empty or 0 where the file does not say.
	Quantisation string `json:"quantisation,omitempty"`
	Parameters   int64  `json:"parameters,omitempty"`
	Context      int64  `json:"context,omitempty"`
	// VRAM is how many MiB of a GPU the whole model takes.
	VRAM int `json:"vram_mib"`
	// Weights is the repository of the weights that it was quantised from. Their licence applies.
	Weights string `json:"weights"`
	Licence string `json:"licence"`
	// Origin is the file that it is a copy of, "owner/name:file@commit"; empty where whoever
	// publishes made it.
	Origin string `json:"origin,omitempty"`
}

// A Catalogue is the models of one repository, ascending by name.
type Catalogue []Model

type catalogueDocument struct {
	SchemaVersion int       `json:"schema_version"`
	Models        Catalogue `json:"models"`
}

const catalogueVersion = 1

// DecodeCatalogue reads models.json.
func DecodeCatalogue(data []byte) (Catalogue, error) {
	var doc catalogueDocument
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	err := d.Decode(&doc)
	if _, more := d.Token(); err == nil && !errors.Is(more, io.EOF) {
		err = errors.New("more than one document")
	}
	if err == nil && doc.SchemaVersion != catalogueVersion {
		err = fmt.Errorf("its schema_version is %d, known is %d", doc.SchemaVersion, catalogueVersion)
	}
	for i, m := range doc.Models {
		if err == nil {
			err = m.check()
		}
		if err == nil && i > 0 && m.Name <= doc.Models[i-1].Name {
			err = fmt.Errorf("%s comes after %s", m.Name, doc.Models[i-1].Name)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", CatalogueName, err)
	}
	return doc.Models, nil
}

var (
	wordForm   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	originForm = regexp.MustCompile(`^[A-Za-z0-9._/:@ +-]*$`)
)

// check keeps out of the page what would be another page: whoever may write to the repository may
// write its catalogue.
func (m Model) check() error {
	if !wordForm.MatchString(m.Name) {
		return fmt.Errorf("%q is no model's name", m.Name)
	}
	switch {
	case !wordForm.MatchString(m.File), m.Size <= 0, !sha256Form.MatchString(m.SHA256):
		return fmt.Errorf("%s has no file, size and sha256", m.Name)
	case !wordForm.MatchString(m.Architecture), m.Quantisation != "" && !wordForm.MatchString(strings.ReplaceAll(m.Quantisation, " ", "_")):
		return fmt.Errorf("%s has no architecture, or no quantization", m.Name)
	case m.Parameters < 0, m.Context < 0, m.VRAM < 0:
		return fmt.Errorf("%s has a negative number", m.Name)
	case !repoForm.MatchString(m.Weights), !wordForm.MatchString(m.Licence), !originForm.MatchString(m.Origin):
		return fmt.Errorf("%s does not say what it was made from, or under which license", m.Name)
	}
	return nil
}

// Encode writes models.json.
func (c Catalogue) Encode() ([]byte, error) {
	for _, m := range c {
		if err := m.check(); err != nil {
			return nil, fmt.Errorf("writing %s: %w", CatalogueName, err)
		}
	}
	data, err := json.MarshalIndent(catalogueDocument{catalogueVersion, c}, "", "  ")
	return append(data, '\n'), err
}

// With is the catalogue with these models, in place of those of the same name.
func (c Catalogue) With(models ...Model) Catalogue {
	all := slices.Clone(c)
	for _, m := range models {
		if i := slices.IndexFunc(all, func(old Model) bool { return old.Name == m.Name }); i >= 0 {
			all[i] = m
		} else {
			all = append(all, m)
		}
	}
	slices.SortFunc(all, func(a, b Model) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// Licences are those of its models, by ID. Its error is a *matrix.LicenceError.
func (c Catalogue) Licences() (map[string]matrix.Licence, error) {
	licences := map[string]matrix.Licence{}
	for _, m := range c {
		l, err := matrix.Model{Name: m.Name, Licence: m.Licence}.Redistribution()
		if err != nil {
			return nil, err
		}
		licences[l.ID] = l
	}
	return licences, nil
}

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
	for _, id := range sortedKeys(licences) {
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
	switch ids := sortedKeys(licences); len(ids) {
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

// plainForm are texts that YAML takes for nothing but texts without quotes; notTexts are those
// among them that it does not.
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

// Notice is the file that the licences want.
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

func sortedKeys(m map[string]matrix.Licence) []string {
	var keys []string
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
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
