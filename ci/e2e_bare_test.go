package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The programs start where there is nothing but a minimal Debian: no CUDA, no driver, no
// OpenMP, no environment.
func (f *farm) testBareSystem(t *testing.T) {
	bundle := unpack(t, f.release(t), "sm75")
	// Any file that begins as a model does is enough for minillama to compute with.
	model := filepath.Join(bundle, "model.gguf")
	if err := os.WriteFile(model, []byte("GGUF\x03\x00\x00\x00"+strings.Repeat("\x00", 64)), 0o644); err != nil {
		t.Fatal(err)
	}
	root := f.baseSystem(t)
	for _, place := range []struct {
		name string
		run  func(args ...string) string
	}{
		{"this machine, empty environment", func(args ...string) string {
			return command(t, bundle, "env", append([]string{"-i"}, args...)...)
		}},
		{"bare Debian", func(args ...string) string {
			if os.Geteuid() != 0 {
				t.Skip("chroot needs root")
			}
			// The mounts end with the namespace. $ORIGIN is resolved through /proc.
			script := `mount -t proc proc "$1/proc"; mount --bind "$2" "$1/mnt"; root=$1; shift 2
				exec chroot "$root" env -i sh -c 'cd /mnt && exec "$@"' sh "$@"`
			return command(t, "", "unshare", append([]string{"--mount", "--net", "sh", "-ec", script, "sh", root, bundle}, args...)...)
		}},
	} {
		t.Run(place.name, func(t *testing.T) {
			if out := place.run("binaries/cuda12/llama-server", "--version"); !strings.Contains(out, "version: 0.5.0 ") {
				t.Errorf("llama-server --version: %s", out)
			}
			for _, program := range []string{"llama-server", "llama-bench"} {
				if out := place.run("binaries/cuda12/"+program, "--list-devices"); !strings.Contains(out, "Available devices:") {
					t.Errorf("%s --list-devices: %s", program, out)
				}
			}
			if out := place.run("binaries/cuda12/llama-cli", "-m", "model.gguf"); !regexp.MustCompile(`CPU .*: ok`).MatchString(out) {
				t.Errorf("llama-cli computed nothing on the CPU: %s", out)
			}
		})
	}
}

// A backend planted in the current directory is never loaded, while a model there is found by its name.
func (f *farm) testPlantedBackend(t *testing.T) {
	bundle, here := unpack(t, f.release(t), "sm75"), t.TempDir()
	const planted = "PLANTED"
	for _, name := range []string{"libggml-cpu-zzz.so", "libggml-cuda-zzz.so", "libggml-cuda.so"} {
		cmd := exec.Command("gcc", "-shared", "-fPIC", "-o", filepath.Join(here, name), "-x", "c", "-")
		cmd.Stdin = strings.NewReader("#include <stdio.h>\n__attribute__((constructor)) static void run(void) { puts(\"" + planted + "\"); }\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("gcc: %v\n%s", err, out)
		}
	}
	if err := os.WriteFile(filepath.Join(here, "model.gguf"), []byte("GGUF\x03\x00\x00\x00"+strings.Repeat("\x00", 64)), 0o644); err != nil {
		t.Fatal(err)
	}
	out := command(t, here, filepath.Join(bundle, "binaries/cuda12/llama-cli"), "-m", "model.gguf")
	if strings.Contains(out, planted) || !regexp.MustCompile(`CPU .*: ok`).MatchString(out) {
		t.Errorf("llama-cli: %s", out)
	}
}

// baseSystem unpacks the builder's base image, before anything was installed in it.
func (f *farm) baseSystem(t *testing.T) string {
	t.Helper()
	layout, root := t.TempDir(), t.TempDir()
	command(t, layout, "tar", "-xf", f.cached(t, "*.oci.tar"))
	blob := func(digest string, into any) string {
		t.Helper()
		path := filepath.Join(layout, "blobs", filepath.FromSlash(strings.Replace(digest, ":", "/", 1)))
		if into != nil {
			readJSON(t, path, into)
		}
		return path
	}
	type descriptor struct{ Digest string }
	var index struct{ Manifests []descriptor }
	readJSON(t, filepath.Join(layout, "index.json"), &index)
	var image struct{ Layers []descriptor }
	blob(index.Manifests[0].Digest, &image)
	for _, layer := range image.Layers {
		command(t, root, "tar", "-xf", blob(layer.Digest, nil))
	}
	return root
}
