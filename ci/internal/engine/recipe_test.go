package engine

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/waqasm86/llcuda-farm/ci/internal/engine/image"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/docker/cuda12"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
)

// The builder links against what the floors have, no more and no less.
func TestLinksAtFloors(t *testing.T) {
	m, err := spec.Default()
	if err != nil {
		t.Fatal(err)
	}
	if held := fmt.Sprintf("(GLIBC => '%s', GLIBCXX => '%s',", m.Floors.Glibc, m.Floors.GLIBCXX); strings.Count(string(cuda12.InstallScript), held) != 1 {
		t.Errorf("install.sh does not hold the libraries at the floors of matrix.yaml: %s", held)
	}
	recipe := newRecipe(matrix.Toolkit{}, matrix.Toolkit{}, farm.Source{Version: "0.5.0"}, nil, "dagger v0")
	for _, kind := range []string{"EXE", "SHARED", "MODULE"} {
		argument := "-DCMAKE_" + kind + "_LINKER_FLAGS=" + linking
		if !slices.Contains(recipe.HostCMake, argument) || !slices.Contains(recipe.CUDACMake, argument) {
			t.Errorf("a half is not linked with %s", argument)
		}
	}
}

func TestRecipe(t *testing.T) {
	const commit = "de3ff815ea7d559ee917f063901b8986f038abc6"
	for _, test := range []struct {
		name string
		src  farm.Source
		host []string
	}{
		{"a release", farm.Source{Version: "0.5.0", Commit: commit, Build: 7},
			[]string{"-DLLAMA_BUILD_IS_DEV=OFF", "-DLLAMA_BUILD_COMMIT=de3ff81", "-DLLAMA_BUILD_NUMBER=7"}},
		{"between releases", farm.Source{Version: "0.5.0-dev", Commit: commit + "-dirty"},
			[]string{"-DLLAMA_BUILD_IS_DEV=ON", "-DLLAMA_BUILD_COMMIT=de3ff81"}},
		{"no repository", farm.Source{Version: "b123"},
			[]string{"-DLLAMA_BUILD_COMMIT=unknown", "-DLLAMA_BUILD_NUMBER=0"}},
	} {
		recipe := newRecipe(matrix.Toolkit{}, matrix.Toolkit{}, test.src, nil, "dagger v0")
		for _, arg := range test.host {
			if !slices.Contains(recipe.HostCMake, arg) {
				t.Errorf("%s: the host half lacks %s: %q", test.name, arg, recipe.HostCMake)
			}
		}
		// The device half must not know the commit: it would be compiled again for each one.
		for _, arg := range recipe.CUDACMake {
			if strings.Contains(arg, "LLAMA_") || strings.Contains(arg, "CUDA_ARCHITECTURES") {
				t.Errorf("%s: the device half has %s", test.name, arg)
			}
		}
	}
}

// The images of steps that ran elsewhere are those of this checkout's locks on the base that these steps name.
func TestRecipesElsewhere(t *testing.T) {
	m, err := spec.Default()
	if err != nil {
		t.Fatal(err)
	}
	src := farm.Source{Dir: t.TempDir(), Version: "0.5.0"}
	writeFiles(t, src.Dir, newTree())
	const base = "debian:bookworm-slim@sha256:0123"
	recipes, err := Recipes(src, m.Toolkits, base, "dagger v1")
	if err != nil {
		t.Fatal(err)
	}
	var images []string
	for i, recipe := range recipes {
		lock, err := lockOf(m.Toolkits[i].Name)
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, image.Digest("sha256:0123", lock, cuda12.InstallScript))
		if recipe.BuilderImage != images[i] || recipe.HostImage != images[0] || recipe.BaseImage != base || recipe.Engine != "dagger v1" || recipe.Toolkit != m.Toolkits[i] {
			t.Errorf("the recipe of %s is %+v", m.Toolkits[i].Name, recipe)
		}
	}
}
