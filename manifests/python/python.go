// Package python knows of the Python package, whose project this folder is, what the farm's commands say of it: its
// version, which stands in pyproject.toml and nowhere else. The package is built by `go run ./ci wheel`.
package python

import (
	_ "embed"
	"errors"
	"regexp"
)

//go:embed pyproject.toml
var project []byte

var versionForm = regexp.MustCompile(`(?m)^version = "([0-9][0-9a-z.]*)"$`)

// Version is that of pyproject.toml.
func Version() (string, error) {
	found := versionForm.FindAllSubmatch(project, -1)
	if len(found) != 1 {
		return "", errors.New(`reading pyproject.toml: want one line like version = "3.0.0"`)
	}
	return string(found[0][1]), nil
}
