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
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

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

func mustModuleDir(t *testing.T, e *Engine) string {
	t.Helper()
	dir, err := e.moduleDir()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
