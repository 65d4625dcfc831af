// Package cuda13 holds the builder image of CUDA 13: that of package cuda12, with NVIDIA's wheels from the Python Package
// Index in place of Debian's CUDA 12.4.1, and without Node.js, since the host half is compiled in the other.
//
// packages.in says what is in it beyond Debian 12, packages.lock names every file of that; both have cuda12's form, and so
// has the script that installs them. The package only embeds the lock; package image fetches what it names.
package cuda13

import (
	_ "embed"

	"github.com/waqasm86/llcuda-farm/docker/cuda12"
)

//go:generate go run ../cuda12/lock --beside ../cuda12/packages.lock

//go:embed packages.lock
var lockFile []byte

// DefaultLock is packages.lock, after what cuda12's lock has of Debian 12.
func DefaultLock() (cuda12.Lock, error) {
	shared, err := cuda12.DefaultLock()
	if err != nil {
		return nil, err
	}
	own, err := cuda12.ParseLock(lockFile)
	if err != nil {
		return nil, err
	}
	return append(shared.Without(cuda12.CUDA, cuda12.NPM), own...), nil
}
