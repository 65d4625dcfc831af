package cli

import (
	"bytes"
	"crypto/elliptic"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/waqasm86/llcuda-farm/ci/internal/goreleaser"
	"github.com/waqasm86/llcuda-farm/ci/internal/release"
	"github.com/waqasm86/llcuda-farm/manifests/python"
	"github.com/waqasm86/llcuda-farm/manifests/python/pythontest"
	"github.com/waqasm86/llcuda-farm/publisher/wheel"
)

// A release with its Python package, made as maintainers do, reaches real indexes: pypiserver, and devpi as a second
// opinion. Whenever the command is killed, running it again resumes the work.
func TestPublishPyPI(t *testing.T) {
	made := pypiReleaseOf(t)
	t.Run("again", func(t *testing.T) { testSameWheels(t, made) })
	t.Run("tools", func(t *testing.T) { testWheelTools(t, made) })
	t.Run("scripts", func(t *testing.T) {
		params := scripts(t, "testdata/pypi")
		plain := params.Setup
		params.Setup = func(env *testscript.Env) error {
			env.Setenv("PATH", pythontest.Tools(t)+":"+env.Getenv("PATH"))
			env.Setenv("XDG_CACHE_HOME", made.cache) // where twine is installed already
			return errors.Join(plain(env), os.CopyFS(env.WorkDir, os.DirFS(made.dir)))
		}
		maps.Copy(params.Cmds, indexCommands(t))
		testscript.Run(t, params)
	})
	t.Run("killed", func(t *testing.T) { testKilledPublish(t, made) })
}

// pypiMade is a folder with a signed release, dist, and its key, key.pem and key.pub. It is made in
// a checkout of its own, because the one that the test runs in may change meanwhile.
type pypiMade struct{ dir, cache, checkout string }

func (m pypiMade) dist() release.Dir { return release.Dir(filepath.Join(m.dir, "dist")) }

func (m pypiMade) ci(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command("ci", args...)
	cmd.Dir = m.checkout
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ci %q: %v\n%s", args, err, out)
	}
}

func pypiReleaseOf(t *testing.T) pypiMade {
	t.Helper()
	dir := t.TempDir()
	here, err := goreleaser.Open(t.Context(), repositoryRoot)
	if err != nil {
		t.Skipf("this is not a git checkout, so there is no commit to package: %v", err)
	}
	checkout, err := here.Clone(t.Context(), dir, true)
	if err != nil {
		t.Fatal(err)
	}
	m := pypiMade{filepath.Join(dir, "made"), filepath.Join(dir, "cache"), checkout}
	key, public, err := cryptoutils.GeneratePEMEncodedECDSAKeyPair(elliptic.P256(), nil)
	if err != nil {
		t.Fatal(err)
	}
	llama := filepath.Join(dir, "llama")
	err = errors.Join(os.MkdirAll(filepath.Join(llama, "ggml/src/ggml-cuda"), 0o755), os.MkdirAll(m.dir, 0o755),
		os.WriteFile(filepath.Join(m.dir, "key.pem"), key, 0o600), os.WriteFile(filepath.Join(m.dir, "key.pub"), public, 0o644),
		os.WriteFile(filepath.Join(llama, "ggml/src/ggml-cuda/CMakeLists.txt"), nil, 0o644),
		os.WriteFile(filepath.Join(llama, "CMakeLists.txt"), []byte("project(\"llama.cpp\" C CXX)\nset(LLAMA_VERSION_MAJOR 0)\nset(LLAMA_VERSION_MINOR 7)\nset(LLAMA_VERSION_PATCH 3)\n"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	fatbins, err := filepath.Abs(filepath.Join("..", "..", "..", "bundler", "testdata", "fatbin"))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("FATBINS", fatbins)
	t.Setenv("SOURCE_DATE_EPOCH", "")
	dist := string(m.dist())
	m.ci(t, "build", "--sm", "75", "--llama", llama, "--release", "v1.1.0-runtime", "--out", dist, "--cache", m.cache)
	m.ci(t, "client", dist, "--cache", m.cache)
	m.ci(t, "wheel", dist, "--cache", m.cache)
	m.ci(t, "manifest", dist)
	m.ci(t, "sign", dist, "--key", filepath.Join(m.dir, "key.pem"))
	m.ci(t, "verify", dist, "--signed", "--public-key", filepath.Join(m.dir, "key.pub"))
	return m
}

// The same commit and the same client produce the same bytes in another folder, at another time, and
// under another umask.
func testSameWheels(t *testing.T, m pypiMade) {
	copied := release.Dir(filepath.Join(t.TempDir(), "with a blank and ü"))
	if err := os.CopyFS(string(copied), os.DirFS(string(m.dist()))); err != nil {
		t.Fatal(err)
	}
	for _, name := range wheelNames(t) {
		if err := os.Remove(copied.Path(name)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("sh", "-c", `umask 077; exec ci wheel "$0" --cache "$1"`, string(copied), filepath.Join(t.TempDir(), "cache"))
	cmd.Dir = m.checkout
	cmd.Env = append(os.Environ(), "TZ=Pacific/Kiritimati", "LC_ALL=C", "PYTHONHASHSEED=7")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range wheelNames(t) {
		if !bytes.Equal(read(t, m.dist().Path(name)), read(t, copied.Path(name))) {
			t.Errorf("%s is not the same", name)
		}
	}
}

// wheelNames are the names of this checkout's wheels.
func wheelNames(t *testing.T) []string {
	t.Helper()
	version, err := python.Version()
	if err != nil {
		t.Fatal(err)
	}
	return wheel.Names(version)
}

// The tools of the ecosystem find nothing to object to.
func testWheelTools(t *testing.T, m pypiMade) {
	tools := pythontest.Tools(t)
	var paths []string
	for _, name := range wheelNames(t) {
		paths = append(paths, m.dist().Path(name))
	}
	linux := paths[1]
	for _, test := range []struct {
		command []string
		want    string
	}{
		{append([]string{"twine", "check", "--strict"}, paths...), "PASSED"},
		{append([]string{"check-wheel-contents", "--config", filepath.Join(repositoryRoot, "manifests", "python", "pyproject.toml")}, paths...), "OK"},
		{[]string{"python", "-m", "wheel", "unpack", "--dest", t.TempDir(), linux}, "OK"},
		{[]string{"python", "-m", "zipfile", "--test", linux}, "Done testing"},
		{[]string{"auditwheel", "show", linux}, "requires no external shared libraries"},
	} {
		out, err := exec.Command(filepath.Join(tools, test.command[0]), test.command[1:]...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), test.want) {
			t.Errorf("%q: %v\n%s", test.command, err, out)
		}
	}
	out, err := exec.Command(filepath.Join(tools, "auditwheel"), "show", linux).CombinedOutput()
	if err != nil || !strings.Contains(string(out), `tag: "manylinux_2_5_x86_64"`) && !strings.Contains(string(out), "manylinux_2_17_x86_64") {
		t.Errorf("auditwheel show: %v\n%s", err, out)
	}
}

// free is an address on which nothing listens.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// serve runs a server until the test ends, and returns when it answers.
func serve(t *testing.T, address, program string, args ...string) {
	t.Helper()
	var said bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(pythontest.Tools(t), program), args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })
	for {
		select {
		case err := <-ended:
			t.Fatalf("%s: %v\n%s", program, err, &said)
		case <-time.After(50 * time.Millisecond):
		}
		if response, err := http.Get("http://" + address + "/"); err == nil {
			response.Body.Close()
			return
		}
	}
}

// pypiserver serves a folder, and returns the text of a .pypirc for it: as loop, and as locked with a wrong password.
func pypiserver(t *testing.T, packages string) string {
	t.Helper()
	if err := os.MkdirAll(packages, 0o755); err != nil {
		t.Fatal(err)
	}
	passwords := filepath.Join(t.TempDir(), "htpasswd") // of "uploader" and "secret"
	if err := os.WriteFile(passwords, []byte("uploader:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := free(t)
	_, port, _ := strings.Cut(address, ":")
	serve(t, address, "pypi-server", "run", "--interface", "127.0.0.1", "--port", port, "--authenticate", "update", "--passwords", passwords, packages)
	return fmt.Sprintf(`[distutils]
index-servers = loop locked devpi

[loop]
repository = http://%[1]s/
username = uploader
password = secret

[locked]
repository = http://%[1]s/
username = uploader
password = guess
`, address)
}

// indexCommands are the scripts' commands for package indexes:
//
//	index FOLDER  has pypiserver serve a folder, and writes pypirc
//	devpi         starts a devpi-server with an index, adds it to pypirc, and sets DEVPI to its address
func indexCommands(t *testing.T) map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"index": func(ts *testscript.TestScript, _ bool, args []string) {
			ts.Check(os.WriteFile(ts.MkAbs("pypirc"), []byte(pypiserver(t, ts.MkAbs(args[0]))), 0o600))
		},
		"devpi": func(ts *testscript.TestScript, _ bool, _ []string) {
			state, address := ts.MkAbs(".devpi"), free(t)
			host, port, _ := strings.Cut(address, ":")
			ts.Check(ts.Exec("devpi-init", "--serverdir", state, "--no-root-pypi"))
			serve(t, address, "devpi-server", "--serverdir", state, "--host", host, "--port", port, "--offline-mode")
			for _, args := range [][]string{
				{"use", "http://" + address}, {"login", "root", "--password="}, {"index", "--create", "root/dev", "bases="},
			} {
				ts.Check(ts.Exec("devpi", append(args, "--clientdir", ts.MkAbs(".devpi-client"))...))
			}
			ts.Setenv("DEVPI", "http://"+address+"/root/dev")
			f, err := os.OpenFile(ts.MkAbs("pypirc"), os.O_APPEND|os.O_WRONLY, 0)
			ts.Check(err)
			_, err = fmt.Fprintf(f, "\n[devpi]\nrepository = http://%s/root/dev/\nusername = root\npassword =\n", address)
			ts.Check(errors.Join(err, f.Close()))
		},
	}
}

// However far the command got when it was killed, the same command completes it.
func testKilledPublish(t *testing.T, m pypiMade) {
	dir := t.TempDir()
	packages := filepath.Join(dir, "packages")
	config := filepath.Join(dir, "pypirc")
	if err := os.WriteFile(config, []byte(pypiserver(t, packages)), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"publish", "pypi", string(m.dist()), "--public-key", filepath.Join(m.dir, "key.pub"), "--repository", "loop", "--config-file", config, "--cache", filepath.Join(m.cache, "llcuda")}
	names := wheelNames(t)
	for _, there := range []int{0, 1} { // killed when so many files have arrived
		for _, name := range names {
			if err := os.Remove(filepath.Join(packages, name)); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
		cmd := exec.Command("ci", args...)
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		buffer := make([]byte, 4096)
		for bytes.Count(said.Bytes(), []byte("upload ")) <= there {
			n, err := stderr.Read(buffer)
			said.Write(buffer[:n])
			if err != nil {
				t.Fatalf("it ended by itself: %v\n%s", err, &said)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		m.ci(t, args...)
		for _, name := range names {
			if !bytes.Equal(read(t, filepath.Join(packages, name)), read(t, m.dist().Path(name))) {
				t.Errorf("killed with %d files there: %s is not the one of the release", there, name)
			}
		}
	}
}
