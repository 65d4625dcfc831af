package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dagger.io/dagger"
	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/ci/internal/engine/image"
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
	t.Run("steady", func(t *testing.T) { testSteady(t, b.images[options.Toolkits[0].Name].container(b.client)) })
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

// testSteady shows that what cicc sees under steady.so is the same in every process, and that only cicc and cudafe++ see
// it. The program of these names prints what the PTX of the real ones was seen to depend on.
func testSteady(t *testing.T, image *dagger.Container) {
	steady, err := stageFiles.ReadFile("stages/device/steady.c")
	if err != nil {
		t.Fatal(err)
	}
	const sees = `#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
int main(void) {
    unsigned seed;
    struct timespec up;
    struct timeval day;
    FILE *f = fopen("/dev/urandom", "r");
    if (!f || fread(&seed, sizeof seed, 1, f) != 1) return 1;
    srand(seed);
    clock_gettime(CLOCK_MONOTONIC, &up);
    gettimeofday(&day, 0);
    printf("heap %p\n", malloc(1));
    printf("random %d\n", rand());
    printf("monotonic %ld.%ld\n", (long) up.tv_sec, up.tv_nsec);
    printf("day %ld.%ld\n", (long) day.tv_sec, (long) day.tv_usec);
    printf("time %d\n", time(0) > 1700000000);
    printf("pid %d\n", getpid());
}
`
	const script = `mkdir /out && cd /out && gcc -shared -fPIC -O2 -Wall -Werror -o /tmp/steady.so /tmp/steady.c
for program in cicc cudafe++ ptxas; do
    gcc -o "/tmp/$program" /tmp/sees.c
    for n in 1 2; do LD_PRELOAD=/tmp/steady.so "/tmp/$program" > "$program.$n"; sleep 0.01; done
done`
	out := t.TempDir()
	_, err = image.WithNewFile("/tmp/steady.c", string(steady)).WithNewFile("/tmp/sees.c", sees).
		WithExec(slices.Concat(noNetwork, []string{"bash", "-ec", script}), dagger.ContainerWithExecOpts{InsecureRootCapabilities: true}).
		Directory("/out").Export(t.Context(), out)
	if err != nil {
		t.Fatal(err)
	}
	for program, want := range map[string]string{
		"cicc":     "pid",
		"cudafe++": "heap random monotonic day",
		"ptxas":    "heap random monotonic day pid",
	} {
		var differ []string
		var seen [2][]string
		for i := range seen {
			text, err := os.ReadFile(filepath.Join(out, fmt.Sprintf("%s.%d", program, i+1)))
			if err != nil {
				t.Fatal(err)
			}
			seen[i] = strings.Split(strings.TrimSpace(string(text)), "\n")
		}
		for i, line := range seen[0] {
			if line != seen[1][i] {
				name, _, _ := strings.Cut(line, " ")
				differ = append(differ, name)
			}
		}
		if got := strings.Join(differ, " "); got != want {
			t.Errorf("two runs of %s differ in %q, want %q: %q", program, got, want, seen)
		}
		if today := slices.Contains(seen[0], "time 1"); today == (program == "cicc") {
			t.Errorf("%s sees the time of today: %t", program, today)
		}
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

// A package counts if the cache lacks it or has only part of it, and once if several images need it.
func TestToDownload(t *testing.T) {
	options := allToolkits(t)
	cache := t.TempDir()
	left := func(toolkits ...matrix.Toolkit) int64 {
		t.Helper()
		bytes, err := ToDownload(toolkits, cache)
		if err != nil {
			t.Fatal(err)
		}
		return bytes
	}
	lock, err := cuda12.DefaultLock()
	if err != nil {
		t.Fatal(err)
	}
	var all int64
	for _, p := range lock {
		all += p.Size
	}
	if got := left(options.Toolkits[0]); got != all {
		t.Errorf("%d bytes, of an empty cache; the lock has %d", got, all)
	}
	first, both := left(options.Toolkits[0]), left(options.Toolkits...)
	if alone := left(options.Toolkits[1]); both <= first || both >= first+alone {
		t.Errorf("%d bytes for both images, %d and %d for each alone", both, first, alone)
	}
	if err := os.MkdirAll(image.FilesDir(cache), 0o755); err != nil {
		t.Fatal(err)
	}
	for i, p := range lock[:2] { // the first is whole, the second lacks its last byte
		f, err := os.Create(filepath.Join(image.FilesDir(cache), p.SHA256))
		if err == nil {
			err = errors.Join(f.Truncate(p.Size-int64(i)), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := left(options.Toolkits[0]); got != all-lock[0].Size {
		t.Errorf("%d bytes with one package in the cache and another incomplete, want %d", got, all-lock[0].Size)
	}
	if _, err := ToDownload([]matrix.Toolkit{{Name: "cuda99"}}, cache); err == nil {
		t.Error("no error for a toolkit without a lock")
	}
}
