// Package wheel says what a wheel of the Python package must be, and what is wrong with one.
//
// ci's commands call it: `ci wheel` before it keeps what hatchling built, `ci sign` and `ci verify` for what lies in a
// release. It takes the bytes of the wheel and what the release says of its contents, and returns what is wrong:
//
//	zip       ─▶ what package indexes and installers accept: every local header is its entry, and nothing lies between
//	dist-info ─▶ RECORD lists what is there; METADATA and WHEEL say what the name says
//	_bin      ─▶ the client's programs, byte for byte, with their licenses and their bill of materials
//
// The rules for archives are those of the Python Package Index (https://docs.pypi.org/archives/) and stricter, since all
// of a wheel is ours. The package never builds, never unpacks and prints nothing.
package wheel

import (
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
)

// MaxSize is what a wheel may have, in bytes. Indexes allow ten times that, and a project there ten thousand times: it is
// for those who install it in every session of a notebook.
const MaxSize = 10_000_000

// The platforms that there are wheels for.
const (
	// PlatformAny has no client.
	PlatformAny = "any"
	// PlatformLinux is that of the client in it. hatch_build.py says the same.
	PlatformLinux = "manylinux_2_17_x86_64.manylinux2014_x86_64"
)

// Client is the archive whose programs are in the wheel for PlatformLinux.
func Client() string { return manifests.ClientName("linux", "amd64") }

// Names are those of the wheels of a version.
func Names(version string) []string {
	names := make([]string, 0, 2)
	for _, platform := range []string{PlatformAny, PlatformLinux} {
		names = append(names, manifests.WheelName(version, platform))
	}
	return names
}

var nameForm = regexp.MustCompile(`^[a-z0-9_.]+-([0-9][0-9a-z.]*)-py3-none-([a-z0-9_.]+)\.whl$`)

// Parse is the version and the platform that a wheel's name says.
func Parse(name string) (version, platform string, err error) {
	match := nameForm.FindStringSubmatch(name)
	if match == nil || !slices.Contains(Names(match[1]), name) {
		return "", "", fmt.Errorf("%s is not called as one of %s", name, strings.Join(Names("VERSION"), ", "))
	}
	return match[1], match[2], nil
}

// Contents are what a release says of what is in a wheel with the client.
type Contents struct {
	// Client is the client's archive, unpacked.
	Client fs.FS
	// Bill is the bill of materials of that archive. Where it is nil, there is none yet to compare with.
	Bill []byte
}

// Check returns what is wrong with a wheel of that name.
func Check(name string, data []byte, contents Contents) []string {
	version, platform, err := Parse(name)
	if err != nil {
		return []string{err.Error()}
	}
	c := checking{version: version, platform: platform, info: manifests.WheelProject() + "-" + version + ".dist-info/"}
	if len(data) > MaxSize {
		c.addf("it has %s, more than %s", measure.Bytes(int64(len(data))), measure.Bytes(MaxSize))
	}
	if c.archive(data); len(c.problems) > 0 {
		return c.problems
	}
	c.record()
	c.tags()
	c.metadata()
	c.client(contents)
	return c.problems
}

// checking is one check of one wheel.
type checking struct {
	version, platform string
	info              string // the wheel's .dist-info folder
	files             map[string]file
	problems          []string
}

func (c *checking) addf(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}
