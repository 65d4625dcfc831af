package bundler_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/waqasm86/llcuda-farm/bundler"
)

// A bundle as the farm makes it has no finding.
func TestAuditWhole(t *testing.T) {
	testAudit(t, map[string]auditCase{
		"nothing":               {},
		"two translation units": {fatbin: "sm75.fatbin sm75.fatbin"},
		"compressed code":       {sm: 50, fatbin: "sm50-lz4.fatbin sm50-plain.fatbin"},
	})
}

// What a bundle must hold is missing, or is something else.
func TestAuditMissingFiles(t *testing.T) {
	testAudit(t, map[string]auditCase{
		"program missing":        {change: remove("binaries/cuda12/llama-bench"), want: []string{"binaries/cuda12/llama-bench: missing-file"}},
		"program is a link":      {change: relink("binaries/cuda12/llama-bench", "llama-cli"), want: []string{"binaries/cuda12/llama-bench: link", "binaries/cuda12/llama-bench: missing-file"}},
		"program is a script":    {change: write(server, "#!/bin/sh\n", 0o755), want: []string{server + ": elf"}},
		"program not executable": {change: func(b breaker) { b.must(os.Chmod(b.at(server), 0o644)) }, want: []string{server + ": file-mode"}},
		"CPU backends missing": {
			change: remove("lib/libggml-cpu-x64.so", "lib/libggml-cpu-haswell.so", "binaries/cuda12/libggml-cpu-x64.so", "binaries/cuda12/libggml-cpu-haswell.so"),
			want:   []string{"lib/libggml-cpu-*.so: missing-file"},
		},
		"CUDA backend missing": {
			change: remove(cuda),
			want:   []string{"binaries/cuda12/libggml-cuda.so: link", "lib/libggml-cuda.so: missing-file"},
		},
		"library missing": { // libllama itself, while its links stay
			change: remove(llama),
			want: []string{
				"binaries/cuda12/llama-bench: library", "binaries/cuda12/llama-bench: undefined-symbol",
				"binaries/cuda12/llama-cli: library", "binaries/cuda12/llama-cli: undefined-symbol",
				"binaries/cuda12/llama-quantize: library", "binaries/cuda12/llama-quantize: undefined-symbol",
				"binaries/cuda12/llama-server: library", "binaries/cuda12/llama-server: undefined-symbol",
				"lib/libllama.so.0: link", "lib/libllama.so: link", "lib/libllama.so: missing-file",
				"lib/libmtmd.so.0.5.0: library", "lib/libmtmd.so.0.5.0: undefined-symbol",
			},
		},
		"library under another name": { // what a program is linked with is libllama.so.0
			change: remove("lib/libllama.so.0", "lib/libllama.so"),
			want: []string{
				"binaries/cuda12/llama-bench: library", "binaries/cuda12/llama-bench: undefined-symbol",
				"binaries/cuda12/llama-cli: library", "binaries/cuda12/llama-cli: undefined-symbol",
				"binaries/cuda12/llama-quantize: library", "binaries/cuda12/llama-quantize: undefined-symbol",
				"binaries/cuda12/llama-server: library", "binaries/cuda12/llama-server: undefined-symbol",
				"lib/libllama.so.0.5.0: soname", "lib/libllama.so.0.5.0: unexpected-file",
				"lib/libmtmd.so.0.5.0: library", "lib/libmtmd.so.0.5.0: undefined-symbol",
			},
		},
		"licence missing": {change: remove("LICENSE"), want: []string{"LICENSE: missing-file"}},
		"licence empty":   {change: write("THIRD_PARTY_LICENSES.txt", "", 0o644), want: []string{"THIRD_PARTY_LICENSES.txt: missing-file"}},
	})
}

// What a bundle must not hold.
func TestAuditUnexpectedFiles(t *testing.T) {
	testAudit(t, map[string]auditCase{
		"unexpected folder":  {change: func(b breaker) { b.must(os.Mkdir(b.at("share"), 0o755)) }, want: []string{"share: unexpected-file"}},
		"unexpected file":    {change: write("lib/cmake.txt", "x", 0o644), want: []string{"lib/cmake.txt: elf"}},
		"unexpected program": {change: func(b breaker) { b.must(os.Link(b.at(server), b.at("binaries/cuda12/llama-run"))) }, want: []string{"binaries/cuda12/llama-run: unexpected-file"}},
		"unused library": {
			change: func(b breaker) {
				b.library(b.at("lib/libstray.so.1"), module{source: "int stray;", soname: "libstray.so.1", runPath: "$ORIGIN"})
			},
			want: []string{"lib/libstray.so.1: unexpected-file"},
		},
		"CUDA's own library": {
			change: func(b breaker) {
				b.must(os.Rename(b.stub("libcudart.so.12", "libcudart.so.12", "cudaMalloc"), b.at("lib/libcudart.so.12")))
			},
			want:   []string{"lib/libcudart.so.12: runpath", "lib/libcudart.so.12: unexpected-file"},
			detail: "runtime asset",
		},
		"metadata in the tree": {change: write("metadata.json", "{}", 0o644), want: []string{"metadata.json: unexpected-file"}},
	})
}

// Modes and kinds of files.
func TestAuditModes(t *testing.T) {
	testAudit(t, map[string]auditCase{
		"setuid":         {change: func(b breaker) { b.must(os.Chmod(b.at(server), 0o755|os.ModeSetuid)) }, want: []string{server + ": file-mode"}, detail: "setuid"},
		"world-writable": {change: func(b breaker) { b.must(os.Chmod(b.at(cpu), 0o757)) }, want: []string{cpu + ": file-mode"}},
		"pipe":           {change: func(b breaker) { b.must(syscall.Mkfifo(b.at("lib/pipe"), 0o644)) }, want: []string{"lib/pipe: file-mode", "lib/pipe: unexpected-file"}},
	})
}

// Links: those beside the programs, and where any may lead.
func TestAuditLinks(t *testing.T) {
	testAudit(t, map[string]auditCase{
		"backend link missing":   {change: remove("binaries/cuda12/libggml-cuda.so"), want: []string{"binaries/cuda12/libggml-cuda.so: link"}, detail: "beside the executable"},
		"backend link absolute":  {change: relink("binaries/cuda12/libggml-cuda.so", "/usr/lib/libggml-cuda.so"), want: []string{"binaries/cuda12/libggml-cuda.so: link"}},
		"backend link elsewhere": {change: relink("binaries/cuda12/libggml-cuda.so", "../../lib/libggml-cpu-x64.so"), want: []string{"binaries/cuda12/libggml-cuda.so: link"}},
		"backend link without a backend": {
			change: relink("binaries/cuda12/libggml-cpu-zen4.so", "../../lib/libggml-cpu-zen4.so"),
			want:   []string{"binaries/cuda12/libggml-cpu-zen4.so: link"},
		},
		"backend is a copy beside the programs": {
			change: func(b breaker) {
				b.must(os.Remove(b.at("binaries/cuda12/libggml-cpu-x64.so")))
				b.must(os.Link(b.at(cpu), b.at("binaries/cuda12/libggml-cpu-x64.so")))
			},
			want: []string{"binaries/cuda12/libggml-cpu-x64.so: elf", "binaries/cuda12/libggml-cpu-x64.so: link", "binaries/cuda12/libggml-cpu-x64.so: runpath", "binaries/cuda12/libggml-cpu-x64.so: unexpected-file"},
		},
		"absolute link":    {change: relink("lib/libllama.so", "/lib/libllama.so"), want: []string{"lib/libllama.so: link"}, detail: "absolute"},
		"escaping link":    {change: relink("lib/libllama.so", "../../../libllama.so"), want: []string{"lib/libllama.so: link"}, detail: "out of the bundle"},
		"dangling link":    {change: relink("lib/libllama.so", "libllama.so.9"), want: []string{"lib/libllama.so: link"}, detail: "no file"},
		"circular link":    {change: relink("lib/libllama.so", "libllama.so"), want: []string{"lib/libllama.so: link"}},
		"link to a folder": {change: relink("lib64", "lib"), want: []string{"lib64: link"}},
	})
}

// What an ELF file in its place must be.
func TestAuditELF(t *testing.T) {
	testAudit(t, map[string]auditCase{
		"not an x86-64 file": {
			change: func(b breaker) {
				data, err := os.ReadFile(b.at(cpu))
				b.must(err)
				data[18] = 183 // EM_AARCH64
				b.must(os.WriteFile(b.at(cpu), data, 0o755))
			},
			want: []string{cpu + ": elf", cpu + ": runpath"},
		},
		"truncated file": {
			change: func(b breaker) { b.must(os.Truncate(b.at(cpu), 300)) },
			want:   []string{cpu + ": elf"}, detail: "damaged",
		},
		"program in the place of a library": {
			change: func(b breaker) {
				b.program(b.at(cpu), module{source: "int main(void) { return 0; }", runPath: "$ORIGIN:$ORIGIN/../../lib"})
			},
			want: []string{cpu + ": elf"},
		},
		"not stripped": {
			change: rebuildCPU(func(b breaker, m *module) { m.unstripped = true }),
			want:   []string{cpu + ": not-stripped"}, detail: ".symtab",
		},
		"executable stack": {
			change: rebuildCPU(func(b breaker, m *module) { m.flags = []string{"-Wl,-z,execstack"} }),
			want:   []string{cpu + ": exec-stack"},
		},
		"renamed backend": {
			change: rebuildCPU(func(b breaker, m *module) { m.soname = "libggml-cpu-sse42.so" }),
			want:   []string{cpu + ": soname"},
		},
		"library without a SONAME": {
			change: func(b breaker) {
				b.library(b.at("lib/libmtmd.so.0.5.0"), module{source: "int llama(void); int mtmd(void) { return llama(); }", runPath: "$ORIGIN", needs: []string{b.at(llama)}})
			},
			want: []string{"lib/libmtmd.so.0.5.0: soname"},
		},
	})
}

// Where programs and libraries look for others.
func TestAuditRunPaths(t *testing.T) {
	testAudit(t, map[string]auditCase{
		"program's RUNPATH of 1.x": {
			change: rebuildServer(func(b breaker, m *module) { m.runPath = "$ORIGIN/../lib" }),
			want:   []string{server + ": runpath"}, detail: `"$ORIGIN/../lib" and must be "$ORIGIN/../../lib"`,
		},
		"no RUNPATH":        {change: rebuildServer(func(b breaker, m *module) { m.runPath = "" }), want: []string{server + ": runpath"}},
		"absolute RUNPATH":  {change: rebuildServer(func(b breaker, m *module) { m.runPath = "$ORIGIN/../../lib:/usr/local/cuda/lib64/stubs" }), want: []string{server + ": runpath"}},
		"backend's RUNPATH": {change: rebuildCPU(func(b breaker, m *module) { m.runPath = "$ORIGIN" }), want: []string{cpu + ": runpath"}},
		"RPATH": {
			change: rebuildServer(func(b breaker, m *module) { m.flags = []string{"-Wl,--disable-new-dtags"} }),
			want:   []string{server + ": runpath"}, detail: "RPATH",
		},
		"libgomp without RUNPATH": {
			change: func(b breaker) {
				b.library(b.at("lib/libgomp.so.1"), module{source: "int omp(void) { return 1; }", soname: "libgomp.so.1"})
				rebuildCPU(func(b breaker, m *module) { m.needs = append(m.needs, b.at("lib/libgomp.so.1")) })(b)
				write("THIRD_PARTY_LICENSES.txt", "GCC RUNTIME LIBRARY EXCEPTION\n", 0o644)(b)
			},
		},
	})
}

// The license texts of what the binaries hold.
func TestAuditNotices(t *testing.T) {
	testAudit(t, map[string]auditCase{
		"libgomp without its licence": {
			change: func(b breaker) {
				b.library(b.at("lib/libgomp.so.1"), module{source: "int omp(void) { return 1; }", soname: "libgomp.so.1"})
				rebuildCPU(func(b breaker, m *module) { m.needs = append(m.needs, b.at("lib/libgomp.so.1")) })(b)
			},
			want: []string{"lib/libgomp.so.1: notice"},
		},
		"CUB without its licence": {
			change: rebuildCUDA("sm75.fatbin", holding("_ZN3cub17CUB_200302_750_NS11EmptyKernelIvEEvv")),
			want:   []string{cuda + ": notice"}, detail: `code of CUB, and THIRD_PARTY_LICENSES.txt lacks its licence, with the line "(c) 2010-2011, Duane Merrill.`,
		},
		"Thrust and libcu++ with one licence": {
			change: func(b breaker) {
				rebuildCUDA("sm75.fatbin", holding("_ZN6thrust6detailIN4cuda3std3__4EEE"))(b)
				write("THIRD_PARTY_LICENSES.txt", "Copyright 2008-2018 NVIDIA Corporation\n", 0o644)(b)
			},
			want: []string{cuda + ": notice"}, detail: "code of libcu++",
		},
		"Thrust and libcu++ with CUDA 13's licences": {
			change: func(b breaker) {
				rebuildCUDA("sm75.fatbin", holding("_ZN6thrust26THRUST_300303_SM_1200_NS6detailIN4cuda3std3__4EEE"))(b)
				write("THIRD_PARTY_LICENSES.txt", "Thrust is under the Apache Licence v2.0, with some specific exceptions listed below\n"+
					"libcu++ is under the Apache License v2.0 with LLVM Exceptions:\n", 0o644)(b)
			},
		},
		"CUB with its licence": {
			change: func(b breaker) {
				rebuildCUDA("sm75.fatbin", holding("_ZN3cub17CUB_200302_750_NS11EmptyKernelIvEEvv"))(b)
				write("THIRD_PARTY_LICENSES.txt", "Copyright: (c) 2010-2011, Duane Merrill.  All rights reserved.\n", 0o644)(b)
			},
		},
	})
}

// Libraries that nothing provides, and symbols that none of the needed libraries defines.
func TestAuditLibraries(t *testing.T) {
	testAudit(t, map[string]auditCase{
		"library from nowhere": {
			change: rebuildServer(func(b breaker, m *module) { m.needs = append(m.needs, b.stub("libssl.so.3", "OPENSSL_3.0.0", "ssl")) }),
			want:   []string{server + ": library"}, detail: "libssl.so.3",
		},
		"CUDA 13": {
			change: rebuildCUDA("sm75.fatbin", func(b breaker, m *module) { m.needs[1] = b.stub("libcudart.so.13", "libcudart.so.13", "cudaMalloc") }),
			want:   []string{cuda + ": library"}, detail: "libcudart.so.13",
		},
		"undefined symbol": {
			change: rebuildCPU(func(b breaker, m *module) { m.source = "int ggml_new(void); int cpu(void) { return ggml_new(); }" }),
			want:   []string{cpu + ": undefined-symbol"}, detail: "ggml_new",
		},
		"undefined symbol of a library it does not need": {
			change: rebuildCPU(func(b breaker, m *module) { m.source = "int llama(void); int cpu(void) { return llama(); }" }),
			want:   []string{cpu + ": undefined-symbol"},
		},
		"weak undefined symbol": {
			change: rebuildCPU(func(b breaker, m *module) {
				m.source = "__attribute__((weak)) int llama(void); int cpu(void) { return llama ? llama() : 0; }"
			}),
		},
		"driver symbol without the driver": {
			change: rebuildCPU(func(b breaker, m *module) { m.source = "void cuMemCreate(void); void cpu(void) { cuMemCreate(); }" }),
			want:   []string{cpu + ": undefined-symbol"},
		},
		"version that the bundle's library lacks": {
			change: rebuildCPU(func(b breaker, m *module) { m.needs = []string{b.stub("libggml-base.so.0", "GGML_9", "ggml_base")} }),
			want:   []string{cpu + ": undefined-symbol"}, detail: "GGML_9",
		},
	})
}

// Versions of the system's libraries above the floors.
func TestAuditFloors(t *testing.T) {
	testAudit(t, map[string]auditCase{
		"glibc above the floor": {
			rules: func(r *bundler.Rules) { r.Floors.Glibc = "2.31" },
			want: []string{
				"binaries/cuda12/llama-bench: symbol-version", "binaries/cuda12/llama-cli: symbol-version",
				"binaries/cuda12/llama-quantize: symbol-version", "binaries/cuda12/llama-server: symbol-version",
			},
			detail: "GLIBC_2.34 of libc.so.6 (for __libc_start_main), above the floor 2.31",
		},
		"GLIBCXX above the floor": {
			change: rebuildServer(func(b breaker, m *module) {
				m.source = "int main(void) { void fresh(void); fresh(); }"
				m.needs = []string{b.stub("libstdc++.so.6", "GLIBCXX_3.4.31", "fresh")}
			}),
			want: []string{server + ": symbol-version"}, detail: "GLIBCXX_3.4.31",
		},
		"GLIBCXX at the floor": {
			change: rebuildServer(func(b breaker, m *module) {
				m.source = "int main(void) { void fresh(void); fresh(); }"
				m.needs = []string{b.stub("libstdc++.so.6", "GLIBCXX_3.4.30", "fresh")}
			}),
		},
		"CXXABI above the floor": {
			change: rebuildServer(func(b breaker, m *module) {
				m.source = "int main(void) { void fresh(void); fresh(); }"
				m.needs = []string{b.stub("libstdc++.so.6", "CXXABI_1.3.14", "fresh")}
			}),
			want: []string{server + ": symbol-version"},
		},
		"CXXABI of the compiler after the floor's": {
			rules: func(r *bundler.Rules) { r.Floors.GLIBCXX = "3.4.25" },
			change: rebuildServer(func(b breaker, m *module) {
				m.source = "int main(void) { void fresh(void); fresh(); }"
				m.needs = []string{b.stub("libstdc++.so.6", "CXXABI_1.3.12", "fresh")}
			}),
			want: []string{server + ": symbol-version"}, detail: "CXXABI_1.3.12 of libstdc++.so.6 (for fresh), above the floor 1.3.11",
		},
		"CXXABI of the floor's own compiler": {
			rules: func(r *bundler.Rules) { r.Floors.GLIBCXX = "3.4.25" },
			change: rebuildServer(func(b breaker, m *module) {
				m.source = "int main(void) { void fresh(void); fresh(); }"
				m.needs = []string{b.stub("libstdc++.so.6", "CXXABI_1.3.11", "fresh")}
			}),
		},
		"threads that do not start on the floor's glibc": {
			rules: func(r *bundler.Rules) { r.Floors.Glibc = "2.33" },
			change: rebuildServer(func(b breaker, m *module) {
				m.source = "int main(void) { void start(void) __asm__(\"_ZNSt6thread15_M_start_threadESt10unique_ptrINS_6_StateESt14default_deleteIS1_EEPFvvE\"); start(); }"
				m.needs = []string{b.stub("libstdc++.so.6", "GLIBCXX_3.4.22", "_ZNSt6thread15_M_start_threadESt10unique_ptrINS_6_StateESt14default_deleteIS1_EEPFvvE")}
			}),
			want: []string{
				"binaries/cuda12/llama-bench: symbol-version", "binaries/cuda12/llama-cli: symbol-version", "binaries/cuda12/llama-quantize: symbol-version",
				server + ": library", server + ": symbol-version", // the fixtures' own __libc_start_main is glibc 2.34's
			},
			detail: "does not need libpthread.so.0",
		},
		"libgcc above the floor": {
			change: rebuildServer(func(b breaker, m *module) {
				m.source = "int main(void) { void fresh(void); fresh(); }"
				m.needs = []string{b.stub("libgcc_s.so.1", "GCC_13.0.0", "fresh")}
			}),
			want: []string{server + ": symbol-version"},
		},
		"a version that nobody else may use": {
			change: rebuildServer(func(b breaker, m *module) {
				m.source = "int main(void) { void fresh(void); fresh(); }"
				m.needs = []string{b.stub("libc.so.6", "GLIBC_PRIVATE", "fresh")}
				m.flags = []string{"-Wl,--unresolved-symbols=ignore-all"}
			}),
			want: []string{server + ": symbol-version"}, detail: "GLIBC_PRIVATE",
		},
	})
}

// Device code: all of it, for one SM, as the driver loads it.
func TestAuditDeviceCode(t *testing.T) {
	testAudit(t, map[string]auditCase{
		"no device code":         {change: rebuildCUDA("", nil), want: []string{cuda + ": device-code"}, detail: "want a cubin for sm_75"},
		"cubin of another SM":    {change: rebuildCUDA("sm86.fatbin", nil), want: []string{cuda + ": device-code"}, detail: "cubin for sm_86: want nothing but a cubin for sm_75"},
		"cubin of a second SM":   {change: rebuildCUDA("sm75.fatbin sm86.fatbin", nil), want: []string{cuda + ": device-code"}, detail: "1 piece of cubin for sm_86"},
		"PTX where none belongs": {change: rebuildCUDA("sm75.fatbin ptx75.fatbin", nil), want: []string{cuda + ": device-code"}, detail: "PTX for compute_75: want nothing but a cubin for sm_75"},
		"only PTX":               {change: rebuildCUDA("ptx75.fatbin", nil), want: []string{cuda + ": device-code"}, detail: "1 container of 1 without a cubin for sm_75"},
		"intermediate code":      {change: rebuildCUDA("sm75.fatbin lto75.fatbin", nil), want: []string{cuda + ": device-code"}, detail: "kind 8"},
		"PTX missing":            {ptx: true, fatbin: "ptx75.fatbin sm86.fatbin", want: []string{cuda + ": device-code"}, detail: "1 container of 2 without PTX for compute_75"},
		"a cubin beside PTX":     {ptx: true, sm: 89, fatbin: "sm89-ptx.fatbin", want: []string{cuda + ": device-code"}, detail: "cubin for sm_89: want nothing but PTX for compute_89"},
		"PTX beside a cubin":     {sm: 89, fatbin: "sm89-ptx.fatbin", want: []string{cuda + ": device-code"}, detail: "PTX for compute_89: want nothing but a cubin for sm_89; build with CMAKE_CUDA_ARCHITECTURES=89-real"},
		"PTX of another SM":      {ptx: true, sm: 80, fatbin: "ptx75.fatbin", want: []string{cuda + ": device-code"}, detail: "build with CMAKE_CUDA_ARCHITECTURES=80-virtual"},
		"PTX alone":              {ptx: true, fatbin: "ptx75.fatbin ptx75.fatbin"},
		"code for one chip":      {sm: 90, fatbin: "sm90a.fatbin", want: []string{cuda + ": device-code"}, detail: "sm_90a"},
		"device code in a CPU backend": {
			change: rebuildCPU(func(b breaker, m *module) { m.fatbin = "sm86.fatbin" }),
			want:   []string{cpu + ": device-code"},
		},
		"damaged device code": {
			change: func(b breaker) {
				p := b.write("damaged", "")
				data, err := os.ReadFile("testdata/fatbin/sm75.fatbin")
				b.must(err)
				data[8]++ // the container's size
				b.must(os.WriteFile(p, data, 0o644))
				rel, err := filepath.Rel(mustAbs(b.t, "testdata/fatbin"), p)
				b.must(err)
				rebuildCUDA(rel, nil)(b)
			},
			want: []string{cuda + ": elf"}, detail: "truncated",
		},
		"device code that lies about its SM": {
			change: func(b breaker) {
				p := b.write("lying", "")
				data, err := os.ReadFile("testdata/fatbin/sm86.fatbin")
				b.must(err)
				data[16+28] = 75
				b.must(os.WriteFile(p, data, 0o644))
				rel, err := filepath.Rel(mustAbs(b.t, "testdata/fatbin"), p)
				b.must(err)
				rebuildCUDA(rel, nil)(b)
			},
			want: []string{cuda + ": elf"}, detail: "the code inside is for sm_86",
		},
		"device code that nothing loads": {
			change: func(b breaker) {
				m := b.cudaBackend(b.at(base), "")
				m.source += "\n__attribute__((section(\".nvFatBinSegment\"))) long long record[3] = {0x1466243b1, 0, 0};"
				b.library(b.at(cuda), m)
			},
			want: []string{cuda + ": elf"}, detail: "where no container begins",
		},
	})
}

// Names of the folders in which a bundle was built.
func TestAuditBuildPaths(t *testing.T) {
	testAudit(t, map[string]auditCase{
		"build path in a program": {
			change: rebuildServer(func(b breaker, m *module) {
				m.source = `const char *where = "` + buildFolder + `ggml.c"; int main(void) { return *where; }`
			}),
			want: []string{server + ": build-path"}, detail: buildFolder + "ggml.c",
		},
		"relative path that looks like it": {
			change: rebuildServer(func(b breaker, m *module) {
				m.source = `const char *where = "ggml` + buildFolder + `ggml.c"; int main(void) { return *where; }`
			}),
		},
		"build path in a licence": {change: write("LICENSE", "see "+buildFolder+"LICENSE", 0o644), want: []string{"LICENSE: build-path"}},
	})
}
