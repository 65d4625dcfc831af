package detect

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// root makes a root folder with these files. A name that ends in "!" is a program: a shell script.
func root(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		mode := os.FileMode(0o644)
		if program, ok := strings.CutSuffix(name, "!"); ok {
			name, mode, content = program, 0o755, "#!/bin/sh\n"+content
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		// A process forked by a test beside this one would have the file open for writing until it is another program,
		// and the kernel runs no such file: https://go.dev/issue/22315.
		syscall.ForkLock.RLock()
		err := os.WriteFile(path, []byte(content), mode)
		syscall.ForkLock.RUnlock()
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func environment(pairs ...string) []string {
	environ := []string{}
	for i := 0; i < len(pairs); i += 2 {
		environ = append(environ, pairs[i]+"="+pairs[i+1])
	}
	return environ
}

func detect(t *testing.T, dir string, env ...string) Report {
	t.Helper()
	report, err := Detector{Root: dir, Environ: environment(env...), Limit: 2 * time.Second, Disk: filepath.Join(dir, "store")}.Detect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := report.Host.Check(); err != nil {
		t.Errorf("what was detected is not a host: %v", err)
	}
	return report
}

// smi is a program that answers the query with a table and any other call with a banner.
func smi(table, banner string) string {
	return "case \"$1\" in\n--query-gpu=*) cat <<'END'\n" + table + "\nEND\n;;\n*) cat <<'END'\n" + banner + "\nEND\n;;\nesac\n"
}

const (
	banner    = "| NVIDIA-SMI 550.54.14    Driver Version: 550.54.14    CUDA Version: 12.4     |"
	banner610 = "| NVIDIA-SMI 610.12.01    KMD Version: 610.12.01    CUDA UMD Version: 13.3     |"
)

func gpu(index int, name string, sm, memory int) manifests.GPU {
	return manifests.GPU{Index: index, UUID: "GPU-" + string(rune('a'+index)), Name: name, SM: matrix.SM(sm), MemoryMiB: memory}
}

// What nvidia-smi does on real machines: facts.md's list. Each answer is one that a driver was seen
// to give.
func TestNvidiaSMI(t *testing.T) {
	tests := map[string]struct {
		smi     string
		files   map[string]string // beside it
		driver  manifests.HostDriver
		gpus    []manifests.GPU
		problem string // of the first source that has one
	}{
		"one": {
			smi:    smi("0, GPU-a, NVIDIA H100 80GB HBM3, 9.0, 580.159.04, 81559 MiB, Disabled", banner),
			driver: manifests.HostDriver{Version: "580.159.04", CUDA: "12.4"},
			gpus:   []manifests.GPU{gpu(0, "NVIDIA H100 80GB HBM3", 90, 81559)},
		},
		"several, all of them": {
			smi:    smi("0, GPU-a, Tesla T4, 7.5, 560.35.03, 15360 MiB, [N/A]\n1, GPU-b, Tesla T4, 7.5, 560.35.03, 15360 MiB, [N/A]", banner),
			driver: manifests.HostDriver{Version: "560.35.03", CUDA: "12.4"},
			gpus:   []manifests.GPU{gpu(0, "Tesla T4", 75, 15360), gpu(1, "Tesla T4", 75, 15360)},
		},
		"commas in the name": {
			smi:    smi("0, GPU-a, Quadro RTX 5000, with, Max-Q, 7.5, 535.104.05, 16384 MiB, [N/A]", banner),
			driver: manifests.HostDriver{Version: "535.104.05", CUDA: "12.4"},
			gpus:   []manifests.GPU{gpu(0, "Quadro RTX 5000, with, Max-Q", 75, 16384)},
		},
		"MIG": {
			smi:    smi("0, GPU-a, NVIDIA A100-SXM4-40GB, 8.0, 535.104.05, 40960 MiB, Enabled", banner),
			driver: manifests.HostDriver{Version: "535.104.05", CUDA: "12.4"},
			gpus:   []manifests.GPU{{UUID: "GPU-a", Name: "NVIDIA A100-SXM4-40GB", SM: 80, MIG: true}},
		},
		"values not given": {
			smi:    smi("0, GPU-a, NVIDIA Thor, [N/A], 580.00, [Not Supported], [N/A]", "no banner"),
			driver: manifests.HostDriver{Version: "580.00"},
			gpus:   []manifests.GPU{{UUID: "GPU-a", Name: "NVIDIA Thor"}},
		},
		"470 refuses compute_cap": {
			smi: `case "$1" in
*compute_cap*) echo 'Field "compute_cap" is not a valid field to query.'; echo; exit 2;;
*pci.device_id*) echo "0, GPU-a, GeForce GTX 1080 Ti, 470.256.02, 11178 MiB, [N/A], 0x1B0610DE";;
*) echo "CUDA Version: 11.4";;
esac`,
			driver: manifests.HostDriver{Version: "470.256.02", CUDA: "11.4"},
			gpus:   []manifests.GPU{gpu(0, "GeForce GTX 1080 Ti", 61, 11178)},
		},
		"older still, without MIG": {
			smi: `case "$1" in
*compute_cap*) echo 'Field "compute_cap" is not a valid field to query.'; exit 2;;
*mig.mode*) echo 'Field "mig.mode.current" is not a valid field to query.'; exit 2;;
*pci.device_id*) echo "0, GPU-a, GeForce 940M, 390.157, 2004 MiB, 0x134710DE";;
esac`,
			driver: manifests.HostDriver{Version: "390.157"},
			gpus:   []manifests.GPU{gpu(0, "GeForce 940M", 50, 2004)},
		},
		"610's banner": {
			smi:    smi("0, GPU-a, NVIDIA GeForce RTX 5090, 12.0, 610.12.01, 32607 MiB, Disabled", banner610),
			driver: manifests.HostDriver{Version: "610.12.01", CUDA: "13.3"},
			gpus:   []manifests.GPU{gpu(0, "NVIDIA GeForce RTX 5090", 120, 32607)},
		},
		"one of two is lost": {
			smi:    smi("0, GPU-a, Tesla T4, 7.5, 560.35.03, 15360 MiB, [N/A]\nUnable to determine the device handle for GPU1: 0000:65:00.0: Unknown Error", banner),
			driver: manifests.HostDriver{Version: "560.35.03", CUDA: "12.4"}, gpus: []manifests.GPU{gpu(0, "Tesla T4", 75, 15360)},
			problem: "Unable to determine the device handle for GPU1: 0000:65:00.0: Unknown Error",
		},
		"NVML broken, exit code 0": {
			smi:     "echo 'Failed to initialize NVML: Driver/library version mismatch'",
			problem: "Failed to initialize NVML: Driver/library version mismatch",
		},
		"NVML broken, exit code 9": {
			smi:     "echo \"NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\"; exit 9",
			problem: "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
		},
		"no devices":           {smi: "echo 'No devices were found'", problem: "No devices were found"},
		"says nothing":         {smi: "exit 0", problem: "it lists no GPU"},
		"not for this machine": {smi: "exec /nonexistent", problem: "/nonexistent"},
		"hangs":                {smi: "sleep 600 & sleep 600", problem: "no answer within 2s"},
		"writes without end":   {smi: "yes 0123456789 | head -c 4000000", problem: "0123456789"},
		"missing":              {problem: "not found"},
		"missing, with a driver": {
			files: map[string]string{
				"sys/module/nvidia/version":                        "535.104.05\n",
				"proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA GeForce RTX 3090\nIRQ:   \t\t 131\nGPU UUID: \t GPU-a\nBus Type: \t PCIe\n",
				"dev/nvidiactl":                                    "", "dev/nvidia-uvm": "",
				"proc/driver/nvidia/gpus/0000:41:00.0/information": "Model: \t\t NVIDIA GeForce RTX 3090\nGPU UUID: \t GPU-????????-????-????-????-????????????\n",
				"sys/bus/pci/devices/0000:01:00.0/vendor":          "0x10de\n",
				"sys/bus/pci/devices/0000:01:00.0/class":           "0x030000\n",
				"sys/bus/pci/devices/0000:01:00.0/device":          "0x2204\n",
			},
			driver:  manifests.HostDriver{Version: "535.104.05"},
			gpus:    []manifests.GPU{{UUID: "GPU-a", Name: "NVIDIA GeForce RTX 3090", SM: 86}, {Index: 1, Name: "NVIDIA GeForce RTX 3090"}},
			problem: "not found",
		},
		"missing, closed modules": {
			files:  map[string]string{"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC version:  gcc version 12.3.0\n"},
			driver: manifests.HostDriver{Version: "535.104.05"}, problem: "not found",
		},
		"missing, open modules": {
			files:  map[string]string{"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (dvs-builder@U22)\n"},
			driver: manifests.HostDriver{Version: "580.159.04"}, problem: "not found",
		},
		"broken, with a card on the bus": {
			smi: "echo 'Failed to initialize NVML: Unknown Error'; exit 255",
			files: map[string]string{
				"sys/bus/pci/devices/0000:00:02.0/vendor": "0x8086\n", "sys/bus/pci/devices/0000:00:02.0/class": "0x030000\n", "sys/bus/pci/devices/0000:00:02.0/device": "0x1b06\n",
				"sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n", "sys/bus/pci/devices/0000:01:00.0/class": "0x030200\n", "sys/bus/pci/devices/0000:01:00.0/device": "0x15f8\n",
				"sys/bus/pci/devices/0000:01:00.1/vendor": "0x10de\n", "sys/bus/pci/devices/0000:01:00.1/class": "0x040300\n", "sys/bus/pci/devices/0000:01:00.1/device": "0x10f0\n",
				"sys/bus/pci/devices/0000:02:00.0/vendor": "0x10de\n", "sys/bus/pci/devices/0000:02:00.0/class": "0x030000\n", "sys/bus/pci/devices/0000:02:00.0/device": "0xffff\n",
			},
			problem: "Failed to initialize NVML: Unknown Error",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{"usr/lib64/libcuda.so.1": "a driver's library"}
			for name, content := range test.files {
				files[name] = content
			}
			if test.smi != "" {
				files["usr/lib/wsl/lib/nvidia-smi!"] = test.smi
			}
			report := detect(t, root(t, files), "PATH", "/bin:relative")
			if diff := cmp.Diff(test.driver, report.Host.Driver); diff != "" {
				t.Error(diff)
			}
			if test.gpus == nil {
				test.gpus = []manifests.GPU{}
			}
			if diff := cmp.Diff(test.gpus, report.Host.GPUs); diff != "" {
				t.Error(diff)
			}
			problem := ""
			for _, source := range report.Sources {
				if problem == "" && strings.Contains(source.Name, smiName) {
					problem = source.Problem
				}
			}
			if !strings.Contains(problem, test.problem) || (problem == "") != (test.problem == "") {
				t.Errorf("the problem is %q, want %q", problem, test.problem)
			}
		})
	}
}

// A child that hangs is ended with all that it started, and a canceled detection ends at once.
func TestHangingChildrenEnd(t *testing.T) {
	dir := root(t, map[string]string{"usr/bin/nvidia-smi!": "echo $$ > $0.pid\nsleep 613.7 &\nwait"})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for {
			if _, err := os.Stat(filepath.Join(dir, "usr/bin/nvidia-smi.pid")); err == nil {
				cancel()
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	if _, err := (Detector{Root: dir, Environ: environment(), Limit: time.Minute}).Detect(ctx); err == nil {
		t.Fatal("it was canceled and gave no error")
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		out, _ := exec.Command("pgrep", "-f", "^sleep 613.7").Output()
		if len(out) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left running: %s", out)
		}
	}
}

// A folder of LD_LIBRARY_PATH that never answers, as those of a dead server: all that the other
// sources tell is there.
func TestHangingFolders(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "dead"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range append([]string{"libc.so.6"}, cuda12...) { // a pipe without a writer
		if err := unix.Mkfifo(filepath.Join(dir, "dead", name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	system, err := os.ReadFile("/lib/" + triplets[runtime.GOARCH] + "/libc.so.6")
	if err != nil {
		t.Skip(err)
	}
	libc := filepath.Join(dir, "lib", triplets[runtime.GOARCH])
	if err := errors.Join(os.MkdirAll(libc, 0o755), os.WriteFile(filepath.Join(libc, "libc.so.6"), system, 0o755)); err != nil {
		t.Fatal(err)
	}
	report, err := Detector{Root: dir, Environ: environment("LD_LIBRARY_PATH", "/dead"), Limit: 200 * time.Millisecond}.Detect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if report.Host.Glibc == "" {
		t.Errorf("the system's own C library was not looked at: %+v", report.Sources)
	}
	var said []string
	for _, s := range report.Sources {
		said = append(said, s.Name+": "+s.Problem)
	}
	for _, want := range []string{cLibrariesName + ": the folders of LD_LIBRARY_PATH did not answer within 200ms", "CUDA libraries: the folders did not answer within 200ms"} {
		if !slices.Contains(said, want) {
			t.Errorf("nobody says %q: %q", want, said)
		}
	}
}

func TestPlatform(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		env   []string
		want  string
	}{
		"local":                                {want: "local"},
		"colab":                                {files: map[string]string{".dockerenv": ""}, env: []string{"COLAB_RELEASE_TAG", "release-colab_20260901"}, want: "colab"},
		"a folder named content":               {files: map[string]string{"content/file": ""}, want: "local"},
		"kaggle, made from Colab's image":      {env: []string{"KAGGLE_KERNEL_RUN_TYPE", "Interactive", "COLAB_RELEASE_TAG", "release-colab_20260901"}, want: "kaggle"},
		"kaggle, without its variables":        {files: map[string]string{"kaggle/working/file": ""}, want: "kaggle"},
		"wsl":                                  {files: map[string]string{"proc/version": "Linux version 5.15.153.1-microsoft-standard-WSL2 (root@941d701f84f1)"}, want: "wsl"},
		"wsl 1 wrote it large":                 {files: map[string]string{"proc/version": "Linux version 4.4.0-19041-Microsoft"}, want: "wsl"},
		"docker":                               {files: map[string]string{".dockerenv": ""}, want: "container"},
		"podman":                               {files: map[string]string{"run/.containerenv": ""}, want: "container"},
		"a pod":                                {env: []string{"KUBERNETES_SERVICE_HOST", "10.0.0.1"}, want: "container"},
		"a token for kaggle is not its kernel": {env: []string{"KAGGLE_KEY", "0"}, want: "local"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := detect(t, root(t, test.files), test.env...).Host.Platform; got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestDistribution(t *testing.T) {
	for want, files := range map[string]map[string]string{
		"":             {},
		"ubuntu 22.04": {"etc/os-release": "NAME=\"Ubuntu\"\nVERSION_ID=\"22.04\"\nID=ubuntu\nID_LIKE=debian\n"},
		"arch":         {"etc/os-release": "ID=arch\n"},
		"nixos 24.11":  {"usr/lib/os-release": "ID='nixos'\nVERSION_ID='24.11'\n"},
	} {
		if got := detect(t, root(t, files)).Host.Distribution; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestCPU(t *testing.T) {
	dir := root(t, map[string]string{
		"proc/cpuinfo":              "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) CPU @ 2.20GHz\nflags\t\t: sse4_2 avx2 avx avx\n\nprocessor\t: 1\nmodel name\t: other\n",
		"proc/sys/kernel/osrelease": "6.1.85+\n",
	})
	host := detect(t, dir).Host
	want := manifests.CPU{Model: "Intel(R) Xeon(R) CPU @ 2.20GHz", Features: []string{"avx", "avx2", "sse4_2"}}
	if diff := cmp.Diff(want, host.CPU); diff != "" || host.Kernel != "6.1.85+" {
		t.Error(diff, host.Kernel)
	}
}

// The machine itself: what its own programs say must be what is read from its files.
func TestThisMachine(t *testing.T) {
	report, err := Detector{Disk: "/nowhere/below/this"}.Detect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	host := report.Host
	if out, err := exec.Command("getconf", "GNU_LIBC_VERSION").Output(); err == nil {
		if want := strings.TrimPrefix(strings.TrimSpace(string(out)), "glibc "); host.Glibc != want {
			t.Errorf("glibc %q, getconf says %q", host.Glibc, want)
		}
	}
	if out, err := exec.Command("uname", "-r").Output(); err == nil && host.Kernel != strings.TrimSpace(string(out)) {
		t.Errorf("kernel %q, uname says %q", host.Kernel, out)
	}
	if host.CPU.Model == "" || len(host.CPU.Features) == 0 || host.DiskFree <= 0 {
		t.Errorf("not all of %+v is known", host)
	}
	if _, err := host.Encode(); err != nil {
		t.Error(err)
	}
}
