package fetch

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"slices"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/hub"
)

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

// findExported looks for a model in the mirrors that the user gave, now or at the installation.
func (c *Client) findExported(ctx context.Context, release string, w wanted) (hub.Model, bool, error) {
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
			f.URLs = []string{folder + escapePath(m.URL)}
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
			return nil, fmt.Errorf("%q is not a path below the folder", m.URL)
		}
	}
	return models, nil
}

// escapePath makes a path one that can stand in an address.
func escapePath(p string) string { return (&url.URL{Path: p}).EscapedPath() }
