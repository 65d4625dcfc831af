package pypi

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/retry"
	"github.com/waqasm86/llcuda-farm/publisher"
)

func sumOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// The two forms of an answer, as the Python Package Index, devpi and pypiserver write them.
func TestFiles(t *testing.T) {
	sum := sumOf("x")
	for name, test := range map[string]struct {
		form, text string
		want       []File
	}{
		"JSON": {"application/vnd.pypi.simple.v1+json", `{"meta":{"api-version":"1.4"},"name":"llcuda","versions":["3.0.0"],"files":[
			{"filename":"a.whl","url":"https://files.example.org/a.whl","hashes":{"sha256":"` + sum + `"},"size":410473152,"yanked":false,"core-metadata":{"sha256":"y"}},
			{"filename":"b.whl","url":"../../files/b.whl","hashes":{"md5":"x"}}]}`,
			[]File{{"a.whl", "https://files.example.org/a.whl", sum, 410473152}, {"b.whl", "HOST/files/b.whl", "", 0}}},
		"HTML": {"text/html; charset=UTF-8", `<!DOCTYPE html><html><head><title>Links for llcuda</title><link href="x"></head><body><h1>Links</h1>
			<a href="/packages/a.whl#sha256=` + sum + `" data-requires-python="&gt;=3.10">a.whl</a><br>
			<A HREF='../../files/b%20c.whl#md5=x'>b</A><a name="z">none</a></body></html>`,
			[]File{{"a.whl", "HOST/packages/a.whl", sum, 0}, {"b c.whl", "HOST/files/b%20c.whl", "", 0}}},
		"versioned HTML": {"application/vnd.pypi.simple.v1+html", `<a href="a.whl#sha256=` + sum + `">a.whl</a>`, []File{{"a.whl", "HOST/simple/llcuda-x/a.whl", sum, 0}}},
		"nothing":        {"text/html", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/simple/llcuda-x/" || !strings.HasPrefix(r.Header.Get("Accept"), "application/vnd.pypi.simple.v1+json") {
					t.Errorf("it asks for %s as %q", r.URL, r.Header.Get("Accept"))
				}
				w.Header().Set("Content-Type", test.form)
				fmt.Fprint(w, test.text)
			}))
			defer server.Close()
			got, err := Index{URL: server.URL + "/simple"}.Files(t.Context(), "LLcuda_X")
			if err != nil {
				t.Fatal(err)
			}
			for i := range test.want {
				test.want[i].URL = strings.Replace(test.want[i].URL, "HOST", server.URL, 1)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}
}

// An index that fails temporarily is asked again; one that refuses is not.
func TestFilesFail(t *testing.T) {
	for name, test := range map[string]struct {
		answers []int
		asked   int
		check   func(error) bool
	}{
		"unknown project": {[]int{404}, 1, func(err error) bool { return err == nil }},
		"busy":            {[]int{503, 429, 200}, 3, func(err error) bool { return err == nil }},
		"always busy":     {[]int{502}, retry.Tries, func(err error) bool { var e *publisher.TemporaryError; return errors.As(err, &e) }},
		"forbidden":       {[]int{403}, 1, func(err error) bool { var e *publisher.RefusedError; return errors.As(err, &e) }},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				code := test.answers[min(asked, len(test.answers)-1)]
				asked++
				w.Header().Set("Content-Type", "text/html")
				w.WriteHeader(code)
			}))
			defer server.Close()
			files, err := Index{URL: server.URL, FirstWait: time.Millisecond}.Files(t.Context(), "llcuda")
			if !test.check(err) || len(files) > 0 || asked != test.asked {
				t.Errorf("%v, %v after %d requests, want %d", files, err, asked, test.asked)
			}
		})
	}
}

// hanging is a server that takes requests and never answers.
type hanging struct{ asked int }

func (h *hanging) RoundTrip(r *http.Request) (*http.Response, error) {
	h.asked++
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// An index that hangs is asked again, and then given up on.
func TestFilesHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hanging := &hanging{}
		_, err := Index{URL: "http://127.0.0.1/simple", Client: &http.Client{Transport: hanging}}.Files(t.Context(), "llcuda")
		if !retry.IsTemporary(err) || hanging.asked != retry.Tries {
			t.Errorf("%v after %d requests, want %d", err, hanging.asked, retry.Tries)
		}
	})
}

// A file in the index is identified by its digest, which the index states or which its bytes give.
func TestMakePlan(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/simple/llcuda/":
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprintf(w, `<a href="/f/same#sha256=%s"></a><a href="/f/other#sha256=%s"></a><a href="/f/mute"></a><a href="/f/longer"></a>`, sumOf("1"), sumOf("9"))
		case "/f/longer":
			fmt.Fprint(w, "4 and more")
		default:
			fmt.Fprint(w, "3")
		}
	}))
	defer server.Close()
	file := func(name, text string) publisher.File {
		return publisher.File{Name: name, Size: 1, SHA256: sumOf(text)}
	}
	files := []publisher.File{file("same", "1"), file("other", "2"), file("mute", "3"), file("longer", "4"), file("missing", "5")}
	index := Index{URL: server.URL + "/simple/"}
	plan, err := index.MakePlan(t.Context(), "llcuda", files)
	if err != nil {
		t.Fatal(err)
	}
	names := func(files []publisher.File) string {
		var all []string
		for _, f := range files {
			all = append(all, f.Name)
		}
		return strings.Join(all, " ")
	}
	if got, want := []string{names(plan.Keep), names(plan.Differ), names(plan.Upload)}, []string{"same mute", "other longer", "missing"}; !cmp.Equal(got, want) {
		t.Errorf("plan %q, want %q", got, want)
	}
	var refused *publisher.RefusedError
	if err := plan.Refused("x"); !errors.As(err, &refused) || !strings.Contains(refused.Way, "raise the version") {
		t.Errorf("refused: %v", err)
	}
	// What is awaited has to be there, and its bytes have to be right, whatever the index says of them.
	if err := index.Await(t.Context(), "llcuda", files[2:3], time.Millisecond); err != nil {
		t.Errorf("awaiting what is there: %v", err)
	}
	if err := index.Await(t.Context(), "llcuda", files[4:], 10*time.Millisecond); err == nil {
		t.Error("awaiting what is missing ended well")
	}
	if err := index.Await(t.Context(), "llcuda", files[:1], time.Millisecond); !errors.As(err, &refused) {
		t.Errorf("an index that says the right digest and gives other bytes: %v", err)
	}
}

func TestIndexOf(t *testing.T) {
	for upload, want := range map[string]string{
		"https://upload.pypi.org/legacy/":       "https://pypi.org/simple/",
		"https://test.pypi.org/legacy/":         "https://test.pypi.org/simple/",
		"http://127.0.0.1:8080":                 "http://127.0.0.1:8080/simple/",
		"http://127.0.0.1:8080/":                "http://127.0.0.1:8080/simple/",
		"https://a:b@packages.example.org/x/y/": "https://packages.example.org/x/y/simple/",
	} {
		if got, err := IndexOf(upload); err != nil || got != want {
			t.Errorf("IndexOf(%q) = %q, %v; want %q", upload, got, err, want)
		}
	}
	if got, err := IndexOf("http://[::1"); err == nil {
		t.Errorf("an address that is none gave %q", got)
	}
}

// What twine prints for a server's refusal, and for temporary errors.
func TestRefused(t *testing.T) {
	for said, want := range map[string]bool{
		"ERROR    HTTPError: 400 Bad Request from https://upload.pypi.org/legacy/\n File already exists": true,
		"ERROR    HTTPError: 403 Forbidden from http://127.0.0.1:1/":                                     true,
		"ERROR    HTTPError: 413 Request Entity Too Large from x":                                        true,
		"ERROR    HTTPError: 429 Too Many Requests from x":                                               false,
		"ERROR    HTTPError: 408 Request Timeout from x":                                                 false,
		"ERROR    HTTPError: 503 Service Unavailable from x":                                             false,
		"ConnectionError: HTTPConnectionPool(host='127.0.0.1', port=1)":                                  false,
		"ERROR    InvalidDistribution: Cannot find file":                                                 true,
		"NonInteractive: Credential not found for password.":                                             true,
	} {
		if got := refused.MatchString(said); got != want {
			t.Errorf("%q is a refusal: %v, want %v", said, got, want)
		}
	}
}
