package fetch

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mirrors are the addresses to ask: those given, else those that the installation remembers.
func (c *Client) mirrors() (list []string, remembered bool) {
	if len(c.Mirrors) > 0 {
		return c.Mirrors, false
	}
	if base, have := c.base(); have && len(base.Mirrors) > 0 {
		return base.Mirrors, true
	}
	return []string{DefaultMirror}, false
}

// A MirrorError is an address that cannot be that of a mirror.
type MirrorError struct {
	Address string // without a name and a password
	Err     error
}

func (e *MirrorError) Error() string {
	return fmt.Sprintf("reading the mirror %q: %v", e.Address, e.Err)
}
func (e *MirrorError) Unwrap() error { return e.Err }

// Hint says what helps.
func (e *MirrorError) Hint() string {
	return "a mirror is a folder, or an http or https address; in a password, write / @ : ? # and % as %2F %40 %3A %3F %23 and %25"
}

// toRemember is how an installation records the mirrors given: folders by their whole path,
// addresses without names and passwords, and the farm's own releases alone as no mirror.
func toRemember(mirrors []string) ([]string, error) {
	list := []string{}
	for _, mirror := range mirrors {
		switch {
		case mirror == DefaultMirror, strings.HasPrefix(mirror, "file:"):
		case isLocal(mirror):
			path, err := filepath.Abs(mirror)
			if err != nil {
				return nil, err
			}
			mirror = path
		default:
			_, err := url.Parse(mirror)
			var parse *url.Error // it repeats the address, and the password in it
			if errors.As(err, &parse) {
				err = parse.Err
			}
			if mirror = withoutUser(mirror); err != nil {
				return nil, &MirrorError{mirror, err}
			}
		}
		list = append(list, mirror)
	}
	if slices.Equal(list, []string{DefaultMirror}) {
		list = []string{}
	}
	return list, nil
}

// A RememberedError is a problem with mirrors that the installation remembers and the caller did
// not give this time.
type RememberedError struct {
	Mirrors []string
	Gone    []string // those that are folders which are not there
	Err     error
}

func (e *RememberedError) Error() string {
	if len(e.Gone) == len(e.Mirrors) {
		return fmt.Sprintf("the mirror remembered from the installation is not there: %s", strings.Join(e.Gone, ", "))
	}
	return fmt.Sprintf("asking the mirror remembered from the installation, %s: %v", strings.Join(e.Mirrors, ", "), e.Err)
}

func (e *RememberedError) Unwrap() error { return e.Err }

// hints say what helps. The hints of the wrapped error are of no use where its folder is gone.
func (e *RememberedError) hints(add func(string)) {
	const replace = "llcuda-fetch install --mirror ADDRESS replaces it, install --mirror " + DefaultMirror + " goes back to GitHub"
	if len(e.Gone) > 0 {
		add("mount the drive with " + strings.Join(e.Gone, ", ") + ", if it is on one; " + replace)
		return
	}
	ownHints(e.Err, add)
	add("names and passwords of mirrors are not remembered: give the address with them again by --mirror or LLCUDA_MIRROR; " + replace)
}

// blame says of an error that it is of the mirrors that the installation remembers, if they were
// asked.
func (c *Client) blame(err error) error {
	mirrors, remembered := c.mirrors()
	if !remembered || !isOfOneSource(err) && !is[*TrustError](err) || is[*RememberedError](err) {
		return err
	}
	e := &RememberedError{Mirrors: mirrors, Err: err}
	for _, mirror := range mirrors {
		if path, _, _ := strings.Cut(strings.TrimPrefix(mirror, "file://"), placeholder); isLocal(mirror) && mirror != DefaultMirror {
			if _, err := os.Stat(filepath.Clean(path)); errors.Is(err, fs.ErrNotExist) {
				e.Gone = append(e.Gone, mirror)
			}
		}
	}
	return e
}
