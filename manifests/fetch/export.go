package fetch

import (
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

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// ExportOptions say what goes into an exported folder.
type ExportOptions struct {
	Release string
	Rows    []matrix.Row // empty: all of the release
	Models  []string
}

// An Exported is a file of an exported folder.
type Exported struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	// Already reports whether it was there before.
	Already bool `json:"already"`
}

// Export makes a folder that installs from: the bundles asked for, the CUDA runtime of each, the client,
// models, and all that vouches for them. It is a mirror itself, by its path or on any web server.
// Files that are there already are kept, and an interrupted export is resumed.
func (c *Client) Export(ctx context.Context, dir string, o ExportOptions) ([]Exported, error) {
	r, err := c.resolveNamed(ctx, o.Release)
	if err != nil {
		return nil, err
	}
	assets, err := assetsToExport(r, o.Rows)
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

// assetsToExport are the assets to export: of each bundle and its runtime the archive to download,
// and the client, without which the folder could not be used, or read once it is newer than the
// client that a machine has.
func assetsToExport(r *Release, rows []matrix.Row) ([]manifests.Artifact, error) {
	bundles := r.Bundles()
	if len(rows) > 0 {
		bundles = nil
	}
	for _, row := range rows {
		bundle, ok := r.Bundle(row)
		if !ok {
			var known []string
			for _, have := range r.Bundles() {
				known = append(known, have.Row.String())
			}
			return nil, &NameError{Kind: "bundle", Name: row.String(), Known: known}
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
