package launch

import (
	"os"
	"path"
	"slices"
	"strconv"
	"syscall"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/machine"
)

// A Machine is what programs are started on: what the kernel tells, and what the environment makes
// of it.
type Machine struct {
	Kind        string `json:"kind"`
	Fingerprint string `json:"fingerprint"`
	// Selection is the variables by which CUDA shows some of the GPUs, as they are set; empty where
	// CUDA_VISIBLE_DEVICES is not.
	Selection string `json:"selection"`
	// Folders are those of LD_LIBRARY_PATH that have a library which programs would otherwise get
	// from the system.
	Folders []string `json:"library_folders"`

	visible string // CUDA_VISIBLE_DEVICES
	machine machine.Machine
}

const (
	libraryPath    = "LD_LIBRARY_PATH"
	visibleDevices = "CUDA_VISIBLE_DEVICES"
	deviceOrder    = "CUDA_DEVICE_ORDER"
)

// BackendPath is the variable by which llama.cpp loads a backend of the user's own beside the
// bundle's. It stays as it is: nothing else leads there, and a user who set it for another
// llama.cpp is warned.
const BackendPath = "GGML_BACKEND_PATH"

// ThisMachine is this machine, with the environment that getenv looks up.
func ThisMachine(lookup func(name string) (string, bool)) Machine {
	m := machine.Look(root)
	here := Machine{Kind: m.Kind, Fingerprint: m.Fingerprint, Folders: []string{}, machine: m}
	if value, set := lookup(visibleDevices); set {
		here.Selection, here.visible = visibleDevices+"="+value, value
		if order, _ := lookup(deviceOrder); order != "" {
			here.Selection = deviceOrder + "=" + order + " " + here.Selection
		}
	}
	told, _ := lookup(libraryPath)
	for _, folder := range split(told, ':') {
		if folder != "" && !slices.Contains(here.Folders, folder) && hides(folder) {
			here.Folders = append(here.Folders, folder)
		}
	}
	return here
}

// Same reports whether two are the same as far as they are written down.
func (m Machine) Same(other Machine) bool {
	return m.Kind == other.Kind && m.Fingerprint == other.Fingerprint && m.Selection == other.Selection && slices.Equal(m.Folders, other.Folders)
}

// Alike reports whether all GPUs of the machine are certainly of one kind, whatever CUDA shows of
// them.
func (m Machine) Alike() bool { return m.machine.Alike }

// root is where the kernel's files are. Tests stamp another one with the linker's -X.
var root string

// fromSystem are the libraries that bundles get from the system. A folder of LD_LIBRARY_PATH comes
// before it, and after the bundle's own libraries.
var fromSystem = []string{"libcuda.so.1", "libstdc++.so.6", "libgcc_s.so.1", "libm.so.6", "libc.so.6", "glibc-hwcaps"}

func hides(folder string) bool {
	return slices.ContainsFunc(fromSystem, func(name string) bool {
		_, err := os.Stat(path.Join(folder, name))
		return err == nil
	})
}

// A Start is what an installation's programs are started with, and when they may be at once.
type Start struct {
	// Machine is what it was made for.
	Machine Machine
	// GPU says that the programs are to use one, Every that the bundle serves all that the machine
	// has, and Devices are the UUIDs of those that were seen.
	GPU     bool
	Every   bool
	Devices []string
	// VisibleDevices are the UUIDs for CUDA_VISIBLE_DEVICES, where GPUs must be hidden.
	VisibleDevices []string
	// Libraries are the names of the CUDA libraries in the bundle's lib folder that were linked.
	Libraries []string
}

// Serves reports whether programs may be started on a machine as it is now without a look at it by
// CUDA.
func (s Start) Serves(now Machine) bool {
	made := s.Machine
	if s.selects(now) {
		made.Selection = now.Selection
	}
	return made.Same(now) && !(s.GPU && now.machine.Unreachable)
}

// selects reports whether CUDA certainly shows a GPU that the bundle serves, and no other.
func (s Start) selects(now Machine) bool {
	if !s.GPU || !s.Every {
		return false
	}
	if now.Selection == "" {
		return true
	}
	// CUDA ends the list at the first entry that names no GPU, and shows none where two name the
	// same. So all must be known, each once, and all be written in one way.
	seen, indices := map[string]bool{}, 0
	for _, device := range split(now.visible, ',') {
		index, err := strconv.Atoi(device)
		byIndex := err == nil && index >= 0 && strconv.Itoa(index) == device && index < max(now.machine.GPUs, len(s.Devices))
		if seen[device] || !byIndex && !slices.Contains(s.Devices, device) {
			return false
		}
		seen[device] = true
		if byIndex {
			indices++
		}
	}
	return indices == 0 || indices == len(seen)
}

// startForm is the first line of the file that Encode writes.
const startForm = "llcuda-start 1"

// Encode is what the store keeps as StartName: a line for each thing. A value that no line can hold
// makes it empty, which is a start that serves no machine.
func (s Start) Encode() []byte {
	text := startForm + "\n"
	good := true
	add := func(key string, values ...string) {
		for _, value := range values {
			text += key + " " + value + "\n"
			for i := range len(value) {
				good = good && value[i] != '\n'
			}
		}
	}
	flag := func(key string, set bool) {
		if set {
			add(key, "yes")
		}
	}
	add("kind", s.Machine.Kind)
	add("fingerprint", s.Machine.Fingerprint)
	add("selection", s.Machine.Selection)
	add("folder", s.Machine.Folders...)
	flag("gpu", s.GPU)
	flag("every", s.Every)
	add("device", s.Devices...)
	add("visible", s.VisibleDevices...)
	add("library", s.Libraries...)
	if !good {
		return nil
	}
	return []byte(text)
}

func decodeStart(data []byte) (Start, bool) {
	s := Start{Machine: Machine{Folders: []string{}}}
	first, rest, _ := cut(string(data), '\n')
	for line, rest, more := cut(rest, '\n'); more; line, rest, more = cut(rest, '\n') {
		key, value, _ := cut(line, ' ')
		switch key {
		case "kind":
			s.Machine.Kind = value
		case "fingerprint":
			s.Machine.Fingerprint = value
		case "selection":
			s.Machine.Selection = value
		case "folder":
			s.Machine.Folders = append(s.Machine.Folders, value)
		case "gpu":
			s.GPU = true
		case "every":
			s.Every = true
		case "device":
			s.Devices = append(s.Devices, value)
		case "visible":
			s.VisibleDevices = append(s.VisibleDevices, value)
		case "library":
			s.Libraries = append(s.Libraries, value)
		}
	}
	return s, first == startForm
}

// A Distrusted is a folder of the store that another user may write to, and why. Where Why is
// empty, it is not a folder but a link or a file, neither of which the store creates there.
type Distrusted struct{ Path, Why string }

// Distrust looks for a folder of a store that a user other than root and this one may write to:
// such a user decides what runs as this user. Only the folders that lead to programs count.
func Distrust(store string) (Distrusted, bool) {
	home, err := os.Stat(store)      // it may be a link to a folder
	if err != nil || !home.IsDir() { // then nothing is installed in it
		return Distrusted{}, false
	}
	if why := distrust(home); why != "" {
		return Distrusted{store, why}, true
	}
	for _, name := range []string{CurrentName, "installs", "bundles", "runtimes", "links"} {
		info, err := os.Lstat(path.Join(store, name))
		if err != nil {
			continue
		}
		if why := distrust(info); why != "" || !info.IsDir() {
			return Distrusted{path.Join(store, name), why}, true
		}
	}
	return Distrusted{}, false
}

func distrust(info os.FileInfo) string {
	const othersWrite = 0o002
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case ok && owner.Uid != 0 && int(owner.Uid) != os.Geteuid():
		return "belongs to the user with the id " + strconv.Itoa(int(owner.Uid))
	case info.IsDir() && info.Mode().Perm()&othersWrite != 0:
		return "can be written to by everybody"
	}
	return ""
}

// split is strings.Split by one byte.
func split(text string, separator byte) []string {
	var list []string
	for {
		part, rest, more := cut(text, separator)
		list = append(list, part)
		if !more {
			return list
		}
		text = rest
	}
}
