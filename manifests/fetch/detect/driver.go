package detect

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// versionLine finds the version in /proc/driver/nvidia/version, which the open kernel modules word
// differently:
//
//	NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023
//	NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (…)
var versionLine = regexp.MustCompile(`Module\b.*?\s([0-9]{2,}\.[0-9]+(?:\.[0-9]+)?)\s`)

// driverVersion asks the kernel which driver is loaded.
func (d Detector) driverVersion() (version string, source Source) {
	if version := d.readText("sys/module/nvidia/version"); matrix.IsVersion(version) {
		return version, Source{Name: "/sys/module/nvidia/version", Gave: "driver " + version}
	}
	if match := versionLine.FindStringSubmatch(d.readText("proc/driver/nvidia/version") + "\n"); match != nil {
		return match[1], Source{Name: "/proc/driver/nvidia/version", Gave: "driver " + match[1]}
	}
	return "", Source{}
}

// libraryVersion finds the version in the name that libcuda.so.1 is a link to.
var libraryVersion = regexp.MustCompile(`^libcuda\.so\.([0-9]{2,}\.[0-9]+(?:\.[0-9]+)?)$`)

// firstDrivers are the first drivers of each version of CUDA, ascending, for machines that show
// CUDA and nothing else. https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/ (table 3)
var firstDrivers = []struct{ cuda, driver string }{
	{"11.0", "450.36.06"}, {"11.4", "470.42.01"}, {"11.8", "520.61.05"}, {"12.0", "525.60.13"}, {"12.1", "530.30.02"}, {"12.2", "535.54.03"},
	{"12.3", "545.23.06"}, {"12.4", "550.54.14"}, {"12.5", "555.42.02"}, {"12.6", "560.28.03"}, {"12.8", "570.26"}, {"12.9", "575.51.03"}, {"13.0", "580.65.06"},
}

// driverOf is the driver that a libcuda.so.1 and its version of CUDA belong to: by its name, or at
// least as new as this.
func driverOf(library, cuda string) string {
	if real, err := filepath.EvalSymlinks(library); err == nil {
		if match := libraryVersion.FindStringSubmatch(filepath.Base(real)); match != nil {
			return match[1]
		}
	}
	driver := ""
	for _, first := range firstDrivers {
		if matrix.IsVersion(cuda) && matrix.CompareVersions(cuda, first.cuda) >= 0 {
			driver = first.driver
		}
	}
	return driver
}

const gpusFolder = "/proc/driver/nvidia/gpus"

// driverGPUs asks the driver's own files. They are there in every container, whether it may use the
// GPUs or not.
func (d Detector) driverGPUs() []manifests.GPU {
	files, _ := filepath.Glob(d.path(gpusFolder, "*", "information")) // the pattern is good
	slices.Sort(files)                                                // by bus address, as the driver counts
	var gpus []manifests.GPU
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		gpu := manifests.GPU{Index: len(gpus)}
		for line := range strings.Lines(string(data)) {
			key, value, _ := strings.Cut(line, ":")
			switch value = strings.TrimSpace(value); strings.TrimSpace(key) {
			case "Model":
				gpu.Name = value
			case "GPU UUID":
				if !strings.Contains(value, "?") { // what it shows before the GPU is first used
					gpu.UUID = value
				}
			}
		}
		if device, ok := d.pciDevice(filepath.Base(filepath.Dir(file))); ok {
			gpu.SM = chipOf(device.id).sm
		}
		gpus = append(gpus, gpu)
	}
	return gpus
}

// busGPUs asks the bus, which shows GPUs that no driver serves.
func (d Detector) busGPUs() []manifests.GPU {
	var gpus []manifests.GPU
	for i, device := range d.pciDevices() {
		chip := chipOf(device.id)
		name := fmt.Sprintf("NVIDIA %s [%04x:%04x]", cmp.Or(chip.name, "GPU"), vendorNVIDIA, device.id)
		gpus = append(gpus, manifests.GPU{Index: i, Name: name, SM: chip.sm})
	}
	return gpus
}

const (
	pciFolder    = "/sys/bus/pci/devices"
	vendorNVIDIA = 0x10de
	// The class of VGA and 3D controllers, without its lower bytes. Audio and USB functions of the
	// same card have others.
	classDisplay = 0x03
)

type pciDevice struct {
	address string
	id      uint16
}

// pciDevices are NVIDIA's display controllers, by address.
func (d Detector) pciDevices() []pciDevice {
	var list []pciDevice
	entries, _ := os.ReadDir(d.path(pciFolder)) // sorted; a machine without a bus has none
	for _, entry := range entries {
		if device, ok := d.pciDevice(entry.Name()); ok {
			list = append(list, device)
		}
	}
	return list
}

func (d Detector) pciDevice(address string) (pciDevice, bool) {
	number := func(name string) uint64 {
		n, _ := strconv.ParseUint(d.readText(filepath.Join(pciFolder, address, name)), 0, 32)
		return n
	}
	if number("vendor") != vendorNVIDIA || number("class")>>16 != classDisplay {
		return pciDevice{}, false
	}
	return pciDevice{address, uint16(number("device"))}, true
}

// A chip is a range of NVIDIA's PCI device ids, which belong to one chip or to several of one
// compute capability.
type chip struct {
	first, last uint16
	name        string
	sm          matrix.SM
}

// chips are the ranges of the PCI id database (https://pci-ids.ucw.cz/read/PC/10de) with the
// compute capabilities of https://developer.nvidia.com/cuda-gpus, ascending. Chips older than
// Kepler are left out: no bundle is for them.
var chips = []chip{
	{0x0fc0, 0x0fff, "GK107", 30},
	{0x1001, 0x103f, "GK110", 35},
	{0x1180, 0x11bf, "GK104", 30},
	{0x11c0, 0x11ff, "GK106", 30},
	{0x1280, 0x12bf, "GK208", 35},
	{0x1340, 0x137f, "GM108", 50},
	{0x1380, 0x13bf, "GM107", 50},
	{0x13c0, 0x13ff, "GM204", 52},
	{0x1400, 0x143f, "GM206", 52},
	{0x15f0, 0x15ff, "GP100", 60},
	{0x1617, 0x161a, "GM204", 52},
	{0x1667, 0x1667, "GM204", 52},
	{0x174d, 0x179f, "GM108", 50},
	{0x17c0, 0x17ff, "GM200", 52},
	{0x1b00, 0x1b7f, "GP102", 61},
	{0x1b80, 0x1bff, "GP104", 61},
	{0x1c00, 0x1c7f, "GP106", 61},
	{0x1c80, 0x1cff, "GP107", 61},
	{0x1d00, 0x1d7f, "GP108", 61},
	{0x1d80, 0x1dff, "GV100", 70},
	{0x1e00, 0x1e7f, "TU102", 75},
	{0x1e80, 0x1eff, "TU104", 75},
	{0x1f00, 0x1f7f, "TU106", 75},
	{0x1f80, 0x1fff, "TU117", 75},
	{0x2080, 0x20ff, "GA100", 80},
	{0x2180, 0x21ff, "TU116", 75},
	{0x2200, 0x227f, "GA102", 86},
	{0x2300, 0x237f, "GH100", 90},
	{0x2400, 0x24ff, "GA103/GA104", 86},
	{0x2500, 0x25ff, "GA106/GA107", 86},
	{0x2680, 0x26ff, "AD102", 89},
	{0x2700, 0x277f, "AD103", 89},
	{0x2780, 0x27ff, "AD104", 89},
	{0x2800, 0x287f, "AD106", 89},
	{0x2880, 0x28ff, "AD107", 89},
	{0x2900, 0x297f, "GB100/GB102", 100},
	{0x2b80, 0x2bff, "GB202", 120},
	{0x2c00, 0x2c7f, "GB203", 120},
	{0x2d00, 0x2d7f, "GB206/GB207", 120},
	{0x2d80, 0x2dff, "GB207", 120},
	{0x2f00, 0x2f7f, "GB205", 120},
	{0x3180, 0x31ff, "GB110", 103},
}

func init() {
	for i, c := range chips {
		if c.first > c.last || i > 0 && c.first <= chips[i-1].last {
			panic(fmt.Sprintf("detect: the range of %s does not ascend", c.name))
		}
	}
}

// chipOf finds the chip of a device id; its sm is 0 where the table does not know it.
func chipOf(id uint16) chip {
	at, found := slices.BinarySearchFunc(chips, id, func(c chip, id uint16) int {
		switch {
		case id < c.first:
			return 1
		case id > c.last:
			return -1
		}
		return 0
	})
	if !found {
		return chip{}
	}
	return chips[at]
}
