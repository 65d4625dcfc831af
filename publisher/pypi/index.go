package pypi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/html"

	"github.com/waqasm86/llcuda-farm/manifests/retry"
	"github.com/waqasm86/llcuda-farm/publisher"
)

// An Index is where packages are looked up: the simple repository API, which every index has.
type Index struct {
	// URL is the address that pip takes as --index-url.
	URL string
	// Client is http.DefaultClient if nil.
	Client *http.Client
	// FirstWait is before an index that does not answer is asked a second time; a second if 0. It doubles from then on.
	FirstWait time.Duration
}

// A File is a file that an index offers.
type File struct {
	Name, URL string
	SHA256    string // empty where the index does not state it
	Size      int64  // 0 where it does not
}

// accepted are the forms of an answer: JSON (PEP 691), and HTML (PEP 503), which is all that some indexes have.
const (
	jsonForm = "application/vnd.pypi.simple.v1+json"
	accepted = jsonForm + ", application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
)

// maxPage bounds an index's answer. That of a project with ten thousand files has 5 MB.
const maxPage = 64 << 20

// answerTime bounds one answer, so that an index that hangs is asked again.
const answerTime = time.Minute

var separators = regexp.MustCompile(`[-_.]+`)

// Normal is a project's name as indexes write it in addresses.
func Normal(project string) string { return strings.ToLower(separators.ReplaceAllString(project, "-")) }

// Files are all files of a project; none where the index does not know it. An index that does not answer gives a
// *publisher.TemporaryError, one that refuses a *publisher.RefusedError.
func (x Index) Files(ctx context.Context, project string) ([]File, error) {
	address := strings.TrimSuffix(x.URL, "/") + "/" + Normal(project) + "/"
	var files []File
	err := retry.Policy{FirstWait: x.FirstWait}.Do(ctx, func() (err error) {
		files, err = x.page(ctx, address)
		return err
	})
	return files, err
}

func (x Index) page(ctx context.Context, address string) ([]File, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	shown := request.URL.Redacted()
	request.Header.Set("Accept", accepted)
	request.Header.Set("Cache-Control", "no-cache") // an answer from before an upload is of no use
	response, err := cmp.Or(x.Client, http.DefaultClient).Do(request)
	if err != nil {
		return nil, &publisher.TemporaryError{Err: err}
	}
	defer response.Body.Close()
	switch code := response.StatusCode; {
	case code == http.StatusNotFound:
		return nil, nil
	case retry.IsBusy(code):
		after, _ := retry.After(response.Header)
		return nil, &publisher.TemporaryError{Err: fmt.Errorf("%s: %s", shown, response.Status), After: after}
	case code != http.StatusOK:
		return nil, &publisher.RefusedError{Err: fmt.Errorf("%s: %s", shown, response.Status), Way: "is that the address of a package index, and may you read it?"}
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxPage+1))
	if err != nil {
		return nil, &publisher.TemporaryError{Err: fmt.Errorf("%s: %w", shown, err)}
	}
	if len(text) > maxPage {
		return nil, fmt.Errorf("%s has more than %d bytes", shown, maxPage)
	}
	form, _, err := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if err != nil {
		return nil, fmt.Errorf("%s: reading its Content-Type: %w", shown, err)
	}
	read := readHTML
	if form == jsonForm {
		read = readJSON
	}
	files, err := read(text)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", shown, err)
	}
	for i, file := range files {
		at, err := response.Request.URL.Parse(file.URL)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", shown, err)
		}
		at.Fragment = ""
		files[i].URL = at.String()
	}
	return files, nil
}

func readJSON(text []byte) ([]File, error) {
	var page struct {
		Files []struct {
			Filename string            `json:"filename"`
			URL      string            `json:"url"`
			Hashes   map[string]string `json:"hashes"`
			Size     int64             `json:"size"`
		} `json:"files"`
	}
	if err := json.Unmarshal(text, &page); err != nil {
		return nil, err
	}
	var files []File
	for _, f := range page.Files {
		files = append(files, File{f.Filename, f.URL, f.Hashes["sha256"], f.Size})
	}
	return files, nil
}

func readHTML(text []byte) ([]File, error) {
	var files []File
	for tokens := html.NewTokenizer(strings.NewReader(string(text))); ; {
		switch tokens.Next() {
		case html.ErrorToken:
			if err := tokens.Err(); !errors.Is(err, io.EOF) {
				return nil, err
			}
			return files, nil
		case html.StartTagToken:
			token := tokens.Token()
			at := slices.IndexFunc(token.Attr, func(a html.Attribute) bool { return a.Key == "href" })
			if token.Data != "a" || at < 0 {
				continue
			}
			target, err := url.Parse(token.Attr[at].Val)
			if err != nil {
				return nil, err
			}
			sum, _ := strings.CutPrefix(target.Fragment, "sha256=")
			if sum == target.Fragment {
				sum = ""
			}
			files = append(files, File{path.Base(target.Path), token.Attr[at].Val, sum, 0})
		}
	}
}
