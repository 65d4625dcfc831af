package manifests_test

import (
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
		{manifests.BundleName(120) + "." + manifests.FormatTarGz, manifests.KindBundle},
		{manifests.BundleName(75) + "." + manifests.FormatTarZst, manifests.KindBundle},
		{manifests.RuntimeName("13.0.1", digest) + "." + manifests.FormatTarZst, manifests.KindCUDART},
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
		{"." + manifests.BundleName(75) + ".tar.gz", ""},
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
		manifests.BundleName(75), manifests.RuntimeTop("13.0.1"), manifests.RuntimeName("13.0.1", digest),
		manifests.ClientName("linux", "arm64"), manifests.WheelName("3.0.0", "any"),
		manifests.SBOMName("llcuda-bins-sm75.tar.zst"), manifests.SBOMName("llcuda-bins-sm75.tar.gz"), manifests.SBOMName("llcuda-3.0.0-py3-none-any.whl"),
		manifests.Stem("llcuda-fetch-linux-arm64.tar.gz"), manifests.Stem("llcuda-bins-sm75.spdx.json"), manifests.Stem("install.sh"),
	}
	want := []string{
		"llcuda-bins-sm75", "llcuda-cudart-cu13", "llcuda-cudart-cu13-0123456789ab",
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

// A bundle's archive to download is the smaller one, and the tar.zst where both have one size.
func TestLookups(t *testing.T) {
	list := append(bundle(100), bundle(75)...)
	list[0].Size = 10 // sm100 as tar.gz
	list[2].Size, list[3].Size = 5, 5
	list = append(list, runtime()...)
	list = append(list, manifests.Artifact{Name: "install.sh", Kind: manifests.KindClient, Size: 1, SHA256: hash("5"), URL: "install.sh"})
	r, err := manifests.New(release, list, nil)
	if err != nil {
		t.Fatal(err)
	}
	sm75, _ := r.Bundle(75)
	cudart, _ := r.Runtime(sm75)
	other := sm75
	other.Toolkit = &manifests.Toolkit{CUDA: "13.0.1", NVCC: "13.0.48"}
	for _, test := range []struct{ what, got, want string }{
		{"Bundles", namesOf(r.Bundles()...), "llcuda-bins-sm75.tar.zst llcuda-bins-sm100.tar.gz"},
		{"Bundle", namesOf(sm75), "llcuda-bins-sm75.tar.zst"},
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
		"a bundle that is not there": func() bool { _, ok := r.Bundle(matrix.SM(89)); return ok }(),
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
