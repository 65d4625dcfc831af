package builtin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestNew(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", "/cache")
	e, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := Options{
		Name:      "default",
		StateDir:  "/cache/llcuda/engine/instances/default",
		BinaryDir: "/cache/llcuda/engine/binaries",
		DiskLimit: 60e9,
	}
	if diff := cmp.Diff(want, e.opts); diff != "" {
		t.Errorf("the defaults (-want +got):\n%s", diff)
	}
	for _, opts := range []Options{
		{Name: "Upper"}, {Name: "a/b"}, {Name: "-a"}, {Name: strings.Repeat("a", 33)}, {DiskLimit: -1},
	} {
		if _, err := New(opts); err == nil {
			t.Errorf("New(%+v) succeeded", opts)
		}
	}
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("HOME", "")
	_, err = New(Options{})
	var noFolder *CacheFolderError
	if !errors.As(err, &noFolder) || !strings.Contains(noFolder.Hint(), "XDG_CACHE_HOME") {
		t.Errorf("without HOME: %v, want an error with a hint at XDG_CACHE_HOME", err)
	}
	if _, err := New(Options{StateDir: "/state", BinaryDir: "/binaries"}); err != nil {
		t.Errorf("without HOME, but with both folders: %v", err)
	}
}

// What a cache folder's file system must be able to do is tried, or read, where it is mounted.
func TestFileSystemOfTheState(t *testing.T) {
	mount := func(kind, options string, flags uintptr) string {
		dir := t.TempDir()
		if err := unix.Mount(kind, dir, kind, flags, options); err != nil {
			t.Fatalf("mounting a %s: %v", kind, err)
		}
		t.Cleanup(func() { unix.Unmount(dir, 0) })
		return dir
	}
	layers := mount("tmpfs", "size=1m", 0)
	for _, name := range []string{"lower", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(layers, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	overlay := mount("overlay", fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", layers), 0)
	for _, test := range []struct {
		name, dir         string
		programs, overlay bool
	}{
		{"plain", layers, true, true},
		{"noexec", mount("tmpfs", "size=1m", unix.MS_NOEXEC), false, true},
		{"an overlay", overlay, true, false},
	} {
		if runs, err := allowsPrograms(test.dir); err != nil || runs != test.programs {
			t.Errorf("%s: programs run: %v, %v", test.name, runs, err)
		}
		err := overlayWorks(test.dir)
		if (err == nil) != test.overlay || err != nil && !strings.Contains(err.Error(), test.dir) {
			t.Errorf("%s: an overlay on it: %v", test.name, err)
		}
		left, err := filepath.Glob(filepath.Join(test.dir, ".overlay-*"))
		if err != nil || len(left) > 0 {
			t.Errorf("%s: left behind: %v, %v", test.name, left, err)
		}
	}
}

func TestPackageList(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(moduleDir, packagesFile))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"containernetworking-plugins", "dnsmasq-base", "iptables", "nftables", "runc"}
	if diff := cmp.Diff(want, parsePackages(data)); diff != "" {
		t.Errorf("the packages of %s (-want +got):\n%s", packagesFile, diff)
	}
}

func TestContainerInitIsWhereTheEngineLooks(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(moduleDir, "distconsts", "distconsts.go"))
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("DumbInitPath = %q", containerInit); !strings.Contains(string(data), want) {
		t.Errorf("distconsts.go lacks %s", want)
	}
}

// TestProgramsAreNamedByContent: whatever the compiler sees changes the name,
// nothing else does.
func TestProgramsAreNamedByContent(t *testing.T) {
	module := t.TempDir()
	if err := os.CopyFS(module, os.DirFS(moduleDir)); err != nil {
		t.Fatal(err)
	}
	e := &Engine{opts: Options{BinaryDir: "/bin"}}
	dir := func() string {
		p, err := e.programs(module)
		if err != nil {
			t.Fatal(err)
		}
		if p.version != "v0.15.1" {
			t.Errorf("the engine's version is %s", p.version)
		}
		return p.dir
	}
	original := dir()
	if !strings.HasPrefix(original, "/bin/v0.15.1-") {
		t.Errorf("the programs are in %s", original)
	}
	appendTo := func(name string) {
		f, err := os.OpenFile(filepath.Join(module, name), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString("\n"); err != nil {
			t.Fatal(err)
		}
	}
	appendTo("README.md")
	if got := dir(); got != original {
		t.Error("the README is part of the programs' name")
	}
	last := original
	for _, name := range []string{"go.sum", "distconsts/distconsts.go", "distconsts/go.mod", "init/main.go"} {
		appendTo(name)
		if got := dir(); got == last {
			t.Errorf("%s is not part of the programs' name", name)
		} else {
			last = got
		}
	}
	if err := os.WriteFile(filepath.Join(module, "go.mod"), []byte("module x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := e.programs(module); err == nil || !strings.Contains(err.Error(), "github.com/dagger/dagger") {
		t.Errorf("a module without the engine: %v", err)
	}
}

func TestBuildErrorHoldsTheCompilersWords(t *testing.T) {
	module := t.TempDir()
	const mod = "module x\n\ngo 1.26.0\n\ntool github.com/dagger/dagger/cmd/engine\n\nrequire github.com/dagger/dagger v0.0.1\n\nreplace github.com/dagger/dagger => ./absent\n"
	if err := os.WriteFile(filepath.Join(module, "go.mod"), []byte(mod), 0o600); err != nil {
		t.Fatal(err)
	}
	e := &Engine{opts: Options{BinaryDir: filepath.Join(t.TempDir(), "binaries")}}
	_, err := e.build(t.Context(), module, func(string) {})
	if err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("compiling a module that is not there: %v", err)
	}
	left, err := os.ReadDir(e.opts.BinaryDir)
	if err != nil || len(left) > 0 {
		t.Errorf("the failed build left %v, %v", left, err)
	}
}

// TestHostCertificatesAreHidden looks from inside of an engine's mount namespace
// on a host whose administrator trusts certificates of his own.
func TestHostCertificatesAreHidden(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making a mount namespace needs root")
	}
	space := layout{name: "test", stateDir: t.TempDir(), programs: programs{dir: t.TempDir()}}
	if err := os.WriteFile(space.programs.init(), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, given := range map[string]bool{"with the folder": true, "without it": false} {
		t.Run(name, func(t *testing.T) {
			var seen []os.DirEntry
			err := onThread(func() error {
				if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
					return err
				}
				if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
					return err
				}
				for _, dir := range []string{"/run", filepath.Dir(hostCertificates)} {
					if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
						return err
					}
				}
				if err := os.MkdirAll(runDir(space.name), 0o755); err != nil {
					return err
				}
				if given {
					own := filepath.Join(hostCertificates, "own.crt")
					if err := errors.Join(os.Mkdir(hostCertificates, 0o755), os.WriteFile(own, nil, 0o644)); err != nil {
						return err
					}
				}
				if err := space.enter(); err != nil {
					return err
				}
				var err error
				if seen, err = os.ReadDir(hostCertificates); errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				return err
			})
			if err != nil || len(seen) > 0 {
				t.Errorf("the engine sees %v of the host's certificates, %v", seen, err)
			}
		})
	}
}

func TestLockDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	unlock, err := lockDir(t.Context(), dir, 0o755, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*lockPoll)
	defer cancel()
	waited := 0
	if _, err := lockDir(ctx, dir, 0o755, func() { waited++ }); !errors.Is(err, context.DeadlineExceeded) || waited != 1 {
		t.Errorf("locking twice: %v, busy called %d times", err, waited)
	}
	// A lock on a folder that was removed meanwhile is not a lock.
	got := make(chan error)
	go func() {
		second, err := lockDir(t.Context(), dir, 0o755, nil)
		if err == nil {
			if _, statErr := os.Stat(dir); statErr != nil {
				err = statErr
			}
			second()
		}
		got <- err
	}()
	time.Sleep(lockPoll)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	unlock()
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// TestProcessIdentity: a PID that now belongs to another process is never
// signaled.
func TestProcessIdentity(t *testing.T) {
	start, err := startTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	proc, err := openProcess(os.Getpid(), start)
	if err != nil || proc == nil {
		t.Fatalf("this process is not found: %v, %v", proc, err)
	}
	if ended, err := proc.wait(t.Context(), time.Millisecond); ended || err != nil {
		t.Errorf("this process has ended: %v, %v", ended, err)
	}
	if err := proc.signal(unix.Signal(0)); err != nil {
		t.Errorf("signalling this process: %v", err)
	}
	proc.close()
	if proc, err = openProcess(os.Getpid(), start+1); proc != nil || err != nil {
		t.Errorf("another process of this PID is taken for it: %v, %v", proc, err)
	}
	// Threads take their IDs from the same numbers: the PID of an engine that has
	// ended can become a thread's. Of two locked threads, at least one is not the
	// process's first.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tids, done := make(chan int), make(chan struct{})
	defer close(done)
	go func() {
		runtime.LockOSThread()
		tids <- unix.Gettid()
		<-done
	}()
	tid := <-tids
	if tid == os.Getpid() {
		tid = unix.Gettid()
	}
	if start, err = startTime(tid); err != nil {
		t.Fatal(err)
	}
	if proc, err = openProcess(tid, start); proc != nil || err != nil {
		t.Errorf("a thread is taken for a process: %v, %v", proc, err)
	}
}

func TestRecordOfAnotherBootIsNone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("writing to /run needs root")
	}
	rec := &record{Name: "test-boot", BootID: "another"}
	unlock, err := lockRecords(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	defer os.RemoveAll(runDir(rec.Name))
	if err := rec.write(); err != nil {
		t.Fatal(err)
	}
	if got, err := readRecord(rec.Name); got != nil || err != nil {
		t.Errorf("readRecord: %+v, %v", got, err)
	}
}

func TestDiskUsedCountsLinksOnce(t *testing.T) {
	dir := t.TempDir()
	const size = 1 << 20
	file := filepath.Join(dir, "a")
	if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(file, filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "cache")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	used, err := diskUsed(link)
	if err != nil {
		t.Fatal(err)
	}
	if used < size || used > size+size/2 {
		t.Errorf("a file with two names takes %d bytes, want about %d", used, size)
	}
}
