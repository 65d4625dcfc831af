package hfhub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests/retry"
	"github.com/waqasm86/llcuda-farm/publisher"
)

// branch is the one that people and clients read.
const branch = "main"

// The Hub's own rule for names, with an owner: src/huggingface_hub/utils/_validators.py.
var repoForm = regexp.MustCompile(`^[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?/[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?$`)

// CheckRepo reports whether a name is one that a repository can have.
func CheckRepo(repo string) error {
	if !repoForm.MatchString(repo) || strings.Contains(repo, "--") || strings.Contains(repo, "..") || strings.HasSuffix(repo, ".git") {
		return fmt.Errorf("%q is not a repository of the Hub: it is owner/name", repo)
	}
	return nil
}

// A Head is what the repository contains now. It does not change: a caller that builds files from it
// builds from one commit.
type Head struct {
	Repo string
	// Commit is empty where the repository does not exist.
	Commit string

	client *Client
}

// Head reads what the repository contains now.
func (c *Client) Head(ctx context.Context, repo string) (*Head, error) {
	if err := CheckRepo(repo); err != nil {
		return nil, err
	}
	head, err := c.head(ctx, repo)
	return head, explain(err, repo)
}

// head reads what a repository's branch stands for. One that is not there, or not to be seen, has
// no commit.
func (c *Client) head(ctx context.Context, repo string) (*Head, error) {
	var info struct{ SHA string }
	err := c.do(ctx, call{method: http.MethodGet, path: "/api/models/" + repo + "/revision/" + branch}, &info)
	switch {
	case isCode(err, "RepoNotFound"), isStatus(err, http.StatusNotFound) && isCode(err, ""):
		return &Head{Repo: repo, client: c}, nil
	case err != nil:
		return nil, fmt.Errorf("reading the head of %s: %w", repo, err)
	case !commitForm.MatchString(info.SHA):
		return nil, fmt.Errorf("reading the head of %s: the answer names no commit (%q): it does not seem to come from a Hub", repo, info.SHA)
	}
	return &Head{Repo: repo, Commit: info.SHA, client: c}, nil
}

var (
	commitForm = regexp.MustCompile(`^[0-9a-f]{40}$`)
	sha256Form = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Read returns a small file of the head. ok is false where the head has none of that name.
func (h *Head) Read(ctx context.Context, path string) (content []byte, ok bool, err error) {
	if h.Commit == "" {
		return nil, false, nil
	}
	err = h.client.do(ctx, call{method: http.MethodGet, path: "/" + h.Repo + "/resolve/" + h.Commit + "/" + escapePath(path)}, &content)
	if isCode(err, "EntryNotFound") {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("reading %s of %s: %w", path, h.Repo, err)
	}
	return content, true, nil
}

func escapePath(path string) string {
	parts := strings.Split(path, "/")
	for i, part := range parts {
		parts[i] = url.PathEscape(part)
	}
	return strings.Join(parts, "/")
}

// Digests are the sha256 of those of some files that the head has in LFS storage, where large ones
// are.
func (h *Head) Digests(ctx context.Context, paths []string) (map[string]string, error) {
	there, err := h.entries(ctx, paths)
	if err != nil {
		return nil, err
	}
	digests := map[string]string{}
	for path, e := range there {
		if e.LFS != nil {
			digests[path] = e.LFS.OID
		}
	}
	return digests, nil
}

// An entry is a file as the Hub lists it.
type entry struct {
	Type, OID, Path string
	Size            int64
	LFS             *struct {
		OID  string
		Size int64
	}
}

// entries asks what the head has of some paths.
func (h *Head) entries(ctx context.Context, paths []string) (map[string]entry, error) {
	found := map[string]entry{}
	if h.Commit == "" {
		return found, nil
	}
	const atOnce = 500 // huggingface_hub asks for as many as there are; a limit is not documented
	for some := range slices.Chunk(paths, atOnce) {
		var list []entry
		err := h.client.do(ctx, call{method: http.MethodPost, path: "/api/models/" + h.Repo + "/paths-info/" + h.Commit,
			body: map[string]any{"paths": some, "expand": false}}, &list)
		if err != nil {
			return nil, fmt.Errorf("reading what %s has: %w", h.Repo, err)
		}
		for _, e := range list {
			found[e.Path] = e
		}
	}
	return found, nil
}

// create makes the repository. One that is there already is as good.
func (c *Client) create(ctx context.Context, repo string, private bool) error {
	owner, name, _ := strings.Cut(repo, "/")
	body := map[string]any{"type": "model", "organization": owner, "name": name, "private": private}
	err := c.retry(ctx, c.tries(), func() error {
		err := c.do(ctx, call{method: http.MethodPost, path: "/api/repos/create", body: body, once: true}, nil)
		if answer, ok := errors.AsType[*APIError](err); ok && answer.Status == http.StatusConflict {
			// Two conflicts have one status: this one passes.
			// https://github.com/huggingface/huggingface_hub/blob/main/src/huggingface_hub/hf_api.py,
			// create_repo
			if strings.Contains(answer.Message, "conflicting operation") {
				return &retry.TemporaryError{Err: err}
			}
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("creating %s: %w", repo, err)
	}
	return nil
}

// checkCard asks the Hub what it thinks of a model card's head.
func (c *Client) checkCard(ctx context.Context, card []byte) error {
	err := c.do(ctx, call{method: http.MethodPost, path: "/api/validate-yaml", body: map[string]string{"repoType": "model", "content": string(card)}}, nil)
	if isStatus(err, http.StatusBadRequest) {
		return &publisher.RefusedError{Err: fmt.Errorf("checking the model card: %w", err), Way: "the card is made from matrix/models.yaml: correct there what the Hub does not accept"}
	}
	if err != nil {
		return fmt.Errorf("checking the model card: %w", err)
	}
	return nil
}
