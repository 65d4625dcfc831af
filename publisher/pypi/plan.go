package pypi

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests/retry"
	"github.com/waqasm86/llcuda-farm/publisher"
)

// A Plan is what an index has of some files, and what it lacks.
type Plan struct {
	Keep, Upload []publisher.File
	Differ       []publisher.File // the index has other bytes under their names
}

// Done reports whether there is nothing to do.
func (p Plan) Done() bool { return len(p.Upload) == 0 && len(p.Differ) == 0 }

// Refused is the error of files that differ, if there are any.
func (p Plan) Refused(index string) error {
	if len(p.Differ) == 0 {
		return nil
	}
	var all []error
	for _, f := range p.Differ {
		all = append(all, fmt.Errorf("%s is there with other bytes", f.Name))
	}
	return &publisher.RefusedError{
		Err: fmt.Errorf("publishing to %s: %w", index, errors.Join(all...)),
		Way: "what an index has under a name stays there: raise the version in manifests/python/pyproject.toml, and make the release again",
	}
}

// MakePlan compares files with what an index has of a project.
func (x Index) MakePlan(ctx context.Context, project string, files []publisher.File) (Plan, error) {
	var plan Plan
	there, err := x.Files(ctx, project)
	if err != nil {
		return plan, err
	}
	for _, file := range files {
		at := slices.IndexFunc(there, func(f File) bool { return f.Name == file.Name })
		if at < 0 {
			plan.Upload = append(plan.Upload, file)
			continue
		}
		sum := there[at].SHA256
		if sum == "" {
			if sum, err = x.download(ctx, there[at], file.Size); err != nil {
				return plan, err
			}
		}
		if sum == file.SHA256 {
			plan.Keep = append(plan.Keep, file)
		} else {
			plan.Differ = append(plan.Differ, file)
		}
	}
	return plan, nil
}

// download returns the digest of a file's bytes; it does not read beyond the size that the file should have.
func (x Index) download(ctx context.Context, file File, size int64) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, file.URL, nil)
	if err != nil {
		return "", err
	}
	response, err := cmp.Or(x.Client, http.DefaultClient).Do(request)
	if err != nil {
		return "", &publisher.TemporaryError{Err: err}
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", &publisher.TemporaryError{Err: fmt.Errorf("%s: %s", request.URL.Redacted(), response.Status)}
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(response.Body, size+1)); err != nil {
		return "", &publisher.TemporaryError{Err: fmt.Errorf("%s: %w", request.URL.Redacted(), err)}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// Await waits until the index lists all files, downloads each, and checks its digest. Indexes take a moment to have
// what was uploaded: patience is how long that may be.
func (x Index) Await(ctx context.Context, project string, files []publisher.File, patience time.Duration) error {
	policy := retry.Policy{Tries: -1, FirstWait: patience / 256, LongestWait: patience, Within: max(patience, 1)}
	err := policy.Do(ctx, func() error {
		plan, err := x.MakePlan(ctx, project, files)
		if err == nil {
			err = plan.Refused(x.URL)
		}
		if err == nil && !plan.Done() {
			err = &publisher.TemporaryError{Err: fmt.Errorf("reading what was published: %s does not list %s", x.URL, plan.Upload[0].Name)}
		}
		return err
	})
	if err != nil {
		return err
	}
	there, err := x.Files(ctx, project)
	if err != nil {
		return err
	}
	for _, file := range files {
		at := slices.IndexFunc(there, func(f File) bool { return f.Name == file.Name })
		if at < 0 {
			return &publisher.TemporaryError{Err: fmt.Errorf("reading what was published: %s no longer lists %s", x.URL, file.Name)}
		}
		sum, err := x.download(ctx, there[at], file.Size)
		if err != nil {
			return fmt.Errorf("reading what was published: %w", err)
		}
		if sum != file.SHA256 {
			return Plan{Differ: []publisher.File{file}}.Refused(x.URL)
		}
	}
	return nil
}
