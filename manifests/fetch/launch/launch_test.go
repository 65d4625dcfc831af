package launch

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEnviron(t *testing.T) {
	i := Installation{Bundle: "/store/bundles/b", VisibleDevices: []string{"GPU-a", "GPU-b"}}
	for name, test := range map[string]struct{ environ, want []string }{
		"bare":   {[]string{"A=1"}, []string{"A=1", "LD_LIBRARY_PATH=/store/bundles/b/lib", "CUDA_VISIBLE_DEVICES=GPU-a,GPU-b"}},
		"others": {[]string{"LD_LIBRARY_PATH=/opt/lib::/x"}, []string{"LD_LIBRARY_PATH=/store/bundles/b/lib:/opt/lib:/x", "CUDA_VISIBLE_DEVICES=GPU-a,GPU-b"}},
		"choice": {[]string{"CUDA_VISIBLE_DEVICES=1"}, []string{"CUDA_VISIBLE_DEVICES=1", "LD_LIBRARY_PATH=/store/bundles/b/lib"}},
		"none":   {[]string{"CUDA_VISIBLE_DEVICES="}, []string{"CUDA_VISIBLE_DEVICES=", "LD_LIBRARY_PATH=/store/bundles/b/lib"}},
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

// newStore makes a store with one installation; nil devices are one that does not say.
func newStore(t *testing.T, devices []byte) string {
	t.Helper()
	store := t.TempDir()
	for _, dir := range []string{"installs/7", "bundles/b/" + ProgramsDir + "/folder"} {
		if err := os.MkdirAll(filepath.Join(store, dir), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string][]byte{"bundles/b/" + ProgramsDir + "/llama-cli": nil}
	if devices != nil {
		files["installs/7/"+DevicesName] = devices
	}
	for path, data := range files {
		if err := os.WriteFile(filepath.Join(store, path), data, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for path, target := range map[string]string{
		CurrentName: "installs/7", "installs/7/" + BundleName: "../../bundles/b", "bundles/b/" + ProgramsDir + "/libggml-cpu.so": "llama-cli",
	} {
		if err := os.Symlink(target, filepath.Join(store, path)); err != nil {
			t.Fatal(err)
		}
	}
	return store
}

func TestCurrent(t *testing.T) {
	for name, test := range map[string]struct {
		devices []byte
		want    []string
	}{
		"all GPUs": {[]byte{}, nil},
		"some":     {EncodeDevices([]string{"GPU-a", "MIG-b"}), []string{"GPU-a", "MIG-b"}},
	} {
		store := newStore(t, test.devices)
		got, ok := Current(store)
		if diff := cmp.Diff(Installation{store + "/bundles/b", test.want}, got); !ok || diff != "" {
			t.Errorf("%s: %t %s", name, ok, diff)
		}
	}
	// An installation of an earlier llcuda-fetch does not say which devices; those that are no installation say nothing.
	if got, ok := Current(newStore(t, nil)); ok {
		t.Errorf("without its devices: %+v", got)
	}
	if got, ok := Current(t.TempDir()); ok {
		t.Errorf("an empty folder: %+v", got)
	}
	dangling := newStore(t, []byte{})
	if err := os.Remove(filepath.Join(dangling, "installs/7", BundleName)); err != nil {
		t.Fatal(err)
	}
	if got, ok := Current(dangling); ok {
		t.Errorf("without a bundle: %+v", got)
	}
}

func TestProgram(t *testing.T) {
	i, ok := Current(newStore(t, []byte{}))
	if !ok {
		t.Fatal("there is no installation")
	}
	if program, ok := i.Program("llama-cli"); !ok || program != i.Bundle+"/"+ProgramsDir+"/llama-cli" {
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
	} {
		if diff := cmp.Diff(test.want, Models(test.arguments)); diff != "" {
			t.Errorf("%q: %s", test.arguments, diff)
		}
	}
}
