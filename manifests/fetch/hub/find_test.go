package hub

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
)

func TestParts(t *testing.T) {
	for file, want := range map[string][]string{
		"a-00002-of-00003.gguf":   {"a-00001-of-00003.gguf", "a-00002-of-00003.gguf", "a-00003-of-00003.gguf"},
		"f/a-00001-of-00001.GGUF": {"f/a-00001-of-00001.GGUF"},
		"f/a-00001-of-00002.GGUF": {"f/a-00001-of-00002.GGUF", "f/a-00002-of-00002.GGUF"},
		"a-00004-of-00003.gguf":   {"a-00004-of-00003.gguf"},
		"a-00000-of-00003.gguf":   {"a-00000-of-00003.gguf"},
		"a-1-of-3.gguf":           {"a-1-of-3.gguf"},
		"a-00001-of-99999.gguf":   {"a-00001-of-99999.gguf"},
		"a-00001-of-00002.bin":    {"a-00001-of-00002.bin"},
	} {
		if diff := cmp.Diff(want, Parts(file)); diff != "" {
			t.Errorf("%s: %s", file, diff)
		}
	}
}

func TestChoose(t *testing.T) {
	several := []string{"README.md", "m-BF16.gguf", "m-F16.gguf", "m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-UD-Q4_K_XL.gguf", "m-q5_k_m.gguf", "imatrix-Q3_K_S.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf", "mtp-Q2_K.gguf", "LICENSE"}
	split := []string{"Q6_K/m-Q6_K-00002-of-00002.gguf", "Q6_K/m-Q6_K-00001-of-00002.gguf", "Q4_K_M/model-00001-of-00002.gguf", "Q4_K_M/model-00002-of-00002.gguf", "Q2_K/m-Q2_K-00001-of-00002.gguf"}
	for _, test := range []struct {
		files []string
		name  Name
		kind  Kind
		want  string // the files, empty for none
	}{
		{several, Name{}, Weights, "m-Q4_K_M.gguf"},
		{several, Name{}, WithProjector, "m-Q4_K_M.gguf mmproj-F16.gguf"},
		{several, Name{Quant: "latest"}, Weights, "m-Q4_K_M.gguf"},
		{several, Name{Quant: "q4_k_m"}, Weights, "m-Q4_K_M.gguf"},
		{several, Name{Quant: "Q5_K_M"}, Weights, "m-q5_k_m.gguf"},
		{several, Name{Quant: "Q4_K_XL"}, Weights, "m-UD-Q4_K_XL.gguf"},
		{several, Name{Quant: "UD-Q4_K_XL"}, Weights, "m-UD-Q4_K_XL.gguf"},
		{several, Name{Quant: "F16"}, WithProjector, "m-F16.gguf mmproj-F16.gguf"}, // not BF16
		{several, Name{Quant: "Q4_K"}, Weights, ""},
		{several, Name{Quant: "Q3_K_S"}, Weights, ""},
		{several, Name{Quant: "Q2_K"}, Weights, ""},
		{several, Name{Quant: "F32"}, Projector, "mmproj-F32.gguf"},
		{several, Name{}, Projector, "mmproj-F16.gguf"},
		{several, Name{Quant: "LICENSE"}, Weights, "LICENSE"},
		{several, Name{Path: "mmproj-F32.gguf"}, WithProjector, "mmproj-F32.gguf"}, // has none itself
		{[]string{"x-Q8_0.gguf", "a-Q3_K.gguf"}, Name{}, Weights, "x-Q8_0.gguf"},
		{[]string{"x-Q5_0.gguf", "a-Q3_K.gguf"}, Name{}, Weights, "a-Q3_K.gguf"},
		{[]string{"mmproj.gguf", "model.safetensors"}, Name{}, Weights, ""},
		{split, Name{Quant: "Q6_K"}, Weights, "Q6_K/m-Q6_K-00001-of-00002.gguf Q6_K/m-Q6_K-00002-of-00002.gguf"},
		{split, Name{Quant: "Q4_K_M"}, Weights, "Q4_K_M/model-00001-of-00002.gguf Q4_K_M/model-00002-of-00002.gguf"}, // by its folder
		{split, Name{Folder: "Q6_K"}, Weights, "Q6_K/m-Q6_K-00001-of-00002.gguf Q6_K/m-Q6_K-00002-of-00002.gguf"},
		{split, Name{Path: "Q6_K/m-Q6_K.gguf"}, Weights, "Q6_K/m-Q6_K-00001-of-00002.gguf Q6_K/m-Q6_K-00002-of-00002.gguf"},
		{split, Name{Quant: "Q2_K"}, Weights, ""}, // a part is missing
		{split, Name{Path: "Q2_K/m-Q2_K-00001-of-00002.gguf"}, Weights, ""},
		// The projector: the deepest on the way to the model, then the closest in bits.
		{[]string{"f/m-Q4_K_M.gguf", "mmproj-Q4_0.gguf", "f/mmproj-F16.gguf", "g/mmproj-Q4_0.gguf", "f/x/mmproj-Q4_0.gguf"}, Name{}, WithProjector, "f/m-Q4_K_M.gguf f/mmproj-F16.gguf"},
		{[]string{"m-Q4_K_M.gguf", "mmproj-F16.gguf", "mmproj-Q8_0.gguf"}, Name{}, WithProjector, "m-Q4_K_M.gguf mmproj-Q8_0.gguf"},
		{[]string{"m-BF16-00001-of-00001.gguf", "mmproj-F16.gguf", "mmproj-Q8_0.gguf"}, Name{}, WithProjector, "m-BF16-00001-of-00001.gguf mmproj-F16.gguf"},
		{[]string{"m-Q4_K_M.gguf", "f/mmproj-F16.gguf"}, Name{}, WithProjector, "m-Q4_K_M.gguf"},
	} {
		m, ok := Choose(test.files, test.name, test.kind)
		var got []string
		for _, f := range m.All() {
			got = append(got, f.Ref.Path)
		}
		if strings.Join(got, " ") != test.want || ok != (test.want != "") {
			t.Errorf("%q, %+v: %q, %t, want %q", test.files, test.name, got, ok, test.want)
		}
	}
}

// withModels makes the server's repository one of a model in parts, with a projector.
func withModels(s *server) map[string]string {
	files := map[string]string{"README.md": "# A model\n"}
	for _, name := range []string{"m-Q4_K_M-00001-of-00003.gguf", "m-Q4_K_M-00002-of-00003.gguf", "m-Q4_K_M-00003-of-00003.gguf", "m-F16.gguf", "mmproj-F16.gguf"} {
		files[name] = strings.Repeat(name, 1000)
	}
	s.files[commit1] = files
	return files
}

func find(t *testing.T, c *Client, name string, kind Kind) (Model, error) {
	t.Helper()
	n, err := ParseName(name, c.endpoint())
	if err != nil {
		t.Fatal(err)
	}
	return c.Find(t.Context(), n, Want{}, kind)
}

// pull is what the client does with a name; it gives the paths in the snapshot.
func pull(t *testing.T, c *Client, name string, progress func(transfer.Progress)) (files []string, results []Result, err error) {
	t.Helper()
	m, err := find(t, c, name, WithProjector)
	if err != nil {
		return nil, nil, err
	}
	results, err = c.DownloadAll(t.Context(), name, m.All(), progress)
	for _, r := range results {
		files = append(files, filepath.Base(r.Path))
	}
	return files, results, err
}

func TestFind(t *testing.T) {
	parts := []string{"m-Q4_K_M-00001-of-00003.gguf", "m-Q4_K_M-00002-of-00003.gguf", "m-Q4_K_M-00003-of-00003.gguf", "mmproj-F16.gguf"}
	for _, api := range []string{"", "no revision", "no siblings", "no tree"} {
		t.Run(api, func(t *testing.T) {
			s := newServer(t)
			withModels(s)
			s.api, s.page = api, 2
			c := newClient(t, s)
			offline := *c
			offline.Offline = true
			for name, want := range map[string][]string{
				"org/model":                              parts,
				"org/model:q4_k_m":                       parts,
				"org/model@" + commit1:                   parts,
				"org/model:m-Q4_K_M-00002-of-00003.gguf": parts,
				"org/model:m-Q4_K_M.gguf":                parts,
				s.URL + "/org/model/blob/main/m-Q4_K_M-00003-of-00003.gguf?x=y": parts,
				"hf.co/org/model:F16":       {"m-F16.gguf", "mmproj-F16.gguf"},
				"org/model:README.md":       {"README.md"},
				"org/model:mmproj-F16.gguf": {"mmproj-F16.gguf"},
			} {
				for _, client := range []*Client{c, &offline} {
					got, _, err := pull(t, client, name, nil)
					if err != nil {
						t.Fatalf("%s, offline: %t: %v", name, client.Offline, err)
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("%s, offline: %t: %s", name, client.Offline, diff)
					}
				}
			}
		})
	}
}

// A Hub that lists nothing has the files that are named all the same.
func TestFindWithoutListing(t *testing.T) {
	s := newServer(t)
	withModels(s)
	s.api = "nothing"
	c := newClient(t, s)
	got, _, err := pull(t, c, "org/model:m-Q4_K_M-00001-of-00003.gguf", nil)
	if err != nil || len(got) != 3 {
		t.Errorf("%q, %v", got, err)
	}
	if _, _, err := pull(t, c, "org/other:Q4_K_M", nil); !as[*RepositoryError](err) {
		t.Error(err)
	}
}

// What a name does not stand for is an error with the files that there are, and not one byte is downloaded for it.
func TestFindNothing(t *testing.T) {
	s := newServer(t)
	delete(withModels(s), "m-Q4_K_M-00002-of-00003.gguf")
	s.files[commit2] = map[string]string{"model.safetensors": "x"}
	c := newClient(t, s)
	const list = "; its GGUF files are m-F16.gguf, m-Q4_K_M-00001-of-00003.gguf, mmproj-F16.gguf"
	for name, want := range map[string]string{
		"org/model:Q8_0":                         "org/model has no GGUF file of a model with Q8_0 in its name at revision main" + list,
		"org/model":                              "org/model has no file m-Q4_K_M-00002-of-00003.gguf at revision main, one of the 3 parts of a model" + list,
		"org/model:m-Q4_K_M-00001-of-00003.gguf": "org/model has no file m-Q4_K_M-00002-of-00003.gguf at revision main, one of the 3 parts of a model",
		"org/model:x.gguf":                       "org/model has no file x.gguf at revision main" + list,
		"org/model:x-00001-of-00002.gguf":        "org/model has no file x-00001-of-00002.gguf at revision main, one of the 2 parts of a model" + list,
		s.URL + "/org/model/tree/main/f":         "org/model has no GGUF file of a model in f at revision main" + list,
		"org/model@refs/pr/1":                    "org/model has no GGUF file of a model at revision refs/pr/1",
	} {
		_, _, err := pull(t, c, name, nil)
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v\nwant %s", name, err, want)
		}
	}
	if _, _, err := pull(t, c, "org/model@v9", nil); !as[*RevisionError](err) {
		t.Error(err)
	}
	for _, request := range s.take() {
		if strings.HasPrefix(request, "GET cdn") {
			t.Errorf("the server saw %s", request)
		}
	}
	if _, _, err := pull(t, c, "org/model:F16", nil); err != nil {
		t.Fatal(err)
	}
	c.Offline = true
	for _, name := range []string{"org/model:Q8_0", "org/model:Q4_K_M", "org/other", "org/model@v1"} {
		if _, _, err := pull(t, c, name, nil); !as[*OfflineError](err) {
			t.Errorf("%s, offline: %v", name, err)
		}
	}
}

// A model in parts is one download: it resumes where it stopped, is reported as one, and moves with its branch as one.
func TestDownloadAll(t *testing.T) {
	s := newServer(t)
	contents := withModels(s)
	c := newClient(t, s)
	second := contents["m-Q4_K_M-00002-of-00003.gguf"]
	partial := filepath.Join(c.Cache, "models--org--model/blobs", sha256Of(second)+"."+ownPartial+".incomplete")
	if err := errors.Join(os.MkdirAll(filepath.Dir(partial), 0o777), os.WriteFile(partial, []byte(second[:10000]), 0o666)); err != nil {
		t.Fatal(err)
	}
	var total int64
	for name, content := range contents {
		if strings.HasPrefix(name, "m-Q4") || strings.HasPrefix(name, "mmproj") {
			total += int64(len(content))
		}
	}
	var reports []transfer.Progress
	if _, _, err := pull(t, c, "org/model", func(p transfer.Progress) { reports = append(reports, p) }); err != nil {
		t.Fatal(err)
	}
	last := int64(-1)
	for i, p := range reports {
		if p.Name != "org/model" || p.Total != total || p.Done < last || (p.Source == "") != (i == 0) {
			t.Errorf("report %d is %+v", i, p)
		}
		last = p.Done
	}
	if len(reports) < 3 || reports[0].Done != 10000 || last != total {
		t.Errorf("the reports are %+v", reports)
	}
	if list := s.take(); !slices.ContainsFunc(list, func(r string) bool { return strings.HasPrefix(r, "GET cdn bytes=10000-") }) {
		t.Errorf("it did not go on: %q", list)
	}
	reports = nil
	if _, results, err := pull(t, c, "org/model", func(p transfer.Progress) { reports = append(reports, p) }); err != nil || !results[3].Cached || reports != nil {
		t.Errorf("the second time: %+v, %v, %+v", results, err, reports)
	}

	t.Run("the branch moves between two questions", func(t *testing.T) {
		m, err := find(t, c, "org/model", Weights)
		if err != nil {
			t.Fatal(err)
		}
		first, err := c.locate(t.Context(), m.Files[0], "")
		if err != nil {
			t.Fatal(err)
		}
		m.Files[0].asked = &first
		s.set(func() { s.commits["main"], s.commits["v1"] = commit2, commit1 })
		results, err := c.DownloadAll(t.Context(), "x", m.Files, nil)
		if err != nil || results[2].Commit != commit1 {
			t.Errorf("%+v, %v", results, err)
		}
		s.set(func() { s.commits["main"] = commit1 })
	})
	t.Run("the Hub is down", func(t *testing.T) {
		s.take()
		s.set(func() { s.failures = 100 })
		defer s.set(func() { s.failures = 0 })
		for _, name := range []string{"org/model", "org/model:m-Q4_K_M-00002-of-00003.gguf"} {
			files, results, err := pull(t, c, name, nil)
			if err != nil || len(files) != 4 || results[0].Unasked == nil {
				t.Errorf("%s: %q, %v", name, files, err)
			}
		}
		if got := len(s.take()); got > 4 {
			t.Errorf("the Hub was asked %d times although the cache has the files", got)
		}
		if _, _, err := pull(t, c, "org/model:Q8_0", nil); !as[*NetworkError](err) {
			t.Error(err)
		}
	})
}

// The room for all parts is looked for before the first byte comes.
func TestDownloadAllSpace(t *testing.T) {
	s := newServer(t)
	withModels(s)
	c := newClient(t, s)
	m, err := find(t, c, "org/model", WithProjector)
	if err != nil {
		t.Fatal(err)
	}
	s.take()
	alone(t, func() error {
		if err := mountAt(filepath.Dir(c.Cache), "tmpfs", 0, "size=64k"); err != nil {
			return err
		}
		_, err := c.DownloadAll(t.Context(), "org/model", m.All(), nil) // 99 kB
		var space *transfer.SpaceError
		if !errors.As(err, &space) || space.Need < 90000 || space.Free > 64<<10 {
			t.Errorf("got %v", err)
		}
		return nil
	})
	for _, request := range s.take() {
		if strings.HasPrefix(request, "GET cdn") {
			t.Errorf("the server saw %s", request)
		}
	}
}

// A Hub that says nothing of a file's size to HEAD, or 0.
func TestUnsized(t *testing.T) {
	s := newServer(t)
	s.unsized = true
	c := newClient(t, s)
	weights := s.files[commit1]["model.gguf"]
	for _, want := range []Want{{}, {Size: int64(len(weights))}} {
		r := get(t, c, "org/model:model.gguf", want)
		if r.Size != int64(len(weights)) {
			t.Errorf("%+v", r)
		}
		if err := Verify(r.Path, Want{SHA256: sha256Of(weights)}); err != nil {
			t.Error(err)
		}
	}
	if list := s.take(); slices.ContainsFunc(list[3:], func(r string) bool { return strings.HasPrefix(r, "GET") }) {
		t.Errorf("it was downloaded twice: %q", list)
	}
	withModels(s)
	var last transfer.Progress
	files, results, err := pull(t, c, "org/model", func(p transfer.Progress) { last = p })
	if err != nil || len(files) != 4 {
		t.Fatalf("%q, %v", files, err)
	}
	total := int64(0)
	for _, r := range results {
		total += r.Size
	}
	if last.Done != total || last.Total != total {
		t.Errorf("the last report is %+v, want %d bytes", last, total)
	}
	s.set(func() { s.files[commit1]["empty.gguf"], s.files[commit1]["empty.txt"] = "", "" })
	for _, name := range []string{"org/model:empty.gguf", "org/model:empty.txt"} {
		if r := get(t, c, name, Want{}); r.Size != 0 {
			t.Errorf("%+v", r)
		}
	}
}

// A Hub that redirects every client to another one, with a content network's host in between.
func TestMoved(t *testing.T) {
	target, s := newServer(t), newServer(t)
	withModels(target)
	s.moved = target.URL
	c := newClient(t, s)
	c.Token = "hf_secret"
	if files, _, err := pull(t, c, "org/model", nil); err != nil || len(files) != 4 {
		t.Fatalf("%q, %v", files, err)
	}
	get(t, c, "org/model:README.md", Want{})
	// The target wants the token, which is not for it.
	target.set(func() { target.token = "hf_secret" })
	err := refuse(t, c, "org/model:m-F16.gguf", Want{})
	var redirect *RedirectError
	var repository *RepositoryError
	if !errors.As(err, &redirect) || redirect.To != target.URL || !errors.As(err, &repository) || repository.Token || !strings.Contains(redirect.Hint(), "HF_ENDPOINT="+target.URL) {
		t.Errorf("%v", err)
	}
	// What it redirects to is not a Hub.
	s.set(func() { s.moved = target.cdn.URL })
	if err := refuse(t, c, "org/model:m-F16.gguf", Want{}); !strings.Contains(err.Error(), "redirects to "+target.cdn.URL) {
		t.Error(err)
	}
	s.set(func() { s.moved = "ftp://127.0.0.1" })
	if err := refuse(t, c, "org/model:m-F16.gguf", Want{}); !strings.Contains(err.Error(), "redirects to ftp://127.0.0.1") {
		t.Error(err)
	}
	s.set(func() { s.moved = s.URL })
	if err := refuse(t, c, "org/model:m-F16.gguf", Want{}); !strings.Contains(err.Error(), "without end") {
		t.Error(err)
	}
}

func TestRateLimit(t *testing.T) {
	for name, test := range map[string]struct {
		headers map[string]string
		after   time.Duration // in the error; below 0 there is none
	}{
		"window":        {map[string]string{"RateLimit": `"resolvers";r=0;t=1`, "X-Error-Message": "We had to rate limit you"}, -1},
		"seconds":       {map[string]string{"Retry-After": "1"}, -1},
		"a long window": {map[string]string{"RateLimit": `"api";r=0;t=3600`, "Retry-After": "1", "X-Error-Message": "We had to rate limit you"}, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			s.limited = test.headers
			c := newClient(t, s)
			var steps []string
			c.Step = func(step string) { steps = append(steps, step) }
			begun := time.Now()
			_, err := download(t, c, "org/model:model.gguf", Want{})
			said := test.headers["X-Error-Message"]
			if test.after < 0 {
				if err != nil || time.Since(begun) < time.Second || len(steps) != 1 || !strings.Contains(steps[0], "waiting 1s") || !strings.Contains(steps[0], "HF_TOKEN") || !strings.Contains(steps[0], said) {
					t.Errorf("%q, %v", steps, err)
				}
				return
			}
			var limit *RateLimitError
			var network *NetworkError
			if !errors.As(err, &limit) || limit.After != test.after || !strings.Contains(err.Error(), said) || !errors.As(err, &network) || !strings.Contains(network.Hint(), "HF_TOKEN") || steps != nil {
				t.Errorf("%q, %v", steps, err)
			}
		})
	}
}

// A token that cannot be read does not prevent downloads of public files, and is named in the error
// where a token is needed.
func TestTokenProblem(t *testing.T) {
	s := newServer(t)
	c := newClient(t, s)
	problem := &TokenFileError{errors.New("permission denied")}
	c.TokenProblem = problem
	var warned []error
	c.Warn = func(err error) { warned = append(warned, err) }
	get(t, c, "org/model:model.gguf", Want{})
	if !slices.Contains(warned, error(problem)) {
		t.Errorf("warned of %v", warned)
	}
	s.set(func() { s.token = "hf_secret" })
	if err := refuse(t, c, "org/model:README.md", Want{}); !errors.Is(err, problem) || !as[*RepositoryError](err) {
		t.Error(err)
	}
	warned = nil
	c.Offline = true
	if get(t, c, "org/model:model.gguf", Want{}); warned != nil {
		t.Errorf("offline, warned of %v", warned)
	}
}
