package detect

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// Without the probe CUDA_VISIBLE_DEVICES is read as CUDA reads it, and refused where only CUDA
// knows what it means.
func TestVisible(t *testing.T) {
	mixed := []manifests.GPU{{Index: 0, UUID: "GPU-11112222", Name: "GTX 1080", SM: 61}, {Index: 1, UUID: "GPU-11113333", Name: "RTX 3090", SM: 86}, {Index: 2, UUID: "GPU-4444abcd", Name: "RTX 3090", SM: 86}}
	mixed[2].UUID = "GPU-4444abcd"
	twins := []manifests.GPU{{Index: 0, UUID: "GPU-a", Name: "T4", SM: 75}, {Index: 1, UUID: "GPU-b", Name: "T4", SM: 75}}
	split := []manifests.GPU{{Index: 0, UUID: "GPU-a", Name: "A100", SM: 80, MIG: true}, {Index: 1, UUID: "GPU-b", Name: "T4", SM: 75}}
	const pci = "PCI_BUS_ID"
	for _, test := range []struct {
		gpus         []manifests.GPU
		value, order string
		want         []string // UUIDs
		ambiguous    bool
	}{
		{mixed, "0", pci, []string{"GPU-11112222"}, false},
		{mixed, "2,0", pci, []string{"GPU-4444abcd", "GPU-11112222"}, false},
		{mixed, " 1 , 2 ", pci, []string{"GPU-11113333", "GPU-4444abcd"}, false},
		{mixed, "1gpu,2", pci, []string{"GPU-11113333", "GPU-4444abcd"}, false},
		{mixed, "1,9,2", pci, []string{"GPU-11113333"}, false},
		{mixed, "1,-1,2", pci, []string{"GPU-11113333"}, false},
		{mixed, "1,,2", pci, []string{"GPU-11113333"}, false},
		{mixed, "1,GPU-4", pci, []string{"GPU-11113333"}, false},
		{mixed, "1,1", pci, nil, false},
		{mixed, "+1", pci, []string{"GPU-11113333"}, false},
		{mixed, "0x1", pci, []string{"GPU-11112222"}, false},
		{mixed, " GPU-4", "", nil, false},
		{mixed, "GPU-4 , GPU-11112", "", []string{"GPU-4444abcd"}, false},
		{mixed, "GPU-", "", nil, false},
		{mixed, "GPU-4444ABCD", "", []string{"GPU-4444abcd"}, false},
		{mixed, "", pci, nil, false},
		{mixed, "-1", "", nil, false},
		{mixed, "NoDevFiles", "", nil, false},
		{mixed, "void", "", nil, false},
		{mixed, "3", "", nil, false},
		{mixed, "99999999999999999999", "", nil, false},
		{mixed, "0", "", []string{"GPU-11112222"}, true},
		{mixed, "0", "FASTEST_FIRST", []string{"GPU-11112222"}, true},
		{mixed, "2,1,0", "", []string{"GPU-4444abcd", "GPU-11113333", "GPU-11112222"}, false},
		{mixed, "GPU-4", "", []string{"GPU-4444abcd"}, false},
		{mixed, "GPU-4,GPU-11112", "", []string{"GPU-4444abcd", "GPU-11112222"}, false},
		{mixed, "GPU-4,GPU-1111", "", []string{"GPU-4444abcd"}, false},
		{mixed, "GPU-4,GPU-9,GPU-11112", "", []string{"GPU-4444abcd"}, false},
		{mixed, "GPU-4,GPU-44", "", nil, false},
		{mixed, "GPU-4,0", "", []string{"GPU-4444abcd"}, false},
		{mixed, "MIG-1", "", nil, false},
		{twins, "1", "", []string{"GPU-b"}, false},
		{split, "MIG-6f3b1a2c", "", []string{"GPU-a"}, false},
		{split, "MIG-GPU-a/1/0", "", []string{"GPU-a"}, false},
		{split, "MIG-GPU-b/1/0", "", nil, false},
		{split, "0", pci, []string{"GPU-a"}, false},
	} {
		left, ambiguous := visibleGPUs(test.gpus, test.value, test.order)
		var got []string
		for i, gpu := range left {
			got = append(got, gpu.UUID)
			if gpu.Index != i {
				t.Errorf("%q: GPU %d has index %d", test.value, i, gpu.Index)
			}
		}
		if diff := cmp.Diff(test.want, got); diff != "" || ambiguous != test.ambiguous {
			t.Errorf("%q, order %q: ambiguous %t\n%s", test.value, test.order, ambiguous, diff)
		}
	}
}

// Machines on which CUDA cannot be asked, because this program was built without the probe: what
// nvidia-smi does not list, or refuses, is not a GPU that programs can use, and the problem quotes
// its message.
func TestWithoutProbe(t *testing.T) {
	const working = "0, GPU-a, NVIDIA GeForce GTX 1080, 6.1, 550.54.14, 8192 MiB, [N/A]\n1, GPU-b, NVIDIA GeForce RTX 3090, 8.6, 550.54.14, 24576 MiB, [N/A]"
	gtx := gpu(0, "NVIDIA GeForce GTX 1080", 61, 8192)
	rtx := gpu(1, "NVIDIA GeForce RTX 3090", 86, 24576)
	alone := rtx
	alone.Index = 0
	for name, test := range map[string]struct {
		smi          string
		env          []string
		files        func(map[string]string) // changes driven()'s
		gpus         []manifests.GPU
		problem, way []string
	}{
		"all":                 {smi: smi(working, banner), gpus: []manifests.GPU{gtx, rtx}},
		"one by its UUID":     {smi: smi(working, banner), env: []string{"CUDA_VISIBLE_DEVICES", "GPU-b"}, gpus: []manifests.GPU{alone}},
		"one by its place":    {smi: smi(working, banner), env: []string{"CUDA_VISIBLE_DEVICES", "1", "CUDA_DEVICE_ORDER", "PCI_BUS_ID"}, gpus: []manifests.GPU{alone}},
		"one in CUDA's order": {smi: smi(working, banner), env: []string{"CUDA_VISIBLE_DEVICES", "0"}, problem: []string{"CUDA_VISIBLE_DEVICES=0"}, way: []string{"CUDA_VISIBLE_DEVICES=GPU-a", "CUDA_DEVICE_ORDER=PCI_BUS_ID"}},
		"hidden":              {smi: smi(working, banner), env: []string{"CUDA_VISIBLE_DEVICES", "-1"}, problem: []string{"CUDA_VISIBLE_DEVICES=-1 hides every GPU", "GTX 1080", "RTX 3090"}, way: []string{"unset CUDA_VISIBLE_DEVICES"}},
		"hidden, by nothing":  {smi: smi(working, banner), env: []string{"CUDA_VISIBLE_DEVICES", ""}, problem: []string{"hides every GPU"}, way: []string{"unset CUDA_VISIBLE_DEVICES"}},
		"hidden, and a library lacks": {smi: smi(working, banner), env: []string{"CUDA_VISIBLE_DEVICES", "7"}, files: func(m map[string]string) { delete(m, "usr/lib64/libcuda.so.1") },
			problem: []string{"CUDA_VISIBLE_DEVICES=7 hides every GPU"}, way: []string{"unset"}},
		"utility alone": {smi: smi(working, banner), files: func(m map[string]string) { delete(m, "usr/lib64/libcuda.so.1") },
			problem: []string{"RTX 3090", "there is no libcuda.so.1"}, way: []string{"NVIDIA_DRIVER_CAPABILITIES must have compute"}},
		"a stub": {smi: smi(working, banner), env: []string{"LD_LIBRARY_PATH", "/cuda/stubs"}, files: func(m map[string]string) { m["cuda/stubs/libcuda.so.1"] = "" },
			problem: []string{"/cuda/stubs/libcuda.so.1", "LD_LIBRARY_PATH"}, way: []string{"take /cuda/stubs out of LD_LIBRARY_PATH"}},
		"mismatch": {smi: "echo '" + mismatch + "'; exit 18", problem: []string{mismatch, "RTX 3090"}, way: []string{"reboot, or load the new kernel module"}},
		"no module": {smi: "echo \"NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\"; exit 9", files: func(m map[string]string) {
			clear(m)
			m["sys/bus/pci/devices/0000:01:00.0/vendor"], m["sys/bus/pci/devices/0000:01:00.0/class"], m["sys/bus/pci/devices/0000:01:00.0/device"] = "0x10de", "0x030000", "0x2204"
		}, problem: []string{"couldn't communicate", "10de:2204"}, way: []string{"modprobe nvidia", "Secure Boot"}},
		"no driver at all": {files: func(m map[string]string) {
			clear(m)
			m["sys/bus/pci/devices/0000:01:00.0/vendor"], m["sys/bus/pci/devices/0000:01:00.0/class"], m["sys/bus/pci/devices/0000:01:00.0/device"] = "0x10de", "0x030000", "0x2204"
		}, problem: []string{"10de:2204", "no NVIDIA driver is loaded"}, way: []string{"install NVIDIA's driver"}},
		"a container without GPUs": {files: func(m map[string]string) {
			for _, name := range []string{"dev/nvidiactl", "dev/nvidia-uvm", "dev/nvidia0", "usr/lib64/libcuda.so.1"} {
				delete(m, name)
			}
			m[".dockerenv"] = ""
		}, problem: []string{"RTX 3090", "/dev/nvidiactl is not there"}, way: []string{"--gpus all"}},
		"a container with compute alone": {gpus: []manifests.GPU{{UUID: "GPU-a", Name: "NVIDIA GeForce RTX 3090"}}},
		"a cgroup":                       {smi: "echo 'Failed to initialize NVML: Unknown Error'; exit 255", problem: []string{"Unknown Error"}, way: []string{"cgroup"}},
		"permission":                     {smi: "echo 'Failed to initialize NVML: Insufficient Permissions'; exit 4", problem: []string{"Insufficient Permissions"}, way: []string{"/dev/nvidiactl"}},
		"lost":                           {smi: "echo 'Unable to determine the device handle for GPU 0000:01:00.0: GPU is lost. Reboot the system to recover this GPU'; exit 15", problem: []string{"GPU is lost"}, way: []string{"reboot"}},
		"nothing listed":                 {smi: "echo 'No devices were found'; exit 6", files: func(m map[string]string) { clear(m) }, problem: []string{"No devices were found"}, way: []string{"--gpus all"}},
		"a hang":                         {smi: "sleep 600", problem: []string{"no answer within 1s"}, way: []string{"reboot"}},
		"nothing":                        {files: func(m map[string]string) { clear(m) }},
		"a driver without a GPU":         {files: func(m map[string]string) { delete(m, "proc/driver/nvidia/gpus/0000:01:00.0/information") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := driven()
			files["usr/lib64/libcuda.so.1"] = "a driver's library"
			if test.files != nil {
				test.files(files)
			}
			if test.smi != "" {
				files["usr/bin/nvidia-smi!"] = test.smi
			}
			dir := root(t, files)
			report, err := Detector{Root: dir, Environ: environment(append([]string{"PATH", "/usr/bin:/bin"}, test.env...)...), Limit: time.Second, Disk: dir + "/store", Probe: dir + "/" + ProbeName}.Detect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := report.Host.Check(); err != nil {
				t.Error(err)
			}
			if test.gpus == nil {
				test.gpus = []manifests.GPU{}
			}
			if diff := cmp.Diff(test.gpus, report.Host.GPUs); diff != "" {
				t.Error(diff)
			}
			checkParts(t, "problem", report.Host.CUDA.Problem, test.problem)
			checkParts(t, "way", report.Host.CUDA.Way, test.way)
		})
	}
}
