package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
)

// An authority is a company's private CA: it vouches for mirror.example, and is trusted only inside
// the company.
type authority struct {
	pem    []byte
	server tls.Certificate
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	sign := func(template, by *x509.Certificate, key, byKey *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, template, by, &key.PublicKey, byKey)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	from, to := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Company"}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	rootKey, leafKey := newKey(), newKey()
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{"mirror.example"}, NotBefore: from, NotAfter: to,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	return authority{
		pem:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: sign(root, root, rootKey, rootKey)}),
		server: tls.Certificate{Certificate: [][]byte{sign(leaf, root, leafKey, rootKey)}, PrivateKey: leafKey},
	}
}

// A proxy is the only way to mirror.example, which has no address: it leads every tunnel to one server on this machine.
type proxy struct {
	url, password string

	mu      sync.Mutex
	tunnels []string
}

func newProxy(t *testing.T, to, password string) *proxy {
	t.Helper()
	p := &proxy{password: password}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if password != "" && r.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte(password)) {
			w.Header().Set("Proxy-Authenticate", "Basic")
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		if r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		p.mu.Lock()
		p.tunnels = append(p.tunnels, r.Host)
		p.mu.Unlock()
		out, err := net.Dial("tcp", to)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		in, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			out.Close()
			return
		}
		_, _ = io.WriteString(in, "HTTP/1.1 200 Connection established\r\n\r\n")
		go func() { _, _ = io.Copy(out, in); out.Close() }()
		_, _ = io.Copy(in, out)
		in.Close()
	}))
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

// hosts are the names that tunnels were asked for.
func (p *proxy) hosts() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := slices.Clone(p.tunnels)
	slices.Sort(list)
	return slices.Compact(list)
}

// HTTPS_PROXY and SSL_CERT_FILE are honored: behind a company's proxy, an installation from a mirror with the company's
// certificate succeeds; where one of the two is missing or wrong, the hint names it.
func TestProxyAndPrivateAuthority(t *testing.T) {
	r := fetchtest.New(t, fetchtest.Options{Padding: 6 << 20}) // more than a range: several connections
	dir := t.TempDir()
	key, roots, nothing := filepath.Join(dir, "key.pub"), filepath.Join(dir, "company.pem"), filepath.Join(dir, "nothing")
	company := newAuthority(t)
	for name, data := range map[string][]byte{key: r.PublicKey(t), roots: company.pem, nothing: nil} {
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	mirror := httptest.NewUnstartedServer(http.FileServer(http.Dir(r.Dir)))
	mirror.TLS = &tls.Config{Certificates: []tls.Certificate{company.server}}
	mirror.Config.ErrorLog = nil
	mirror.StartTLS()
	t.Cleanup(mirror.Close)
	to := strings.TrimPrefix(mirror.URL, "https://")

	open, guarded := newProxy(t, to, ""), newProxy(t, to, "me:secret")
	with := func(p *proxy, password string) string { return strings.Replace(p.url, "://", "://"+password+"@", 1) }
	for _, test := range []struct {
		name        string
		proxy, file string
		via         *proxy
		code        int
		want        string
	}{
		{"proxy and authority", open.url, roots, open, 0, "installed in"},
		{"a proxy with a password", with(guarded, "me:secret"), roots, guarded, 0, "installed in"},
		{"an authority that is not known", open.url, nothing, open, 6, "hint: this machine does not trust the server's certificate; .* SSL_CERT_FILE"},
		{"no password", guarded.url, roots, guarded, 6, "hint: the proxy requires a name and a password: HTTPS_PROXY="},
		{"a wrong password", with(guarded, "me:wrong"), roots, guarded, 6, "hint: the proxy requires a name and a password"},
		{"a proxy that does not answer", "http://127.0.0.1:1", roots, nil, 6, "hint: the proxy that HTTPS_PROXY or HTTP_PROXY names does not answer"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cmd := child(t, "llcuda-fetch", "--home", filepath.Join(t.TempDir(), "store"), "--public-key", key, "--mirror", "https://mirror.example/", "--as-host", "../../testdata/hosts/rtx-2080-ti.json")
			cmd.Env = append(slices.DeleteFunc(os.Environ(), func(pair string) bool {
				name, _, _ := strings.Cut(strings.ToUpper(pair), "=")
				return strings.HasSuffix(name, "_PROXY")
			}), "HTTPS_PROXY="+test.proxy, "SSL_CERT_FILE="+test.file, "SSL_CERT_DIR="+dir+"/none")
			out, _ := cmd.CombinedOutput()
			first, rest, _ := strings.Cut(test.want, ".*")
			if code := cmd.ProcessState.ExitCode(); code != test.code || !strings.Contains(string(out), first) || !strings.Contains(string(out), strings.TrimSpace(rest)) {
				t.Errorf("exit code %d, want %d with %q:\n%s", code, test.code, test.want, out)
			}
			if strings.Contains(string(out), "secret") {
				t.Errorf("the password is shown:\n%s", out)
			}
			if test.code == 0 && !slices.Equal(test.via.hosts(), []string{"mirror.example:443"}) {
				t.Errorf("tunnels were asked for to %q", test.via.hosts())
			}
		})
	}
}
