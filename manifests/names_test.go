package manifests_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// Every name that is made here is known again by its kind.
func TestKindOf(t *testing.T) {
	digest := manifests.Digest{SHA256: hash("b")}
	for _, test := range []struct {
		name string
		want manifests.Kind
	}{
		{manifests.BundleName(sm(120)) + "." + manifests.FormatTarGz, manifests.KindBundle},
		{manifests.BundleName(sm(75)) + "." + manifests.FormatTarZst, manifests.KindBundle},
		{manifests.BundleName(ptx(90)) + "." + manifests.FormatTarZst, manifests.KindBundle},
		{manifests.RuntimeName(manifests.RuntimeOf("13.0.1", code(75, 120)), digest) + "." + manifests.FormatTarZst, manifests.KindCUDART},
		{manifests.RuntimeName(manifests.RuntimeOf("12.4.1", ptxCode(90)), digest) + "." + manifests.FormatTarZst, manifests.KindCUDART},
		{manifests.RuntimeName(manifests.RuntimeOf("12.4.1", code(70, 75)), digest) + "." + manifests.FormatTarGz, manifests.KindCUDART},
		{manifests.ClientName("linux", "riscv64"), manifests.KindClient},
		{manifests.InstallerName, manifests.KindClient},
		{manifests.WheelName("3.1.0", "any"), manifests.KindClient},
		{manifests.ProvenanceName, manifests.KindProvenance},
		{manifests.SBOMName(manifests.ClientName("linux", "amd64")), manifests.KindSBOM},
		{manifests.SBOMName(manifests.WheelName("3.1.0", "any")), manifests.KindSBOM},
		{manifests.ManifestName, ""},
		{manifests.SumsName, ""},
		{manifests.SignatureName, ""},
		{manifests.PointerName, ""},
		{"llcuda-bins-sm75", ""},
		{"llcuda-bins-sm75.zip", ""},
		{"llcuda-fetch-linux-amd64.tar.zst", ""},
		{"llcuda-other.tar.gz", ""},
		{"other-3.1.0-py3-none-any.whl", ""},
		{"." + manifests.BundleName(sm(75)) + ".tar.gz", ""},
		{"", ""},
	} {
		if got := manifests.KindOf(test.name); got != test.want {
			t.Errorf("KindOf(%q) = %q, want %q", test.name, got, test.want)
		}
	}
}

func TestNames(t *testing.T) {
	digest := manifests.Digest{SHA256: "0123456789abcdef" + strings.Repeat("0", 48)}
	got := []string{
		manifests.BundleName(sm(75)), manifests.RuntimeTop(manifests.RuntimeOf("13.0.1", code(75, 120))), manifests.RuntimeName(manifests.RuntimeOf("13.0.1", code(75, 120)), digest),
		manifests.RuntimeTop(manifests.RuntimeOf("12.4.1", code(70, 75))), manifests.RuntimeName(manifests.RuntimeOf("12.4.1", code(90)), digest), manifests.RuntimeTop(manifests.RuntimeOf("12.4.1", code(50, 60, 61))), manifests.RuntimeTop(manifests.RuntimeOf("13.3.1", code(120))),
		manifests.BundleName(ptx(90)), manifests.RuntimeTop(manifests.RuntimeOf("12.4.1", ptxCode(90))), manifests.RuntimeName(manifests.RuntimeOf("13.3.1", ptxCode(120)), digest),
		manifests.ClientName("linux", "arm64"), manifests.WheelName("3.0.0", "any"),
		manifests.SBOMName("llcuda-bins-sm75.tar.zst"), manifests.SBOMName("llcuda-bins-sm75.tar.gz"), manifests.SBOMName("llcuda-3.0.0-py3-none-any.whl"),
		manifests.Stem("llcuda-fetch-linux-arm64.tar.gz"), manifests.Stem("llcuda-bins-sm75.spdx.json"), manifests.Stem("install.sh"),
	}
	want := []string{
		"llcuda-bins-sm75", "llcuda-cudart-cu13", "llcuda-cudart-cu13-0123456789ab",
		"llcuda-cudart-cu12-sm7x", "llcuda-cudart-cu12-sm9x-0123456789ab", "llcuda-cudart-cu12", "llcuda-cudart-cu13-sm12x",
		"llcuda-bins-ptx90", "llcuda-cudart-cu12-ptx90", "llcuda-cudart-cu13-ptx120-0123456789ab",
		"llcuda-fetch-linux-arm64.tar.gz", "llcuda-3.0.0-py3-none-any.whl",
		"llcuda-bins-sm75.spdx.json", "llcuda-bins-sm75.spdx.json", "llcuda-3.0.0-py3-none-any.spdx.json",
		"llcuda-fetch-linux-arm64", "llcuda-bins-sm75", "install.sh",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func namesOf(assets ...manifests.Artifact) string {
	var names []string
	for _, a := range assets {
		names = append(names, a.Name)
	}
	return strings.Join(names, " ")
}

// What a runtime is for is told by its code: PTX beside machine code changes nothing.
func TestRuntimeOf(t *testing.T) {
	both := code(90)
	both.PTX = ptxCode(90).PTX
	whole := code(75, 80, 90, 100, 120)
	whole.PTX = ptxCode(75, 120).PTX
	for _, test := range []struct {
		cuda   string
		code   manifests.DeviceCode
		want   matrix.Runtime
		linked bool
	}{
		{"12.4.1", code(70, 75), matrix.Runtime{Toolkit: "cuda12", Major: 7}, true},
		{"12.4.1", code(90), matrix.Runtime{Toolkit: "cuda12", Major: 9}, true},
		{"12.4.1", both, matrix.Runtime{Toolkit: "cuda12", Major: 9}, true},
		{"12.4.1", ptxCode(90), matrix.Runtime{Toolkit: "cuda12", PTX: 90}, true},
		{"13.3.1", ptxCode(120), matrix.Runtime{Toolkit: "cuda13", PTX: 120}, true},
		{"13.3.1", whole, matrix.Runtime{Toolkit: "cuda13"}, false},
		{"12.4.1", code(), matrix.Runtime{Toolkit: "cuda12"}, false},
	} {
		if got := manifests.RuntimeOf(test.cuda, test.code); got != test.want || got.IsLinked() != test.linked {
			t.Errorf("CUDA %s, %v: %+v, linked %t; want %+v, %t", test.cuda, test.code, got, got.IsLinked(), test.want, test.linked)
		}
		a := manifests.Artifact{Kind: manifests.KindCUDART, Toolkit: &manifests.Toolkit{CUDA: test.cuda}, DeviceCode: &test.code}
		if got := a.IsLinked(); got != test.linked {
			t.Errorf("CUDA %s, %v: the asset is linked: %t", test.cuda, test.code, got)
		}
	}
}

// A runtime serves the bundles of its toolkit whose own SM runs its machine code, and bundles of PTX if it has PTX that the
// same GPUs' drivers compile.
func TestRuntime(t *testing.T) {
	release := manifests.Release{Assets: slices.Concat(
		runtimeOf("12.4.1", "a", code(50)), runtimeOf("12.4.1", "b", code(70, 75)), runtimeOf("12.4.1", "c", code(80, 86, 89)),
		runtimeOf("12.4.1", "e", ptxCode(90)), runtimeOf("12.4.1", "d", code(90)), runtimeOf("13.3.1", "f", code(75, 90, 100, 120), 75, 120))}
	for _, test := range []struct {
		cuda string
		row  matrix.Row
		want string
	}{
		{"12.4.1", sm(50), "llcuda-cudart-cu12-sm5x-aaaaaaaaaaaa.tar.zst"},
		{"12.4.1", sm(52), "llcuda-cudart-cu12-sm5x-aaaaaaaaaaaa.tar.zst"},
		{"12.4.1", sm(61), ""},
		{"12.4.1", sm(70), "llcuda-cudart-cu12-sm7x-bbbbbbbbbbbb.tar.zst"},
		{"12.4.1", sm(75), "llcuda-cudart-cu12-sm7x-bbbbbbbbbbbb.tar.zst"},
		{"12.4.1", ptx(75), ""},
		{"12.4.1", sm(89), "llcuda-cudart-cu12-sm8x-cccccccccccc.tar.zst"},
		{"12.4.1", ptx(89), ""},
		{"12.4.1", sm(90), "llcuda-cudart-cu12-sm9x-dddddddddddd.tar.zst"},
		{"12.4.1", ptx(90), "llcuda-cudart-cu12-ptx90-eeeeeeeeeeee.tar.zst"},
		{"12.4.1", sm(120), ""},
		{"12.4.2", sm(75), ""},
		{"12.4.2", ptx(90), ""},
		{"13.3.1", sm(120), "llcuda-cudart-cu13-ffffffffffff.tar.zst"},
		{"13.3.1", sm(103), "llcuda-cudart-cu13-ffffffffffff.tar.zst"},
		{"13.3.1", ptx(120), "llcuda-cudart-cu13-ffffffffffff.tar.zst"},
		{"13.3.1", sm(110), ""},
	} {
		b := bundle(test.row)[0]
		b.Toolkit = &manifests.Toolkit{CUDA: test.cuda, NVCC: "1"}
		if got, _ := release.Runtime(b); got.Name != test.want {
			t.Errorf("CUDA %s, %s: %q, want %q", test.cuda, test.row, got.Name, test.want)
		}
	}
}

// A bundle's archive to download is the smaller one, and the tar.zst where both have one size.
func TestLookups(t *testing.T) {
	list := slices.Concat(bundle(sm(100)), bundle(sm(75)), bundle(ptx(90)), bundle(sm(90)))
	list[0].Size = 10 // sm100 as tar.gz
	list[2].Size, list[3].Size = 5, 5
	list = append(list, runtime()...)
	list = append(list, manifests.Artifact{Name: "install.sh", Kind: manifests.KindClient, Size: 1, SHA256: hash("5"), URL: "install.sh"})
	r, err := manifests.New(release, list, nil)
	if err != nil {
		t.Fatal(err)
	}
	sm75, _ := r.Bundle(sm(75))
	sm90, _ := r.Bundle(sm(90))
	ptx90, _ := r.Bundle(ptx(90))
	cudart, _ := r.Runtime(sm75)
	other := sm75
	other.Toolkit = &manifests.Toolkit{CUDA: "13.0.1", NVCC: "13.0.48"}
	for _, test := range []struct{ what, got, want string }{
		{"Bundles", namesOf(r.Bundles()...), "llcuda-bins-sm75.tar.zst llcuda-bins-sm90.tar.zst llcuda-bins-ptx90.tar.zst llcuda-bins-sm100.tar.gz"},
		{"Bundle", namesOf(sm75), "llcuda-bins-sm75.tar.zst"},
		{"Bundle of machine code", namesOf(sm90), "llcuda-bins-sm90.tar.zst"},
		{"Bundle of PTX", namesOf(ptx90), "llcuda-bins-ptx90.tar.zst"},
		{"Runtimes", namesOf(r.Runtimes()...), "llcuda-cudart-cu12-bbbbbbbbbbbb.tar.zst"},
		{"Runtime", namesOf(cudart), "llcuda-cudart-cu12-bbbbbbbbbbbb.tar.zst"},
		{"Formats of a bundle", namesOf(r.Formats(sm75)...), "llcuda-bins-sm75.tar.gz llcuda-bins-sm75.tar.zst"},
		{"Formats of the runtime", namesOf(r.Formats(cudart)...), "llcuda-cudart-cu12-bbbbbbbbbbbb.tar.gz llcuda-cudart-cu12-bbbbbbbbbbbb.tar.zst"},
		{"Of", namesOf(r.Of(manifests.KindClient)...), "install.sh"},
		{"Of nothing", namesOf(r.Of(manifests.KindSBOM)...), ""},
	} {
		if test.got != test.want {
			t.Errorf("%s: %s, want %s", test.what, test.got, test.want)
		}
	}
	for what, has := range map[string]bool{
		"a bundle that is not there": func() bool { _, ok := r.Bundle(sm(89)); return ok }(),
		"PTX that is not there":      func() bool { _, ok := r.Bundle(ptx(75)); return ok }(),
		"another toolkit's runtime":  func() bool { _, ok := r.Runtime(other); return ok }(),
		"the runtime of no bundle":   func() bool { _, ok := r.Runtime(manifests.Artifact{}); return ok }(),
		"an asset without a name":    func() bool { _, ok := r.Asset(""); return ok }(),
		"a document":                 func() bool { _, ok := r.Asset(manifests.ManifestName); return ok }(),
	} {
		if has {
			t.Errorf("the release has %s", what)
		}
	}
	if got, ok := r.Asset("install.sh"); !ok || got.Kind != manifests.KindClient {
		t.Errorf("Asset(install.sh) is %+v, %v", got, ok)
	}
	if err := r.Check(); err != nil {
		t.Errorf("the lookups changed the release: %v", err)
	}
}
