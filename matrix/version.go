package matrix

import (
	"cmp"
	"strings"
)

// IsVersion reports whether s is dotted numbers, as drivers, toolkits and C libraries have them: "550.54.14", "2.35".
func IsVersion(s string) bool {
	for part := range strings.SplitSeq(s, ".") {
		if !isNumber(part) {
			return false
		}
	}
	return true
}

// CompareVersions orders dotted numbers, as cmp.Compare does. A missing part counts as 0 and leading zeros do not
// count ("580.159.04"); a part that is not a number comes before every number, so a version that cannot be read never
// satisfies a floor.
func CompareVersions(a, b string) int {
	for a != "" || b != "" {
		var x, y string
		x, a, _ = strings.Cut(a, ".")
		y, b, _ = strings.Cut(b, ".")
		if c := compareParts(x, y); c != 0 {
			return c
		}
	}
	return 0
}

// compareParts compares by length before digits, so that no number is too long for it.
func compareParts(x, y string) int {
	xn, yn := x == "" || isNumber(x), y == "" || isNumber(y)
	if !xn || !yn {
		if xn != yn {
			if xn {
				return 1
			}
			return -1
		}
		return strings.Compare(x, y)
	}
	x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
	return cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y))
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
