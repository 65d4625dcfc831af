// Package mirror has the addresses of the public servers that the farm downloads from, and the
// variables that name others.
//
// What resolves a lock calls it, and what fetches the files of one. Every file that comes from
// these addresses has its digest in a lock or a pin, so a mirror needs no trust.
package mirror

import (
	"cmp"
	"strings"
)

// The public servers.
const (
	Debian = "http://deb.debian.org/debian"
	// DebianSnapshots has Debian's mirror as it was at a time, which is added to it:
	// https://snapshot.debian.org
	DebianSnapshots = "https://snapshot.debian.org/archive/debian/"
	NPM             = "https://registry.npmjs.org"
	PyPI            = "https://pypi.org/simple"
	// PyPIFiles has the files that PyPI names.
	PyPIFiles = "https://files.pythonhosted.org"
)

// DebianFromEnv is the mirrors in LLCUDA_DEBIAN_MIRROR, separated by spaces, or the public one.
func DebianFromEnv(getenv func(string) string) []string {
	roots := strings.Fields(cmp.Or(strings.TrimSpace(getenv("LLCUDA_DEBIAN_MIRROR")), Debian))
	for i, root := range roots {
		roots[i] = strings.TrimRight(root, "/")
	}
	return roots
}

// NPMFromEnv is the registry in npm's own variable, or the public one.
func NPMFromEnv(getenv func(string) string) string {
	return strings.TrimRight(cmp.Or(getenv("npm_config_registry"), getenv("NPM_CONFIG_REGISTRY"), NPM), "/")
}

// PyPIFromEnv is the index in pip's own variable, or the public one.
func PyPIFromEnv(getenv func(string) string) string { return cmp.Or(getenv("PIP_INDEX_URL"), PyPI) }
