package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
)

// A measured is one way to do something. Its fresh, if not nil, makes ready for a run, and is not measured.
type measured struct {
	name  string
	fresh func(b *testing.B)
	cmd   func() *exec.Cmd
}

// compare runs ways to do the same in turn, so that whatever else the machine does befalls all of them. It reports what
// each takes, in milliseconds by the clock and of the processor, and the first's time as a multiple of each of the others';
// medians, for the same reason.
func compare(b *testing.B, ways ...measured) {
	b.Helper()
	times, processor := make([][]time.Duration, len(ways)), make([][]time.Duration, len(ways))
	for b.Loop() {
		for i, way := range ways {
			if way.fresh != nil {
				way.fresh(b)
			}
			cmd := way.cmd()
			var out strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &out
			began := time.Now()
			if err := cmd.Run(); err != nil {
				b.Fatalf("%s: %v\n%s", way.name, err, out.String())
			}
			times[i] = append(times[i], time.Since(began))
			processor[i] = append(processor[i], cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
		}
	}
	median := func(all []time.Duration) float64 {
		sorted := slices.Sorted(slices.Values(all))
		return float64(sorted[len(sorted)/2].Microseconds()) / 1000
	}
	for i, way := range ways {
		b.ReportMetric(median(times[i]), "ms/"+way.name)
		b.ReportMetric(median(processor[i]), "CPU-ms/"+way.name)
		if i > 0 {
			b.ReportMetric(median(times[0])/median(times[i]), "×"+way.name)
		}
	}
	b.ReportMetric(0, "ns/op")
}

// A stand is what the benchmarks compare on: the program as it is published, a program that does nothing, and a release.
type stand struct {
	program, nothing string
	machine          kernel
	release          *fetchtest.Release
	url              string
	key, home        string
}

func newStand(b *testing.B, padding int) *stand {
	b.Helper()
	dir := b.TempDir()
	s := &stand{program: filepath.Join(dir, "llcuda-fetch"), nothing: filepath.Join(dir, "nothing"), key: filepath.Join(dir, "key.pub"), home: filepath.Join(dir, "store")}
	source := filepath.Join(dir, "nothing.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		b.Fatal(err)
	}
	s.machine = newKernel(b, "1e07 NVIDIA GeForce RTX 2080 Ti, 7.5")
	build(b, s.program, ".", "", s.machine.stamp())
	build(b, s.nothing, source, "")
	nothing, err := os.ReadFile(s.nothing)
	if err != nil {
		b.Fatal(err)
	}
	s.release = fetchtest.New(b, fetchtest.Options{Padding: padding, Programs: map[string]string{"llama-cli": string(nothing)}})
	if err := os.WriteFile(s.key, s.release.PublicKey(b), 0o644); err != nil {
		b.Fatal(err)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(s.release.Dir)))
	b.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// here is a run of the program on a machine whose GPU the bundle is for.
func (s *stand) here(args ...string) *exec.Cmd {
	cmd := exec.Command(s.program, append([]string{"--home", s.home, "--public-key", s.key, "--mirror", s.url}, args...)...)
	cmd.Env = s.machine.environ()
	return cmd
}

func (s *stand) installHere(b *testing.B) {
	b.Helper()
	if out, err := s.here("install").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
}

// command returns a run of the program that gets a description of such a machine, and does not have
// to detect it.
func (s *stand) command(args ...string) *exec.Cmd {
	cmd := exec.Command(s.program, append([]string{"--home", s.home, "--public-key", s.key, "--mirror", s.url, "--as-host", "../../testdata/hosts/rtx-2080-ti.json"}, args...)...)
	return cmd
}

func (s *stand) remove(b *testing.B) {
	if err := os.RemoveAll(s.home); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkSecondRun is llcuda-fetch where everything is installed, beside a Go program that does nothing.
func BenchmarkSecondRun(b *testing.B) {
	s := newStand(b, 0)
	s.installHere(b)
	compare(b,
		measured{name: "llcuda-fetch", cmd: func() *exec.Cmd { return s.here() }},
		measured{name: "nothing", cmd: func() *exec.Cmd { return exec.Command(s.nothing) }})
}

// BenchmarkRun is a program by llcuda-fetch run, beside the same program by itself, and that twice: starting llcuda-fetch is
// starting one process more.
func BenchmarkRun(b *testing.B) {
	s := newStand(b, 0)
	s.installHere(b)
	program := filepath.Join(s.home, "installs", "1", "bundle", "binaries", "cuda12", "llama-cli")
	compare(b,
		measured{name: "run", cmd: func() *exec.Cmd {
			cmd := exec.Command(s.program, "--home", s.home, "run", "llama-cli")
			cmd.Env = s.machine.environ()
			return cmd
		}},
		measured{name: "exec", cmd: func() *exec.Cmd { return exec.Command(program) }},
		measured{name: "two-execs", cmd: func() *exec.Cmd { return exec.Command("sh", "-c", fmt.Sprintf("%s; exec %s", program, program)) }})
}

// BenchmarkInstall is an installation from a web server on this machine, signature to flip, beside what people write who
// have no such program: curl, sha256sum and tar, without and with having it all on disk at the end.
func BenchmarkInstall(b *testing.B) {
	const size = 128 << 20 // as random as device code that was compressed
	s := newStand(b, size)
	archive := s.release.Asset(b, "llcuda-bins-sm75.tar.zst")
	into := filepath.Join(b.TempDir(), "into")
	pipeline := func(then string) *exec.Cmd {
		return exec.Command("bash", "-ec", fmt.Sprintf(`set -o pipefail
mkdir %[1]s
mkfifo %[1]s/bytes
sha256sum < %[1]s/bytes > %[1]s/sum &
curl -sf %[2]s/%[3]s | tee %[1]s/bytes | tar -x --zstd -C %[1]s
wait
grep -q %[4]s %[1]s/sum
%[5]s`, into, s.url, archive.Name, archive.SHA256, then))
	}
	empty := func(b *testing.B) {
		if err := os.RemoveAll(into); err != nil {
			b.Fatal(err)
		}
		s.remove(b)
		_ = exec.Command("sync", "-f", filepath.Dir(into)).Run() // flush what other processes wrote, so that no run waits for it
	}
	compare(b,
		measured{"install", empty, func() *exec.Cmd { return s.command("install") }},
		measured{"curl|tar", empty, func() *exec.Cmd { return pipeline("") }},
		measured{"curl|tar+sync", empty, func() *exec.Cmd { return pipeline("sync -f " + into) }})
	b.ReportMetric(float64(archive.Size)/1e6, "MB")
}

// BenchmarkInstallMemory is the most memory that an installation takes, for a bundle and for one ten times as large.
func BenchmarkInstallMemory(b *testing.B) {
	small, large := newStand(b, 16<<20), newStand(b, 160<<20)
	peak := map[*stand]float64{}
	for b.Loop() {
		for _, s := range []*stand{small, large} {
			s.remove(b)
			peak[s] = max(peak[s], peakOf(b, s.command("install")))
		}
	}
	b.ReportMetric(peak[small], "MiB/16MiB-bundle")
	b.ReportMetric(peak[large], "MiB/160MiB-bundle")
	b.ReportMetric(peak[large]/peak[small], "×16MiB-bundle")
	b.ReportMetric(0, "ns/op")
}

// peakOf runs a program and returns the most memory that it had, in MiB, as the kernel says while it runs. What wait(2)
// says would be this process's own, which is much: a child begins with its parent's.
func peakOf(b *testing.B, cmd *exec.Cmd) float64 {
	b.Helper()
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	most := 0.0
	for {
		select {
		case err := <-ended:
			if err != nil || most == 0 {
				b.Fatalf("%v\n%s", err, out.String())
			}
			return most
		case <-time.After(2 * time.Millisecond):
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid)) // it may have ended
			if _, rest, found := strings.Cut(string(status), "VmHWM:"); found {
				var kib int
				if _, err := fmt.Sscan(rest, &kib); err == nil {
					most = float64(kib) / 1024
				}
			}
		}
	}
}
