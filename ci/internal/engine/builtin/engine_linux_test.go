package builtin

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// These tests run real engines. They share the compiled programs with the user
// (the user's cache) and nothing else: names, state and network namespaces are
// their own, so that an engine running on this host is not touched.

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
