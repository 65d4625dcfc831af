package sbom

import (
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// An npm package without a license file is described by one line: "MIT, by NAME".
var byline = regexp.MustCompile(`^(MIT|ISC|Apache-2\.0|BSD-2-Clause|BSD-3-Clause|0BSD|CC0-1\.0|Unlicense), by [^\n]+$`)

// mostly is how much of a text, in percent, must be known licenses for the text to be those. The rest are names, years and
// headings.
const mostly = 75

// choice is how texts say that one of several licenses is enough.
var choice = regexp.MustCompile(`(?i)\b(as a choice|under 2 licenses|at your (option|choice)|dual[- ]licen[sc]ed)\b`)

// recognize returns the expression for a license text by SPDX's list: one name, or several joined by AND. It is empty where
// most of the text is something else, and where the text leaves a choice.
func recognize(text string) string {
	if match := byline.FindStringSubmatch(text); match != nil {
		return match[1]
	}
	found := licensecheck.Scan([]byte(text))
	var names []string
	for _, match := range found.Match {
		names = append(names, match.ID)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if found.Percent < mostly || len(names) > 1 && choice.MatchString(text) {
		return ""
	}
	return strings.Join(names, " AND ")
}
