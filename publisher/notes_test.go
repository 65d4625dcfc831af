package publisher_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
	"github.com/waqasm86/llcuda-farm/publisher"
)

var update = flag.Bool("update", false, "write the golden files")

func TestNotes(t *testing.T) {
	table, err := spec.Default()
	if err != nil {
		t.Fatal(err)
	}
	models, err := spec.DefaultModels()
	if err != nil {
		t.Fatal(err)
	}
	models[0].Size, models[0].SHA256, models[0].VRAM = 806_058_240, strings.Repeat("b", 64), 1200
	full := fetchtest.New(t, fetchtest.Options{SMs: []matrix.SM{75, 50, 89}, Models: models}).Manifest
	digest := strings.Repeat("a", 64)
	var assets []manifests.Artifact
	for _, a := range full.Assets {
		if a.Kind == manifests.KindCUDART { // its digest is the compiler's
			a.Name = "llcuda-cudart-cu12-aaaaaaaaaaaa." + a.Format
			a.URL, a.Size, a.Tar = a.Name, 240_000_000, &manifests.Digest{SHA256: digest, Size: 500_000_000}
		} else {
			a.Size = 28_000_000 + int64(a.SM)*100_000
		}
		a.SHA256 = digest
		assets = append(assets, a)
	}
	for name, kind := range map[string]manifests.Kind{
		"install.sh": manifests.KindClient, "llcuda-fetch-linux-amd64.tar.gz": manifests.KindClient,
		"llcuda-bins-sm75.spdx.json": manifests.KindSBOM, "llcuda-provenance.sigstore.json": manifests.KindProvenance,
	} {
		assets = append(assets, manifests.Artifact{Name: name, Kind: kind, Size: 1000, SHA256: digest, URL: name})
	}
	if full, err = manifests.New(full.Release, assets, models); err != nil {
		t.Fatal(err)
	}
	bare := fetchtest.New(t, fetchtest.Options{}).Manifest
	bare.LlamaCPP.Commit = "sha256:" + digest
	for i := range bare.Assets {
		bare.Assets[i].Size = 1_000_000
		if bare.Assets[i].Kind == manifests.KindCUDART {
			bare.Assets[i].Name = "llcuda-cudart-cu12-aaaaaaaaaaaa." + bare.Assets[i].Format
		}
	}
	const downloads = "https://github.com/waqasm86/llcuda-farm/releases/download/v1.1.0-runtime"
	for name, got := range map[string]string{
		"full": publisher.Notes(full, table, publisher.NotesOptions{Downloads: downloads, Identity: manifests.SignerIdentity + "@refs/tags/v1.1.0-runtime", Issuer: manifests.SignerIssuer}),
		"key":  publisher.Notes(bare, table, publisher.NotesOptions{Downloads: downloads}),
	} {
		golden := filepath.Join("testdata", "notes-"+name+".golden.md")
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got; -update writes it):\n%s", name, diff)
		}
	}
}
