package sbom_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/publisher/sbom"
)

const (
	mit = `Copyright (c) somebody

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.`
	bsd3 = `Redistribution and use in source and binary forms, with or without
modification, are permitted provided that the following conditions are
met:

   * Redistributions of source code must retain the above copyright
notice, this list of conditions and the following disclaimer.
   * Redistributions in binary form must reproduce the above
copyright notice, this list of conditions and the following disclaimer
in the documentation and/or other materials provided with the
distribution.
   * Neither the name of Google LLC nor the names of its
contributors may be used to endorse or promote products derived from
this software without specific prior written permission.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS
"AS IS" AND ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT
LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR
A PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT
OWNER OR CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF USE,
DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY
THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT
(INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE
OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.`
	both = "This software is available under 2 licenses -- choose whichever you prefer.\nALTERNATIVE A - MIT License\n" + mit + "\nALTERNATIVE B - BSD\n" + bsd3
	ours = "Do what you like, on Tuesdays."
)

func title(name string) string { return "\n" + name + "\n" + strings.Repeat("=", len(name)) + "\n\n" }

// contents are a bundle as the farm's build makes it.
func contents() sbom.Contents {
	notice := title("licenses/LICENSE-jsonhpp") + mit + "\n" +
		title("licenses/LICENSE-web-ui") + "\n" + title("@scope/ui 1.2.3") + mit + "\n" + title("tiny 0.1.0") + "ISC, by somebody\n" +
		title("vendor/cpp-httplib/LICENSE") + title("Apache 2.0") + title("License") + mit + "\n" + title("vendor/hash/xxhash/LICENSE") + bsd3 + "\n" +
		title("vendor/stb/stb_image.h") + both + "\n" + title("vendor/odd/LICENSE.md") + ours + "\n" + title("vendor/odder/LICENSE.md") + ours + "\n" +
		title("libgomp (GCC, with the GCC Runtime Library Exception)") + "GPL and more\n" + title("GNU General Public License, version 3") + "GPL\n" +
		title("ggml/src/ggml-cpu/llamafile/sgemm.cpp") + mit + "\n" + title("ggml/src/ggml-cuda/rope.cu") + ours + "\n" +
		title("CUB, Thrust and libcu++ (NVIDIA CUDA Core Compute Libraries)") + "Apache and more\n" + title("Apache License, version 2.0") + "Apache\n"
	files := fstest.MapFS{
		"LICENSE":                    {Data: []byte(mit)},
		"THIRD_PARTY_LICENSES.txt":   {Data: []byte(notice)},
		"metadata.json":              {Data: []byte("{}")},
		"lib/libggml-base.so.0.25.1": {Data: []byte("ggml")},
		"lib/libggml-base.so":        {Data: []byte("libggml-base.so.0.25.1"), Mode: fs.ModeSymlink},
		"lib/libgomp.so.1":           {Data: []byte("gomp")},
	}
	meta := manifests.Metadata{
		Name: "llcuda-bins-sm75", Release: "v1",
		LlamaCPP: manifests.LlamaCPP{Version: "0.5.0", Commit: strings.Repeat("c", 40)},
		Toolkit:  manifests.Toolkit{CUDA: "12.4.1", NVCC: "12.4.131"},
		Build:    manifests.Build{BuilderImage: "sha256:" + strings.Repeat("1", 64), HostImage: "sha256:" + strings.Repeat("1", 64), BaseImage: "debian@sha256:" + strings.Repeat("2", 64), SourceDateEpoch: 1790553600},
	}
	for name, f := range files {
		switch {
		case name == "metadata.json":
		case f.Mode&fs.ModeSymlink != 0:
			meta.Files = append(meta.Files, manifests.File{Path: name, Link: string(f.Data)})
		default:
			meta.Files = append(meta.Files, manifests.File{Path: name, SHA256: sumOf(f.Data)})
		}
	}
	digest := manifests.Digest{SHA256: strings.Repeat("a", 64), Size: 1}
	return sbom.Contents{
		FS: files, Metadata: meta, Repository: "https://github.com/ggml-org/llama.cpp",
		Archives: []manifests.Artifact{
			{Name: "llcuda-bins-sm75.tar.gz", SHA256: strings.Repeat("b", 64), Tar: &digest},
			{Name: "llcuda-bins-sm75.tar.zst", SHA256: strings.Repeat("d", 64), Tar: &digest},
		},
		Runtime: []manifests.Artifact{{Name: "llcuda-cudart-cu12-0.tar.zst", SHA256: strings.Repeat("e", 64)}},
	}
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func facts(c sbom.Contents) sbom.Facts {
	return sbom.Facts{Name: c.Metadata.Name, Archives: c.Archives, Files: c.Metadata.Files}
}

// A CUDA runtime that the farm linked is not supplied by NVIDIA, whose code it is.
func TestLinkedRuntime(t *testing.T) {
	for code, want := range map[*manifests.DeviceCode]string{
		{Cubin: []matrix.Code{{SM: 70}, {SM: 75}}}:                               "supplier none, originator NVIDIA Corporation",
		{Cubin: []matrix.Code{{SM: 75}, {SM: 80}}}:                               "supplier NVIDIA Corporation, originator none",
		{PTX: []matrix.Code{{SM: 90}}}:                                           "supplier none, originator NVIDIA Corporation",
		{Cubin: []matrix.Code{{SM: 80}, {SM: 90}}, PTX: []matrix.Code{{SM: 90}}}: "supplier NVIDIA Corporation, originator none",
	} {
		c := contents()
		c.Runtime[0].Kind, c.Runtime[0].Toolkit, c.Runtime[0].DeviceCode = manifests.KindCUDART, &c.Metadata.Toolkit, code
		text, err := sbom.Bundle(c)
		if err != nil {
			t.Fatal(err)
		}
		if problems := sbom.Check(text, facts(c)); len(problems) > 0 {
			t.Errorf("its own check finds %q", problems)
		}
		doc, err := json.Read(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(doc.Packages, func(p *v2_3.Package) bool { return p.PackageName == c.Runtime[0].Name })
		supplier, originator := "none", "none"
		if p := doc.Packages[i].PackageSupplier; p != nil {
			supplier = p.Supplier
		}
		if p := doc.Packages[i].PackageOriginator; p != nil {
			originator = p.Originator
		}
		if got := "supplier " + supplier + ", originator " + originator; got != want {
			t.Errorf("%v: %s, want %s", *code, got, want)
		}
	}
}

func TestBundle(t *testing.T) {
	c := contents()
	text, err := sbom.Bundle(c)
	if err != nil {
		t.Fatal(err)
	}
	if problems := sbom.Check(text, facts(c)); len(problems) > 0 {
		t.Errorf("its own check finds %q", problems)
	}
	again, err := sbom.Bundle(contents())
	if err != nil || !bytes.Equal(text, again) {
		t.Errorf("the same bundle gives another text, %v", err)
	}
	doc, err := json.Read(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, p := range doc.Packages {
		got[p.PackageName+" "+p.PackageVersion] = p.PackageLicenseDeclared
	}
	odd := "LicenseRef-License-vendor-odd-LICENSE.md"
	want := map[string]string{
		"llcuda-bins-sm75 v1": "NOASSERTION", "llcuda-bins-sm75.tar.gz ": "NOASSERTION", "llcuda-bins-sm75.tar.zst ": "NOASSERTION",
		"llama.cpp 0.5.0": "MIT", "ggml 0.25.1": "MIT",
		"jsonhpp ": "MIT", "@scope/ui 1.2.3": "MIT", "tiny 0.1.0": "ISC", "cpp-httplib ": "MIT", "xxhash ": "BSD-3-Clause",
		"stb_image ": "LicenseRef-License-vendor-stb-stb-image.h", "odd ": odd, "odder ": odd,
		"libgomp ":                   "GPL-3.0-or-later WITH GCC-exception-3.1",
		"NVIDIA CUDA Toolkit 12.4.1": "NOASSERTION", "llcuda-cudart-cu12-0.tar.zst 12.4.1": "NOASSERTION",
		"llcuda builder image sha256:" + strings.Repeat("1", 64):             "NOASSERTION",
		"base image of the builder debian@sha256:" + strings.Repeat("2", 64): "NOASSERTION",
		"CCCL ":                                  "LicenseRef-License-CUB-Thrust-and-libcu-NVIDIA-CUDA-Core-Compute-Libraries",
		"ggml/src/ggml-cpu/llamafile/sgemm.cpp ": "MIT", "ggml/src/ggml-cuda/rope.cu ": odd,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("packages and licences (-want +got):\n%s", diff)
	}
	if doc.CreationInfo.Created != "2026-09-28T00:00:00Z" {
		t.Errorf("created %s", doc.CreationInfo.Created)
	}
}

func TestCheck(t *testing.T) {
	c := contents()
	good, err := sbom.Bundle(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		text   func(*v2_3.Document)
		facts  func(*sbom.Facts)
		within string
	}{
		{name: "another bundle's", facts: func(f *sbom.Facts) { f.Name = "llcuda-bins-sm86" }, within: "does not describe llcuda-bins-sm86"},
		{name: "another archive", facts: func(f *sbom.Facts) { f.Archives[0].SHA256 = strings.Repeat("0", 64) }, within: "for llcuda-bins-sm75.tar.gz, which is 000"},
		{name: "an archive more", text: func(*v2_3.Document) {}, facts: func(f *sbom.Facts) { f.Archives = f.Archives[:1] }, within: "names the archive llcuda-bins-sm75.tar.zst"},
		{name: "another file", facts: func(f *sbom.Facts) {
			i := slices.IndexFunc(f.Files, func(file manifests.File) bool { return file.Link == "" }) // links are not in it
			f.Files[i].SHA256 = strings.Repeat("0", 64)
		}, within: "which is 000"},
		{name: "a file more", facts: func(f *sbom.Facts) { f.Files = append(f.Files, manifests.File{Path: "x", SHA256: "y"}) }, within: "the file x is not in it"},
		{name: "a file less", facts: func(f *sbom.Facts) { f.Files = []manifests.File{} }, within: "which is not in the archive"},
		{name: "another version", text: func(d *v2_3.Document) { d.DataLicense = "MIT" }, within: "under CC0-1.0"},
		{name: "no namespace", text: func(d *v2_3.Document) { d.DocumentNamespace = "here" }, within: "namespace"},
		{name: "no creator", text: func(d *v2_3.Document) { d.CreationInfo.Creators = []common.Creator{} }, within: "no creator"},
		{name: "not a time", text: func(d *v2_3.Document) { d.CreationInfo.Created = "yesterday" }, within: "not a time"},
		{name: "a name twice", text: func(d *v2_3.Document) { d.Packages[1].PackageSPDXIdentifier = d.Packages[0].PackageSPDXIdentifier }, within: "there twice"},
		{name: "a relationship to nothing", text: func(d *v2_3.Document) { d.Relationships[1].RefB.ElementRefID = "nothing" }, within: "nothing"},
		{name: "a licence without its text", text: func(d *v2_3.Document) { d.OtherLicenses = nil }, within: "whose text is not there"},
		{name: "a file that is null", text: func(d *v2_3.Document) { d.Files[0] = nil }, within: "null"},
		{name: "a package that is null", text: func(d *v2_3.Document) { d.Packages[1] = nil }, within: "null"},
		{name: "a relationship that is null", text: func(d *v2_3.Document) { d.Relationships[1] = nil }, within: "null"},
		{name: "a license that is null", text: func(d *v2_3.Document) { d.OtherLicenses = append(d.OtherLicenses, nil) }, within: "null"},
		{name: "no SHA1", text: func(d *v2_3.Document) { d.Files[0].Checksums = d.Files[0].Checksums[1:] }, within: "no SHA1"},
		{name: "another verification code", text: func(d *v2_3.Document) { d.Packages[0].PackageVerificationCode.Value = "0" }, within: "verification code"},
		{name: "a package without a name", text: func(d *v2_3.Document) { d.Packages[3].PackageName = "" }, within: "no name"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text, f := good, facts(contents())
			if test.text != nil {
				doc, err := json.Read(bytes.NewReader(good))
				if err != nil {
					t.Fatal(err)
				}
				test.text(doc)
				var changed bytes.Buffer
				if err := json.Write(doc, &changed); err != nil {
					t.Fatal(err)
				}
				text = changed.Bytes()
			}
			if test.facts != nil {
				test.facts(&f)
			}
			if problems := strings.Join(sbom.Check(text, f), "\n"); !strings.Contains(problems, test.within) {
				t.Errorf("found %q, want %q among it", problems, test.within)
			}
		})
	}
	for _, text := range []string{"", "{}", "[]", "null", `{"spdxVersion":"SPDX-2.3"}`, `{"creationInfo":null}`, `{"packages":[null]}`, `{"snippets":[null],"annotations":[null]}`} {
		if problems := sbom.Check([]byte(text), facts(c)); len(problems) == 0 {
			t.Errorf("%q passed", text)
		}
	}
}

// The files of a bill of materials are those of the bundle, and only what can be shown is taken.
func TestFiles(t *testing.T) {
	c := contents()
	text, err := sbom.Bundle(c)
	if err != nil {
		t.Fatal(err)
	}
	got, err := sbom.Files(text)
	if err != nil {
		t.Fatal(err)
	}
	var want []manifests.File
	err = fs.WalkDir(c.FS, ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			var data []byte
			data, err = fs.ReadFile(c.FS, name)
			want = append(want, manifests.File{Path: name, SHA256: sumOf(data)})
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	const sum = `"checksums":[{"algorithm":"SHA256","checksumValue":"aa"}]`
	for name, files := range map[string]string{
		"null": "null", "no path": "{" + sum + "}", "up": `{"fileName":"../x",` + sum + "}", "root": `{"fileName":"/x",` + sum + "}",
		"a terminal's": `{"fileName":"./a\u001b[2J",` + sum + "}", "no digest": `{"fileName":"./x"}`,
		"another digest": `{"fileName":"./x","checksums":[{"algorithm":"SHA1","checksumValue":"aa"}]}`,
	} {
		if got, err := sbom.Files([]byte(`{"spdxVersion":"SPDX-2.3","files":[` + files + `]}`)); err == nil {
			t.Errorf("%s: taken as %+v", name, got)
		}
	}
	for _, text := range []string{"", "[]", "{", `{"spdxVersion":"SPDX-9"}`} {
		if _, err := sbom.Files([]byte(text)); err == nil {
			t.Errorf("%q is taken for a bill of materials", text)
		}
	}
}

func TestBundleRefusesHalf(t *testing.T) {
	for name, change := range map[string]func(*sbom.Contents){
		"no licence": func(c *sbom.Contents) { delete(c.FS.(fstest.MapFS), "LICENSE") },
		"no notice":  func(c *sbom.Contents) { delete(c.FS.(fstest.MapFS), "THIRD_PARTY_LICENSES.txt") },
		"no archive": func(c *sbom.Contents) { c.Archives = nil },
	} {
		c := contents()
		change(&c)
		if text, err := sbom.Bundle(c); err == nil {
			t.Errorf("%s: got %s", name, text)
		}
	}
}

func TestClient(t *testing.T) {
	name := filepath.Join(t.TempDir(), "llcuda-fetch")
	if output, err := exec.Command("go", "build", "-buildvcs=false", "-o", name, "../../manifests/cmd/llcuda-fetch").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	program, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	archive := clientArchive(t, map[string][]byte{"llcuda-fetch": program, "LICENSE": []byte(mit)})
	artifact := manifests.Artifact{Name: "llcuda-fetch-linux-amd64.tar.gz", SHA256: sumOf(archive)}
	created := time.Unix(1790553600, 0)
	text, err := sbom.Client(bytes.NewReader(archive), artifact, "v1", created)
	if err != nil {
		t.Fatal(err)
	}
	f := sbom.Facts{Name: "llcuda-fetch-linux-amd64", Archives: []manifests.Artifact{artifact},
		Files: []manifests.File{{Path: "llcuda-fetch", SHA256: sumOf(program)}, {Path: "LICENSE", SHA256: sumOf([]byte(mit))}}}
	if problems := sbom.Check(text, f); len(problems) > 0 {
		t.Errorf("its own check finds %q", problems)
	}
	for _, want := range []string{"pkg:golang/std@", "pkg:golang/github.com/sigstore/sigstore-go@v1", "go.sum: h1:"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s is not in it", want)
		}
	}
	again, err := sbom.Client(bytes.NewReader(archive), artifact, "v1", created)
	if err != nil || !bytes.Equal(text, again) {
		t.Errorf("the same archive gives another text, %v", err)
	}
	for name, broken := range map[string][]byte{
		"no archive":    []byte("x"),
		"no program":    clientArchive(t, map[string][]byte{"LICENSE": nil}),
		"no Go program": clientArchive(t, map[string][]byte{"llcuda-fetch": []byte("#!/bin/sh")}),
	} {
		if text, err := sbom.Client(bytes.NewReader(broken), artifact, "v1", created); err == nil {
			t.Errorf("%s: got %s", name, text)
		}
	}
}

func clientArchive(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var archive bytes.Buffer
	z, err := gzip.NewWriterLevel(&archive, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}
