// Package cuda12 holds the builder image: Debian 12 with g++ 12, CMake, ccache,
// Node.js and CUDA 12.4.1, and Debian 11's libraries to link against.
//
// packages.in says what is in it, packages.lock names every file of it by
// version, size and SHA-256 (written by the command in lock, reviewed like
// code), install.sh turns a bare Debian 12 into the builder from those files.
// The Dockerfile and the pipeline run the very same script. The package only
// embeds these files and reads the lock; package image fetches what it names.
//
// Package cuda13 has the same image with another toolkit: it takes Debian 12 and
// the script from here.
package cuda12

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:generate go run ./lock

// InstallScript is install.sh.
//
//go:embed install.sh
var InstallScript []byte

// LockFile is packages.lock.
//
//go:embed packages.lock
var LockFile []byte

// BaseFile is base.lock.
//
//go:embed base.lock
var BaseFile []byte

// Kind says where a package comes from and how it is installed.
type Kind string

const (
	Base Kind = "base" // Debian 12, part of the base system
	Deb  Kind = "deb"  // Debian 12, installed on the base with dpkg
	CUDA Kind = "cuda" // Debian 13, unpacked without its dependencies
	PyPI Kind = "pypi" // a wheel of the Python Package Index, unpacked without its dependencies
	Link Kind = "link" // Debian 11, unpacked to link bundles against
	NPM  Kind = "npm"  // the npm registry
)

// Package is one line of the lock: one file to download.
type Package struct {
	Kind    Kind
	Name    string
	Version string
	Path    string // below the root of the Debian mirror, of the npm registry, or of the index's files
	Size    int64
	SHA256  string
}

// String is the package's line in the lock.
func (p Package) String() string {
	return fmt.Sprintf("%s %s %s %s %d %s", p.Kind, p.Name, p.Version, p.Path, p.Size, p.SHA256)
}

// Lock is the builder's content in the order of packages.lock.
type Lock []Package

// Of returns the packages of the given kinds, in order.
func (l Lock) Of(kinds ...Kind) Lock {
	var chosen Lock
	for _, p := range l {
		for _, k := range kinds {
			if p.Kind == k {
				chosen = append(chosen, p)
			}
		}
	}
	return chosen
}

// Without returns the packages of all but the given kinds, in order.
func (l Lock) Without(kinds ...Kind) Lock {
	return slices.DeleteFunc(slices.Clone(l), func(p Package) bool { return slices.Contains(kinds, p.Kind) })
}

// Encode writes the lines of the lock, without the comments of packages.lock.
func (l Lock) Encode() []byte {
	var out bytes.Buffer
	for _, p := range l {
		fmt.Fprintln(&out, p)
	}
	return out.Bytes()
}

// DefaultLock is the lock this package embeds.
func DefaultLock() (Lock, error) { return ParseLock(LockFile) }

// snapshotMark begins the comment in packages.lock that says when the mirrors had all of it.
const snapshotMark = "# snapshot "

// Snapshot is when the mirrors had everything that a packages.lock names, as snapshot.debian.org writes times:
// 20261124T120000Z. It is empty where the lock does not say.
func Snapshot(text []byte) string {
	for line := range strings.Lines(string(text)) {
		if at, ok := strings.CutPrefix(line, snapshotMark); ok {
			return strings.TrimSpace(at)
		}
	}
	return ""
}

// SnapshotLine is the comment that Snapshot reads.
func SnapshotLine(at time.Time) string {
	return snapshotMark + at.UTC().Format("20060102T150405Z") + "\n"
}

// ParseLock reads a packages.lock: one package a line, `#` starts a comment line.
func ParseLock(text []byte) (Lock, error) {
	const fields = 6
	var lock Lock
	seen := make(map[string]int)
	lines := bufio.NewScanner(bytes.NewReader(text))
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		words := strings.Fields(line)
		if len(words) != fields {
			return nil, fmt.Errorf("reading lock: line %d has %d fields, want %d", number, len(words), fields)
		}
		p := Package{Kind: Kind(words[0]), Name: words[1], Version: words[2], Path: words[3], SHA256: words[5]}
		switch p.Kind {
		case Base, Deb, CUDA, PyPI, Link, NPM:
		default:
			return nil, fmt.Errorf("reading lock: line %d: unknown kind %q", number, p.Kind)
		}
		size, err := strconv.ParseInt(words[4], 10, 64)
		if err != nil || size <= 0 {
			return nil, fmt.Errorf("reading lock: line %d: %q is not a size", number, words[4])
		}
		p.Size = size
		if raw, err := hex.DecodeString(p.SHA256); err != nil || len(raw) != 32 || strings.ToLower(p.SHA256) != p.SHA256 {
			return nil, fmt.Errorf("reading lock: line %d: %q is not a SHA-256", number, p.SHA256)
		}
		if path.IsAbs(p.Path) || path.Clean(p.Path) != p.Path || strings.HasPrefix(p.Path, "../") {
			return nil, fmt.Errorf("reading lock: line %d: %q is not a path below the mirror", number, p.Path)
		}
		key := string(p.Kind) + " " + p.Name
		if before, ok := seen[key]; ok {
			return nil, fmt.Errorf("reading lock: line %d: %s is in line %d already", number, key, before)
		}
		seen[key] = number
		lock = append(lock, p)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading lock: %w", err)
	}
	if len(lock) == 0 {
		return nil, fmt.Errorf("reading lock: no package in it")
	}
	return lock, nil
}

// BaseImage is the reference in base.lock: an image name with a tag, and the
// digest it is pinned to, if it is.
func BaseImage() (string, error) { return parseBase(BaseFile) }

func parseBase(text []byte) (string, error) {
	var ref string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if ref != "" {
			return "", fmt.Errorf("reading base.lock: more than one reference: %q, %q", ref, line)
		}
		ref = line
	}
	if ref == "" {
		return "", fmt.Errorf("reading base.lock: no reference in it")
	}
	return ref, nil
}
