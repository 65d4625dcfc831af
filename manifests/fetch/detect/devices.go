package detect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// DeviceFiles says what is wrong with the files that CUDA opens; empty where all are in order. WSL
// has another one.
func (d Detector) DeviceFiles() string {
	d = d.withDefaults()
	if d.exists("dev/dxg") {
		return ""
	}
	var wrong []string
	// Opening these two wakes no GPU. A device cgroup refuses to open what access(2) allows.
	for _, name := range []string{"nvidiactl", "nvidia-uvm"} {
		file, err := os.OpenFile(d.path("dev", name), os.O_RDWR|unix.O_NONBLOCK, 0)
		if err == nil {
			err = file.Close()
		}
		wrong = append(wrong, describe(name, err)...)
	}
	gpus, _ := filepath.Glob(d.path("dev/nvidia[0-9]*")) // the pattern is good
	for _, gpu := range gpus {
		wrong = append(wrong, describe(filepath.Base(gpu), unix.Access(gpu, unix.R_OK|unix.W_OK))...)
	}
	return strings.Join(wrong, ", ")
}

func describe(name string, err error) []string {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return []string{"/dev/" + name + " is not there"}
	}
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err
	}
	return []string{fmt.Sprintf("/dev/%s cannot be opened (%v)", name, err)}
}

// Shadows are the files named libcuda.so.1 which LD_LIBRARY_PATH puts in the place of the driver's
// own: stubs to link against, and libraries of NVIDIA's package cuda-compat.
func (d Detector) Shadows() []string {
	d = d.withDefaults()
	return slices.DeleteFunc(joinEach(d.environmentFolders(), driverLibrary), func(file string) bool {
		return !d.exists(file) || !isStub(file) && !isCompat(file)
	})
}
