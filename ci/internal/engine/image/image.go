// Package image makes and fetches what the builder image is made of.
//
// The engine's stages call it before they build anything. From a toolkit's lock and the script of
// package cuda12 it makes a folder of checked files to mount for install.sh (Fetch), a base image
// (ResolveBase if a registry is reachable, MakeBase if none is), and the digest that names the
// builder (Digest). It talks to mirrors and registries; it never talks to the engine and never
// prints.
package image

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/waqasm86/llcuda-farm/docker/cuda12"
)

// Digest names the builder image: a SHA-256 over the digest of the base and over the script and the
// lock that turn the base into the builder. Two builds with the same digest ran the same compilers.
func Digest(baseDigest string, lock cuda12.Lock, script []byte) string {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(baseDigest), lock.Encode(), script} {
		fmt.Fprintf(h, "%d\n", len(part))
		h.Write(part)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}
