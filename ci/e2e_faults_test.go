package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/killtest"
)

// A change to C++ outside the CUDA backend recompiles no CUDA, and an interrupted build resumes
// where it stopped.
func (f *farm) testHostChangeAndInterrupt(t *testing.T) {
	llama := copyTree(t, f.llama)
	change(t, llama, "src/llama.cpp", unseen)
	out := t.TempDir()

	p := f.start(t, f.buildArgs(llama, "75,89", out)...)
	p.await(`^host +compile +started`)
	if err := p.interrupt(); err != nil {
		t.Fatal(err)
	}
	p.wait().want(t, 130, "interrupted")
	noUnfinished(t, out)

	build := f.build(t, llama, "75,89", out)
	build.want(t, 0)
	rows := build.table(t)
	if host := rows["host"]; host.result != "built" {
		t.Errorf("host: %s, want it built", host.result)
	}
	for _, sm := range []string{"sm75", "sm89"} {
		if rows[sm].result != "cached" || rows[sm].objects != 0 {
			t.Errorf("%s: %s, %d objects; want it cached", sm, rows[sm].result, rows[sm].objects)
		}
	}
	f.run(t, "verify", out).want(t, 0)
}

// What an interrupted build was compiling ends with it, however early the interruption comes.
func (f *farm) testInterruptEndsTheStep(t *testing.T) {
	// A step that is slow to show itself has to have done so after this long.
	const settle = 15 * time.Second

	llama := copyTree(t, f.llama)
	seconds := fmt.Sprintf("3600.%09d", time.Now().UnixNano()%1e9)
	change(t, llama, "CMakeLists.txt", func(text string) string {
		return text + "\nexecute_process(COMMAND sleep " + seconds + ")\n"
	})
	for _, moment := range []string{"at its start", "in its middle"} {
		p := f.start(t, f.buildArgs(llama, "75", t.TempDir())...)
		p.await(`^host +compile +started`)
		for moment == "in its middle" && len(processesOf(t, "sleep", seconds)) == 0 {
			if time.Since(p.began) > stopLimit {
				t.Fatal("the step does not begin")
			}
			time.Sleep(100 * time.Millisecond)
		}
		if err := p.interrupt(); err != nil {
			t.Fatal(err)
		}
		p.wait().want(t, 130, "interrupted")
		time.Sleep(settle)
		for _, pid := range processesOf(t, "sleep", seconds) {
			t.Errorf("interrupted %s, the step goes on", moment)
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
	}
}

// processesOf are the processes of this host, those in containers included, with these arguments.
func processesOf(t *testing.T, args ...string) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil || string(line) != strings.Join(args, "\x00")+"\x00" {
			continue // it has ended, or it is another one
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// A change of one CUDA file recompiles that file, once an SM, and nothing of the host half.
func (f *farm) testDeviceChange(t *testing.T) {
	f.release(t)
	llama := copyTree(t, f.llama)
	change(t, llama, "ggml/src/ggml-cuda/scale.cu", unseen)
	build := f.build(t, llama, "75,89", t.TempDir())
	build.want(t, 0)
	rows := build.table(t)
	if host := rows["host"]; host.result != "cached" {
		t.Errorf("host: %s, want it cached", host.result)
	}
	for _, sm := range []string{"sm75", "sm89"} {
		if compiled := rows[sm].objects - rows[sm].fromCache; rows[sm].result != "built" || compiled != 1 {
			t.Errorf("%s: %s, %d objects compiled; want 1", sm, rows[sm].result, compiled)
		}
	}
}

// nvcc fails on one SM: the others are built, and the user reads why and where.
func (f *farm) testBrokenSM(t *testing.T) {
	const complaint = "no kernels for sm_70"
	llama := copyTree(t, f.llama)
	change(t, llama, "ggml/src/ggml-cuda/common.cuh", func(text string) string {
		return text + "\n#if __CUDA_ARCH__ == 700\n#error \"" + complaint + "\"\n#endif\n"
	})
	out := t.TempDir()
	log := filepath.Join(out, "logs", "sm70.log")
	build := f.build(t, llama, "70,75", out)
	build.want(t, 1, complaint, log, "sm70")
	rows := build.table(t)
	if !strings.HasPrefix(rows["sm70"].result, "FAILED") {
		t.Errorf("sm70: %s", rows["sm70"].result)
	}
	if rows["sm75"].result != "built" && rows["sm75"].result != "cached" {
		t.Errorf("sm75: %s", rows["sm75"].result)
	}
	for name, want := range map[string]bool{
		"llcuda-bins-sm75.tar.gz": true, "llcuda-bins-sm75.tar.zst": true,
		"llcuda-bins-sm70.tar.gz": false, "llcuda-bins-sm70.tar.zst": false, "manifest.json": false,
	} {
		if _, err := os.Stat(filepath.Join(out, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{complaint, "common.cuh", "Building CUDA object"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s does not say %q", log, want)
		}
	}
}

// A CPU variant that compiles and crashes stops the build, and is named. Haswell's code is what nearly every machine with
// an engine runs; the plainest variant has none of it.
func (f *farm) testBrokenVariant(t *testing.T) {
	llama := copyTree(t, f.llama)
	change(t, llama, "ggml/src/ggml-cpu/ggml-cpu.cpp", func(text string) string {
		return strings.Replace(text, "    *result = float(sum);\n", "#ifdef __AVX2__\n    __builtin_trap();\n#endif\n    *result = float(sum);\n", 1)
	})
	out := t.TempDir()
	build := f.build(t, llama, "75", out)
	build.want(t, 1, "FAILED in try", "the CPU variant haswell fails: it was killed by SIGILL (illegal instruction)",
		"the CPU variant x64 computes", filepath.Join(out, "logs", "host.log"))
	if _, err := os.Stat(filepath.Join(out, "llcuda-bins-sm75.tar.zst")); err == nil {
		t.Error("a bundle with a broken variant was packed")
	}
}

// The disk of the release folder gets full while archives are written. The file system
// lives in the command's own mount namespace and shrinks when the build is under way.
func (f *farm) testFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	f.release(t)
	out, after := t.TempDir(), filepath.Join(t.TempDir(), "after")
	// Enough for what is checked before the build begins; tmpfs takes memory for what is in it only.
	script := `mount -t tmpfs -o size=2g tmpfs "$1"
		out=$1 after=$2; shift 2
		code=0; "$@" || code=$?
		find "$out" -type f ! -path "$out/logs/*" > "$after"
		exit $code`
	args := append([]string{"--mount", "sh", "-ec", script, "sh", out, after, f.bin}, f.buildArgs(f.llama, "75", out)...)
	p := startProcess(t, "unshare", args...)
	p.await(`^host +image +started`)
	command(t, "", "nsenter", "--mount=/proc/"+strconv.Itoa(p.cmd.Process.Pid)+"/ns/mnt", "mount", "-o", "remount,size=96k", out)
	p.wait().want(t, 1, "no space left on device", "hint: the disk is full")
	left, err := os.ReadFile(after)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("files of a build that could write none whole:\n%s", left)
	}
}

// A folder that is not a llama.cpp is refused before anything costs time.
func (f *farm) testNotLlamaCPP(t *testing.T) {
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "CMakeLists.txt"), []byte("project(other)\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	build := f.build(t, other, "75", t.TempDir())
	build.want(t, 2, other, "hint: ")
	if strings.Contains(build.stderr, "compile") {
		t.Error("it began to compile")
	}
}

// A missing engine has an error of its own, whose hint names the ways out.
func (f *farm) testNoEngine(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "engine.sock")
	build := f.build(t, f.llama, "75", t.TempDir(), "--engine", "unix://"+socket)
	build.want(t, 4, socket, "hint: ", "go run ./ci engine up")
	if build.took > time.Minute {
		t.Errorf("it took %s to say so", build.took)
	}
	if lines := strings.Count(build.stderr, "\n"); lines > 10 {
		t.Errorf("it took %d lines to say so", lines)
	}
}

// noUnfinished checks that a release folder contains no partially written file.
func noUnfinished(t *testing.T, dir string) {
	t.Helper()
	for _, name := range fileNames(t, dir) {
		if !strings.HasPrefix(name, "llcuda-cudart-") || strings.Contains(name, "partial") {
			t.Errorf("%s has %s", dir, name)
		}
	}
}

// lookFor skips a test on machines without a program.
func lookFor(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("it needs %s", program)
	}
}

// A running engine serves every user of the machine, wherever their home is: no user starts a second one beside it.
func (f *farm) testOtherHome(t *testing.T) {
	out := t.TempDir()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CACHE_HOME", "")
	f.build(t, f.llama, "75", out, "--cache", f.cache).want(t, 0)
	if _, err := os.Stat(filepath.Join(home, ".cache", "llcuda")); err == nil {
		t.Error("the build made a cache, and perhaps an engine, of its own in the other home")
	}
}

// killsVariable sets how often testKilledAtAnyMoment kills a build; a few times if it is not set.
const killsVariable = "LLCUDA_TEST_KILLS"

// After a build is killed at any moment, the same command in the same folder finishes it, with the
// bytes of an uninterrupted build. Each round compiles a tree that no engine has seen.
func (f *farm) testKilledAtAnyMoment(t *testing.T) {
	kills := 2
	if text := os.Getenv(killsVariable); text != "" {
		var err error
		if kills, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	out, fresh := t.TempDir(), t.TempDir()
	killer := killtest.New(uint64(time.Now().UnixNano()), time.Minute)
	for killer.Killed() < kills {
		llama := copyTree(t, f.llama)
		change(t, llama, "ggml/src/ggml-cuda/scale.cu", unseen)
		change(t, llama, "src/llama.cpp", unseen)
		if _, err := killer.Run(exec.Command(f.bin, f.buildArgs(llama, "75", out)...)); err != nil {
			t.Fatal(err)
		}
		f.build(t, llama, "75", out).want(t, 0)
		f.run(t, "verify", out).want(t, 0)
		f.build(t, llama, "75", fresh).want(t, 0)
		if diff := cmp.Diff(sumsOf(t, fresh), sumsOf(t, out)); diff != "" {
			t.Fatalf("sums after a kill (-want +got):\n%s", diff)
		}
	}
	t.Logf("%d builds were killed, %d ended before", killer.Killed(), killer.Ended())
}

func sumsOf(t testing.TB, dir string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
