package engine

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/matrix"
)

const emptyLock = `{"lockfileVersion": 3, "packages": {}}`

// newTree is a tree with the UI in tools/ui and all options, declared in the ways that llama.cpp declares them.
func newTree() map[string]string {
	return map[string]string{
		"CMakeLists.txt": "# option(LLAMA_BUILD_WEBUI)\noption(LLAMA_BUILD_IS_DEV \"llama: dev build\" ON)\noption(LLAMA_BUILD_UI \"UI\" OFF)\nOPTION( LLAMA_OPENSSL \"TLS\" ON)\n" +
			"if (NOT DEFINED LLAMA_BUILD_NUMBER)\nendif()\nllama_option_depr(WARNING LLAMA_CURL)\n",
		"ggml/CMakeLists.txt": "option(GGML_BACKEND_DL \"libraries (needs BUILD_SHARED_LIBS)\" OFF)\nset(GGML_NATIVE \"${NATIVE_DEFAULT}\" CACHE BOOL \"native\")\n" +
			"option(GGML_CPU \"\" ON)\nset(GGML_CPU_ALL_VARIANTS OFF CACHE BOOL \"all\" FORCE)\ncmake_dependent_option(GGML_OPENMP \"\" ON x OFF)\noption(GGML_CUDA \"\" OFF)\n" +
			"option(GGML_CUDA_GRAPHS \"\" OFF)\noption(GGML_CUDA_NCCL \"\" ON)\n",
		"ggml/src/CMakeLists.txt":           "add_library(ggml-base\n    ggml.c)\nadd_library(ggml x.c)\n",
		"src/CMakeLists.txt":                "add_library(llama llama.cpp)\n",
		"tools/mtmd/CMakeLists.txt":         "add_library(mtmd mtmd.cpp)\n",
		"tools/server/CMakeLists.txt":       "set(TARGET llama-server)\nadd_executable(${TARGET} main.cpp)\n",
		"tools/cli/CMakeLists.txt":          "add_executable(llama-cli main.cpp)\n",
		"tools/llama-bench/CMakeLists.txt":  "llama_program(llama-bench main.cpp)\n",
		"tools/quantize/CMakeLists.txt":     "set(TARGET llama-quantize)\n",
		"tools/ui/package.json":             "{}",
		"tools/ui/package-lock.json":        emptyLock,
		"tools/ui/CMakeLists.txt":           "add_library(llama-ui ui.cpp)\n",
		"tools/ui/node_modules/a/foo.cmake": "option(GGML_CCACHE \"of something else\" ON)\n",
	}
}

// oldTree is one from before tools/ui, and with fewer options.
func oldTree() map[string]string {
	files := newTree()
	maps.DeleteFunc(files, func(name, _ string) bool { return strings.HasPrefix(name, "tools/ui/") })
	files["CMakeLists.txt"] = "option(LLAMA_OPENSSL \"TLS\" ON)\nif (NOT DEFINED LLAMA_BUILD_NUMBER)\nendif()\n"
	files["ggml/CMakeLists.txt"] = strings.Replace(files["ggml/CMakeLists.txt"], "option(GGML_CUDA_NCCL \"\" ON)\n", "", 1)
	files["tools/server/CMakeLists.txt"] += "set(PUBLIC_ASSETS\n    index.html.gz # made by webui\n    loading.html\n)\n"
	files["tools/server/public/index.html.gz"] = "page"
	files["tools/server/public/loading.html"] = "wait"
	files["tools/server/webui/package.json"] = "{}"
	files["tools/server/webui/package-lock.json"] = emptyLock
	return files
}

func TestLlamaTree(t *testing.T) {
	inUI := webUI{project: "tools/ui", embedded: "tools/ui/dist", assets: []string{"index.html"}}
	inServer := webUI{project: "tools/server/webui", embedded: "tools/server/public", assets: []string{"index.html.gz", "loading.html"}}
	carried := inServer
	carried.project = ""
	without := func(files map[string]string, names ...string) map[string]string {
		for _, name := range names {
			delete(files, name)
		}
		return files
	}
	with := func(files map[string]string, name, old, new string) map[string]string {
		if !strings.Contains(files[name], old) {
			t.Fatalf("%s has no %q", name, old)
		}
		files[name] = strings.Replace(files[name], old, new, 1)
		return files
	}
	for _, test := range []struct {
		name    string
		files   map[string]string
		ui      webUI
		dropped []string // options
		problem string
	}{
		{name: "tools/ui", files: newTree(), ui: inUI,
			dropped: []string{"GGML_BUILD_EXAMPLES", "GGML_BUILD_TESTS", "GGML_CCACHE", "LLAMA_BUILD_APP", "LLAMA_BUILD_COMMIT", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_TESTS", "LLAMA_USE_PREBUILT_UI", "LLAMA_USE_PREBUILT_WEBUI"}},
		{name: "tools/server/webui", files: oldTree(), ui: inServer,
			dropped: []string{"GGML_BUILD_EXAMPLES", "GGML_BUILD_TESTS", "GGML_CCACHE", "GGML_CUDA_NCCL", "LLAMA_BUILD_APP", "LLAMA_BUILD_COMMIT", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_IS_DEV", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_UI", "LLAMA_CURL", "LLAMA_USE_PREBUILT_UI", "LLAMA_USE_PREBUILT_WEBUI"}},
		{name: "files that are built only", files: with(without(oldTree(), "tools/server/public/index.html.gz", "tools/server/public/loading.html"), "tools/server/CMakeLists.txt", "index.html.gz", "bundle.js"),
			ui: webUI{project: "tools/server/webui", embedded: "tools/server/public", assets: []string{"bundle.js", "loading.html"}}},
		{name: "a page and no project", files: without(oldTree(), "tools/server/webui/package.json", "tools/server/webui/package-lock.json"), ui: carried},
		{name: "a page and no lock", files: without(oldTree(), "tools/server/webui/package-lock.json"), ui: carried},
		{name: "a page and a lock of an old npm", files: with(oldTree(), "tools/server/webui/package-lock.json", "3", "1"), ui: carried},
		{name: "no lock", files: without(newTree(), "tools/ui/package-lock.json"),
			problem: "its web UI can be neither built (there is no tools/ui/package-lock.json) nor taken as it is (there is no tools/ui/dist/index.html)"},
		{name: "neither", files: without(oldTree(), "tools/server/webui/package.json", "tools/server/public/index.html.gz"),
			problem: "its web UI can be neither built (there is no tools/server/webui/package.json) nor taken as it is (there is no tools/server/public/index.html.gz)"},
		{name: "half a page and a bad lock", files: with(without(oldTree(), "tools/server/public/loading.html"), "tools/server/webui/package-lock.json", emptyLock, "{"),
			problem: "nor taken as it is (there is no tools/server/public/loading.html)"},
		{name: "an unknown way", files: with(oldTree(), "tools/server/CMakeLists.txt", "PUBLIC_ASSETS", "ASSETS"), problem: "lists no PUBLIC_ASSETS"},
		{name: "an option of another name", files: with(newTree(), "ggml/CMakeLists.txt", "GGML_CPU_ALL_VARIANTS", "GGML_CPU_VARIANTS"), problem: "its CMake files have no option GGML_CPU_ALL_VARIANTS"},
		// CMake takes an option of another name, warns, and ignores the value OFF.
		{name: "an option of another name that is told", files: with(newTree(), "ggml/CMakeLists.txt", "option(GGML_CUDA_GRAPHS \"\" OFF)", "ggml_option_depr(WARNING GGML_CUDA_GRAPHS GGML_GRAPHS)"),
			problem: "its CMake files have no option GGML_CUDA_GRAPHS (it is GGML_GRAPHS now)"},
		{name: "an option that is ignored", files: with(newTree(), "ggml/CMakeLists.txt", "option(GGML_CUDA_GRAPHS \"\" OFF)", "ggml_option_depr(WARNING GGML_CUDA_GRAPHS)"),
			problem: "its CMake files have no option GGML_CUDA_GRAPHS"},
		{name: "one of another name that need not be there", files: with(newTree(), "CMakeLists.txt", "llama_option_depr(WARNING LLAMA_CURL)", "llama_option_depr(WARNING LLAMA_CURL LLAMA_HTTPS)"),
			problem: "its CMake files have no option LLAMA_CURL (it is LLAMA_HTTPS now)"},
		{name: "an option in a comment", files: with(newTree(), "ggml/CMakeLists.txt", "set(GGML_NATIVE", "# set(GGML_NATIVE"), problem: "its CMake files have no option GGML_NATIVE"},
		// The device half sees ggml alone.
		{name: "an option elsewhere", files: with(with(newTree(), "ggml/CMakeLists.txt", "option(GGML_CUDA_GRAPHS", "option(GRAPHS"), "CMakeLists.txt", "option(", "option(GGML_CUDA_GRAPHS \"\" ON)\noption("),
			problem: "its CMake files have no option GGML_CUDA_GRAPHS"},
		{name: "no such program", files: without(newTree(), "tools/quantize/CMakeLists.txt"), problem: "its CMake files have no target llama-quantize"},
		{name: "a folder of the name", files: with(with(newTree(), "tools/mtmd/CMakeLists.txt", "add_library(mtmd", "add_library(llava"), "tools/server/CMakeLists.txt", "set(", "add_subdirectory(mtmd)\nset("), problem: "its CMake files have no target mtmd"},
	} {
		t.Run(test.name, func(t *testing.T) {
			src := farm.Source{Given: "the tree", Dir: t.TempDir()}
			writeFiles(t, src.Dir, test.files)
			tree, err := readLlamaTree(src)
			if test.problem != "" {
				var refused *farm.SourceError
				if !errors.As(err, &refused) || !strings.Contains(err.Error(), test.problem) || !strings.Contains(refused.Hint, "b8390") {
					t.Fatalf("the error is %v, want %q and a hint", err, test.problem)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.ui, tree.ui, cmp.AllowUnexported(webUI{})); diff != "" {
				t.Error(diff)
			}
			if test.dropped == nil {
				return
			}
			full := newRecipe(matrix.Toolkit{}, matrix.Toolkit{}, src, nil, "")
			fitted := tree.fit(full)
			var dropped []string
			for _, arg := range slices.Concat(full.HostCMake, full.CUDACMake) {
				if !slices.Contains(slices.Concat(fitted.HostCMake, fitted.CUDACMake), arg) {
					dropped = append(dropped, optionName(arg))
				}
			}
			slices.Sort(dropped)
			if diff := cmp.Diff(test.dropped, slices.Compact(dropped)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Open reports a source that cannot be built before it looks for an engine.
func TestOpenReadsTheTreeFirst(t *testing.T) {
	src := farm.Source{Given: "the tree", Dir: t.TempDir()}
	files := oldTree()
	delete(files, "tools/server/webui/package.json")
	delete(files, "tools/server/public/index.html.gz")
	writeFiles(t, src.Dir, files)
	_, err := Open(t.Context(), Options{Hosts: []string{"tcp://127.0.0.1:1"}, CacheDir: t.TempDir(), Source: src})
	var refused *farm.SourceError
	if !errors.As(err, &refused) {
		t.Errorf("the error is %v, want that of the source", err)
	}
}
