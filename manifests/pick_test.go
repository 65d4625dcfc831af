package manifests_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/goldentest"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
)

// seedRelease is a release with the bundles of `build --sm all`, of real bundles' sizes.
func seedRelease(t testing.TB) manifests.Release {
	t.Helper()
	m, err := spec.Default()
	if err != nil {
		t.Fatal(err)
	}
	targets, err := m.Select("all")
	if err != nil {
		t.Fatal(err)
	}
	const mega = 1_000_000
	var list []manifests.Artifact
	for i, target := range targets {
		compiler, _ := m.ToolkitOf(target)
		for _, a := range bundle(target.Row()) {
			a.Toolkit = &manifests.Toolkit{CUDA: compiler.CUDA, NVCC: compiler.NVCC}
			a.GPUs = target.GPUs
			a.Tar = &manifests.Digest{SHA256: hash("a"), Size: 170*mega + int64(i)}
			a.Size = int64(map[string]int{manifests.FormatTarGz: 47 * mega, manifests.FormatTarZst: 28 * mega}[a.Format] + i)
			if target.PTX {
				a.Requires.DriverMin.PTX = compiler.DriverPTX
				a.Size += 4 * mega
			} else {
				a.DeviceCode.Cubin = []matrix.Code{target.Code()}
				a.Requires.DriverMin.Cubin = compiler.DriverCubin
			}
			list = append(list, a)
		}
	}
	// As the farm makes them: of CUDA 12 one for each SM major and one of PTX, linked from static libraries, of CUDA 13
	// NVIDIA's own.
	for _, of := range []struct {
		cuda, digit  string
		holds        manifests.DeviceCode
		ptx          []matrix.SM
		gz, zst, tar int64
	}{
		{"12.4.1", "5", code(50), nil, 94 * mega, 90 * mega, 174 * mega},
		{"12.4.1", "6", code(60, 61), nil, 104 * mega, 94 * mega, 188 * mega},
		{"12.4.1", "7", code(70, 75), nil, 102 * mega, 94 * mega, 189 * mega},
		{"12.4.1", "8", code(80, 86, 89), nil, 117 * mega, 100 * mega, 212 * mega},
		{"12.4.1", "9", code(90), nil, 211 * mega, 137 * mega, 318 * mega},
		{"12.4.1", "4", ptxCode(90), nil, 101 * mega, 94 * mega, 180 * mega},
		{"13.3.1", "d", code(75, 80, 86, 89, 90, 100, 103, 110, 120, 121), []matrix.SM{75, 120}, 411 * mega, 389 * mega, 573 * mega},
	} {
		for _, a := range runtimeOf(of.cuda, of.digit, of.holds, of.ptx...) {
			compiler, _ := m.ToolkitOf(matrix.Target{Toolkit: matrix.ToolkitName(of.cuda)})
			a.Toolkit = &manifests.Toolkit{CUDA: compiler.CUDA, NVCC: compiler.NVCC}
			a.Size = map[string]int64{manifests.FormatTarGz: of.gz, manifests.FormatTarZst: of.zst}[a.Format]
			a.Tar.Size = of.tar
			list = append(list, a)
		}
	}
	r, err := manifests.New(release, list, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestSeedRelease keeps the manifest of that release for the tests of other packages.
func TestSeedRelease(t *testing.T) {
	goldentest.Check(t, filepath.Join("testdata", "seed.json"), encode(t, seedRelease(t)))
}

func hosts(t testing.TB) map[string]manifests.Host {
	t.Helper()
	files, err := filepath.Glob("testdata/hosts/*.json")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d hosts in testdata, %v", len(files), err)
	}
	all := map[string]manifests.Host{}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		host, err := manifests.DecodeHost(f)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[strings.TrimSuffix(filepath.Base(file), ".json")] = host
	}
	return all
}

// trace is a decision as a person reads it.
func trace(d manifests.Decision, err error) string {
	var b strings.Builder
	var none *manifests.NoBundleError
	switch {
	case errors.As(err, &none):
		fmt.Fprintf(&b, "nothing, for want of a %s: %s\n", none.Lack, none.Reason)
		if none.Way != "" {
			fmt.Fprintf(&b, "  hint: %s\n", none.Way)
		}
	case err != nil:
		fmt.Fprintf(&b, "%v\n", err)
	default:
		fmt.Fprintf(&b, "%s through %s, runtime %q, %d bytes down, %d on disk, visible %q\n",
			d.Asset, d.Through, d.Runtime, d.DownloadBytes, d.DiskBytes, d.VisibleDevices)
	}
	for _, gpu := range d.GPUs {
		fmt.Fprintf(&b, "  GPU %d %s: served %t: %s\n", gpu.Index, gpu.Name, gpu.Served, gpu.Reason)
	}
	for _, v := range d.Bundles {
		fmt.Fprintf(&b, "  %s: chosen %t: %s\n", v.Bundle, v.Chosen, v.Reason)
	}
	return b.String()
}

// outcome is a decision in two words, or what the host lacks.
func outcome(d manifests.Decision, err error) string {
	if none, ok := errors.AsType[*manifests.NoBundleError](err); ok {
		return string(none.Lack)
	}
	return d.Row.String() + " " + d.Through
}

// TestPick compares the whole trace of every host in the corpus with its golden file. Read a golden
// file before you commit it.
func TestPick(t *testing.T) {
	r := seedRelease(t)
	all := hosts(t)
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "%s: %s\n", name, trace(manifests.Pick(r, all[name], manifests.PickOptions{})))
	}
	goldentest.Check(t, filepath.Join("testdata", "picks.txt"), []byte(b.String()))
}

// TestPickOfEachHost says in one line what the golden files say in many.
func TestPickOfEachHost(t *testing.T) {
	want := map[string]string{
		"colab-t4": "sm75 cubin", "colab-v100": "sm70 cubin", "colab-a100": "sm80 cubin", "colab-l4": "sm89 cubin", "colab-cpu": "gpu",
		"kaggle-t4x2": "sm75 cubin", "kaggle-p100": "sm60 cubin", "940m": "sm50 cubin", "gtx-750-ti": "sm50 cubin", "gtx-970": "sm50 cubin",
		"gtx-1060": "sm61 cubin", "gtx-1080-ti-driver-535": "sm61 cubin", "tesla-p40": "sm61 cubin", "titan-v": "sm70 cubin",
		"gtx-1650": "sm75 cubin", "rtx-2080-ti": "sm75 cubin", "rtx-3060-laptop": "sm86 cubin", "rtx-3090": "sm86 cubin",
		"rtx-3090-cuda-env": "sm86 cubin", "rtx-3090-split-libraries": "sm86 cubin", "a10": "sm86 cubin", "a30": "sm80 cubin",
		"rtx-4090": "sm89 cubin", "rtx-4090-and-1080-ti": "sm89 cubin", "rtx-3090-and-4090": "sm86 cubin", "rtx-4090-and-5090": "ptx90 ptx", "h100-and-5090": "sm90 cubin",
		"p100-and-p40": "sm60 cubin", "two-1080-ti-and-2060": "sm61 cubin", "h100": "sm90 cubin", "h100-cuda-13": "sm90 cubin", "t4-without-cuda": "sm75 cubin", "t4-without-cublaslt": "sm75 cubin", "rtx-5090-pip-cuda-13": "sm120 cubin", "h100-driver-535": "sm90 cubin",
		"h100-mig": "sm90 cubin", "a100-mig-and-t4": "sm75 cubin", "rtx-5090": "ptx90 ptx", "rtx-5090-driver-580": "sm120 cubin", "rtx-pro-6000-and-5060": "sm120 cubin", "b200": "sm100 cubin", "b300": "sm100 cubin", "sm-121": "ptx90 ptx", "jetson-orin": "bundle",
		"wsl2-rtx-3080": "sm86 cubin", "driver-470": "bundle", "driver-470-known-sm": "bundle", "no-driver": "driver", "no-gpu": "gpu",
		"driver-without-gpu": "gpu", "ubuntu-20.04": "sm86 cubin", "centos-7": "bundle", "alpine": "bundle", "no-libstdcxx": "bundle", "old-libstdcxx": "bundle",
		"full-disk": "disk", "unknown-disk": "sm86 cubin", "gtx-680-kepler": "bundle", "mixed-without-uuid": "sm86 cubin",
		"container-rtx-a6000": "sm86 cubin", "arm64-grace-hopper": "bundle", "macos": "bundle",
		"rtx-4090-and-1080-ti-visible": "sm61 cubin", "hidden-gpus": "gpu", "driver-mismatch": "gpu", "container-without-gpus": "gpu", "utility-alone": "gpu",
		"a100-slice": "sm80 cubin", "nixos": "bundle", "rhel-8": "sm70 cubin", "rhel-9": "sm80 cubin", "amazon-linux-2023": "sm75 cubin", "old-libstdcxx-in-path": "bundle", "image-build": "gpu",
	}
	r := seedRelease(t)
	got := map[string]string{}
	for name, host := range hosts(t) {
		got[name] = outcome(manifests.Pick(r, host, manifests.PickOptions{}))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPickOptions(t *testing.T) {
	r, all := seedRelease(t), hosts(t)
	for _, test := range []struct {
		name, host, want string
		opts             manifests.PickOptions
	}{
		{"a P100 never runs code for 6.1", "kaggle-p100", "bundle", manifests.PickOptions{Row: sm(61)}},
		{"a 1080 runs code for 6.0", "gtx-1060", "sm60 cubin", manifests.PickOptions{Row: sm(60)}},
		{"Pascal never runs code for 7.5", "gtx-1060", "bundle", manifests.PickOptions{Row: sm(75)}},
		{"Volta never runs code for 7.5", "colab-v100", "bundle", manifests.PickOptions{Row: sm(75)}},
		{"a bundle that the release lacks", "h100", "bundle", manifests.PickOptions{Row: sm(110)}},
		{"PTX for a GPU that machine code serves as well", "b200", "ptx90 ptx", manifests.PickOptions{Row: ptx(90)}},
		{"PTX for the newer one of two GPUs", "h100-and-5090", "ptx90 ptx", manifests.PickOptions{Row: ptx(90)}},
		{"no PTX for a GPU of its own SM", "h100", "bundle", manifests.PickOptions{Row: ptx(90)}},
		{"no PTX for an older GPU", "rtx-4090", "bundle", manifests.PickOptions{Row: ptx(90)}},
		{"PTX that the release lacks", "rtx-5090", "bundle", manifests.PickOptions{Row: ptx(75)}},
		{"machine code of 9.0 without the PTX of 9.0", "rtx-5090", "bundle", manifests.PickOptions{Row: sm(90)}},
		{"PTX for a GPU of another machine", "image-build", "ptx90 ptx", manifests.PickOptions{Row: ptx(90)}},
		{"the CPU half of a bundle of PTX", "image-build", "ptx90 cpu", manifests.PickOptions{Row: ptx(90), AllowCPU: true}},
		{"a CPU when allowed", "no-gpu", "sm50 cpu", manifests.PickOptions{AllowCPU: true}},
		{"a CPU when allowed, one bundle", "no-gpu", "sm75 cpu", manifests.PickOptions{AllowCPU: true, Row: sm(75)}},
		{"the GPU even where the CPU is allowed", "colab-t4", "sm75 cubin", manifests.PickOptions{AllowCPU: true}},
		{"a GPU of another machine, by its SM", "image-build", "sm86 cubin", manifests.PickOptions{Row: sm(86)}},
		{"a GPU of another machine, where the driver is", "driver-without-gpu", "sm86 cubin", manifests.PickOptions{Row: sm(86)}},
		{"a GPU of another machine, where CUDA refuses its own", "driver-mismatch", "sm61 cubin", manifests.PickOptions{Row: sm(61)}},
		{"a GPU of another machine, on an idle one of the bus", "no-driver", "sm61 cubin", manifests.PickOptions{Row: sm(61)}},
		{"the CPU half of a bundle by its SM", "image-build", "sm86 cpu", manifests.PickOptions{Row: sm(86), AllowCPU: true}},
		{"no GPU of another machine where there is one", "rtx-4090", "bundle", manifests.PickOptions{Row: sm(50)}},
		{"no GPU of another machine with an old driver", "driver-470", "bundle", manifests.PickOptions{Row: sm(61)}},
		{"no GPU of another machine on musl", "alpine", "bundle", manifests.PickOptions{Row: sm(86)}},
		{"an SM that the release lacks", "image-build", "bundle", manifests.PickOptions{Row: sm(110)}},
		{"a CPU when allowed, where CUDA refuses", "hidden-gpus", "sm50 cpu", manifests.PickOptions{AllowCPU: true}},
		{"no CPU half for another system", "centos-7", "bundle", manifests.PickOptions{AllowCPU: true}},
	} {
		d, err := manifests.Pick(r, all[test.host], test.opts)
		if got := outcome(d, err); got != test.want {
			t.Errorf("%s: %s, want %s\n%s", test.name, got, test.want, trace(d, err))
		}
	}
}

// TestPickForAbsentGPU is for images: the bundle comes with the CUDA libraries, hides nothing and
// says what it is for.
func TestPickForAbsentGPU(t *testing.T) {
	r, all := seedRelease(t), hosts(t)
	d, err := manifests.Pick(r, all["image-build"], manifests.PickOptions{Row: sm(86)})
	if err != nil || !d.Absent() || d.Runtime == "" || len(d.VisibleDevices) > 0 || len(d.GPUs) > 0 {
		t.Errorf("%v\n%s", err, trace(d, err))
	}
	chosen := d.Bundles[slices.IndexFunc(d.Bundles, func(v manifests.BundleVerdict) bool { return v.Chosen })]
	if want := "it is for a GPU that is not here: sm86 was asked for, and there is no GPU"; chosen.Reason != want {
		t.Errorf("%q, want %q", chosen.Reason, want)
	}
	for _, test := range []struct {
		host string
		opts manifests.PickOptions
	}{{"rtx-3090", manifests.PickOptions{Row: sm(86)}}, {"image-build", manifests.PickOptions{Row: sm(86), AllowCPU: true}}} {
		if d, err := manifests.Pick(r, all[test.host], test.opts); err != nil || d.Absent() {
			t.Errorf("%s: %v\n%s", test.host, err, trace(d, err))
		}
	}
}

// TestPickWithoutMemory prefers machine code where the memory of no GPU is known.
func TestPickWithoutMemory(t *testing.T) {
	r, host := seedRelease(t), hosts(t)["h100-and-5090"]
	for i := range host.GPUs {
		host.GPUs[i].MemoryMiB = 0
	}
	d, err := manifests.Pick(r, host, manifests.PickOptions{})
	const why = "  llcuda-bins-ptx90: chosen false: llcuda-bins-sm90 has machine code where this one has PTX\n"
	if got := outcome(d, err); got != "sm90 cubin" || !strings.Contains(trace(d, err), why) {
		t.Errorf("%s\n%s", got, trace(d, err))
	}
}

// TestPickByHand is for GPUs whose compute capability nothing tells: the reason names --sm as the
// way out, so it must be one.
func TestPickByHand(t *testing.T) {
	r, host := seedRelease(t), hosts(t)["driver-470"]
	for _, test := range []struct {
		driver, want string
		row          matrix.Row
	}{
		{"535.104.05", "bundle", matrix.Row{}}, {"535.104.05", "sm61 cubin", sm(61)}, {"470.256.02", "bundle", sm(61)},
		{"", "driver", matrix.Row{}}, {"", "sm61 cubin", sm(61)},
		{"550.54.14", "ptx90 ptx", ptx(90)}, {"550.54.13", "bundle", ptx(90)}, {"", "ptx90 ptx", ptx(90)},
	} {
		host.Driver.Version = test.driver
		d, err := manifests.Pick(r, host, manifests.PickOptions{Row: test.row})
		if got := outcome(d, err); got != test.want {
			t.Errorf("driver %q, %s: %s, want %s\n%s", test.driver, test.row, got, test.want, trace(d, err))
		}
	}
}

// TestPickLooksAtTheCPU keeps bundles from processors that none of their CPU backends runs on.
func TestPickLooksAtTheCPU(t *testing.T) {
	r, host := seedRelease(t), hosts(t)["colab-t4"]
	for _, test := range []struct {
		variants, features []string
		want               string
	}{
		{[]string{"haswell", "x64"}, []string{"sse4_2"}, "sm75 cubin"},
		{[]string{"haswell", "zen4"}, []string{"avx", "sse4_2"}, "bundle"},
		{[]string{"haswell", "zen4"}, []string{"avx", "avx2", "sse4_2"}, "sm75 cubin"},
		{[]string{"haswell", "sandybridge"}, []string{"avx", "sse4_2"}, "sm75 cubin"},
		{[]string{"haswell", "sse42"}, []string{"sse2"}, "bundle"},
		{[]string{"haswell"}, []string{}, "sm75 cubin"}, // unknown
	} {
		for i, a := range r.Assets {
			if a.Requires != nil {
				requires := *a.Requires
				requires.CPUVariants = test.variants
				r.Assets[i].Requires = &requires
			}
		}
		host.CPU.Features = test.features
		d, err := manifests.Pick(r, host, manifests.PickOptions{})
		if got := outcome(d, err); got != test.want {
			t.Errorf("%q on %q: %s, want %s\n%s", test.variants, test.features, got, test.want, trace(d, err))
		}
	}
}

// TestPickKeepsTheRules tries many GPUs, drivers and orders of assets.
func TestPickKeepsTheRules(t *testing.T) {
	r, host := seedRelease(t), hosts(t)["rtx-3090"]
	random := rand.New(rand.NewPCG(1, 2))
	sms := []matrix.SM{0, 30, 50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121}
	drivers := []string{"", "470.256.02", "525.60.13", "535.1", "550.54.14", "580.159.04"}
	picked := 0
	for range 5000 {
		host.Driver.Version = drivers[random.IntN(len(drivers))]
		host.GPUs = nil
		for i := range random.IntN(4) {
			host.GPUs = append(host.GPUs, manifests.GPU{Index: i, UUID: fmt.Sprint("GPU-", i), SM: sms[random.IntN(len(sms))], MemoryMiB: random.IntN(4) * 8000, MIG: random.IntN(5) == 0})
		}
		d, err := manifests.Pick(r, host, manifests.PickOptions{})
		shuffled := r
		shuffled.Assets = slices.Clone(r.Assets)
		random.Shuffle(len(shuffled.Assets), func(i, j int) {
			shuffled.Assets[i], shuffled.Assets[j] = shuffled.Assets[j], shuffled.Assets[i]
		})
		again, againErr := manifests.Pick(shuffled, host, manifests.PickOptions{})
		if diff := cmp.Diff(trace(d, err), trace(again, againErr)); diff != "" {
			t.Fatalf("the order of the assets changes the decision:\n%s", diff)
		}
		if err != nil {
			continue
		}
		picked++
		i := slices.IndexFunc(r.Assets, func(a manifests.Artifact) bool { return a.Name == d.Asset })
		code, floors := r.Assets[i].DeviceCode, r.Assets[i].Requires.DriverMin
		for _, gpu := range d.GPUs {
			cubin := slices.ContainsFunc(code.Cubin, gpu.SM.RunsCubin) && matrix.CompareVersions(host.Driver.Version, floors.Cubin) >= 0
			older := func(c matrix.Code) bool { return gpu.SM > c.SM && gpu.SM.RunsPTX(c) }
			ptx := slices.ContainsFunc(code.PTX, older) && matrix.CompareVersions(host.Driver.Version, floors.PTX) >= 0
			if gpu.Served != (gpu.SM != 0 && (cubin || ptx)) {
				t.Fatalf("%s is served: %t\n%s", gpu.SM, gpu.Served, trace(d, err))
			}
		}
	}
	if picked < 1000 {
		t.Errorf("only %d of the hosts got a bundle: this test proves little", picked)
	}
}

func TestDecodeHost(t *testing.T) {
	good, err := os.ReadFile("testdata/hosts/colab-t4.json")
	if err != nil {
		t.Fatal(err)
	}
	host, err := manifests.DecodeHost(strings.NewReader(string(good)))
	if err != nil {
		t.Fatal(err)
	}
	again, err := host.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(good), string(again)); diff != "" {
		t.Errorf("the host is not written as it was read (-want +got):\n%s", diff)
	}
	for _, test := range []struct{ old, new, want string }{
		{`"sm": 75`, `"sm": "75"`, "gpus[0].sm: want a number, found text"},
		{`"sm": 75`, `"sm": 7`, "gpus[0].sm: 7 is not a compute capability"},
		{`"mig": false`, `"mig": 0`, "gpus[0].mig: want true or false, found a number"},
		{`"mig": false`, `"mig": null`, "gpus[0].mig: want true or false, found null"},
		{`"platform": "colab"`, `"platform": "cloud"`, `platform: "cloud" is none of`},
		{`"platform": "colab",`, ``, "platform: missing"},
		{`"asked": true,`, ``, "cuda.asked: missing"},
		{`"environment": []`, `"environment": ["CUDA_VISIBLE_DEVICES"]`, "cuda.environment[0]: \"CUDA_VISIBLE_DEVICES\" is not NAME=VALUE"},
		{`"error": 0`, `"error": -1`, "cuda.error: -1 is less than 0"},
		{`"problem": ""`, `"problem": "none"`, "cuda.problem: given, and gpus lists 1 that programs have"},
		{`"os"`, `"system"`, "system: unknown field"},
		{`"glibc": "2.35"`, `"glibc": "new"`, `glibc: "new" is not dotted numbers`},
		{`"memory_mib": 15360`, `"memory_mib": -1`, "gpus[0].memory_mib: -1 is less than 0"},
		{`"source": "toolkit"`, `"source": ""`, "cuda_libraries[0]: name and source are required"},
	} {
		bad := strings.Replace(string(good), test.old, test.new, 1)
		if _, err := manifests.DecodeHost(strings.NewReader(bad)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s instead of %s: %v, want %s", test.new, test.old, err, test.want)
		}
	}
	host.Platform = "cloud"
	if _, err := host.Encode(); err == nil {
		t.Error("a host that cannot be read is written")
	}
}

func FuzzDecodeHost(f *testing.F) {
	for _, host := range hosts(f) {
		data, err := host.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	r := seedRelease(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		host, err := manifests.DecodeHost(strings.NewReader(string(data)))
		if err != nil {
			return
		}
		written, err := host.Encode()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if again, err := manifests.DecodeHost(strings.NewReader(string(written))); err != nil || !cmp.Equal(host, again) {
			t.Fatalf("what was written is read as something else: %v", err)
		}
		d, _ := manifests.Pick(r, host, manifests.PickOptions{})
		if _, err := json.Marshal(d); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkPick(b *testing.B) {
	r, host := seedRelease(b), hosts(b)["rtx-4090-and-1080-ti"]
	for b.Loop() {
		if _, err := manifests.Pick(r, host, manifests.PickOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}
