package sbom_test

import (
	"archive/zip"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spdx/tools-golang/json"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/publisher/sbom"
)

const wheelName = "llcuda-3.0.0-py3-none-any.whl"

func zipped(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for name, text := range files {
		f, err := w.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A wheel's bill has all of its files, and what is linked into the client in it, with the licenses that lie beside.
func TestWheel(t *testing.T) {
	name := filepath.Join(t.TempDir(), "llcuda-fetch")
	if output, err := exec.Command("go", "build", "-buildvcs=false", "-o", name, "../../manifests/cmd/llcuda-fetch").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	program, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	const licenses = "llcuda-3.0.0.dist-info/licenses/licenses/"
	choice := "You may use this under one of these, at your option.\n" + mit + "\n" + bsd3
	for _, test := range []struct {
		name  string
		files map[string]string
		want  map[string]string // licenses of some packages
	}{
		{"without the client", map[string]string{"llcuda/__init__.py": "x"}, map[string]string{}},
		{"with the client", map[string]string{
			"llcuda/_bin/llcuda-fetch":                                       string(program),
			licenses + "github.com/spf13/cobra/LICENSE.txt":                  mit,
			licenses + "github.com/klauspost/compress/LICENSE":               bsd3,
			licenses + "github.com/klauspost/compress/zstd/internal/LICENSE": mit,
			licenses + "github.com/sigstore/sigstore/LICENSE":                ours,
			licenses + "github.com/sigstore/sigstore-go/LICENSE":             choice,
			licenses + "go.yaml.in/yaml/v3/NOTICE":                           mit,
			licenses + "golang.org/x/sys/PATENTS":                            "patents",
		}, map[string]string{
			"Go": "BSD-3-Clause", "github.com/spf13/cobra": "MIT", "github.com/klauspost/compress": "BSD-3-Clause AND MIT",
			"github.com/sigstore/sigstore":    "LicenseRef-License-github.com-sigstore-sigstore",
			"github.com/sigstore/sigstore-go": "LicenseRef-License-github.com-sigstore-sigstore-go",
			"go.yaml.in/yaml/v3":              "MIT", "golang.org/x/sys": "NOASSERTION",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			wheel := zipped(t, test.files)
			artifact := manifests.Artifact{Name: wheelName, SHA256: sumOf(wheel)}
			text, err := sbom.Wheel(wheel, artifact, "3.0.0", time.Unix(1790553600, 0))
			if err != nil {
				t.Fatal(err)
			}
			facts := sbom.Facts{Name: "llcuda-3.0.0-py3-none-any", Archives: []manifests.Artifact{artifact}, Files: []manifests.File{}}
			for name, content := range test.files {
				facts.Files = append(facts.Files, manifests.File{Path: name, SHA256: sumOf([]byte(content))})
			}
			if problems := sbom.Check(text, facts); len(problems) > 0 {
				t.Errorf("its own check finds %q", problems)
			}
			doc, err := json.Read(bytes.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			got, libraries := map[string]string{}, 0
			for _, p := range doc.Packages {
				if p.PrimaryPackagePurpose == "LIBRARY" {
					libraries++
				}
				if _, asked := test.want[p.PackageName]; asked {
					got[p.PackageName] = p.PackageLicenseDeclared
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("licenses (-want +got):\n%s", diff)
			}
			if (libraries > 20) != (len(test.want) > 0) {
				t.Errorf("it has %d libraries", libraries)
			}
			if !strings.Contains(string(text), "pkg:pypi/llcuda@3.0.0") {
				t.Error("it does not say which package of the index it is")
			}
		})
	}
	if text, err := sbom.Wheel([]byte("x"), manifests.Artifact{Name: wheelName}, "3.0.0", time.Unix(0, 0)); err == nil {
		t.Errorf("what is not an archive has the bill %s", text)
	}
}
