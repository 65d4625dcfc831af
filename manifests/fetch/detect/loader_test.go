package detect

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The C and C++ libraries that programs get: of LD_LIBRARY_PATH, of the system, and on NixOS of
// nix-ld, whose loader has its own C library beside it.
func TestCLibraries(t *testing.T) {
	const nix = "/run/current-system/sw/share/nix-ld/lib"
	multiarch := "/usr/lib/" + triplets[runtime.GOARCH]
	for name, test := range map[string]struct {
		env            []string
		at             map[string]string // library → newest version
		links          map[string]string
		glibc, glibcxx string
		libstdcxx      string
	}{
		"none":         {},
		"the system's": {at: map[string]string{multiarch + "/libc.so.6": "GLIBC_2.35", multiarch + "/libstdc++.so.6": "GLIBCXX_3.4.30"}, glibc: "2.35", glibcxx: "3.4.30"},
		"an older one in the way": {env: []string{"LD_LIBRARY_PATH", "/empty:/opt/old"},
			at:    map[string]string{multiarch + "/libc.so.6": "GLIBC_2.35", multiarch + "/libstdc++.so.6": "GLIBCXX_3.4.30", "/opt/old/libstdc++.so.6": "GLIBCXX_3.4.22"},
			glibc: "2.35", glibcxx: "3.4.22", libstdcxx: "/opt/old/libstdc++.so.6"},
		"NixOS without nix-ld": {at: map[string]string{"/nix/store/x-glibc/lib/libc.so.6": "GLIBC_2.40"}},
		"NixOS with nix-ld": {at: map[string]string{"/nix/store/x-glibc/lib/libc.so.6": "GLIBC_2.40", nix + "/libstdc++.so.6": "GLIBCXX_3.4.33"},
			links: map[string]string{nix + "/ld.so": "/nix/store/x-glibc/lib/ld-linux-x86-64.so.2"}, glibc: "2.40", glibcxx: "3.4.33"},
		"nix-ld by its variables": {env: []string{"NIX_LD", "/nix/store/x-glibc/lib/ld-linux-x86-64.so.2", "NIX_LD_LIBRARY_PATH", "/nix/store/gcc/lib"},
			at: map[string]string{"/nix/store/x-glibc/lib/libc.so.6": "GLIBC_2.40", "/nix/store/gcc/lib/libstdc++.so.6": "GLIBCXX_3.4.33"}, glibc: "2.40", glibcxx: "3.4.33"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for path, version := range test.at {
				versioned(t, filepath.Join(dir, path), version)
				loader := filepath.Join(dir, filepath.Dir(path), "ld-linux-x86-64.so.2")
				if err := os.WriteFile(loader, nil, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for name, target := range test.links {
				if err := os.Symlink(filepath.Join(dir, target), filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			host := detect(t, dir, test.env...).Host
			if host.Glibc != test.glibc || host.GLIBCXX != test.glibcxx || host.LibStdCXX != test.libstdcxx {
				t.Errorf("glibc %q, GLIBCXX %q from %q", host.Glibc, host.GLIBCXX, host.LibStdCXX)
			}
		})
	}
}

// versioned compiles a shared library that defines a version.
func versioned(t *testing.T, path, version string) {
	t.Helper()
	script := filepath.Join(t.TempDir(), "version")
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(script, []byte(version+" { answer; };\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("gcc", "-shared", "-nostdlib", "-o", path, "-Wl,--version-script="+script, "-Wl,-soname,"+filepath.Base(path), "-x", "c", "-")
	cmd.Stdin = strings.NewReader("int answer(void) { return 42; }\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
}

// The loader's cache, as the real ldconfig writes it, leads to folders that could not be guessed.
func TestLoaderCache(t *testing.T) {
	ldconfig, err := exec.LookPath("ldconfig")
	if err != nil {
		ldconfig = "/sbin/ldconfig"
	}
	for _, format := range []string{"new", "compat"} {
		dir := root(t, map[string]string{"etc/ld.so.conf": "/opt/somewhere\n"})
		libraries(t, dir, "/opt/somewhere")
		if out, err := exec.Command(ldconfig, "-c", format, "-r", dir).CombinedOutput(); err != nil {
			t.Fatalf("ldconfig: %v\n%s", err, out)
		}
		if diff := cmp.Diff(wholeRuntime("loader", "/opt/somewhere"), found(detect(t, dir), dir)); diff != "" {
			t.Errorf("%s: %s", format, diff)
		}
	}
}

// A damaged cache is one more source that gave nothing.
func FuzzLoaderCache(f *testing.F) {
	real, err := os.ReadFile("/etc/ld.so.cache")
	if err == nil {
		f.Add(real[:min(len(real), 4096)])
	}
	f.Add([]byte("glibc-ld.so.cache1.1\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		Detector{Root: root(t, map[string]string{"etc/ld.so.cache": string(data)})}.loaderCache()
	})
}
