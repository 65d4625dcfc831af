package fetch

import (
	"bytes"
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

// A Model is a GGUF file on this machine.
type Model struct {
	Name string `json:"name"` // of the registry; empty for one that was named by its repository
	Ref  string `json:"ref"`
	Path string `json:"path"`
	Size int64  `json:"size"`
	// Cached says that nothing was downloaded.
	Cached bool `json:"cached"`
	// Commit is that of the repository.
	Commit string `json:"commit"`
	SHA256 string `json:"sha256"` // empty where nobody vouched for one
	// Layers is the recommended -ngl for the GPUs of the current installation, and Why the reason. -1 is no advice.
	Layers int    `json:"ngl"`
	Why    string `json:"why"`
	// Unasked is why the Hub did not answer, where the cache did instead.
	Unasked string `json:"unasked,omitempty"`
}

// Models is the registry: of the installed release where there is one, else of the newest that the mirrors offer.
func (c *Client) Models(ctx context.Context, release string) ([]matrix.Model, error) {
	r, err := c.registry(ctx, release)
	if err != nil {
		return nil, err
	}
	return r.Models, nil
}

func (c *Client) registry(ctx context.Context, release string) (*Release, error) {
	if _, err := c.Store.Current(); err == nil && len(c.Mirrors) == 0 {
		// The installed release was verified when it came. Whoever can change the store now needs no list of models.
		kept := *c
		kept.SkipSignature = true
		if r, err := kept.kept(release); err == nil {
			return r, nil
		}
	}
	return c.Resolve(ctx, release)
}

// reference reads a name of the registry or a file of a repository.
func (c *Client) reference(ctx context.Context, release, name string) (hub.Ref, hub.Want, matrix.Model, error) {
	if strings.ContainsAny(name, ":/") {
		ref, err := hub.ParseRef(name)
		return ref, hub.Want{}, matrix.Model{}, err
	}
	models, err := c.Models(ctx, release)
	if err != nil {
		return hub.Ref{}, hub.Want{}, matrix.Model{}, err
	}
	known := []string{}
	for _, m := range models {
		if slices.ContainsFunc(append([]string{m.Name}, m.Aliases...), func(n string) bool { return strings.EqualFold(n, name) }) {
			revision := m.Revision
			if revision == "" {
				revision = "main"
			}
			return hub.Ref{Repo: m.Repo, Path: m.File, Revision: revision}, hub.Want{Size: m.Size, SHA256: m.SHA256}, m, nil
		}
		known = append(known, m.Name)
	}
	return hub.Ref{}, hub.Want{}, matrix.Model{}, &NameError{Kind: "model", Name: name, Known: append(known, "or any org/repo:file.gguf")}
}

// Pull has a model in the Hub's cache: one of the registry by its name, or "org/repo:file.gguf[@revision]".
func (c *Client) Pull(ctx context.Context, release, name string) (Model, error) {
	ref, want, m, err := c.reference(ctx, release, name)
	if err != nil {
		return Model{}, err
	}
	client := *c.Hub
	client.Offline = client.Offline || c.Offline
	if client.Transfer == nil {
		client.Transfer = c.transfer()
	}
	result, imported, err := c.importModel(ctx, &client, release, ref, want)
	if err == nil && !imported {
		result, err = client.Download(ctx, ref, want, c.Progress)
	}
	if err != nil {
		return Model{}, err
	}
	model := Model{Name: m.Name, Ref: ref.String(), Path: result.Path, Size: result.Size, Cached: result.Cached, Commit: result.Commit, Layers: -1}
	if result.Unasked != nil {
		model.Unasked = result.Unasked.Error()
	}
	if blob, err := filepath.EvalSymlinks(result.Path); err == nil && len(filepath.Base(blob)) == len(digestOf(nil)) {
		model.SHA256 = filepath.Base(blob)
	}
	c.advise(&model)
	return model, nil
}

// advise recommends a number of layers for the GPUs of the current installation.
func (c *Client) advise(m *Model) {
	current, err := c.Store.Current()
	if err != nil || current.Through == manifests.ThroughCPU || slices.Contains(current.GPUMemory, 0) || len(current.GPUMemory) == 0 {
		return
	}
	header, err := gguf.Read(m.Path)
	if err != nil {
		m.Why = err.Error() // llama.cpp may still know better
		return
	}
	m.Layers, m.Why = hub.Layers(header, current.GPUMemory)
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

// importModel brings a model from the mirrors that the user gave, if one has it.
func (c *Client) importModel(ctx context.Context, client *hub.Client, release string, ref hub.Ref, want hub.Want) (hub.Result, bool, error) {
	if len(c.Mirrors) == 0 {
		return hub.Result{}, false, nil
	}
	if current, err := c.Store.Current(); err == nil && release == "" {
		release = current.Release
	}
	folders, err := c.folders(release)
	if err != nil {
		return hub.Result{}, false, nil // one folder a release, and no release: the Hub is asked
	}
	for _, folder := range folders {
		data, _, err := c.transfer().Get(ctx, []string{folder + modelsIndex}, maxIndex)
		if ctx.Err() != nil {
			return hub.Result{}, false, ctx.Err()
		}
		if err != nil {
			continue // a mirror of bundles alone
		}
		models, err := decodeIndex(data)
		if err != nil {
			return hub.Result{}, false, fmt.Errorf("reading %s%s: %w", folder, modelsIndex, err)
		}
		for _, m := range models {
			if m.Repo != ref.Repo || m.File != ref.Path || m.Revision != ref.Revision && m.Commit != ref.Revision {
				continue
			}
			known := hub.Known{Commit: m.Commit, Size: m.Size, SHA256: m.SHA256}
			result, err := client.Import(ctx, ref, want, known, []string{folder + escaped(m.URL)}, c.Progress)
			return result, true, err
		}
	}
	return hub.Result{}, false, nil
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
	client := *c.Hub
	client.Offline = true
	revision := m.Revision
	if revision == "" {
		revision = "main"
	}
	ref := hub.Ref{Repo: m.Repo, Path: m.File, Revision: revision}
	result, err := client.Download(ctx, ref, hub.Want{Size: m.Size, SHA256: m.SHA256}, nil)
	if err != nil {
		return Model{}, false
	}
	return Model{Name: m.Name, Ref: ref.String(), Path: result.Path, Size: result.Size, Cached: true, Commit: result.Commit}, true
}

// ModelPath is the file of a model that a program is to be started with: it is taken from the cache, else from the Hub.
func (c *Client) ModelPath(ctx context.Context, arg string) (string, error) {
	ref, want, _, err := c.reference(ctx, "", arg)
	if err != nil {
		return "", err
	}
	client := *c.Hub
	client.Offline = true
	if result, err := client.Download(ctx, ref, want, nil); err == nil {
		return result.Path, nil // no question to the Hub on the way to a program's start
	}
	m, err := c.Pull(ctx, "", arg)
	return m.Path, err
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

// Export makes a folder that installs from: the bundles asked for, the CUDA runtime, models, and all that vouches for
// them. It is a mirror itself, by its path or on any web server. What is there already is kept; a broken one goes on.
func (c *Client) Export(ctx context.Context, dir string, o ExportOptions) ([]Exported, error) {
	if _, err := c.checkWithdrawn(ctx, o.Release); err != nil {
		return nil, err
	}
	r, err := c.Resolve(ctx, o.Release)
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
		file, err := c.exportModel(ctx, o.Release, name, dir)
		if err != nil {
			return list, err
		}
		list = append(list, file)
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

// exported are the assets to export: of each bundle and of the runtime the smaller archive.
func exported(r *Release, sms []matrix.SM) ([]manifests.Artifact, error) {
	best := map[matrix.SM]manifests.Artifact{}
	for _, a := range r.Assets {
		if have, ok := best[a.SM]; a.Kind == manifests.KindBundle && (!ok || a.Size < have.Size) {
			best[a.SM] = a
		}
	}
	var have []matrix.SM
	var known []string
	for _, a := range r.Assets {
		if a.Kind == manifests.KindBundle && !slices.Contains(have, a.SM) {
			have, known = append(have, a.SM), append(known, a.SM.String())
		}
	}
	if len(sms) == 0 {
		sms = have
	}
	var assets []manifests.Artifact
	for _, sm := range sms {
		a, ok := best[sm]
		if !ok {
			return nil, &NameError{Kind: "bundle", Name: sm.String(), Known: known}
		}
		assets = append(assets, a)
	}
	return append(assets, runtimeOf(r)), nil
}

func (c *Client) exportAsset(ctx context.Context, r *Release, a manifests.Artifact, dir string) (already bool, err error) {
	target := filepath.Join(dir, a.Name)
	if got, err := store.FileDigest(target); err == nil && got == a.SHA256 {
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

func (c *Client) exportModel(ctx context.Context, release, name, dir string) (Exported, error) {
	ref, _, _, err := c.reference(ctx, release, name)
	if err != nil {
		return Exported{}, err
	}
	m, err := c.Pull(ctx, release, name)
	if err != nil {
		return Exported{}, err
	}
	if m.SHA256 == "" {
		if m.SHA256, err = store.FileDigest(m.Path); err != nil {
			return Exported{}, err
		}
	}
	entry := exportedModel{Repo: ref.Repo, File: ref.Path, Revision: ref.Revision, Commit: m.Commit, Size: m.Size, SHA256: m.SHA256,
		URL: path.Join(modelsDir, ref.Repo, m.Commit, ref.Path)}
	target := filepath.Join(dir, filepath.FromSlash(entry.URL))
	result := Exported{Name: entry.URL, Size: m.Size}
	if got, err := store.FileDigest(target); err == nil && got == m.SHA256 {
		result.Already = true
	} else {
		if err := os.MkdirAll(filepath.Dir(target), 0o777); err != nil {
			return Exported{}, err
		}
		from := (&url.URL{Scheme: "file", Path: m.Path}).String()
		if err := c.fetchFile(ctx, path.Base(entry.URL), m.Size, m.SHA256, []string{from}, target); err != nil {
			return Exported{}, err
		}
	}
	index := filepath.Join(dir, modelsIndex)
	models := []exportedModel{}
	if data, err := os.ReadFile(index); err == nil {
		if models, err = decodeIndex(data); err != nil {
			return Exported{}, fmt.Errorf("reading %s: %w", index, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Exported{}, err
	}
	models = slices.DeleteFunc(models, func(m exportedModel) bool { return m.URL == entry.URL && m.Revision == entry.Revision })
	data, err := json.MarshalIndent(append(models, entry), "", "  ")
	if err != nil {
		return Exported{}, err
	}
	return result, replaceFile(index, append(data, '\n'))
}
