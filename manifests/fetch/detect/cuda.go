package detect

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/home"
)

// runtimeLibraries are the libraries that bundles need and do not have inside, of each CUDA that
// bundles are made with.
func runtimeLibraries() [][]string {
	var sets [][]string
	for _, cuda := range []string{"12", "13"} {
		sets = append(sets, manifests.Toolkit{CUDA: cuda}.CUDALibraries())
	}
	return sets
}

// The sources of CUDA libraries, in the order in which they are to be tried.
const (
	sourceEnvironment = "environment"
	sourcePip         = "pip"
	sourceToolkit     = "toolkit"
	sourceLoader      = "loader"
)

// cudaLibraries looks for the CUDA libraries everywhere they may be. Of each source and name the
// first good file counts. libcublas and libcublasLt belong together and are taken from one folder:
// of two versions they do not load.
func (d Detector) cudaLibraries(ctx context.Context) []manifests.CUDALibrary {
	var list []manifests.CUDALibrary
	for _, source := range []struct {
		name    string
		folders func() []string
	}{
		{sourceEnvironment, d.environmentFolders},
		{sourcePip, d.pipFolders},
		{sourceToolkit, d.toolkitFolders},
		{sourceLoader, d.loaderFolders},
	} {
		if ctx.Err() != nil {
			return nil
		}
		list = append(list, d.librariesIn(source.name, source.folders())...)
	}
	return list
}

// librariesIn gives the libraries that the folders of one source have.
func (d Detector) librariesIn(source string, folders []string) []manifests.CUDALibrary {
	var list []manifests.CUDALibrary
	for _, names := range runtimeLibraries() {
		at := map[string]string{} // soname → folder
		for _, folder := range folders {
			has := func(soname string) bool {
				file := d.path(folder, soname)
				return checkLibrary(file, soname) == nil && !IsFromStore(manifests.CUDALibrary{Path: file})
			}
			blas, lt, cudart := names[0], names[1], names[2]
			if at[blas] == "" && has(blas) && has(lt) {
				at[blas], at[lt] = folder, folder
			}
			if at[cudart] == "" && has(cudart) {
				at[cudart] = folder
			}
		}
		for _, soname := range names {
			if folder := at[soname]; folder != "" {
				list = append(list, manifests.CUDALibrary{Name: soname, Path: d.path(folder, soname), Source: source})
			}
		}
	}
	return list
}

// IsFromStore reports whether a library is one that llcuda-fetch keeps: a program that `run`
// started finds it through LD_LIBRARY_PATH. It is not the machine's, and goes with the installation
// that it belongs to.
func IsFromStore(library manifests.CUDALibrary) bool {
	file, err := filepath.EvalSymlinks(library.Path)
	if err != nil {
		return library.Source == "store"
	}
	return isInStore(file)
}

// isInStore reports whether a file, links resolved, lies below a folder that is a store.
func isInStore(file string) bool {
	for dir := filepath.Dir(file); dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if info, err := os.Lstat(filepath.Join(dir, home.Marker)); err == nil && info.Mode().IsRegular() {
			return true
		}
	}
	return false
}

// glob lists what matches below the root, as paths of the machine, the highest version first.
func (d Detector) glob(pattern string) []string {
	matches, _ := filepath.Glob(d.path(pattern)) // the pattern is good, and what cannot be read does not match
	slices.Sort(matches)
	slices.Reverse(matches)
	for i, match := range matches {
		matches[i] = filepath.Join("/", strings.TrimPrefix(match, filepath.Clean(d.Root)))
	}
	return matches
}

// pipFolders are those of NVIDIA's packages, in the Python environment that is active, then in the
// system's and the user's: nvidia/cublas/lib and nvidia/cuda_runtime/lib of CUDA 12, nvidia/cu13/lib.
func (d Detector) pipFolders() []string {
	var folders []string
	for _, packages := range []string{
		d.getenv("VIRTUAL_ENV") + "/lib/python3*/site-packages", d.getenv("CONDA_PREFIX") + "/lib/python3*/site-packages",
		d.getenv("HOME") + "/.local/lib/python3*/site-packages",
		"/usr/local/lib/python3*/dist-packages", "/usr/local/lib/python3*/site-packages",
		"/usr/lib/python3*/site-packages", "/usr/lib/python3/dist-packages", "/opt/conda/lib/python3*/site-packages",
	} {
		if strings.HasPrefix(packages, "/lib/") {
			continue // the variable is not set
		}
		folders = append(folders, d.glob(packages+"/nvidia/*/lib")...)
	}
	return folders
}

// toolkitFolders are those of installed CUDA toolkits.
func (d Detector) toolkitFolders() []string {
	var homes []string
	for _, name := range []string{"CUDA_HOME", "CUDA_PATH"} {
		if home := d.getenv(name); filepath.IsAbs(home) {
			homes = append(homes, home)
		}
	}
	homes = append(homes, d.glob("/usr/local/cuda*")...)
	var folders []string
	for _, home := range homes {
		folders = append(folders, home+"/lib64", home+"/targets/x86_64-linux/lib", home+"/lib")
	}
	return folders
}

// loaderFolders are those in which the loader finds the libraries by itself.
func (d Detector) loaderFolders() []string {
	var folders []string
	cache := d.loaderCache()
	for _, soname := range slices.Concat(runtimeLibraries()...) {
		for _, file := range cache[soname] {
			if folder := filepath.Dir(file); !slices.Contains(folders, folder) {
				folders = append(folders, folder)
			}
		}
	}
	return append(folders, systemFolders()...)
}
