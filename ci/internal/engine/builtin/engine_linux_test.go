package builtin

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// These tests run real engines. They share the compiled programs with the user
// (the user's cache) and nothing else: names, state and network namespaces are
// their own, so that an engine running on this host is not touched.

// lastEngine numbers the engines of this process.
var lastEngine atomic.Int32

const moduleDir = "../../../../docker/engine"

func newTestEngine(t *testing.T, opts Options) *Engine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("running a real engine needs root")
	}
	opts.Name = fmt.Sprintf("test-%d-%d", os.Getpid(), lastEngine.Add(1))
	opts.ModuleDir = moduleDir
	if opts.StateDir == "" {
		opts.StateDir = filepath.Join(t.TempDir(), "state")
	}
	e, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Down(context.Background()); err != nil {
			t.Errorf("Down: %v", err)
		}
	})
	return e
}

func mustUp(t *testing.T, e *Engine) Info {
	t.Helper()
	info, err := e.Up(t.Context(), func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// newNetNS makes a network namespace with nothing but a loopback interface.
func newNetNS(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a network namespace needs root")
	}
	path := filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return path
}

// A session is what Dagger's SDKs use: the engine's client with an HTTP server.
type session struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Closer
	url   string
	token string
}

func newSession(t *testing.T, info Info) *session {
	t.Helper()
	cmd := exec.Command(info.CLI, "session")
	cmd.Env = append(os.Environ(), info.Env()...)
	cmd.Env = append(cmd.Env, "HOME="+t.TempDir())
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &session{t: t, cmd: cmd, stdin: stdin}
	t.Cleanup(s.close)
	var params struct {
		Port  int    `json:"port"`
		Token string `json:"session_token"`
	}
	if err := json.NewDecoder(bufio.NewReader(stdout)).Decode(&params); err != nil {
		t.Fatalf("starting a session: %v", err)
	}
	s.url, s.token = fmt.Sprintf("http://127.0.0.1:%d/query", params.Port), params.Token
	return s
}

// close ends the session. A session whose engine was killed does not end on its own.
func (s *session) close() {
	s.stdin.Close()
	timer := time.AfterFunc(3*time.Second, func() { s.cmd.Process.Kill() })
	defer timer.Stop()
	s.cmd.Wait()
}

func (s *session) query(ctx context.Context, query string, vars map[string]any, data any) error {
	body, err := json.Marshal(map[string]any{"query": query, "variables": vars})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.SetBasicAuth(s.token, "")
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Data   json.RawMessage
		Errors []struct{ Message string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	if len(answer.Errors) > 0 {
		return fmt.Errorf("query: %s", answer.Errors[0].Message)
	}
	return json.Unmarshal(answer.Data, data)
}

// probeDir is made and removed by TestMain.
var probeDir string

// probe compiles a static program, the only file of the containers here, and
// returns the folder that becomes their root.
var probe = sync.OnceValues(func() (string, error) {
	root := filepath.Join(probeDir, "root")
	cmd := exec.Command("go", "build", "-o", filepath.Join(root, "probe"), "./testdata/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return root, nil
})

func TestMain(m *testing.M) {
	if os.Getenv(upVariable) != "" {
		upAndExit()
	}
	var err error
	if probeDir, err = os.MkdirTemp("", "builtin-probe-"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(probeDir)
	os.Exit(code)
}

// exec runs the probe in a container and returns what it wrote. The engine
// caches the container's files, too.
func (s *session) exec(ctx context.Context, args ...string) (string, error) {
	root, err := probe()
	if err != nil {
		return "", err
	}
	var host struct {
		Host struct{ Directory struct{ ID string } }
	}
	if err := s.query(ctx, `query($path: String!) { host { directory(path: $path) { id } } }`, map[string]any{"path": root}, &host); err != nil {
		return "", err
	}
	var out struct {
		Container struct {
			WithRootfs struct {
				WithExec struct {
					Stdout string
					Rootfs struct{ Entries []string }
				}
			}
		}
	}
	err = s.query(ctx, `query($root: DirectoryID!, $args: [String!]!) {
		container { withRootfs(directory: $root) { withExec(args: $args) { stdout rootfs { entries } } } }
	}`, map[string]any{"root": host.Host.Directory.ID, "args": append([]string{"/probe"}, args...)}, &out)
	return out.Container.WithRootfs.WithExec.Stdout, err
}

func mustExec(t *testing.T, s *session, args ...string) string {
	t.Helper()
	out, err := s.exec(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// processesWith returns the processes with this argument.
func processesWith(t *testing.T, arg string) []int {
	t.Helper()
	var pids []int
	for _, file := range glob(t, "/proc/[0-9]*/cmdline") {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it ended
		}
		for _, a := range strings.Split(string(data), "\x00") {
			if a == arg {
				pid, err := strconv.Atoi(strings.Split(file, "/")[2])
				if err != nil {
					t.Fatal(err)
				}
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("waited in vain: %s", what)
}

// A snapshot is what an engine could change on its host.
type snapshot struct {
	Files  map[string]string // path → mode, size, time and hash
	Mounts []string          // under the folders the engine mounts over
	Links  []string
	Tables []table
	IPv4   string
	Groups []string
}

func takeSnapshot(t *testing.T, netNS, stateDir string) snapshot {
	t.Helper()
	s := snapshot{Files: map[string]string{}}
	for _, root := range []string{"/etc", "/usr/local/share", "/var/lib/cni", "/var/lib/dagger", "/run/containers", "/run/runc", "/run/buildkit"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				if os.IsNotExist(err) {
					return nil
				}
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			state := fmt.Sprintf("%s %s", info.Mode(), info.ModTime())
			if info.Mode().IsRegular() {
				data, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				state += fmt.Sprintf(" %x", sha256.Sum256(data))
			}
			s.Files[path] = state
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"/etc/resolv.conf", "/etc/hosts"} {
		if _, ok := s.Files[name]; !ok {
			t.Fatalf("%s is not looked at", name)
		}
	}
	mounts, err := os.ReadFile("/proc/thread-self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		at := strings.Fields(line)[1]
		for _, dir := range append(shadowed, "/run", stateDir) {
			if at == dir || strings.HasPrefix(at, dir+"/") {
				s.Mounts = append(s.Mounts, line)
			}
		}
	}
	err = inNetNS(netNS, func() error {
		links, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, l := range links {
			s.Links = append(s.Links, l.Name)
		}
		if s.Tables, err = iptablesSave(t.Context()); err != nil {
			return err
		}
		data, err := os.ReadFile(ipForward)
		s.IPv4 = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Groups = glob(t, "/sys/fs/cgroup/*/buildkit")
	return s
}

func diffSnapshots(before, after snapshot) string {
	return cmp.Diff(before, after, cmp.AllowUnexported(table{}))
}

func TestUpServesAndDownLeavesNothing(t *testing.T) {
	t.Parallel()
	netNS := newNetNS(t)
	e := newTestEngine(t, Options{NetNS: netNS})
	before := takeSnapshot(t, netNS, e.opts.StateDir)

	info := mustUp(t, e)
	s := newSession(t, info)
	if got, want := mustExec(t, s, "print", "hello"), "hello\n"; got != want {
		t.Errorf("the container wrote %q, want %q", got, want)
	}
	// The container's init leaves a command's own options alone.
	if got, want := mustExec(t, s, "print", "-c"), "-c\n"; got != want {
		t.Errorf("the container wrote %q, want %q", got, want)
	}
	if _, err := s.exec(t.Context(), "exit", "3"); err == nil || !strings.Contains(err.Error(), "exit code: 3") {
		t.Errorf("a step that ends with 3: %v", err)
	}
	status, err := e.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !status.Running || !status.Answers || status.PID != info.PID || status.DiskUsed == 0 || status.DiskFree == 0 {
		t.Errorf("Status of a running engine: %+v", status)
	}
	again := mustUp(t, e)
	if diff := cmp.Diff(info, again); diff != "" {
		t.Errorf("the second Up did not reuse the engine (-first +second):\n%s", diff)
	}
	running := takeSnapshot(t, netNS, e.opts.StateDir)
	if diff := cmp.Diff(before.Files, running.Files); diff != "" {
		t.Errorf("the running engine changed the host's files (-before +now):\n%s", diff)
	}
	if diff := cmp.Diff(before.Mounts, running.Mounts); diff != "" {
		t.Errorf("the running engine's mounts reached the host (-before +now):\n%s", diff)
	}
	if len(running.Links) == len(before.Links) {
		t.Error("the running engine has no network: this test proves nothing")
	}
	s.close()

	if err := e.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := diffSnapshots(before, takeSnapshot(t, netNS, e.opts.StateDir)); diff != "" {
		t.Errorf("the ended engine left something (-before +after):\n%s", diff)
	}
	checkGone(t, e)
	if err := e.Down(t.Context()); err != nil {
		t.Errorf("Down of an engine that is down: %v", err)
	}
	if status, err = e.Status(t.Context()); err != nil || status.Running || status.RunnerHost != "" {
		t.Errorf("Status of an ended engine: %+v, %v", status, err)
	}
}

// checkGone looks for what is named after the engine.
func checkGone(t *testing.T, e *Engine) {
	t.Helper()
	if pids := processesWith(t, filepath.Join(e.opts.StateDir, "state")); len(pids) > 0 {
		t.Errorf("processes are left: %v", pids)
	}
	for _, pattern := range []string{
		runDir(e.opts.Name),
		"/sys/fs/cgroup/" + cgroupParent(e.opts.Name),
		"/sys/fs/cgroup/*/" + cgroupParent(e.opts.Name),
	} {
		if left := glob(t, pattern); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	for _, file := range glob(t, "/proc/[0-9]*/mountinfo") {
		data, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(data), e.opts.StateDir) {
			t.Errorf("%s still mounts %s", file, e.opts.StateDir)
		}
	}
}

// engineProcess finds the engine below its first process.
func engineProcess(t *testing.T, e *Engine, info Info) int {
	t.Helper()
	for _, pid := range processesWith(t, filepath.Join(e.opts.StateDir, "state")) {
		if pid != info.PID {
			return pid
		}
	}
	t.Fatal("the engine's own process is not there")
	return 0
}

func TestKilledEngine(t *testing.T) {
	for _, victim := range []string{"first process", "engine"} {
		t.Run(victim, func(t *testing.T) {
			t.Parallel()
			netNS := newNetNS(t)
			e := newTestEngine(t, Options{NetNS: netNS})
			before := takeSnapshot(t, netNS, e.opts.StateDir)
			info := mustUp(t, e)
			s := newSession(t, info)
			random := mustExec(t, s, "random")

			// In the middle of a build…
			marker := "marker-" + e.opts.Name
			build := make(chan error, 1)
			go func() {
				_, err := s.exec(context.Background(), "sleep", marker)
				build <- err
			}()
			eventually(t, "the container starts", func() bool { return len(processesWith(t, marker)) > 0 })
			pid := info.PID
			if victim == "engine" {
				pid = engineProcess(t, e, info)
			}
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			// …everything the engine ran ends with it, and the client notices.
			eventually(t, "the container ends", func() bool { return len(processesWith(t, marker)) == 0 })
			select {
			case err := <-build:
				if err == nil {
					t.Error("the build succeeded without its engine")
				}
			case <-time.After(30 * time.Second):
				t.Error("the client did not notice that its engine was killed")
			}
			s.close()
			status, err := e.Status(t.Context())
			if err != nil || status.Running {
				t.Errorf("Status of a killed engine: %+v, %v", status, err)
			}

			// The next one has the cache.
			s = newSession(t, mustUp(t, e))
			if got := mustExec(t, s, "random"); got != random {
				t.Errorf("the step ran again after the engine was killed: %q, before %q", got, random)
			}
			s.close()

			if err := unix.Kill(engineProcess(t, e, mustUp(t, e)), unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if err := e.Down(t.Context()); err != nil {
				t.Fatal(err)
			}
			if diff := diffSnapshots(before, takeSnapshot(t, netNS, e.opts.StateDir)); diff != "" {
				t.Errorf("Down of a killed engine left something (-before +after):\n%s", diff)
			}
			checkGone(t, e)
		})
	}
}

func TestKilledClientEndsItsBuild(t *testing.T) {
	t.Parallel()
	e := newTestEngine(t, Options{NetNS: newNetNS(t)})
	info := mustUp(t, e)
	s := newSession(t, info)
	marker := "marker-" + e.opts.Name
	go s.exec(context.Background(), "sleep", marker)
	eventually(t, "the container starts", func() bool { return len(processesWith(t, marker)) > 0 })
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the container ends", func() bool { return len(processesWith(t, marker)) == 0 })
	if again := mustUp(t, e); again.PID != info.PID {
		t.Errorf("the engine was restarted: %d, was %d", again.PID, info.PID)
	}
}

func TestConcurrentUpsStartOneEngine(t *testing.T) {
	t.Parallel()
	e := newTestEngine(t, Options{NetNS: newNetNS(t)})
	infos := make([]Info, 4)
	var eg errgroup.Group
	for i := range infos {
		eg.Go(func() error {
			var err error
			infos[i], err = e.Up(t.Context(), nil)
			return err
		})
	}
	if err := eg.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, info := range infos[1:] {
		if diff := cmp.Diff(infos[0], info); diff != "" {
			t.Errorf("two Ups returned different engines:\n%s", diff)
		}
	}
}

// TestKilledUp: the process that starts an engine is killed as soon as the
// engine is on record. The next Up finds it, or what is left of it.
func TestKilledUp(t *testing.T) {
	t.Parallel()
	netNS := newNetNS(t)
	e := newTestEngine(t, Options{NetNS: netNS})
	before := takeSnapshot(t, netNS, e.opts.StateDir)
	for _, delay := range []time.Duration{0, 20 * time.Millisecond, 500 * time.Millisecond} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), upVariable+"="+e.opts.Name, "STATE="+e.opts.StateDir, "NETNS="+netNS)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the engine is on record", func() bool {
			rec, err := readRecord(e.opts.Name)
			return err == nil && rec != nil
		})
		time.Sleep(delay)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		s := newSession(t, mustUp(t, e))
		if got := mustExec(t, s, "print", "hello"); got != "hello\n" {
			t.Errorf("the container wrote %q", got)
		}
		s.close()
		if pids := processesWith(t, filepath.Join(e.opts.StateDir, "state")); len(pids) != 2 {
			t.Errorf("processes %v, want one engine and its init", pids)
		}
		if err := e.Down(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if diff := diffSnapshots(before, takeSnapshot(t, netNS, e.opts.StateDir)); diff != "" {
		t.Errorf("killed Ups left something (-before +after):\n%s", diff)
	}
	checkGone(t, e)
}

// upVariable makes this test program start an engine instead.
const upVariable = "BUILTIN_TEST_UP"

func upAndExit() {
	e, err := New(Options{Name: os.Getenv(upVariable), StateDir: os.Getenv("STATE"), NetNS: os.Getenv("NETNS"), ModuleDir: moduleDir})
	if err == nil {
		_, err = e.Up(context.Background(), nil)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// TestDiskLimit: the engine collects its garbage a minute after a session.
func TestDiskLimit(t *testing.T) {
	t.Parallel()
	const (
		limit = 300e6
		size  = 100 << 20
	)
	e := newTestEngine(t, Options{NetNS: newNetNS(t), DiskLimit: limit})
	info := mustUp(t, e)
	for _, name := range []string{"/a", "/b", "/c", "/d", "/e"} {
		s := newSession(t, info)
		mustExec(t, s, "write", name, strconv.Itoa(size))
		s.close()
	}
	used := func() int64 {
		status, err := e.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return status.DiskUsed
	}
	if now := used(); now < 5*size {
		t.Fatalf("the engine uses %d bytes after it wrote %d: this test proves nothing", now, 5*size)
	}
	last := int64(0)
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(2 * time.Second) {
		if last = used(); last < limit {
			break
		}
	}
	if last >= limit {
		t.Errorf("the engine still uses %d bytes, its limit is %d", last, int64(limit))
	}
	// The newest stay.
	eventually(t, "the collection ends", func() bool {
		before := used()
		time.Sleep(time.Second)
		return before-used() < size/2 // logs and databases never rest
	})
	if last = used(); last < size {
		t.Errorf("the engine keeps %d bytes of a limit of %d", last, int64(limit))
	}
}

func TestInterruptedUpLeavesNothing(t *testing.T) {
	t.Parallel()
	netNS := newNetNS(t)
	e := newTestEngine(t, Options{NetNS: netNS})
	if _, err := e.build(t.Context(), mustModuleDir(t, e), func(string) {}); err != nil {
		t.Fatal(err) // so that the interruption falls into the start
	}
	before := takeSnapshot(t, netNS, e.opts.StateDir)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		eventually(t, "the engine listens", func() bool { return len(glob(t, socketPath(e.opts.Name))) > 0 })
	}()
	_, err := e.Up(ctx, nil)
	if err == nil {
		t.Skip("the engine answered before it could be interrupted")
	}
	if ctx.Err() == nil {
		t.Fatal(err)
	}
	if diff := diffSnapshots(before, takeSnapshot(t, netNS, e.opts.StateDir)); diff != "" {
		t.Errorf("an interrupted Up left something (-before +after):\n%s", diff)
	}
	checkGone(t, e)
}

func mustModuleDir(t *testing.T, e *Engine) string {
	t.Helper()
	dir, err := e.moduleDir()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestStartErrorHoldsTheLog(t *testing.T) {
	t.Parallel()
	e := newTestEngine(t, Options{NetNS: newNetNS(t)})
	// The engine finds a file where its databases should go.
	if err := os.MkdirAll(filepath.Join(e.opts.StateDir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(e.opts.StateDir, "state", "worker"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := e.Up(t.Context(), nil)
	startErr, ok := err.(*StartError)
	if !ok {
		t.Fatalf("Up with unusable state: %v, want a *StartError", err)
	}
	if !strings.Contains(strings.Join(startErr.Tail, "\n"), "not a directory") {
		t.Errorf("the error does not hold the engine's last words: %v", startErr)
	}
	checkGone(t, e)
}

// TestTwoEngines is how a farm outgrows one machine: two network namespaces
// stand for two hosts.
func TestTwoEngines(t *testing.T) {
	t.Parallel()
	one := newTestEngine(t, Options{NetNS: newNetNS(t)})
	two := newTestEngine(t, Options{NetNS: newNetNS(t)})
	var infoOne, infoTwo Info
	var eg errgroup.Group
	eg.Go(func() (err error) { infoOne, err = one.Up(t.Context(), nil); return err })
	eg.Go(func() (err error) { infoTwo, err = two.Up(t.Context(), nil); return err })
	if err := eg.Wait(); err != nil {
		t.Fatal(err)
	}
	type shared struct{ RunnerHost, Bridge, CIDR, StateDir string }
	a := shared{infoOne.RunnerHost, infoOne.Bridge, infoOne.CIDR, infoOne.StateDir}
	b := shared{infoTwo.RunnerHost, infoTwo.Bridge, infoTwo.CIDR, infoTwo.StateDir}
	if a.RunnerHost == b.RunnerHost || a.Bridge == b.Bridge || a.CIDR == b.CIDR || a.StateDir == b.StateDir {
		t.Errorf("the engines share something: %+v, %+v", a, b)
	}
	sOne, sTwo := newSession(t, infoOne), newSession(t, infoTwo)
	if got := mustExec(t, sOne, "print", "one"); got != "one\n" {
		t.Errorf("engine one wrote %q", got)
	}
	if err := unix.Kill(engineProcess(t, one, infoOne), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "engine one ends", func() bool {
		status, err := one.Status(t.Context())
		return err == nil && !status.Running
	})
	if got := mustExec(t, sTwo, "print", "two"); got != "two\n" {
		t.Errorf("engine two wrote %q after engine one was killed", got)
	}
	// Cleaning up after the one leaves the other its network.
	if err := one.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := mustExec(t, sTwo, "print", "still two"); got != "still two\n" {
		t.Errorf("engine two wrote %q after engine one was cleaned up", got)
	}
}

// TestEnginesShareANamespace: what CNI makes once for all networks goes with
// the last engine only.
func TestEnginesShareANamespace(t *testing.T) {
	t.Parallel()
	netNS := newNetNS(t)
	one := newTestEngine(t, Options{NetNS: netNS})
	two := newTestEngine(t, Options{NetNS: netNS})
	before := takeSnapshot(t, netNS, one.opts.StateDir)
	mustUp(t, one)
	s := newSession(t, mustUp(t, two))
	if err := one.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	between := takeSnapshot(t, netNS, one.opts.StateDir)
	for _, table := range between.Tables {
		for _, rule := range table.rules {
			if strings.Contains(rule, networkName(one.opts.Name)) {
				t.Errorf("a rule of the ended engine is left: %s", rule)
			}
		}
	}
	if between.IPv4 != "1\n" {
		t.Error("ending one engine took the other's forwarding")
	}
	if got := mustExec(t, s, "print", "two"); got != "two\n" {
		t.Errorf("engine two wrote %q after engine one was ended", got)
	}
	s.close()
	if err := two.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := diffSnapshots(before, takeSnapshot(t, netNS, one.opts.StateDir)); diff != "" {
		t.Errorf("two ended engines left something (-before +after):\n%s", diff)
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	e := newTestEngine(t, Options{NetNS: newNetNS(t)})
	s := newSession(t, mustUp(t, e))
	const size = 64 << 20
	mustExec(t, s, "write", "/big", strconv.Itoa(size))
	s.close()
	full, err := e.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if full.DiskUsed < size {
		t.Fatalf("the engine uses %d bytes after it wrote %d", full.DiskUsed, size)
	}
	freed, err := e.Prune(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pruned, err := e.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if freed < size || pruned.DiskUsed > full.DiskUsed-size {
		t.Errorf("Prune of a running engine freed %d bytes of %d, %d are left", freed, full.DiskUsed, pruned.DiskUsed)
	}
	if !pruned.Answers || pruned.PID != full.PID {
		t.Errorf("Prune disturbed the engine: %+v", pruned)
	}
	if err := e.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	empty, err := e.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if empty.DiskUsed > 1<<20 {
		t.Errorf("Prune of an ended engine left %d bytes", empty.DiskUsed)
	}
}

func TestHungEngineIsRestarted(t *testing.T) {
	t.Parallel()
	e := newTestEngine(t, Options{NetNS: newNetNS(t)})
	info := mustUp(t, e)
	if err := unix.Kill(engineProcess(t, e, info), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	impatient := *e
	impatient.answerTimeout = 2 * time.Second
	status, err := impatient.Status(t.Context())
	if err != nil || !status.Running || status.Answers {
		t.Errorf("Status of a hung engine: %+v, %v", status, err)
	}
	again, err := impatient.Up(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if again.PID == info.PID || !again.Answers {
		t.Errorf("the hung engine is still used: %+v", again)
	}
}

func TestUpRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	netNS := newNetNS(t)
	e := newTestEngine(t, Options{NetNS: netNS})
	mustUp(t, e)
	for name, opts := range map[string]Options{
		"another state folder":      {Name: e.opts.Name, StateDir: t.TempDir(), NetNS: netNS},
		"another network namespace": {Name: e.opts.Name, StateDir: e.opts.StateDir, NetNS: "/proc/self/ns/net"},
		"another engine's state":    {Name: e.opts.Name + "x", StateDir: e.opts.StateDir, NetNS: netNS},
	} {
		t.Run(name, func(t *testing.T) {
			opts.ModuleDir = e.opts.ModuleDir
			other, err := New(opts)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := other.Up(t.Context(), nil); err == nil {
				t.Error("Up succeeded")
			} else {
				t.Log(err)
			}
		})
	}
	if status, err := e.Status(t.Context()); err != nil || !status.Answers {
		t.Errorf("the engine was disturbed: %+v, %v", status, err)
	}
}

// TestKilledEngineLeavesItsName: a killed engine's record does not block a new
// engine, wherever its state was.
func TestKilledEngineLeavesItsName(t *testing.T) {
	t.Parallel()
	netNS := newNetNS(t)
	e := newTestEngine(t, Options{NetNS: netNS})
	info := mustUp(t, e)
	other, err := New(Options{Name: e.opts.Name, StateDir: t.TempDir(), NetNS: netNS, ModuleDir: moduleDir})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(info.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the engine ends", func() bool {
		return len(processesWith(t, filepath.Join(e.opts.StateDir, "state"))) == 0
	})
	if got := mustUp(t, other); got.StateDir != other.opts.StateDir {
		t.Errorf("Up gave the engine of %s, want that of %s", got.StateDir, other.opts.StateDir)
	}
	if err := other.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkGone(t, other)
}

// TestEndingEngineIsWaitedFor: a killed engine ends after everything in its PID
// namespace, and until then is neither one that runs nor one that is gone.
func TestEndingEngineIsWaitedFor(t *testing.T) {
	t.Parallel()
	netNS := newNetNS(t)
	e := newTestEngine(t, Options{NetNS: netNS})
	info := mustUp(t, e)
	other, err := New(Options{Name: e.opts.Name, StateDir: t.TempDir(), NetNS: netNS, ModuleDir: moduleDir})
	if err != nil {
		t.Fatal(err)
	}
	// A stopped nsenter does not reap the process it put into the engine's
	// namespace, and the kernel does not let the engine end before that.
	guest := exec.Command("nsenter", "--target", strconv.Itoa(info.PID), "--pid", "sleep", "600")
	if err := guest.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		guest.Process.Signal(unix.SIGCONT)
		guest.Process.Kill()
		guest.Wait()
	})
	children := fmt.Sprintf("/proc/%d/task/%[1]d/children", guest.Process.Pid)
	eventually(t, "nsenter starts its program", func() bool {
		data, err := os.ReadFile(children)
		return err == nil && len(data) > 0
	})
	if err := guest.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nsenter stops", func() bool {
		field, err := readStat(guest.Process.Pid)
		return err == nil && field(3) == "T"
	})
	if err := unix.Kill(info.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the engine begins to end", func() bool {
		ending, err := isEnding(info.PID)
		return err == nil && ending
	})
	up := make(chan error, 1)
	go func() {
		_, err := other.Up(t.Context(), nil)
		up <- err
	}()
	select {
	case err := <-up:
		t.Fatalf("Up beside an engine that is ending did not wait: %v", err)
	case <-time.After(500 * time.Millisecond):
	}
	if err := guest.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := <-up; err != nil {
		t.Fatal(err)
	}
	if err := other.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkGone(t, other)
}

// TestForeignBridgeIsLeftAlone: an engine in a container can have the network
// namespace in common with this one, and nothing else.
func TestForeignBridgeIsLeftAlone(t *testing.T) {
	t.Parallel()
	netNS := newNetNS(t)
	e := newTestEngine(t, Options{NetNS: netNS})
	bridge := bridgeName(networkName(e.opts.Name))
	err := inNetNS(netNS, func() error {
		sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(sock)
		return bridgeIoctl(sock, unix.SIOCBRADDBR, bridge)
	})
	if err != nil {
		t.Fatal(err)
	}
	before := takeSnapshot(t, netNS, e.opts.StateDir)
	if _, err := e.Up(t.Context(), nil); err == nil || !strings.Contains(err.Error(), bridge) {
		t.Errorf("Up beside a bridge of its name: %v", err)
	}
	if err := e.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := diffSnapshots(before, takeSnapshot(t, netNS, e.opts.StateDir)); diff != "" {
		t.Errorf("the bridge's owner lost something (-before +after):\n%s", diff)
	}
	checkGone(t, e)
}

func TestPreflight(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the message below is of amd64")
	}
	e, err := New(Options{Name: "x", StateDir: t.TempDir(), NetNS: "/nowhere/ns", ModuleDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	err = e.Preflight()
	pre, ok := err.(*PreflightError)
	if !ok {
		t.Fatalf("Preflight returned %v, want a *PreflightError", err)
	}
	for _, want := range []string{"/nowhere/ns", "debian-packages.txt", "go.mod"} {
		if !strings.Contains(pre.Error(), want) {
			t.Errorf("the problems do not name %s: %v", want, pre)
		}
	}
}
