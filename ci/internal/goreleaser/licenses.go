package goreleaser

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// licenseForm is what files are called that say under which terms code may be passed on, or what has to be passed on with
// it. LICENSE.docs and the like do not cover the code.
var licenseForm = regexp.MustCompile(`(?i)^((un)?licen[cs]e|copying|copyright|notice|patents)([-_.](txt|md|rst|mit|bsd|apache2?|apache-2\.0|mpl|third[-_]party))?$`)

// standardDir is the folder of the standard library's license.
const standardDir = "golang.org/go"

// licenses copies the licenses of everything that is linked into llcuda-fetch for an architecture:
// those of a module's top folder, and of the folders on the way to each package that is linked, into
// MODULE/…/FILE. A module without any is an error: it is unclear whether it may be redistributed.
func licenses(ctx context.Context, clone, arch, dest string) error {
	const each = `{{with .Module}}{{if not .Main}}{{.Path}}{{"\t"}}{{.Dir}}{{"\t"}}{{end}}{{end}}{{.Dir}}{{"\t"}}{{.Standard}}`
	environ := []string{"CGO_ENABLED=0", "GOFLAGS=", "GOOS=linux", "GOARCH=" + arch}
	list, err := run(ctx, clone, environ, "go", "list", "-deps", "-tags=grpcnotrace", "-f="+each, "./manifests/cmd/llcuda-fetch")
	if err != nil {
		return fmt.Errorf("listing what is linked into llcuda-fetch: %w", err)
	}
	root, err := run(ctx, clone, environ, "go", "env", "GOROOT")
	if err != nil {
		return err
	}
	if n, err := copyLicenses(root, filepath.Join(dest, standardDir)); err != nil || n == 0 {
		return errors.Join(err, noLicense("the standard library", root, n))
	}
	done := map[string]bool{}
	for line := range strings.Lines(list) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		if len(fields) != 4 { // this module's own, and the standard library's
			continue
		}
		module, top, dir := fields[0], fields[1], fields[2]
		for ; !done[dir]; dir = filepath.Dir(dir) {
			done[dir] = true
			inside, err := filepath.Rel(top, dir)
			if err != nil {
				return err
			}
			n, err := copyLicenses(dir, filepath.Join(dest, filepath.FromSlash(module), inside))
			if err != nil {
				return err
			}
			if dir == top {
				if n == 0 {
					return noLicense(module, top, n)
				}
				break
			}
		}
	}
	return nil
}

func noLicense(what, dir string, found int) error {
	if found > 0 {
		return nil
	}
	return fmt.Errorf("looking for the license of %s, which is linked into llcuda-fetch: %s has none; ask its authors, or do without it", what, dir)
}

// copyLicenses copies the license files of one folder, and returns how many there are.
func copyLicenses(from, to string) (int, error) {
	entries, err := os.ReadDir(from)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, entry := range entries {
		if !entry.Type().IsRegular() || !licenseForm.MatchString(entry.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(from, entry.Name()))
		if err == nil {
			err = os.MkdirAll(to, 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, entry.Name()), text, fs.FileMode(0o644))
		}
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
