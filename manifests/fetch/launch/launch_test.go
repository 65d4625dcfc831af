package launch

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/machine"
)

func TestEnviron(t *testing.T) {
	i := Installation{Bundle: "/store/bundles/b", VisibleDevices: []string{"GPU-a", "GPU-b"}}
	for name, test := range map[string]struct{ environ, want []string }{
		"bare":   {[]string{"A=1"}, []string{"A=1", "LD_LIBRARY_PATH=/store/bundles/b/lib", "CUDA_VISIBLE_DEVICES=GPU-a,GPU-b"}},
		"others": {[]string{"LD_LIBRARY_PATH=/opt/lib::/x"}, []string{"LD_LIBRARY_PATH=/store/bundles/b/lib:/opt/lib:/x", "CUDA_VISIBLE_DEVICES=GPU-a,GPU-b"}},
		"choice": {[]string{"CUDA_VISIBLE_DEVICES=0,1,2"}, []string{"LD_LIBRARY_PATH=/store/bundles/b/lib", "CUDA_VISIBLE_DEVICES=GPU-a,GPU-b"}},
	} {
		before := append([]string(nil), test.environ...)
		if diff := cmp.Diff(test.want, i.Environ(test.environ)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if diff := cmp.Diff(before, test.environ); diff != "" {
			t.Errorf("%s: the caller's environment changed: %s", name, diff)
		}
	}
}

// Before there is a bundle, programs get what the driver brings.
func TestEnvironWithoutBundle(t *testing.T) {
	for _, environ := range [][]string{{"A=1"}, {"A=1", "LD_LIBRARY_PATH=/opt/lib"}} {
		if diff := cmp.Diff(environ, Installation{}.Environ(environ)); diff != "" {
			t.Error(diff)
		}
	}
}

// newStore makes a store with one installation, which starts so.
func newStore(t *testing.T, start Start) string {
	t.Helper()
	store := t.TempDir()
	for _, dir := range []string{CurrentName, "installs/7", "bundles/b/binaries/cuda13/folder", "bundles/b/" + LibrariesDir} {
		if err := os.MkdirAll(filepath.Join(store, dir), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for path, data := range map[string][]byte{"bundles/b/binaries/cuda13/llama-cli": nil, "installs/7/" + StartName: start.Encode(), "bundles/b/libcublas.so.12": nil} {
		if err := os.WriteFile(filepath.Join(store, path), data, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for path, target := range map[string]string{
		CurrentName + "/" + start.Machine.Kind: "../installs/7", "installs/7/" + BundleName: "../../bundles/b", "bundles/b/binaries/cuda13/libggml-cpu.so": "llama-cli",
		"bundles/b/" + LibrariesDir + "/libcublas.so.12": "../libcublas.so.12",
	} {
		if err := os.Symlink(target, filepath.Join(store, path)); err != nil {
			t.Fatal(err)
		}
	}
	return store
}

// twoT4 is a machine with two GPUs of one kind.
func twoT4(selection ...string) Machine {
	m := Machine{Kind: "2x1eb8", Fingerprint: "2x1eb8 driver 550", Folders: []string{}, machine: machine.Machine{GPUs: 2, Alike: true}}
	if len(selection) > 0 {
		m.visible, m.Selection = selection[0], visibleDevices+"="+selection[0]
	}
	return m
}

func TestCurrent(t *testing.T) {
	start := Start{Machine: twoT4(), GPU: true, Every: true, Devices: []string{"GPU-a", "GPU-b"}, Libraries: []string{"libcublas.so.12"}}
	store := newStore(t, start)
	if got, ok := Current(store, twoT4()); !ok || got.Bundle != store+"/bundles/b" || got.VisibleDevices != nil {
		t.Errorf("%t %+v", ok, got)
	}
	hides := start
	hides.VisibleDevices = []string{"GPU-a"}
	if got, ok := Current(newStore(t, hides), twoT4()); !ok || cmp.Diff(hides.VisibleDevices, got.VisibleDevices) != "" {
		t.Errorf("%t %+v", ok, got)
	}
	other := twoT4()
	other.Kind = "1x20b0"
	for what, change := range map[string]func(store string) (string, Machine){
		"an empty folder":        func(string) (string, Machine) { return t.TempDir(), twoT4() },
		"another kind":           func(store string) (string, Machine) { return store, other },
		"no bundle":              func(store string) (string, Machine) { return store, remove(t, store, "installs/7/"+BundleName) },
		"no start":               func(store string) (string, Machine) { return store, remove(t, store, "installs/7/"+StartName) },
		"a library that is gone": func(store string) (string, Machine) { return store, remove(t, store, "bundles/b/libcublas.so.12") },
		"a start of another form": func(store string) (string, Machine) {
			if err := os.WriteFile(filepath.Join(store, "installs/7", StartName), []byte("llcuda-start 2\n"+string(start.Encode()[len(startForm)+1:])), 0o666); err != nil {
				t.Fatal(err)
			}
			return store, twoT4()
		},
		"a value that no line can hold": func(string) (string, Machine) {
			odd := start
			odd.Machine = twoT4("0\n1")
			return newStore(t, odd), odd.Machine
		},
	} {
		if got, ok := Current(change(newStore(t, start))); ok {
			t.Errorf("%s: %+v", what, got)
		}
	}
}

func remove(t *testing.T, store, path string) Machine {
	t.Helper()
	if err := os.Remove(filepath.Join(store, path)); err != nil {
		t.Fatal(err)
	}
	return twoT4()
}

// Which starts need no look by CUDA.
func TestServes(t *testing.T) {
	alike := Start{Machine: twoT4(), GPU: true, Every: true, Devices: []string{"GPU-a", "GPU-b"}}
	some := Start{Machine: twoT4(), GPU: true, Devices: []string{"GPU-a", "GPU-b"}, VisibleDevices: []string{"GPU-a"}}
	chosen := Start{Machine: twoT4("1"), GPU: true, Devices: []string{"GPU-b"}}
	onCPU := Start{Machine: twoT4("-1")}
	change := func(edit func(*Machine)) Machine {
		m := twoT4()
		edit(&m)
		return m
	}
	for _, test := range []struct {
		name  string
		start Start
		now   Machine
		want  bool
	}{
		{"as it was", alike, twoT4(), true},
		{"one by its index", alike, twoT4("1"), true},
		{"both", alike, twoT4("1,0"), true},
		{"by UUID", alike, twoT4("GPU-b"), true},
		{"an index that is none", alike, twoT4("2"), false},
		{"a later one that is none", alike, twoT4("0,2"), false},
		{"all hidden", alike, twoT4("-1"), false},
		{"all hidden, by an empty value", alike, twoT4(""), false},
		{"all hidden, by a word", alike, twoT4("NoDevFiles"), false},
		{"the second hidden", alike, twoT4("0,-1"), false},
		{"twice the same", alike, twoT4("0,0"), false},
		{"in two ways", alike, twoT4("0,GPU-b"), false},
		{"an unknown UUID", alike, twoT4("GPU-c"), false},
		{"the beginning of a UUID", alike, twoT4("GPU-"), false},
		{"a blank", alike, twoT4("0, 1"), false},
		{"a plus", alike, twoT4("+1"), false},
		{"a comma too many", alike, twoT4("0,"), false},
		{"some of the machine's", some, twoT4(), true},
		{"another choice than those", some, twoT4("0"), false},
		{"the choice that it was made for", chosen, twoT4("1"), true},
		{"another than it was made for", chosen, twoT4("0"), false},
		{"no choice any more", chosen, twoT4(), false},
		{"on the CPU, as it was", onCPU, twoT4("-1"), true},
		{"on the CPU, and there is a GPU", onCPU, twoT4(), false},
		{"another driver", alike, change(func(m *Machine) { m.Fingerprint += "1" }), false},
		{"a folder that hides a library", alike, change(func(m *Machine) { m.Folders = []string{"/opt"} }), false},
		{"no way to a GPU", alike, change(func(m *Machine) { m.machine.Unreachable = true }), false},
		{"another kind", alike, change(func(m *Machine) { m.Kind = "none" }), false},
	} {
		decoded, ok := decodeStart(test.start.Encode())
		if !ok {
			t.Errorf("%s: it cannot be read back", test.name)
		}
		if got := decoded.Serves(test.now); got != test.want {
			t.Errorf("%s: %t", test.name, got)
		}
	}
}

// Here reads the environment as programs will find it.
func TestHere(t *testing.T) {
	dir := t.TempDir()
	for _, file := range []string{"cuda/libcuda.so.1", "conda/libstdc++.so.6", "ours/libcublas.so.12"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, filepath.Dir(file)), 0o777), os.WriteFile(filepath.Join(dir, file), nil, 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		environ map[string]string
		want    Machine
	}{
		"nothing":    {nil, Machine{Folders: []string{}}},
		"a choice":   {map[string]string{"CUDA_VISIBLE_DEVICES": "1"}, Machine{Selection: "CUDA_VISIBLE_DEVICES=1", Folders: []string{}}},
		"no choice":  {map[string]string{"CUDA_VISIBLE_DEVICES": ""}, Machine{Selection: "CUDA_VISIBLE_DEVICES=", Folders: []string{}}},
		"its order":  {map[string]string{"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, Machine{Selection: "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=1", Folders: []string{}}},
		"order only": {map[string]string{"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, Machine{Folders: []string{}}},
		"libraries": {map[string]string{"LD_LIBRARY_PATH": dir + "/ours:" + dir + "/cuda::" + dir + "/none:" + dir + "/conda:" + dir + "/cuda"},
			Machine{Folders: []string{dir + "/cuda", dir + "/conda"}}},
	} {
		got := ThisMachine(func(name string) (string, bool) {
			value, set := test.environ[name]
			return value, set
		})
		test.want.Kind, test.want.Fingerprint = got.Kind, got.Fingerprint
		if !got.Same(test.want) {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}

// A user who can write to the store's folders decides what runs.
func TestDistrust(t *testing.T) {
	for name, test := range map[string]struct {
		change func(store string) error
		want   string // the folder, below the store
	}{
		"as it was":             {func(string) error { return nil }, "no"},
		"the group may":         {func(store string) error { return os.Chmod(store, 0o775) }, "no"},
		"everybody may":         {func(store string) error { return os.Chmod(store, 0o777) }, ""},
		"with the sticky bit":   {func(store string) error { return os.Chmod(store, 0o777|os.ModeSticky) }, ""},
		"somebody else's":       {func(store string) error { return os.Chown(store, 12345, 12345) }, ""},
		"everybody, the links":  {func(store string) error { return os.Chmod(filepath.Join(store, CurrentName), 0o777) }, CurrentName},
		"everybody, the files":  {func(store string) error { return os.Chmod(filepath.Join(store, "bundles"), 0o777) }, "bundles"},
		"somebody's, the files": {func(store string) error { return os.Chown(filepath.Join(store, "installs"), 12345, 12345) }, "installs"},
		"a link for a folder": {func(store string) error {
			return errors.Join(os.Rename(filepath.Join(store, "installs"), filepath.Join(store, "elsewhere")), os.Symlink("elsewhere", filepath.Join(store, "installs")))
		}, "installs"},
		"a link to it": {func(store string) error {
			return errors.Join(os.Rename(store, store+"-real"), os.Symlink(store+"-real", store))
		}, "no"},
	} {
		store := newStore(t, Start{Machine: twoT4()})
		for _, dir := range []string{"", CurrentName, "bundles", "installs"} {
			if err := os.Chmod(filepath.Join(store, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := test.change(store); err != nil {
			if os.Geteuid() != 0 && errors.Is(err, os.ErrPermission) {
				continue // only root gives files away
			}
			t.Fatal(err)
		}
		got, distrusted := Distrust(store)
		if distrusted != (test.want != "no") || distrusted && got.Path != filepath.Join(store, test.want) {
			t.Errorf("%s: %t %+v", name, distrusted, got)
		}
	}
}

func TestProgram(t *testing.T) {
	i, ok := Current(newStore(t, Start{Machine: twoT4()}), twoT4())
	if !ok {
		t.Fatal("there is no installation")
	}
	if program, ok := i.Program("llama-cli"); !ok || program != i.Bundle+"/binaries/cuda13/llama-cli" {
		t.Errorf("%s, %t", program, ok)
	}
	for _, name := range []string{"llama-nothing", "libggml-cpu.so", "folder", "", ".", "..", "../cuda12/llama-cli"} {
		if program, ok := i.Program(name); ok {
			t.Errorf("%q is %s", name, program)
		}
	}
}

func TestModels(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("file", nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		arguments []string
		want      []int
	}{
		{nil, nil},
		{[]string{"-m"}, nil},
		{[]string{"-m", "gemma"}, []int{1}},
		{[]string{"-p", "-m", "gemma", "-md", "org/repo:draft.gguf", "--model", "other"}, []int{2, 4, 6}},
		{[]string{"-m", "file", "--model-draft", "missing.gguf"}, nil},
		{[]string{"-m", "-m", "gemma"}, []int{1}},
		{[]string{"gemma"}, nil},
		{[]string{"-mm", "org/repo", "--mmproj", "x.gguf", "--lora", "file", "--lora", "file,org/repo:x.gguf", "--spec-draft-model", "org/d"}, []int{1, 7, 9}},
		{[]string{"--lora", "org/repo,x.gguf", "-m", "org/repo,x.gguf", "--mmproj", "a,b.gguf"}, []int{1, 3}},
		{[]string{"-hf", "file", "-hff", "x", "--hf_repo", "org/repo", "-hfd", "org/d"}, []int{1, 5, 7}}, // never a file
		{[]string{"--lora-scaled", "file:0.5,x.gguf:1", "--control_vector_scaled", "org/repo:x.gguf:0.5"}, []int{3}},
		{[]string{"-m", "https://hf.co/o/r/resolve/main/x.gguf", "-m", "hf.co/o/r/blob/main/x.gguf", "-m", "hf.co/o/r"}, []int{1, 3, 5}},
		{[]string{"-m", "/no/such:file", "-m", "./x", "-m", "../o/r", "-m", "/x/blob/y.gguf", "-m", ""}, nil}, // these are paths
		{[]string{"-mu", "https://hf.co/o/r/resolve/main/x.gguf", "--mmproj-url", "http://127.0.0.1/x,y.gguf"}, []int{1, 3}},
		{[]string{"-m=gemma", "--model=gemma", "--hf-file", "x"}, nil}, // llama.cpp takes none of these for a model
	} {
		if diff := cmp.Diff(test.want, Models(test.arguments)); diff != "" {
			t.Errorf("%q: %s", test.arguments, diff)
		}
	}
}
