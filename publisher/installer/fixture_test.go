package installer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/waqasm86/llcuda-farm/manifests"
)

const tag = "v1.1.0-runtime"

// A bench is a release folder with install.sh in it, and a machine to install on.
type bench struct {
	t       *testing.T
	release string // the folder
	script  string
	home    string
	path    []string // folders with programs, in order
	shell   []string
	mirror  string
}

// shells are those that the script must run in: Debian's, and that of small systems with nothing but busybox.
var shells = map[string][]string{
	"dash":    {"dash"},
	"busybox": {"busybox", "sh"},
	"bash":    {"bash", "--posix"},
}

func newBench(t *testing.T, shell string) *bench {
	t.Helper()
	b := &bench{t: t, release: t.TempDir(), home: t.TempDir(), shell: shells[shell]}
	for _, arch := range Architectures() {
		probe := ""
		if arch == "amd64" { // as the farm packs them
			probe = "#!/bin/sh\necho probe\n"
		}
		b.write(filepath.Join(b.release, Archive(arch)), pack(t, "#!/bin/sh\necho llcuda-fetch version "+tag+" for "+arch+"\n", probe))
	}
	root, err := os.OpenRoot(b.release)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	script, err := Script(tag, root)
	if err != nil {
		t.Fatal(err)
	}
	b.script = filepath.Join(b.release, manifests.InstallerName)
	b.write(b.script, script)
	if shell != "busybox" {
		b.path = filepath.SplitList(os.Getenv("PATH"))
		return b
	}
	b.path = []string{b.tools("busybox", "sh", "tar", "gzip", "mktemp", "cut", "sed", "sha256sum", "wget", "cp", "mkdir", "mv", "rm", "chmod", "cat", "uname")}
	return b
}

// tools makes a folder with nothing but these programs in it, which are all links to one, or, where that is empty, to
// those of the same name.
func (b *bench) tools(program string, names ...string) string {
	b.t.Helper()
	dir := b.t.TempDir()
	for _, name := range names {
		from := name
		if program != "" {
			from = program
		}
		path, err := exec.LookPath(from)
		if err != nil {
			b.t.Fatalf("%v: make test installs what the tests need", err)
		}
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			b.t.Fatal(err)
		}
	}
	return dir
}

func (b *bench) write(path string, data []byte) {
	b.t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func pack(t *testing.T, program, probe string) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	for _, file := range []struct {
		name, body string
		mode       int64
	}{{"LICENSE", "MIT\n", 0o644}, {"completions/llcuda-fetch.bash", "#\n", 0o644}, {Probe, probe, 0o755}, {Program, program, 0o755}} {
		if file.body == "" {
			continue
		}
		if err := w.WriteHeader(&tar.Header{Name: file.name, Mode: file.mode, Size: int64(len(file.body)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(file.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// command is the script as a user runs it, with these arguments and variables.
func (b *bench) command(args []string, environ ...string) *exec.Cmd {
	program, err := exec.LookPath(b.shell[0])
	if err != nil {
		b.t.Fatalf("%v: make test installs what the tests need", err)
	}
	cmd := exec.Command(program, append(append(b.shell[1:len(b.shell):len(b.shell)], b.script), args...)...)
	cmd.Env = append([]string{"HOME=" + b.home, "PATH=" + strings.Join(b.path, ":"), "LLCUDA_MIRROR=" + b.mirror, "LC_ALL=C"}, environ...)
	return cmd
}

// run wants an exit code and a text in what the script says.
func (b *bench) run(code int, want string, args []string, environ ...string) string {
	b.t.Helper()
	out, _ := b.check(b.command(args, environ...), code, want)
	return out
}

func (b *bench) check(cmd *exec.Cmd, code int, want string) (string, error) {
	b.t.Helper()
	out, err := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != code || !strings.Contains(string(out), want) {
		b.t.Fatalf("exit code %d, want %d with %q:\n%s", got, code, want, out)
	}
	return string(out), err
}

// installed wants the program for an architecture in a folder, or, where that is empty, nothing at all in the home folder.
func (b *bench) installed(dir, arch string) {
	b.t.Helper()
	if arch == "" {
		_ = filepath.WalkDir(b.home, func(path string, entry os.DirEntry, err error) error {
			if err != nil || !entry.IsDir() {
				b.t.Errorf("left behind: %s %v", path, err)
			}
			return nil
		})
		return
	}
	out, err := exec.Command(filepath.Join(dir, Program), "--version").Output()
	if want := "llcuda-fetch version " + tag + " for " + arch + "\n"; err != nil || string(out) != want {
		b.t.Errorf("installed is %q, %v; want %q", out, err, want)
	}
	entries, err := os.ReadDir(dir)
	want := []string{Program, Probe}
	if arch == "arm64" {
		want = want[:1]
	}
	if err != nil || len(entries) != len(want) {
		b.t.Errorf("there lie %v, %v", entries, err)
	}
	if out, err := exec.Command(filepath.Join(dir, Probe)).Output(); len(want) > 1 && (err != nil || string(out) != "probe\n") {
		b.t.Errorf("the probe is %q, %v", out, err)
	}
}

// serve serves the release on the loopback interface and counts the requests.
func (b *bench) serve() *atomic.Int32 {
	b.t.Helper()
	var requests atomic.Int32
	files := http.FileServer(http.Dir(b.release))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		files.ServeHTTP(w, r)
	}))
	b.t.Cleanup(server.Close)
	b.mirror = server.URL
	return &requests
}

func inEachShell(t *testing.T, test func(t *testing.T, b *bench)) {
	for name := range shells {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newBench(t, name))
		})
	}
}

// as makes uname answer for another machine.
func (b *bench) as(machine, system string) {
	dir := b.t.TempDir()
	b.write(filepath.Join(dir, "uname"), []byte("#!/bin/sh\ncase $1 in -m) echo "+machine+" ;; *) echo "+system+" ;; esac\n"))
	if err := os.Chmod(filepath.Join(dir, "uname"), 0o755); err != nil {
		b.t.Fatal(err)
	}
	b.path = append([]string{dir}, b.path...)
}
