package ghtest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A route is a kind of request and who answers it. Handlers hold the server's lock.
type route struct {
	op      Op
	method  string
	path    string // as in GitHub's description
	uploads bool
	handle  func(s *Server, r *request, authorized bool) answer
}

const base = "/repos/{owner}/{repo}"

var routes = []*route{
	{List, http.MethodGet, base + "/releases", false, (*Server).listReleases},
	{Create, http.MethodPost, base + "/releases", false, (*Server).createRelease},
	{ReadLatest, http.MethodGet, base + "/releases/latest", false, (*Server).readLatest},
	{ReadByTag, http.MethodGet, base + "/releases/tags/{tag}", false, (*Server).readByTag},
	{ReadAsset, http.MethodGet, base + "/releases/assets/{asset_id}", false, (*Server).readAsset},
	{UpdateAsset, http.MethodPatch, base + "/releases/assets/{asset_id}", false, (*Server).updateAsset},
	{DeleteAsset, http.MethodDelete, base + "/releases/assets/{asset_id}", false, (*Server).deleteAsset},
	{Read, http.MethodGet, base + "/releases/{release_id}", false, (*Server).readRelease},
	{Promote, http.MethodPatch, base + "/releases/{release_id}", false, (*Server).updateRelease},
	{DeleteRelease, http.MethodDelete, base + "/releases/{release_id}", false, (*Server).deleteRelease},
	{ListAssets, http.MethodGet, base + "/releases/{release_id}/assets", false, (*Server).listAssets},
	{Upload, http.MethodPost, base + "/releases/{release_id}/assets", true, nil},
	{ReadRef, http.MethodGet, base + "/git/ref/tags/{ref}", false, (*Server).readRef},
	{ReadTag, http.MethodGet, base + "/git/tags/{tag_sha}", false, (*Server).readTag},
}

// match finds the route of a request, and the parameters in its path.
func match(method, path string, uploads bool) (*route, map[string]string) {
	parts := strings.Split(path, "/")
next:
	for _, route := range routes {
		want := strings.Split(route.path, "/")
		if route.method != method || route.uploads != uploads || len(want) != len(parts) {
			continue
		}
		params := map[string]string{}
		for i, part := range want {
			if name, ok := strings.CutPrefix(part, "{"); ok {
				params[strings.TrimSuffix(name, "}")] = parts[i]
			} else if part != parts[i] {
				continue next
			}
		}
		return route, params
	}
	return nil, nil
}

const (
	uploaded = "uploaded"
	starter  = "starter"
)

// page cuts the page that a request asks for out of a list, and says how to get the next.
func page[T any](s *Server, r *request, list []T) ([]T, http.Header) {
	query := r.URL.Query()
	length, _ := strconv.Atoi(query.Get("per_page"))
	if length <= 0 {
		length = 30
	}
	length = min(length, s.o.PerPage)
	number, _ := strconv.Atoi(query.Get("page"))
	number = max(number, 1)
	header := http.Header{}
	from, to := min((number-1)*length, len(list)), min(number*length, len(list))
	if to < len(list) {
		query.Set("page", strconv.Itoa(number+1))
		header.Set("Link", fmt.Sprintf(`<%s%s?%s>; rel="next"`, s.URL, r.URL.Path, query.Encode()))
	}
	return list[from:to], header
}

func notFound() answer { return *problem(http.StatusNotFound, "Not Found") }

func (s *Server) listReleases(r *request, authorized bool) answer {
	list := []any{}
	for _, release := range slices.Backward(r.repo.releases) {
		late := time.Since(release.created) < s.o.ListLag
		if !late && (authorized || !release.draft) {
			list = append(list, s.releaseJSON(r.repo, release))
		}
	}
	some, header := page(s, r, list)
	return answer{http.StatusOK, header, some}
}

// fields are what a request may say of a release.
type fields struct {
	TagName    *string `json:"tag_name"`
	Commit     *string `json:"target_commitish"`
	Name       *string `json:"name"`
	Body       *string `json:"body"`
	Draft      *bool   `json:"draft"`
	Prerelease *bool   `json:"prerelease"`
	Latest     *string `json:"make_latest"`
}

func (s *Server) createRelease(r *request, _ bool) answer {
	var f fields
	if err := json.Unmarshal(r.body, &f); err != nil {
		return *problem(http.StatusBadRequest, "Problems parsing JSON")
	}
	made := &release{id: s.id(), tag: *f.TagName, commit: "main", created: time.Now(), draft: true}
	if a := s.change(r.repo, made, f, f.Draft == nil || !*f.Draft); a != nil {
		return *a
	}
	r.repo.releases = append(r.repo.releases, made)
	return answer{http.StatusCreated, http.Header{"Location": {s.releaseURL(r.repo, made)}}, s.releaseJSON(r.repo, made)}
}

// change gives a release new fields, and publishes it.
func (s *Server) change(repo *repository, to *release, f fields, publish bool) *answer {
	target := to.commit // an earlier request's counts as well: https://docs.github.com/en/rest/releases/releases#update-a-release
	if f.Commit != nil {
		target = *f.Commit
	}
	if repo.workflows[target] {
		return problem(http.StatusForbidden, "Resource not accessible by integration")
	}
	for _, field := range []struct {
		from *string
		to   *string
	}{{f.TagName, &to.tag}, {f.Commit, &to.commit}, {f.Name, &to.name}, {f.Body, &to.body}} {
		if field.from != nil {
			*field.to = *field.from
		}
	}
	if f.Prerelease != nil {
		to.pre = *f.Prerelease
	}
	if !publish || !to.draft {
		return nil
	}
	for _, other := range repo.releases {
		if other != to && !other.draft && other.tag == to.tag {
			a := invalid("Release", "tag_name", "already_exists")
			return &a
		}
	}
	if _, there := repo.tags[to.tag]; !there {
		commit := to.commit
		if len(commit) != 40 {
			commit = Commit
		}
		repo.tags[to.tag] = tag{commit: commit}
	}
	to.draft, to.published, to.frozen = false, time.Now(), s.o.Immutable
	if f.Latest == nil || *f.Latest != "false" {
		repo.latest = to.id
	}
	return nil
}

// releaseOf finds a release by the request's number. The caller holds the lock.
func (s *Server) releaseOf(r *request) *release {
	repo := s.repos[r.params["owner"]+"/"+r.params["repo"]]
	if repo == nil {
		return nil
	}
	for _, release := range repo.releases {
		if release.id == r.number("release_id") {
			return release
		}
	}
	return nil
}

func (s *Server) readRelease(r *request, authorized bool) answer {
	release := s.releaseOf(r)
	if release == nil || release.draft && !authorized {
		return notFound()
	}
	return answer{http.StatusOK, nil, s.releaseJSON(r.repo, release)}
}

func (s *Server) readByTag(r *request, _ bool) answer {
	for _, release := range r.repo.releases {
		if release.tag == r.params["tag"] && !release.draft {
			return answer{http.StatusOK, nil, s.releaseJSON(r.repo, release)}
		}
	}
	return notFound()
}

func (s *Server) readLatest(r *request, _ bool) answer {
	for _, release := range r.repo.releases {
		if release.id == r.repo.latest {
			return answer{http.StatusOK, nil, s.releaseJSON(r.repo, release)}
		}
	}
	return notFound()
}

func (s *Server) updateRelease(r *request, _ bool) answer {
	release := s.releaseOf(r)
	if release == nil {
		return notFound()
	}
	var f fields
	if err := json.Unmarshal(r.body, &f); err != nil {
		return *problem(http.StatusBadRequest, "Problems parsing JSON")
	}
	if f.TagName == nil && release.draft { // https://github.com/tauri-apps/tauri-action/issues/914
		other := s.untagged(release)
		f.TagName = &other
	}
	if a := s.change(r.repo, release, f, f.Draft != nil && !*f.Draft); a != nil {
		return *a
	}
	return answer{http.StatusOK, nil, s.releaseJSON(r.repo, release)}
}

func (s *Server) deleteRelease(r *request, _ bool) answer {
	gone := s.releaseOf(r)
	if gone == nil {
		return notFound()
	}
	r.repo.releases = slices.DeleteFunc(r.repo.releases, func(other *release) bool { return other == gone })
	return answer{status: http.StatusNoContent}
}

func (s *Server) listAssets(r *request, authorized bool) answer {
	release := s.releaseOf(r)
	if release == nil || release.draft && !authorized {
		return notFound()
	}
	some, header := page(s, r, s.assetsJSON(r.repo, release))
	return answer{http.StatusOK, header, some}
}

// begin makes the asset of an upload that begins, and nil where the name is taken. The caller holds the lock.
func (s *Server) begin(to *release, r *request) *asset {
	name := r.URL.Query().Get("name")
	if slices.ContainsFunc(s.alive(to), func(a *asset) bool { return a.name == name }) {
		return nil
	}
	made := &asset{id: s.id(), name: name, kind: r.Header.Get("Content-Type"), state: starter, created: time.Now()}
	if label := r.URL.Query().Get("label"); label != "" {
		made.label = &label
	}
	to.assets = append(to.assets, made)
	return made
}

// upload takes the bytes of an asset. It is nil where the client, or a fault, broke it off.
func (s *Server) upload(r *request, fault *Fault) *answer {
	s.mu.Lock()
	to := s.releaseOf(r)
	var made *asset
	frozen := to != nil && to.frozen
	if to != nil && !frozen {
		made = s.begin(to, r)
	}
	s.mu.Unlock()
	switch {
	case to == nil:
		a := notFound()
		return &a
	case frozen:
		return problem(http.StatusUnprocessableEntity, "Cannot upload assets to an immutable release.")
	case made == nil:
		a := invalid("ReleaseAsset", "name", "already_exists")
		return &a
	}
	left := r.ContentLength
	if fault != nil && fault.At == Middle {
		left /= 2
	}
	sum, data := sha256.New(), make([]byte, 0, 4096)
	buf := make([]byte, 256<<10)
	for left > 0 {
		n, err := r.Body.Read(buf[:min(left, int64(len(buf)))])
		sum.Write(buf[:n])
		if !s.o.Discard {
			data = append(data, buf[:n]...)
		}
		left -= int64(n)
		if err != nil && (err != io.EOF || left > 0) {
			panic(http.ErrAbortHandler) // the client is gone, and leaves a starter
		}
	}
	s.mu.Lock()
	if fault != nil && fault.At == Middle {
		s.leave(made, fault)
		s.mu.Unlock()
		if fault.Stall {
			s.stall(r)
		}
		if fault.Status == 0 {
			panic(http.ErrAbortHandler)
		}
		a := problem(fault.Status, http.StatusText(fault.Status))
		a.header = fault.Header
		return a
	}
	defer s.mu.Unlock()
	if !slices.Contains(s.alive(to), made) || s.releaseOf(r) == nil {
		return problem(http.StatusInternalServerError, "the asset was deleted meanwhile")
	}
	made.state, made.size, made.sha256, made.data = uploaded, r.ContentLength, hex.EncodeToString(sum.Sum(nil)), data
	return &answer{http.StatusCreated, nil, s.assetJSON(s.repos[r.params["owner"]+"/"+r.params["repo"]], to, made)}
}

// assetOf finds an asset by the request's number.
func (s *Server) assetOf(r *request) (*release, *asset) {
	for _, release := range r.repo.releases {
		for _, a := range s.alive(release) {
			if a.id == r.number("asset_id") {
				return release, a
			}
		}
	}
	return nil, nil
}

func (s *Server) readAsset(r *request, authorized bool) answer {
	of, a := s.assetOf(r)
	switch {
	case a == nil || of.draft && !authorized:
		return notFound()
	case r.Header.Get("Accept") == "application/octet-stream":
		return answer{status: http.StatusFound, header: http.Header{"Location": {s.blob(a)}}}
	}
	return answer{http.StatusOK, nil, s.assetJSON(r.repo, of, a)}
}

func (s *Server) updateAsset(r *request, _ bool) answer {
	of, a := s.assetOf(r)
	if a == nil {
		return notFound()
	}
	var f struct{ Name, Label *string }
	if err := json.Unmarshal(r.body, &f); err != nil {
		return *problem(http.StatusBadRequest, "Problems parsing JSON")
	}
	if f.Name != nil {
		a.name = *f.Name
	}
	if f.Label != nil {
		a.label = f.Label
	}
	return answer{http.StatusOK, nil, s.assetJSON(r.repo, of, a)}
}

func (s *Server) deleteAsset(r *request, _ bool) answer {
	of, a := s.assetOf(r)
	switch {
	case a == nil:
		return notFound()
	case of.frozen:
		return *problem(http.StatusUnprocessableEntity, "Cannot delete asset from an immutable release.")
	}
	of.assets = slices.DeleteFunc(of.assets, func(other *asset) bool { return other == a })
	return answer{status: http.StatusNoContent}
}

func (s *Server) readRef(r *request, _ bool) answer {
	name := r.params["ref"]
	to, ok := r.repo.tags[name]
	if !ok {
		return notFound()
	}
	kind, sha := "commit", to.commit
	if to.object != "" {
		kind, sha = "tag", to.object
	}
	return answer{http.StatusOK, nil, map[string]any{
		"ref": "refs/tags/" + name, "node_id": "node", "url": s.APIURL + "/repos/" + r.repo.name + "/git/refs/tags/" + name,
		"object": map[string]any{"type": kind, "sha": sha, "url": s.APIURL + "/repos/" + r.repo.name + "/git/" + kind + "s/" + sha},
	}}
}

func (s *Server) readTag(r *request, _ bool) answer {
	for name, to := range r.repo.tags {
		if to.object != "" && to.object == r.params["tag_sha"] {
			return answer{http.StatusOK, nil, map[string]any{
				"node_id": "node", "tag": name, "sha": to.object, "url": s.APIURL + r.URL.Path, "message": name,
				"tagger": map[string]any{"date": stamp(time.Now()), "email": "octo@example.com", "name": "octo"},
				"object": map[string]any{"type": "commit", "sha": to.commit, "url": s.APIURL + "/repos/" + r.repo.name + "/git/commits/" + to.commit},
			}}
		}
	}
	return notFound()
}
