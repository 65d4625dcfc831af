package manifests_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// hash is a digest that tells in a diff what it stands for.
func hash(digit string) string { return strings.Repeat(digit, 64) }

var (
	llama   = manifests.LlamaCPP{Version: "0.5.0", Commit: strings.Repeat("c", 40), Build: 1}
	toolkit = manifests.Toolkit{CUDA: "12.4.1", NVCC: "12.4.131"}
)

const (
	release = "v1.1.0-runtime"
	epoch   = 1790553600
)

func requires(driver manifests.DriverMin) manifests.Requires {
	return manifests.Requires{
		DriverMin:   driver,
		Glibc:       "2.27",
		GLIBCXX:     "3.4.25",
		Libraries:   []string{"libcublas.so.12", "libcuda.so.1", "libcudart.so.12", "libstdc++.so.6"},
		CPUVariants: []string{"haswell", "x64"},
	}
}

// The drivers of a bundle of machine code, and of one of PTX.
var cubinDriver, ptxDriver = manifests.DriverMin{Cubin: "525.60.13"}, manifests.DriverMin{PTX: "550.54.14"}

func twins(a manifests.Artifact, stem string) []manifests.Artifact {
	gz, zst := a, a
	gz.Name, gz.Format, gz.SHA256, gz.Size = stem+".tar.gz", manifests.FormatTarGz, hash("1"), 2000
	zst.Name, zst.Format, zst.SHA256, zst.Size = stem+".tar.zst", manifests.FormatTarZst, hash("2"), 1000
	gz.URL, zst.URL = gz.Name, zst.Name
	return []manifests.Artifact{gz, zst}
}

// sm is a row of machine code, and ptx one of PTX.
func sm(n matrix.SM) matrix.Row  { return matrix.Row{SM: n} }
func ptx(n matrix.SM) matrix.Row { return matrix.Row{SM: n, PTX: true} }

func bundle(row matrix.Row) []manifests.Artifact {
	holds, need := code(row.SM), requires(cubinDriver)
	if row.PTX {
		holds, need = ptxCode(row.SM), requires(ptxDriver)
	}
	return twins(manifests.Artifact{
		Kind: manifests.KindBundle, Tar: &manifests.Digest{SHA256: hash("a"), Size: 10000}, Release: release, SourceDateEpoch: epoch,
		LlamaCPP: &llama, Toolkit: &toolkit, Row: row, Architecture: row.SM.Architecture(), GPUs: []string{"Some GPU", "Another <GPU> & more"},
		DeviceCode: &holds, Requires: &need,
	}, "llcuda-bins-"+row.String())
}

// code is machine code for these SMs.
func code(sms ...matrix.SM) manifests.DeviceCode {
	c := manifests.DeviceCode{Cubin: []matrix.Code{}, PTX: []matrix.Code{}}
	for _, sm := range sms {
		c.Cubin = append(c.Cubin, matrix.Code{SM: sm})
	}
	return c
}

// ptxCode is PTX for these SMs, and no machine code.
func ptxCode(sms ...matrix.SM) manifests.DeviceCode {
	c := code(sms...)
	c.Cubin, c.PTX = c.PTX, c.Cubin
	return c
}

// runtimeOf is a CUDA runtime of a toolkit, with the code given, and PTX; the digit makes its digest.
func runtimeOf(cuda, digit string, holds manifests.DeviceCode, ptx ...matrix.SM) []manifests.Artifact {
	holds.PTX = append(holds.PTX, ptxCode(ptx...).PTX...)
	a := runtime()[0]
	a.Toolkit, a.DeviceCode, a.Tar = &manifests.Toolkit{CUDA: cuda, NVCC: "1"}, &holds, &manifests.Digest{SHA256: hash(digit), Size: 20000}
	return twins(a, manifests.RuntimeName(manifests.RuntimeOf(cuda, holds), *a.Tar))
}

func runtime() []manifests.Artifact {
	holds := code(50, 60, 70, 80, 90, 100, 120)
	holds.PTX = append(holds.PTX, matrix.Code{SM: 90})
	return twins(manifests.Artifact{
		Kind: manifests.KindCUDART, Tar: &manifests.Digest{SHA256: hash("b"), Size: 20000}, Toolkit: &toolkit, DeviceCode: &holds,
		Libraries: []manifests.File{
			{Path: "LICENSE", Size: 1, Mode: "0644", SHA256: hash("3")},
			{Path: "lib/libcudart.so.12", Size: 2, Mode: "0755", SHA256: hash("4")},
		},
	}, "llcuda-cudart-cu12-bbbbbbbbbbbb")
}

func assets() []manifests.Artifact {
	list := append(bundle(ptx(90)), bundle(sm(75))...)
	list = append(list, runtime()...)
	return append(list,
		manifests.Artifact{Name: "llcuda-fetch_linux_amd64", Kind: manifests.KindClient, Size: 1, SHA256: hash("5"), URL: "llcuda-fetch_linux_amd64"},
		manifests.Artifact{Name: "sbom.spdx.json", Kind: manifests.KindSBOM, Size: 1, SHA256: hash("6"), URL: "sbom.spdx.json"},
	)
}

var models = []matrix.Model{
	{Name: "b", Repo: "owner/b", File: "b.gguf", Source: "owner/weights", Licence: "mit"},
	{Name: "a", Aliases: []string{"a1"}, Repo: "owner/a", Revision: strings.Repeat("f", 40), File: "a.gguf", Size: 1, SHA256: hash("7"), Source: "owner/weights", Licence: "mit", VRAM: 1024},
}

// sample is a release with one of everything.
func sample(t testing.TB) manifests.Release {
	t.Helper()
	r, err := manifests.New(release, assets(), models)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func metadata() manifests.Metadata {
	return manifests.Metadata{
		SchemaVersion: manifests.SchemaVersion, Name: "llcuda-bins-sm75", Release: release, LlamaCPP: llama, Row: sm(75), Architecture: "Turing",
		GPUs: []string{"Tesla T4"}, Toolkit: toolkit, DeviceCode: code(75), Requires: requires(cubinDriver),
		Files: []manifests.File{
			{Path: "LICENSE", Size: 0, Mode: "0644", SHA256: hash("0")},
			{Path: "binaries/cuda12/libggml-cuda.so", Mode: "0777", Link: "../../lib/libggml-cuda.so"},
			{Path: "binaries/cuda12/llama-server", Size: 5, Mode: "0755", SHA256: hash("1")},
			{Path: "lib/libggml-cuda.so", Size: 5, Mode: "0755", SHA256: hash("2")},
			{Path: "lib/libllama.so", Mode: "0777", Link: "libllama.so.0"},
			{Path: "lib/libllama.so.0", Mode: "0777", Link: "libllama.so.0.5"},
			{Path: "lib/libllama.so.0.5", Size: 5, Mode: "0755", SHA256: hash("3")},
		},
		Build: manifests.Build{
			BuilderImage: "sha256:" + hash("8"), HostImage: "sha256:" + hash("6"), BaseImage: "debian@sha256:" + hash("9"), HostCMake: []string{"-DGGML_CUDA=OFF"},
			Patches:   []manifests.Patch{{Name: "0001-mend.patch", SHA256: hash("7")}},
			CUDACMake: []string{"-DGGML_CUDA=ON"}, SourceDateEpoch: epoch, Engine: "dagger v0.15.1",
		},
	}
}

// big is a release with as many bundles as there may be assets.
func big(t testing.TB) manifests.Release {
	t.Helper()
	list := runtimeOf(toolkit.CUDA, "b", code(500, 510, 520, 530, 540, 550, 560, 570, 580, 590, 600, 610, 620, 630, 640, 650, 660, 670, 680, 690, 700, 710, 720, 730, 740,
		750, 760, 770, 780, 790, 800, 810, 820, 830, 840, 850, 860, 870, 880, 890, 900, 910, 920, 930, 940, 950, 960, 970, 980, 990))
	for i := range list {
		list[i].Toolkit = &toolkit
	}
	for n := matrix.SM(500); len(list) < manifests.MaxAssets; n++ {
		for _, a := range bundle(sm(n)) {
			a.Architecture = "Future"
			list = append(list, a)
		}
	}
	var many []matrix.Model
	for i := range 100 {
		many = append(many, matrix.Model{Name: fmt.Sprint("m", i), Repo: "owner/m", File: "m.gguf", Source: "owner/weights", Licence: "mit"})
	}
	r, err := manifests.New(release, list, many)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func encode(t testing.TB, r manifests.Release) []byte {
	t.Helper()
	data, err := manifests.Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func decode(data []byte) (manifests.Release, error) { return manifests.Decode(bytes.NewReader(data)) }
