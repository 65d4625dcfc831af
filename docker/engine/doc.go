// Package engine is a Go module of its own that pins the Dagger engine: the
// daemon that runs the farm's containers, its command line client and its CNI
// plugin, all at one version, compiled from the Go module proxy alone.
//
// It exists for Linux hosts that have no container runtime. Everybody else
// lets Dagger find Docker, Podman or nerdctl and never builds this. The
// package ci/internal/engine/builtin reads three things from here: go.mod (the
// tool directives are what it compiles, the version of github.com/dagger/dagger
// is what it links in as the engine's version), and debian-packages.txt.
//
// It is a separate module because the engine needs replaced and older modules
// that the farm's own module must not have. Of code it holds init, the first
// process of the containers, and distconsts, the one package that dagger
// generates while it is released, so that the module proxy does not have it.
package engine
