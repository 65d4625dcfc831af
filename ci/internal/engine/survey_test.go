package engine

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
)

// What a tree has is found however its files word it, and what the farm does not compile is left out.
func TestSurvey(t *testing.T) {
	files := newTree()
	maps.Copy(files, map[string]string{
		"ggml/src/ggml-vulkan/CMakeLists.txt": "option(GGML_CPU_OF_VULKAN \"\" ON)\nadd_executable(vulkan-gen gen.cpp)\n",
		"ggml/src/ggml-vulkan/v.cpp":          "// Copyright of Vulkan\n",
		"ggml/cmake/more.cmake":               "option(GGML_VULKAN \"\" OFF)\noption(GGML_VULKAN_DEBUG \"\" OFF)\noption(GGML_VULKANIZE \"a\nb\"\n  ${SOME_DEFAULT})\noption(OTHER \"\" OFF)\n",
		"ggml/src/ggml-cuda/CMakeLists.txt": "ggml_add_backend_library(ggml-cuda\n  x.cu)\ntarget_link_libraries(ggml-cuda PRIVATE CUDA::cudart CUDA::cublas)\n" +
			"# CUDA::nvml\nset(NAME ggml-more)\nadd_library(${NAME} STATIC x.cu)\nadd_library(${UNKNOWN} y.cu)\n",
		"ggml/src/ggml-cuda/a.cu": "// cublasCommented(x)\n/* cuMemCommented(\n) */ const char * s = \"cudaQuoted(1) \\\" cudaQuotedToo(\";\n" +
			"CUBLAS_CHECK(cublasSgemm(h, 1)); cublasLtMatmul (h); cudaMalloc<float>(&p, 1); cuMemMap(a);\nauto t = cudaDataType_t(1); cudaStream_t s; f(cudaSuccess); ncclAllReduce(x);\nmycudaFree(x);\n",
		"ggml/src/ggml-cuda/vendors/hip.h":     "#define cudaHipOnly(x) hip(x)\n",
		"ggml/src/ggml-cpu/b.cpp":              "cudaNotOfCUDA(1);\n// MIT licensed code\n/* Copyright 2024 A\n*/\nint x; // SPDX-License-Identifier: MIT\n",
		"ggml/src/ggml-cpu/plain.cpp":          "const char * text = \"Copyright\";\n",
		"tools/new/CMakeLists.txt":             "set(TARGET llama-new)\nadd_executable (${TARGET} a.cpp)\nset(TARGET llama-newer)\nadd_executable(\"${TARGET}-still\" a.cpp)\n",
		"tools/new/tests/CMakeLists.txt":       "add_executable(test-new a.cpp)\n",
		"examples/e/CMakeLists.txt":            "add_executable(example a.cpp)\noption(LLAMA_EXAMPLE \"\" ON)\n",
		"vendor/lib/CMakeLists.txt":            "add_library(lib INTERFACE)\nadd_library(vendor::lib ALIAS lib)\nadd_library(far STATIC IMPORTED)\n",
		"vendor/lib/License.md":                "of lib",
		"vendor/other/COPYING":                 "of other",
		"licenses/LICENSE-x":                   "of x",
		"LICENSE":                              "MIT",
		"tools/LICENSE":                        "not passed on",
		"tools/ui/package-lock.json":           `{"lockfileVersion": 3, "packages": {"": {}, "node_modules/a": {"license": "MIT"}, "node_modules/b": {"license": "ISC"}, "node_modules/c": {"license": "MIT"}}}`,
		"tools/ui/node_modules/a/LICENSE.h":    "// Copyright of a package\n",
		"cmake/depr.cmake":                     "llama_option_depr(FATAL_ERROR LLAMA_OLD GGML_NEW)\n",
		"tools/server/webui/package-lock.json": "{",
	})
	src := farm.Source{Given: "the tree", Dir: t.TempDir()}
	writeFiles(t, src.Dir, files)
	got, err := ReadSurvey(src)
	if err != nil {
		t.Fatal(err)
	}
	licenses := slices.Sorted(maps.Keys(got.Licenses))
	if got.Licenses["licenses/LICENSE-x"] == got.Licenses["LICENSE"] {
		t.Error("two licenses have one digest")
	}
	got.Licenses = nil
	want := Survey{
		Options: []string{"GGML_BACKEND_DL", "GGML_CPU", "GGML_CPU_ALL_VARIANTS", "GGML_CUDA", "GGML_CUDA_GRAPHS", "GGML_CUDA_NCCL", "GGML_NATIVE", "GGML_OPENMP", "GGML_VULKANIZE",
			"LLAMA_BUILD_IS_DEV", "LLAMA_BUILD_NUMBER", "LLAMA_BUILD_UI", "LLAMA_CURL", "LLAMA_OPENSSL"},
		Defaults: map[string]string{"GGML_BACKEND_DL": "OFF", "GGML_CPU": "ON", "GGML_CUDA": "OFF", "GGML_CUDA_GRAPHS": "OFF", "GGML_CUDA_NCCL": "ON", "GGML_VULKANIZE": "${SOME_DEFAULT}",
			"LLAMA_BUILD_IS_DEV": "ON", "LLAMA_BUILD_UI": "OFF", "LLAMA_OPENSSL": "ON"},
		Renamed: map[string]string{"LLAMA_CURL": "", "LLAMA_OLD": "GGML_NEW"},
		Unset: []string{"GGML_BUILD_EXAMPLES", "GGML_BUILD_TESTS", "GGML_CCACHE", "LLAMA_BUILD_APP", "LLAMA_BUILD_COMMIT", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_TESTS",
			"LLAMA_USE_PREBUILT_UI", "LLAMA_USE_PREBUILT_WEBUI"},
		Programs:     []string{"llama-cli", "llama-new", "llama-newer-still", "llama-server"},
		Libraries:    []string{"ggml", "ggml-base", "ggml-cuda", "ggml-more", "llama", "llama-ui", "mtmd"},
		CUDA:         []string{"cuMemMap", "cublasLtMatmul", "cublasSgemm", "cudaMalloc", "ncclAllReduce"},
		Linked:       []string{"CUDA::cublas", "CUDA::cudart"},
		PageLicenses: []string{"ISC", "MIT"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"LICENSE", "ggml/src/ggml-cpu/b.cpp", "licenses/LICENSE-x", "vendor/lib/License.md", "vendor/other/COPYING"}, licenses); diff != "" {
		t.Errorf("licenses (-want +got):\n%s", diff)
	}
	// The words of a notice count, and not the code beside it.
	again := func(old, new string) string {
		changed := farm.Source{Dir: t.TempDir()}
		writeFiles(t, changed.Dir, map[string]string{"ggml/src/ggml-cpu/b.cpp": "int y;\n/* Copyright " + old + " A\n*/ " + new})
		s, err := ReadSurvey(changed)
		if err != nil {
			t.Fatal(err)
		}
		return s.Licenses["ggml/src/ggml-cpu/b.cpp"]
	}
	if again("2024", "int a;") != again("2024", "int b;") || again("2024", "int a;") == again("2025", "int a;") {
		t.Error("the digest is not that of the notice")
	}
}
