package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// The folders of a stage. They are the same on every engine, and no string of a bundle may
// hold them: the compilers map them away, and the audit refuses what is left.
const (
	srcDir   = "/src"
	buildDir = "/build"
)

// BuildPaths returns the builder's own folders, whose paths must not occur in any file of a bundle.
func BuildPaths() []string { return []string{srcDir + "/", buildDir + "/"} }

// linking has the linker take the symbol versions that the floors allow, from the folder that
// docker/cuda12/install.sh fills: -B is for gcc's own files, -L comes before the folders that CMake
// names for nvcc, -rpath-link is for libraries that libraries need. What replaces newer functions stays
// hidden in each file. Before glibc 2.34 libstdc++ starts threads only where libpthread is loaded, and
// no symbol asks for it. No object file depends on any of this.
const linking = "-B/opt/llcuda/link -L/opt/llcuda/link -Wl,-rpath-link=/opt/llcuda/link -Wl,--exclude-libs=libllcuda-newer.a" +
	" -Wl,--push-state,--no-as-needed,-lpthread,--pop-state"

// commonCMake are the arguments of both halves.
//
// GGML_CCACHE is llama.cpp's own search for a compiler cache, which would come second to the
// launchers given here. The prefix maps make __FILE__ relative, on the device side too: nvcc
// hands them to the preprocessor of every pass.
var commonCMake = []string{
	"-DCMAKE_BUILD_TYPE=Release",
	"-DCMAKE_PROJECT_TOP_LEVEL_INCLUDES=/stages/rpath.cmake",
	"-DCMAKE_C_COMPILER_LAUNCHER=ccache",
	"-DCMAKE_CXX_COMPILER_LAUNCHER=ccache",
	"-DCMAKE_C_FLAGS=-ffile-prefix-map=/src/= -ffile-prefix-map=/build/=",
	"-DCMAKE_CXX_FLAGS=-ffile-prefix-map=/src/= -ffile-prefix-map=/build/=",
	"-DCMAKE_EXE_LINKER_FLAGS=" + linking,
	"-DCMAKE_SHARED_LINKER_FLAGS=" + linking,
	"-DCMAKE_MODULE_LINKER_FLAGS=" + linking,
	"-DBUILD_SHARED_LIBS=ON",
	"-DGGML_BACKEND_DL=ON",
	"-DGGML_NATIVE=OFF",
	"-DGGML_CCACHE=OFF",
}

// optional lists the options that a tree need not define: they name its build, or switch off what
// some trees do not have.
var optional = map[string]bool{
	"GGML_BUILD_EXAMPLES":      true,
	"GGML_BUILD_TESTS":         true,
	"GGML_CCACHE":              true,
	"GGML_CUDA_NCCL":           true,
	"LLAMA_BUILD_APP":          true,
	"LLAMA_BUILD_COMMIT":       true,
	"LLAMA_BUILD_EXAMPLES":     true,
	"LLAMA_BUILD_IS_DEV":       true,
	"LLAMA_BUILD_NUMBER":       true,
	"LLAMA_BUILD_TESTS":        true,
	"LLAMA_BUILD_UI":           true,
	"LLAMA_CURL":               true,
	"LLAMA_USE_PREBUILT_UI":    true,
	"LLAMA_USE_PREBUILT_WEBUI": true,
}

// Recipes returns how the toolkits compile a source, a recipe for each, where the steps were run elsewhere, on a base image
// and an engine as those recipes name them. Everything else is this program's own. It asks neither an engine nor a network.
func Recipes(src farm.Source, toolkits []matrix.Toolkit, base, engine string) ([]farm.Recipe, error) {
	tree, err := readLlamaTree(src)
	if err != nil {
		return nil, err
	}
	images := map[string]Image{}
	for _, toolkit := range toolkits {
		if images[toolkit.Name], err = imageOn(base, toolkit.Name); err != nil {
			return nil, err
		}
	}
	return tree.recipes(toolkits, src, images, engine), nil
}

// recipes are those of the toolkits for this tree. The image of the first toolkit compiles the host half.
func (t llamaTree) recipes(toolkits []matrix.Toolkit, src farm.Source, images map[string]Image, version string) []farm.Recipe {
	var recipes []farm.Recipe
	for _, toolkit := range toolkits {
		recipes = append(recipes, t.fit(newRecipe(toolkits[0], toolkit, src, images, version)))
	}
	return recipes
}

// newRecipe returns how a tree is compiled: the device half in a toolkit's image, the host half in that of another, or
// the same.
func newRecipe(hostToolkit, toolkit matrix.Toolkit, src farm.Source, images map[string]Image, version string) farm.Recipe {
	image := images[toolkit.Name]
	host, cuda := cmakeArguments(src)
	return farm.Recipe{
		Toolkit:      toolkit,
		Host:         hostToolkit,
		BuilderImage: image.Digest,
		HostImage:    images[hostToolkit.Name].Digest,
		BaseImage:    image.Base,
		Runtime:      runtimeKey(image),
		Stages:       stagesDigest(),
		Engine:       version,
		HostCMake:    host,
		CUDACMake:    cuda,
	}
}

// cmakeArguments returns the arguments of the two halves, for a tree that defines all options.
//
// The programs link no OpenSSL: a bundle lists every library it needs, and TLS belongs in
// front of llama-server. The web UI comes from a stage of its own, so that the compile stage
// neither runs npm nor downloads prebuilt assets.
func cmakeArguments(src farm.Source) (host, cuda []string) {
	dev := "OFF"
	if strings.HasSuffix(src.Version, "-dev") {
		dev = "ON"
	}
	commit := src.Commit
	if len(commit) > 7 {
		commit = commit[:7]
	}
	if commit == "" {
		commit = "unknown"
	}
	host = append(append([]string(nil), commonCMake...),
		"-DGGML_CUDA=OFF",
		"-DGGML_CPU_ALL_VARIANTS=ON",
		"-DGGML_OPENMP=ON",
		"-DLLAMA_BUILD_COMMIT="+commit,
		fmt.Sprintf("-DLLAMA_BUILD_NUMBER=%d", src.Build),
		"-DLLAMA_BUILD_IS_DEV="+dev,
		"-DLLAMA_BUILD_APP=OFF",
		"-DLLAMA_BUILD_TESTS=OFF",
		"-DLLAMA_BUILD_EXAMPLES=OFF",
		"-DLLAMA_BUILD_UI=OFF",
		"-DLLAMA_USE_PREBUILT_UI=OFF",
		"-DLLAMA_USE_PREBUILT_WEBUI=OFF",
		"-DLLAMA_OPENSSL=OFF",
		"-DLLAMA_CURL=OFF",
	)
	cuda = append(append([]string(nil), commonCMake...),
		"-DCMAKE_CUDA_COMPILER_LAUNCHER=ccache",
		"-DCMAKE_CUDA_FLAGS=-Xcompiler=-ffile-prefix-map=/src/=,-ffile-prefix-map=/build/=",
		"-DGGML_CUDA=ON",
		"-DGGML_CPU=OFF",
		"-DGGML_CUDA_GRAPHS=ON",
		"-DGGML_CUDA_NCCL=OFF",
		"-DGGML_BUILD_TESTS=OFF",
		"-DGGML_BUILD_EXAMPLES=OFF",
	)
	return host, cuda
}

// stagesDigest identifies the scripts of all stages, with what lies beside them.
func stagesDigest() string {
	sum := sha256.New()
	err := fs.WalkDir(stageFiles, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := stageFiles.ReadFile(name)
		fmt.Fprintf(sum, "%s %d\n%s", name, len(text), text)
		return err
	})
	if err != nil {
		panic(err) // embedded
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil))
}

// runtimeKey identifies what a runtime step produces out of files of the image.
func runtimeKey(image Image) string {
	sum := sha256.New()
	io.WriteString(sum, image.Digest+"\n"+linking)
	for _, name := range []string{"runtime.sh", "stage.sh"} {
		script, err := stageFiles.ReadFile("stages/" + name)
		if err != nil {
			panic(err) // embedded
		}
		fmt.Fprintf(sum, "\n%d\n%s", len(script), script)
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil))
}
