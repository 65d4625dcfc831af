package npm

import (
	"bytes"
	"cmp"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/docker/mirror"
)

// The machine that the packages are installed on: the builder image.
const (
	targetOS   = "linux"
	targetCPU  = "x64"
	targetLibc = "glibc"
)

// tarball is one file that npm needs.
type tarball struct {
	name   string // of the package, with its version
	url    string // as the lock gives it
	sha512 [sha512.Size]byte
}

// entry is what is read of one of the lock's packages.
type entry struct {
	Name      string  `json:"name"`
	Version   string  `json:"version"`
	Resolved  string  `json:"resolved"`
	Integrity string  `json:"integrity"`
	Link      bool    `json:"link"`
	InBundle  bool    `json:"inBundle"`
	OS        choices `json:"os"`
	CPU       choices `json:"cpu"`
	Libc      choices `json:"libc"`
}

// choices are a package's words on where it runs: a name, "!name", or "any".
type choices []string

func (c *choices) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*c = choices{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(c))
}

// allow follows npm's rule: none of the negated names, and one of the others if there are any.
func (c choices) allow(value string) bool {
	if slices.Contains(c, "!"+value) {
		return false
	}
	others := slices.ContainsFunc(c, func(s string) bool { return !strings.HasPrefix(s, "!") })
	return !others || slices.Contains(c, value) || slices.Equal(c, choices{"any"})
}

// parseLock lists the tarballs that a lock names for the target, each once, and returns the
// lock with `resolved` filled in where it was left out.
func parseLock(text []byte) ([]tarball, []byte, error) {
	var lock struct {
		Version  int              `json:"lockfileVersion"`
		Packages map[string]entry `json:"packages"`
	}
	if err := json.Unmarshal(text, &lock); err != nil {
		return nil, nil, fmt.Errorf("reading package-lock.json: %w", err)
	}
	if lock.Version != 2 && lock.Version != 3 {
		return nil, nil, fmt.Errorf("reading package-lock.json: lockfileVersion is %d, known are 2 and 3", lock.Version)
	}
	var tarballs []tarball
	var problems []error
	filled := map[string]string{}
	seen := map[[sha512.Size]byte]bool{}
	for _, key := range slices.Sorted(maps.Keys(lock.Packages)) {
		e := lock.Packages[key]
		_, installedAs, installed := cutLast(key, "node_modules/")
		if !installed || e.Link || e.InBundle { // the project's own folders, and what comes inside another tarball
			continue
		}
		e.Name = cmp.Or(e.Name, installedAs)
		t, err := e.tarball()
		if err != nil {
			problems = append(problems, fmt.Errorf("reading package-lock.json: %s: %w", key, err))
			continue
		}
		if e.Resolved == "" {
			filled[key] = t.url
		}
		if !e.OS.allow(targetOS) || !e.CPU.allow(targetCPU) || !e.Libc.allow(targetLibc) || seen[t.sha512] {
			continue
		}
		seen[t.sha512] = true
		tarballs = append(tarballs, t)
	}
	if len(problems) > 0 {
		return nil, nil, errors.Join(problems...)
	}
	text, err := fill(text, filled)
	return tarballs, text, err
}

func (e entry) tarball() (tarball, error) {
	t := tarball{name: e.Name + "@" + e.Version, url: e.Resolved}
	if t.url == "" {
		if e.Version == "" {
			return t, errors.New("neither a version nor a source")
		}
		t.url = fmt.Sprintf("%s/%s/-/%s-%s.tgz", mirror.NPM, e.Name, path.Base(e.Name), e.Version)
	}
	source, err := url.Parse(t.url)
	if err != nil || !isFetchable(source) {
		return t, fmt.Errorf("its source is %s: only tarballs from a registry can be built from", t.url)
	}
	if e.Integrity == "" {
		return t, errors.New("no integrity: its bytes cannot be checked")
	}
	for hash := range strings.FieldsSeq(e.Integrity) {
		text, isSHA512 := strings.CutPrefix(hash, "sha512-")
		if !isSHA512 {
			continue
		}
		text, _, _ = strings.Cut(text, "?") // options, which mean nothing to npm either
		sum, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(sum) != sha512.Size {
			return t, fmt.Errorf("its integrity %q is not a SHA-512", hash)
		}
		copy(t.sha512[:], sum)
		return t, nil
	}
	return t, fmt.Errorf("its integrity %q has no SHA-512", e.Integrity)
}

// isFetchable reports whether an address has a scheme that downloads support.
func isFetchable(u *url.URL) bool {
	return u.Host != "" && (u.Scheme == "https" || u.Scheme == "http")
}

// fill sets `resolved` of some packages. A lock that lacks none is unchanged, byte for byte.
func fill(text []byte, resolved map[string]string) ([]byte, error) {
	if len(resolved) == 0 {
		return text, nil
	}
	var lock map[string]json.RawMessage
	if err := json.Unmarshal(text, &lock); err != nil {
		return nil, fmt.Errorf("reading package-lock.json: %w", err)
	}
	var packages map[string]map[string]json.RawMessage
	if err := json.Unmarshal(lock["packages"], &packages); err != nil {
		return nil, fmt.Errorf("reading package-lock.json: %w", err)
	}
	for key, address := range resolved {
		value, err := encode(address)
		if err != nil {
			return nil, err
		}
		packages[key]["resolved"] = value
	}
	value, err := encode(packages)
	if err != nil {
		return nil, err
	}
	lock["packages"] = value
	return encode(lock)
}

// encode writes JSON as npm does, with ranges such as ">=20" left readable.
func encode(v any) ([]byte, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "\t")
	if err := encoder.Encode(v); err != nil {
		return nil, fmt.Errorf("writing package-lock.json: %w", err)
	}
	return out.Bytes(), nil
}

// cutLast cuts around the last instance of sep.
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
