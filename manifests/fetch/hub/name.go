package hub

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// A Name is how a user names a model: one file of a repository, one of its quantizations, or the repository alone.
type Name struct {
	Repo     string
	Revision string
	// Path is a file. Where it is empty, the repository's listing decides.
	Path string
	// Quant chooses among the files by what stands in their names, such as Q4_K_M; empty is llama.cpp's default.
	Quant string
	// Folder confines the choice to a folder of the repository.
	Folder string
}

// String gives what ParseName reads, as far as it has a form without an address.
func (n Name) String() string {
	text := n.Repo
	if what := n.Path + n.Quant; what != "" {
		text += ":" + what
	}
	if n.Revision != mainBranch {
		text += "@" + n.Revision
	}
	return text
}

func (n Name) ref(path string) Ref { return Ref{Repo: n.Repo, Path: path, Revision: n.Revision} }

// mainBranch is what a name without a revision means.
const mainBranch = "main"

// publicHosts are those of the public Hub.
var publicHosts = []string{"huggingface.co", "hf.co", "www.huggingface.co"}

// A tag stands in a file's name and never is one: it has no dot and no slash.
var quantForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// ParseName reads
//
//	org/repo    org/repo:QUANT    org/repo:folder/file.gguf
//
// each with @revision at its end, if need be, and with hf.co/ before it, and the addresses of a repository, a folder and a
// file as a browser shows them, on huggingface.co or on the Hub at endpoint. It gives a *RefError.
func ParseName(text, endpoint string) (Name, error) {
	rest, isAddress, err := withoutHost(strings.TrimSpace(text), endpoint)
	if err != nil {
		return Name{}, err
	}
	if page, query, _ := strings.Cut(rest, "?"); !strings.Contains(page, ":") && (isAddress || pageForm.MatchString(page)) {
		page, _, _ = strings.Cut(page, "#")
		query, _, _ = strings.Cut(query, "#")
		return parsePage(text, strings.TrimSuffix(page, "/"), query)
	} else if isAddress {
		rest = strings.TrimSuffix(page, "/")
	}
	repo, what, colon := strings.Cut(rest, ":")
	n := Name{Repo: repo, Revision: mainBranch}
	last := &n.Repo
	if colon {
		last = &what
	}
	if at := strings.LastIndexByte(*last, '@'); at >= 0 {
		*last, n.Revision = (*last)[:at], (*last)[at+1:]
	}
	switch parts := strings.Split(n.Repo, "/"); {
	case !colon && len(parts) > 2 && strings.HasSuffix(n.Repo, ".gguf"):
		return Name{}, refError("reading %q: it is not of the form org/repo:file.gguf; write %s:%s", text, strings.Join(parts[:2], "/"), strings.Join(parts[2:], "/"))
	case len(parts) != 2 || colon && what == "":
		return Name{}, refError("reading %q: it is not of the form org/repo:file.gguf, org/repo:QUANT or org/repo, and not the address of a file on the Hub", text)
	}
	if quantForm.MatchString(what) {
		n.Quant = what
	} else {
		n.Path = what
	}
	return n, n.check()
}

func (n Name) check() error {
	path := n.Path
	if path == "" {
		path = "any.gguf"
	}
	if n.Folder != "" && !isLocal(n.Folder) {
		return refError("reading the name of a folder of %s: %q is not a path inside a repository", n.Repo, n.Folder)
	}
	return n.ref(path).check()
}

// withoutHost takes the Hub's host off a name that has one.
func withoutHost(text, endpoint string) (rest string, isAddress bool, err error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		scheme, rest = "", text
	}
	hubs := slices.Clone(publicHosts)
	if _, own, ok := strings.Cut(endpoint, "://"); ok {
		hubs = append([]string{own}, hubs...)
	}
	for _, hub := range hubs {
		if len(rest) > len(hub) && strings.EqualFold(rest[:len(hub)], hub) && rest[len(hub)] == '/' {
			return rest[len(hub)+1:], true, nil
		}
	}
	if scheme == "" {
		return text, false, nil
	}
	host, _, _ := strings.Cut(rest, "/")
	return "", false, refError("reading %q: %s is not the host of a Hub that is known; HF_ENDPOINT names one besides huggingface.co", text, host)
}

// pageForm is what is below the Hub's address where a folder or a file of a repository is shown or downloaded.
var pageForm = regexp.MustCompile(`^[^/]+/[^/]+/(blob|resolve|raw|tree)/`)

// parsePage reads what is below the Hub's address in the address of a page.
func parsePage(text, page, query string) (Name, error) {
	escaped := strings.Split(page, "/")
	parts := make([]string, len(escaped))
	for i, part := range escaped {
		var err error
		if parts[i], err = url.PathUnescape(part); err != nil {
			return Name{}, refError("reading %q: %v", text, err)
		}
	}
	n := Name{Revision: mainBranch}
	switch {
	case len(parts) < 2 || parts[0] == "datasets" || parts[0] == "spaces" || len(parts) > 2 && !pageForm.MatchString(page+"/"):
		return Name{}, refError("reading %q: it is not the address of a repository of models, or of a file in one", text)
	case len(parts) > 3:
		at := 4
		if parts[3] == "refs" && len(parts) > 5 { // refs/pr/1 and refs/convert/x; other slashes in a revision are escaped
			at = 6
		}
		n.Revision = strings.Join(parts[3:at], "/")
		if rest := strings.Join(parts[at:], "/"); parts[2] == "tree" {
			n.Folder = rest
		} else if n.Path = rest; rest == "" {
			return Name{}, refError("reading %q: it names no file", text)
		}
	}
	n.Repo = parts[0] + "/" + parts[1]
	if repo, revision, ok := strings.Cut(n.Repo, "@"); ok && len(parts) == 2 {
		n.Repo, n.Revision = repo, revision
	}
	// The Hub's page about what is in a GGUF file.
	if values, err := url.ParseQuery(query); err == nil && n.Path == "" && values.Get("show_file_info") != "" {
		n.Path, n.Folder = values.Get("show_file_info"), ""
	}
	return n, n.check()
}
