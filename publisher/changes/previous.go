package changes

import (
	"strings"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// Previous is which of the published releases a new one follows, by their tags, newest first; empty
// where there is none. It is the one of the greatest version below the new one's, so that a mended
// old release is not compared with a newer one, and repeating a publication does not change its
// notes. A tag without a version follows the newest release.
func Previous(tag string, published []string) string {
	mine := versionOf(tag)
	previous := ""
	for _, other := range published {
		version := versionOf(other)
		switch {
		case other == tag || version == "":
			continue
		case mine == "":
			return other
		case matrix.CompareVersions(version, mine) < 0 && (previous == "" || matrix.CompareVersions(version, versionOf(previous)) > 0):
			previous = other
		}
	}
	return previous
}

// versionOf is the version in a tag, "1.2.0" of "v1.2.0-runtime"; empty where it has none. Tags that
// are not of releases of the farm have none: release.yml makes releases of tags v… alone.
func versionOf(tag string) string {
	version, ok := strings.CutPrefix(tag, "v")
	version, _, _ = strings.Cut(version, "-")
	if !ok || !matrix.IsVersion(version) {
		return ""
	}
	return version
}
