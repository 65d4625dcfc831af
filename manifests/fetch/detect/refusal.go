package detect

import (
	"cmp"
	"context"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
)

// A refusal is a machine on which programs have no GPU, and all that may say why.
type refusal struct {
	Detector
	host    *manifests.Host
	said    cudaAnswer
	environ []string // as programs would have it
	smi     smiAnswer
	seen    []manifests.GPU // that something but CUDA shows
	where   string          // what shows them
}

// CUDA's errors that have a way out of their own.
// https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TYPES.html
const (
	cudaOutOfMemory       = 2
	cudaNotInitialized    = 3
	cudaStubLibrary       = 34
	cudaDeviceUnavailable = 46
	cudaNoDevice          = 100
	cudaECC               = 214
	cudaOperatingSystem   = 304
	cudaNotPermitted      = 800
	cudaSystemNotReady    = 802
	cudaDriverMismatch    = 803
	cudaCompatOnDevice    = 804
	cudaMPSConnection     = 805
	cudaMPSLast           = 809
	cudaUnknown           = 999
)

// Ways out that several causes have.
const (
	wayGPUsAll     = "start the container with --gpus all (Docker, with NVIDIA's container toolkit) or --device nvidia.com/gpu=all (Podman); in Kubernetes ask for nvidia.com/gpu"
	wayRestart     = "reboot; in a container, start the container anew first"
	wayMismatch    = "the driver was updated while the old one is loaded: reboot, or load the new kernel module (sudo rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia; sudo modprobe nvidia nvidia_uvm); containers have to be started anew afterwards"
	wayUVM         = "after a suspend or a crash: sudo rmmod nvidia_uvm && sudo modprobe nvidia_uvm, with nothing using the GPU, or reboot; in a container, start the container anew; dmesg has the driver's own words (NVRM, Xid)"
	wayFallen      = "the driver lost the GPU: reboot; dmesg has its own words (NVRM, Xid)"
	wayCompute     = "in a container, NVIDIA_DRIVER_CAPABILITIES must have compute: -e NVIDIA_DRIVER_CAPABILITIES=compute,utility; elsewhere install the driver's own CUDA library: libcuda1 (Debian), libnvidia-compute-NNN (Ubuntu), nvidia-driver-cuda-libs (Fedora, RHEL)"
	wayWSL         = "install NVIDIA's driver for Windows, not one for Linux, then wsl --update and wsl --shutdown"
	wayModule      = "sudo modprobe nvidia says why the driver is not loaded: after a new kernel its module has to be built anew (dkms), and Secure Boot refuses one that is not signed"
	wayDriver      = "install NVIDIA's driver, 525.60.13 or later; nothing else of CUDA is needed"
	wayDeviceFiles = "programs need to read and write /dev/nvidiactl, /dev/nvidia-uvm and the GPU's own /dev/nvidia0, which the container's --gpus all, its device cgroup or the group of the files decides"
)

// hasGPUs reports whether a machine that CUDA could not be asked on has GPUs for programs, as far
// as can be determined: nvidia-smi lists them, or, where it is not installed, the driver does and
// its device files are there, as in containers with the compute capability alone.
func (n *refusal) hasGPUs() bool {
	library := n.host.CUDA.Library
	if library == "" || isStub(library) {
		return false
	}
	return len(n.smi.gpus) > 0 || !n.said.crashed && !n.smi.there && n.where == gpusFolder && len(n.seen) > 0 && n.exists("dev/nvidiactl")
}

// explain says why programs have no GPU, and what helps. Both are empty where nothing hints at a
// GPU.
func (n *refusal) explain(ctx context.Context) (problem, way string) {
	value, set := n.lookup(visibleVariable)
	if set && n.said.asked && n.said.Loader == "" {
		// The variable hid all of them, if CUDA has some without it. A GPU that is named twice is
		// error 101.
		again := n.askCUDA(ctx, withoutVariable(n.environ, visibleVariable))
		if again.showsGPU() {
			return n.explainHidden(value, again.gpus())
		}
	}
	if set && !n.said.asked && len(n.smi.gpus) > 0 {
		if left, _ := visibleGPUs(n.smi.gpus, value, n.getenv(orderVariable)); len(left) == 0 {
			return n.explainHidden(value, n.smi.gpus)
		}
	}
	hints := len(n.seen) > 0 || n.host.Driver.Version != "" || n.smi.there
	cause, way := n.cause()
	if cause == "" || !hints && n.said.Loader != "" {
		return "", ""
	}
	problem = "CUDA has no GPU for programs: " + cause
	if len(n.seen) > 0 {
		var names []string
		for _, gpu := range n.seen {
			if name := cmp.Or(gpu.Name, "a GPU"); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		problem = fmt.Sprintf("%s shows %s, but CUDA has no GPU for programs: %s", n.where, strings.Join(names, ", "), cause)
	}
	if words := n.smi.source.Problem; words != "" && n.smi.there && !strings.Contains(cause, words) {
		problem += fmt.Sprintf("; nvidia-smi: %s", words)
	}
	return problem, way
}

func (n *refusal) explainHidden(value string, gpus []manifests.GPU) (problem, way string) {
	var names []string
	for _, gpu := range gpus {
		names = append(names, fmt.Sprintf("%s (%s)", gpu.Name, cmp.Or(gpu.UUID, fmt.Sprint(gpu.Index))))
	}
	return fmt.Sprintf("%s=%s hides every GPU: %s", visibleVariable, value, strings.Join(names, ", ")),
		fmt.Sprintf("unset %s, or name each GPU in it once, by its index or UUID", visibleVariable)
}

func (n *refusal) explainAmbiguous(value string) (problem, way string) {
	return fmt.Sprintf("%s=%s counts the GPUs in CUDA's own order, the fastest first, which nvidia-smi does not tell, and this machine's GPUs differ", visibleVariable, value),
		fmt.Sprintf("name the GPU by its UUID, which nvidia-smi -L prints (%s=%s), or set %s=PCI_BUS_ID, for programs as well", visibleVariable, cmp.Or(n.seen[0].UUID, "GPU-…"), orderVariable)
}

// cause is what CUDA says, or, where it could not be asked, what the rest says; empty where nothing
// says anything.
func (n *refusal) cause() (cause, way string) {
	switch {
	case n.said.late:
		return "it hangs (" + n.said.why + ")", "a driver that hangs takes programs with it: " + wayRestart + "; dmesg has the driver's own words (NVRM, Xid)"
	case n.said.crashed && len(n.seen) > 0 && len(n.smi.gpus) == 0:
		return "it crashes (" + n.said.why + ")", "install NVIDIA's driver anew: its libcuda.so.1 does not fit the kernel module, or is damaged; " + n.wayOfSMI()
	case !n.said.asked:
		return n.causeWithoutCUDA()
	case n.said.Loader != "":
		return n.causeOfLoader()
	}
	return n.causeOfError()
}

// causeOfError is for what CUDA answers.
func (n *refusal) causeOfError() (cause, way string) {
	said, library := n.said, n.said.Library
	cause = said.refusalText()
	from := "libcuda.so.1 is " + library
	variable := n.variableOf(library)
	if variable != "" {
		from += ", to which " + variable + " leads"
	}
	takeOut := fmt.Sprintf("take %s out of %s", filepath.Dir(library), variable)
	switch code := said.Error; {
	case code == cudaStubLibrary || isStub(library):
		cause += "; " + from + ", a stub to link against"
		if variable != "" {
			return cause, takeOut
		}
		return cause, "remove " + library + " from where the loader looks (/etc/ld.so.conf.d)"
	case code == cudaCompatOnDevice, code == cudaDriverMismatch && (isCompat(library) || variable != "" && n.findsAnotherDriver()):
		cause += "; " + from
		if isCompat(library) {
			cause += ", a library of NVIDIA's cuda-compat package, which runs on data-center GPUs with an older driver alone"
		} else {
			cause += ", which does not belong to the driver that is loaded"
		}
		if variable != "" {
			return cause, takeOut
		}
		return cause, fmt.Sprintf("remove the package cuda-compat, or take %s out of /etc/ld.so.conf.d and run ldconfig: the driver's own libcuda.so.1 is enough", filepath.Dir(library))
	case code == cudaDriverMismatch:
		if real, err := filepath.EvalSymlinks(library); err == nil && n.host.Driver.Version != "" {
			cause += fmt.Sprintf("; the kernel's driver is %s, and its library is %s", n.host.Driver.Version, filepath.Base(real))
		}
		return cause, wayMismatch
	case code == cudaSystemNotReady:
		return cause, "machines with NVSwitch need NVIDIA's fabric manager, of the driver's own version, on the host: systemctl status nvidia-fabricmanager, and start it; right after the boot, wait a minute"
	case (code == cudaNoDevice || code == 0) && len(n.seen) == 0 && n.host.Driver.Version == "" && !n.smi.there:
		return "", "" // a library without a machine for it, as in images
	case code == cudaOperatingSystem, code == cudaNotInitialized, code == cudaNotPermitted, code == cudaUnknown, code == cudaNoDevice, code == 0:
		if files := n.DeviceFiles(); files != "" {
			return cause + "; " + files, n.wayOfFiles()
		}
		switch {
		case n.host.Platform == "wsl":
			return cause, wayWSL
		case code == cudaUnknown:
			return cause, wayUVM
		case code != cudaNoDevice && code != 0:
			return cause, wayDeviceFiles + "; then " + wayUVM
		case slices.ContainsFunc(n.seen, func(gpu manifests.GPU) bool { return gpu.MIG }):
			return cause, "MIG is on, and the GPU has no slice that programs may use: sudo nvidia-smi mig -lgip lists the profiles, sudo nvidia-smi mig -cgi PROFILE -C makes one"
		}
		return cause, n.wayOfSMI()
	case code == cudaOutOfMemory:
		return cause, "CUDA itself needs memory of the machine: look at ulimit -v and at the memory limit of the container"
	case code == cudaDeviceUnavailable:
		return cause, "another program has the GPU for itself: nvidia-smi shows it; sudo nvidia-smi -c DEFAULT lets several share it"
	case code == cudaECC:
		return cause, "the GPU's memory has an error that cannot be corrected: sudo nvidia-smi --gpu-reset, or reboot; if it comes back, the GPU is broken"
	case code >= cudaMPSConnection && code <= cudaMPSLast:
		return cause, "the MPS server does not take this program: echo quit | nvidia-cuda-mps-control ends it; CUDA_MPS_PIPE_DIRECTORY names the one to use"
	}
	return cause, n.wayOfSMI()
}

// causeOfLoader is for a libcuda.so.1 that cannot be loaded.
func (n *refusal) causeOfLoader() (cause, way string) {
	if found := n.findDriverLibrary(); found != "" {
		cause = n.said.Loader
		if n.said.Library != "" {
			found = n.said.Library
		}
		if variable := n.variableOf(found); variable != "" && n.findsAnotherDriver() {
			return cause + "; " + found + " is in the way, to which " + variable + " leads", fmt.Sprintf("take %s out of %s", filepath.Dir(found), variable)
		}
		return cause + "; that is " + found, "install NVIDIA's driver anew: its libcuda.so.1 is damaged or for another system"
	}
	return n.noLibrary()
}

// noLibrary is for a machine without libcuda.so.1.
func (n *refusal) noLibrary() (cause, way string) {
	cause = "there is no libcuda.so.1 where programs look"
	capabilities, set := n.lookup("NVIDIA_DRIVER_CAPABILITIES")
	if set {
		cause += fmt.Sprintf(" (NVIDIA_DRIVER_CAPABILITIES=%s)", capabilities)
	}
	switch {
	case n.host.Platform == "wsl":
		return cause, wayWSL
	case len(n.smi.gpus) > 0, set && n.exists("dev/nvidiactl"):
		return cause, wayCompute
	}
	return cause, n.wayOfSMI()
}

// causeWithoutCUDA is for a machine on which CUDA itself was not asked.
func (n *refusal) causeWithoutCUDA() (cause, way string) {
	library := n.host.CUDA.Library
	switch {
	case len(n.smi.gpus) > 0 && library == "":
		return n.noLibrary()
	case len(n.smi.gpus) > 0: // and the library is a stub, or it would be usable
		cause = "libcuda.so.1 is " + library + ", a stub to link against"
		if variable := n.variableOf(library); variable != "" {
			return cause + ", to which " + variable + " leads", fmt.Sprintf("take %s out of %s", filepath.Dir(library), variable)
		}
		return cause, "remove " + library + " from where the loader looks (/etc/ld.so.conf.d)"
	case !n.smi.there && len(n.seen) == 0:
		return "", ""
	case !n.smi.there && n.host.Driver.Version == "":
		return "no NVIDIA driver is loaded", wayDriver + "; " + wayModule
	case !n.smi.there:
		cause = "nvidia-smi is not installed"
		if files := n.DeviceFiles(); files != "" {
			cause += ", and " + files
		}
		return cause, n.wayOfSMI()
	}
	return n.smi.source.Name + " says: " + n.smi.source.Problem, n.wayOfSMI()
}

// wayOfSMI is what helps according to nvidia-smi.
func (n *refusal) wayOfSMI() string {
	words := strings.ToLower(n.smi.source.Problem)
	has := func(part string) bool { return strings.Contains(words, part) }
	switch {
	case n.smi.there && has("version mismatch"):
		return wayMismatch
	case n.smi.there && has("communicate with the nvidia driver"):
		return wayModule
	case n.smi.there && (has("gpu is lost") || has("fallen off") || has("unable to determine the device handle")):
		return wayFallen
	case n.smi.there && has(errLate.Error()):
		return wayFallen
	case n.host.Platform == "wsl":
		return wayWSL
	case n.DeviceFiles() != "", n.smi.there && has("permission"):
		return n.wayOfFiles()
	case n.smi.there && has("unknown error"):
		return "a container whose device cgroup was set anew, as systemctl daemon-reload does, loses the GPU: start it anew; elsewhere: " + wayUVM
	case n.smi.there && has("no devices were found"):
		return "in a container, " + wayGPUsAll + "; elsewhere: " + wayFallen
	case !n.smi.there && n.host.Driver.Version == "":
		return wayDriver + "; in a container, " + wayGPUsAll
	}
	return wayRestart + "; llcuda-fetch doctor shows more"
}

// wayOfFiles is what helps where the driver's device files cannot be used.
func (n *refusal) wayOfFiles() string {
	switch {
	case !n.exists("dev/nvidiactl"):
		return "in a container, " + wayGPUsAll + "; elsewhere: " + wayModule
	case !n.exists("dev/nvidia-uvm"):
		return "sudo modprobe nvidia_uvm, or sudo nvidia-modprobe -u -c 0; in a container, " + wayGPUsAll
	}
	return wayDeviceFiles + "; in a container, " + wayGPUsAll
}

const driverLibrary = "libcuda.so.1"

// findDriverLibrary is the libcuda.so.1 that the loader would take.
func (n *refusal) findDriverLibrary() string {
	inEnvironment := Detector{Root: n.Root, Environ: n.environ}.environmentFolders()
	for _, file := range slices.Concat(joinEach(inEnvironment, driverLibrary), n.loaderFiles(driverLibrary)) {
		info, err := os.Stat(n.path(file))
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if lib, err := elf.Open(n.path(file)); err == nil {
			foreign := lib.Class != elf.ELFCLASS64 || lib.Machine != machines[runtime.GOARCH]
			lib.Close()
			if foreign { // the loader passes it over
				continue
			}
		}
		return file
	}
	return ""
}

// variableOf is LD_LIBRARY_PATH where the user's leads to a library, else empty.
func (n *refusal) variableOf(library string) string {
	if library != "" && slices.Contains(n.environmentFolders(), filepath.Dir(library)) {
		return "LD_LIBRARY_PATH"
	}
	return ""
}

// findsAnotherDriver reports whether the loader would find a libcuda.so.1 without the user's
// LD_LIBRARY_PATH, which may well lead to the driver's own: NVIDIA's images set it so.
func (n *refusal) findsAnotherDriver() bool {
	bare := *n
	bare.environ = launch.Installation{}.Environ(withoutVariable(n.Environ, "LD_LIBRARY_PATH"))
	return bare.findDriverLibrary() != ""
}

// isStub and isCompat know NVIDIA's folders for libraries to link against, and for those of the
// package cuda-compat.
func isStub(library string) bool   { return hasFolder(library, "stubs") }
func isCompat(library string) bool { return hasFolder(library, "compat") }

func hasFolder(library, name string) bool {
	paths := []string{library}
	if real, err := filepath.EvalSymlinks(library); err == nil {
		paths = append(paths, real)
	}
	return slices.ContainsFunc(paths, func(path string) bool {
		return slices.Contains(strings.Split(filepath.Dir(path), string(filepath.Separator)), name)
	})
}
