package detect

import (
	"bytes"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// standin are a probe and a libcuda.so.1 to ask, compiled by the test.
type standin struct{ probe, library string }

func newStandin(t *testing.T) standin {
	t.Helper()
	dir := t.TempDir()
	s := standin{filepath.Join(dir, ProbeName), filepath.Join(dir, "driver", driverLibrary)}
	if err := os.Mkdir(filepath.Dir(s.library), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, arguments := range [][]string{
		{"-O2", "-Wall", "-Wextra", "-Werror", "-o", s.probe, "probe/probe.c", "-ldl"},
		{"-shared", "-fPIC", "-Wl,-soname," + driverLibrary, "-o", s.library, "testdata/libcuda.c"},
	} {
		if out, err := exec.Command("gcc", arguments...).CombinedOutput(); err != nil {
			t.Fatalf("gcc: %v\n%s", err, out)
		}
	}
	return s
}

// put copies the library, or these bytes, to another folder and returns it.
func (s standin) put(t *testing.T, folder string, data []byte) string {
	t.Helper()
	folder = filepath.Join(t.TempDir(), folder)
	if data == nil {
		var err error
		if data, err = os.ReadFile(s.library); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, driverLibrary), data, 0o755); err != nil {
		t.Fatal(err)
	}
	return folder
}

const mismatch = "Failed to initialize NVML: Driver/library version mismatch"

// driven is a machine with a loaded driver, its device files and two GPUs.
func driven() map[string]string {
	return map[string]string{
		"sys/module/nvidia/version": "550.54.14\n", "dev/nvidiactl": "", "dev/nvidia-uvm": "", "dev/nvidia0": "",
		"proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA GeForce RTX 3090\nGPU UUID: \t GPU-a\n",
	}
}

// CUDA's answer decides, and each refusal says what was said and what helps.
func TestCUDAAnswers(t *testing.T) {
	s := newStandin(t)
	stubs, compat, text := s.put(t, "stubs", nil), s.put(t, "cuda-12.8/compat", nil), s.put(t, "odd", []byte("text"))
	bare := filepath.Join(t.TempDir(), "bare")
	library(t, filepath.Join(bare, driverLibrary), driverLibrary)
	const t4 = "75 Tesla T4"
	uuid := func(first string) string { return "-" + first + "010203-0405-0607-0809-0a0b0c0d0e0f" }
	for name, test := range map[string]struct {
		env   []string          // beside LD_LIBRARY_PATH
		path  string            // LD_LIBRARY_PATH, if not the stand-in's folder
		files map[string]string // of the machine; driven() if nil
		edit  func(map[string]string)
		gpus  []manifests.GPU
		// Of cuda.problem and cuda.way.
		problem, way []string
		error        int
		unasked      bool
	}{
		"a GPU": {env: []string{"STANDIN_GPUS", t4}, gpus: []manifests.GPU{{UUID: "GPU" + uuid("00"), Name: "Tesla T4", SM: 75, MemoryMiB: 15095}}},
		"a GPU that nothing else shows": {env: []string{"STANDIN_GPUS", t4}, files: map[string]string{},
			gpus: []manifests.GPU{{UUID: "GPU" + uuid("00"), Name: "Tesla T4", SM: 75, MemoryMiB: 15095}}},
		"a GPU, whatever nvidia-smi says": {env: []string{"STANDIN_GPUS", t4}, edit: func(m map[string]string) { m["usr/bin/nvidia-smi!"] = "echo '" + mismatch + "'" },
			gpus: []manifests.GPU{{UUID: "GPU" + uuid("00"), Name: "Tesla T4", SM: 75, MemoryMiB: 15095}}},
		"a slice, with its own memory": {env: []string{"STANDIN_GPUS", "90 NVIDIA H100 MIG 1g.10gb"},
			gpus: []manifests.GPU{{UUID: "MIG" + uuid("ff"), Name: "NVIDIA H100 MIG 1g.10gb", SM: 90, MemoryMiB: 9984, MIG: true}}},
		"a name of any bytes": {env: []string{"STANDIN_GPUS", "75 a \"b\" \\c\x01\xff"},
			gpus: []manifests.GPU{{UUID: "GPU" + uuid("00"), Name: "a \"b\" \\c??", SM: 75, MemoryMiB: 15095}}},
		"the visible one alone": {env: []string{"STANDIN_GPUS", "61 GTX 1080;86 RTX 3090", "CUDA_VISIBLE_DEVICES", "1"},
			gpus: []manifests.GPU{{UUID: "GPU" + uuid("00"), Name: "RTX 3090", SM: 86, MemoryMiB: 15095}}},
		"all hidden": {env: []string{"STANDIN_GPUS", "61 GTX 1080;86 RTX 3090", "CUDA_VISIBLE_DEVICES", "-1"}, error: 100,
			problem: []string{"CUDA_VISIBLE_DEVICES=-1 hides every GPU", "GTX 1080", "RTX 3090"}, way: []string{"unset CUDA_VISIBLE_DEVICES"}},
		"all hidden by an empty value": {env: []string{"STANDIN_GPUS", t4, "CUDA_VISIBLE_DEVICES", ""}, error: 100,
			problem: []string{"CUDA_VISIBLE_DEVICES= hides every GPU"}, way: []string{"unset"}},
		"named twice":                            {env: []string{"STANDIN_GPUS", t4, "CUDA_VISIBLE_DEVICES", "0,0"}, error: 101, problem: []string{"CUDA_VISIBLE_DEVICES=0,0 hides every GPU"}, way: []string{"once"}},
		"a mismatch of the driver's own library": {env: []string{"STANDIN_INIT", "803"}, error: 803, problem: []string{"(803)", "the kernel's driver is 550.54.14"}, way: []string{"load the new kernel module"}},
		"a library of another driver in the way": {env: []string{"STANDIN_INIT", "803"}, edit: func(m map[string]string) { m["usr/lib64/libcuda.so.1"] = "" }, error: 803,
			problem: []string{s.library, "does not belong to the driver"}, way: []string{"out of LD_LIBRARY_PATH"}},
		"hidden, and broken besides":         {env: []string{"STANDIN_INIT", "803", "CUDA_VISIBLE_DEVICES", "-1"}, error: 803, problem: []string{"cuInit gives CUDA_ERROR_OF_TEST_803 (803)"}, way: []string{"load the new kernel module"}},
		"a library that is none":             {path: text, problem: []string{"file too short", text}, way: []string{"driver anew"}},
		"a library that is none, in the way": {path: text, edit: func(m map[string]string) { m["usr/lib64/libcuda.so.1"] = "" }, problem: []string{"file too short", text}, way: []string{"take " + text + " out of LD_LIBRARY_PATH"}},
		"a library without functions":        {path: bare, problem: []string{"undefined symbol: cuInit", bare}, way: []string{"driver anew"}},
		"none, and none is there":            {files: map[string]string{}, error: 100},
		"none, although one is there":        {error: 100, problem: []string{"NVIDIA GeForce RTX 3090", "(100)"}, way: []string{"reboot"}},
		"none, in a container without them": {files: map[string]string{"sys/module/nvidia/version": "550.54.14\n",
			"proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: RTX 3090\n"}, error: 100,
			problem: []string{"/proc/driver/nvidia/gpus shows RTX 3090", "/dev/nvidiactl is not there"}, way: []string{"--gpus all"}},
		"none, as MIG has no slice": {edit: func(m map[string]string) {
			m["usr/bin/nvidia-smi!"] = smi("0, GPU-a, NVIDIA H100, 9.0, 580.00, 81559 MiB, Enabled", banner)
		}, error: 100, problem: []string{"NVIDIA H100"}, way: []string{"nvidia-smi mig -cgi"}},
		"out of memory":      {env: []string{"STANDIN_INIT", "2"}, error: 2, problem: []string{"(2)"}, way: []string{"ulimit -v"}},
		"a stub by its code": {env: []string{"STANDIN_INIT", "34"}, error: 34, problem: []string{"(34)", s.library, "LD_LIBRARY_PATH"}, way: []string{"take " + filepath.Dir(s.library) + " out of LD_LIBRARY_PATH"}},
		"a stub by its folder": {env: []string{"STANDIN_INIT", "999"}, path: stubs, error: 999, problem: []string{stubs + "/libcuda.so.1", "LD_LIBRARY_PATH"},
			way: []string{"take " + stubs + " out of LD_LIBRARY_PATH"}},
		"exclusive":       {env: []string{"STANDIN_GPUS", t4, "STANDIN_FAIL", "cuDeviceGet", "STANDIN_ERROR", "46"}, error: 46, problem: []string{"cuDeviceGet gives", "(46)"}, way: []string{"another program has the GPU"}},
		"broken":          {env: []string{"STANDIN_GPUS", t4, "STANDIN_FAIL", "cuDeviceTotalMem", "STANDIN_ERROR", "214"}, error: 214, problem: []string{"cuDeviceTotalMem gives", "(214)"}, way: []string{"--gpu-reset"}},
		"permission":      {env: []string{"STANDIN_INIT", "304"}, edit: func(m map[string]string) { delete(m, "dev/nvidia-uvm") }, error: 304, problem: []string{"(304)", "/dev/nvidia-uvm is not there"}, way: []string{"nvidia_uvm", "--gpus all"}},
		"not permitted":   {env: []string{"STANDIN_INIT", "3"}, error: 3, problem: []string{"(3)"}, way: []string{"/dev/nvidiactl", "cgroup"}},
		"fabric":          {env: []string{"STANDIN_INIT", "802"}, error: 802, problem: []string{"(802)"}, way: []string{"nvidia-fabricmanager"}},
		"compat, 803":     {env: []string{"STANDIN_INIT", "803"}, path: compat, error: 803, problem: []string{compat + "/libcuda.so.1", "LD_LIBRARY_PATH", "cuda-compat"}, way: []string{"take " + compat + " out of LD_LIBRARY_PATH"}},
		"compat, 804":     {env: []string{"STANDIN_INIT", "804"}, path: "/nonexistent:" + compat, error: 804, problem: []string{"(804)", compat + "/libcuda.so.1"}, way: []string{"take " + compat + " out of LD_LIBRARY_PATH"}},
		"MPS":             {env: []string{"STANDIN_INIT", "805"}, error: 805, problem: []string{"(805)"}, way: []string{"MPS"}},
		"after a suspend": {env: []string{"STANDIN_INIT", "999"}, error: 999, problem: []string{"(999)"}, way: []string{"rmmod nvidia_uvm"}},
		"an error of tomorrow": {env: []string{"STANDIN_INIT", "4711"}, edit: func(m map[string]string) {
			m["usr/bin/nvidia-smi!"] = "echo '" + mismatch + "'; exit 18"
		}, error: 4711, problem: []string{"(4711)", mismatch}, way: []string{"load the new kernel module"}},
		"a hang":  {env: []string{"STANDIN_INIT", "hang"}, unasked: true, problem: []string{"it hangs", "no answer within 3s"}, way: []string{"reboot"}},
		"a crash": {env: []string{"STANDIN_INIT", "crash"}, unasked: true, problem: []string{"it crashes (signal: segmentation fault"}, way: []string{"driver anew"}},
		"a crash, and nvidia-smi works": {env: []string{"STANDIN_INIT", "crash"}, unasked: true, edit: func(m map[string]string) {
			m["usr/bin/nvidia-smi!"] = smi("0, GPU-a, Tesla T4, 7.5, 550.54.14, 15360 MiB, [N/A]", banner)
			m["usr/lib64/libcuda.so.1"] = ""
		}, gpus: []manifests.GPU{gpu(0, "Tesla T4", 75, 15360)}},
		"output without end": {env: []string{"STANDIN_INIT", "chatter"}, unasked: true, problem: []string{"it hangs"}, way: []string{"reboot"}},
		"no library": {path: "/nonexistent", edit: func(m map[string]string) {
			m["usr/bin/nvidia-smi!"] = smi("0, GPU-a, Tesla T4, 7.5, 550.54.14, 15360 MiB, [N/A]", banner)
		}, problem: []string{"nvidia-smi shows Tesla T4", "there is no libcuda.so.1"}, way: []string{"NVIDIA_DRIVER_CAPABILITIES must have compute"}},
		"no library, and the variable says why": {path: "/nonexistent", env: []string{"NVIDIA_DRIVER_CAPABILITIES", "utility"},
			problem: []string{"NVIDIA_DRIVER_CAPABILITIES=utility"}, way: []string{"NVIDIA_DRIVER_CAPABILITIES must have compute"}},
		"no library and no GPU": {path: "/nonexistent", files: map[string]string{}},
		"WSL without the driver for Windows": {path: "/nonexistent", files: map[string]string{"proc/version": "Linux version 5.15-microsoft-standard-WSL2", "dev/dxg": "",
			"usr/lib/wsl/lib/nvidia-smi!": "echo 'Failed to initialize NVML: GPU access blocked by the operating system'"},
			problem: []string{"GPU access blocked"}, way: []string{"driver for Windows"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.path == "" {
				test.path = filepath.Dir(s.library)
			}
			if test.files == nil {
				test.files = driven()
			}
			if test.edit != nil {
				test.edit(test.files)
			}
			dir := root(t, test.files)
			// The files in a folder of LD_LIBRARY_PATH are there in the root folder as well.
			for folder := range strings.SplitSeq(test.path, ":") {
				if _, err := os.Stat(folder); err == nil {
					if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(folder)), 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.Symlink(folder, filepath.Join(dir, folder)); err != nil {
						t.Fatal(err)
					}
				}
			}
			environ := environment(append([]string{"PATH", "/usr/bin:/bin", "LD_LIBRARY_PATH", test.path}, test.env...)...)
			d := Detector{Root: dir, Environ: environ, Limit: time.Second, Probe: s.probe, Disk: filepath.Join(dir, "store")}
			report, err := d.Detect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			host := report.Host
			if err := host.Check(); err != nil {
				t.Error(err)
			}
			if test.gpus == nil {
				test.gpus = []manifests.GPU{}
			}
			if diff := cmp.Diff(test.gpus, host.GPUs); diff != "" {
				t.Error(diff)
			}
			if host.CUDA.Asked == test.unasked || host.CUDA.Error != test.error {
				t.Errorf("asked %t, error %d", host.CUDA.Asked, host.CUDA.Error)
			}
			checkParts(t, "problem", host.CUDA.Problem, test.problem)
			checkParts(t, "way", host.CUDA.Way, test.way)
			if len(host.GPUs) > 0 && host.CUDA.Asked && (host.Driver.Version != "550.54.14" || host.Driver.CUDA != "12.4" || host.CUDA.Library != s.library) {
				t.Errorf("CUDA %q of %q", host.Driver.CUDA, host.CUDA.Library)
			}
		})
	}
}

func TestDriverOf(t *testing.T) {
	dir := t.TempDir()
	for name, target := range map[string]string{"named/libcuda.so.1": "libcuda.so.580.159.04", "plain/libcuda.so.1": "libcuda.so.1.1"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.Symlink(target, filepath.Join(dir, name)),
			os.WriteFile(filepath.Join(dir, filepath.Dir(name), target), nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct{ library, cuda, want string }{
		{"named/libcuda.so.1", "12.4", "580.159.04"}, {"plain/libcuda.so.1", "12.4", "550.54.14"}, {"missing", "12.7", "560.28.03"}, {"missing", "14.1", "580.65.06"},
		{"missing", "11.4", "470.42.01"}, {"missing", "9.2", ""}, {"missing", "", ""},
	} {
		if got := driverOf(filepath.Join(dir, test.library), test.cuda); got != test.want {
			t.Errorf("%s, CUDA %s: %q, want %q", test.library, test.cuda, got, test.want)
		}
	}
}

// checkParts wants all parts in a text, and no text where there are none.
func checkParts(t *testing.T, name, text string, parts []string) {
	t.Helper()
	if len(parts) == 0 && text != "" {
		t.Errorf("the %s is %q, want none", name, text)
	}
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("the %s is %q, without %q", name, text, part)
		}
	}
}

// The probe as the farm compiles it starts on the oldest systems that there are drivers for, and
// answers the same.
func TestProbeReachesFar(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the farm compiles it for amd64 alone")
	}
	var programs [2][]byte
	program := filepath.Join(t.TempDir(), ProbeName)
	for i := range programs {
		if out, err := exec.Command("sh", "probe/build.sh", "probe", program).CombinedOutput(); err != nil {
			t.Fatalf("build.sh: %v\n%s", err, out)
		}
		var err error
		if programs[i], err = os.ReadFile(program); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(programs[0], programs[1]) {
		t.Error("it is not the same the second time")
	}
	file, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	needs, err := file.DynamicVersionNeeds()
	if err != nil {
		t.Fatal(err)
	}
	for _, need := range needs {
		for _, version := range need.Needs {
			const oldest = "2.17" // of CentOS 7
			if number, ok := strings.CutPrefix(version.Dep, "GLIBC_"); !ok || matrix.CompareVersions(number, oldest) > 0 {
				t.Errorf("it needs %s of %s", version.Dep, need.Name)
			}
		}
	}
	libraries, err := file.ImportedLibraries()
	if diff := cmp.Diff([]string{"libdl.so.2", "libc.so.6"}, libraries); err != nil || diff != "" {
		t.Error(err, diff)
	}
	s := newStandin(t)
	for _, env := range []string{"STANDIN_GPUS=75 Tesla T4;90 NVIDIA H100 MIG 1g.10gb", "STANDIN_INIT=803"} {
		var said [2]string
		for i, probe := range []string{s.probe, program} {
			cmd := exec.Command(probe)
			cmd.Env = []string{"LD_LIBRARY_PATH=" + filepath.Dir(s.library), env}
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			said[i] = string(out)
		}
		if diff := cmp.Diff(said[0], said[1]); diff != "" || strings.Count(said[0], "\n") != 1 {
			t.Errorf("%s: %s", said[0], diff)
		}
	}
}
