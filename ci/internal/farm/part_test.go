package farm

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// partSteps are the steps of two bundles with two toolkits and a patched source.
func partSteps(t *testing.T) []Step {
	t.Helper()
	first := matrix.Toolkit{Name: "cuda12", CUDA: "12.4.1", NVCC: "12.4.131", StaticLibraries: true}
	second := matrix.Toolkit{Name: "cuda13", CUDA: "13.3.1", NVCC: "13.3.73"}
	recipe := func(toolkit matrix.Toolkit, image string) Recipe {
		return Recipe{Toolkit: toolkit, Host: first, BuilderImage: image, HostImage: "sha256:image12", BaseImage: "made@sha256:base", Runtime: "sha256:" + image,
			Stages: "sha256:stages", Engine: "dagger v1", HostCMake: []string{"-DA=1", "-DB=2"}, CUDACMake: []string{"-DC=3"}}
	}
	src := Source{Commit: "c0ffee", Version: "0.5.0", Build: 7, Digest: "sha256:tree", Epoch: time.Unix(1_700_000_000, 0), Patches: []manifests.Patch{{Name: "0001-a.patch", SHA256: "aa"}}}
	jobs, err := Plan([]matrix.Target{{SM: 75, Toolkit: "cuda12"}, {SM: 120, Toolkit: "cuda13"}}, src, []Recipe{recipe(first, "sha256:image12"), recipe(second, "sha256:image13")})
	if err != nil {
		t.Fatal(err)
	}
	return Steps(jobs)
}

// writeParts writes a part for every step, each with a program, a file and a link.
func writeParts(t *testing.T, dir string, steps []Step) {
	t.Helper()
	for _, step := range steps {
		tree := t.TempDir()
		writeTree(t, tree, map[string]string{"lib/libx.so.0.5": step.Name(), "binaries/program": "#!", "LICENSE": "terms"})
		if err := errors.Join(os.Symlink("libx.so.0.5", filepath.Join(tree, "lib", "libx.so")), os.Chmod(filepath.Join(tree, "binaries", "program"), 0o775)); err != nil {
			t.Fatal(err)
		}
		if _, err := WritePart(t.Context(), dir, "v1", step, tree, StepStats{Wall: time.Minute, CPUSeconds: 2.5, Compiled: 3, Untried: []string{"zen9"}}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestParts(t *testing.T) {
	steps, dir := partSteps(t), t.TempDir()
	writeParts(t, dir, steps)
	parts, err := ReadParts([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	if base, engine := parts.Origin(); base != "made@sha256:base" || engine != "dagger v1" {
		t.Errorf("they are of %s and %s", base, engine)
	}
	if err := parts.Check(t.Context(), "v1", steps); err != nil {
		t.Fatal(err)
	}
	for _, step := range steps {
		dest := t.TempDir()
		stats, err := parts.Build(t.Context(), step, dest, func(Event) {})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(StepStats{Wall: time.Minute, CPUSeconds: 2.5, Compiled: 3, Untried: []string{"zen9"}}, stats); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.Name(), diff)
		}
		got := map[string]string{}
		err = filepath.WalkDir(dest, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			name, _ := filepath.Rel(dest, path)
			if link, err := os.Readlink(path); err == nil {
				got[name] = "-> " + link
				return nil
			}
			info, _ := d.Info()
			text, err := os.ReadFile(path)
			got[name] = info.Mode().String() + " " + string(text)
			return err
		})
		want := map[string]string{"lib/libx.so.0.5": "-rw-r--r-- " + step.Name(), "lib/libx.so": "-> libx.so.0.5", "binaries/program": "-rwxr-xr-x #!", "LICENSE": "-rw-r--r-- terms"}
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", step.Name(), err, diff)
		}
	}
	// The same folder gives the same archive.
	again := t.TempDir()
	writeParts(t, again, steps[:1])
	one, two := filepath.Join(dir, "host"+partArchive), filepath.Join(again, "host"+partArchive)
	if a, b := readFile(t, one), readFile(t, two); a != b {
		t.Errorf("two archives of one folder differ: %d and %d bytes", len(a), len(b))
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Whatever a part was made of that the release is not is refused, by the name of that.
func TestPartsOfOtherInputs(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Step)
		of     string // the step whose part is refused
		want   string
	}{
		"commit":       {func(s *Step) { s.Source.Commit = "decaf" }, "host", `its llama.cpp is "0.5.0, build 7, decaf", and that of this release is "0.5.0, build 7, c0ffee"`},
		"version":      {func(s *Step) { s.Source.Version = "0.4.0" }, "sm75", "its llama.cpp is"},
		"build number": {func(s *Step) { s.Source.Build++ }, "host", "its llama.cpp is"},
		"tree":         {func(s *Step) { s.Source.Digest = "sha256:other" }, "sm120", "its source tree is"},
		"date":         {func(s *Step) { s.Source.Epoch = time.Unix(1, 0) }, "host", `its SOURCE_DATE_EPOCH is "1"`},
		"other patch":  {func(s *Step) { s.Source.Patches = []manifests.Patch{{Name: "0001-a.patch", SHA256: "bb"}} }, "host", `its patch 0001-a.patch is "bb", and that of this release is "aa"`},
		"no patch":     {func(s *Step) { s.Source.Patches = nil }, "sm75", `its patch 0001-a.patch is "", and`},
		"one patch more": {func(s *Step) {
			s.Source.Patches = append(s.Source.Patches[:1:1], manifests.Patch{Name: "0002", SHA256: "cc"})
		}, "host", `its patch 0002 is "cc", and that of this release is ""`},
		"toolkit":           {func(s *Step) { s.Recipe.Toolkit.CUDA = "13.4.0" }, "sm120", `its toolkit is "CUDA 13.4.0, nvcc 13.3.73"`},
		"nvcc":              {func(s *Step) { s.Recipe.Toolkit.NVCC = "1" }, "runtime-cu13", "its toolkit is"},
		"host toolkit":      {func(s *Step) { s.Recipe.Host.NVCC = "1" }, "host", "its toolkit is"},
		"image":             {func(s *Step) { s.Recipe.BuilderImage = "sha256:other" }, "runtime-cu12-sm7x", "its builder image is"},
		"host image":        {func(s *Step) { s.Recipe.HostImage = "sha256:other" }, "host", "its builder image is"},
		"base":              {func(s *Step) { s.Recipe.BaseImage = "made@sha256:other" }, "sm75", "its base image is"},
		"engine":            {func(s *Step) { s.Recipe.Engine = "dagger v2" }, "sm75", "its engine is"},
		"scripts":           {func(s *Step) { s.Recipe.Stages = "sha256:other" }, "runtime-cu13", "its digest of the stages' scripts is"},
		"runtime":           {func(s *Step) { s.Recipe.Runtime = "sha256:other" }, "runtime-cu12-sm7x", "its runtime is"},
		"host arguments":    {func(s *Step) { s.Recipe.HostCMake = []string{"-DA=1"} }, "host", "its cmake command line is"},
		"device arguments":  {func(s *Step) { s.Recipe.CUDACMake = nil }, "sm120", "its cmake command line is"},
		"variant":           {func(s *Step) { s.Target.Variant = "a" }, "sm75", `its CMAKE_CUDA_ARCHITECTURES is "75a-real", and that of this release is "75-real"`},
		"PTX for an SM":     {func(s *Step) { s.Target.PTX = true }, "sm75", ""},
		"another SM's step": {func(s *Step) { s.Target.SM = 80 }, "sm75", ""},
	} {
		t.Run(name, func(t *testing.T) {
			steps, dir := partSteps(t), t.TempDir()
			writeParts(t, dir, steps)
			for _, step := range steps {
				if step.Name() != test.of {
					continue
				}
				test.change(&step)
				writeParts(t, dir, []Step{step})
			}
			parts, err := ReadParts([]string{dir})
			if err != nil {
				t.Fatal(err)
			}
			err = parts.Check(t.Context(), "v1", steps)
			refused, ok := errors.AsType[*PartError](err)
			if !ok || !strings.Contains(err.Error(), test.want) || refused.Hint() == "" {
				t.Errorf("refused as %v, want %q", err, test.want)
			}
		})
	}
}

// What of a recipe is no part of a step does not make its part another one: the device half of one toolkit knows nothing of
// the other, nor the host half of either.
func TestPartsIgnoreOtherSteps(t *testing.T) {
	steps, dir := partSteps(t), t.TempDir()
	writeParts(t, dir, steps)
	for i := range steps {
		switch steps[i].Kind {
		case StepHost:
			steps[i].Recipe.Toolkit, steps[i].Recipe.BuilderImage, steps[i].Recipe.CUDACMake = matrix.Toolkit{}, "sha256:other", nil
		case StepDevice:
			steps[i].Recipe.HostCMake, steps[i].Recipe.Runtime = nil, "sha256:other"
		case StepRuntime:
			steps[i].Recipe.HostCMake, steps[i].Recipe.CUDACMake = nil, nil
		}
	}
	parts, err := ReadParts([]string{dir})
	if err == nil {
		err = parts.Check(t.Context(), "v1", steps)
	}
	if err != nil {
		t.Error(err)
	}
}

// An archive cannot reach out of the folder that it is unpacked to, whatever its description says of it.
func TestPartsStayInside(t *testing.T) {
	for name, header := range map[string]*tar.Header{
		"a file":        {Typeflag: tar.TypeReg, Name: "../evil", Mode: 0o644},
		"a link":        {Typeflag: tar.TypeSymlink, Name: "lib", Linkname: "/etc"},
		"a link upward": {Typeflag: tar.TypeSymlink, Name: "lib/x", Linkname: "../../x"},
		"a device":      {Typeflag: tar.TypeChar, Name: "x"},
	} {
		t.Run(name, func(t *testing.T) {
			var packed bytes.Buffer
			z, err := zstd.NewWriter(&packed)
			if err != nil {
				t.Fatal(err)
			}
			tw := tar.NewWriter(z)
			if err := errors.Join(tw.WriteHeader(header), tw.Close(), z.Close()); err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "host"+partArchive), packed.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
			parts := &Parts{map[string]part{}, map[string]string{"host": filepath.Join(dir, "host")}}
			dest := filepath.Join(dir, "dest")
			if err := os.Mkdir(dest, 0o755); err != nil {
				t.Fatal(err)
			}
			if _, err := parts.Build(t.Context(), Step{Kind: StepHost}, dest, func(Event) {}); err == nil {
				t.Error("it was unpacked")
			}
			if left, err := os.ReadDir(dest); err != nil || len(left) > 0 && name != "a link upward" {
				t.Errorf("it left %v, %v", left, err)
			}
		})
	}
}
