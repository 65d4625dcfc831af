package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/ci/internal/engine/image/imagetest"
)

// The builder starts from an image of a registry, and bundles record which by its digest.
func (f *farm) testRegistryBase(t *testing.T) {
	f.release(t) // makes the image that is pushed
	ref, digest := imagetest.NewRegistry(t).Push(t, f.cached(t, "*.oci.tar"), "debian:bookworm-slim")
	out := t.TempDir()
	f.build(t, f.llama, "75", out, "--base", ref).want(t, 0)
	var metadata struct {
		Build struct {
			BaseImage string `json:"base_image"`
		}
	}
	readJSON(t, filepath.Join(unpack(t, out, "sm75"), "metadata.json"), &metadata)
	if want := ref + "@" + digest; metadata.Build.BaseImage != want {
		t.Errorf("the bundle's base image is %s, want %s", metadata.Build.BaseImage, want)
	}
	f.run(t, "verify", out).want(t, 0)
}

// Two engines, each in a network namespace without any network and each with nothing in
// its cache, share the SMs. One is killed while it compiles: the other takes its step over,
// and the bundles are the very bytes that the first engine made. Then the last one is
// killed as well: the command says so, and continues when the engine is back.
func (f *farm) testTwoEngines(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("running engines of its own needs root")
	}
	whole := f.release(t)
	t.Setenv("_EXPERIMENTAL_DAGGER_CLI_BIN", "") // that of the engine which all other tests use
	a, b := f.newEngine(t, "a"), f.newEngine(t, "b")

	out := t.TempDir()
	p := f.start(t, f.buildArgs(copyTree(t, f.llama), "75,89", out, "--engine", a.host+","+b.host)...)
	victim, survivor := a, b
	started := p.await(`^(sm\d+) +compile +started on (\S+)$`)
	if started[2] == b.name {
		victim, survivor = b, a
	}
	p.await(`^` + started[1] + ` +compile +\d+/\d+`)
	victim.kill(t)
	build := p.wait()
	build.want(t, 0, "the engine "+victim.name+" was lost while it ran "+started[1])
	for _, sm := range []int{75, 89} {
		if diff := cmp.Diff(digestsOf(t, whole, sm), digestsOf(t, out, sm)); diff != "" {
			t.Errorf("sm%d, first engine and these (-want +got):\n%s", sm, diff)
		}
	}
	f.run(t, "verify", out).want(t, 0)

	llama := copyTree(t, f.llama)
	change(t, llama, "ggml/src/ggml-cuda/common.cuh", unseen)
	out = t.TempDir()
	alone := f.buildArgs(llama, "75", out, "--engine", survivor.host)
	p = f.start(t, alone...)
	p.await(`^sm75 +compile +started`)
	survivor.kill(t)
	p.wait().want(t, 4, "hint: ", "go run ./ci engine up")
	noUnfinished(t, out)
	f.run(t, alone...).want(t, 4, "hint: ", "go run ./ci engine up --name "+survivor.name)
	survivor.up(t)
	f.run(t, alone...).want(t, 0)
	f.run(t, "verify", out).want(t, 0)
}

// ownEngine is a built-in engine that belongs to a test.
type ownEngine struct {
	farm        *farm
	name, netns string
	host        string
}

// engineState is what the tests read of ci engine status --json.
type engineState struct {
	Running bool
	Answers bool
	Host    string
	PID     int
	Dir     string
}

// newEngine brings up an engine in a network namespace of its own, where there is nothing
// but an unconnected loopback.
func (f *farm) newEngine(t *testing.T, suffix string) *ownEngine {
	t.Helper()
	lookFor(t, "unshare")
	e := &ownEngine{farm: f, name: "e2e-" + strconv.Itoa(os.Getpid()) + "-" + suffix, netns: filepath.Join(t.TempDir(), "netns")}
	if err := os.WriteFile(e.netns, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	command(t, "", "unshare", "--net="+e.netns, "true")
	t.Cleanup(func() {
		if err := syscall.Unmount(e.netns, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { e.remove(t) })
	e.up(t)
	return e
}

func (e *ownEngine) up(t *testing.T) {
	t.Helper()
	e.farm.run(t, "engine", "up", "--name", e.name, "--netns", e.netns).want(t, 0)
	e.host = e.state(t).Host
}

func (e *ownEngine) state(t *testing.T) engineState {
	t.Helper()
	status := e.farm.run(t, "engine", "status", "--name", e.name, "--json")
	status.want(t, 0)
	var state engineState
	if err := json.Unmarshal([]byte(status.stdout), &state); err != nil {
		t.Fatalf("%v\n%s", err, status)
	}
	return state
}

// kill ends the engine's first process, and so the kernel ends all it runs.
func (e *ownEngine) kill(t *testing.T) {
	t.Helper()
	state := e.state(t)
	if !state.Running || state.PID <= 1 {
		t.Fatalf("engine %s: %+v", e.name, state)
	}
	if err := syscall.Kill(state.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// remove leaves nothing of the engine, not even its cache.
func (e *ownEngine) remove(t *testing.T) {
	t.Helper()
	for _, action := range []string{"down", "prune"} {
		// Not with the test's context, which is done by now.
		if out, err := exec.Command(e.farm.bin, "engine", action, "--name", e.name).CombinedOutput(); err != nil {
			t.Errorf("engine %s: %v\n%s", action, err, out)
		}
	}
	if err := os.RemoveAll(filepath.Join(e.farm.cache, "engine", "instances", e.name)); err != nil {
		t.Error(err)
	}
}

// digestsOf reads a bundle's digests from its release's manifest, by format.
func digestsOf(t *testing.T, dir string, sm int) map[string]string {
	t.Helper()
	digests := map[string]string{}
	for _, a := range readManifest(t, dir).Assets {
		if a.SM == code(strconv.Itoa(sm)) {
			digests[a.Name] = a.SHA256
		}
	}
	if len(digests) != 2 {
		t.Errorf("%s has %d archives of sm%d, want 2", dir, len(digests), sm)
	}
	return digests
}
