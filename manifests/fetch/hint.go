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

// Hints are what helps against an error, or what it may mean, for a person: what its parts say of themselves, each once,
// and where none does, what is true of its class.
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

// ownHints gives the hints of an error's parts. What a part says stands for all below it.
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
		return "these are the very bytes that were signed, and they are not what the farm promises: a mistake of the farm's, or somebody signed in its name; tell its maintainers"
	case is[*manifests.VersionError](err):
		return "llcuda-fetch self-update brings a newer one; where it cannot tell which, self-update --release TAG does"
	case Classify(err) == Untrusted:
		return "somebody changed it on its way, or the mirror is damaged or half way to another release; try later, or another --mirror"
	case Classify(err) == Disk:
		return "llcuda-fetch prune --yes removes what is not needed; --home (LLCUDA_HOME) chooses another folder, and HF_HUB_CACHE another one for models; what was downloaded is kept, and the next run goes on from there"
	}
	return ""
}

// networkHint is the way out that fits what the network did.
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
		return "the proxy wants a name and a password: HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT"
	case errors.As(err, &operation) && operation.Op == "proxyconnect":
		return "the proxy that HTTPS_PROXY or HTTP_PROXY names does not answer: correct it, or unset it, or except a host by NO_PROXY"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the certificate does not count at this time: look at the clock of this machine"
	case errors.As(err, &certificate):
		return "nobody whom this machine trusts vouches for that server; where a company's proxy or an own mirror is in between, SSL_CERT_FILE names the file with its certificate; bare systems need the package ca-certificates"
	case errors.As(err, &name):
		return "look for a mistake in the address and at the network; where only a proxy leads out, set HTTPS_PROXY" + carried
	case errors.Is(err, fs.ErrNotExist):
		return "that folder has no whole release; llcuda-fetch export makes one"
	case code == http.StatusNotFound, code == http.StatusGone:
		return "look for a mistake in --release and --mirror: what they name is not there, or not yet"
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return "that server, or a proxy on the way, lets nobody in; a mirror may want a name and a password: --mirror https://NAME:PASSWORD@HOST/…; or try another --mirror" + carried
	case code == http.StatusTooManyRequests, code >= http.StatusInternalServerError:
		return "the server cannot answer now: run it again in a few minutes, it goes on where it stopped; --mirror names another one"
	}
	return "run it again, it goes on where it stopped; if that does not help, look at the network and at HTTPS_PROXY, or name another --mirror" + carried
}
