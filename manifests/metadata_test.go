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
		"SM":             {func(m *manifests.Metadata) { m.Row, m.Name = sm(0), "llcuda-bins-sm0" }, "sm: 0 is not a compute capability\ndevice_code.cubin: [75], but the bundle is for [0]"},
		"architecture":   {func(m *manifests.Metadata) { m.Architecture = "" }, `architecture: "", but 7.5 is Turing`},
		"no GPUs":        {func(m *manifests.Metadata) { m.GPUs = nil }, "gpus: empty"},
		"two cubins":     {func(m *manifests.Metadata) { m.DeviceCode.Cubin = []matrix.Code{{SM: 75}, {SM: 80}} }, "device_code.cubin: [75 80], but the bundle is for [75]"},
		"PTX as well":    {func(m *manifests.Metadata) { m.DeviceCode.PTX = ptxCode(75).PTX }, "device_code.ptx: [75], but a bundle has machine code or PTX, and sm75 is of cubin"},
		"driver of PTX":  {func(m *manifests.Metadata) { m.Requires.DriverMin.PTX = "550.54.14" }, `requires.driver_min.ptx: "550.54.14", but there is no PTX`},
		"no driver":      {func(m *manifests.Metadata) { m.Requires.DriverMin = manifests.DriverMin{} }, `requires.driver_min.cubin: "" is not dotted numbers`},
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
		"link up":        {func(m *manifests.Metadata) { m.Files = append(m.Files, link("m", "../x")) }, "files[7].link: \"../x\" leaves the archive or is not in its shortest form\nfiles[7].link: \"../x\" does not lead to a file of the archive"},
		"absolute link":  {func(m *manifests.Metadata) { m.Files = append(m.Files, link("m", "/LICENSE")) }, "files[7].link: \"/LICENSE\" leaves the archive or is not in its shortest form"},
		"link with dots": {func(m *manifests.Metadata) { m.Files = append(m.Files, link("m", "lib/../LICENSE")) }, "files[7].link: \"lib/../LICENSE\" leaves the archive or is not in its shortest form"},
		"link to folder": {func(m *manifests.Metadata) { m.Files = append(m.Files, link("m", "lib")) }, `files[7].link: "lib" does not lead to a file of the archive`},
		"link to itself": {func(m *manifests.Metadata) { m.Files = append(m.Files, link("m", "m")) }, `files[7].link: "m" does not lead to a file of the archive`},
		"circle":         {func(m *manifests.Metadata) { m.Files = append(m.Files, link("m", "n"), link("n", "m")) }, `files[7].link: "n" does not lead to a file of the archive`},
		"dangling":       {func(m *manifests.Metadata) { m.Files = append(m.Files, link("m", "lib/libcuda.so.1")) }, `files[7].link: "lib/libcuda.so.1" does not lead to a file of the archive`},
		"link and file":  {func(m *manifests.Metadata) { m.Files[0].Link = "lib/libllama.so" }, "files[0]: want either sha256 or link"},
		"neither":        {func(m *manifests.Metadata) { m.Files[0].SHA256 = "" }, "files[0]: want either sha256 or link"},
		"link's size":    {func(m *manifests.Metadata) { m.Files[1].Size = 1 }, "files[1].size: 1, but a link has none"},
		"link's mode":    {func(m *manifests.Metadata) { m.Files[1].Mode = "0755" }, `files[1].mode: "0755", want 0777 for a link`},
		"setuid":         {func(m *manifests.Metadata) { m.Files[2].Mode = "4755" }, `files[2].mode: "4755", want 0644 or 0755`},
		"size":           {func(m *manifests.Metadata) { m.Files[2].Size = -1 }, "files[2].size: -1 is not between 0 and 1099511627776"},
		"digest":         {func(m *manifests.Metadata) { m.Files[2].SHA256 = "abc" }, `files[2].sha256: "abc" is not 64 lower-case hex digits`},
	} {
		t.Run(name, func(t *testing.T) { refusesMetadata(t, metadata(), test.edit, test.want) })
	}
}

// refusesMetadata edits metadata that is sound, and wants these problems of it.
func refusesMetadata(t *testing.T, m manifests.Metadata, edit func(*manifests.Metadata), want string) {
	t.Helper()
	if err := m.Check(); err != nil {
		t.Fatal(err)
	}
	edit(&m)
	err := m.Check()
	if err == nil {
		t.Fatal("no error")
	}
	if got := err.Error(); !strings.Contains("\n"+got+"\n", "\n"+want+"\n") {
		t.Errorf("(-want +got):\n%s", cmp.Diff(want, got))
	}
	if data, err := m.Encode(); err == nil || data != nil {
		t.Errorf("Encode wrote it: %v", err)
	}
}

// ptxMetadata is the metadata of a bundle of PTX.
func ptxMetadata() manifests.Metadata {
	m := metadata()
	m.Name, m.Row, m.Architecture, m.GPUs = "llcuda-bins-ptx90", ptx(90), "Hopper", []string{"GPUs newer than Hopper"}
	m.DeviceCode, m.Requires = ptxCode(90), requires(ptxDriver)
	return m
}

func TestMetadataOfPTX(t *testing.T) {
	want := ptxMetadata()
	data := encodeMetadata(t, want)
	if !bytes.Contains(data, []byte("\n  \"sm\": \"ptx90\",\n")) || !bytes.Contains(data, []byte("\"driver_min\": {\n      \"ptx\": \"550.54.14\"\n    }")) {
		t.Errorf("it is written as\n%s", data)
	}
	got, err := manifests.DecodeMetadata(bytes.NewReader(data))
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("read back: %v (-want +got):\n%s", err, diff)
	}
	if code, ptx := requires(cubinDriver).DriverMin.Any(), requires(ptxDriver).DriverMin.Any(); code != "525.60.13" || ptx != "550.54.14" {
		t.Errorf("the oldest drivers are %s and %s", code, ptx)
	}
	for name, test := range map[string]struct {
		edit func(*manifests.Metadata)
		want string
	}{
		"machine code as well":     {func(m *manifests.Metadata) { m.DeviceCode.Cubin = code(90).Cubin }, "device_code.cubin: [90], but a bundle has machine code or PTX, and ptx90 is of ptx"},
		"no PTX":                   {func(m *manifests.Metadata) { m.DeviceCode = code(90) }, "device_code.ptx: [], but the bundle is for [90]\ndevice_code.cubin: [90], but a bundle has machine code or PTX, and ptx90 is of ptx"},
		"PTX of another":           {func(m *manifests.Metadata) { m.DeviceCode = ptxCode(89) }, "device_code.ptx: [89], but the bundle is for [90]"},
		"PTX for one GPU":          {func(m *manifests.Metadata) { m.DeviceCode.PTX = []matrix.Code{{SM: 90, Variant: "a"}} }, "device_code.ptx: [90a], but the bundle is for [90]"},
		"two PTX":                  {func(m *manifests.Metadata) { m.DeviceCode = ptxCode(80, 90) }, "device_code.ptx: [80 90], but the bundle is for [90]"},
		"a driver of machine code": {func(m *manifests.Metadata) { m.Requires.DriverMin.Cubin = "525.60.13" }, `requires.driver_min.cubin: "525.60.13", but there is no machine code`},
		"that driver alone":        {func(m *manifests.Metadata) { m.Requires = requires(cubinDriver) }, "requires.driver_min.ptx: \"\" is not dotted numbers\nrequires.driver_min.cubin: \"525.60.13\", but there is no machine code"},
		"the name of its SM":       {func(m *manifests.Metadata) { m.Name = "llcuda-bins-sm90" }, `name: "llcuda-bins-sm90", but the bundle for ptx90 is llcuda-bins-ptx90`},
		"no SM":                    {func(m *manifests.Metadata) { m.Row, m.Name = ptx(0), "llcuda-bins-ptx0" }, "sm: 0 is not a compute capability\ndevice_code.ptx: [90], but the bundle is for [0]"},
	} {
		t.Run(name, func(t *testing.T) { refusesMetadata(t, ptxMetadata(), test.edit, test.want) })
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
	f.Add(encodeMetadata(f, ptxMetadata()))
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
