package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A kernel is the kernel's files of a machine with GPUs, an nvidia-smi that knows them, and a folder with a libcuda.so.1.
type kernel struct{ root, bin, driver string }

// newKernel describes a machine by its GPUs: "1b06 GeForce GTX 1080 Ti, 6.1", the PCI device first.
func newKernel(t testing.TB, gpus ...string) kernel {
	t.Helper()
	dir := t.TempDir()
	k := kernel{filepath.Join(dir, "root"), filepath.Join(dir, "bin"), filepath.Join(dir, "driver")}
	files := map[string]string{"root/sys/module/nvidia/version": "560.35.03\n", "root/dev/nvidiactl": "", "driver/libcuda.so.1": ""}
	var table strings.Builder
	for i, gpu := range gpus {
		device, rest, _ := strings.Cut(gpu, " ")
		name, capability, _ := strings.Cut(rest, ", ")
		files[fmt.Sprintf("root/sys/bus/pci/drivers/nvidia/0000:0%d:00.0/device", i)] = "0x" + device + "\n"
		files[fmt.Sprintf("root/dev/nvidia%d", i)] = ""
		fmt.Fprintf(&table, "%d, GPU-%d, %s, %s, 560.35.03, 11000 MiB, [N/A]\n", i, i, name, capability)
	}
	files["bin/nvidia-smi"] = "#!/bin/sh\ncase \"$1\" in\n--query-gpu=*) cat <<'END'\n" + table.String() + "END\n;;\n*) echo 'CUDA Version: 12.6' ;;\nesac\n"
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

// stamp has a program look for the kernel's files where they are, by the linker.
func (k kernel) stamp() string {
	return "-X github.com/waqasm86/llcuda-farm/manifests/fetch/launch.root=" + k.root
}

// environ is the test's environment, with the machine's nvidia-smi.
func (k kernel) environ() []string {
	return append(os.Environ(), "PATH="+k.bin+":"+os.Getenv("PATH"), "LD_LIBRARY_PATH="+k.driver)
}
