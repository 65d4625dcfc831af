// Package machine says what the kernel's own files tell of a machine's GPUs: enough to know, before
// every start of a program, whether the machine is still the one that an installation was made for.
//
// Package launch calls it, for `llcuda-fetch run` and for everything that asks which installation
// of a store is the current one. The input is a root folder; the output is a Machine. It reads a
// few files of /proc, /sys and /dev in much less than a millisecond, starts nothing, asks neither
// the driver nor nvidia-smi, and never prints. Like launch it imports only what is initialized
// early. What CUDA itself makes of the machine is package detect's matter.
package machine

import (
	"os"
	"path"
	"slices"
	"strconv"
)

// A Machine is what the kernel tells.
type Machine struct {
	// Kind is which GPUs there are, as a file name: "2x1eb8" are two of PCI device 10de:1eb8. It is
	// "wsl" where Windows has them, "none" where there is none. Machines of one kind share an
	// installation.
	Kind string
	// Fingerprint changes with the kind, with the driver, and with the processor, whose backends an
	// installation was tried on.
	Fingerprint string
	// GPUs is how many there are, 0 where that is not known; Alike says that they are all of one
	// PCI device.
	GPUs  int
	Alike bool
	// Unreachable says that there is no way to any GPU: neither the driver's control device nor
	// that of WSL.
	Unreachable bool
}

const (
	driverFolder = "sys/bus/pci/drivers/nvidia"
	procFolder   = "proc/driver/nvidia/gpus"
	wslDevice    = "dev/dxg"
	// wslLibrary comes from Windows with its driver, of which the kernel in WSL knows nothing.
	wslLibrary = "usr/lib/wsl/lib/libcuda.so.1"
)

// maxNodes is how many of the driver's device nodes are looked for: more GPUs than one machine has.
const maxNodes = 32

// Look looks at the machine whose files lie below a root folder: "/", or "".
func Look(root string) Machine {
	if root == "" {
		root = "/"
	}
	exists := func(name string) bool {
		_, err := os.Stat(path.Join(root, name))
		return err == nil
	}
	m := Machine{Unreachable: !exists("dev/nvidiactl") && !exists(wslDevice)}
	nodes := deviceNodes(exists)
	ids := deviceIDs(root)
	if len(ids) == 0 && !exists(wslDevice) && len(nodes) > 0 { // sandboxes that show the devices and nothing else
		ids = slices.Repeat([]string{"gpu"}, len(nodes))
	}
	slices.Sort(ids)
	m.GPUs, m.Alike = len(ids), len(ids) > 0 && ids[0] == ids[len(ids)-1]
	// A container may have some of the machine's GPUs and show all of them. Before the first use
	// after a boot there are no nodes at all.
	some := len(nodes) > 0 && len(nodes) < len(ids)
	if some && m.Alike {
		m.GPUs, ids = len(nodes), ids[:len(nodes)]
	}
	switch {
	case len(ids) > 0:
		m.Kind = count(ids)
		if some && !m.Alike {
			m.GPUs = len(nodes)
			for _, node := range nodes {
				m.Kind += "-" + node
			}
		}
		m.Fingerprint = m.Kind + " driver " + driverVersion(root)
	case exists(wslDevice):
		m.Kind, m.Fingerprint = "wsl", "wsl"
		if info, err := os.Stat(path.Join(root, wslLibrary)); err == nil {
			m.Fingerprint += " libcuda " + strconv.FormatInt(info.Size(), 10) + " " + strconv.FormatInt(info.ModTime().UnixNano(), 10)
		}
	default:
		m.Kind, m.Fingerprint = "none", "none"
	}
	if cpu := text(path.Join(root, "sys/devices/system/cpu/modalias")); cpu != "" { // its model and features
		m.Fingerprint += " cpu " + strconv.FormatUint(hash(cpu), 16)
	}
	return m
}

// hash is 64-bit FNV-1a, as hash/fnv's, whose imports are many.
func hash(text string) uint64 {
	sum := uint64(14695981039346656037)
	for i := range len(text) {
		sum = (sum ^ uint64(text[i])) * 1099511628211
	}
	return sum
}

// deviceIDs are the PCI device ids of the GPUs that the driver serves, or, where the bus is not
// shown, their names.
func deviceIDs(root string) []string {
	var ids []string
	entries, _ := os.ReadDir(path.Join(root, driverFolder)) // without the driver there is none
	for _, entry := range entries {
		if id := text(path.Join(root, driverFolder, entry.Name(), "device")); id != "" {
			ids = append(ids, fileName(trimPrefix(id, "0x")))
		}
	}
	if len(ids) > 0 {
		return ids
	}
	entries, _ = os.ReadDir(path.Join(root, procFolder))
	for _, entry := range entries {
		ids = append(ids, fileName(modelOf(text(path.Join(root, procFolder, entry.Name(), "information")))))
	}
	return ids
}

// modelOf is the value of the line "Model:" of a GPU's information.
func modelOf(information string) string {
	const key = "Model:"
	for line := range lines(information) {
		if len(line) > len(key) && line[:len(key)] == key {
			return trim(line[len(key):])
		}
	}
	return "gpu"
}

// deviceNodes are the numbers of the driver's device nodes.
func deviceNodes(exists func(string) bool) []string {
	var nodes []string
	for i := range maxNodes {
		if number := strconv.Itoa(i); exists("dev/nvidia" + number) {
			nodes = append(nodes, number)
		}
	}
	return nodes
}

// driverVersion is that of the loaded kernel module.
func driverVersion(root string) string {
	if version := text(path.Join(root, "sys/module/nvidia/version")); version != "" {
		return version
	}
	for line := range lines(text(path.Join(root, "proc/driver/nvidia/version"))) {
		return line
	}
	return "unknown"
}

// count puts sorted ids together: "1x1b80,2x2204".
func count(ids []string) string {
	text := ""
	for len(ids) > 0 {
		n := 1
		for n < len(ids) && ids[n] == ids[0] {
			n++
		}
		if text != "" {
			text += ","
		}
		text += strconv.Itoa(n) + "x" + ids[0]
		ids = ids[n:]
	}
	return text
}

// text is a small file without the white space around it.
func text(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return trim(string(data))
}

// fileName leaves of a text what every file system takes in a name.
func fileName(text string) string {
	name := []byte(text)
	for i, c := range name {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			name[i] = '_'
		}
	}
	return string(name)
}

// What follows is of package strings, which is not initialized early: see package launch.

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

func trim(text string) string {
	for text != "" && isSpace(text[0]) {
		text = text[1:]
	}
	for text != "" && isSpace(text[len(text)-1]) {
		text = text[:len(text)-1]
	}
	return text
}

func trimPrefix(text, prefix string) string {
	if len(text) >= len(prefix) && text[:len(prefix)] == prefix {
		return text[len(prefix):]
	}
	return text
}

func lines(text string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for start, i := 0, 0; i <= len(text); i++ {
			if i == len(text) || text[i] == '\n' {
				if start < i && !yield(text[start:i]) {
					return
				}
				start = i + 1
			}
		}
	}
}
