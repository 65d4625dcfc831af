package fetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/hub"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
)

// What the network did decides what helps against it. Those who see these are in notebooks and
// behind companies' proxies.
func TestHints(t *testing.T) {
	network := func(err error) error { return &transfer.NetworkError{Name: "x", Err: err} }
	status := func(code int) error { return network(&transfer.StatusError{URL: "https://x", Code: code}) }
	for _, test := range []struct {
		name string
		err  error
		want string // what the hint has in it; empty means no hint
	}{
		{"nobody answers", network(errors.New("connection refused")), "run the command again"},
		{"no such name", network(&net.DNSError{Name: "x", IsNotFound: true}), "set HTTPS_PROXY"},
		{"the proxy does not answer", network(&net.OpError{Op: "proxyconnect", Err: errors.New("refused")}), "the proxy that HTTPS_PROXY"},
		{"the proxy wants a password, asked for a tunnel", network(errors.New("Proxy Authentication Required")), "NAME:PASSWORD@HOST:PORT"},
		{"the proxy wants a password", status(407), "NAME:PASSWORD@HOST:PORT"},
		{"its certificate is not trusted", network(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), "SSL_CERT_FILE"},
		{"its certificate expired", network(&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired}}), "clock"},
		{"it is not there", status(404), "--release"},
		{"it is gone", status(410), "--release"},
		{"it is forbidden", status(403), "NAME:PASSWORD@HOST"},
		{"too many requests", status(429), "in a few minutes"},
		{"it is broken", status(503), "in a few minutes"},
		{"no such folder", network(&fs.PathError{Op: "open", Path: "/x", Err: fs.ErrNotExist}), "llcuda-fetch export"},
		{"the Hub", &hub.NetworkError{Err: errors.New("x")}, "HF_ENDPOINT"},
		{"another digest", &transfer.DigestError{}, "it was changed on the way"},
		{"another digest, behind the network", network(&transfer.DigestError{}), "it was changed on the way"},
		{"a signed archive of something else", &store.ArchiveError{}, "report this to the maintainers"},
		{"a full disk", fmt.Errorf("x: %w", unix.ENOSPC), "llcuda-fetch prune --yes"},
		{"a disk that would be full", &transfer.SpaceError{}, "llcuda-fetch prune --yes"},
		{"a folder of somebody else's", &store.HomeError{Doing: "making the store", Home: "/root/x", Err: fs.ErrPermission}, "LLCUDA_HOME"},
		{"a store on a full disk", &store.HomeError{Doing: "opening the store", Err: unix.ENOSPC}, "llcuda-fetch prune --yes"},
		{"nothing that fits", &manifests.NoBundleError{Way: "the way"}, "the way"},
		{"its own word", &TrustError{errors.New("x"), "its own word"}, "its own word"},
		{"that of what is below", &TrustError{&NoPointerError{}, ""}, "--release TAG"},
		{"interrupted", context.Canceled, ""},
		{"anything", errors.New("x"), ""},
	} {
		for _, err := range []error{test.err, fmt.Errorf("installing: %w", test.err), errors.Join(errors.New("y"), test.err, test.err)} {
			got := Hints(err)
			if test.want == "" && len(got) == 0 {
				continue
			}
			if len(got) != 1 || test.want == "" || !strings.Contains(got[0], test.want) {
				t.Errorf("%s: %v: got %q, want %q", test.name, err, got, test.want)
			}
		}
	}
	// Two mirrors with different problems.
	both := Hints(errors.Join(status(404), &TrustError{errors.New("x"), "second"}))
	if diff := cmp.Diff([]string{networkHint(status(404)), "second"}, both); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
