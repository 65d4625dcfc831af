// Package engine runs the farm's steps on Dagger engines. It is the only package that
// imports Dagger.
//
// The command line calls it: Open finds and connects engines, and gives one farm.Builder for
// each and the recipe by which they will compile the source tree. In flow a step and an empty folder,
// out flow the step's files in that folder, its figures, and events while it runs.
//
// A step is a chain of stages, each cached by the engine under the content of its inputs:
//
//	image     the base, then docker/cuda12/install.sh over the packages that the toolkit's folder in docker locks
//	npm       the tarballs that the tree's own package-lock.json names, fetched on this machine
//	ui        npm in the web UI's folder, from those; left out where the tree carries the page
//	compile   stages/host.sh, stages/device.sh, stages/runtime.sh or stages/probe.sh
//	python    Debian's Python and the wheels that docker/wheel locks, fetched on this machine
//	wheel     stages/wheel.sh, by those
//	try       every CPU variant computes, by the program of ci/internal/trial, which is compiled on this machine
//	export    the stage's files, to the folder of the step
//
// Only the host half has npm, ui and try; only the Python package python and wheel. No stage has a network.
//
// The host stage sees no CUDA source and the device stage sees only ggml, so that a change on
// one side compiles nothing on the other. Inside a stage a compiler cache, kept in a cache
// volume of the engine, serves every object whose own inputs did not change.
//
// The package never decides what is built, never looks inside what it exports, and prints nothing.
package engine
