package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// preupload adds to hfd's answer: large files go to LFS, what is there is named, and what is ignored.
func (h *hub) preupload(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	type file struct {
		Path   string `json:"path"`
		Size   int64  `json:"size"`
		Sample []byte `json:"sample"`
	}
	var asked struct{ Files []file }
	if err := json.Unmarshal(body, &asked); err != nil || len(asked.Files) > 256 {
		say(w, http.StatusBadRequest, "", fmt.Sprintf("%d files, at most 256: %v", len(asked.Files), err))
		return
	}
	parts := strings.Split(r.URL.Path, "/")
	repo, revision := repoOf(r), parts[len(parts)-1]
	answer := h.ask(http.MethodPost, r.URL.EscapedPath(), bytes.NewReader(body))
	var said struct {
		Files []struct {
			Path         string `json:"path"`
			UploadMode   string `json:"uploadMode"`
			ShouldIgnore bool   `json:"shouldIgnore"`
			OID          string `json:"oid,omitempty"`
		} `json:"files"`
	}
	if answer.Code != http.StatusOK || json.Unmarshal(answer.Body.Bytes(), &said) != nil {
		h.refused(w, repo, answer)
		return
	}
	settings, there := h.world.get(), h.tree(repo, revision, false)
	for i := range said.Files {
		if len(asked.Files[i].Sample) != int(min(asked.Files[i].Size, 512)) {
			say(w, http.StatusBadRequest, "", "the sample is not the first 512 bytes")
			return
		}
		if asked.Files[i].Size >= settings.LargeFrom {
			said.Files[i].UploadMode = "lfs"
		}
		said.Files[i].ShouldIgnore = slices.Contains(settings.Ignored, said.Files[i].Path)
		if entry, ok := there[said.Files[i].Path]; ok {
			said.Files[i].OID = entry.oid()
		}
	}
	sayJSON(w, http.StatusOK, said)
}

// An entry is a file of a tree.
type entry struct {
	Type string `json:"type"`
	OID  string `json:"oid"`
	Size int64  `json:"size"`
	Path string `json:"path"`
	LFS  *struct {
		OID         string `json:"oid"`
		Size        int64  `json:"size"`
		PointerSize int64  `json:"pointerSize"`
	} `json:"lfs,omitempty"`
	LastCommit json.RawMessage `json:"lastCommit,omitempty"`
}

func (e entry) oid() string {
	if e.LFS != nil {
		return e.LFS.OID
	}
	return e.OID
}

// tree lists the files of a revision. When each was last changed takes a walk through the history for each.
func (h *hub) tree(repo, revision string, lastCommits bool) map[string]entry {
	var list []entry
	answer := h.ask(http.MethodGet, "/api/models/"+repo+"/tree/"+url.PathEscape(revision)+"?recursive=true&expand="+strconv.FormatBool(lastCommits), nil)
	json.Unmarshal(answer.Body.Bytes(), &list)
	entries := map[string]entry{}
	for _, e := range list {
		entries[e.Path] = e
	}
	return entries
}

func (h *hub) pathsInfo(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Paths  []string
		Expand bool
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		say(w, http.StatusBadRequest, "", err.Error())
		return
	}
	parts := strings.Split(r.URL.Path, "/")
	repo, revision := repoOf(r), parts[len(parts)-1]
	switch {
	case !h.exists(repo):
		say(w, http.StatusNotFound, "RepoNotFound", "Repository not found")
		return
	case h.head(repo, revision) == "":
		say(w, http.StatusNotFound, "RevisionNotFound", "Invalid rev id: "+revision)
		return
	}
	there, found := h.tree(repo, revision, asked.Expand), []entry{}
	for _, name := range asked.Paths {
		e, ok := there[name]
		if !ok {
			continue
		}
		found = append(found, e)
	}
	sayJSON(w, http.StatusOK, found)
}

// commit refuses what the Hub refuses: a stale parent, and pointers to nothing.
func (h *hub) commit(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		say(w, http.StatusBadRequest, "", err.Error())
		return
	}
	if got := r.Header.Get("Content-Type"); got != "application/x-ndjson" {
		say(w, http.StatusBadRequest, "", "the content type is "+got)
		return
	}
	parts := strings.Split(r.URL.Path, "/")
	repo, revision, parent := repoOf(r), parts[len(parts)-1], ""
	for line := range bytes.Lines(body) {
		var op struct {
			Key   string
			Value struct {
				ParentCommit, Path, OID string
				Size                    int64
			}
		}
		if err := json.Unmarshal(line, &op); err != nil {
			say(w, http.StatusBadRequest, "", "invalid line: "+err.Error())
			return
		}
		switch op.Key {
		case "header":
			parent = op.Value.ParentCommit
		case "lfsFile":
			if info, err := h.lfs.Info(op.Value.OID); err != nil || info.Size() != op.Value.Size || !h.isSound(op.Value.OID) {
				say(w, http.StatusBadRequest, "", "LFS pointer pointed to a file that does not exist: "+op.Value.Path)
				return
			}
		}
	}
	h.commits.Lock()
	defer h.commits.Unlock()
	if head := h.head(repo, revision); parent != "" && head != "" && head != parent {
		say(w, http.StatusPreconditionFailed, "", "A commit has happened since. Please refresh and try again.")
		return
	}
	answer := h.ask(http.MethodPost, r.URL.EscapedPath(), bytes.NewReader(body))
	if answer.Code != http.StatusOK {
		h.refused(w, repo, answer)
		return
	}
	pass(w, answer)
}

// overtake makes a commit just before the requested one.
func (h *hub) overtake(r *http.Request) {
	h.commits.Lock()
	defer h.commits.Unlock()
	h.ask(http.MethodPost, r.URL.EscapedPath(), strings.NewReader(
		`{"key":"header","value":{"summary":"Overtake"}}`+"\n"+`{"key":"file","value":{"path":"OTHER.md","content":"b3RoZXI=","encoding":"base64"}}`))
}
