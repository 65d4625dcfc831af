package detect

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
)

// library compiles a shared library.
func library(t *testing.T, path, soname string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("gcc", "-shared", "-nostdlib", "-o", path, "-Wl,-soname,"+soname, "-x", "c", "-")
	cmd.Stdin = strings.NewReader("int answer(void) { return 42; }\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
}

// cuda12 and cuda13 are CUDA's libraries.
var (
	cuda12 = []string{"libcublas.so.12", "libcublasLt.so.12", "libcudart.so.12"}
	cuda13 = []string{"libcublas.so.13", "libcublasLt.so.13", "libcudart.so.13"}
)

func libraries(t *testing.T, dir, folder string) {
	t.Helper()
	for _, soname := range cuda12 {
		library(t, filepath.Join(dir, folder, soname), soname)
	}
}

// found is source and folder of each library, below the root.
func found(report Report, dir string) []string {
	list := []string{}
	for _, library := range report.Host.CUDALibraries {
		list = append(list, library.Source+" "+strings.TrimPrefix(library.Path, dir))
	}
	return list
}

func wholeRuntime(source, folder string) []string {
	list := []string{}
	for _, soname := range cuda12 {
		list = append(list, source+" "+folder+"/"+soname)
	}
	return list
}

// Every toolkit that bundles are made with has its libraries looked for.
func TestToolkitsOfTheMatrix(t *testing.T) {
	m, err := spec.Default()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range m.Toolkits {
		names := manifests.Toolkit{CUDA: k.CUDA}.CUDALibraries()
		if !slices.ContainsFunc(runtimeLibraries(), func(set []string) bool { return slices.Equal(set, names) }) {
			t.Errorf("nobody looks for %q, which bundles of %s need", names, k.Name)
		}
	}
}

func TestCUDALibraries(t *testing.T) {
	multiarch := "/usr/lib/" + triplets[runtime.GOARCH]
	for name, test := range map[string]struct {
		put  func(dir string)
		env  []string
		want []string
	}{
		"none":        {put: func(string) {}, want: []string{}},
		"environment": {put: func(dir string) { libraries(t, dir, "/opt/cuda") }, env: []string{"LD_LIBRARY_PATH", "relative::/missing:/opt/cuda"}, want: wholeRuntime("environment", "/opt/cuda")},
		"the client's own, by way of an installation": {put: func(dir string) {
			libraries(t, dir, "/other/runtimes/r/lib") // not that of Disk: any store's
			err := os.Symlink("other/runtimes/r/lib", dir+"/linked")
			if err := errors.Join(err, os.WriteFile(dir+"/other/llcuda-store", nil, 0o644)); err != nil {
				t.Fatal(err)
			}
			libraries(t, dir, "/opt/cuda")
		}, env: []string{"LD_LIBRARY_PATH", "/other/runtimes/r/lib:/linked:/opt/cuda"}, want: wholeRuntime("environment", "/opt/cuda")},
		"toolkit": {put: func(dir string) { libraries(t, dir, "/usr/local/cuda-12.4/lib64") }, want: wholeRuntime("toolkit", "/usr/local/cuda-12.4/lib64")},
		"another home": {put: func(dir string) { libraries(t, dir, "/opt/toolkit/targets/x86_64-linux/lib") },
			env: []string{"CUDA_HOME", "/opt/toolkit"}, want: wholeRuntime("toolkit", "/opt/toolkit/targets/x86_64-linux/lib")},
		"loader": {put: func(dir string) { libraries(t, dir, multiarch) }, want: wholeRuntime("loader", multiarch)},
		"a stub does not count": {put: func(dir string) { libraries(t, dir, "/opt/cuda/lib64/stubs") },
			env: []string{"LD_LIBRARY_PATH", "/opt/cuda/lib64/stubs"}, want: []string{}},
		"nor does a link to one": {put: func(dir string) {
			libraries(t, dir, "/opt/cuda/stubs")
			if err := os.Symlink("cuda/stubs", dir+"/opt/plain"); err != nil {
				t.Fatal(err)
			}
		}, env: []string{"LD_LIBRARY_PATH", "/opt/plain"}, want: []string{}},
		"nor what is not a library": {put: func(dir string) {
			libraries(t, dir, "/usr/local/cuda/lib64")
			if err := os.WriteFile(dir+"/usr/local/cuda/lib64/libcudart.so.12", []byte("text"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, want: wholeRuntime("toolkit", "/usr/local/cuda/lib64")[:2]},
		"nor another version by this name": {put: func(dir string) {
			libraries(t, dir, "/usr/local/cuda/lib64")
			library(t, dir+"/usr/local/cuda/lib64/libcudart.so.12", "libcudart.so.13")
		}, want: wholeRuntime("toolkit", "/usr/local/cuda/lib64")[:2]},
		"cuBLAS is taken whole": {put: func(dir string) {
			library(t, dir+"/usr/local/cuda/lib64/libcublas.so.12", "libcublas.so.12")
			libraries(t, dir, "/usr/local/cuda/lib")
		}, want: wholeRuntime("toolkit", "/usr/local/cuda/lib")},
		"pip": {put: func(dir string) {
			const packages = "/venv/lib/python3.11/site-packages/nvidia/"
			library(t, dir+packages+"cublas/lib/libcublas.so.12", "libcublas.so.12")
			library(t, dir+packages+"cublas/lib/libcublasLt.so.12", "libcublasLt.so.12")
			library(t, dir+packages+"cuda_runtime/lib/libcudart.so.12", "libcudart.so.12")
		}, env: []string{"VIRTUAL_ENV", "/venv"}, want: []string{
			"pip /venv/lib/python3.11/site-packages/nvidia/cublas/lib/libcublas.so.12",
			"pip /venv/lib/python3.11/site-packages/nvidia/cublas/lib/libcublasLt.so.12",
			"pip /venv/lib/python3.11/site-packages/nvidia/cuda_runtime/lib/libcudart.so.12",
		}},
		"pip's CUDA 13, beside CUDA 12 of the loader": {put: func(dir string) {
			for _, soname := range cuda13 {
				library(t, dir+"/venv/lib/python3.12/site-packages/nvidia/cu13/lib/"+soname, soname)
			}
			libraries(t, dir, multiarch)
		}, env: []string{"VIRTUAL_ENV", "/venv"}, want: append([]string{
			"pip /venv/lib/python3.12/site-packages/nvidia/cu13/lib/libcublas.so.13",
			"pip /venv/lib/python3.12/site-packages/nvidia/cu13/lib/libcublasLt.so.13",
			"pip /venv/lib/python3.12/site-packages/nvidia/cu13/lib/libcudart.so.13",
		}, wholeRuntime("loader", multiarch)...)},
		"two toolkits": {put: func(dir string) {
			libraries(t, dir, "/usr/local/cuda-12.4/lib64")
			for _, soname := range cuda13 {
				library(t, dir+"/usr/local/cuda-13.3/targets/x86_64-linux/lib/"+soname, soname)
			}
		}, want: append(wholeRuntime("toolkit", "/usr/local/cuda-12.4/lib64"),
			"toolkit /usr/local/cuda-13.3/targets/x86_64-linux/lib/libcublas.so.13",
			"toolkit /usr/local/cuda-13.3/targets/x86_64-linux/lib/libcublasLt.so.13",
			"toolkit /usr/local/cuda-13.3/targets/x86_64-linux/lib/libcudart.so.13")},
		"a runtime of the farm's, unpacked by hand, is not NVIDIA's": {put: func(dir string) {
			libraries(t, dir, "/opt/runtime/lib")
			library(t, dir+"/opt/runtime/lib/libllcuda-blas.so.12", "libllcuda-blas.so.12")
			link := dir + "/opt/runtime/lib/libcublas.so.12"
			if err := errors.Join(os.Remove(link), os.Symlink("libllcuda-blas.so.12", link)); err != nil {
				t.Fatal(err)
			}
		}, env: []string{"LD_LIBRARY_PATH", "/opt/runtime/lib"}, want: []string{"environment /opt/runtime/lib/libcudart.so.12"}},
		"in the order of trial": {put: func(dir string) {
			libraries(t, dir, multiarch)
			libraries(t, dir, "/usr/local/cuda/lib64")
		}, want: append(wholeRuntime("toolkit", "/usr/local/cuda/lib64"), wholeRuntime("loader", multiarch)...)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			test.put(dir)
			report, err := Detector{Root: dir, Environ: environment(test.env...), Disk: filepath.Join(dir, "store")}.Detect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, found(report, dir)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
