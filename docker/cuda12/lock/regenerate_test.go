package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ulikunitz/xz"

	"github.com/waqasm86/llcuda-farm/docker/cuda12"
	"github.com/waqasm86/llcuda-farm/publisher/pypi"
)

const nodeTarball = "a node binary"

// newMirrors serves a Debian mirror and an npm registry that promises the
// given integrity for its one package.
func newMirrors(t *testing.T, integrity string) mirrors {
	sum := hex.EncodeToString(bytes.Repeat([]byte{7}, sha256.Size))
	with := func(name string, fields ...string) string {
		return strings.Replace(stanza(name, fields...), "SHA256: 00", "SHA256: "+sum, 1)
	}
	indexes := map[string]string{
		"/dists/bookworm/main/binary-amd64/Packages.xz": with("dpkg", "Essential: yes", "Depends: libc6") + with("libc6") + with("passwd", "Priority: required") +
			with("apt") + with("g++", "Depends: gcc, libc6") + with("gcc") + with("vim"),
		"/dists/bullseye/main/binary-amd64/Packages.xz":   strings.ReplaceAll(with("libc6", "Depends: libcrypt1"), "pool/", "pool/old/"),
		"/dists/trixie/main/binary-amd64/Packages.xz":     with("libcub-dev"),
		"/dists/trixie/non-free/binary-amd64/Packages.xz": with("nvidia-cuda-toolkit", "Depends: libc6 (>= 99)"),
	}
	mux := http.NewServeMux()
	for path, plain := range indexes {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			packed, err := xz.NewWriter(w)
			if err != nil {
				t.Error(err)
				return
			}
			packed.Write([]byte(plain))
			packed.Close()
		})
	}
	mux.HandleFunc("GET /node/22.1.0", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"dist":{"integrity":%q,"tarball":"http://%s/node/-/node-22.1.0.tgz"}}`, integrity, r.Host)
	})
	mux.HandleFunc("GET /node/-/node-22.1.0.tgz", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(nodeTarball)) })
	// As of the Python Package Index: a wheel for each platform, and other versions.
	mux.HandleFunc("GET /simple/nvidia-nvvm/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.pypi.simple.v1+json")
		var files []string
		for i, name := range []string{
			"nvidia_nvvm-13.3.7-py3-none-manylinux2014_x86_64.whl", "nvidia_nvvm-13.3.73-py3-none-manylinux2014_aarch64.whl",
			"nvidia_nvvm-13.3.73-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl", "nvidia_nvvm-13.3.73-py3-none-win_amd64.whl",
			"nvidia_nvvm-13.3.74-py3-none-manylinux2014_x86_64.whl", "nvidia_nvvm-13.3.74-py3-none-manylinux_2_27_x86_64.whl",
			"nvidia_nvvm-13.3.75-py3-none-manylinux2014_x86_64.whl",
		} {
			size, path := fmt.Sprintf(`"size":%d,`, 100+i), fmt.Sprintf("packages/%02d/cd/%060d/", i, i)
			if strings.Contains(name, "13.3.75") {
				size = ""
			}
			files = append(files, fmt.Sprintf(`{"filename":%q,%s"url":"http://%s/%s%s","hashes":{"sha256":%q}}`, name, size, r.Host, path, name, sum))
		}
		fmt.Fprintf(w, `{"files":[%s]}`, strings.Join(files, ","))
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return mirrors{debian: server.URL, npm: server.URL, pypi: pypi.Index{URL: server.URL + "/simple"}}
}

func nodeIntegrity() string {
	sum := sha512.Sum512([]byte(nodeTarball))
	return "sha512-" + base64.StdEncoding.EncodeToString(sum[:])
}

const wishesText = `# what is wanted
base apt
deb g++
cuda libcub-dev
cuda nvidia-cuda-toolkit
pypi nvidia-nvvm==13.3.73
link libc6
npm node@22.1.0
`

func TestRegenerate(t *testing.T) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "packages.in"), filepath.Join(dir, "packages.lock")
	if err := os.WriteFile(in, []byte(wishesText), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := regenerate(t.Context(), in, out, "", newMirrors(t, nodeIntegrity())); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	lock, err := cuda12.ParseLock(text)
	if err != nil {
		t.Fatal(err)
	}
	if at, err := time.Parse("20060102T150405Z", cuda12.Snapshot(text)); err != nil || time.Since(at) < 0 || time.Since(at) > time.Minute {
		t.Errorf("the lock is of %q, %v", cuda12.Snapshot(text), err)
	}
	var got []string
	for _, p := range lock {
		got = append(got, string(p.Kind)+" "+p.Name+" "+p.Path)
	}
	want := []string{
		"base apt pool/apt.deb", "base dpkg pool/dpkg.deb", "base libc6 pool/libc6.deb", "base passwd pool/passwd.deb",
		"deb g++ pool/g++.deb", "deb gcc pool/gcc.deb",
		"cuda libcub-dev pool/libcub-dev.deb", "cuda nvidia-cuda-toolkit pool/nvidia-cuda-toolkit.deb",
		"link libc6 pool/old/libc6.deb",
		"pypi nvidia-nvvm packages/02/cd/" + strings.Repeat("0", 59) + "2/nvidia_nvvm-13.3.73-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl",
		"npm node node/-/node-22.1.0.tgz",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lock (-want +got):\n%s", diff)
	}
	if wheel := lock.Of(cuda12.PyPI)[0]; wheel.Version != "13.3.73" || wheel.Size != 102 || wheel.SHA256 != strings.Repeat("07", sha256.Size) {
		t.Errorf("the wheel's line is %s", wheel)
	}
	sum := sha256.Sum256([]byte(nodeTarball))
	if last := lock[len(lock)-1]; last.SHA256 != hex.EncodeToString(sum[:]) || last.Size != int64(len(nodeTarball)) {
		t.Errorf("npm line %s does not name the tarball", last)
	}
}

func TestRegenerateFaults(t *testing.T) {
	for name, test := range map[string]struct{ wishes, integrity, words string }{
		"tarball is not what the registry promises": {wishesText, "sha512-AAAA", "the registry says sha512-AAAA"},
		"no such npm version":                       {"npm node@9.9.9\n", nodeIntegrity(), "404"},
		"npm without a version":                     {"npm node\n", nodeIntegrity(), "want NAME@VERSION"},
		"no such CUDA package":                      {"cuda vim\n", nodeIntegrity(), "resolving vim: not in trixie"},
		"wheel without a version":                   {"pypi nvidia-nvvm@13.3.73\n", nodeIntegrity(), "want NAME==VERSION"},
		"no such wheel":                             {"pypi nvidia-nvvm==13.3\n", nodeIntegrity(), "has 0 wheels of it for Linux on x86-64"},
		"no such project":                           {"pypi nvidia-cublas==13.6.0.2\n", nodeIntegrity(), "has 0 wheels of it"},
		"two wheels":                                {"pypi nvidia-nvvm==13.3.74\n", nodeIntegrity(), "has 2 wheels of it"},
		"no size":                                   {"pypi nvidia-nvvm==13.3.75\n", nodeIntegrity(), "states no size"},
		"no such package to link against":           {"link vim\n", nodeIntegrity(), "resolving vim: not in bullseye"},
		"unknown kind":                              {"rpm vim\n", nodeIntegrity(), `unknown kind "rpm"`},
		"a kind alone":                              {"deb\n", nodeIntegrity(), "line 1: want a kind and a name"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			in, out := filepath.Join(dir, "packages.in"), filepath.Join(dir, "packages.lock")
			if err := os.WriteFile(in, []byte(test.wishes), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(out, []byte("the lock before"), 0o644); err != nil {
				t.Fatal(err)
			}
			err := regenerate(t.Context(), in, out, "", newMirrors(t, test.integrity))
			if err == nil || !strings.Contains(err.Error(), test.words) {
				t.Errorf("error is %v, want one with %q", err, test.words)
			}
			if after, err := os.ReadFile(out); err != nil || string(after) != "the lock before" {
				t.Errorf("the lock was touched: %q, %v", after, err)
			}
		})
	}
}

// A list beside a lock has what that lack, and asks for nothing that it does not name.
func TestRegenerateBeside(t *testing.T) {
	dir := t.TempDir()
	in, out, beside := filepath.Join(dir, "packages.in"), filepath.Join(dir, "packages.lock"), filepath.Join(dir, "other.lock")
	sum := strings.Repeat("07", sha256.Size)
	there := "base dpkg 1 pool/dpkg.deb 1 " + sum + "\nbase libc6 1 pool/libc6.deb 1 " + sum + "\nbase passwd 1 pool/passwd.deb 1 " + sum + "\ndeb gcc 1 pool/gcc.deb 1 " + sum + "\n"
	for name, text := range map[string]string{in: "deb g++\ndeb vim\n", beside: there} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := regenerate(t.Context(), in, out, beside, newMirrors(t, nodeIntegrity())); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	lock, err := cuda12.ParseLock(text)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range lock {
		names = append(names, string(p.Kind)+" "+p.Name)
	}
	if diff := cmp.Diff([]string{"deb g++", "deb vim"}, names); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
	if err := regenerate(t.Context(), in, out, filepath.Join(dir, "missing"), newMirrors(t, nodeIntegrity())); err == nil {
		t.Error("a lock that is not there was read")
	}
}
