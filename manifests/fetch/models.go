package fetch

import (
	"cmp"
	"context"
	"path/filepath"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/hub"
	"github.com/waqasm86/llcuda-farm/manifests/gguf"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// A Model is a model on this machine: a GGUF file, or several that it was split into.
type Model struct {
	Name string `json:"name"` // of the registry; empty for one that was named by its repository
	Ref  string `json:"ref"`
	// Path is the file that llama.cpp is given: of several parts the first, from which it finds the
	// others.
	Path string `json:"path"`
	// Size is that of all parts.
	Size int64 `json:"size"`
	// Cached says that nothing was downloaded.
	Cached bool `json:"cached"`
	// Commit is that of the repository.
	Commit string `json:"commit"`
	SHA256 string `json:"sha256"` // empty where it is unknown, and for several parts
	// Parts are the paths of all parts, where there are several.
	Parts []string `json:"parts,omitempty"`
	// Projector is the path of the file that llama.cpp takes as --mmproj; empty where the
	// repository has none, and for the models of the registry.
	Projector string `json:"mmproj,omitempty"`
	// Layers is the recommended -ngl for the GPUs of the current installation, and Why the reason.
	// -1 means no advice.
	Layers int    `json:"ngl"`
	Why    string `json:"why"`
	// Unasked is why the Hub did not answer, where the cache did instead.
	Unasked string `json:"unasked,omitempty"`

	files []modelFile // all, the projector last
}

// A modelFile is one file of a model.
type modelFile struct {
	hub.Ref
	hub.Result
}

// modelClient returns the client for models: it is also offline where only the Hub's own tools are
// set to be offline.
func (c *Client) modelClient() *Client {
	m := *c
	h := *c.Hub
	m.Offline = c.Offline || h.Offline
	h.Offline = m.Offline
	if h.Transfer == nil {
		h.Transfer = c.transfer()
	}
	if h.Step == nil {
		h.Step = c.Step
	}
	m.Hub = &h
	return &m
}

// Models is the registry: of the installed release where there is one, else of the newest that the
// mirrors offer.
func (c *Client) Models(ctx context.Context, release string) ([]matrix.Model, error) {
	r, err := c.modelClient().registry(ctx, release)
	if err != nil {
		return nil, err
	}
	return r.Models, nil
}

func (c *Client) registry(ctx context.Context, release string) (*Release, error) {
	if _, have := c.base(); have && len(c.Mirrors) == 0 {
		// The installed release was verified when it was installed. An attacker who can change the
		// store now does not need the list of models.
		kept := *c
		kept.SkipSignature = true
		if r, err := kept.storedRelease(release); err == nil {
			return r, nil
		}
	}
	return c.Resolve(ctx, release)
}

// A wanted model is what a name stands for, before its files are looked for.
type wanted struct {
	hub.Name
	kind  hub.Kind
	want  hub.Want
	model *matrix.Model // of the registry; nil for one that was named by its repository
}

// parseModel reads a name of the registry, or what hub.ParseName does.
func (c *Client) parseModel(ctx context.Context, release, name string, kind hub.Kind) (wanted, error) {
	if strings.ContainsAny(name, ":/") {
		n, err := hub.ParseName(name, c.Hub.Endpoint)
		return wanted{Name: n, kind: kind}, err
	}
	models, err := c.Models(ctx, release)
	if err != nil {
		return wanted{}, err
	}
	known := []string{}
	for _, m := range models {
		if slices.ContainsFunc(append([]string{m.Name}, m.Aliases...), func(n string) bool { return strings.EqualFold(n, name) }) {
			return fromRegistry(m), nil
		}
		known = append(known, m.Name)
	}
	return wanted{}, &NameError{Kind: "model", Name: name, Known: append(known, "or any org/repo:file.gguf, org/repo:QUANT or org/repo")}
}

// fromRegistry is a model of the registry: the file that it names, without a projector.
func fromRegistry(m matrix.Model) wanted {
	return wanted{Name: hub.Name{Repo: m.Repo, Path: m.File, Revision: cmp.Or(m.Revision, "main")}, kind: hub.Weights,
		want: hub.Want{Size: m.Size, SHA256: m.SHA256}, model: &m}
}

// Pull makes sure that a model is in the Hub's cache: one of the registry by its name, or one that
// is named by its repository, with all its parts and its projector.
func (c *Client) Pull(ctx context.Context, release, name string) (Model, error) {
	return c.pull(ctx, release, name, hub.WithProjector)
}

func (c *Client) pull(ctx context.Context, release, name string, kind hub.Kind) (Model, error) {
	c = c.modelClient()
	w, err := c.parseModel(ctx, release, name, kind)
	if err != nil {
		return Model{}, err
	}
	m, err := c.fetchModel(ctx, release, w)
	if err != nil {
		return Model{}, err
	}
	return m, c.advise(&m)
}

// fetchModel looks for a model in the mirrors that the user gave, then on the Hub or, offline, in
// its cache, and has its files there.
func (c *Client) fetchModel(ctx context.Context, release string, w wanted) (Model, error) {
	found, ok, err := c.findExported(ctx, release, w)
	if err == nil && !ok {
		found, err = c.Hub.Find(ctx, w.Name, w.want, w.kind)
	}
	if err != nil {
		return Model{}, err
	}
	files := found.All()
	results, err := c.Hub.DownloadAll(ctx, files[0].Ref.String(), files, c.Progress)
	if err != nil {
		return Model{}, err
	}
	m := Model{Ref: files[0].Ref.String(), Path: results[0].Path, Commit: results[0].Commit, Cached: true, Layers: -1}
	if w.model != nil {
		m.Name = w.model.Name
	}
	for i, result := range results {
		m.files = append(m.files, modelFile{files[i].Ref, result})
		m.Cached = m.Cached && result.Cached
		if result.Unasked != nil {
			m.Unasked = result.Unasked.Error()
		}
		if i == len(found.Files) {
			m.Projector = result.Path
			break
		}
		m.Size += result.Size
		if len(found.Files) > 1 {
			m.Parts = append(m.Parts, result.Path)
		}
	}
	if len(found.Files) == 1 {
		m.SHA256 = m.files[0].sha256()
	}
	return m, nil
}

// sha256 is a file's digest as the name of its blob has it, or empty.
func (f modelFile) sha256() string {
	if blob, err := filepath.EvalSymlinks(f.Result.Path); err == nil && len(filepath.Base(blob)) == len(digestOf(nil)) {
		return filepath.Base(blob)
	}
	return ""
}

// advise recommends a number of layers for the GPUs of the current installation. It gives a
// *gguf.SplitError for files whose names make them parts of one model and whose headers do not:
// llama.cpp would refuse them.
func (c *Client) advise(m *Model) error {
	current, err := c.Store.Current()
	noGPU := err != nil || current.Through == manifests.ThroughCPU || slices.Contains(current.GPUMemory, 0) || len(current.GPUMemory) == 0
	if noGPU && len(m.Parts) == 0 {
		return nil
	}
	var header *gguf.Header
	if len(m.Parts) > 0 {
		header, err = gguf.Read(m.Path, m.Parts[1:]...)
	} else {
		header, err = gguf.Read(m.Path)
	}
	switch {
	case is[*gguf.SplitError](err) && len(m.Parts) > 0:
		return err
	case err != nil:
		m.Why = err.Error() // llama.cpp may still know better
	case header.Parameters == 0:
		m.Why = "it has no weights"
	case !noGPU:
		m.Layers, m.Why = hub.Layers(header, current.GPUMemory, 0)
	}
	return nil
}

// Cached says which models of the registry are in the Hub's cache, without asking the Hub.
func (c *Client) Cached(ctx context.Context, m matrix.Model) (Model, bool) {
	cached, err := c.findCached(ctx, fromRegistry(m))
	return cached, err == nil
}

// CachedModels are the models known by name that the Hub's cache has.
func (c *Client) CachedModels(ctx context.Context) ([]Model, error) {
	known, err := c.Models(ctx, "")
	if err != nil {
		return nil, err
	}
	var cached []Model
	for _, m := range known {
		if here, ok := c.Cached(ctx, m); ok {
			cached = append(cached, here)
		}
	}
	return cached, nil
}

// RemoveModel removes a model's files from the Hub's cache, which other programs use as well.
func (c *Client) RemoveModel(m Model) error {
	for _, f := range m.files {
		if err := c.Hub.Remove(f.Result.Path); err != nil {
			return err
		}
	}
	return nil
}

// cacheClient is the client that looks into the Hub's cache alone.
func (c *Client) cacheClient() *Client {
	kept := *c.modelClient()
	kept.Mirrors, kept.Progress, kept.Hub.Offline = nil, nil, true
	return &kept
}

// findCached is a model that the Hub's cache has.
func (c *Client) findCached(ctx context.Context, w wanted) (Model, error) {
	if w.Path == "" && w.Quant == "" && w.kind != hub.Projector {
		w.Quant = hub.DefaultQuant // what the Hub would have chosen; without it, it is the Hub that knows
	}
	return c.cacheClient().fetchModel(ctx, "", w)
}

// modelForRun is the model that a program is to be started with: from the cache, with no question
// to the Hub on the way to its start, else as pull has it.
func (c *Client) modelForRun(ctx context.Context, name string, kind hub.Kind) (Model, error) {
	w, err := c.modelClient().parseModel(ctx, "", name, kind)
	if err != nil {
		return Model{}, err
	}
	if m, err := c.findCached(ctx, w); err == nil {
		return m, nil
	}
	return c.pull(ctx, "", name, kind)
}
