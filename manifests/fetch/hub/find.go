package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests/retry"
)

// A Kind is what a model's name is to stand for.
type Kind int

const (
	// Weights is a model, all parts of it.
	Weights Kind = iota
	// WithProjector is a model and, where its repository has one, its projector, which turns images
	// and sound into what the model reads.
	WithProjector
	// Projector is a projector alone.
	Projector
)

// A Model is the files that a name stands for.
type Model struct {
	// Files are the model, or its parts in order.
	Files []File
	// Projector is that of a model that has one, else nil.
	Projector *File
}

// All are the model's files, the projector last.
func (m Model) All() []File {
	if m.Projector == nil {
		return m.Files
	}
	return append(slices.Clip(m.Files), *m.Projector)
}

// Find says which files a name stands for; want is what the manifest says of the file that it
// names. It gives a *ChoiceError or a *FileError, with the files that there are, where it is none,
// and else what Download gives. A file that is named needs no listing, which some Hubs do not have.
func (c *Client) Find(ctx context.Context, n Name, want Want, kind Kind) (Model, error) {
	if err := n.check(); err != nil {
		return Model{}, err
	}
	if n.Path == "" {
		there, err := c.list(ctx, n, false)
		if err != nil {
			return Model{}, err
		}
		return there.choose(n, kind)
	}
	var m Model
	for _, part := range Parts(n.Path) {
		f := File{Ref: n.ref(part)}
		if part == n.Path {
			f.Want = want
		}
		m.Files = append(m.Files, f)
	}
	first, err := c.locate(ctx, m.Files[0], "")
	missing, isMissing := errors.AsType[*FileError](err)
	if isMissing || c.Offline && err != nil {
		there, listErr := c.list(ctx, n, true)
		if listErr != nil {
			return Model{}, err
		}
		if found, ok := set(there.files, n.Path); ok {
			n.Path = found
			return there.choose(n, kind)
		}
		if isMissing {
			missing.Files = models(there.files)
		} else if offline, ok := errors.AsType[*OfflineError](err); ok {
			offline.Files = models(there.files)
		}
	}
	if err != nil {
		return Model{}, err
	}
	m.Files[0].asked = &first
	if kind != WithProjector || !isModel(m.Files[0].Ref.Path) {
		return m, nil
	}
	listing := *c
	listing.Offline = c.Offline || first.cached.Unasked != nil
	there, err := listing.list(ctx, n, false)
	if err != nil {
		if _, network := errors.AsType[*NetworkError](err); network && c.Warn != nil {
			c.Warn(fmt.Errorf("looking for a projector of %s: %w", n, err))
		}
		return m, ctx.Err()
	}
	m.Projector = there.projector(n, n.Path)
	return m, nil
}

// Choose says which files a name stands for among those of a listing that the caller has. ok is
// false where it stands for none, or for a model of which a part is missing.
func Choose(files []string, n Name, kind Kind) (Model, bool) {
	m, err := listing{files: files}.choose(n, kind)
	return m, err == nil
}

// A listing is what a revision of a repository has.
type listing struct {
	files   []string
	where   string // for people
	cache   string // the cache's folder, where the network is switched off
	unasked error  // why the cache was asked instead of the Hub
}

func (l listing) choose(n Name, kind Kind) (Model, error) {
	m, err := l.chosen(n, kind)
	switch {
	case err != nil && l.unasked != nil:
		return Model{}, l.unasked
	case err != nil && l.cache != "":
		return Model{}, &OfflineError{Ref: n.ref(n.Path + n.Quant), Cache: l.cache, Files: models(l.files)}
	}
	return m, err
}

func (l listing) chosen(n Name, kind Kind) (Model, error) {
	what, fits := "model", isModel
	if kind == Projector {
		what, fits = "projector", isProjector
	}
	file := n.Path
	if file == "" {
		var ok bool
		if file, ok = choose(l.files, n, fits); !ok {
			return Model{}, &ChoiceError{Name: n, What: what, Where: l.where, Files: models(l.files)}
		}
	} else if first, ok := set(l.files, file); ok && !slices.Contains(l.files, file) {
		file = first
	}
	var m Model
	for _, part := range Parts(file) {
		if !slices.Contains(l.files, part) {
			return Model{}, &FileError{Ref: n.ref(part), Page: l.where, Files: models(l.files)}
		}
		m.Files = append(m.Files, File{Ref: n.ref(part)})
	}
	if kind == WithProjector && isModel(m.Files[0].Ref.Path) {
		m.Projector = l.projector(n, file)
	}
	return m, nil
}

func (l listing) projector(n Name, model string) *File {
	if found, ok := projector(l.files, model); ok {
		return &File{Ref: n.ref(found)}
	}
	return nil
}

// list lists a repository: from the cache where the client is offline, or where the Hub does not
// answer and the cache has something.
func (c *Client) list(ctx context.Context, n Name, once bool) (listing, error) {
	cached, err := c.listCached(n)
	if c.Offline {
		cached.cache = c.Cache
		return cached, err
	}
	there, err := c.listHub(ctx, n, once || len(cached.files) > 0)
	if err == nil || ctx.Err() != nil || len(cached.files) == 0 || !cacheAnswersFor(err) {
		return there, err
	}
	cached.unasked = err
	return cached, nil
}

// listCached lists what the cache has of a revision.
func (c *Client) listCached(n Name) (listing, error) {
	store := c.repository(n.ref(""))
	missing := &OfflineError{Ref: n.ref(n.Path + n.Quant), Cache: c.Cache}
	commit, ok := store.commit(n.Revision)
	if !ok {
		return listing{}, missing
	}
	root := store.pointer(commit, "")
	there := listing{where: root}
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() { // a link whose blob was removed is not there
			inside, err := filepath.Rel(root, file)
			if err != nil {
				return err
			}
			there.files = append(there.files, filepath.ToSlash(inside))
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return listing{}, fmt.Errorf("reading the Hub's cache: %w", err)
	}
	if len(there.files) == 0 {
		return listing{}, missing
	}
	return there, nil
}

const (
	maxList   = 64 << 20 // bytes of one answer, which has a thousand files at most
	maxPages  = 100
	fullList  = 1000 // from so many files on, the short listing may not be all: huggingface_hub's snapshot_download
	listLimit = fullList * maxPages
)

// listHub asks the Hub: for a revision's commit and its files, and, where the answer may not have
// all of them or there is no such answer, for its tree, page by page.
func (c *Client) listHub(ctx context.Context, n Name, once bool) (listing, error) {
	there := listing{where: c.endpoint() + "/" + n.Repo + "/tree/" + url.PathEscape(n.Revision)}
	api := c.endpoint() + "/api/models/" + n.Repo
	var info struct {
		SHA      string `json:"sha"`
		Siblings []struct {
			Name string `json:"rfilename"`
		} `json:"siblings"`
	}
	_, err := c.get(ctx, n, api+"/revision/"+url.PathEscape(n.Revision), once, &info)
	if _, nowhere := errors.AsType[*RepositoryError](err); err != nil && !nowhere {
		return there, err
	}
	for _, file := range info.Siblings {
		there.files = append(there.files, file.Name)
	}
	revision := n.Revision
	if isCommit(info.SHA) {
		revision = info.SHA
	}
	if err == nil && len(there.files) > 0 && len(there.files) < fullList {
		return there, nil
	}
	there.files = nil
	next := api + "/tree/" + url.PathEscape(revision) + "?recursive=true"
	for range maxPages {
		var page []struct{ Type, Path string }
		if next, err = c.get(ctx, n, next, once, &page); err != nil {
			return there, err
		}
		for _, entry := range page {
			if entry.Type != "directory" {
				there.files = append(there.files, entry.Path)
			}
		}
		if next == "" {
			return there, nil
		}
	}
	return there, fmt.Errorf("listing %s: it has more than %d files", n.Repo, listLimit)
}

// nextPage is how the Hub links to the next page, RFC 8288.
var nextPage = regexp.MustCompile(`<([^>]+)>\s*;[^,]*rel="?next"?`)

// get reads an answer of the Hub's API, and gives the address of its next page, if it has one. An
// address that leads to another host is refused: the token goes with it.
func (c *Client) get(ctx context.Context, n Name, address string, once bool, into any) (next string, err error) {
	err = c.ask(ctx, once, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		answer, err := c.do(ctx, http.MethodGet, address, func(http.Header) bool { return false })
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return c.refusal(Ref{Repo: n.Repo, Revision: n.Revision}, answer)
		}
		data, err := io.ReadAll(io.LimitReader(answer.Body, maxList))
		if err != nil {
			return &retry.TemporaryError{Err: answer.explain(err)}
		}
		if err := json.Unmarshal(data, into); err != nil {
			return &NetworkError{Endpoint: c.endpoint(), Err: answer.explain(fmt.Errorf("the answer to %s is not that of a Hub: %w", path.Base(address), err))}
		}
		next = ""
		for _, link := range answer.Header.Values("Link") {
			if match := nextPage.FindStringSubmatch(link); match != nil {
				target, err := answer.Request.URL.Parse(match[1])
				if err != nil || target.Host != answer.Request.URL.Host || target.Scheme != answer.Request.URL.Scheme {
					return &NetworkError{Endpoint: c.endpoint(), Err: answer.explain(fmt.Errorf("its listing goes on at another host, %s", strings.TrimSpace(match[1])))}
				}
				next = target.String()
			}
		}
		return nil
	})
	return next, err
}
