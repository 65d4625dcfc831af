package installer

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
)

func TestInstalls(t *testing.T) {
	inEachShell(t, func(t *testing.T, b *bench) {
		requests := b.serve()
		bin := filepath.Join(b.home, ".local", "bin")
		out := b.run(0, "installed "+bin+"/llcuda-fetch of release "+tag, nil)
		b.installed(bin, "amd64")
		for _, want := range []string{
			"is not in PATH: export PATH=", "Next: " + bin + "/llcuda-fetch",
			"cosign verify-blob --bundle SHA256SUMS.sigstore.json --certificate-oidc-issuer " + manifests.SignerIssuer,
			"--certificate-identity " + manifests.SignerIdentity + "@refs/tags/" + tag + " SHA256SUMS",
			"curl -fsSLO " + manifests.RepositoryURL + "/releases/download/" + tag + "/$f",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("it does not say %q:\n%s", want, out)
			}
		}
		// The second time there is nothing to do, and nothing is asked for.
		b.path = append(b.path, bin)
		if out := b.run(0, "is that of release "+tag+" already", nil); requests.Load() != 1 || !strings.Contains(out, "\nNext: llcuda-fetch\n") {
			t.Errorf("%d requests:\n%s", requests.Load(), out)
		}
		// A probe that is missing, or another one, is brought.
		for _, spoil := range []func(string) error{os.Remove, func(file string) error { return os.WriteFile(file, []byte("old"), 0o755) }} {
			if err := spoil(filepath.Join(bin, Probe)); err != nil {
				t.Fatal(err)
			}
			b.run(0, "installed", nil)
			b.installed(bin, "amd64")
		}
		// Another version is replaced.
		b.write(filepath.Join(bin, Program), []byte("old"))
		b.run(0, "installed", nil)
		b.installed(bin, "amd64")
	})
}

func TestFolders(t *testing.T) {
	inEachShell(t, func(t *testing.T, b *bench) {
		b.mirror = b.release
		b.run(0, "installed", []string{"--prefix", b.home + "/with blank"})
		b.installed(b.home+"/with blank/bin", "amd64")
		b.run(0, "installed", []string{"--prefix=" + b.home + "/a"}, "LLCUDA_BIN="+b.home+"/b")
		b.installed(b.home+"/a/bin", "amd64")
		b.run(0, "installed", nil, "LLCUDA_BIN="+b.home+"/b")
		b.installed(b.home+"/b", "amd64")
		b.run(2, "there is no home folder", nil, "HOME=")
		b.run(2, "--prefix needs a folder", []string{"--prefix"})
		b.run(2, "what is --nothing?", []string{"--nothing"})
		b.run(0, "usage: sh install.sh", []string{"--help"})
		b.write(b.home+"/file", nil)
		b.run(1, "cannot be made", []string{"--prefix", b.home + "/file"})
	})
}

// Whatever is in the way of the program stays as it is, and nothing is put into it.
func TestInTheWay(t *testing.T) {
	inEachShell(t, func(t *testing.T, b *bench) {
		b.mirror = b.release
		elsewhere := t.TempDir()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		for name, put := range map[string]func(path string) error{
			"folder":           func(path string) error { return os.Mkdir(path, 0o755) },
			"link to a folder": func(path string) error { return os.Symlink(elsewhere, path) },
			"pipe":             func(path string) error { return syscall.Mkfifo(path, 0o644) },
		} {
			bin := filepath.Join(b.home, name, "bin")
			must(os.MkdirAll(bin, 0o755))
			must(put(filepath.Join(bin, Program)))
			if out := b.run(1, "is there and is not a file; nothing was installed", []string{"--prefix", filepath.Dir(bin)}); !strings.Contains(out, "\nhint: ") {
				t.Errorf("%s: no hint:\n%s", name, out)
			}
			for _, dir := range []string{elsewhere, bin, filepath.Join(bin, Program)} {
				if left, err := os.ReadDir(dir); err == nil && len(left) > 0 && (dir != bin || len(left) > 1) {
					t.Errorf("%s: in %s is %v", name, dir, left)
				}
			}
		}

		// A link to a file is replaced, and the file stays.
		bin := filepath.Join(b.home, "linked", "bin")
		must(os.MkdirAll(bin, 0o755))
		b.write(filepath.Join(elsewhere, "file"), []byte("theirs"))
		for _, target := range []string{"file", "nothing"} {
			_ = os.Remove(filepath.Join(bin, Program))
			must(os.Symlink(filepath.Join(elsewhere, target), filepath.Join(bin, Program)))
			b.run(0, "installed", []string{"--prefix", filepath.Dir(bin)})
			b.installed(bin, "amd64")
		}
		if data, err := os.ReadFile(filepath.Join(elsewhere, "file")); err != nil || string(data) != "theirs" {
			t.Errorf("the file behind the link is %q, %v", data, err)
		}
		if _, err := os.Lstat(filepath.Join(elsewhere, "nothing")); err == nil {
			t.Error("the program went through the link")
		}

		must(os.MkdirAll(filepath.Join(b.home, "file"), 0o755))
		b.write(filepath.Join(b.home, "file", "bin"), []byte("theirs"))
		b.run(1, "cannot be made", []string{"--prefix", filepath.Join(b.home, "file")})
		b.run(1, "cannot be written to", nil, "LLCUDA_BIN=/proc")
	})
}

// Folder names that shells leave unexpanded, or that cd would take for something else.
func TestOddFolders(t *testing.T) {
	inEachShell(t, func(t *testing.T, b *bench) {
		b.mirror = b.release
		b.run(0, "installed "+b.home+"/tilde/bin/llcuda-fetch", []string{"--prefix=~/tilde"})
		b.installed(b.home+"/tilde/bin", "amd64")
		b.run(0, "installed "+b.home+"/variable/llcuda-fetch", nil, "LLCUDA_BIN=~/variable")
		b.run(2, "there is no home folder", []string{"--prefix", "~/tilde"}, "HOME=")
		for _, prefix := range []string{"-", "relative", "--help"} {
			cmd := b.command([]string{"--prefix", prefix}, "CDPATH="+b.home+"/elsewhere")
			cmd.Dir = b.home
			if err := os.MkdirAll(filepath.Join(b.home, "elsewhere", prefix, "bin"), 0o755); err != nil {
				t.Fatal(err)
			}
			b.check(cmd, 0, "\ninstalled "+filepath.Join(b.home, prefix, "bin", Program)+" of release")
			b.installed(filepath.Join(b.home, prefix, "bin"), "amd64")
		}
		b.run(0, "Next: \""+b.home+"/a blank/bin/llcuda-fetch\"\n", []string{"--prefix", b.home + "/a blank"})
	})
}

func TestArchitectures(t *testing.T) {
	inEachShell(t, func(t *testing.T, b *bench) {
		b.mirror = b.release
		for machine, arch := range map[string]string{"aarch64": "arm64", "arm64": "arm64", "x86_64": "amd64", "amd64": "amd64"} {
			b.as(machine, "Linux")
			b.run(0, "installed", []string{"--prefix", b.home + "/" + machine})
			b.installed(b.home+"/"+machine+"/bin", arch)
		}
		b.as("riscv64", "Linux")
		b.run(1, "this is riscv64", []string{"--prefix", b.home + "/none"})
		b.as("x86_64", "Darwin")
		b.run(1, "this is Darwin", []string{"--prefix", b.home + "/none"})
		if _, err := os.Stat(b.home + "/none"); err == nil {
			t.Error("something was made")
		}
	})
}

// Whatever is wrong with what comes, nothing is installed, and what was there stays.
func TestRefuses(t *testing.T) {
	inEachShell(t, func(t *testing.T, b *bench) {
		requests := b.serve()
		good, err := os.ReadFile(filepath.Join(b.release, Archive("amd64")))
		if err != nil {
			t.Fatal(err)
		}
		for name, archive := range map[string][]byte{
			"another archive": pack(t, "#!/bin/sh\ntouch "+b.home+"/evil\n", ""),
			"half of it":      good[:len(good)/2],
			"nothing":         nil,
		} {
			b.write(filepath.Join(b.release, Archive("amd64")), archive)
			if out := b.run(3, "nothing was installed", nil); !strings.Contains(out, "hint: ") {
				t.Errorf("%s:\n%s", name, out)
			}
			b.installed("", "")
		}
		if err := os.Remove(filepath.Join(b.release, Archive("amd64"))); err != nil {
			t.Fatal(err)
		}
		b.run(6, "no address gave llcuda-fetch-linux-amd64.tar.gz; nothing was installed", nil)
		b.installed("", "")
		if requests.Load() < 4 {
			t.Errorf("%d requests", requests.Load())
		}

		// Offline.
		b.mirror = "http://127.0.0.1:1"
		b.run(6, "LLCUDA_MIRROR", nil)
		b.installed("", "")

		// A good mirror after a bad one.
		b.write(filepath.Join(b.release, Archive("amd64")), good)
		bad := t.TempDir()
		b.write(filepath.Join(bad, Archive("amd64")), good[1:])
		b.mirror = bad + " " + b.release
		b.run(0, "has sha256", nil)
		b.installed(filepath.Join(b.home, ".local", "bin"), "amd64")
		b.write(filepath.Join(b.home, ".local", "bin", Program), []byte("#!/bin/sh\necho llcuda-fetch version "+tag+" for old\n"))
		if err := os.Chmod(filepath.Join(b.home, ".local", "bin", Program), 0o755); err != nil {
			t.Fatal(err)
		}
		b.mirror = bad
		b.run(3, "nothing was installed", nil)
		b.installed(filepath.Join(b.home, ".local", "bin"), "old")
	})
}

func TestMissingTools(t *testing.T) {
	b := newBench(t, "dash")
	b.mirror = b.release
	all := []string{"tar", "gzip", "mktemp", "cut", "sed", "sha256sum", "cp", "mkdir", "mv", "rm", "chmod", "cat", "uname"}
	without := func(name string) {
		var left []string
		for _, tool := range all {
			if tool != name {
				left = append(left, tool)
			}
		}
		b.path = []string{b.tools("", left...)}
	}
	for _, tool := range []string{"tar", "gzip", "mktemp", "cut", "sed"} {
		without(tool)
		b.run(1, "there is no "+tool, nil)
		b.installed("", "")
	}
	without("sha256sum")
	b.run(1, "there is no sha256sum, shasum or openssl", nil)
	b.installed("", "")
	without("")
	b.run(1, "there is no curl or wget", nil, "LLCUDA_MIRROR=http://127.0.0.1:1")
	b.installed("", "")

	// Each of those that do the same will do.
	b.serve()
	for _, hasher := range []string{"shasum", "openssl"} {
		for _, getter := range []string{"curl", "wget"} {
			without("sha256sum")
			b.path = append(b.path, b.tools("", hasher, getter, "perl", "env"))
			b.run(0, "installed", []string{"--prefix", b.home + "/" + hasher + getter})
			b.installed(b.home+"/"+hasher+getter+"/bin", "amd64")
		}
	}
}

// However much of the script arrives through a pipe, it does all or nothing.
func TestHalfAScript(t *testing.T) {
	b := newBench(t, "dash")
	b.mirror = b.release
	script, err := os.ReadFile(b.script)
	if err != nil {
		t.Fatal(err)
	}
	whole := bytes.TrimRight(script, "\n")
	step := 1
	for length := len(whole) - 1; length > 0; length -= step {
		if length < len(whole)-60 {
			step = 97 // by the letter at its end, where it begins to act
		}
		cmd := b.command(nil)
		cmd.Args = cmd.Args[:1]
		cmd.Stdin = bytes.NewReader(whole[:length])
		_ = cmd.Run()
		b.installed("", "")
	}
	cmd := b.command(nil)
	cmd.Args = cmd.Args[:1]
	cmd.Stdin = bytes.NewReader(whole)
	b.check(cmd, 0, "installed")
	b.installed(filepath.Join(b.home, ".local", "bin"), "amd64")
}

// An interrupted script leaves nothing, and the next run installs.
func TestInterrupted(t *testing.T) {
	inEachShell(t, func(t *testing.T, b *bench) {
		asked := make(chan struct{}, 1)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte("half"))
			w.(http.Flusher).Flush()
			asked <- struct{}{}
			<-r.Context().Done()
		}))
		t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
		b.mirror = server.URL
		cmd := b.command(nil)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C reaches curl, too
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-asked:
		case <-time.After(time.Minute):
			t.Error("it downloads nothing")
		}
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 130 {
			t.Errorf("exit code %d:\n%s", code, out.String())
		}
		b.installed("", "")
		b.mirror = b.release
		b.run(0, "installed", nil)
		b.installed(filepath.Join(b.home, ".local", "bin"), "amd64")
	})
}

// What could mean something to a shell never gets into the script.
func TestScriptRefuses(t *testing.T) {
	b := newBench(t, "dash")
	root, err := os.OpenRoot(b.release)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, release := range []string{"", "v1'; touch /tmp/evil; '", "v1 v2", "$(id)", "v1\nv2"} {
		if script, err := Script(release, root); err == nil {
			t.Errorf("%q gives a script:\n%s", release, script)
		}
	}
	script, err := Script(tag, root)
	if err != nil || bytes.Contains(script, []byte("='@")) {
		t.Errorf("%v:\n%s", err, script)
	}
	b.write(filepath.Join(b.release, Archive("arm64")), []byte("no archive"))
	if _, err := Script(tag, root); err == nil || !strings.Contains(err.Error(), "llcuda-fetch-linux-arm64.tar.gz") {
		t.Errorf("a broken archive gives %v", err)
	}
}
