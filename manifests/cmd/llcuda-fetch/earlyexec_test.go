package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// build makes the program as it is published, of a release if one is given, with more stamps: see .goreleaser.yaml.
func build(t testing.TB, program, main, release string, stamps ...string) {
	t.Helper()
	flags := "-s -w -buildid= -X github.com/waqasm86/llcuda-farm/manifests/fetch/fetchcli.release=" + release + " " + strings.Join(stamps, " ")
	cmd := child(t, "go", "build", "-trimpath", "-buildvcs=false", "-tags", "grpcnotrace", "-ldflags", flags, "-o", program, main)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// What run asks for starts before what verifies signatures is initialized, and it starts as it does when all is: the
// same program with the same arguments and the same environment.
func TestRunAtOnce(t *testing.T) {
	dir := t.TempDir()
	program, home, key := filepath.Join(dir, "llcuda-fetch"), filepath.Join(dir, "store"), filepath.Join(dir, "key.pub")
	machine := newKernel(t, "1b06 NVIDIA GeForce GTX 1080 Ti, 6.1", "1b06 NVIDIA GeForce GTX 1080 Ti, 6.1", "1f08 NVIDIA GeForce RTX 2060, 7.5")
	build(t, program, ".", "", machine.stamp())
	release := fetchtest.New(t, fetchtest.Options{SMs: []matrix.SM{61, 75}, Programs: map[string]string{"llama-cli": "#!/bin/sh\necho \"arguments: $0 $*\"\nenv | sort | grep -v ^GODEBUG=\n"}})
	if err := os.WriteFile(key, release.PublicKey(t), 0o644); err != nil {
		t.Fatal(err)
	}
	environ := append(machine.environ(), "LD_LIBRARY_PATH="+machine.driver+":/opt/lib:/x", "GODEBUG=inittrace=1")
	command := func(args ...string) (string, string) {
		t.Helper()
		cmd := child(t, program, args...)
		var out, trace strings.Builder
		cmd.Env, cmd.Stdout, cmd.Stderr = environ, &out, &trace
		if err := cmd.Run(); err != nil {
			t.Fatalf("%q: %v\n%s%s", args, err, out.String(), trace.String())
		}
		return out.String(), trace.String()
	}
	install := []string{"--home", home, "--public-key", key, "--mirror", release.Dir, "install"}
	_, trace := command(install...)
	initialised := regexp.MustCompile(`(?m)^init (\S+)`)
	names := func(trace string) []string {
		var list []string
		for _, match := range initialised.FindAllStringSubmatch(trace, -1) {
			list = append(list, match[1])
		}
		return list
	}
	const verifier = "github.com/waqasm86/llcuda-farm/manifests/sigverify"
	if all := names(trace); !slices.Contains(all, verifier) {
		t.Fatalf("the trace of an installation does not tell of %s: %q", verifier, all)
	}

	for _, arguments := range [][]string{{"llama-cli"}, {"llama-cli", "-m", "model.gguf", "--home", "x", "a b"},
		{"llama-cli", "--model", "./m", "--mmproj", "p.gguf", "--lora", "a.gguf,b.gguf", "--lora-scaled", "a.gguf:0.5", "--no-mmproj"}} {
		atOnce, trace := command(append([]string{"--home", home, "run"}, arguments...)...)
		if all := names(trace); len(all) > 40 || slices.ContainsFunc(all, func(name string) bool {
			return strings.HasPrefix(name, "github.com/sigstore/") || strings.HasPrefix(name, "google.golang.org/protobuf") || strings.HasPrefix(name, "net/")
		}) {
			t.Errorf("%d packages were initialised before %s: %q", len(all), arguments[0], all)
		}
		// --quiet changes nothing here, and is not for package earlyexec.
		later, trace := command(append([]string{"--home", home, "--quiet", "run"}, arguments...)...)
		if !slices.Contains(names(trace), verifier) {
			t.Errorf("with --quiet it was not main that started %s", arguments[0])
		}
		if diff := cmp.Diff(later, atOnce); diff != "" {
			t.Errorf("%q: %s", arguments, diff)
		}
		for _, want := range []string{strings.Join(arguments[1:], " "), "LD_LIBRARY_PATH=" + home + "/bundles/", "/lib:" + machine.driver + ":/opt/lib:/x\n", "CUDA_VISIBLE_DEVICES=GPU-"} {
			if !strings.Contains(atOnce, want) {
				t.Errorf("%q: there is no %q in\n%s", arguments, want, atOnce)
			}
		}
	}

	// What is installed may not be what the environment asks for, which is for main to find out.
	for _, asked := range []string{"LLCUDA_RELEASE=v1.1.0-runtime", "LLCUDA_SM=61"} {
		environ = append(environ, asked)
		if _, trace := command("--home", home, "run", "llama-cli"); !slices.Contains(names(trace), verifier) {
			t.Errorf("%s: it was not main that started the program", asked)
		}
		environ = environ[:len(environ)-1]
	}

	// A name goes to main, and comes out as a file. That is in the cache here, and nothing else is asked for.
	cache, commit := filepath.Join(dir, "hub", "models--org--repo"), strings.Repeat("1", 40)
	model := filepath.Join(cache, "snapshots", commit, "x-Q4_K_M.gguf")
	for path, content := range map[string]string{model: "no weights", filepath.Join(cache, "refs", "main"): commit} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, []byte(content), 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	environ = append(environ, "HF_HUB_CACHE="+filepath.Dir(cache), "HF_ENDPOINT=http://127.0.0.1:1")
	for _, arguments := range [][]string{{"-hf", "org/repo"}, {"-m", "https://huggingface.co/org/repo/blob/main/x-Q4_K_M.gguf"}, {"--hf-repo", "hf.co/org/repo:q4_k_m"}} {
		out, trace := command(append([]string{"--home", home, "run", "llama-cli"}, arguments...)...)
		if !slices.Contains(names(trace), verifier) {
			t.Errorf("%q: it was not main that started the program", arguments)
		}
		if !strings.Contains(out, " "+model+"\n") || strings.Contains(out, "-hf") {
			t.Errorf("%q: the model is not among the arguments of\n%s", arguments, out)
		}
	}
}
