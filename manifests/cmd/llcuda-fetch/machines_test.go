package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer/transfertest"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// A node is a machine that uses a store, which other machines may use as well.
type node struct {
	t       *testing.T
	machine kernel
	dir     string
	release *fetchtest.Release
	server  *transfertest.Server
	environ []string
}

// newNode gives a machine with these GPUs and an empty store, and a release for it.
func newNode(t *testing.T, gpus ...string) *node {
	t.Helper()
	n := &node{t: t, machine: newKernel(t, gpus...), dir: t.TempDir(), release: fetchtest.New(t, fetchtest.Options{SMs: []matrix.SM{61, 75, 80, 86}})}
	n.server = transfertest.New(t, n.release.Dir, transfertest.Fault{})
	build(t, n.path("llcuda-fetch"), ".", "", n.machine.stamp())
	if err := os.WriteFile(n.path("key.pub"), n.release.PublicKey(t), 0o644); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

// become is another machine, with the same store.
func (n *node) become(gpus ...string) {
	n.t.Helper()
	other := newKernel(n.t, gpus...)
	for from, to := range map[string]string{other.root: n.machine.root, other.bin: n.machine.bin} { // the folder of libcuda.so.1 stays
		if err := os.RemoveAll(to); err != nil {
			n.t.Fatal(err)
		}
		if err := os.Rename(from, to); err != nil {
			n.t.Fatal(err)
		}
	}
}

// fetch runs llcuda-fetch, which must exit so. It returns what was printed, and how many requests the server had.
func (n *node) fetch(code int, args ...string) (out string, requests int) {
	n.t.Helper()
	before := len(n.server.Requests())
	cmd := child(n.t, n.path("llcuda-fetch"), append([]string{"--home", n.path("store")}, args...)...)
	cmd.Env, cmd.Dir = append(n.machine.environ(), n.environ...), n.dir
	text, _ := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != code {
		n.t.Fatalf("%q ends with %d, want %d:\n%s", args, got, code, text)
	}
	return string(text), len(n.server.Requests()) - before
}

// install is llcuda-fetch by itself, with the release at hand.
func (n *node) install(code int, args ...string) string {
	n.t.Helper()
	out, _ := n.fetch(code, append([]string{"--mirror", n.server.URL, "--public-key", n.path("key.pub")}, args...)...)
	return out
}

// started is the part of the bundle's name and the GPUs that a program was started with, by run without a network.
func (n *node) started(args ...string) string {
	n.t.Helper()
	out, requests := n.fetch(0, append(slices.Clone(args), "--offline", "run", "llama-server")...)
	return n.describe(out, requests)
}

func (n *node) describe(out string, requests int) string {
	n.t.Helper()
	if requests > 0 {
		n.t.Errorf("it asked the network %d times", requests)
	}
	_, bundle, _ := strings.Cut(out, "/bundles/llcuda-bins-")
	bundle, _, _ = strings.Cut(bundle, "-")
	_, devices, _ := strings.Cut(out, "CUDA_VISIBLE_DEVICES=")
	return bundle + " " + strings.TrimSpace(devices)
}

// want compares what was started.
func (n *node) want(want, got string) {
	n.t.Helper()
	if got != want {
		n.t.Errorf("started %q, want %q", got, want)
	}
}

// silent says that a command printed nothing but what the program did.
func (n *node) silent(out string) {
	n.t.Helper()
	if !strings.HasPrefix(out, "arguments:") {
		n.t.Errorf("something was said:\n%s", out)
	}
}

// refused is an error before any program was started.
func (n *node) refused(code int, want string, args ...string) {
	n.t.Helper()
	out, _ := n.fetch(code, append(slices.Clone(args), "run", "llama-server")...)
	if strings.Contains(out, "arguments:") || !strings.Contains(out, want) || !strings.Contains(out, "\nhint: ") {
		n.t.Errorf("no error before the program, with %q and a hint:\n%s", want, out)
	}
}

const (
	t4     = "1eb8 Tesla T4, 7.5"
	a100   = "20b0 NVIDIA A100-SXM4-40GB, 8.0"
	gtx    = "1b80 NVIDIA GeForce GTX 1080, 6.1"
	rtx    = "2204 NVIDIA GeForce RTX 3090, 8.6"
	nobody = "/nothing"
)

// One store, two nodes: each has an installation of its own, and neither takes the other's.
func TestTwoNodes(t *testing.T) {
	n := newNode(t, t4)
	n.install(0)
	n.want("sm75 unset", n.started())
	n.become(a100)
	n.refused(7, "must not be used", "--offline", "--public-key", n.path("key.pub"))
	n.install(0)
	n.want("sm80 unset", n.started())
	n.become(t4)
	n.want("sm75 unset", n.started())
	out, _ := n.fetch(0, "list")
	if !strings.Contains(out, "1x1eb8") || !strings.Contains(out, "1x20b0, current there") {
		t.Errorf("list does not tell whose they are:\n%s", out)
	}
	// What one does leaves the other's in peace.
	n.install(0, "install", "--force")
	n.fetch(0, "prune", "--yes")
	n.become(a100)
	n.want("sm80 unset", n.started())
	// The same GPUs once more, and another driver: no network, and it is tried again.
	n.become(t4, t4)
	n.want("sm75 unset", n.started())
	if err := os.WriteFile(filepath.Join(n.machine.root, "sys/module/nvidia/version"), []byte("570.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, _ = n.fetch(0, "run", "llama-server")
	if !strings.Contains(out, "trying the programs") {
		t.Errorf("nothing was tried:\n%s", out)
	}
	out, _ = n.fetch(0, "run", "llama-server")
	n.silent(out)
}

// CUDA_VISIBLE_DEVICES is part of the machine: each choice gets the code for its GPUs, or no program.
func TestVisibleDevices(t *testing.T) {
	n := newNode(t, gtx, rtx)
	visible := func(value string) {
		n.environ = []string{"CUDA_DEVICE_ORDER=PCI_BUS_ID", "CUDA_VISIBLE_DEVICES=" + value}
	}

	visible("0")
	n.install(0)
	n.want("sm61 0", n.started())
	visible("1")
	n.install(0)
	n.want("sm86 1", n.started())
	// Back and forth, nothing comes twice, and nothing is said.
	for range 2 {
		for value, want := range map[string]string{"0": "sm61 0", "1": "sm86 1"} {
			visible(value)
			out, requests := n.fetch(0, "run", "llama-server")
			n.want(want, n.describe(out, requests))
			n.silent(out)
		}
	}
	n.environ = nil
	n.install(0)
	n.want("sm86 GPU-1", n.started())
	visible("0,1") // what the bundle does not serve is hidden, although the user's choice has it
	n.want("sm86 GPU-1", n.started())
	for _, value := range []string{"-1", ""} {
		visible(value)
		n.refused(4, "picking a bundle: ")
		n.install(4)
	}
	// None of the choices is lost to prune, as long as the release is current.
	n.environ = nil
	n.fetch(0, "prune", "--yes")
	visible("0")
	n.want("sm61 0", n.started())
}

// Machines whose GPUs are alike need no look for every choice of them.
func TestVisibleDevicesAlike(t *testing.T) {
	n := newNode(t, t4, t4)
	n.environ = []string{"CUDA_VISIBLE_DEVICES=1"}
	n.install(0)
	for _, value := range []string{"0", "1", "0,1", "1,0"} {
		n.environ = []string{"CUDA_VISIBLE_DEVICES=" + value}
		if err := os.Rename(filepath.Join(n.machine.bin, "nvidia-smi"), n.path("hidden")); err != nil {
			t.Fatal(err)
		}
		out, requests := n.fetch(0, "run", "llama-server")
		n.want("sm75 "+value, n.describe(out, requests))
		if err := os.Rename(n.path("hidden"), filepath.Join(n.machine.bin, "nvidia-smi")); err != nil {
			t.Fatal(err)
		}
	}
	list, _ := n.fetch(0, "list")
	if strings.Count(list, "v1.1.0-runtime") != 1 {
		t.Errorf("each choice became an installation:\n%s", list)
	}
}

// python gives a Python environment with the CUDA libraries, as pip installs them.
func (n *node) python() string {
	n.t.Helper()
	var runtime manifests.Artifact
	for _, a := range n.release.Manifest.Assets {
		if a.Kind == manifests.KindCUDART && a.Format == manifests.FormatTarGz {
			runtime = a
		}
	}
	folder := n.path("venv/lib/python3.11/site-packages/nvidia/cuda")
	if err := os.MkdirAll(folder, 0o777); err != nil {
		n.t.Fatal(err)
	}
	cmd := child(n.t, "tar", "-xzf", filepath.Join(n.release.Dir, runtime.Name), "--strip-components=1", "-C", folder)
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("%v\n%s", err, out)
	}
	return n.path("venv")
}

// An installation may be linked to libraries of the machine's own. Where they are gone, no program starts without them.
func TestLibrariesThatAreGone(t *testing.T) {
	n := newNode(t, t4)
	venv := n.python()
	n.environ = []string{"VIRTUAL_ENV=" + venv}
	if out := n.install(0); strings.Contains(out, "cudart") {
		t.Fatalf("the libraries of the Python environment were not taken:\n%s", out)
	}
	out, _ := n.fetch(0, "run", "llama-server")
	n.silent(out)
	if err := os.RemoveAll(venv); err != nil {
		t.Fatal(err)
	}
	n.refused(7, "must not be used", "--offline", "--public-key", n.path("key.pub"))
	out = n.install(0, "run", "llama-server", "--list-devices")
	if !strings.Contains(out, "CUDA0: Tesla T4") {
		t.Errorf("it was not repaired:\n%s", out)
	}
	out, _ = n.fetch(0, "run", "llama-server")
	n.silent(out)
}

// Two nodes with one bundle: what one has libraries for, the other does not.
func TestSharedBundle(t *testing.T) {
	n := newNode(t, t4)
	n.environ = []string{"VIRTUAL_ENV=" + n.python()}
	n.install(0)
	n.become(t4, t4)
	n.install(0)
	n.environ = nil
	if err := os.RemoveAll(n.path("venv")); err != nil {
		t.Fatal(err)
	}
	n.refused(7, "must not be used", "--offline", "--public-key", n.path("key.pub"))
	n.install(0)
	n.want("sm75 unset", n.started())
	n.become(t4)
	n.want("sm75 unset", n.started("--public-key", n.path("key.pub")))
}

// What else may have changed since an installation was tried.
func TestRunLooksAgain(t *testing.T) {
	n := newNode(t, t4)
	n.install(0)
	hiding := n.path("hiding")
	for _, dir := range []string{hiding, n.path("harmless")} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{n.path("hiding/libcuda.so.1"), n.path("harmless/libcublas.so.12"), n.path("harmless/libggml-cuda.so")} {
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	n.environ = []string{"LD_LIBRARY_PATH=" + n.path("harmless") + ":" + n.machine.driver + ":" + nobody}
	out, _ := n.fetch(0, "run", "llama-server")
	n.silent(out)
	n.environ = []string{"LD_LIBRARY_PATH=" + hiding + ":" + n.machine.driver}
	out, _ = n.fetch(0, "run", "llama-server")
	if !strings.Contains(out, "trying the programs") {
		t.Errorf("another libcuda.so.1 was not tried:\n%s", out)
	}
	out, _ = n.fetch(0, "run", "llama-server")
	n.silent(out)
	n.environ = nil
	out, _ = n.fetch(0, "run", "llama-server")
	n.silent(out)

	// The GPU is gone, with its driver or without it.
	smi := filepath.Join(n.machine.bin, "nvidia-smi")
	if err := os.WriteFile(smi, []byte("#!/bin/sh\necho 'No devices were found'\nexit 6\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(n.machine.root, "dev/nvidiactl")); err != nil {
		t.Fatal(err)
	}
	n.refused(4, "picking a bundle: ")
	n.become()
	if err := os.WriteFile(smi, []byte("#!/bin/sh\nexit 9\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	n.refused(4, "picking a bundle: ", "--offline", "--public-key", n.path("key.pub"))
	out = n.install(0, "--allow-cpu")
	if !strings.Contains(out, "it runs on the CPU") {
		t.Errorf("the CPU was not taken:\n%s", out)
	}
	n.become(t4) // and there is one again
	n.want("sm75 unset", n.started())
}

// An installation owns the CUDA libraries that it was given, however many there were before it.
func TestOwnRuntime(t *testing.T) {
	n := newNode(t, t4)
	n.install(0)
	libraries, err := filepath.Glob(n.path("store/runtimes/*/lib"))
	if err != nil || len(libraries) != 1 {
		t.Fatalf("%q %v", libraries, err)
	}
	// A program that run started has them on its LD_LIBRARY_PATH.
	n.environ = []string{"LD_LIBRARY_PATH=" + libraries[0] + ":" + n.machine.driver}
	for i := range 3 {
		other := fetchtest.New(t, fetchtest.Options{Tag: fmt.Sprintf("v1.%d.0-runtime", i+2), SMs: []matrix.SM{75}})
		other.SignWith(t, n.release)
		n.fetch(0, "install", "--update", "--mirror", other.Dir, "--public-key", n.path("key.pub"))
	}
	n.fetch(0, "prune", "--yes")
	out, _ := n.fetch(0, "run", "llama-server", "--list-devices")
	if !strings.Contains(out, "CUDA0: Tesla T4") {
		t.Errorf("prune took the libraries:\n%s", out)
	}
	n.fetch(0, "rollback", "--public-key", n.path("key.pub"))
	n.fetch(0, "verify", "--public-key", n.path("key.pub"))
	library := filepath.Join(libraries[0], "libcublas.so.12")
	data, err := os.ReadFile(library)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	if err := os.WriteFile(library, data, 0o755); err != nil {
		t.Fatal(err)
	}
	out, _ = n.fetch(3, "verify", "--public-key", n.path("key.pub"))
	if !strings.Contains(out, "/lib/libcublas.so.12: its sha256 is ") {
		t.Errorf("the damaged library is not named:\n%s", out)
	}
	// A damaged library is not gone back to, and not used again.
	out, _ = n.fetch(3, "install", "--release", "v1.4.0-runtime", "--mirror", n.release.Dir, "--public-key", n.path("key.pub"))
	out = n.install(0, "install", "--release", "v1.1.0-runtime")
	if !strings.Contains(out, "is not as it was published (lib/libcublas.so.12: ") {
		t.Errorf("the damaged library was taken:\n%s", out)
	}
	n.fetch(0, "verify", "--public-key", n.path("key.pub"))

	// Another runtime in another release: it is fetched.
	another := fetchtest.New(t, fetchtest.Options{Tag: "v1.9.0-runtime", SMs: []matrix.SM{75}, Runtime: "of a newer toolkit"})
	another.SignWith(t, n.release)
	out, _ = n.fetch(0, "install", "--update", "--mirror", another.Dir, "--public-key", n.path("key.pub"))
	if !strings.Contains(out, "downloaded llcuda-cudart-cu12-") {
		t.Errorf("the other runtime was not fetched:\n%s", out)
	}
}
