package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/elliptic"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/waqasm86/llcuda-farm/manifests/killtest"
	"github.com/waqasm86/llcuda-farm/publisher/cosigntest"
)

// The scripts of signing run on a Sigstore of their own, with the client's policy of production.
func TestSignScripts(t *testing.T) {
	stack := cosigntest.Start(t)
	nowhere := "http://127.0.0.1:1"
	environment := map[string]string{
		"TRUSTED_ROOT": stack.TrustedRoot,
		"OTHER_ROOT":   cosigntest.Start(t).TrustedRoot,
		"ISSUER":       stack.Issuer,
		"SERVICES":     stack.SigningConfig,
		"FIRST_LOG":    stack.Config(t, map[string]string{stack.RekorV2: ""}), // it answers at once
		"NO_LOG":       stack.Config(t, map[string]string{stack.RekorV1: nowhere, stack.RekorV2: ""}),
		"NO_FULCIO":    stack.Config(t, map[string]string{stack.Fulcio: nowhere, stack.RekorV2: ""}),
	}
	client := sync.OnceValues(func() ([]byte, error) { return clientArchive(t.TempDir(), "../../../manifests/cmd/llcuda-fetch") })
	p := scripts(t, "testdata/sign")
	plain := p.Setup
	p.Setup = func(env *testscript.Env) error {
		for name, value := range environment {
			env.Setenv(name, value)
		}
		locked, _, err := cryptoutils.GeneratePEMEncodedECDSAKeyPair(elliptic.P256(), func(bool) ([]byte, error) { return []byte("secret"), nil })
		if err != nil {
			return err
		}
		key, public, err := cryptoutils.GeneratePEMEncodedECDSAKeyPair(elliptic.P256(), nil)
		if err != nil {
			return err
		}
		archive, err := client()
		if err != nil {
			return err
		}
		return errors.Join(plain(env),
			os.WriteFile(filepath.Join(env.WorkDir, "locked.pem"), locked, 0o600),
			os.WriteFile(filepath.Join(env.WorkDir, "key.pem"), key, 0o600),
			os.WriteFile(filepath.Join(env.WorkDir, "key.pub"), public, 0o644),
			os.WriteFile(filepath.Join(env.WorkDir, "client.tar.gz"), archive, 0o644))
	}
	maps.Copy(p.Cmds, githubCommands(t))
	maps.Copy(p.Cmds, map[string]func(*testscript.TestScript, bool, []string){
		// token FILE [repository=… ref=… path=… runner=… audience=… expired]: a workflow's token.
		"token": func(ts *testscript.TestScript, _ bool, args []string) {
			ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(stack.Token(t, workflowOf(ts, args[1:]))), 0o600))
		},
		// runner [repository=…]: what follows runs as a job of that workflow.
		"runner": func(ts *testscript.TestScript, _ bool, args []string) {
			for name, value := range stack.Runner(t, workflowOf(ts, args)) {
				ts.Setenv(name, value)
			}
		},
	})
	testscript.Run(t, p)
}

func workflowOf(ts *testscript.TestScript, args []string) cosigntest.Workflow {
	var w cosigntest.Workflow
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		switch name {
		case "repository":
			w.Repository = value
		case "ref":
			w.Ref = value
		case "path":
			w.Path = value
		case "runner":
			w.Runner = value
		case "audience":
			w.Audience = value
		case "expired":
			w.Expires = time.Now().Add(-time.Minute)
		default:
			ts.Fatalf("a token has no %s", name)
		}
	}
	return w
}

// Whenever sign is killed, running it again completes the release, and a reader meanwhile never
// finds a signature over anything other than the files that are there.
func TestKilledSign(t *testing.T) {
	const kills = 60
	dir := t.TempDir()
	key, public, err := cryptoutils.GeneratePEMEncodedECDSAKeyPair(elliptic.P256(), nil)
	if err != nil {
		t.Fatal(err)
	}
	keyFile, publicFile := filepath.Join(dir, "key.pem"), filepath.Join(dir, "key.pub")
	program := filepath.Join(dir, "main.go") // a small one: what is killed is ci
	if err := os.WriteFile(program, []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	archive, err := clientArchive(t.TempDir(), program)
	if err != nil {
		t.Fatal(err)
	}
	llama := filepath.Join(dir, "llama")
	built := filepath.Join(dir, "built")
	err = errors.Join(os.WriteFile(keyFile, key, 0o600), os.WriteFile(publicFile, public, 0o644),
		os.MkdirAll(filepath.Join(llama, "ggml/src/ggml-cuda"), 0o755),
		os.WriteFile(filepath.Join(llama, "ggml/src/ggml-cuda/CMakeLists.txt"), nil, 0o644),
		os.WriteFile(filepath.Join(llama, "CMakeLists.txt"), []byte("project(\"llama.cpp\" C CXX)\nset(LLAMA_VERSION_MAJOR 0)\nset(LLAMA_VERSION_MINOR 7)\nset(LLAMA_VERSION_PATCH 3)\n"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("FATBINS", filepath.Join("..", "..", "..", "bundler", "testdata", "fatbin"))
	t.Setenv("SOURCE_DATE_EPOCH", "")
	ci := func(want int, args ...string) {
		t.Helper()
		said, err := os.Create(filepath.Join(dir, "said"))
		if err != nil {
			t.Fatal(err)
		}
		defer said.Close()
		if got := run(t.Context(), args, newTerminal(said, said), &fakeEngines{}); got != want {
			text, _ := os.ReadFile(said.Name())
			t.Fatalf("ci %q exits with %d, want %d\n%s", args, got, want, text)
		}
	}
	ci(exitDone, "build", "--sm", "75", "--llama", llama, "--release", "v1", "--out", built, "--cache", filepath.Join(dir, "cache"))
	if err := os.WriteFile(filepath.Join(built, "llcuda-fetch-linux-amd64.tar.gz"), archive, 0o644); err != nil {
		t.Fatal(err)
	}
	ci(exitDone, "manifest", built)

	whole := filepath.Join(dir, "whole")
	if err := os.CopyFS(whole, os.DirFS(built)); err != nil {
		t.Fatal(err)
	}
	sign := func(dir string) *exec.Cmd { return exec.Command("ci", "sign", dir, "--key", keyFile) }
	if output, err := sign(whole).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	temporary := filepath.Join(dir, "tmp") // a killed command has unpacked bundles there
	if err := os.Mkdir(temporary, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", temporary)
	killer := killtest.New(1, time.Second)
	unfinished := 0
	for n := range kills {
		folder := filepath.Join(dir, "dist")
		if err := errors.Join(os.RemoveAll(folder), os.CopyFS(folder, os.DirFS(built))); err != nil {
			t.Fatal(err)
		}
		if _, err := killer.Run(sign(folder)); err != nil {
			t.Fatal(err)
		}
		if exists(filepath.Join(folder, "SHA256SUMS.sigstore.json")) {
			ci(exitDone, "verify", folder, "--public-key", publicFile)
		} else {
			unfinished++
		}
		ci(exitDone, "sign", folder, "--key", keyFile)
		if n%6 == 0 || n == kills-1 {
			ci(exitDone, "verify", folder, "--signed", "--public-key", publicFile)
		}
		if got, want := listing(t, folder), listing(t, whole); !slices.Equal(got, want) {
			t.Fatalf("the folder holds %q, want %q", got, want)
		}
		if left := listing(t, temporary); len(left) > 0 {
			t.Fatalf("the folder of temporary files holds %q", left)
		}
	}
	if unfinished == 0 {
		t.Error("no kill came before the end")
	}
}

// clientArchive is an archive of a Go program, as a release has one of llcuda-fetch.
func clientArchive(dir, source string) ([]byte, error) {
	name := filepath.Join(dir, "llcuda-fetch")
	if output, err := exec.Command("go", "build", "-buildvcs=false", "-o", name, source).CombinedOutput(); err != nil {
		return nil, errors.Join(err, errors.New(string(output)))
	}
	program, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var archive bytes.Buffer
	z := gzip.NewWriter(&archive)
	w := tar.NewWriter(z)
	err = w.WriteHeader(&tar.Header{Name: "llcuda-fetch", Mode: 0o755, Size: int64(len(program)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = w.Write(program)
	}
	err = errors.Join(err, w.Close(), z.Close())
	return archive.Bytes(), err
}
