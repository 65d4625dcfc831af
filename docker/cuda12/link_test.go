package cuda12

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What install.sh's hold makes of a library decides what the linker takes from it: the newest version that the floors
// allow, and nothing of a newer one.
func TestHold(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	gcc := func(args ...string) (string, error) {
		out, err := exec.Command("gcc", append([]string{"-fPIC"}, args...)...).CombinedOutput()
		return string(out), err
	}
	library := filepath.Join(dir, "libold.so")
	source := write("old.c", `
#define VERSION(function, version) __asm__(".symver " #function ", " version); int function(void) { return 0; }
VERSION(power1, "power@GLIBC_2.2.5") VERSION(power2, "power@GLIBC_2.17") VERSION(power3, "power@@GLIBC_2.29")
VERSION(wait1, "wait@GLIBCXX_3.4.11") VERSION(wait2, "wait@@GLIBCXX_3.4.30")
VERSION(plain1, "plain@@GLIBC_2.28")
VERSION(gone1, "gone@GLIBC_2.2.5")
VERSION(fresh1, "fresh@@GLIBC_2.31") VERSION(thrown1, "thrown@@CXXABI_1.3.12") VERSION(held1, "held@@CXXABI_1.3.11")
VERSION(own1, "own@@GLIBC_PRIVATE")
`)
	script := write("old.map", `GLIBC_2.2.5 {}; GLIBC_2.17 {}; GLIBC_2.28 {}; GLIBC_2.29 {}; GLIBC_2.31 {}; GLIBC_PRIVATE {};
GLIBCXX_3.4.11 {}; GLIBCXX_3.4.30 {}; CXXABI_1.3.11 {}; CXXABI_1.3.12 { local: *; };
`)
	if out, err := gcc("-shared", "-nostdlib", "-Wl,-soname,libold.so", "-Wl,--version-script="+script, "-o", library, source); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	hold := exec.Command("bash", "-euc", string(regexp.MustCompile(`(?ms)^hold\(\) \{$.*?^PERL$\n\}`).Find(InstallScript))+"\nhold \"$1\"", "hold", library)
	if out, err := hold.CombinedOutput(); err != nil {
		t.Fatalf("hold: %v\n%s", err, out)
	}
	got := map[string]string{}
	for _, name := range []string{"power", "wait", "plain", "gone", "fresh", "thrown", "held", "own"} {
		user := filepath.Join(dir, name)
		out, err := gcc("-shared", "-nostdlib", "-Wl,-z,defs", "-o", user, write(name+".c", "int "+name+"(void); int use(void) { return "+name+"(); }"), library)
		if err != nil {
			if !strings.Contains(out, "undefined reference to `"+name) {
				t.Errorf("linking against %s: %v\n%s", name, err, out)
			}
			got[name] = "none"
			continue
		}
		symbols, err := exec.Command("readelf", "--dyn-syms", "--wide", user).Output()
		if err != nil {
			t.Fatal(err)
		}
		fields := strings.Fields(string(symbols))
		at := slices.IndexFunc(fields, func(field string) bool { return strings.HasPrefix(field, name+"@") })
		if at < 0 {
			t.Fatalf("%s is no symbol of its user:\n%s", name, symbols)
		}
		got[name] = fields[at]
	}
	want := map[string]string{
		"power": "power@GLIBC_2.17", "wait": "wait@GLIBCXX_3.4.11", "plain": "plain@GLIBC_2.28", "held": "held@CXXABI_1.3.11", "own": "own@GLIBC_PRIVATE",
		"fresh": "none", "thrown": "none",
		"gone": "none", // the library lets nobody link against it any more
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what the linker takes (-want +got):\n%s", diff)
	}
}

// The toolchain's digest, on which compiler caches key, is of what decides an object file.
func TestToolchain(t *testing.T) {
	command := regexp.MustCompile(`(?ms)^awk '\$1 == "cuda".*?>/etc/llcuda/toolchain$`).FindString(string(InstallScript))
	command = strings.TrimSuffix(command, ">/etc/llcuda/toolchain")
	all, err := DefaultLock()
	if err != nil {
		t.Fatal(err)
	}
	digest := func(lock Lock) string {
		path := filepath.Join(t.TempDir(), "packages.lock")
		if err := os.WriteFile(path, lock.Encode(), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("bash", "-euo", "pipefail", "-c", "lock=$1\n"+command, "digest", path).Output()
		if err != nil || len(out) != len(someSHA)+1 {
			t.Fatalf("%s: %q, %v", command, out, err)
		}
		return string(out)
	}
	whole := digest(all)
	for i, p := range all {
		newer := slices.Clone(all)
		newer[i].Version += "+1"
		decides := p.Kind == CUDA || p.Kind == Deb && (p.Name == "g++-12" || p.Name == "libstdc++-12-dev" || p.Name == "libc6-dev")
		without := p.Kind == Link || p.Kind == NPM || p.Name == "cmake" || p.Name == "ccache"
		if changes := digest(newer) != whole; decides && !changes || without && changes {
			t.Errorf("a newer %s changes the digest: %t", p, changes)
		}
	}
}
