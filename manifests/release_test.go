package manifests_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/goldentest"
	"github.com/waqasm86/llcuda-farm/matrix"
)

func TestEncode(t *testing.T) {
	want := sample(t)
	data := encode(t, want)
	goldentest.Check(t, filepath.Join("testdata", manifests.ManifestName), data)
	got, err := decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(string(data), string(encode(t, got))); diff != "" {
		t.Errorf("written again (-want +got):\n%s", diff)
	}
}

// The order in which several machines deliver their bundles must not show.
func TestNewSorts(t *testing.T) {
	list := assets()
	slices.Reverse(list)
	before := list[0].Name
	got, err := manifests.New(release, list, models)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(t), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if list[0].Name != before {
		t.Error("New changed its argument")
	}
}

func TestNewRefuses(t *testing.T) {
	_, err := manifests.New(release, runtime(), nil)
	if want := "making a manifest: there is no bundle with llama_cpp and toolkit"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	// Bundles of two machines whose checkouts differed.
	list, other := assets(), llama
	other.Commit = strings.Repeat("d", 40)
	list[2].LlamaCPP, list[3].LlamaCPP = &other, &other
	_, err = manifests.New(release, list, models)
	want := `making a manifest: assets[2].llama_cpp: "0.5.0", commit "` + other.Commit + `", build 1; the release has "0.5.0", "` + llama.Commit + `", 1
assets[3].llama_cpp: "0.5.0", commit "` + other.Commit + `", build 1; the release has "0.5.0", "` + llama.Commit + `", 1`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// asset edits the asset of a name, and does not touch what it shares with its twin.
func asset(r *manifests.Release, name string) *manifests.Artifact {
	i := slices.IndexFunc(r.Assets, func(a manifests.Artifact) bool { return a.Name == name })
	return &r.Assets[i]
}

func TestCheckRefuses(t *testing.T) {
	const gz, zst = "llcuda-bins-sm75.tar.gz", "llcuda-bins-sm75.tar.zst"
	const cudart = "llcuda-cudart-cu12-bbbbbbbbbbbb.tar.gz"
	const ptxGz, ptxZst = "llcuda-bins-ptx90.tar.gz", "llcuda-bins-ptx90.tar.zst"
	both := func(r *manifests.Release, edit func(*manifests.Artifact)) {
		edit(asset(r, gz))
		edit(asset(r, zst))
	}
	bothPTX := func(r *manifests.Release, edit func(*manifests.Artifact)) {
		edit(asset(r, ptxGz))
		edit(asset(r, ptxZst))
	}
	for name, test := range map[string]struct {
		edit func(*manifests.Release)
		want string
	}{
		"schema":     {func(r *manifests.Release) { r.SchemaVersion = 0 }, "schema_version: 0, want 1"},
		"release":    {func(r *manifests.Release) { r.Release = "" }, `release: "" is not a name: letters, digits and ._- with no dot in front`},
		"epoch":      {func(r *manifests.Release) { r.SourceDateEpoch = 0 }, "source_date_epoch: 0 is not between 1 and 8589934591"},
		"toolkit":    {func(r *manifests.Release) { r.Toolkits[0].CUDA = "12.8.0" }, "toolkits[0]: no bundle was made with CUDA \"12.8.0\", nvcc \"12.4.131\"\nassets[0].toolkit: CUDA \"12.4.1\", nvcc \"12.4.131\": not one of the release's toolkits"},
		"no toolkit": {func(r *manifests.Release) { r.Toolkits = nil }, `assets[0].toolkit: CUDA "12.4.1", nvcc "12.4.131": not one of the release's toolkits`},
		"toolkits' order": {func(r *manifests.Release) {
			r.Toolkits = append([]manifests.Toolkit{{CUDA: "13.3.1", NVCC: "13.3.73"}}, r.Toolkits...)
		}, "toolkits[0]: no bundle was made with CUDA \"13.3.1\", nvcc \"13.3.73\"\ntoolkits[1].cuda: \"12.4.1\" comes after \"13.3.1\": toolkits ascend"},
		"two of a major": {func(r *manifests.Release) {
			r.Toolkits = append(r.Toolkits, manifests.Toolkit{CUDA: "12.8.1", NVCC: "12.8.93"})
		}, "toolkits[1].cuda: \"12.4.1\" and \"12.8.1\" are of one major: a release has one toolkit of each\ntoolkits[1]: no bundle was made with CUDA \"12.8.1\", nvcc \"12.8.93\""},
		"asset of another":  {func(r *manifests.Release) { both(r, func(a *manifests.Artifact) { a.Release = "v1" }) }, `assets[2].release: "v1"; the release is "v1.1.0-runtime"`},
		"another time":      {func(r *manifests.Release) { both(r, func(a *manifests.Artifact) { a.SourceDateEpoch = 1 }) }, "assets[2].source_date_epoch: 1; the release has 1790553600"},
		"empty":             {func(r *manifests.Release) { r.Assets = nil }, "toolkits[0]: no bundle was made with CUDA \"12.4.1\", nvcc \"12.4.131\"\nassets: no bundle"},
		"too many":          {func(r *manifests.Release) { r.Assets = make([]manifests.Artifact, 1001) }, "assets: 1001, more than 1000"},
		"order":             {func(r *manifests.Release) { r.Assets[0], r.Assets[1] = r.Assets[1], r.Assets[0] }, `assets[1].name: "llcuda-bins-ptx90.tar.gz" comes after "llcuda-bins-ptx90.tar.zst": assets ascend by name, each once`},
		"twice":             {func(r *manifests.Release) { r.Assets = slices.Insert(r.Assets, 8, r.Assets[7]) }, `assets[8].name: "sbom.spdx.json" comes after "sbom.spdx.json": assets ascend by name, each once`},
		"twin missing":      {func(r *manifests.Release) { r.Assets = r.Assets[1:] }, `assets[0]: "llcuda-bins-ptx90.tar.zst" stands alone: every archive is there as tar.gz and tar.zst`},
		"twin differs":      {func(r *manifests.Release) { asset(r, gz).Tar = &manifests.Digest{SHA256: hash("0"), Size: 10000} }, `assets[3]: "llcuda-bins-sm75.tar.gz" and "llcuda-bins-sm75.tar.zst" do not say the same of the tar inside`},
		"twin differs more": {func(r *manifests.Release) { asset(r, zst).GPUs = []string{"T4"} }, `assets[3]: "llcuda-bins-sm75.tar.gz" and "llcuda-bins-sm75.tar.zst" do not say the same of the tar inside`},
		"no runtime":        {func(r *manifests.Release) { r.Assets = slices.Delete(r.Assets, 4, 6) }, "assets: no CUDA runtime for llcuda-bins-sm75\nassets: no CUDA runtime for llcuda-bins-ptx90"},
		"two runtimes": {func(r *manifests.Release) {
			other := runtime()
			for i, a := range other {
				a.Name = strings.Replace(a.Name, "bbbbbbbbbbbb", "cccccccccccc", 1)
				a.URL, a.Tar = a.Name, &manifests.Digest{SHA256: hash("c"), Size: 1}
				other[i] = a
			}
			r.Assets = slices.Insert(r.Assets, 6, other...)
		}, "assets: llcuda-cudart-cu12-cccccccccccc is the CUDA runtime of no bundle, or of bundles that have another"},
		"no bundle":   {func(r *manifests.Release) { r.Assets, r.Toolkits = r.Assets[4:], nil }, "assets[0].toolkit: CUDA \"12.4.1\", nvcc \"12.4.131\": not one of the release's toolkits"},
		"models":      {func(r *manifests.Release) { slices.Reverse(r.Models) }, `models[1].name: "a" comes after "b": models ascend by name`},
		"model names": {func(r *manifests.Release) { r.Models[1].Aliases = []string{"A1"} }, `models[1]: "A1" is already a name of a`},

		"dot name":   {func(r *manifests.Release) { r.Assets[7].Name = ".sbom" }, "assets[7].name: \".sbom\" comes after \"llcuda-fetch_linux_amd64\": assets ascend by name, each once\nassets[7].name: \".sbom\" is not a name: letters, digits and ._- with no dot in front\nassets[7].url: \"sbom.spdx.json\" does not lead to \".sbom\" below the release"},
		"slash name": {func(r *manifests.Release) { r.Assets[7].Name, r.Assets[7].URL = "s/x", "s/x" }, "assets[7].name: \"s/x\" is not a name: letters, digits and ._- with no dot in front\nassets[7].url: \"s/x\" does not lead to \"s/x\" below the release"},
		"long name": {func(r *manifests.Release) {
			r.Assets[7].Name = strings.Repeat("s", 256)
			r.Assets[7].URL = r.Assets[7].Name
		}, `assets[7].name: "` + strings.Repeat("s", 80) + `…" is not a name: letters, digits and ._- with no dot in front`},
		"reserved":       {func(r *manifests.Release) { r.Assets[7].Name, r.Assets[7].URL = "manifest.json", "manifest.json" }, "assets[7].name: manifest.json is a name of the release itself"},
		"scheme":         {func(r *manifests.Release) { r.Assets[7].URL = "https://example.org/sbom.spdx.json" }, `assets[7].url: "https://example.org/sbom.spdx.json" does not lead to "sbom.spdx.json" below the release`},
		"host":           {func(r *manifests.Release) { r.Assets[7].URL = "//example.org/sbom.spdx.json" }, `assets[7].url: "//example.org/sbom.spdx.json" does not lead to "sbom.spdx.json" below the release`},
		"absolute":       {func(r *manifests.Release) { r.Assets[7].URL = "/sbom.spdx.json" }, `assets[7].url: "/sbom.spdx.json" does not lead to "sbom.spdx.json" below the release`},
		"up":             {func(r *manifests.Release) { r.Assets[7].URL = "../sbom.spdx.json" }, `assets[7].url: "../sbom.spdx.json" does not lead to "sbom.spdx.json" below the release`},
		"escaped":        {func(r *manifests.Release) { r.Assets[7].URL = "%2e%2e/sbom.spdx.json" }, `assets[7].url: "%2e%2e/sbom.spdx.json" does not lead to "sbom.spdx.json" below the release`},
		"query":          {func(r *manifests.Release) { r.Assets[7].URL = "x?y=/sbom.spdx.json" }, `assets[7].url: "x?y=/sbom.spdx.json" does not lead to "sbom.spdx.json" below the release`},
		"another's URL":  {func(r *manifests.Release) { r.Assets[7].URL = gz }, `assets[7].url: "llcuda-bins-sm75.tar.gz" does not lead to "sbom.spdx.json" below the release`},
		"size":           {func(r *manifests.Release) { r.Assets[7].Size = 0 }, "assets[7].size: 0 is not between 1 and 1099511627776"},
		"size too large": {func(r *manifests.Release) { r.Assets[7].Size = 1 << 62 }, "assets[7].size: 4611686018427387904 is not between 1 and 1099511627776"},
		"upper-case hex": {func(r *manifests.Release) { r.Assets[7].SHA256 = hash("A") }, `assets[7].sha256: "` + hash("A") + `" is not 64 lower-case hex digits`},
		"kind":           {func(r *manifests.Release) { r.Assets[7].Kind = "firmware" }, `assets[7].kind: "firmware" is none of bundle, cudart, client, sbom, provenance`},
		"no fields": {func(r *manifests.Release) { r.Assets[7].Kind = "cudart" }, "assets[7].format: missing from an asset of kind cudart\nassets[7].tar: missing from an asset of kind cudart\nassets[7].toolkit: missing from an asset of kind cudart\nassets[7].device_code: missing from an asset of kind cudart\nassets[7].libraries: missing from an asset of kind cudart\n" +
			"assets[7]: \"sbom.spdx.json\" stands alone: every archive is there as tar.gz and tar.zst\nassets: sbom.spdx.json is the CUDA runtime of no bundle, or of bundles that have another"},
		"other's fields": {func(r *manifests.Release) { r.Assets[7].Row = sm(75) }, "assets[7].sm: has no meaning in an asset of kind sbom"},
		"format":         {func(r *manifests.Release) { asset(r, gz).Format = "tar.xz" }, "assets[2].format: \"tar.xz\", want tar.gz or tar.zst as in the name"},
		"control text":   {func(r *manifests.Release) { both(r, func(a *manifests.Artifact) { a.GPUs = []string{"T4\x1b]0;x\a"} }) }, `assets[2].gpus[0]: "T4\x1b]0;x\a" cannot be printed in one line`},
		"broken text":    {func(r *manifests.Release) { both(r, func(a *manifests.Artifact) { a.GPUs = []string{"T4\xff"} }) }, `assets[2].gpus[0]: "T4\xff" cannot be printed in one line`},
		"long text": {func(r *manifests.Release) {
			both(r, func(a *manifests.Artifact) { a.GPUs = []string{strings.Repeat("x", 4097)} })
		}, `assets[2].gpus[0]: longer than 4096 bytes`},

		"another SM": {func(r *manifests.Release) { both(r, func(a *manifests.Artifact) { a.Row = sm(86) }) }, "assets[2].name: \"llcuda-bins-sm75\", but the bundle for 86 is llcuda-bins-sm86\nassets[2].architecture: \"Turing\", but 8.6 is Ampere\nassets[2].device_code.cubin: [75], but the bundle is for [86]"},
		"code of another": {func(r *manifests.Release) {
			both(r, func(a *manifests.Artifact) { a.DeviceCode = &manifests.DeviceCode{Cubin: []matrix.Code{{SM: 50}}} })
		}, "assets[2].device_code.cubin: [50], but the bundle is for [75]"},
		"no code": {func(r *manifests.Release) {
			both(r, func(a *manifests.Artifact) { a.DeviceCode = &manifests.DeviceCode{PTX: []matrix.Code{{SM: 75}}} })
		}, "assets[2].device_code.cubin: [], but the bundle is for [75]\nassets[2].device_code.ptx: [75], but a bundle has machine code or PTX, and sm75 is of cubin"},
		"PTX beside machine code": {func(r *manifests.Release) {
			both(r, func(a *manifests.Artifact) { a.DeviceCode.PTX = []matrix.Code{{SM: 75}} })
		}, "assets[2].device_code.ptx: [75], but a bundle has machine code or PTX, and sm75 is of cubin"},
		"machine code beside PTX": {func(r *manifests.Release) {
			bothPTX(r, func(a *manifests.Artifact) { a.DeviceCode.Cubin = []matrix.Code{{SM: 90}} })
		}, "assets[0].device_code.cubin: [90], but a bundle has machine code or PTX, and ptx90 is of ptx"},
		"PTX of two": {func(r *manifests.Release) {
			bothPTX(r, func(a *manifests.Artifact) { a.DeviceCode.PTX = []matrix.Code{{SM: 80}, {SM: 90}} })
		}, "assets[0].device_code.ptx: [80 90], but the bundle is for [90]"},
		"PTX for one GPU": {func(r *manifests.Release) {
			bothPTX(r, func(a *manifests.Artifact) { a.DeviceCode.PTX = []matrix.Code{{SM: 90, Variant: "a"}} })
		}, "assets[0].device_code.ptx: [90a], but the bundle is for [90]"},
		"PTX by its row alone": {func(r *manifests.Release) { both(r, func(a *manifests.Artifact) { a.Row.PTX = true }) },
			"assets[2].name: \"llcuda-bins-sm75\", but the bundle for ptx75 is llcuda-bins-ptx75\nassets[2].device_code.ptx: [], but the bundle is for [75]\nassets[2].device_code.cubin: [75], but a bundle has machine code or PTX, and ptx75 is of ptx\nassets[2].requires.driver_min.ptx: \"\" is not dotted numbers\nassets[2].requires.driver_min.cubin: \"525.60.13\", but there is no machine code"},
		"PTX of another": {func(r *manifests.Release) { asset(r, ptxGz).DeviceCode.PTX[0].SM = 80 }, "assets[0].device_code.ptx: [80], but the bundle is for [90]"},
		"driver for no PTX": {func(r *manifests.Release) {
			both(r, func(a *manifests.Artifact) { a.Requires.DriverMin.PTX = "550.54.14" })
		}, `assets[2].requires.driver_min.ptx: "550.54.14", but there is no PTX`},
		"driver for no machine code": {func(r *manifests.Release) {
			bothPTX(r, func(a *manifests.Artifact) { a.Requires.DriverMin.Cubin = "525.60.13" })
		}, `assets[0].requires.driver_min.cubin: "525.60.13", but there is no machine code`},
		"no driver for PTX": {func(r *manifests.Release) {
			bothPTX(r, func(a *manifests.Artifact) { a.Requires.DriverMin = manifests.DriverMin{} })
		}, `assets[0].requires.driver_min.ptx: "" is not dotted numbers`},
		"requires": {func(r *manifests.Release) {
			both(r, func(a *manifests.Artifact) {
				a.Requires = &manifests.Requires{Glibc: "GLIBC_2.34", GLIBCXX: "3.x", Libraries: []string{"libc.so.6", "/x", "libb"}, CPUVariants: []string{"x64", "x64"}}
			})
		}, `assets[2].requires.driver_min.cubin: "" is not dotted numbers
assets[2].requires.glibc: "GLIBC_2.34" is not dotted numbers
assets[2].requires.glibcxx: "3.x" is not dotted numbers
assets[2].requires.libraries[1]: "/x" is not a name
assets[2].requires.libraries[1]: "/x" comes after "libc.so.6": the list ascends, each once
assets[2].requires.cpu_variants[1]: "x64" comes after "x64": the list ascends, each once`},
		"no architecture": {func(r *manifests.Release) { both(r, func(a *manifests.Artifact) { a.Architecture = "" }) }, "assets[2].architecture: missing from an asset of kind bundle"},
		"GPU twice":       {func(r *manifests.Release) { both(r, func(a *manifests.Artifact) { a.GPUs = []string{"T4", "T4"} }) }, `assets[2].gpus[1]: "T4" is empty or stands here twice`},
		"llama.cpp": {func(r *manifests.Release) {
			both(r, func(a *manifests.Artifact) {
				a.LlamaCPP = &manifests.LlamaCPP{Version: "-x", Commit: "main", Build: -1}
			})
		}, `assets[2].llama_cpp.version: "-x" is not a version
assets[2].llama_cpp.commit: "main" is neither a commit's 40 hex digits nor sha256: and 64
assets[2].llama_cpp.build: -1 is negative`},

		"runtime's name": {func(r *manifests.Release) { asset(r, cudart).Tar = &manifests.Digest{SHA256: hash("c"), Size: 20000} }, `assets[4].name: "llcuda-cudart-cu12-bbbbbbbbbbbb" is not llcuda-cudart-cu12- and the first 12 hex digits of the tar's sha256`},
		"runtime's toolkit": {func(r *manifests.Release) {
			asset(r, cudart).Toolkit = &manifests.Toolkit{CUDA: "13.0.0", NVCC: "13.0.1"}
		}, `assets[4].name: "llcuda-cudart-cu12-bbbbbbbbbbbb" is not llcuda-cudart-cu13- and the first 12 hex digits of the tar's sha256`},
		"runtime with a link out": {func(r *manifests.Release) {
			asset(r, cudart).Libraries[0] = manifests.File{Path: "LICENSE", Mode: "0777", Link: "../libcudart.so.12"}
		}, "assets[4].libraries[0].link: \"../libcudart.so.12\" leaves the archive or is not in its shortest form\nassets[4].libraries[0].link: \"../libcudart.so.12\" does not lead to a file of the archive"},
		"runtime with a dangling link": {func(r *manifests.Release) {
			asset(r, cudart).Libraries[0] = manifests.File{Path: "LICENSE", Mode: "0777", Link: "lib/libcublas.so.12"}
		}, `assets[4].libraries[0].link: "lib/libcublas.so.12" does not lead to a file of the archive`},
		"runtime without code": {func(r *manifests.Release) { asset(r, cudart).DeviceCode = &manifests.DeviceCode{} }, "assets[4].device_code: empty: it serves no GPU"},
		"runtime of one major": {func(r *manifests.Release) { *asset(r, cudart).DeviceCode = code(70, 75) },
			`assets[4].name: "llcuda-cudart-cu12-bbbbbbbbbbbb" is not llcuda-cudart-cu12-sm7x- and the first 12 hex digits of the tar's sha256`},
		"runtime of PTX": {func(r *manifests.Release) { *asset(r, cudart).DeviceCode = ptxCode(90) },
			`assets[4].name: "llcuda-cudart-cu12-bbbbbbbbbbbb" is not llcuda-cudart-cu12-ptx90- and the first 12 hex digits of the tar's sha256`},
		"runtime without PTX": {func(r *manifests.Release) {
			for _, name := range []string{cudart, strings.Replace(cudart, ".tar.gz", ".tar.zst", 1)} {
				asset(r, name).DeviceCode.PTX = []matrix.Code{}
			}
		}, "assets: no CUDA runtime for llcuda-bins-ptx90"},
		"runtime's code": {func(r *manifests.Release) { slices.Reverse(asset(r, cudart).DeviceCode.Cubin[:2]) }, "assets[4].device_code.cubin[1]: 50 comes after 60: targets ascend, each once"},
		"runtime of other GPUs": {func(r *manifests.Release) {
			for _, name := range []string{cudart, strings.Replace(cudart, ".tar.gz", ".tar.zst", 1)} {
				a := asset(r, name)
				a.DeviceCode = &manifests.DeviceCode{Cubin: []matrix.Code{{SM: 50}, {SM: 60}, {SM: 80}}, PTX: []matrix.Code{{SM: 80}}}
			}
		}, "assets: no CUDA runtime for llcuda-bins-sm75"},
		"runtime's files": {func(r *manifests.Release) { slices.Reverse(asset(r, cudart).Libraries) }, `assets[4].libraries[1].path: "LICENSE" comes after "lib/libcudart.so.12": files ascend by path, each once`},
		"runtime's paths": {func(r *manifests.Release) { asset(r, cudart).Libraries[0].Path = "../x" }, `assets[4].libraries[0].path: "../x" is not a path below the top folder`},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := decode(encode(t, sample(t))) // a deep copy
			if err != nil {
				t.Fatal(err)
			}
			test.edit(&r)
			if err = r.Check(); err == nil {
				t.Fatal("no error")
			}
			if got := err.Error(); !strings.Contains("\n"+got+"\n", "\n"+test.want+"\n") {
				t.Errorf("(-want +got):\n%s", cmp.Diff(test.want, got))
			}
			if data, err := manifests.Encode(r); err == nil || data != nil {
				t.Errorf("Encode wrote it: %v", err)
			}
		})
	}
}

// A release of GPUs that this program has never heard of is still a release.
func TestUnknownArchitecture(t *testing.T) {
	r := big(t)
	got, err := decode(encode(t, r))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDecodeRefuses(t *testing.T) {
	text := string(encode(t, sample(t)))
	for name, test := range map[string]struct{ old, new, want string }{
		"unknown field":     {`"size": 10000`, `"size": 10000, "crc": 1`, "assets[0].tar.crc: unknown field"},
		"unknown at top":    {`"assets":`, `"signed": true, "assets":`, "signed: unknown field"},
		"case":              {`"sha256"`, `"SHA256"`, "assets[0].sha256: missing\nassets[0].SHA256: unknown field"},
		"strange field":     {`"assets":`, "\"\\u001b[2J\": 1, \"assets\":", `"\x1b[2J": unknown field`},
		"missing field":     {"      \"size\": 2000,\n", "", "assets[0].size: missing"},
		"missing below":     {"        \"ptx\": []\n", "", "line 153: invalid character '}' looking for beginning of object key string"},
		"missing list":      {",\n        \"ptx\": []", "", "assets[2].device_code.ptx: missing"},
		"null":              {`"ptx": []`, `"ptx": null`, "assets[2].device_code.ptx: want an array, found null"},
		"null for text":     {`"glibc": "2.27"`, `"glibc": null`, "assets[0].requires.glibc: want text, found null"},
		"empty optional":    {`"kind": "sbom",`, `"kind": "sbom", "gpus": [],`, "assets[7].gpus: empty: leave it out"},
		"zero optional":     {`"kind": "sbom",`, `"kind": "sbom", "sm": 0,`, "assets[7].sm: empty: leave it out"},
		"duplicate":         {`"sm": 75,`, `"sm": 75, "sm": 75,`, "assets[2].sm: given twice"},
		"duplicate escaped": {`"sm": 75,`, `"sm": 75, "s\u006d": 75,`, "assets[2].sm: given twice"},
		"text for number":   {`"sm": 75`, `"sm": "75"`, `assets[2].sm: "75" is not what a bundle is for: want 75 or "ptx90"`},
		"number for text":   {`"release": "v1.1.0-runtime"`, `"release": 1`, "release: want text, found a number"},
		"fraction":          {`"sm": 75`, `"sm": 75.0`, `assets[2].sm: "75.0" is not what a bundle is for: want 75 or "ptx90"`},
		"exponent":          {`"sm": 75`, `"sm": 75e0`, `assets[2].sm: "75e0" is not what a bundle is for: want 75 or "ptx90"`},
		"null for a row":    {`"sm": 75`, `"sm": null`, "assets[2].sm: want a number or text, found null"},
		"list for a row":    {`"sm": "ptx90"`, `"sm": ["ptx90"]`, "assets[0].sm: want a number or text, found an array"},
		"row in words":      {`"sm": "ptx90"`, `"sm": "sm90"`, `assets[0].sm: "sm90" is not what a bundle is for: want 75 or "ptx90"`},
		"row in capitals":   {`"sm": "ptx90"`, `"sm": "PTX90"`, `assets[0].sm: "PTX90" is not what a bundle is for: want 75 or "ptx90"`},
		"PTX as a number":   {`"sm": "ptx90"`, `"sm": 90`, `assets[0].name: "llcuda-bins-ptx90", but the bundle for 90 is llcuda-bins-sm90`},
		"no driver at all":  {"          \"ptx\": \"550.54.14\"\n", "", `assets[0].requires.driver_min.ptx: "" is not dotted numbers`},
		"huge number":       {`"size": 10000`, `"size": 9999999999999999999`, "assets[0].tar.size: want an integer, found 9999999999999999999"},
		"array for object":  {`"assets": [`, `"assets": [[],`, "assets[0]: want an object, found an array"},
		"object for array":  {`"ptx": []`, `"ptx": {}`, "assets[2].device_code.ptx: want an array, found an object"},
		"deep":              {`"ptx": []`, `"ptx": ` + strings.Repeat("[", 20) + strings.Repeat("]", 20), "assets[2].device_code.ptx" + strings.Repeat("[0]", 12) + ": nested deeper than 16"},
		"very deep":         {`"ptx": []`, `"ptx": ` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000), "line 153: invalid character '[' exceeded max depth"},
		"wide":              {`"ptx": []`, `"ptx": [` + strings.Repeat("0,", 200_000) + "0]", "more than 200000 values"},
		"trailing":          {"\n}\n", "\n}\n{}", "line 352: invalid character '{' after top-level value"},
		"cut":               {"\n}\n", "\n", "line 351: unexpected end of JSON input"},
		"comma":             {"\n}\n", ",\n}\n", "line 351: invalid character '}' looking for beginning of object key string"},
		"comment":           {`"assets":`, `/* */ "assets":`, "line 16: invalid character '/' looking for beginning of object key string"},
		"not UTF-8":         {"Some GPU", "Some GPU\xff", "not UTF-8"},
		"byte order mark":   {"{\n  \"schema_version\"", "\ufeff{\n  \"schema_version\"", "line 1: invalid character 'ï' looking for beginning of value"},
		"control text":      {"Some GPU", `Some GPU\n`, `assets[0].gpus[0]: "Some GPU\n" cannot be printed in one line`},
		"right to left":     {"Some GPU", "Some \u202eGPU", `assets[0].gpus[0]: "Some \u202eGPU" cannot be printed in one line`},
		"old version":       {`"schema_version": 1`, `"schema_version": 0`, "schema_version: 0, want 1"},
		"no version":        {`"schema_version": 1,`, ``, "schema_version: missing"},
		"version in words":  {`"schema_version": 1`, `"schema_version": "2"`, "schema_version: want a number, found text"},
		"code in words":     {"\"cubin\": [\n          75\n        ]", "\"cubin\": [\n          \"sm_75\"\n        ]", `assets[2].device_code.cubin[0]: "sm_75" is not what code is compiled for: want 75 or "120a"`},
		"code as an object": {`"ptx": []`, `"ptx": [{}]`, "assets[2].device_code.ptx[0]: want a number or text, found an object"},
		"checked":           {`"ptx": []`, `"ptx": [86]`, "assets[2].device_code.ptx: [86], but a bundle has machine code or PTX, and sm75 is of cubin"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := strings.Replace(text, test.old, test.new, 1)
			if changed == text {
				t.Fatalf("the sample has no %q", test.old)
			}
			_, err := decode([]byte(changed))
			if err == nil {
				t.Fatal("no error")
			}
			got, ok := strings.CutPrefix(err.Error(), "reading manifest.json: ")
			if !ok || !strings.Contains("\n"+got+"\n", "\n"+test.want+"\n") {
				t.Errorf("(-want +got):\n%s", cmp.Diff(test.want, got))
			}
		})
	}
	for text, want := range map[string]string{
		"":                                       "reading manifest.json: line 1: unexpected end of JSON input",
		"null":                                   "reading manifest.json: want an object, found null",
		strings.Repeat(" ", manifests.MaxSize+1): "reading manifest.json: larger than 4194304 bytes",
		"{}":                                     "reading manifest.json: schema_version: missing\nrelease: missing\nllama_cpp: missing\ntoolkits: missing\nsource_date_epoch: missing\nassets: missing\nmodels: missing",
	} {
		if _, err := decode([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("Decode(%.20q) = %v, want %s", text, err, want)
		}
	}
}

func TestDecodeReportsReadErrors(t *testing.T) {
	broken := errors.New("connection reset")
	if _, err := manifests.Decode(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
	if _, err := manifests.DecodeMetadata(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
	if _, err := manifests.DecodeSums(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

// An old client must say "get a newer one" whatever else the new document holds.
func TestDecodeOfTheFuture(t *testing.T) {
	for name, read := range map[string]func(string) error{
		manifests.ManifestName: func(s string) error { _, err := manifests.Decode(strings.NewReader(s)); return err },
		manifests.MetadataName: func(s string) error { _, err := manifests.DecodeMetadata(strings.NewReader(s)); return err },
	} {
		err := read(`{"bundles": {"sm75": null}, "schema_version": 2}`)
		var version *manifests.VersionError
		if !errors.As(err, &version) {
			t.Fatalf("got %v", err)
		}
		if diff := cmp.Diff(&manifests.VersionError{Document: name, Got: 2, Known: 1}, version); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if want := name + " has schema_version 2, this program knows 1: a newer version of it is needed"; err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
	}
}

func TestGivesUpOnWhatIsSomethingElse(t *testing.T) {
	text := strings.Replace(string(encode(t, sample(t))), `"assets": [`, `"assets": [`+strings.Repeat("0,", 100_000), 1)
	_, err := decode([]byte(text))
	var problems matrix.Problems
	if !errors.As(err, &problems) || len(problems) != 100 {
		t.Errorf("%d problems", len(problems))
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, sample(f)))
	f.Add([]byte(`{"schema_version":2}`))
	f.Add([]byte(`{"schema_version":1,"assets":[null,{"a":[]}],"models":[{"name":"\ud800"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decode(data)
		if err != nil {
			return
		}
		canonical := encode(t, r)
		again, err := decode(canonical)
		if err != nil {
			t.Fatalf("what Encode writes is refused: %v\n%s", err, canonical)
		}
		if diff := cmp.Diff(r, again); diff != "" {
			t.Errorf("read back (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(string(canonical), string(encode(t, again))); diff != "" {
			t.Errorf("written again (-want +got):\n%s", diff)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	for _, release := range []manifests.Release{sample(b), big(b)} {
		data := encode(b, release)
		b.Run(fmt.Sprintf("assets=%d", len(release.Assets)), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := decode(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
