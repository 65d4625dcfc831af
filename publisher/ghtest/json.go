package ghtest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
)

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// untagged is the name that stands for the tag in the addresses of a draft.
func (s *Server) untagged(r *release) string {
	sum := sha256.Sum256(fmt.Append(nil, r.id))
	return "untagged-" + hex.EncodeToString(sum[:10])
}

func (s *Server) releaseURL(repo *repository, r *release) string {
	return fmt.Sprintf("%s/repos/%s/releases/%d", s.APIURL, repo.name, r.id)
}

// shownTag is the tag in a release's addresses.
func (s *Server) shownTag(r *release) string {
	if r.draft {
		return s.untagged(r)
	}
	return r.tag
}

func (s *Server) releaseJSON(repo *repository, r *release) map[string]any {
	own, web := s.releaseURL(repo, r), s.URL+"/"+repo.name
	out := map[string]any{
		"url": own, "assets_url": own + "/assets",
		"upload_url": fmt.Sprintf("%s%s/repos/%s/releases/%d/assets{?name,label}", s.URL, uploadPrefix, repo.name, r.id),
		"html_url":   web + "/releases/tag/" + s.shownTag(r),
		"id":         r.id, "node_id": fmt.Sprintf("RE_%d", r.id), "author": s.userJSON(),
		"tag_name": r.tag, "target_commitish": r.commit, "name": r.name, "body": r.body,
		"draft": r.draft, "prerelease": r.pre, "immutable": r.frozen,
		"created_at": stamp(r.created), "updated_at": stamp(r.created), "published_at": nil,
		"tarball_url": nil, "zipball_url": nil, "assets": s.assetsJSON(repo, r),
	}
	if !r.draft {
		out["published_at"] = stamp(r.published)
		out["tarball_url"] = fmt.Sprintf("%s/repos/%s/tarball/%s", s.APIURL, repo.name, r.tag)
		out["zipball_url"] = fmt.Sprintf("%s/repos/%s/zipball/%s", s.APIURL, repo.name, r.tag)
	}
	return out
}

func (s *Server) assetsJSON(repo *repository, r *release) []any {
	list := []any{}
	for _, a := range s.alive(r) {
		if !a.hidden {
			list = append(list, s.assetJSON(repo, r, a))
		}
	}
	return list
}

func (s *Server) assetJSON(repo *repository, r *release, a *asset) map[string]any {
	out := map[string]any{
		"url": fmt.Sprintf("%s/repos/%s/releases/assets/%d", s.APIURL, repo.name, a.id), "id": a.id, "node_id": fmt.Sprintf("RA_%d", a.id),
		"name": a.name, "label": a.label, "uploader": s.userJSON(), "content_type": a.kind, "state": a.state, "size": a.size,
		"digest": nil, "download_count": a.download, "created_at": stamp(a.created), "updated_at": stamp(a.created),
		"browser_download_url": fmt.Sprintf("%s/%s/releases/download/%s/%s", s.URL, repo.name, s.shownTag(r), a.name),
	}
	if a.state == uploaded && !s.o.NoDigests {
		out["digest"] = "sha256:" + a.sha256
	}
	return out
}

func (s *Server) userJSON() map[string]any {
	own := s.APIURL + "/users/octo"
	return map[string]any{
		"login": "octo", "id": 1, "node_id": "U_1", "avatar_url": s.URL + "/avatars/u/1", "gravatar_id": "", "url": own,
		"html_url": s.URL + "/octo", "followers_url": own + "/followers", "following_url": own + "/following{/other_user}",
		"gists_url": own + "/gists{/gist_id}", "starred_url": own + "/starred{/owner}{/repo}", "subscriptions_url": own + "/subscriptions",
		"organizations_url": own + "/orgs", "repos_url": own + "/repos", "events_url": own + "/events{/privacy}",
		"received_events_url": own + "/received_events", "type": "User", "site_admin": false,
	}
}
