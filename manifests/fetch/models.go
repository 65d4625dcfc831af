package fetch

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/hub"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
	"github.com/waqasm86/llcuda-farm/manifests/gguf"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// A Model is a model on this machine: a GGUF file, or several that it was split into.
type Model struct {
	Name string `json:"name"` // of the registry; empty for one that was named by its repository
	Ref  string `json:"ref"`
	// Path is the file that llama.cpp is given: of several parts the first, from which it finds the others.
	Path string `json:"path"`
	// Size is that of all parts.
	Size int64 `json:"size"`
	// Cached says that nothing was downloaded.
	Cached bool `json:"cached"`
	// Commit is that of the repository.
	Commit string `json:"commit"`
	SHA256 string `json:"sha256"` // empty where nobody knows it, and for several parts
	// Parts are the paths of all parts, where there are several.
	Parts []string `json:"parts,omitempty"`
	// Projector is the path of the file that llama.cpp takes as --mmproj; empty where the repository has none, and for the
	// models of the registry.
	Projector string `json:"mmproj,omitempty"`
	// Layers is the recommended -ngl for the GPUs of the current installation, and Why the reason. -1 is no advice.
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

// forModels is the client as far as models go: offline also where only the Hub's own tools are told to be.
func (c *Client) forModels() *Client {
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

// Models is the registry: of the installed release where there is one, else of the newest that the mirrors offer.
func (c *Client) Models(ctx context.Context, release string) ([]matrix.Model, error) {
	r, err := c.forModels().registry(ctx, release)
	if err != nil {
		return nil, err
	}
	return r.Models, nil
}

func (c *Client) registry(ctx context.Context, release string) (*Release, error) {
	if _, have := c.base(); have && len(c.Mirrors) == 0 {
		// The installed release was verified when it came. Whoever can change the store now needs no list of models.
		kept := *c
		kept.SkipSignature = true
		if r, err := kept.kept(release); err == nil {
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

// reference reads a name of the registry, or what hub.ParseName does.
func (c *Client) reference(ctx context.Context, release, name string, kind hub.Kind) (wanted, error) {
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
			return registered(m), nil
		}
		known = append(known, m.Name)
	}
	return wanted{}, &NameError{Kind: "model", Name: name, Known: append(known, "or any org/repo:file.gguf, org/repo:QUANT or org/repo")}
}

// registered is a model of the registry: the file that it names, without a projector.
func registered(m matrix.Model) wanted {
	return wanted{Name: hub.Name{Repo: m.Repo, Path: m.File, Revision: cmp.Or(m.Revision, "main")}, kind: hub.Weights,
		want: hub.Want{Size: m.Size, SHA256: m.SHA256}, model: &m}
}

// Pull has a model in the Hub's cache: one of the registry by its name, or one that is named by its repository, all parts of
// it and its projector.
func (c *Client) Pull(ctx context.Context, release, name string) (Model, error) {
	return c.pull(ctx, release, name, hub.WithProjector)
}

func (c *Client) pull(ctx context.Context, release, name string, kind hub.Kind) (Model, error) {
	c = c.forModels()
	w, err := c.reference(ctx, release, name, kind)
	if err != nil {
		return Model{}, err
	}
	m, err := c.bring(ctx, release, w)
	if err != nil {
		return Model{}, err
	}
	return m, c.advise(&m)
}

// bring looks for a model in the mirrors that the user gave, then on the Hub or, offline, in its cache, and has its files there.
func (c *Client) bring(ctx context.Context, release string, w wanted) (Model, error) {
	found, ok, err := c.carried(ctx, release, w)
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

// advise recommends a number of layers for the GPUs of the current installation. It gives a *gguf.SplitError for files whose
// names make them parts of one model and whose headers do not: llama.cpp would refuse them.
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

// The models of an exported folder: models.json lists them, and they lie under models/.
const (
	modelsIndex = "models.json"
	modelsDir   = "models"
	maxIndex    = 1 << 20
)

// An exportedModel is one entry of models.json.
type exportedModel struct {
	Repo     string `json:"repo"`
	File     string `json:"file"`
	Revision string `json:"revision"` // as it was asked for
	Commit   string `json:"commit"`
	Size     int64  `json:"size"`
	SHA256   string `json:"sha256"`
	// URL is relative to models.json.
	URL string `json:"url"`
}

// carried looks for a model in the mirrors that the user gave, now or at the installation.
func (c *Client) carried(ctx context.Context, release string, w wanted) (hub.Model, bool, error) {
	if !slices.ContainsFunc(c.sources(), func(s source) bool { return !s.own }) {
		return hub.Model{}, false, nil
	}
	if base, have := c.base(); have && release == "" {
		release = base.Release
	}
	folders, err := c.folders(release)
	if err != nil {
		return hub.Model{}, false, nil // one folder a release, and no release: the Hub is asked
	}
	for _, folder := range folders {
		data, _, err := c.transfer().Get(ctx, []string{folder + modelsIndex}, maxIndex)
		if ctx.Err() != nil {
			return hub.Model{}, false, ctx.Err()
		}
		if err != nil {
			continue // a mirror of bundles alone
		}
		models, err := decodeIndex(data)
		if err != nil {
			return hub.Model{}, false, fmt.Errorf("reading %s%s: %w", folder, modelsIndex, err)
		}
		var there []string
		by := map[string]exportedModel{}
		for _, m := range models { // a later export of the same file stands for the earlier ones
			if m.Repo == w.Repo && (m.Revision == w.Revision || m.Commit == w.Revision) {
				there, by[m.File] = append(there, m.File), m
			}
		}
		found, ok := hub.Choose(there, w.Name, w.kind)
		if !ok {
			continue
		}
		from := func(f *hub.File) {
			m := by[f.Ref.Path]
			f.Known = &hub.Known{Commit: m.Commit, Size: m.Size, SHA256: m.SHA256}
			f.URLs = []string{folder + escaped(m.URL)}
			if f.Ref.Path == w.Path {
				f.Want = w.want
			}
		}
		for i := range found.Files {
			from(&found.Files[i])
		}
		if found.Projector != nil {
			from(found.Projector)
		}
		return found, true, nil
	}
	return hub.Model{}, false, nil
}

func decodeIndex(data []byte) ([]exportedModel, error) {
	var models []exportedModel
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&models); err != nil {
		return nil, err
	}
	for _, m := range models {
		if !filepath.IsLocal(m.URL) || path.Clean(m.URL) != m.URL {
			return nil, fmt.Errorf("%q is no path below the folder", m.URL)
		}
	}
	return models, nil
}

// escaped makes a path one that can stand in an address.
func escaped(p string) string { return (&url.URL{Path: p}).EscapedPath() }

// Cached says which models of the registry are in the Hub's cache, without asking the Hub.
func (c *Client) Cached(ctx context.Context, m matrix.Model) (Model, bool) {
	cached, err := c.cached(ctx, registered(m))
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

// inCache is the client that looks into the Hub's cache alone.
func (c *Client) inCache() *Client {
	kept := *c.forModels()
	kept.Mirrors, kept.Progress, kept.Hub.Offline = nil, nil, true
	return &kept
}

// cached is a model that the Hub's cache has.
func (c *Client) cached(ctx context.Context, w wanted) (Model, error) {
	if w.Path == "" && w.Quant == "" && w.kind != hub.Projector {
		w.Quant = hub.DefaultQuant // what the Hub would have chosen; without it, it is the Hub that knows
	}
	return c.inCache().bring(ctx, "", w)
}

// forRun is the model that a program is to be started with: from the cache, with no question to the Hub on the way to its
// start, else as pull has it.
func (c *Client) forRun(ctx context.Context, name string, kind hub.Kind) (Model, error) {
	w, err := c.forModels().reference(ctx, "", name, kind)
	if err != nil {
		return Model{}, err
	}
	if m, err := c.cached(ctx, w); err == nil {
		return m, nil
	}
	return c.pull(ctx, "", name, kind)
}

// ExportOptions say what goes into an exported folder.
type ExportOptions struct {
	Release string
	SMs     []matrix.SM // empty: all of the release
	Models  []string
}

// An Exported is a file of an exported folder.
type Exported struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	// Already says that it was there.
	Already bool `json:"already"`
}

// Export makes a folder that installs from: the bundles asked for, the CUDA runtime, the client, models, and all that vouches
// for them. It is a mirror itself, by its path or on any web server. What is there already is kept; a broken one goes on.
func (c *Client) Export(ctx context.Context, dir string, o ExportOptions) ([]Exported, error) {
	r, err := c.named(ctx, o.Release)
	if err != nil {
		return nil, err
	}
	assets, err := exported(r, o.SMs)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	unlock, err := c.lockFolder(ctx, dir)
	if err != nil {
		return nil, err
	}
	list, err := c.export(ctx, r, assets, dir, o)
	return list, errors.Join(err, unlock())
}

func (c *Client) export(ctx context.Context, r *Release, assets []manifests.Artifact, dir string, o ExportOptions) ([]Exported, error) {
	var list []Exported
	for _, a := range assets {
		already, err := c.exportAsset(ctx, r, a, dir)
		if err != nil {
			return list, err
		}
		list = append(list, Exported{a.Name, a.Size, already})
	}
	for _, name := range o.Models {
		files, err := c.exportModel(ctx, o.Release, name, dir)
		if err != nil {
			return list, err
		}
		list = append(list, files...)
	}
	// Last, so that a folder with them is a whole one.
	for _, document := range []struct {
		name string
		data []byte
	}{{manifests.ManifestName, r.Documents.Manifest}, {manifests.SumsName, r.Documents.Sums}, {manifests.SignatureName, r.Documents.Signature}} {
		if document.data == nil {
			continue
		}
		if err := replaceFile(filepath.Join(dir, document.name), document.data); err != nil {
			return list, err
		}
		list = append(list, Exported{Name: document.name, Size: int64(len(document.data))})
	}
	return list, nil
}

// exported are the assets to export: of each bundle and its runtime the archive to download, and the client, without which
// nobody could use the folder, or read it once it is newer than the client there.
func exported(r *Release, sms []matrix.SM) ([]manifests.Artifact, error) {
	bundles := r.Bundles()
	if len(sms) > 0 {
		bundles = nil
	}
	for _, sm := range sms {
		bundle, ok := r.Bundle(sm)
		if !ok {
			var known []string
			for _, have := range r.Bundles() {
				known = append(known, have.SM.String())
			}
			return nil, &NameError{Kind: "bundle", Name: sm.String(), Known: known}
		}
		bundles = append(bundles, bundle)
	}
	assets := slices.Clone(bundles)
	for _, bundle := range bundles {
		runtime, ok := r.Runtime(bundle)
		if ok && !slices.ContainsFunc(assets, func(a manifests.Artifact) bool { return a.Name == runtime.Name }) {
			assets = append(assets, runtime)
		}
	}
	assets = append(assets, r.Of(manifests.KindClient)...)
	return assets, nil
}

func (c *Client) exportAsset(ctx context.Context, r *Release, a manifests.Artifact, dir string) (already bool, err error) {
	target := filepath.Join(dir, a.Name)
	if got, err := store.FileDigest(ctx, target); err == nil && got == a.SHA256 {
		return true, nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	urls, err := c.urls(r, a)
	if err != nil {
		return false, err
	}
	return false, c.fetchFile(ctx, a.Name, a.Size, a.SHA256, urls, target)
}

func (c *Client) exportModel(ctx context.Context, release, name, dir string) ([]Exported, error) {
	m, err := c.Pull(ctx, release, name)
	if err != nil {
		return nil, err
	}
	var list []Exported
	var entries []exportedModel
	for _, f := range m.files {
		sum := f.sha256()
		if sum == "" {
			if sum, err = store.FileDigest(ctx, f.Result.Path); err != nil {
				return nil, err
			}
		}
		entry := exportedModel{Repo: f.Repo, File: f.Ref.Path, Revision: f.Revision, Commit: f.Commit, Size: f.Size, SHA256: sum,
			URL: path.Join(modelsDir, f.Repo, f.Commit, f.Ref.Path)}
		target := filepath.Join(dir, filepath.FromSlash(entry.URL))
		result := Exported{Name: entry.URL, Size: f.Size}
		if got, err := store.FileDigest(ctx, target); err == nil && got == sum {
			result.Already = true
		} else {
			if err := os.MkdirAll(filepath.Dir(target), 0o777); err != nil {
				return nil, err
			}
			from := (&url.URL{Scheme: "file", Path: f.Result.Path}).String()
			if err := c.fetchFile(ctx, path.Base(entry.URL), f.Size, sum, []string{from}, target); err != nil {
				return nil, err
			}
		}
		list, entries = append(list, result), append(entries, entry)
	}
	index := filepath.Join(dir, modelsIndex)
	models := []exportedModel{}
	if data, err := os.ReadFile(index); err == nil {
		if models, err = decodeIndex(data); err != nil {
			return nil, fmt.Errorf("reading %s: %w", index, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	models = slices.DeleteFunc(models, func(m exportedModel) bool {
		return slices.ContainsFunc(entries, func(e exportedModel) bool { return m.URL == e.URL && m.Revision == e.Revision })
	})
	data, err := json.MarshalIndent(append(models, entries...), "", "  ")
	if err != nil {
		return nil, err
	}
	return list, replaceFile(index, append(data, '\n'))
}
