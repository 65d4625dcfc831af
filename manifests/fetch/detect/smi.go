package detect

import (
	"cmp"
	"context"
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

const smiName = "nvidia-smi"

// smiFolders are where nvidia-smi lies beside the folders of PATH: WSL, containers of the NVIDIA
// toolkit and of GKE, Colab, NixOS.
var smiFolders = []string{"/usr/bin", "/usr/local/bin", "/usr/lib/wsl/lib", "/usr/local/nvidia/bin", "/opt/bin", "/run/current-system/sw/bin"}

// An smiAnswer is what nvidia-smi reported.
type smiAnswer struct {
	there  bool
	driver manifests.HostDriver
	gpus   []manifests.GPU
	source Source
}

// The fields asked for. Names of GPUs contain commas, so the fields around the name have none.
const (
	fieldIndex  = "index"
	fieldUUID   = "uuid"
	fieldName   = "name"
	fieldSM     = "compute_cap"
	fieldDriver = "driver_version"
	fieldMemory = "memory.total"
	fieldMIG    = "mig.mode.current"
	fieldPCI    = "pci.device_id"
)

// refusedField is how nvidia-smi says that it is too old for a field; drivers of the 470 series do
// so for compute_cap.
var refusedField = regexp.MustCompile(`Field "([a-z_.]+)" is not a valid field`)

// bannerCUDA is the CUDA version in the banner. Drivers from 610 on name it "CUDA UMD Version".
var bannerCUDA = regexp.MustCompile(`CUDA (?:[A-Z]+ )?Version\s*:\s*([0-9]+\.[0-9]+)`)

// nvidiaSMI asks nvidia-smi.
func (d Detector) nvidiaSMI(ctx context.Context) smiAnswer {
	answer := smiAnswer{source: Source{Name: smiName}}
	program, ok := d.findSMI()
	if !ok {
		answer.source.Problem = "not found"
		return answer
	}
	answer.there, answer.source.Name = true, program
	fields := []string{fieldIndex, fieldUUID, fieldName, fieldSM, fieldDriver, fieldMemory, fieldMIG}
	var out string
	for {
		var err error
		out, err = runChild(ctx, d.Limit, d.Environ, program, "--query-gpu="+strings.Join(fields, ","), "--format=csv,noheader")
		refused := refusedField.FindStringSubmatch(out)
		if refused == nil || !slices.Contains(fields, refused[1]) {
			if err != nil {
				answer.source.Problem = err.Error()
			}
			break
		}
		at := slices.Index(fields, refused[1])
		fields = slices.Delete(fields, at, at+1)
		if refused[1] == fieldSM {
			fields = append(fields, fieldPCI)
		}
	}
	var odd []string
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		gpu, driver, ok := parseGPU(fields, line)
		if !ok {
			odd = append(odd, line)
			continue
		}
		answer.gpus = append(answer.gpus, gpu)
		answer.driver.Version = cmp.Or(answer.driver.Version, driver)
	}
	switch {
	case len(odd) > 0: // its errors come on standard output, with exit code 0 as well
		answer.source.Problem = odd[0]
	case len(answer.gpus) == 0 && answer.source.Problem == "":
		answer.source.Problem = "it lists no GPU"
	}
	if len(answer.gpus) == 0 {
		return answer
	}
	banner, _ := runChild(ctx, d.Limit, d.Environ, program) // the version is for people, and the banner tells nothing else
	if match := bannerCUDA.FindStringSubmatch(banner); match != nil {
		answer.driver.CUDA = match[1]
	}
	answer.source.Gave = fmt.Sprintf("%d GPUs, driver %s", len(answer.gpus), cmp.Or(answer.driver.Version, "unknown"))
	if len(answer.gpus) == 1 {
		answer.source.Gave = strings.Replace(answer.source.Gave, "GPUs", "GPU", 1)
	}
	return answer
}

// findSMI looks for the program in PATH and where else it may be.
func (d Detector) findSMI() (string, bool) {
	for _, folder := range append(filepath.SplitList(d.getenv("PATH")), smiFolders...) {
		if !filepath.IsAbs(folder) {
			continue // a program relative to the current folder is not the driver's
		}
		program := d.path(folder, "nvidia-smi")
		if info, err := os.Stat(program); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return program, true
		}
	}
	return "", false
}

// parseGPU reads one line of the table. A value that the driver does not give ("[N/A]", "[Not
// Supported]") is unknown.
func parseGPU(fields []string, line string) (gpu manifests.GPU, driver string, ok bool) {
	values := strings.Split(line, ", ")
	at := slices.Index(fields, fieldName)
	extra := len(values) - len(fields)
	if extra < 0 {
		return gpu, "", false
	}
	values = slices.Concat(values[:at], []string{strings.Join(values[at:at+extra+1], ", ")}, values[at+extra+1:])
	for i, field := range fields {
		value := strings.TrimSpace(values[i])
		if strings.HasPrefix(value, "[") || value == "N/A" {
			value = ""
		}
		switch field {
		case fieldIndex:
			n, err := strconv.Atoi(value)
			if err != nil || n < 0 {
				return gpu, "", false
			}
			gpu.Index = n
		case fieldUUID:
			gpu.UUID = value
		case fieldName:
			gpu.Name = value
		case fieldSM:
			if sm, err := matrix.ParseSM(value); err == nil {
				gpu.SM = sm
			}
		case fieldPCI:
			// "0x1B0610DE": the device, then the vendor
			if id, err := strconv.ParseUint(value, 0, 32); err == nil && id&0xffff == vendorNVIDIA {
				gpu.SM = chipOf(uint16(id >> 16)).sm
			}
		case fieldDriver:
			if matrix.IsVersion(value) {
				driver = value
			}
		case fieldMemory:
			if n, err := strconv.Atoi(strings.TrimSuffix(value, " MiB")); err == nil && n > 0 {
				gpu.MemoryMiB = n
			}
		case fieldMIG:
			gpu.MIG = value == "Enabled"
		}
	}
	if gpu.MIG {
		gpu.MemoryMiB = 0 // a program gets a slice, whose size is not reported here
	}
	return gpu, driver, true
}
