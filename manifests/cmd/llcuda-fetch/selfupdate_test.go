package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/manifests/killtest"
)

// A published is a mirror with two releases and their clients, and the older of these in a folder of programs.
type published struct {
	t            *testing.T
	mirror, key  string
	bin, program string
	releases     map[string]*fetchtest.Release
	clients      map[string][]byte
}

// probeOf is what lies beside a release's client.
func probeOf(release string) string { return "#!/bin/sh\necho " + release + "\n" }

func newPublished(t *testing.T) *published {
	t.Helper()
	dir := t.TempDir()
	p := &published{t: t, mirror: filepath.Join(dir, "mirror"), key: filepath.Join(dir, "key.pub"), bin: filepath.Join(dir, "bin"),
		releases: map[string]*fetchtest.Release{}, clients: map[string][]byte{}}
	p.program = filepath.Join(p.bin, "llcuda-fetch")
	var first *fetchtest.Release
	for _, tag := range []string{"v1.0.0-runtime", "v1.1.0-runtime"} {
		built := filepath.Join(dir, tag)
		build(t, built, ".", tag)
		var err error
		if p.clients[tag], err = os.ReadFile(built); err != nil {
			t.Fatal(err)
		}
		r := fetchtest.New(t, fetchtest.Options{Tag: tag, Client: []fetchtest.Entry{
			{Name: "llcuda-fetch", Mode: 0o755, Body: p.clients[tag]}, {Name: "llcuda-probe", Mode: 0o755, Body: []byte(probeOf(tag))}}})
		if first == nil {
			first = r
		}
		r.SignWith(t, first)
		if err := os.CopyFS(filepath.Join(p.mirror, tag), os.DirFS(r.Dir)); err != nil {
			t.Fatal(err)
		}
		p.releases[tag] = r
	}
	p.put("v1.0.0-runtime")
	if err := os.WriteFile(p.key, first.PublicKey(t), 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

// put installs a release's client by hand.
func (p *published) put(tag string) {
	p.t.Helper()
	if err := os.MkdirAll(p.bin, 0o755); err != nil {
		p.t.Fatal(err)
	}
	for path, data := range map[string][]byte{p.program: p.clients[tag], filepath.Join(p.bin, "llcuda-probe"): []byte(probeOf(tag))} {
		if err := os.WriteFile(path, data, 0o755); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *published) command(args ...string) *exec.Cmd {
	return child(p.t, p.program, append([]string{"--public-key", p.key, "--mirror", p.mirror + "/{release}", "--home", filepath.Join(p.mirror, "none")}, args...)...)
}

// there is the release whose client is there, whole.
func (p *published) there() string {
	p.t.Helper()
	data, err := os.ReadFile(p.program)
	if err != nil {
		p.t.Fatal(err)
	}
	for tag, client := range p.clients {
		if bytes.Equal(data, client) {
			return tag
		}
	}
	p.t.Fatal("the program is that of neither release")
	return ""
}

// clean checks that all files are of one release, and that there are no others.
func (p *published) clean() {
	p.t.Helper()
	probe, err := os.ReadFile(filepath.Join(p.bin, "llcuda-probe"))
	if err != nil || string(probe) != probeOf(p.there()) {
		p.t.Fatalf("beside the program of %s: %q, %v", p.there(), probe, err)
	}
	entries, err := os.ReadDir(p.bin)
	if err != nil || len(entries) != 2 {
		p.t.Fatalf("left behind: %v, %v", entries, err)
	}
}

// Killed at any moment, self-update leaves the old program or the new one, whole, and the next one clears away the rest.
func TestSelfUpdateKilledAtAnyMoment(t *testing.T) {
	const kills = 30
	p := newPublished(t)
	killer := killtest.New(1, time.Second)
	left := 0
	for killer.Killed() < kills {
		was, wanted := p.there(), "v1.1.0-runtime"
		if was == wanted {
			wanted = "v1.0.0-runtime"
		}
		cmd := p.command("self-update", "--release", wanted)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		killed, err := killer.Run(cmd)
		now := p.there()
		switch {
		case err != nil:
			t.Fatalf("after a kill: %v\n%s", err, out.String())
		case killed:
			if entries, err := os.ReadDir(p.bin); err == nil && len(entries) > 2 {
				left++
			}
		case now != wanted:
			t.Fatalf("it ended well and left %s", now)
		default:
			p.clean()
		}
	}
	t.Logf("%d runs were killed, %d of them left something to clear, and %d ended by themselves", killer.Killed(), left, killer.Ended())
	if left == 0 || killer.Ended() == 0 {
		t.Error("that was no test")
	}
	// The next one clears up, although there is nothing to do.
	if out, err := p.command("self-update", "--release", p.there()).CombinedOutput(); err != nil || !strings.Contains(string(out), "already") {
		t.Fatalf("%v\n%s", err, out)
	}
	p.clean()
}

// Several updates at once: one replaces the program, and the others wait for it and report that the release is there
// already, or that the file at their path is no longer the program that they run from.
func TestSelfUpdatesAtOnce(t *testing.T) {
	p := newPublished(t)
	var commands []*exec.Cmd
	for range 6 {
		cmd := p.command("self-update", "--release", "v1.1.0-runtime")
		cmd.Stdout, cmd.Stderr = &bytes.Buffer{}, &bytes.Buffer{}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		commands = append(commands, cmd)
	}
	for _, cmd := range commands {
		if err := cmd.Wait(); err != nil && !strings.Contains(cmd.Stderr.(*bytes.Buffer).String(), "was removed or replaced since it started") {
			t.Errorf("%v\n%s%s", err, cmd.Stdout, cmd.Stderr)
		}
	}
	if got := p.there(); got != "v1.1.0-runtime" {
		t.Errorf("it is %s", got)
	}
	p.clean()
}

// A folder that cannot be written to, a disk that is full, a file system that runs no new programs: the error names the way
// out that fits, and all is as it was.
func TestSelfUpdateWhereItCannot(t *testing.T) {
	p := newPublished(t)
	for _, test := range []struct {
		name  string
		place string // makes the folder ./bin, with the program in it
		run   string // "UPDATE" is the command
		code  int
		want  string
		hint  string
	}{
		{name: "another user's", place: "cp -r $BIN bin && chmod 555 bin", run: "UPDATE", code: 1, want: "permission denied", hint: "another user owns it: sudo "},
		{name: "a read-only image", place: "mkdir bin && mount -t tmpfs tmpfs bin && cp $BIN/* bin && mount -o remount,ro bin", run: "UPDATE", code: 1, want: "read-only file system", hint: "build the image anew"},
		{name: "a program that is mounted", place: "cp -r $BIN bin && cp bin/llcuda-fetch it && mount --bind it bin/llcuda-fetch", run: "UPDATE", code: 1, want: "device or resource busy", hint: "something is mounted on it"},
		{name: "a full disk", place: "mkdir bin && mount -t tmpfs -o size=$((SIZE + 4000000)) tmpfs bin && cp $BIN/* bin", run: "UPDATE", code: 8, want: "bytes are needed", hint: "make room on the file system of "},
		{name: "room for the archive alone", place: "mkdir bin && mount -t tmpfs -o size=$((SIZE + SIZE)) tmpfs bin && cp $BIN/* bin", run: "UPDATE", code: 8, want: "no space left on device", hint: "make room on the file system of "},
		// The key arrives once nothing may be executed there any longer; that begins when the program, which is itself
		// executed there, has opened the key.
		{name: "noexec", place: "mkdir bin && mount -t tmpfs tmpfs bin && cp $BIN/* bin && mkfifo key", run: "KEY=key; UPDATE & exec 3>key; mount -o remount,noexec bin; cat $REALKEY >&3; exec 3>&-; wait $!", code: 1, want: "permission denied", hint: "is mounted noexec"},
	} {
		t.Run(test.name, func(t *testing.T) {
			work := t.TempDir()
			for _, private := range []string{filepath.Dir(work), filepath.Dir(p.bin), filepath.Dir(filepath.Dir(p.bin))} {
				if err := os.Chmod(private, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			update := "setpriv=; if [ \"$USER_ONLY\" ] && [ $(id -u) = 0 ]; then setpriv='setpriv --reuid=65534 --regid=65534 --clear-groups'; fi; "
			command := strings.Replace(test.run, "UPDATE", "$setpriv ./bin/llcuda-fetch self-update --release v1.1.0-runtime --home none --mirror $MIRROR --public-key $KEY", 1)
			script := update + test.place + "; cat bin/* | sha256sum >before; " + command + "; echo code $? >code; cat bin/* | sha256sum >after; ls -A bin >left"
			args := []string{"unshare", "--map-root-user", "--mount", "sh", "-c", script}
			if strings.HasPrefix(test.hint, "another user") {
				args = args[3:] // root in a user namespace is the user who owns the files
			}
			cmd := child(t, args[0], args[1:]...)
			cmd.Dir = work
			cmd.Env = append(os.Environ(), "HOME="+work, "BIN="+p.bin, "REALKEY="+p.key, "KEY="+p.key, "MIRROR="+filepath.Join(p.mirror, "v1.1.0-runtime"),
				fmt.Sprintf("SIZE=%d", len(p.clients["v1.0.0-runtime"])))
			if len(args) == 3 {
				cmd.Env = append(cmd.Env, "USER_ONLY=1")
			}
			out, err := cmd.CombinedOutput()
			if err != nil && strings.Contains(string(out), "unshare") {
				t.Skipf("this machine makes no namespaces: %s", out)
			}
			read := func(name string) string {
				data, err := os.ReadFile(filepath.Join(work, name))
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				return string(data)
			}
			if want := fmt.Sprintf("code %d\n", test.code); read("code") != want || !strings.Contains(string(out), test.want) || !strings.Contains(string(out), "\nhint: ") || !strings.Contains(string(out), test.hint) {
				t.Errorf("got %swant %s%q and the hint %q:\n%s", read("code"), want, test.want, test.hint, out)
			}
			if diff := cmp.Diff(read("before"), read("after")); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff("llcuda-fetch\nllcuda-probe\n", read("left")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A manifest that is too new for the program: it says that a newer program is needed, and self-update installs that all
// the same, by the sums under the same signature, which it checks as far as it can without the manifest.
func TestSelfUpdateFromANewerManifest(t *testing.T) {
	p := newPublished(t)
	r := p.releases["v1.1.0-runtime"]
	data := r.Read(t, manifests.ManifestName)
	newer := bytes.Replace(data, []byte(`"schema_version": 1`), []byte(`"schema_version": 99`), 1)
	if bytes.Equal(data, newer) {
		t.Fatal("the manifest has no schema_version")
	}
	if err := os.WriteFile(filepath.Join(r.Dir, manifests.ManifestName), newer, 0o644); err != nil {
		t.Fatal(err)
	}
	r.Sum(t)
	r.Sign(t)
	run := func(args ...string) (string, int) {
		t.Helper()
		cmd := p.command(args...)
		cmd.Args = append(cmd.Args, "--mirror", r.Dir) // after one that has it not
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	if err := os.RemoveAll(filepath.Join(p.mirror, "v1.1.0-runtime")); err != nil {
		t.Fatal(err)
	}
	if out, code := run("plan", "--release", "v1.1.0-runtime", "--as-host", "../../testdata/hosts/colab-t4.json"); code != 1 || !strings.Contains(out, "hint: llcuda-fetch self-update") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	archive := filepath.Join(r.Dir, manifests.ClientName("linux", "amd64"))
	good, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(good)
	bad[len(bad)/2] ^= 1
	if err := os.WriteFile(archive, bad, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, code := run("self-update", "--release", "v1.1.0-runtime"); code != exitUntrusted {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if err := os.WriteFile(archive, good, 0o644); err != nil {
		t.Fatal(err)
	}
	p.clean()
	if out, code := run("self-update", "--release", "v1.2.0-runtime"); code == 0 || p.there() != "v1.0.0-runtime" {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if out, code := run("self-update", "--release", "v1.1.0-runtime"); code != 0 || p.there() != "v1.1.0-runtime" {
		t.Errorf("exit code %d\n%s", code, out)
	}
	p.clean()
}
