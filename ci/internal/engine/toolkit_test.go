package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dagger.io/dagger"
	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/ci/internal/engine/image/imagetest"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/docker/cuda12"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
)

// allToolkits are the options for every toolkit of the matrix, with the user's own cache of packages.
func allToolkits(t *testing.T) Options {
	t.Helper()
	m, err := spec.Default()
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return Options{CacheDir: filepath.Join(cache, "llcuda", "builder"), Toolkits: m.Toolkits}
}

// Each toolkit's image has the compiler that the matrix names, and it compiles for exactly the SMs that the matrix's check
// takes it to: of each, the fatbin reader finds the code.
func TestToolkits(t *testing.T) {
	if testing.Short() {
		t.Skip("short: it installs the builder images on an engine")
	}
	options := allToolkits(t)
	options.Base = BaseMade
	session, err := Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	b := session.Builders[0].(*builder)

	// What some toolkit compiles for, and variants that none does.
	var all []string
	for _, toolkit := range options.Toolkits {
		for _, code := range toolkit.Codes() {
			all = append(all, matrix.Code{SM: code.SM}.String(), matrix.Code{SM: code.SM, Variant: "a"}.String())
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	const script = `mkdir /out && cd /out && nvcc --version >version
echo '__global__ void twice(float *x) { x[threadIdx.x] *= 2; }' >/tmp/twice.cu
for code in "$@"; do nvcc --fatbin -gencode "arch=compute_$code,code=sm_$code" -o "$code" /tmp/twice.cu 2>>messages || :; done`
	for _, toolkit := range options.Toolkits {
		t.Run(toolkit.Name, func(t *testing.T) {
			out := t.TempDir()
			_, err := b.images[toolkit.Name].container(b.client).
				WithExec(slices.Concat(noNetwork, []string{"bash", "-ec", script, "-"}, all), dagger.ContainerWithExecOpts{InsecureRootCapabilities: true}).
				Directory("/out").Export(t.Context(), out)
			if err != nil {
				t.Fatal(err)
			}
			messages, err := os.ReadFile(filepath.Join(out, "messages"))
			if err != nil {
				t.Fatal(err)
			}
			var want, got []string
			for _, code := range toolkit.Codes() {
				want = append(want, code.String()+": cubin sm_"+code.String())
			}
			for _, name := range all {
				f, err := os.Open(filepath.Join(out, name))
				if os.IsNotExist(err) {
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				info, err := f.Stat()
				if err != nil {
					t.Fatal(err)
				}
				entries, err := bundler.ReadFatbin(f, info.Size())
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				for _, e := range entries {
					got = append(got, fmt.Sprintf("%s: %s %s", name, e.Kind, e.Name()))
				}
			}
			slices.Sort(want)
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("compiled (-matrix +nvcc):\n%s\n%s", diff, messages)
			}
			if version, err := os.ReadFile(filepath.Join(out, "version")); err != nil || !strings.Contains(string(version), ", V"+toolkit.NVCC+"\n") {
				t.Errorf("the matrix says nvcc %s: %s, %v", toolkit.NVCC, version, err)
			}
		})
	}
}

// All images stand on the base that the first was given, while its tag moves on, and each has a digest of its own.
func TestImagesShareTheBase(t *testing.T) {
	if testing.Short() {
		t.Skip("short: it downloads what the builder images are made of")
	}
	options := allToolkits(t)
	registry := imagetest.NewRegistry(t)
	var tag string
	move := func(farm.Event) { tag = registry.PushRandom(t, "debian:bookworm-slim") }
	move(farm.Event{})
	options.Base, options.Progress = tag, move
	images, err := options.prepareImages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	bases, digests := map[string]bool{}, map[string]bool{}
	for _, toolkit := range options.Toolkits {
		image := images[toolkit.Name]
		bases[image.Base], digests[image.Digest] = true, true
		if len(image.lock.Of(cuda12.Base)) == 0 {
			t.Errorf("the lock of %s has no base: install.sh would not mend one of a registry", toolkit.Name)
		}
	}
	if len(bases) != 1 || len(digests) != len(options.Toolkits) {
		t.Errorf("the images have the bases %v and the digests %v", bases, digests)
	}
}
