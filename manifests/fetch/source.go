package fetch

import (
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// DefaultMirror, in the place of a mirror's address, is the releases of manifests.Repository on
// GitHub. A folder of that name is "./default".
const DefaultMirror = "default"

// placeholder stands for a release's tag in the address of a mirror.
const placeholder = "{release}"

// A source is where releases are: a mirror as the user gave it, or the farm's own releases.
type source struct {
	address string // without a slash at the end
	own     bool
}

// sources are those to try, in turn.
func (c *Client) sources() []source {
	mirrors, _ := c.mirrors()
	var list []source
	for _, mirror := range mirrors {
		s := source{address: strings.TrimSuffix(mirror, "/")}
		if mirror == DefaultMirror {
			s = source{address: manifests.RepositoryURL + "/releases/download/" + placeholder, own: true}
		}
		if !c.Offline || s.isLocal() {
			list = append(list, s)
		}
	}
	return list
}

func (s source) isLocal() bool { return isLocal(s.address) }

func isLocal(address string) bool {
	return strings.HasPrefix(address, "file:") || !strings.Contains(address, "://")
}

// byTag reports whether the source has a folder for each release.
func (s source) byTag() bool { return strings.Contains(s.address, placeholder) }

// folder is the address of a release's folder, ending in a slash.
func (s source) folder(tag string) (string, error) {
	if s.byTag() && tag == "" {
		return "", fmt.Errorf("the mirror %s needs a release: give one with --release", withoutUser(s.address))
	}
	if strings.Contains(s.address, "://") {
		return strings.ReplaceAll(s.address, placeholder, url.PathEscape(tag)) + "/", nil
	}
	path, err := filepath.Abs(strings.ReplaceAll(s.address, placeholder, url.PathEscape(tag)))
	if err != nil {
		return "", err
	}
	return (&url.URL{Scheme: "file", Path: path}).String() + "/", nil
}

// folders are the addresses of a release's folder in all sources.
func (c *Client) folders(tag string) ([]string, error) {
	var list []string
	for _, s := range c.sources() {
		folder, err := s.folder(tag)
		if err != nil {
			return nil, err
		}
		list = append(list, folder)
	}
	return list, nil
}

// urls are the addresses of an asset: first where the release was read, then the other mirrors.
func (c *Client) urls(r *Release, a manifests.Artifact) ([]string, error) {
	folders, err := c.folders(r.Release.Release)
	if err != nil {
		return nil, err
	}
	if r.From != "" {
		folders = slices.DeleteFunc(folders, func(folder string) bool { return folder == r.From })
		folders = append([]string{r.From}, folders...)
	}
	for i := range folders {
		folders[i] += a.URL
	}
	return folders, nil
}

// withoutUser is an address without the name and the password in it: what may be shown and stored.
// A name alone is often a token. It works on the text, so that the rest stays as the user wrote it.
func withoutUser(address string) string {
	scheme, rest, ok := strings.Cut(address, "://")
	if !ok {
		return address
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	return scheme + "://" + rest[strings.LastIndexByte(rest[:end], '@')+1:]
}
