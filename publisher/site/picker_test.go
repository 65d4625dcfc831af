package site

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// slice is how Pick's hosts name what CUDA shows of a GPU that is split up; nvidia-smi names the GPU.
var slice = regexp.MustCompile(` MIG [0-9a-z.]+$`)

// A printer prints a machine as a version of nvidia-smi does.
type printer struct {
	name  string
	print func(manifests.Host) string
	// memory reports whether it tells how much memory a GPU has, and capability whether it tells its
	// compute capability.
	memory, capability bool
}

func eachGPU(host manifests.Host, print func(manifests.GPU) string) string {
	var b strings.Builder
	for _, gpu := range host.GPUs {
		gpu.Name = slice.ReplaceAllString(gpu.Name, "")
		b.WriteString(print(gpu))
	}
	return b.String()
}

// fit cuts a name as nvidia-smi's table does.
func fit(name string, width int) string {
	if len(name) > width {
		name = name[:width-3] + "..."
	}
	return fmt.Sprintf("%-*s", width, name)
}

func mode(gpu manifests.GPU) string {
	if gpu.MIG {
		return "Enabled"
	}
	return "N/A"
}

var printers = []printer{
	{"the table from driver 530 on", func(h manifests.Host) string {
		return fmt.Sprintf("Thu Nov 26 22:34:42 2026       \n+---+\n| NVIDIA-SMI %-22s Driver Version: %-14s CUDA Version: %-8s |\n", h.Driver.Version, h.Driver.Version, h.Driver.CUDA) +
			"| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |\n" + eachGPU(h, func(gpu manifests.GPU) string {
			return fmt.Sprintf("|%4d  %s Off |   00000000:%02X:00.0 Off |                    0 |\n| N/A   37C    P0             71W /  700W |       0MiB / %6dMiB |      0%%      Default |\n|                                         |                        | %20s |\n", gpu.Index, fit(gpu.Name, 30), gpu.Index, max(gpu.MemoryMiB, 4096), mode(gpu))
		}) + "| Processes:  |\n|    0   N/A  N/A            1234      C   python                      1000MiB |\n"
	}, true, false},
	{"the table before driver 530", func(h manifests.Host) string {
		return fmt.Sprintf("| NVIDIA-SMI %-12s Driver Version: %-12s CUDA Version: %-8s |\n", h.Driver.Version, h.Driver.Version, h.Driver.CUDA) + eachGPU(h, func(gpu manifests.GPU) string {
			return fmt.Sprintf("|%4d  %s  Off  | 00000000:%02X:00.0 Off |                    0 |\n| N/A   38C    P0   163W / 500W |  %5dMiB / %5dMiB |     58%%      Default |\n|                               |                      | %20s |\n", gpu.Index, fit(gpu.Name, 18), gpu.Index, 12, max(gpu.MemoryMiB, 4096), mode(gpu))
		})
	}, true, false},
	{"-L", func(h manifests.Host) string {
		return eachGPU(h, func(gpu manifests.GPU) string {
			return fmt.Sprintf("GPU %d: %s (UUID: %s)\n", gpu.Index, gpu.Name, gpu.UUID)
		})
	}, false, false},
	{"a query", func(h manifests.Host) string {
		return "name, compute_cap, driver_version\n" + eachGPU(h, func(gpu manifests.GPU) string {
			return fmt.Sprintf("%s, %s, %s\n", gpu.Name, gpu.SM.Capability(), h.Driver.Version)
		})
	}, false, true},
	{"a query with memory", func(h manifests.Host) string {
		return "driver_version, name, memory.total [MiB], compute_cap, mig.mode.current\r\n" + eachGPU(h, func(gpu manifests.GPU) string {
			return fmt.Sprintf("%s, %s, %d MiB, %s, %s\r\n", h.Driver.Version, gpu.Name, gpu.MemoryMiB, gpu.SM.Capability(), mode(gpu))
		})
	}, true, true},
	{"a query without header", func(h manifests.Host) string {
		return eachGPU(h, func(gpu manifests.GPU) string {
			return fmt.Sprintf("%s, %s, %s\n", gpu.Name, gpu.SM.Capability(), h.Driver.Version)
		})
	}, false, true},
	{"-q", func(h manifests.Host) string {
		return "==============NVSMI LOG==============\n\nDriver Version                            : " + h.Driver.Version + "\n" + eachGPU(h, func(gpu manifests.GPU) string {
			return "GPU 00000000:01:00.0\n    Product Name                          : " + gpu.Name + "\n    Product Brand                         : NVIDIA\n"
		})
	}, false, false},
}

// expect is what Pick says, in the page's words.
func expect(r manifests.Release, host manifests.Host) (found, error) {
	d, err := manifests.Pick(r, host, manifests.PickOptions{})
	if lack, ok := errors.AsType[*manifests.NoBundleError](err); ok {
		return found{Lack: string(lack.Lack)}, nil
	}
	return found{Bundle: d.Bundle, Through: d.Through}, err
}

// adapted are the hosts whose system decides, which nvidia-smi does not tell: the page answers for one
// that fulfills what it says a bundle needs.
var adapted = map[string]func(*manifests.Host){
	"alpine":                newLibraries,
	"centos-7":              newLibraries,
	"nixos":                 newLibraries,
	"no-libstdcxx":          newLibraries,
	"old-libstdcxx":         newLibraries,
	"old-libstdcxx-in-path": newLibraries,
	"full-disk":             func(h *manifests.Host) { h.DiskFree = -1 },
	"sm-121":                func(h *manifests.Host) { h.Arch = "arm64" },  // GB10 is part of such a computer
	"driver-470":            func(h *manifests.Host) { h.GPUs[0].SM = 61 }, // the page knows the name
}

func newLibraries(h *manifests.Host) { h.Glibc, h.GLIBCXX = "2.35", "3.4.30" }

// TestPickerIsPick pastes what nvidia-smi prints on every host in the corpus, and compares the page's
// answer with Pick's.
func TestPickerIsPick(t *testing.T) {
	r, all := past(t)[0].Release, hosts(t)
	page := startBrowser(t).open(t, document(t), look{width: 1000})
	asked, cut := 0, 0
	for name, host := range all {
		if adapt, ok := adapted[name]; ok {
			before, err := expect(r, host)
			if err != nil {
				t.Fatal(err)
			}
			adapt(&host)
			if after, _ := expect(r, host); before == after && name != "driver-470" {
				t.Errorf("%s: Pick says the same to the system that it has", name)
			}
		}
		want, err := expect(r, host)
		if err != nil {
			t.Fatal(err)
		}
		// What nvidia-smi prints where it has no GPU.
		if len(host.GPUs) == 0 || host.Driver.Version == "" {
			for text, lack := range map[string]string{
				"No devices were found\n": "gpu",
				"NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running.\n": "driver",
				"Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 550.54\n":                                                        "driver",
				"bash: nvidia-smi: command not found\n": "driver",
			} {
				if got := page.ask(t, text); got.Lack != lack || got.Bundle != "" {
					t.Errorf("%q: %+v", text, got)
				}
			}
			if want.Bundle != "" {
				t.Errorf("%s: Pick says %+v", name, want)
			}
			continue
		}
		for _, p := range printers {
			text := p.print(host)
			asked++
			got := page.ask(t, text)
			said := found{Bundle: got.Bundle, Through: got.Through, Lack: got.Lack}
			wanted := want
			if p.name == "-L" { // no driver: the page takes the newest
				newest := host
				newest.Driver.Version = "999.0"
				if wanted, err = expect(r, newest); err != nil {
					t.Fatal(err)
				}
			}
			kinds := map[matrix.SM]bool{}
			for _, gpu := range host.GPUs {
				kinds[gpu.SM] = true
			}
			switch {
			case said == wanted:
			case strings.Contains(text, "...") && said.Bundle == "" && (got.Choices > 0 || strings.Contains(got.Said, "cut off")):
				cut++ // the page asks for what the name lost
			case len(kinds) > 1 && !p.memory && said == found{} && strings.Contains(got.Said, "llcuda-fetch plan"):
				cut++
			default:
				t.Errorf("%s by %s: %+v, want %+v\n%s", name, p.name, got, wanted, text)
			}
			// Pick's download is one of the page's two.
			if d, err := manifests.Pick(r, host, manifests.PickOptions{}); err == nil && said == want {
				if bytes := map[bool]int64{true: got.All, false: got.Bytes}[d.Runtime != ""]; bytes != d.DownloadBytes || d.Runtime != "" && d.Runtime != got.Runtime {
					t.Errorf("%s by %s: %+v, and Pick downloads %d bytes with runtime %q", name, p.name, got, d.DownloadBytes, d.Runtime)
				}
			}
		}
	}
	if asked < 400 || cut > asked/5 {
		t.Errorf("%d machines were asked for, and %d had too little to tell", asked, cut)
	}
}

// TestPickerOnRandomMachines tries GPUs of one kind and of two, with many drivers and sizes of memory.
func TestPickerOnRandomMachines(t *testing.T) {
	r, host := past(t)[0].Release, hosts(t)["rtx-3090"]
	page := startBrowser(t).open(t, document(t), look{width: 1000})
	random := rand.New(rand.NewPCG(3, 4))
	sms := []matrix.SM{30, 37, 50, 52, 60, 61, 70, 75, 80, 86, 89, 90, 91, 100, 103, 120, 130, 145}
	drivers := []string{"470.256.02", "525.60.12", "525.60.13", "535.1", "550.54.14", "570.86.10", "580.65.06", "580.159.04", "610.10"}
	picked := map[string]int{}
	for range 1500 {
		host.Driver.Version = drivers[random.IntN(len(drivers))]
		host.GPUs = nil
		two := []matrix.SM{sms[random.IntN(len(sms))], sms[random.IntN(len(sms))]}
		for i := range 1 + random.IntN(4) {
			// A name that the page does not know: the compute capability tells.
			gpu := manifests.GPU{Index: i, Name: "NVIDIA Graphics Device, new", SM: two[random.IntN(2)], MemoryMiB: 8000 * (1 + random.IntN(3)), MIG: random.IntN(2) == 0}
			if gpu.MIG {
				gpu.MemoryMiB = 0
			}
			host.GPUs = append(host.GPUs, gpu)
		}
		want, err := expect(r, host)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(printers, func(p printer) bool { return p.memory && p.capability })
		text := printers[i].print(host)
		got := page.ask(t, text)
		if diff := cmp.Diff(want, found{Bundle: got.Bundle, Through: got.Through, Lack: got.Lack}); diff != "" {
			t.Fatalf("(-Pick +page):\n%s\n%s%s", diff, text, got.Said)
		}
		picked[got.Bundle]++
	}
	if len(picked) < 13 { // all bundles, and none
		t.Errorf("these were picked: %v", picked)
	}
}

// TestPickerKnowsNames types the name of every product.
func TestPickerKnowsNames(t *testing.T) {
	r, host := past(t)[0].Release, hosts(t)["rtx-3090"]
	host.Driver.Version = "999.0"
	page := startBrowser(t).open(t, document(t), look{width: 1000})
	for _, p := range allProducts() {
		host.GPUs, host.Arch = []manifests.GPU{{Name: p.Name, SM: p.SM}}, "amd64"
		if p.ARM64 {
			host.Arch = "arm64"
		}
		want, err := expect(r, host)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{p.Name, "NVIDIA " + strings.ToLower(p.Name), p.Name + " 24GB PCIe"} {
			got := page.ask(t, name)
			if diff := cmp.Diff(want, found{Bundle: got.Bundle, Through: got.Through, Lack: got.Lack}); diff != "" || !p.ARM64 && !strings.Contains(got.Said, p.SM.Capability()) {
				t.Errorf("%s says %q (-Pick +page):\n%s", name, got.Said, diff)
			}
		}
	}
}

// TestPickerReads has names as people type them, and as nvidia-smi of many versions prints them.
func TestPickerReads(t *testing.T) {
	page := startBrowser(t).open(t, document(t), look{width: 1000})
	row := func(name string) string {
		return "| NVIDIA-SMI 460.32.03    Driver Version: 460.32.03    CUDA Version: 11.2     |\n|   0  " + name + "  Off  | 00000000:01:00.0 Off |                  N/A |\n"
	}
	newer := func(name string) string {
		return strings.ReplaceAll(row(name), "460.32.03", "525.105.17")
	}
	for text, want := range map[string]string{
		"RTX 3090": "llcuda-bins-sm86", "9.1": "llcuda-bins-sm90", "rtx3090": "llcuda-bins-sm86", "3090": "llcuda-bins-sm86", "GeForce RTX 4070Ti Super": "llcuda-bins-sm89",
		"NVIDIA® GeForce® RTX™ 2080 Ti": "llcuda-bins-sm75", "gtx 1060 6gb": "llcuda-bins-sm61", "P4000": "llcuda-bins-sm61", "T4": "llcuda-bins-sm75",
		"NVIDIA RTX 6000 Ada Generation": "llcuda-bins-sm89", "Quadro RTX 6000": "llcuda-bins-sm75", "RTX PRO 6000 Blackwell Max-Q Workstation Edition": "llcuda-bins-sm120",
		"NVIDIA RTX A6000": "llcuda-bins-sm86", "TITAN X (Pascal)": "llcuda-bins-sm61", "GeForce GTX TITAN X": "llcuda-bins-sm50", "NVIDIA H100 NVL": "llcuda-bins-sm90",
		"NVIDIA GeForce RTX 3080 Laptop GPU": "llcuda-bins-sm86", "Tesla V100-SXM2-16GB": "llcuda-bins-sm70", "NVIDIA A10G": "llcuda-bins-sm86", "GTX 1650": "llcuda-bins-sm75",
		"NVIDIA A40-48Q": "llcuda-bins-sm86", "8.6": "llcuda-bins-sm86", "sm_75": "llcuda-bins-sm75", "sm120": "llcuda-bins-sm120", "12.1": "llcuda-bins-ptx90", "13.0": "llcuda-bins-ptx90",
		"01:00.0 VGA compatible controller: NVIDIA Corporation GA102 [GeForce RTX 3090] (rev a1)\n01:00.1 Audio device: NVIDIA Corporation GA102 High Definition Audio Controller (rev a1)\n": "llcuda-bins-sm86",
		"": "", "3.5": "none", "Tesla K80": "none", "GTX 680": "none", "GH200": "arm", "Jetson AGX Orin": "arm", "Orin (nvgpu)": "arm",
		"RTX 6000": "which", "titan x": "which", "rtx": "which", "rtx 4000": "which", "quadro": "which",
		"Radeon RX 7900 XTX": "unknown", "GeForce RTX 9990": "unknown", "NVIDIA Graphics Device": "unknown", "<b>x</b>": "unknown", "!!!": "unknown",
		newer("GeForce RTX 208..."): "llcuda-bins-sm75", newer("GeForce GTX 108..."): "llcuda-bins-sm61", newer("NVIDIA A100-SXM..."): "llcuda-bins-sm80", newer("Tesla V100-SXM2..."): "llcuda-bins-sm70",
		newer("NVIDIA GeForce ..."): "unknown", newer("Quadro RTX 600... "): "llcuda-bins-sm75", newer("NVIDIA RTX 6000..."): "which", newer("GeForce GTX TIT..."): "which",
		row("GeForce RTX 208..."): "old", newer("GeForce RTX 3090  "): "llcuda-bins-sm86", "> " + newer("Tesla T4          "): "llcuda-bins-sm75",
		"|   0  NVIDIA GeForce RTX 3080   WDDM  |   00000000:01:00.0  On |                  N/A |\n":                                                       "llcuda-bins-sm86",
		"name, compute_cap, driver_version\nNVIDIA H100 80GB HBM3, 9.0, 580.159.04\n":                                                                      "llcuda-bins-sm90",
		"name, compute_cap, driver_version, memory.total [MiB], mig.mode.current\nNVIDIA H100 80GB HBM3, 9.0, 580.159.04, 81559 MiB, Disabled\n":           "llcuda-bins-sm90",
		"index, name, driver_version\n0, NVIDIA GeForce RTX 5090, 570.86.10\n":                                                                             "llcuda-bins-ptx90",
		"index, name, driver_version\n0, NVIDIA GeForce RTX 5090, 535.183.06\n":                                                                            "old",
		"name, driver_version, memory.total [MiB]\nNVIDIA GeForce RTX 5090, 570.86.10, 32607 MiB\nNVIDIA H100 PCIe, 570.86.10, 81559 MiB\n":                "llcuda-bins-sm90",
		"name, driver_version, memory.total [MiB]\nNVIDIA GeForce RTX 5090, 570.86.10, 32607 MiB\nNVIDIA B200, 570.86.10, 183359 MiB\n":                    "llcuda-bins-ptx90",
		"index, name, driver_version\n0, NVIDIA GeForce RTX 5090, 580.95.05\n":                                                                             "llcuda-bins-sm120",
		"Field \"compute_cap\" is not a valid field to query.\n":                                                                                           "unknown",
		"GPU 0: Tesla T4 (UUID: GPU-1)\nGPU 1: Tesla T4 (UUID: GPU-2)\n":                                                                                   "llcuda-bins-sm75",
		"GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-1)\n  MIG 1g.5gb Device 0: (UUID: MIG-1)\n":                                                               "llcuda-bins-sm80",
		"GPU 0: Tesla T4 (UUID: GPU-1)\nGPU 1: NVIDIA GeForce RTX 3090 (UUID: GPU-2)\nGPU 2: NVIDIA H100 PCIe (UUID: GPU-3)\n":                             "plan",
		"name, compute_cap, driver_version, memory.total [MiB]\nNVIDIA A100-SXM4-40GB, 8.0, 550.54.14, [N/A]\nTesla T4, 7.5, 550.54.14, 15360 MiB\n":       "plan",
		"name, compute_cap, driver_version, memory.total [MiB]\nTesla T4, 7.5, 550.54.14, 15360 MiB\nNVIDIA GeForce RTX 3090, 8.6, 550.54.14, 24576 MiB\n": "llcuda-bins-sm86",
	} {
		got := page.ask(t, text)
		answer := got.Bundle
		switch {
		case got.Choices > 0:
			answer = "which"
		case strings.Contains(got.Said, "no bundle for"):
			answer = "none"
		case strings.Contains(got.Said, "Arm processor"):
			answer = "arm"
		case strings.Contains(got.Said, "too old"):
			answer = "old"
		case strings.Contains(got.Said, "llcuda-fetch plan"):
			answer = "plan"
		case strings.Contains(got.Said, "does not know") || strings.Contains(got.Said, "no GPU in this"):
			answer = "unknown"
		}
		if answer != want {
			t.Errorf("%q: %s, want %s: %+v", text, answer, want, got)
		}
	}
	if noise := page.noise(); noise != nil {
		t.Errorf("the browser says %q", noise)
	}
}
