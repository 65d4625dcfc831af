package main

import (
	"bytes"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	sources "github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/python/pythontest"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
)

// The Python package on the real llama-server, in a bundle that the farm built, signed and served: its own tests, and what
// pip and the other installers make of its wheel. It runs on the CPU, without a GPU.
func TestPython(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles llama.cpp on a real engine: minutes")
	}
	tools, model := pythontest.Tools(t), pythontest.Model(t)
	f := newFarm(t)
	dir := f.pythonRelease(t)
	server := httptest.NewServer(http.FileServer(http.Dir(dir.path)))
	t.Cleanup(server.Close)

	home := filepath.Join(t.TempDir(), "llcuda")
	startProcess(t, dir.client, "install", "--home", home, "--mirror", server.URL, "--trusted-root", dir.trustedRoot, "--allow-cpu").wait().
		want(t, 0, bundleName("sm75"), "signed by "+manifests.SignerIdentity)

	t.Run("Package", func(t *testing.T) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "pytest"), "-p", "no:cacheprovider")
		cmd.Dir = filepath.Join("..", "manifests", "python")
		cmd.Env = append(os.Environ(), "LLCUDA_FETCH="+dir.client, "LLCUDA_TEST_HOME="+home, "LLCUDA_TEST_MODEL="+model,
			"LLCUDA_TEST_FROM="+server.URL, "LLCUDA_TEST_TRUST=--trusted-root "+dir.trustedRoot)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout // it takes minutes: show its progress
		if err := cmd.Run(); err != nil {
			t.Errorf("pytest: %v", err)
		}
	})
	t.Run("Installers", func(t *testing.T) { testInstallers(t, tools, dir, home, model) })
}

// What installers make of the wheel, from an index: a package that works, and nothing when it is uninstalled.
func testInstallers(t *testing.T, tools string, release signedRelease, home, model string) {
	index := servePackages(t, tools, release.path)
	client, err := os.ReadFile(release.client)
	if err != nil {
		t.Fatal(err)
	}
	venv := func(name string) string {
		dir := filepath.Join(t.TempDir(), name)
		command(t, "", "python3", "-m", "venv", dir)
		return dir
	}
	old, blank, fast, target, apps := venv("venv"), venv("mit Umlaut ü"), venv("uv"), t.TempDir(), t.TempDir()
	pipx := []string{"env", "PIPX_HOME=" + apps, "PIPX_BIN_DIR=" + filepath.Join(apps, "bin"), filepath.Join(tools, "pipx")}
	for _, way := range []struct {
		name               string
		install, uninstall []string
		python             []string
	}{
		{"pip that came with Python", []string{old + "/bin/python", "-m", "pip", "install", "--index-url", index, "llcuda"},
			[]string{old + "/bin/python", "-m", "pip", "uninstall", "--yes", "llcuda"}, []string{old + "/bin/python"}},
		{"newest pip, blank and umlaut", []string{tools + "/python", "-m", "pip", "--python", blank + "/bin/python", "install", "--index-url", index, "llcuda"},
			[]string{tools + "/python", "-m", "pip", "--python", blank + "/bin/python", "uninstall", "--yes", "llcuda"}, []string{blank + "/bin/python"}},
		{"uv", []string{tools + "/uv", "pip", "install", "--no-cache", "--python", fast + "/bin/python", "--index-url", index, "llcuda"},
			[]string{tools + "/uv", "pip", "uninstall", "--python", fast + "/bin/python", "llcuda"}, []string{fast + "/bin/python"}},
		{"pipx", slices.Concat(pipx, []string{"install", "--index-url", index, "llcuda"}),
			slices.Concat(pipx, []string{"uninstall", "llcuda"}), []string{filepath.Join(apps, "venvs", "llcuda", "bin", "python")}},
		{"pip --target", []string{tools + "/python", "-m", "pip", "install", "--target", target, "--index-url", index, "llcuda"},
			[]string{"rm", "-r", target}, []string{"env", "PYTHONPATH=" + target, "python3"}},
	} {
		t.Run(way.name, func(t *testing.T) {
			environment := []string{"env", "-u", "PIP_FIND_LINKS", "-u", "LLCUDA_FETCH", "PATH=" + os.Getenv("PATH"), "PYTHONDONTWRITEBYTECODE=1", "LLCUDA_HOME=" + home}
			run := func(args ...string) string {
				t.Helper()
				args = slices.Concat(environment, args)
				return command(t, "", args[0], args[1:]...)
			}
			run(way.install...)
			where := strings.TrimSpace(run(append(way.python, "-c", "import llcuda, os; llcuda.status(); print(os.path.dirname(llcuda.__file__))")...))
			packed := filepath.Join(where, "_bin", "llcuda-fetch")
			data, err := os.ReadFile(packed)
			if err != nil {
				t.Fatal(err)
			}
			if info, err := os.Stat(packed); err != nil || info.Mode().Perm() != 0o755 || !bytes.Equal(data, client) {
				t.Errorf("the client of the wheel is %v, %v, or other bytes than the release's", info.Mode(), err)
			}
			run(append(way.python, "-m", "llcuda", "--help")...)
			said := run(append(way.python, "-c", `import sys, llcuda
with llcuda.InferenceEngine() as engine:
    engine.load_model(sys.argv[1], gpu_layers=0, ctx_size=512)
    print(engine.infer("The capital of France is", max_tokens=3, temperature=0))`, model)...)
			if !strings.Contains(said, "Paris") {
				t.Errorf("the model says\n%s", said)
			}
			run(way.uninstall...)
			if _, err := os.Stat(where); !os.IsNotExist(err) {
				t.Errorf("uninstalling leaves %s: %v", where, err)
			}
		})
	}
}

// servePackages runs an index server over a folder with wheels, and returns its address.
func servePackages(t *testing.T, tools, dir string) string {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	wheels := t.TempDir()
	linkFiles(t, dir, wheels, "*.whl")
	server := exec.Command(filepath.Join(tools, "pypi-server"), "run", "--interface", "127.0.0.1", "--port", port, "--disable-fallback", wheels)
	server.Stderr = os.Stderr
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	index := "http://" + address + "/simple/"
	for range 600 {
		if answer, err := http.Get(index); err == nil {
			answer.Body.Close()
			return index
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("pypi-server does not answer at %s", index)
	return ""
}

// signedRelease is a release folder, and what it takes to install from it.
type signedRelease struct {
	path, client, trustedRoot string
}

// pythonRelease builds the real llama.cpp for one SM, packages the client and the Python package of the last commit, and
// signs all of it.
func (f *farm) pythonRelease(t *testing.T) signedRelease {
	dir := t.TempDir()
	llama := f.realLlama(t)
	f.build(t, llama, "75", dir).want(t, 0)
	texts, err := os.ReadFile(filepath.Join(unpack(t, dir, "sm75"), "THIRD_PARTY_LICENSES.txt"))
	if err != nil {
		t.Fatal(err)
	}
	checkNotices(t, llama, string(texts))

	c := f.newChain(t)
	ci := func(args ...string) {
		t.Helper()
		c.run(t, f.bin, releaseWorkflow(e2eRelease), args...).want(t, 0)
	}
	ci("client", dir, "--base", "made")
	ci("wheel", dir, "--base", "made")
	ci("wheel", dir, "--base", "made")
	ci(append([]string{"sign", dir}, c.signing()...)...)
	return signedRelease{dir, filepath.Join(unpackClient(t, dir), "llcuda-fetch"), c.sigstore.TrustedRoot}
}

// realLlama is the pinned llama.cpp without what only a GPU needs, and with less to compile: one CUDA kernel, two CPU
// variants, minillama's web UI, and outside of ggml no optimization and few, large units. It is made from the source that ci
// keeps.
func (f *farm) realLlama(t *testing.T) string {
	t.Helper()
	m, err := spec.Default()
	if err != nil {
		t.Fatal(err)
	}
	source, err := sources.ResolveSource(t.Context(), "", m.LlamaCPP, nil, filepath.Join(f.cache, "sources"), nil)
	if err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(t.TempDir(), "llama.cpp")
	for _, name := range []string{"cmake", "common", "ggml", "include", "licenses", "src", "tools", "vendor"} {
		if err := os.CopyFS(filepath.Join(tree, name), os.DirFS(filepath.Join(source.Dir, name))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"CMakeLists.txt", "LICENSE", "scripts/ui-assets.cmake"} {
		copyFile(t, filepath.Join(source.Dir, name), filepath.Join(tree, name))
	}

	cuda := filepath.Join(tree, "ggml", "src", "ggml-cuda")
	removeFiles(t, cuda, func(name string) bool { return filepath.Ext(name) == ".cu" && name != "scale.cu" })
	copyFile(t, filepath.Join("testdata", "nodevice.cu"), filepath.Join(cuda, "ggml-cuda.cu"))

	ui := filepath.Join(tree, "tools", "ui")
	removeFiles(t, ui, func(name string) bool {
		return !strings.HasPrefix(name, "ui.") && filepath.Ext(name) != ".cmake" && name != "CMakeLists.txt"
	})
	mini := filepath.Join("testdata", "minillama", "tools", "ui")
	for _, name := range []string{"package.json", "package-lock.json", "svelte.config.js", "scripts/build.js", "src/app.css", "src/app.html", "src/app.js"} {
		copyFile(t, filepath.Join(mini, name), filepath.Join(ui, name))
	}

	replaceIn(t, tree, "ggml/src/ggml-cuda/CMakeLists.txt", `(?m)^ +ggml_cuda_fattn_vec_instances\(.*\)\n`, func(string) string { return "" })

	replaceIn(t, tree, "ggml/src/CMakeLists.txt", `(?m)^ +ggml_add_cpu_backend_variant\((?:[a-z]+\d*|sse42) +SSE42(?: \w+)*\)\n`, func(line string) string {
		if strings.Contains(line, "haswell") {
			return line
		}
		return ""
	})
	// Most of a unit's time goes into nlohmann's JSON, which all of them include. Those left out specialize templates that
	// others have used, or refuse the internal headers.
	for _, dir := range []string{"common", "tools/server", "tools/mtmd", "tools/cli"} {
		change(t, tree, dir+"/CMakeLists.txt", func(text string) string {
			return `set(CMAKE_UNITY_BUILD ON)
set(CMAKE_UNITY_BUILD_BATCH_SIZE 64)
set_source_files_properties(json.cpp jinja/value.cpp mtmd-helper.cpp mtmd-helper-gen.cpp PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
` + text
		})
	}
	optimize := func(level string) func(string) string {
		return func(line string) string { return line + "set(CMAKE_CXX_FLAGS_RELEASE \"" + level + " -DNDEBUG\")\n" }
	}
	replaceIn(t, tree, "CMakeLists.txt", `(?m)^project\(.*\)\n`, optimize("-O0"))
	replaceIn(t, tree, "ggml/CMakeLists.txt", `(?m)^project\(.*\)\n`, optimize("-O3"))
	return tree
}

// noticed maps each path in the real llama.cpp whose files have a copyright notice of their own to
// what a bundle's license texts must say of it; the text is empty if no bundle contains those files.
var noticed = map[string]string{
	"common/base64.hpp":                     "common/base64.hpp",
	"ggml/include/ggml-cann.h":              "",
	"ggml/include/ggml-sycl.h":              "",
	"ggml/src/ggml-cann/":                   "",
	"ggml/src/ggml-cpu/kleidiai/":           "",
	"ggml/src/ggml-cpu/llamafile/sgemm.cpp": "Copyright 2024 Mozilla Foundation",
	"ggml/src/ggml-cpu/ops.cpp":             "Jeffrey Quesnelle and Bowen Peng",
	"ggml/src/ggml-metal/":                  "",
	"ggml/src/ggml-opencl/":                 "",
	"ggml/src/ggml-openvino/":               "",
	"ggml/src/ggml-sycl/":                   "",
	"vendor/cpp-httplib/httplib.h":          "yhirose",
	"vendor/hash/xxhash/":                   "Yann Collet",
	"vendor/miniaudio/miniaudio.h":          "David Reid",
	"vendor/nlohmann/":                      "Niels Lohmann",
	"vendor/sheredom/subprocess.h":          "vendor/sheredom/subprocess.h",
	"vendor/stb/stb_image.h":                "Sean Barrett",
}

// checkNotices checks that every file of llama.cpp under a third party's copyright is known, and
// that the license texts of a bundle name the copyright holder.
func checkNotices(t *testing.T, tree, texts string) {
	t.Helper()
	notice := regexp.MustCompile(`(?i)copyright|spdx-license-identifier`)
	source := regexp.MustCompile(`\.(c|cc|cpp|cu|cuh|h|hpp|m|metal|cl)$`)
	unseen := maps.Clone(noticed)
	err := fs.WalkDir(os.DirFS(tree), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || !source.MatchString(name) {
			return err
		}
		text, err := os.ReadFile(filepath.Join(tree, name))
		if err != nil || !notice.Match(text) {
			return err
		}
		for place, want := range noticed {
			if strings.HasPrefix(name, place) {
				delete(unseen, place)
				if !strings.Contains(texts, want) {
					t.Errorf("%s is in the bundle, whose licence texts lack %q", name, want)
				}
				return nil
			}
		}
		t.Errorf("%s has a notice of its own: look whether a bundle holds it, and what the licence texts say of it", name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for place := range unseen {
		t.Errorf("nothing in %s has a notice any more", place)
	}
}

// replaceIn rewrites what the pattern matches in a file of a tree, which must have it.
func replaceIn(t *testing.T, tree, name, pattern string, with func(string) string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	change(t, tree, name, func(text string) string {
		if !re.MatchString(text) {
			t.Fatalf("%s of llama.cpp has nothing that matches %s", name, pattern)
		}
		return re.ReplaceAllStringFunc(text, with)
	})
}

// removeFiles removes the files below a folder whose names are to go.
func removeFiles(t *testing.T, dir string, gone func(name string) bool) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && gone(entry.Name()) {
			err = os.Remove(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// copyFile copies a file, into a folder that it makes.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o644); err != nil {
		t.Fatal(err)
	}
}
