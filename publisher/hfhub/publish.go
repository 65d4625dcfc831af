package hfhub

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/waqasm86/llcuda-farm/publisher"
)

// A BuildFunc returns what a repository shall contain, given what it contains now. It is called again
// when the head has moved.
type BuildFunc func(ctx context.Context, head *Head) ([]File, error)

// Publish makes the repository contain the files, and reads back that it does.
//
// Errors: *publisher.RefusedError where the Hub will not let it happen, *ChangedError, *APIError,
// and those of the file system and the network. After any of them the same call resumes from there.
func (c *Client) Publish(ctx context.Context, repo string, build BuildFunc, opts Options) (Result, error) {
	result, err := c.publish(ctx, repo, build, opts)
	if err != nil {
		return Result{}, fmt.Errorf("publishing to %s: %w", repo, explain(err, repo))
	}
	return result, nil
}

func (c *Client) publish(ctx context.Context, repo string, build BuildFunc, opts Options) (Result, error) {
	known := map[string]blob{} // digests outlive a head that moves
	var result Result
	var first *Plan
	patience := c.policy()
	patience.Tries = -1 // replans counts them
	moved := patience.Begin()
	for range replans {
		d, err := c.draft(ctx, repo, build, known)
		if err != nil {
			return Result{}, err
		}
		if first == nil {
			first = &d.Plan
		}
		result.Plan, result.URL = *first, c.endpoint()+"/"+repo
		if len(d.missing) == 0 && d.Head != "" {
			result.Commit = d.Head
			return result, nil
		}
		if d.Head == "" {
			if err := c.create(ctx, repo, opts.Private); err != nil {
				return Result{}, err
			}
			result.Created = true
			// It begins with a commit of the Hub's own, which ours must stand on.
			if d.head, err = c.head(ctx, repo); err != nil {
				return Result{}, err
			}
			if d.head.Commit == "" {
				return Result{}, fmt.Errorf("%s cannot be read, although it exists now: the token must be able to read it", repo)
			}
		}
		if len(d.missing) == 0 {
			continue
		}
		sent, err := c.commitAll(ctx, d, opts)
		result.Sent += sent
		if errors.Is(err, errStale) { // others are at it, or what was read is of a moment ago
			err = moved.Wait(ctx, makeTemporary(err))
		}
		if err != nil {
			return Result{}, err
		}
		// Whatever the answers said, what can be read is what counts: the next round reads it and
		// finds nothing missing.
	}
	return Result{}, &publisher.RefusedError{Err: errStale, Way: "wait until they are done, and publish again"}
}

// A draft is one commit that is to be made.
type draft struct {
	Plan
	head    *Head
	missing []blob
}

// draft compares what shall be with what is.
func (c *Client) draft(ctx context.Context, repo string, build BuildFunc, known map[string]blob) (*draft, error) {
	if err := CheckRepo(repo); err != nil {
		return nil, err
	}
	head, err := c.head(ctx, repo)
	if err != nil {
		return nil, err
	}
	files, err := build(ctx, head)
	if err != nil {
		return nil, err
	}
	d := &draft{Plan: Plan{Repo: repo, Head: head.Commit}, head: head}
	var paths []string
	for _, f := range files {
		if slices.Contains(paths, f.Path) {
			return nil, fmt.Errorf("%s is there twice", f.Path)
		}
		paths = append(paths, f.Path)
	}
	there, err := head.entries(ctx, paths)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		b, err := read(ctx, f, known)
		if err != nil {
			return nil, err
		}
		change := Change{Path: b.Path, Size: b.size, SHA256: b.SHA256}
		if e, ok := there[b.Path]; ok {
			if change.There, err = b.is(ctx, e); err != nil {
				return nil, err
			}
		}
		if !change.There {
			d.missing = append(d.missing, b)
		}
		d.Changes = append(d.Changes, change)
	}
	return d, nil
}

// commitAll uploads what is missing and commits it. It returns errStale where the head has moved.
func (c *Client) commitAll(ctx context.Context, d *draft, opts Options) (sent int64, err error) {
	for _, b := range d.missing {
		if b.Path == CardName {
			card, err := b.whole()
			if err != nil {
				return 0, err
			}
			if err := c.checkCard(ctx, card); err != nil {
				return 0, err
			}
		}
	}
	large, err := c.preupload(ctx, d)
	if err != nil {
		return 0, err
	}
	sent, err = c.upload(ctx, d.Repo, slices.Clone(large), opts.Progress)
	if err != nil {
		return sent, err
	}
	body, err := commitBody(d, large, opts.Message)
	if err != nil {
		return sent, err
	}
	return sent, c.commit(ctx, d, body)
}

// preupload asks which files go to LFS storage.
func (c *Client) preupload(ctx context.Context, d *draft) (large []blob, err error) {
	const atOnce = 256 // the Hub's limit
	for some := range slices.Chunk(d.missing, atOnce) {
		type asked struct {
			Path   string `json:"path"`
			Size   int64  `json:"size"`
			Sample []byte `json:"sample"` // base64, as encoding/json has it
		}
		var files []asked
		for _, b := range some {
			files = append(files, asked{b.Path, b.size, b.sample})
		}
		var answer struct {
			Files []struct {
				Path, UploadMode, OID string
				ShouldIgnore          bool
			}
		}
		err := c.do(ctx, call{method: http.MethodPost, path: "/api/models/" + d.Repo + "/preupload/" + branch, body: map[string]any{"files": files}}, &answer)
		if err != nil {
			return nil, fmt.Errorf("asking how files are stored: %w", err)
		}
		modes := map[string]string{}
		for _, f := range answer.Files {
			if f.ShouldIgnore {
				return nil, &publisher.RefusedError{Err: fmt.Errorf("%s leaves out %s", d.Repo, f.Path), Way: "its .gitignore names the file: change that there, or publish to another repository"}
			}
			modes[f.Path] = f.UploadMode
		}
		for _, b := range some {
			switch modes[b.Path] {
			case "lfs":
				// An empty object is none to git-lfs: huggingface_hub sends it in the commit, too.
				if b.size > 0 {
					large = append(large, b)
				}
			case "regular":
			default:
				return nil, fmt.Errorf("asking how files are stored: %q for %s", modes[b.Path], b.Path)
			}
		}
	}
	return large, nil
}

// commitBody is the whole commit: a line for its message and its parent, and one for each file.
func commitBody(d *draft, large []blob, message string) ([]byte, error) {
	if message == "" {
		message = fmt.Sprintf("Publish %d files", len(d.missing))
	}
	var body bytes.Buffer
	lines := json.NewEncoder(&body)
	type line struct {
		Key   string `json:"key"`
		Value any    `json:"value"`
	}
	if err := lines.Encode(line{"header", map[string]string{"summary": message, "description": "", "parentCommit": d.head.Commit}}); err != nil {
		return nil, err
	}
	for _, b := range d.missing {
		value := map[string]any{"path": b.Path}
		key := "lfsFile"
		if slices.ContainsFunc(large, func(l blob) bool { return l.Path == b.Path }) {
			value["algo"], value["oid"], value["size"] = "sha256", b.SHA256, b.size
		} else {
			data, err := b.whole()
			if err != nil {
				return nil, err
			}
			key = "file"
			value["content"], value["encoding"] = base64.StdEncoding.EncodeToString(data), "base64"
		}
		if err := lines.Encode(line{key, value}); err != nil {
			return nil, err
		}
	}
	return body.Bytes(), nil
}

// commit is the point of no return. It is never repeated before it is known what became of it:
// where the head has moved, by this commit or another one, the caller reads it again; where it has
// not, the same commit on the same parent cannot land twice.
func (c *Client) commit(ctx context.Context, d *draft, body []byte) error {
	for tries := c.policy().Begin(); ; {
		err := c.do(ctx, call{method: http.MethodPost, path: "/api/models/" + d.Repo + "/commit/" + branch, body: body, contentType: "application/x-ndjson", once: true, slow: true}, nil)
		switch {
		case err == nil:
			return nil
		case isStatus(err, http.StatusPreconditionFailed):
			return errStale
		}
		if err := tries.Wait(ctx, err); err != nil {
			return fmt.Errorf("committing: %w", err)
		}
		head, readErr := c.head(ctx, d.Repo)
		if readErr != nil {
			return errors.Join(fmt.Errorf("committing: %w", err), readErr)
		}
		if head.Commit != d.head.Commit {
			return errStale
		}
	}
}
