package fetch

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
)

// Hints tell a person what to do about an error, or what it may mean: the hints of its parts, each
// once, and if there are none, the hint of its class.
func Hints(err error) []string {
	var list []string
	ownHints(err, func(hint string) {
		if !slices.Contains(list, hint) {
			list = append(list, hint)
		}
	})
	if hint := classHint(err); len(list) == 0 && hint != "" {
		list = []string{hint}
	}
	return list
}

// ownHints finds the hints of an error's parts. The hint of a part stands for all below it.
func ownHints(err error, add func(string)) {
	if hinted, ok := err.(interface{ Hint() string }); ok {
		if hint := hinted.Hint(); hint != "" {
			add(hint)
			return
		}
	}
	switch e := err.(type) {
	case *transfer.NetworkError:
		if Classify(e) == Network {
			add(networkHint(e))
		}
	case *RememberedError:
		e.hints(add)
	case interface{ Unwrap() error }:
		ownHints(e.Unwrap(), add)
	case interface{ Unwrap() []error }:
		for _, part := range e.Unwrap() {
			ownHints(part, add)
		}
	}
}

func classHint(err error) string {
	switch {
	case is[*store.ArchiveError](err):
		return "the signature is valid, but the contents do not match the manifest: please report this to the maintainers"
	case is[*manifests.VersionError](err):
		return "llcuda-fetch self-update installs a newer one; if it cannot tell which one, use self-update --release TAG"
	case Classify(err) == Untrusted:
		return "it was changed on the way, or the mirror is damaged or still being updated; try again later, or use another --mirror"
	case Classify(err) == Disk:
		return "llcuda-fetch prune --yes removes what is not needed; --home (LLCUDA_HOME) selects another folder, HF_HUB_CACHE another one for models; what was downloaded is kept, and the next run resumes there"
	}
	return ""
}

// networkHint is the hint for what the network did.
func networkHint(err error) string {
	const carried = "; without a network: llcuda-fetch export on another machine, then install --from DIR here"
	var status *transfer.StatusError
	var operation *net.OpError
	var name *net.DNSError
	var certificate *tls.CertificateVerificationError
	var invalid x509.CertificateInvalidError
	code := 0
	if errors.As(err, &status) {
		code = status.Code
	}
	switch {
	// What a proxy answers to CONNECT is an error without a type: net/http.Transport.dialConn.
	case code == http.StatusProxyAuthRequired, strings.Contains(err.Error(), http.StatusText(http.StatusProxyAuthRequired)):
		return "the proxy requires a name and a password: HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT"
	case errors.As(err, &operation) && operation.Op == "proxyconnect":
		return "the proxy that HTTPS_PROXY or HTTP_PROXY names does not answer: correct or unset the variable, or exempt the host with NO_PROXY"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the certificate has expired or is not yet valid: check this machine's clock"
	case errors.As(err, &certificate):
		return "this machine does not trust the server's certificate; behind a corporate proxy or a private mirror, point SSL_CERT_FILE at its CA certificate; on a minimal system, install the package ca-certificates"
	case errors.As(err, &name):
		return "check the address and the network; if the network requires a proxy, set HTTPS_PROXY" + carried
	case errors.Is(err, fs.ErrNotExist):
		return "that folder has no complete release; llcuda-fetch export makes one"
	case code == http.StatusNotFound, code == http.StatusGone:
		return "check --release and --mirror: what they name does not exist, or not yet"
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return "the server, or a proxy in between, denies access; a mirror may require a name and a password: --mirror https://NAME:PASSWORD@HOST/…; or try another --mirror" + carried
	case code == http.StatusTooManyRequests, code >= http.StatusInternalServerError:
		return "the server cannot answer now: run the command again in a few minutes, and it resumes; or use another --mirror"
	}
	return "run the command again, and it resumes; if that does not help, check the network and HTTPS_PROXY, or use another --mirror" + carried
}
