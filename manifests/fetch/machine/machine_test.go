package machine

import (
	"encoding/json"
	"hash/fnv"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/waqasm86/llcuda-farm/manifests/goldentest"
)

// gpu is a GPU's file under sys.
func gpu(address, device string) map[string]string {
	return map[string]string{"sys/bus/pci/drivers/nvidia/" + address + "/device": device + "\n"}
}

// Machines as their kernels show them.
func TestLook(t *testing.T) {
	driver := map[string]string{"sys/module/nvidia/version": "550.54.14\n", "dev/nvidiactl": ""}
	nodes := func(numbers ...string) map[string]string {
		files := map[string]string{}
		for _, number := range numbers {
			files["dev/nvidia"+number] = ""
		}
		return files
	}
	const modalias = "cpu:type:x86,ven0000fam0006mod008F:feature:,0000"
	kinds := map[string]kindRow{}
	sum := fnv.New64a()
	sum.Write([]byte(modalias))
	for name, test := range map[string]struct {
		files []map[string]string
		want  Machine
	}{
		"no GPU": {nil, Machine{Kind: "none", Fingerprint: "none", Unreachable: true}},
		"one": {[]map[string]string{driver, gpu("0000:00:04.0", "0x1eb8"), nodes("0")},
			Machine{Kind: "1x1eb8", Fingerprint: "1x1eb8 driver 550.54.14", GPUs: 1, Alike: true}},
		"before the first use": {[]map[string]string{{"sys/module/nvidia/version": "550.54.14\n"}, gpu("0000:00:04.0", "0x1eb8")},
			Machine{Kind: "1x1eb8", Fingerprint: "1x1eb8 driver 550.54.14", GPUs: 1, Alike: true, Unreachable: true}},
		"two kinds, in whichever order": {[]map[string]string{driver, gpu("0000:00:04.0", "0x2204"), gpu("0000:00:05.0", "0x1b80"), gpu("0000:00:06.0", "0x2204"), nodes("0", "1", "2")},
			Machine{Kind: "1x1b80,2x2204", Fingerprint: "1x1b80,2x2204 driver 550.54.14", GPUs: 3}},
		"a container with one of two alike": {[]map[string]string{driver, gpu("0000:00:04.0", "0x1eb8"), gpu("0000:00:05.0", "0x1eb8"), nodes("1")},
			Machine{Kind: "1x1eb8", Fingerprint: "1x1eb8 driver 550.54.14", GPUs: 1, Alike: true}},
		"a container with one of two kinds": {[]map[string]string{driver, gpu("0000:00:04.0", "0x2204"), gpu("0000:00:05.0", "0x1b80"), nodes("1")},
			Machine{Kind: "1x1b80,1x2204-1", Fingerprint: "1x1b80,1x2204-1 driver 550.54.14", GPUs: 1}},
		"no bus": {[]map[string]string{{"proc/driver/nvidia/gpus/0000:00:04.0/information": "Model: \t\t Tesla T4\nIRQ: 10\n", "proc/driver/nvidia/version": "NVRM version: 550\nGCC: 12\n", "dev/nvidiactl": ""}},
			Machine{Kind: "1xTesla_T4", Fingerprint: "1xTesla_T4 driver NVRM version: 550", GPUs: 1, Alike: true}},
		"nothing but the devices": {[]map[string]string{{"dev/nvidiactl": ""}, nodes("0", "3")},
			Machine{Kind: "2xgpu", Fingerprint: "2xgpu driver unknown", GPUs: 2, Alike: true}},
		"the driver and no GPU": {[]map[string]string{driver}, Machine{Kind: "none", Fingerprint: "none"}},
		"the processor": {[]map[string]string{{"sys/devices/system/cpu/modalias": modalias + "\n"}},
			Machine{Kind: "none", Fingerprint: "none cpu " + strconv.FormatUint(sum.Sum64(), 16), Unreachable: true}},
		"names that are not file names": {[]map[string]string{{"proc/driver/nvidia/gpus/0/information": "Model: NVIDIA A100-SXM4/40GB (é)\n", "proc/driver/nvidia/gpus/1/information": "IRQ: 1\n"}},
			Machine{Kind: "1xNVIDIA_A100_SXM4_40GB_____,1xgpu", Fingerprint: "1xNVIDIA_A100_SXM4_40GB_____,1xgpu driver unknown", GPUs: 2, Unreachable: true}},
		"WSL": {[]map[string]string{{"dev/dxg": ""}}, Machine{Kind: "wsl", Fingerprint: "wsl"}},
	} {
		root := t.TempDir()
		kind := kindRow{map[string]string{}, test.want.Kind}
		for _, files := range test.files {
			for path, text := range files {
				write(t, filepath.Join(root, path), text)
				kind.Files[path] = text
			}
		}
		kinds[name] = kind
		if diff := cmp.Diff(test.want, Look(root)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}

	const golden = "testdata/kinds.json"
	got, err := json.MarshalIndent(kinds, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	goldentest.Check(t, golden, append(got, '\n'))
}

// A kindRow is a row of the table that the tests of the Python package read, which finds a
// machine's kind by itself.
type kindRow struct {
	Files map[string]string `json:"files"`
	Kind  string            `json:"kind"`
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

// The kernel of WSL knows nothing of Windows' driver, whose libcuda comes with it.
func TestFingerprintOfWSL(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, wslDevice), "")
	without := Look(root).Fingerprint
	write(t, filepath.Join(root, wslLibrary), "one")
	with := Look(root).Fingerprint
	write(t, filepath.Join(root, wslLibrary), "another")
	if updated := Look(root).Fingerprint; without == with || with == updated {
		t.Errorf("%q, with libcuda %q, updated %q", without, with, updated)
	}
}
