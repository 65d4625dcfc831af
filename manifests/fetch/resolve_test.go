package fetch

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer/transfertest"
)

// hosts are web servers by the names that the client knows them by.
type hosts map[string]*transfertest.Server

func (h hosts) RoundTrip(r *http.Request) (*http.Response, error) {
	s, ok := h[r.URL.Host]
	if !ok {
		return nil, fmt.Errorf("%s was asked for", r.URL)
	}
	to, err := url.Parse(s.URL)
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = to.Scheme, to.Host
	return http.DefaultTransport.RoundTrip(r)
}

// The farm's own addresses: the branch on GitHub's servers for raw files, the same on GitHub Pages
// where those refuse, and the assets of exactly the release named. Nothing else is asked.
func TestOwnReleases(t *testing.T) {
	const raw, pages, assets = "raw.githubusercontent.com", "waqasm86.github.io", "github.com"
	older, newer := twoReleases(t)
	pointer := func(number int64, change func(*manifests.Pointer)) []byte {
		p := newer.Pointer(t, number)
		if change != nil {
			change(&p)
		}
		return newer.SignPointer(t, p)
	}
	expired := pointer(8, func(p *manifests.Pointer) {
		p.Issued, p.Expires = p.Issued.AddDate(0, -2, 0), p.Issued.AddDate(0, -1, 0)
	})
	forged := fetchtest.New(t, fetchtest.Options{}).SignPointer(t, newer.Pointer(t, 8))
	for _, test := range []struct {
		name       string
		raw, pages []byte // nil is 404
		busy       []string
		seen       int64
		want       Class // Failed is none
		text       string
		asked      []string // for the pointer, in turn
	}{
		{name: "the branch", raw: pointer(7, nil), pages: forged, asked: []string{raw}},
		{name: "the branch is refused to this address", raw: pointer(7, nil), pages: pointer(7, nil), busy: []string{raw}, asked: []string{raw, raw, pages}},
		{name: "the branch is refused, and there are no pages", raw: pointer(7, nil), busy: []string{raw}, want: Network, text: "429", asked: []string{raw, raw, pages, raw, raw}},
		{name: "both are refused", busy: []string{raw, pages}, want: Network, text: "429", asked: []string{raw, raw, pages, pages, raw, raw, pages, pages}},
		{name: "there is none", want: Untrusted, text: "there is no release pointer at https://raw.githubusercontent.com/waqasm86/llcuda-farm/pointer/current.sigstore.json, nor at https://waqasm86.github.io/llcuda-farm/current.sigstore.json", asked: []string{raw, pages}},
		{name: "pages alone", pages: pointer(7, nil), asked: []string{raw, pages}},
		{name: "the branch is behind", raw: pointer(6, nil), pages: pointer(7, nil), seen: 7, asked: []string{raw, pages}},
		{name: "the branch expired", raw: expired, pages: pointer(9, nil), asked: []string{raw, pages}},
		{name: "both are behind", raw: pointer(6, nil), pages: pointer(5, nil), seen: 7, want: Untrusted, text: "was seen before", asked: []string{raw, pages}},
		{name: "expired, and refused", raw: expired, busy: []string{pages}, want: Untrusted, text: "expired", asked: []string{raw, pages, pages}},
		{name: "forged", raw: forged, pages: pointer(7, nil), want: Untrusted, text: "verifying the signature", asked: []string{raw}},
	} {
		t.Run(test.name, func(t *testing.T) {
			servers := hosts{}
			for host, files := range map[string]map[string][]byte{
				raw:   {"waqasm86/llcuda-farm/pointer/current.sigstore.json": test.raw},
				pages: {"llcuda-farm/current.sigstore.json": test.pages},
			} {
				dir := t.TempDir()
				for name, data := range files {
					if data == nil {
						continue
					}
					path := filepath.Join(dir, name)
					if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, data, 0o644)); err != nil {
						t.Fatal(err)
					}
				}
				var fault transfertest.Fault
				if slices.Contains(test.busy, host) {
					fault.Status = http.StatusTooManyRequests
				}
				servers[host] = transfertest.New(t, dir, fault)
			}
			dir := t.TempDir()
			for _, r := range []*fetchtest.Release{older, newer} {
				if err := os.CopyFS(filepath.Join(dir, "waqasm86/llcuda-farm/releases/download", r.Manifest.Release), os.DirFS(r.Dir)); err != nil {
					t.Fatal(err)
				}
			}
			servers[assets] = transfertest.New(t, dir, transfertest.Fault{})

			c := newClient(t, older)
			var asked []string
			c.Transfer.HTTP = &http.Client{Transport: recording{servers, &asked}}
			if test.seen > 0 {
				see(t, c, newer.Pointer(t, test.seen))
			}
			outcome, err := c.Install(t.Context(), Options{})
			if test.want != Failed {
				wantClass(t, err, test.want, test.text)
				if _, err := c.Store.Current(); !errors.Is(err, ErrNotInstalled) {
					t.Errorf("something was installed: %v", err)
				}
			} else if err != nil || outcome.Install.Release != "v1.1.0-runtime" || outcome.Install.Pointer < 7 {
				t.Errorf("got %+v, %v", outcome.Install, err)
			}
			if diff := cmp.Diff(test.asked, slices.DeleteFunc(asked, func(host string) bool { return host == assets })); diff != "" {
				t.Errorf("asked for the pointer (-want +got):\n%s", diff)
			}

			// By its tag it needs no pointer.
			asked = nil
			if r, err := c.Resolve(t.Context(), "v1.0.0-runtime"); err != nil || r.Pointer != nil {
				t.Errorf("by its tag: %+v, %v", r, err)
			}
			if diff := cmp.Diff([]string{assets, assets, assets}, asked); diff != "" {
				t.Errorf("asked for a release by its tag (-want +got):\n%s", diff)
			}
		})
	}
}

// recording writes down which host is asked.
type recording struct {
	http.RoundTripper
	asked *[]string
}

func (r recording) RoundTrip(request *http.Request) (*http.Response, error) {
	*r.asked = append(*r.asked, request.URL.Host)
	return r.RoundTripper.RoundTrip(request)
}

// What was installed is there without a network, and is verified again.
func TestKept(t *testing.T) {
	older, newer := twoReleases(t)
	c := newClient(t, older, older.Dir)
	c.Offline = true
	_, err := c.storedRelease("")
	wantClass(t, err, NotOffline, "a release is not on this machine")
	if _, err := c.Install(t.Context(), Options{}); err != nil {
		t.Fatal(err)
	}
	c.Mirrors = []string{DefaultMirror} // not the folder that the installation remembers
	r, err := c.Resolve(t.Context(), "")
	if err != nil || r.Release.Release != "v1.0.0-runtime" || r.From != "" {
		t.Fatalf("got %+v, %v", r, err)
	}
	urls, err := c.urls(r, r.Assets[0])
	if err != nil || len(urls) != 0 {
		t.Errorf("without a network there are %q, %v", urls, err)
	}
	_, err = c.Resolve(t.Context(), "v1.1.0-runtime")
	wantClass(t, err, NotOffline, "release v1.1.0-runtime is not on this machine")

	for name, data := range map[string][]byte{
		manifests.ManifestName:  newer.Read(t, manifests.ManifestName),
		manifests.SumsName:      newer.Read(t, manifests.SumsName),
		manifests.SignatureName: newer.Read(t, manifests.SignatureName),
	} {
		path := filepath.Join(c.Store.Home, "releases", "v1.0.0-runtime", name)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err = c.Resolve(t.Context(), "")
		wantClass(t, err, Untrusted, "")
		if err := os.WriteFile(path, good, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Resolve(t.Context(), ""); err != nil {
		t.Errorf("put back, and yet: %v", err)
	}
	if err := os.Remove(filepath.Join(c.Store.Home, "releases", "v1.0.0-runtime", manifests.SignatureName)); err != nil {
		t.Fatal(err)
	}
	_, err = c.Resolve(t.Context(), "")
	wantClass(t, err, Untrusted, "was installed without its signature")
	c.SkipSignature = true
	if _, err := c.Resolve(t.Context(), ""); err != nil {
		t.Error(err)
	}
}

// The patience covers everything that it takes to find a release. A mirror that does not answer
// leaves time for the next one.
func TestPatience(t *testing.T) {
	r := fetchtest.New(t, fetchtest.Options{})
	silent, err := net.Listen("tcp", "127.0.0.1:0") // it takes connections, and that is all
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	hole, nobody := "http://"+silent.Addr().String(), "http://127.0.0.1:1"
	good := transfertest.New(t, r.Dir, transfertest.Fault{}).URL
	for name, test := range map[string]struct {
		mirrors []string
		release string
		want    []string // of the error
	}{
		"silent":               {[]string{hole}, "", []string{"looking for the newest release", hole, "no answer within 1s"}},
		"silent by TLS":        {[]string{"https" + strings.TrimPrefix(hole, "http")}, "", []string{"no answer within 1s"}},
		"silent, named":        {[]string{hole}, "v1.1.0-runtime", []string{"looking for release v1.1.0-runtime", "no answer within "}},
		"refused all the time": {[]string{nobody}, "", []string{"connection refused", "no answer within 1s"}},
		"two silent ones":      {[]string{hole, hole}, "", []string{hole}},
		"the next one":         {[]string{hole, good}, "", nil},
		"the next but one":     {[]string{hole, nobody, good}, "v1.1.0-runtime", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, r, test.mirrors...)
			c.Patience, c.Transfer = time.Second, &transfer.Client{FirstWait: time.Hour}
			if test.want == nil {
				c.Patience = 5 * time.Second // some of it for a machine that has much to do
			}
			_, err := c.Plan(t.Context(), Options{Release: test.release})
			if test.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			for _, text := range test.want {
				wantClass(t, err, Network, text)
			}
		})
	}

	// Downloads are not bounded by the patience.
	c := newClient(t, r, good)
	asked := map[string]bool{}
	c.Patience, c.Transfer.HTTP = time.Hour, &http.Client{Transport: bounded(asked)}
	if _, err := c.Install(t.Context(), Options{}); err != nil {
		t.Fatal(err)
	}
	for name, had := range asked {
		if archive := strings.HasSuffix(name, ".tar.zst"); had == archive {
			t.Errorf("%s: a bound is %t", name, had)
		}
	}
	if len(asked) < 5 {
		t.Errorf("it asked for %v", asked)
	}
}

// bounded records which requests end by themselves.
type bounded map[string]bool

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	_, b[filepath.Base(r.URL.Path)] = r.Context().Deadline()
	return http.DefaultTransport.RoundTrip(r)
}
