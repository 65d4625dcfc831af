// Package launch starts the programs of an installation.
//
// fetchcli calls it for `llcuda-fetch run`, and so does package earlyexec, before the rest of the
// client is initialized: the client verifies signatures, and initializing what that takes lasts
// several times as long as starting a process. So this package does without strings, which imports
// unicode and is initialized later than much of that. Of an installation it reads two small things
// that store wrote for it:
//
//	current/KIND ──▶ installs/N/bundle    a link to the bundle
//	                 installs/N/start     what it was made for, and what its programs are started with
//
// llama.cpp silently runs on the CPU where it cannot use a GPU. So a program is started at once
// only where nothing differs from when the installation was tried: the machine, the GPUs that CUDA
// shows, and where libraries come from. Anything else is for package fetch to look at first.
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
	// DescribedKind is the prefix of the kinds of machines that a user described with --as-host.
	DescribedKind = "as-host-"
)

// LibrariesDir is where a bundle's libraries lie.
const LibrariesDir = "lib"

// ProgramsDir is where the programs of the bundle in a folder lie: in the one folder of binaries, which is named for
// the CUDA major that the bundle was made with. It is binaries itself where there is no bundle.
func ProgramsDir(bundle string) string {
	dir := path.Join(bundle, "binaries")
	toolkits, err := os.ReadDir(dir)
	if err != nil || len(toolkits) != 1 {
		return dir
	}
	return path.Join(dir, toolkits[0].Name())
}

// An Installation is what programs are started from.
type Installation struct {
	// Bundle is the bundle's folder.
	Bundle string
	// VisibleDevices are the UUIDs for CUDA_VISIBLE_DEVICES, where GPUs must be hidden.
	VisibleDevices []string
}

// Current is the installation that a store's programs are run from on a machine, where they may be
// started at once. Where not, the store says more.
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

// Program is the path of a program by its name, and whether there is one.
func (i Installation) Program(name string) (string, bool) {
	program := path.Join(ProgramsDir(i.Bundle), name)
	info, err := os.Lstat(program)
	return program, err == nil && info.Mode().IsRegular() && name == path.Base(name) // no link to a backend
}

// Exec makes this process the program, with its arguments and this process's environment, as
// Environ changes it. It returns only with an error.
func (i Installation) Exec(program string, arguments []string) error {
	return syscall.Exec(program, append([]string{path.Base(program)}, arguments...), i.Environ(os.Environ()))
}

// driverFolders are where containers, WSL and NixOS have libcuda.so.1 without configuring the
// dynamic loader.
var driverFolders = []string{"/usr/lib/wsl/lib", "/usr/lib64-nvidia", "/usr/local/nvidia/lib64", "/run/opengl-driver/lib"}

// Environ is the environment for an installation's programs: environ with the bundle's own
// libraries in front, the driver's where only their folder tells of them, and, of the GPUs that
// CUDA shows, those that the bundle serves. Without a bundle it is what the programs of one will
// find of the driver.
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

// A Kind is what one of llama.cpp's flags takes that may be named instead of being a file here.
type Kind int

// The kinds of flags.
const (
	NoModel      Kind = iota
	Model             // a model
	Draft             // a draft model
	Projector         // a projector
	Adapter           // adapters or control vectors
	Scaled            // the same, each with :SCALE behind it
	HubModel          // a repository with a model
	HubFile           // the file in it, if not the usual one
	HubDraft          // a repository with a draft model
	ModelURL          // the address of a model
	ProjectorURL      // the address of a projector
)

// KindOf says what a flag takes. Those that begin with two hyphens may have underscores, as in
// llama.cpp, which knows no --flag=value: common_params_parse_ex in
// https://github.com/ggml-org/llama.cpp/blob/master/common/arg.cpp
func KindOf(flag string) Kind {
	if len(flag) > 2 && flag[:2] == "--" {
		name := []byte(flag)
		for i := range name {
			if name[i] == '_' {
				name[i] = '-'
			}
		}
		flag = string(name)
	}
	switch flag {
	case "-m", "--model":
		return Model
	case "-md", "--model-draft", "--spec-draft-model":
		return Draft
	case "-mm", "--mmproj":
		return Projector
	case "--lora", "--control-vector":
		return Adapter
	case "--lora-scaled", "--control-vector-scaled":
		return Scaled
	case "-hf", "-hfr", "--hf-repo":
		return HubModel
	case "-hff", "--hf-file":
		return HubFile
	case "-hfd", "-hfrd", "--hf-repo-draft", "--spec-draft-hf":
		return HubDraft
	case "-mu", "--model-url":
		return ModelURL
	case "-mmu", "--mmproj-url":
		return ProjectorURL
	}
	return NoModel
}

// Models are the places in a program's arguments where a model's name stands for its file.
func Models(arguments []string) []int {
	var places []int
	for i := 0; i+1 < len(arguments); i++ {
		kind := KindOf(arguments[i])
		if kind == NoModel {
			continue
		}
		i++
		if kind == HubFile {
			continue
		}
		if kind >= HubModel || slices.ContainsFunc(Values(kind, arguments[i]), func(value string) bool { return !IsFile(value) }) {
			places = append(places, i)
		}
	}
	return places
}

// Values are the files or names in what a flag is given: llama.cpp takes lists with commas, some
// with a scale behind each. Quotes, by which a comma may belong to a file's name, are left alone.
func Values(kind Kind, argument string) []string {
	if argument == "" {
		return nil
	}
	if _, err := os.Stat(argument); err == nil && kind != Scaled || kind == Draft || kind == Projector || kind >= ModelURL || slices.Contains([]byte(argument), '"') {
		return []string{argument}
	}
	var list []string
	for value, rest, more := "", argument, true; more; {
		value, rest, more = cut(rest, ',')
		if kind == Scaled {
			value, _ = CutScale(value)
		}
		list = append(list, value)
	}
	return list
}

// CutScale cuts the scale off a file's name.
func CutScale(value string) (file, scale string) {
	for i := len(value) - 1; i >= 0; i-- {
		if value[i] == ':' {
			return value[:i], value[i:]
		}
	}
	return value, ""
}

// IsFile reports whether what follows a flag for a model is a path. What looks like one and is none
// is the program's to complain of.
func IsFile(argument string) bool {
	if _, err := os.Stat(argument); err == nil || argument == "" || argument[0] == '/' || argument[0] == '.' {
		return true
	}
	_, _, reference := cut(argument, ':')
	return path.Ext(argument) == ".gguf" && !reference && !isAddress(argument)
}

// isAddress reports whether a name without a scheme is below a Hub's address:
// HOST/org/repo/resolve/main/file.gguf.
func isAddress(argument string) bool {
	for rest, more := argument, true; more; {
		var part string
		if part, rest, more = cut(rest, '/'); part == "blob" || part == "resolve" || part == "raw" {
			return true
		}
	}
	return false
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
