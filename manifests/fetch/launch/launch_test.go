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
