package ghrelease

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// defaultAPI is github.com's API.
const defaultAPI = "https://api.github.com"

// apiURL reads the address of an API.
func apiURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("reading the API's address: %w", err)
	}
	switch {
	case u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%q is not an address of an API, like %s or https://HOST/api/v3", text, defaultAPI)
	case u.User != nil:
		return nil, errors.New("the API's address must not have a password in it: the token is given in GITHUB_TOKEN")
	case u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(u.Hostname())):
		return nil, fmt.Errorf("%q is not https: the token would go over the network for all to read", text)
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + "/" // go-github resolves paths against it
	return u, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// APIURLOf is the API of a GitHub server, and ServerURLOf the server of an API, without a slash at
// the end:
//
//	https://github.com       https://api.github.com
//	https://SUB.ghe.com      https://api.SUB.ghe.com
//	https://HOST             https://HOST/api/v3
func APIURLOf(server string) (string, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" {
		return "", fmt.Errorf("%q is not an address of a GitHub server", server)
	}
	if isCloud(u.Hostname()) {
		return u.Scheme + "://api." + u.Host, nil
	}
	return u.Scheme + "://" + u.Host + enterprisePath, nil
}

// ServerURLOf is the server of an API: see APIURLOf.
func ServerURLOf(api string) (string, error) {
	if api == "" {
		api = defaultAPI
	}
	u, err := apiURL(api)
	if err != nil {
		return "", err
	}
	if host, ok := strings.CutPrefix(u.Host, "api."); ok && isCloud(host) {
		return u.Scheme + "://" + host, nil
	}
	return u.Scheme + "://" + u.Host, nil
}

const enterprisePath = "/api/v3"

// isCloud reports whether a server is one of GitHub's own, whose API has a host of its own.
func isCloud(host string) bool { return host == "github.com" || strings.HasSuffix(host, ".ghe.com") }

// sameHost reports whether two addresses have the same scheme, host and port.
func sameHost(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Host, b.Host)
}

// uploadsBeside reports whether an address that the API named for uploads belongs to it: the same
// host, or uploads.X beside api.X. The token goes to no other.
func uploadsBeside(api, upload *url.URL) bool {
	if sameHost(api, upload) {
		return true
	}
	domain, ok := strings.CutPrefix(strings.ToLower(api.Host), "api.")
	return ok && api.Scheme == upload.Scheme && strings.EqualFold(upload.Host, "uploads."+domain)
}

// redirectError is a redirect that must not be followed with a token.
type redirectError struct{ to string }

func (e *redirectError) Error() string {
	return "redirected to " + e.to + ", where the token is not sent"
}

// stayOn follows redirects within the API's host, as for a repository that was renamed, and no
// other.
func stayOn(api *url.URL) func(*http.Request, []*http.Request) error {
	return func(request *http.Request, via []*http.Request) error {
		switch {
		case !sameHost(api, request.URL):
			return &redirectError{request.URL.Scheme + "://" + request.URL.Host}
		case request.Method != via[0].Method: // Go makes a GET of it
			return &redirectError{request.URL.Scheme + "://" + request.URL.Host + " by another method"}
		case len(via) >= 10:
			return errors.New("redirected 10 times")
		}
		return nil
	}
}
