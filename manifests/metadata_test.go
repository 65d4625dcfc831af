package manifests_test

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/goldentest"
	"github.com/waqasm86/llcuda-farm/matrix"
)

func encodeMetadata(t testing.TB, m manifests.Metadata) []byte {
	t.Helper()
	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestMetadataEncode(t *testing.T) {
	want := metadata()
	data := encodeMetadata(t, want)
	goldentest.Check(t, filepath.Join("testdata", manifests.MetadataName), data)
	got, err := manifests.DecodeMetadata(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
	// What has no PTX and no variants is written as empty lists, however it was made.
	bare := metadata()
	bare.DeviceCode.PTX = nil
	if diff := cmp.Diff(string(data), string(encodeMetadata(t, bare))); diff != "" {
		t.Errorf("nil instead of empty (-want +got):\n%s", diff)
	}
	bare.Requires.CPUVariants, bare.Requires.Libraries, bare.Build.HostCMake, bare.Build.CUDACMake = nil, nil, nil, nil
	if data := encodeMetadata(t, bare); bytes.Contains(data, []byte("null")) {
		t.Errorf("a null in\n%s", data)
	}
}

func TestMetadataRefuses(t *testing.T) {
	file := func(path string) manifests.File {
		return manifests.File{Path: path, Size: 1, Mode: "0644", SHA256: hash("f")}
	}
	link := func(path, to string) manifests.File { return manifests.File{Path: path, Mode: "0777", Link: to} }
	for name, test := range map[string]struct {
		edit func(*manifests.Metadata)
		want string
	}{
		"schema":         {func(m *manifests.Metadata) { m.SchemaVersion = 0 }, "schema_version: 0, want 1"},
		"release":        {func(m *manifests.Metadata) { m.Release = "v1/x" }, `release: "v1/x" is not a name: letters, digits and ._- with no dot in front`},
		"name":           {func(m *manifests.Metadata) { m.Name = "llcuda-bins-sm50" }, `name: "llcuda-bins-sm50", but the bundle for 75 is llcuda-bins-sm75`},
		"SM":             {func(m *manifests.Metadata) { m.SM, m.Name = 0, "llcuda-bins-sm0" }, "sm: 0 is not a compute capability\ndevice_code.cubin: [75], but the bundle is for [0]"},
		"architecture":   {func(m *manifests.Metadata) { m.Architecture = "" }, `architecture: "", but 7.5 is Turing`},
		"no GPUs":        {func(m *manifests.Metadata) { m.GPUs = nil }, "gpus: empty"},
		"two cubins":     {func(m *manifests.Metadata) { m.DeviceCode.Cubin = []matrix.Code{{SM: 75}, {SM: 80}} }, "device_code.cubin: [75 80], but the bundle is for [75]"},
		"toolkit":        {func(m *manifests.Metadata) { m.Toolkit = manifests.Toolkit{} }, "toolkit.cuda: \"\" is not dotted numbers\ntoolkit.nvcc: \"\" is not dotted numbers"},
		"build":          {func(m *manifests.Metadata) { m.Build = manifests.Build{} }, "build.builder_image: empty\nbuild.host_image: empty\nbuild.base_image: empty\nbuild.engine: empty\nbuild.source_date_epoch: 0 is not between 1 and 8589934591"},
		"a patch":        {func(m *manifests.Metadata) { m.Build.Patches = []manifests.Patch{{Name: "../a", SHA256: "1"}} }, "build.patches[0].name: \"../a\" is not a name: letters, digits and ._- with no dot in front\nbuild.patches[0].sha256: \"1\" is not 64 lower-case hex digits"},
		"build text":     {func(m *manifests.Metadata) { m.Build.HostCMake = []string{"a\x00b"} }, `build.host_cmake[0]: "a\x00b" cannot be printed in one line`},
		"no files":       {func(m *manifests.Metadata) { m.Files = nil }, "files: empty"},
		"order":          {func(m *manifests.Metadata) { m.Files[0], m.Files[6] = m.Files[6], m.Files[0] }, `files[6].path: "LICENSE" comes after "lib/libllama.so.0": files ascend by path, each once`},
		"twice":          {func(m *manifests.Metadata) { m.Files = slices.Insert(m.Files, 1, m.Files[0]) }, `files[1].path: "LICENSE" comes after "LICENSE": files ascend by path, each once`},
		"itself":         {func(m *manifests.Metadata) { m.Files = append(m.Files, file("metadata.json")) }, "files[7].path: metadata.json does not list itself"},
		"absolute":       {func(m *manifests.Metadata) { m.Files = append(m.Files, file("/m")) }, `files[7].path: "/m" is not a path below the top folder`},
		"up":             {func(m *manifests.Metadata) { m.Files = append(m.Files, file("m/../../x")) }, `files[7].path: "m/../../x" is not a path below the top folder`},
		"dot":            {func(m *manifests.Metadata) { m.Files = append(m.Files, file("m/./x")) }, `files[7].path: "m/./x" is not a path below the top folder`},
		"folder":         {func(m *manifests.Metadata) { m.Files = append(m.Files, file("m/")) }, `files[7].path: "m/" is not a path below the top folder`},
		"backslash":      {func(m *manifests.Metadata) { m.Files = append(m.Files, file(`m\x`)) }, `files[7].path: "m\\x" is not a path below the top folder`},
		"long path":      {func(m *manifests.Metadata) { m.Files = append(m.Files, file(strings.Repeat("m", 1025))) }, `files[7].path: "` + strings.Repeat("m", 80) + `…" is not a path below the top folder`},
		"newline":        {func(m *manifests.Metadata) { m.Files = append(m.Files, file("m\nx")) }, `files[7].path: "m\nx" cannot be printed in one line`},
		"below a file":   {func(m *manifests.Metadata) { m.Files = append(m.Files, file("m"), file("m/x")) }, `files[8].path: "m/x" is below "m", which is not a folder`},
		"below a link":   {func(m *manifests.Metadata) { m.Files = append(m.Files, link("m", "lib/libllama.so"), file("m/x/y")) }, `files[8].path: "m/x/y" is below "m", which is not a folder`},
		"link up":        {func(m *manifests.Metadata) { m.Files = append(m.Files, link("m", "../x")) }, "files[7].link: \"../x\" leaves the bundle or is not in its shortest form\nfiles[7].link: \"../x\" does not lead to a file of the bundle"},
		"absolute link":  {func(m *manifests.Metadata) { m.Files = append(m.Files, link("m", "/LICENSE")) }, "files[7].link: \"/LICENSE\" leaves the bundle or is not in its shortest form"},
		"link with dots": {func(m *manifests.Metadata) { m.Files = append(m.Files, link("m", "lib/../LICENSE")) }, "files[7].link: \"lib/../LICENSE\" leaves the bundle or is not in its shortest form"},
		"link to folder": {func(m *manifests.Metadata) { m.Files = append(m.Files, link("m", "lib")) }, `files[7].link: "lib" does not lead to a file of the bundle`},
		"link to itself": {func(m *manifests.Metadata) { m.Files = append(m.Files, link("m", "m")) }, `files[7].link: "m" does not lead to a file of the bundle`},
		"circle":         {func(m *manifests.Metadata) { m.Files = append(m.Files, link("m", "n"), link("n", "m")) }, `files[7].link: "n" does not lead to a file of the bundle`},
		"dangling":       {func(m *manifests.Metadata) { m.Files = append(m.Files, link("m", "lib/libcuda.so.1")) }, `files[7].link: "lib/libcuda.so.1" does not lead to a file of the bundle`},
		"link and file":  {func(m *manifests.Metadata) { m.Files[0].Link = "lib/libllama.so" }, "files[0]: want either sha256 or link"},
		"neither":        {func(m *manifests.Metadata) { m.Files[0].SHA256 = "" }, "files[0]: want either sha256 or link"},
		"link's size":    {func(m *manifests.Metadata) { m.Files[1].Size = 1 }, "files[1].size: 1, but a link has none"},
		"link's mode":    {func(m *manifests.Metadata) { m.Files[1].Mode = "0755" }, `files[1].mode: "0755", want 0777 for a link`},
		"setuid":         {func(m *manifests.Metadata) { m.Files[2].Mode = "4755" }, `files[2].mode: "4755", want 0644 or 0755`},
		"size":           {func(m *manifests.Metadata) { m.Files[2].Size = -1 }, "files[2].size: -1 is not between 0 and 1099511627776"},
		"digest":         {func(m *manifests.Metadata) { m.Files[2].SHA256 = "abc" }, `files[2].sha256: "abc" is not 64 lower-case hex digits`},
	} {
		t.Run(name, func(t *testing.T) {
			m := metadata()
			test.edit(&m)
			err := m.Check()
			if err == nil {
				t.Fatal("no error")
			}
			if got := err.Error(); !strings.Contains("\n"+got+"\n", "\n"+test.want+"\n") {
				t.Errorf("(-want +got):\n%s", cmp.Diff(test.want, got))
			}
			if data, err := m.Encode(); err == nil || data != nil {
				t.Errorf("Encode wrote it: %v", err)
			}
		})
	}
}

// A source tree that has no repository is named by its own digest.
func TestMetadataWithoutCommit(t *testing.T) {
	m := metadata()
	m.LlamaCPP.Commit = "sha256:" + hash("a")
	if err := m.Check(); err != nil {
		t.Error(err)
	}
}

func FuzzDecodeMetadata(f *testing.F) {
	f.Add(encodeMetadata(f, metadata()))
	f.Add([]byte(`{"schema_version":1,"files":[{"path":"a","link":"a"},{"path":"a/b","size":-0,"mode":"\u0000"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := manifests.DecodeMetadata(bytes.NewReader(data))
		if err != nil {
			return
		}
		canonical := encodeMetadata(t, m)
		again, err := manifests.DecodeMetadata(bytes.NewReader(canonical))
		if err != nil {
			t.Fatalf("what Encode writes is refused: %v\n%s", err, canonical)
		}
		if diff := cmp.Diff(m, again); diff != "" {
			t.Errorf("read back (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(string(canonical), string(encodeMetadata(t, again))); diff != "" {
			t.Errorf("written again (-want +got):\n%s", diff)
		}
	})
}
