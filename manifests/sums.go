package manifests

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// A Sum is one line of SHA256SUMS.
type Sum struct {
	Name   string
	SHA256 string
}

// Sums are the lines of SHA256SUMS, ascending by name.
type Sums []Sum

// sumSeparator stands between the digest and the name: a blank, and another that GNU sha256sum
// reads as "text".
const sumSeparator = "  "

// Check reports everything wrong with the sums, as matrix.Problems.
func (s Sums) Check() error {
	var p matrix.Problems
	for i, sum := range s {
		at := fmt.Sprintf("line %d", i+1)
		checkName(&p, at, sum.Name)
		if sum.Name == SumsName || sum.Name == SignatureName {
			p.Addf(at, "%s cannot be covered by %s", sum.Name, SumsName)
		}
		checkSHA256(&p, at, sum.SHA256)
		if i > 0 && sum.Name <= s[i-1].Name {
			p.Addf(at, "%q comes after %q: names ascend, each once", shorten(sum.Name), shorten(s[i-1].Name))
		}
	}
	if len(s) == 0 {
		p.Addf("", "no sums")
	}
	return p.Err()
}

// Encode writes the sums, sorted by name, in the form that `sha256sum -c` of GNU coreutils checks.
func (s Sums) Encode() []byte {
	sorted := slices.SortedFunc(slices.Values(s), func(a, b Sum) int { return cmp.Compare(a.Name, b.Name) })
	var buf bytes.Buffer
	for _, sum := range sorted {
		buf.WriteString(sum.SHA256 + sumSeparator + sum.Name + "\n")
	}
	return buf.Bytes()
}

// DecodeSums reads a SHA256SUMS and checks it. It takes exactly what Encode writes; the other forms
// that sha256sum knows (binary mode, escaped names, BSD's) never occur in a release.
func DecodeSums(r io.Reader) (Sums, error) {
	data, err := readLimited(r)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", SumsName, err)
	}
	text, ended := strings.CutSuffix(string(data), "\n")
	if !ended {
		return nil, fmt.Errorf("reading %s: the last line does not end", SumsName)
	}
	var sums Sums
	for line := range strings.SplitSeq(text, "\n") {
		digest, name, ok := strings.Cut(line, sumSeparator)
		if !ok {
			return nil, fmt.Errorf("reading %s: line %d is not a digest, two blanks and a name", SumsName, len(sums)+1)
		}
		sums = append(sums, Sum{Name: name, SHA256: digest})
	}
	if err := sums.Check(); err != nil {
		return nil, fmt.Errorf("reading %s: %w", SumsName, err)
	}
	return sums, nil
}
