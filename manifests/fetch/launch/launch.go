// Package launch starts the programs of an installation.
//
// fetchcli calls it for `llcuda-fetch run`, and so does package atonce, before anything else of the client is initialised:
// the client verifies signatures, and initialising what that takes is several times what starting a process is. So this
// package imports only what is initialised early, which package strings is not: it waits for unicode, and everything whose
// import path is less than its own goes first. Of an installation it reads two small things that store wrote for it:
//
//	current/KIND ──▶ installs/N/bundle    a link to the bundle
//	                 installs/N/start     what it was made for, and what its programs are started with
//
// llama.cpp runs on the CPU without a word where it cannot use a GPU. So a program is started at once only where nothing
// differs from when the installation was tried: the machine, the GPUs that CUDA shows, and where libraries come from.
// Anything else is for package fetch to look at first.
//
// It uses no network, changes nothing and never prints.
package launch

import (
	"os"
	"path"
	"slices"
	"syscall"
)

// What the store's folder has for this package.
const (
	CurrentName = "current"
	BundleName  = "bundle"
	StartName   = "start"
	// AnyKind stands for machines of which none was there when something was installed for them.
	AnyKind = "any"
)

// ProgramsDir is where a bundle's programs lie, and LibrariesDir its libraries.
const (
	ProgramsDir  = "binaries/cuda12"
	LibrariesDir = "lib"
)

// An Installation is what programs are started from.
type Installation struct {
	// Bundle is the bundle's folder.
	Bundle string
	// VisibleDevices are the UUIDs for CUDA_VISIBLE_DEVICES, where GPUs must be hidden.
	VisibleDevices []string
}

// Current is the installation that a store's programs are run from on a machine, where they may be started at once. Where
// not, the store says more.
func Current(store string, now Machine) (Installation, bool) {
	entry := path.Join(store, CurrentName, now.Kind)
	target, err := os.Readlink(entry)
	if err != nil {
		return Installation{}, false
	}
	dir := path.Join(path.Dir(entry), target)
	bundle, err := os.Readlink(path.Join(dir, BundleName))
	if err != nil {
		return Installation{}, false
	}
	data, err := os.ReadFile(path.Join(dir, StartName))
	if err != nil {
		return Installation{}, false
	}
	start, ok := decodeStart(data)
	i := Installation{Bundle: path.Join(dir, bundle), VisibleDevices: start.VisibleDevices}
	return i, ok && start.Serves(now) && !slices.ContainsFunc(start.Libraries, func(name string) bool {
		_, err := os.Stat(path.Join(i.Bundle, LibrariesDir, name)) // as far as its links lead
		return err != nil
	})
}

// ForeignBackend is a file that llama.cpp loads as a backend beside the bundle's own, because the user's environment says
// so. GGML_BACKEND_PATH is the one variable that leads it to one.
func ForeignBackend(getenv func(string) string) string { return getenv(backendPath) }

// Program is the path of a program by its name, and whether there is one.
func (i Installation) Program(name string) (string, bool) {
	program := path.Join(i.Bundle, ProgramsDir, name)
	info, err := os.Lstat(program)
	return program, err == nil && info.Mode().IsRegular() && name == path.Base(name) // no link to a backend
}

// Exec makes this process the program, with its arguments and this process's environment, as Environ changes it. It returns
// only with an error.
func (i Installation) Exec(program string, arguments []string) error {
	return syscall.Exec(program, append([]string{path.Base(program)}, arguments...), i.Environ(os.Environ()))
}

// driverFolders are where containers, WSL and NixOS have libcuda.so.1 without telling the dynamic loader.
var driverFolders = []string{"/usr/lib/wsl/lib", "/usr/lib64-nvidia", "/usr/local/nvidia/lib64", "/run/opengl-driver/lib"}

// Environ is the environment for an installation's programs: environ with the bundle's own libraries in front, the
// driver's where only their folder tells of them, and, of the GPUs that CUDA shows, those that the bundle serves. Without a
// bundle it is what the programs of one will find of the driver.
func (i Installation) Environ(environ []string) []string {
	get := func(name string) (string, bool) {
		for _, pair := range slices.Backward(environ) {
			if key, value, _ := cut(pair, '='); key == name {
				return value, true
			}
		}
		return "", false
	}
	var folders []string
	if i.Bundle != "" {
		folders = append(folders, path.Join(i.Bundle, LibrariesDir))
	}
	told, more := get(libraryPath)
	for more {
		var folder string
		if folder, told, more = cut(told, ':'); folder != "" && !slices.Contains(folders, folder) {
			folders = append(folders, folder)
		}
	}
	for _, folder := range driverFolders {
		if _, err := os.Stat(path.Join(folder, "libcuda.so.1")); err == nil && !slices.Contains(folders, folder) {
			folders = append(folders, folder)
		}
	}
	environ = slices.Clone(environ)
	if len(folders) > 0 {
		environ = append(environ, libraryPath+"="+join(folders, ":"))
	}
	if len(i.VisibleDevices) > 0 {
		environ = append(environ, visibleDevices+"="+join(i.VisibleDevices, ","))
	}
	// The last of several values counts for exec.Cmd, and the first for execve.
	seen := map[string]bool{}
	var unique []string
	for _, pair := range slices.Backward(environ) {
		if name, _, _ := cut(pair, '='); !seen[name] {
			seen[name] = true
			unique = append(unique, pair)
		}
	}
	slices.Reverse(unique)
	return unique
}

// modelFlags are llama.cpp's flags that name a model's file.
var modelFlags = []string{"-m", "--model", "-md", "--model-draft"}

// Models are the places in a program's arguments where a model's name stands for its file.
func Models(arguments []string) []int {
	var places []int
	for i := 0; i+1 < len(arguments); i++ {
		if !slices.Contains(modelFlags, arguments[i]) {
			continue
		}
		if i++; !isFile(arguments[i]) {
			places = append(places, i)
		}
	}
	return places
}

// isFile says whether what follows a flag for a model is a path. What looks like one and is none is the program's to
// complain of.
func isFile(argument string) bool {
	_, err := os.Stat(argument)
	_, _, reference := cut(argument, ':')
	return err == nil || path.Ext(argument) == ".gguf" && !reference
}

// cut is strings.Cut, and join strings.Join.
func cut(text string, separator byte) (before, after string, found bool) {
	for i := range len(text) {
		if text[i] == separator {
			return text[:i], text[i+1:], true
		}
	}
	return text, "", false
}

func join(list []string, separator string) string {
	text := list[0]
	for _, part := range list[1:] {
		text += separator + part
	}
	return text
}
