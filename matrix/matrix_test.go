package matrix_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// valid is a small matrix that Check accepts.
func valid() matrix.Matrix {
	return matrix.Matrix{
		Targets: []matrix.Target{
			{SM: 75, Toolkit: "cuda12", Architecture: "Turing", GPUs: []string{"Tesla T4"}, Platforms: []string{"Colab"}, Seed: true},
			{SM: 90, Toolkit: "cuda12", Architecture: "Hopper", GPUs: []string{"H100"}, Platforms: []string{"Enterprise"}},
			{SM: 90, Toolkit: "cuda12", Architecture: "Hopper", GPUs: []string{"newer GPUs"}, Platforms: []string{"Enterprise"}, PTX: true},
			{SM: 120, Variant: "a", Toolkit: "cuda13", Architecture: "Blackwell", GPUs: []string{"RTX 5090"}, Platforms: []string{"Local"}},
		},
		Toolkits: []matrix.Toolkit{
			{Name: "cuda12", CUDA: "12.4.1", NVCC: "12.4.131", DriverCubin: "525.60.13", DriverPTX: "550.54.14"},
			{Name: "cuda13", CUDA: "13.3.1", NVCC: "13.3.73", DriverCubin: "580.65.06"},
		},
		Floors: matrix.Floors{Glibc: "2.35", GLIBCXX: "3.4.30"},
		LlamaCPP: matrix.LlamaPin{
			Repository: "https://example.org/llama.cpp", Ref: "v0.5.0", Version: "0.5.0", Commit: strings.Repeat("a", 40), Tree: strings.Repeat("b", 40),
			NPMPackage: "some-package@1.2.3", NPMIntegrity: "sha512-" + strings.Repeat("A", 86) + "==", BundlePath: "package/x.bundle",
		},
	}
}

func TestTarget(t *testing.T) {
	m := valid()
	var got []string
	for _, target := range m.Targets {
		got = append(got, target.CMakeArchitectures())
	}
	want := []string{"75-real", "90-real", "90-virtual", "120a-real"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A new row is one row: the GPUs of 10.3 and 12.1 need no change of the code.
func TestNewRow(t *testing.T) {
	m := valid()
	m.Targets = append(m.Targets[:3:3],
		matrix.Target{SM: 103, Toolkit: "cuda13", Architecture: "Blackwell", GPUs: []string{"B300"}, Platforms: []string{"Enterprise"}},
		m.Targets[3],
		matrix.Target{SM: 121, Variant: "a", Toolkit: "cuda13", Architecture: "Blackwell", GPUs: []string{"GB10"}, Platforms: []string{"Local"}})
	if err := m.Check(); err != nil {
		t.Fatal(err)
	}
	targets, err := m.Select("103", "12.1")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, target := range targets {
		toolkit, _ := m.ToolkitOf(target)
		got = append(got, target.CMakeArchitectures()+" by CUDA "+toolkit.CUDA)
	}
	if diff := cmp.Diff([]string{"103-real by CUDA 13.3.1", "121a-real by CUDA 13.3.1"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSelect(t *testing.T) {
	for _, test := range []struct {
		exprs []string
		want  []string
	}{
		{[]string{"all"}, []string{"sm75", "sm90", "ptx90", "sm120"}},
		{[]string{"seed"}, []string{"sm75"}},
		{[]string{"120"}, []string{"sm120"}},
		{[]string{"sm_90", "7.5"}, []string{"sm75", "sm90"}},
		{[]string{"ptx90, 75"}, []string{"sm75", "ptx90"}},
		{[]string{"seed,90", "75", "sm75", ""}, []string{"sm75", "sm90"}},
	} {
		targets, err := valid().Select(test.exprs...)
		if err != nil {
			t.Errorf("Select(%q): %v", test.exprs, err)
		}
		var got []string
		for _, target := range targets {
			got = append(got, target.Row().String())
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("Select(%q) (-want +got):\n%s", test.exprs, diff)
		}
	}
}

func TestSelectListsWhatExists(t *testing.T) {
	const list = `: the matrix has 75, 90, ptx90, 120; "all" is all of them, "seed" is these without 90, ptx90, 120`
	for _, test := range []struct {
		exprs []string
		want  string
	}{
		{nil, "no SM selected" + list},
		{[]string{"", " "}, "no SM selected" + list},
		{[]string{"86"}, `unknown SM "86"` + list},
		{[]string{"8"}, `unknown SM "8"` + list},
		{[]string{"ptx120,ptx_90"}, `unknown SM "ptx120", "ptx_90"` + list},
		{[]string{"75*"}, `unknown SM "75*"` + list},
		{[]string{"75,"}, `unknown SM ""` + list},
		{[]string{"All,72", "90,gpu"}, `unknown SM "All", "72", "gpu"` + list},
	} {
		targets, err := valid().Select(test.exprs...)
		var selection *matrix.SelectionError
		if !errors.As(err, &selection) || err.Error() != test.want || targets != nil {
			t.Errorf("Select(%q) = %v, %v, want %s", test.exprs, targets, err, test.want)
		}
	}
	seedOnly := valid()
	seedOnly.Targets = seedOnly.Targets[:1]
	_, err := seedOnly.Select()
	if want := `no SM selected: the matrix has 75; "all" is all of them, "seed" is the same`; err == nil || err.Error() != want {
		t.Errorf("Select() = %v, want %s", err, want)
	}
}

func TestCheck(t *testing.T) {
	if err := valid().Check(); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		edit func(*matrix.Matrix)
		want string
	}{
		"no rows": {func(m *matrix.Matrix) { m.Targets = nil }, "toolkits[0]: no row of targets names \"cuda12\"\ntoolkits[1]: no row of targets names \"cuda13\"\ntargets: no rows"},
		"twice":   {func(m *matrix.Matrix) { m.Targets = append(m.Targets, m.Targets[3]) }, "targets[4].sm: 120 stands here twice"},
		"order":   {func(m *matrix.Matrix) { m.Targets[0], m.Targets[3] = m.Targets[3], m.Targets[0] }, "targets[1].sm: 90 comes after 120: rows ascend, PTX after machine code\ntargets[3].sm: 75 comes after ptx90: rows ascend, PTX after machine code"},
		"not built": {func(m *matrix.Matrix) { m.Targets[3].Toolkit = "cuda12" },
			"toolkits[1]: no row of targets names \"cuda13\"\ntargets[3].sm: CUDA 12.4.1 does not compile for 120a\n" +
				"targets[2].ptx: true for 90: the PTX of cuda12 must be for its newest SM, 120a"},
		"unknown SM": {func(m *matrix.Matrix) { m.Targets[3].SM = 130 },
			"targets[3].sm: CUDA 13.3.1 does not compile for 130a\ntargets[3].sm: 130 is of no architecture known here"},
		"variant":                      {func(m *matrix.Matrix) { m.Targets[3].Variant = "f" }, `targets[3].variant: "f", want "a" or nothing`},
		"variant that is not compiled": {func(m *matrix.Matrix) { m.Targets[0].Variant = "a" }, `targets[0].sm: CUDA 12.4.1 does not compile for 75a`},
		"architecture":                 {func(m *matrix.Matrix) { m.Targets[0].Architecture = "Volta" }, `targets[0].architecture: "Volta", but 7.5 is Turing`},
		"no GPUs":                      {func(m *matrix.Matrix) { m.Targets[0].GPUs = nil }, "targets[0].gpus: empty"},
		"GPU twice":                    {func(m *matrix.Matrix) { m.Targets[0].GPUs = []string{"T4", "T4"} }, `targets[0].gpus[1]: "T4" stands here twice`},
		"GPU text":                     {func(m *matrix.Matrix) { m.Targets[0].GPUs = []string{"T4\x1b[2J", " T4", ""} }, `targets[0].gpus[0]: "T4\x1b[2J" is not a name` + "\n" + `targets[0].gpus[1]: " T4" is not a name` + "\n" + `targets[0].gpus[2]: "" is not a name`},
		"platform":                     {func(m *matrix.Matrix) { m.Targets[0].Platforms = []string{"Collab"} }, `targets[0].platforms[0]: "Collab" is none of Colab, Colab Pro, Enterprise, Kaggle, Local`},
		"no PTX":                       {func(m *matrix.Matrix) { m.Targets = slices.Delete(m.Targets, 2, 3) }, "targets: cuda12 has no row with ptx: true, which GPUs newer than the matrix run: add one for 90"},
		"PTX of one GPU":               {func(m *matrix.Matrix) { m.Targets[3].PTX = true }, "targets[3].ptx: true for 120a: PTX of an architecture-specific target runs on no newer GPU"},
		"PTX, no driver":               {func(m *matrix.Matrix) { m.Targets[3].PTX, m.Targets[3].Variant = true, "" }, "toolkits[1].driver_ptx: missing: ptx120 is PTX"},
		"PTX twice":                    {func(m *matrix.Matrix) { m.Targets[0].PTX = true }, "targets[0].ptx: true for 75: the PTX of cuda12 must be for its newest SM, 90"},
		"no seed":                      {func(m *matrix.Matrix) { m.Targets[0].Seed = false }, `targets: no row has seed: true, so "seed" selects nothing`},
		"no toolkits":                  {func(m *matrix.Matrix) { m.Toolkits = nil }, "toolkits: no rows\ntargets[0].toolkit: \"cuda12\" is none of toolkits\ntargets[1].toolkit: \"cuda12\" is none of toolkits\ntargets[2].toolkit: \"cuda12\" is none of toolkits\ntargets[3].toolkit: \"cuda13\" is none of toolkits"},
		"toolkit of no row":            {func(m *matrix.Matrix) { m.Targets = m.Targets[:3] }, `toolkits[1]: no row of targets names "cuda13"`},
		"toolkit's order":              {func(m *matrix.Matrix) { m.Toolkits[0], m.Toolkits[1] = m.Toolkits[1], m.Toolkits[0] }, "toolkits[1].cuda: 12.4.1 comes after 13.3.1: toolkits ascend\ntargets: cuda13 has no row with ptx: true, which GPUs newer than the matrix run: add one for 120a"},
		"toolkit twice":                {func(m *matrix.Matrix) { m.Toolkits = append(m.Toolkits[:1:1], m.Toolkits...) }, "toolkits[1].cuda: 12.4.1 comes after 12.4.1: toolkits ascend\ntoolkits[1].name: \"cuda12\" stands here twice"},
		"toolkit's name":               {func(m *matrix.Matrix) { m.Toolkits[1].Name, m.Targets[3].Toolkit = "blackwell", "blackwell" }, `toolkits[1].name: "blackwell", but a toolkit of CUDA 13.3.1 is "cuda13"`},
		"toolkit unknown":              {func(m *matrix.Matrix) { m.Toolkits[0].CUDA, m.Toolkits[0].NVCC = "12.8.0", "12.8.61" }, "toolkits[0].cuda: which SMs CUDA 12.8.0 compiles for is not known here"},
		"toolkit 13.0":                 {func(m *matrix.Matrix) { m.Toolkits[1].CUDA, m.Toolkits[1].NVCC = "13.0.2", "13.0.88" }, "toolkits[1].cuda: CUDA 13.0.2 is refused: its code for sm_120 and sm_121 crashes in quantized matrix products (llama.cpp issue 18331)"},
		"toolkit 13.2":                 {func(m *matrix.Matrix) { m.Toolkits[1].CUDA, m.Toolkits[1].NVCC = "13.2", "13.2.51" }, "toolkits[1].cuda: CUDA 13.2 is refused: its compiler drops a byte mask, and IQ1_S, IQ2_S and IQ3_S models give garbage (llama.cpp issues 21255 and 28581); use 13.3 or later, where it is fixed"},
		"toolkit versions":             {func(m *matrix.Matrix) { m.Toolkits[0] = matrix.Toolkit{Name: "cuda12", CUDA: "v12", DriverPTX: "5_5"} }, "toolkits[0].cuda: \"v12\" is not dotted numbers\ntoolkits[0].nvcc: \"\" is not dotted numbers\ntoolkits[0].driver_cubin: \"\" is not dotted numbers\ntoolkits[0].driver_ptx: \"5_5\" is not dotted numbers"},
		"nvcc":                         {func(m *matrix.Matrix) { m.Toolkits[0].NVCC = "12.40.1" }, "toolkits[0].nvcc: 12.40.1 is not of CUDA 12.4.1"},
		"drivers":                      {func(m *matrix.Matrix) { m.Toolkits[0].DriverPTX = "525.60.12" }, "toolkits[0].driver_ptx: 525.60.12 is older than driver_cubin 525.60.13"},
		"floors":                       {func(m *matrix.Matrix) { m.Floors = matrix.Floors{Glibc: "GLIBC_2.35"} }, "floors.glibc: \"GLIBC_2.35\" is not dotted numbers\nfloors.glibcxx: \"\" is not dotted numbers"},
		"repository":                   {func(m *matrix.Matrix) { m.LlamaCPP.Repository = "http://example.org/x" }, `llama_cpp.repository: "http://example.org/x" is not an https address`},
		"credentials":                  {func(m *matrix.Matrix) { m.LlamaCPP.Repository = "https://me@example.org/x" }, `llama_cpp.repository: "https://me@example.org/x" is not an https address`},
		"ref":                          {func(m *matrix.Matrix) { m.LlamaCPP.Ref = "--upload-pack=x" }, `llama_cpp.ref: "--upload-pack=x" is not a tag or branch`},
		"version":                      {func(m *matrix.Matrix) { m.LlamaCPP.Version = "latest" }, `llama_cpp.version: "latest" is not dotted numbers`},
		"commit":                       {func(m *matrix.Matrix) { m.LlamaCPP.Commit = "de3ff81" }, `llama_cpp.commit: "de3ff81" is not 40 hex digits`},
		"tree":                         {func(m *matrix.Matrix) { m.LlamaCPP.Tree = "" }, `llama_cpp.tree: "" is not 40 hex digits`},
		"build":                        {func(m *matrix.Matrix) { m.LlamaCPP.Build = -1 }, `llama_cpp.build: -1 is negative`},
		"npm":                          {func(m *matrix.Matrix) { m.LlamaCPP.NPMPackage = "some-package@latest" }, `llama_cpp.npm_package: "some-package@latest" is not name@1.2.3`},
		"integrity":                    {func(m *matrix.Matrix) { m.LlamaCPP.NPMIntegrity = "sha1-AAAA" }, `llama_cpp.npm_integrity: "sha1-AAAA" is not sha512- and 64 bytes in base64`},
		"epoch":                        {func(m *matrix.Matrix) { m.LlamaCPP.Epoch = -1 }, `llama_cpp.epoch: -1 is negative`},
		"npm commit":                   {func(m *matrix.Matrix) { m.LlamaCPP.NPMCommit = "HEAD" }, `llama_cpp.npm_commit: "HEAD" is not 40 hex digits`},
		"half of npm":                  {func(m *matrix.Matrix) { m.LlamaCPP.NPMPackage, m.LlamaCPP.BundlePath = "", "" }, "llama_cpp.npm_package: \"\" is not name@1.2.3\nllama_cpp.bundle_path: \"\" is not a relative path"},
		"bundle path":                  {func(m *matrix.Matrix) { m.LlamaCPP.BundlePath = "../x" }, `llama_cpp.bundle_path: "../x" is not a relative path`},
	} {
		t.Run(name, func(t *testing.T) {
			m := valid()
			test.edit(&m)
			err := m.Check()
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(test.want, err.Error()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestCheckModels(t *testing.T) {
	model := func(edit func(*matrix.Model)) matrix.Model {
		m := matrix.Model{
			Name: "b", Aliases: []string{"b2"}, Repo: "owner/repo", Revision: strings.Repeat("a", 40), File: "dir/x.gguf",
			Size: 1, SHA256: strings.Repeat("0", 64), Source: "owner/weights", Licence: "apache-2.0", VRAM: 1,
		}
		edit(&m)
		return m
	}
	for name, test := range map[string]struct {
		models []matrix.Model
		want   string
	}{
		"good":        {[]matrix.Model{model(func(*matrix.Model) {})}, ""},
		"least":       {[]matrix.Model{{Name: "b", Repo: "o/r", File: "x.gguf", Source: "o/w", Licence: "mit"}}, ""},
		"order":       {[]matrix.Model{model(func(*matrix.Model) {}), {Name: "a", Repo: "o/r", File: "x.gguf", Source: "o/w", Licence: "mit"}}, `[1].name: "a" comes after "b": models ascend by name`},
		"shared name": {[]matrix.Model{model(func(*matrix.Model) {}), {Name: "c", Aliases: []string{"B2"}, Repo: "o/r", File: "x.gguf", Source: "o/w", Licence: "mit"}}, `[1]: "B2" is already a name of b`},
		"empty":       {[]matrix.Model{{}}, "[0].name: \"\" is not a name\n[0].repo: \"\" is not owner/name\n[0].source: \"\" is not owner/name\n[0].file: \"\" is not a relative path\n[0].file: \"\" is not a .gguf\n[0].licence: \"\" is not a licence's short name"},
		"forms": {[]matrix.Model{model(func(m *matrix.Model) {
			m.Aliases, m.Revision, m.File, m.SHA256, m.Licence, m.VRAM = []string{"a/b"}, "main", "../x.gguf", "AB", "Apache 2", -1
		})}, "[0].aliases[0]: \"a/b\" is not a name\n[0].revision: \"main\" is not 40 hex digits: a branch may move\n[0].file: \"../x.gguf\" is not a relative path\n[0].sha256: \"AB\" is not 64 lower-case hex digits\n[0].licence: \"Apache 2\" is not a licence's short name\n[0].vram_mib: -1 is negative"},
		"size alone": {[]matrix.Model{model(func(m *matrix.Model) { m.SHA256 = "" })}, "[0].size: 1: size and sha256 are given together or not at all"},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			if err := matrix.CheckModels(test.models); err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
