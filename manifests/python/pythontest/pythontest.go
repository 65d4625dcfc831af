// Package pythontest has what tests of the Python package and of its wheels run: Python's own tools, and a real model.
//
// The tests of ci and of manifests/python call it, and the program manifests/python/tool does for people and for make lint.
// Out come paths in the user's cache. What lies there is named by a lock with a hash for each file, in manifests/python/tests,
// and is fetched from the package index once for each state of that lock.
package pythontest

//go:generate go run ../tool uv pip compile --quiet --universal --python-version 3.11 --only-binary :all: --generate-hashes --no-header --no-annotate -o ../tests/requirements.lock ../tests/requirements.in

import (
	"path/filepath"
	"runtime"
	"testing"

	"github.com/waqasm86/llcuda-farm/publisher/prepared"
)

// Environment is the virtual environment with the tools of requirements.in. Its bin has pytest, twine, uv and so on.
func Environment() (string, error) {
	return prepared.Python("python-tools", tests("requirements.lock"))
}

// Tools is the environment's bin for a test.
func Tools(t testing.TB) string {
	t.Helper()
	environment, err := Environment()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(environment, "bin")
}

// Model is a GGUF file of a model that writes sentences, SmolLM2-135M-Instruct.
func Model(t testing.TB) string {
	t.Helper()
	environment, err := Environment()
	if err != nil {
		t.Fatal(err)
	}
	modules, err := prepared.Modules("python-weights", environment, tests("weights.lock"))
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(modules, "*", "*.gguf"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%s has the GGUF files %v, want one: %v", modules, files, err)
	}
	return files[0]
}

func tests(name string) string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "tests", name)
}
