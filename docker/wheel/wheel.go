// Package wheel holds what builds the Python package beyond the builder image: Debian 12's Python, and hatchling with
// what it needs, from the Python Package Index.
//
// packages.in and requirements.in say what it is. packages.lock, in the form of docker/cuda12's, and requirements.lock,
// in pip's, name every file by its SHA-256; they are reviewed like code. The package only embeds them; package engine
// fetches what they name, and its stage wheel.sh unpacks and runs it.
package wheel

import (
	_ "embed"

	"github.com/waqasm86/llcuda-farm/docker/cuda12"
)

// uv, of any recent version, resolves the requirements; it is not part of anything that is built.
//
//go:generate go run ../cuda12/lock --beside ../cuda12/packages.lock
//go:generate uv pip compile --quiet --python-version 3.11 --only-binary :all: --generate-hashes --no-annotate --custom-compile-command "go generate ./docker/wheel" --output-file requirements.lock requirements.in

//go:embed packages.lock
var lockFile []byte

// Requirements is requirements.lock.
//
//go:embed requirements.lock
var Requirements []byte

// DefaultLock is packages.lock.
func DefaultLock() (cuda12.Lock, error) { return cuda12.ParseLock(lockFile) }

// Snapshot is when the mirrors had everything that packages.lock names.
func Snapshot() string { return cuda12.Snapshot(lockFile) }
