package hfhub

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// The files that a repository of models has beside them.
const (
	CardName      = "README.md"   // the page, made from the catalog
	CatalogueName = "models.json" // what the page says, for programs; the next publication begins with it
	NoticeName    = "NOTICE"      // what the licenses require to be said
)

// TextName returns the path of a license's text in a repository.
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
	// Weights is the repository of the weights that it was quantized from. Their license applies.
	Weights string `json:"weights"`
	Licence string `json:"licence"`
	// Origin is the file that it is a copy of, "owner/name:file@commit"; empty where the publisher made it.
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

// check rejects values that would inject markup into the page: anyone who may write to the repository may write its
// catalog.
func (m Model) check() error {
	if !wordForm.MatchString(m.Name) {
		return fmt.Errorf("%q is not a model's name", m.Name)
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

// With returns the catalog with these models, which replace those of the same name.
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

// Licences returns the licenses of its models, by ID. Its error is a *matrix.LicenceError.
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

// A CatalogueError is a repository whose models cannot be published as they are, and the way out.
type CatalogueError struct {
	Err error
	Way string
}

func (e *CatalogueError) Error() string { return e.Err.Error() }
func (e *CatalogueError) Unwrap() error { return e.Err }

// Hint says what helps.
func (e *CatalogueError) Hint() string { return e.Way }

// Catalogue returns what the repository's catalog lists, without what was removed or replaced by hand. Its error may be
// a *CatalogueError.
func (h *Head) Catalogue(ctx context.Context) (Catalogue, error) {
	data, ok, err := h.Read(ctx, CatalogueName)
	if err != nil || !ok {
		return nil, err
	}
	all, err := DecodeCatalogue(data)
	if err != nil {
		return nil, &CatalogueError{fmt.Errorf("%s: %w", h.Repo, err), "it was not written by this command: publish to another repository, or remove the file there"}
	}
	var paths []string
	for _, m := range all {
		paths = append(paths, m.File)
	}
	digests, err := h.Digests(ctx, paths)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(m Model) bool { return digests[m.File] != m.SHA256 }), nil
}

// LicenceFiles returns the license texts of all models: those given by ID, those that are known, else those that the
// repository has. Its error may be a *CatalogueError.
func (h *Head) LicenceFiles(ctx context.Context, c Catalogue, given map[string][]byte) (files []File, err error) {
	licences, err := c.Licences()
	if err != nil {
		return nil, err
	}
	for _, id := range slices.Sorted(maps.Keys(licences)) {
		l := licences[id]
		text := given[id]
		if text == nil && l.Text != "" {
			text = []byte(l.Text)
		}
		if text == nil {
			there, ok, err := h.Read(ctx, TextName(id))
			if err != nil {
				return nil, err
			}
			if !ok {
				return nil, &CatalogueError{fmt.Errorf("the %s wants a copy of its text beside the files", l.Name),
					"save it from " + l.Link + " and give it by --license " + id + "=FILE; once published, it need not be given again"}
			}
			text = there
		}
		files = append(files, File{Path: TextName(id), Content: text})
	}
	return files, nil
}

// FileName is what a model is called in the repository: as people ask for it, whatever it is called elsewhere.
func FileName(m matrix.Model) string { return m.Name + ".gguf" }

// Is reports whether the repository's model is certain to be the one wanted, by what both say of it.
func (m Model) Is(wanted matrix.Model) bool {
	return wanted.SHA256 != "" && m.Name == wanted.Name && m.File == FileName(wanted) && m.SHA256 == wanted.SHA256 &&
		m.Licence == wanted.Licence && m.Weights == wanted.Source
}

// Files are the documents beside the models: page, notice and catalog.
func (c Catalogue) Files(endpoint, repo string) ([]File, error) {
	card, err := c.Card(endpoint, repo)
	if err != nil {
		return nil, err
	}
	notice, err := c.Notice()
	if err != nil {
		return nil, err
	}
	list, err := c.Encode()
	if err != nil {
		return nil, err
	}
	return []File{{Path: CardName, Content: card}, {Path: NoticeName, Content: notice}, {Path: CatalogueName, Content: list}}, nil
}
