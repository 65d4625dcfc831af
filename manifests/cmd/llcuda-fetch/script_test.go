package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer/transfertest"
	"github.com/waqasm86/llcuda-farm/manifests/gguf/tinygguf"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/publisher/hftest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"llcuda-fetch": main, "noflock": noFlock, "standin": standIn})
}

// The commands of llcuda-fetch, as their users type them. Each script begins with the behavior that it shows.
func TestScripts(t *testing.T) {
	hosts, err := filepath.Abs("../../testdata/hosts")
	if err != nil {
		t.Fatal(err)
	}
	clients := t.TempDir()
	for _, release := range []string{"v1.0.0-runtime", "v1.1.0-runtime"} {
		build(t, filepath.Join(clients, release), ".", release)
	}
	deadline := time.Now().Add(buildPatience) // some of them build
	if own, ok := t.Deadline(); ok && own.Before(deadline) {
		deadline = own
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Deadline:            deadline,
		Setup: func(e *testscript.Env) error {
			e.Values["t"] = e.T().(testing.TB)
			e.Values["releases"] = map[string]*fetchtest.Release{}
			e.Values["servers"] = map[string]*transfertest.Server{}
			for name, value := range map[string]string{
				"HOSTS": hosts, "CLIENTS": clients, "HOME": e.WorkDir + "/home", "LLCUDA_HOME": e.WorkDir + "/store", "HF_HUB_CACHE": e.WorkDir + "/hub",
				"PATH": e.WorkDir + "/bin:" + e.Getenv("PATH"), "HF_ENDPOINT": "http://127.0.0.1:1",
			} {
				e.Setenv(name, value)
			}
			return os.MkdirAll(e.WorkDir+"/home", 0o777)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"release": makeRelease, "serve": serve, "point": point, "requests": requests, "exits": exits, "holdlock": holdLock, "hub": startHub, "packaged": packaged, "gguf": writeModel, "installs": installs,
		},
	})
}

// makeRelease makes a release: release NAME [tag=v1] [sm=75,89,ptx90] [linked] [model] [signed-by=OTHER] [client=FILE] [beside=FILE]
// [cpu=VARIANT:SCORE:COMMAND,…]. Its folder is $NAME, and the public key that its signature is by, $NAME.pub. The client's
// archive has a file as its llcuda-fetch, and others beside it.
func makeRelease(ts *testscript.TestScript, _ bool, args []string) {
	t, releases := ts.Value("t").(testing.TB), ts.Value("releases").(map[string]*fetchtest.Release)
	var o fetchtest.Options
	signer := ""
	for _, arg := range args[1:] {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "tag":
			o.Tag = value
		case "sm":
			for text := range strings.SplitSeq(value, ",") {
				row, err := matrix.ParseRow(text)
				ts.Check(err)
				if row.PTX {
					o.PTX = append(o.PTX, row.SM)
				} else {
					o.SMs = append(o.SMs, row.SM)
				}
			}
		case "padding":
			n, err := strconv.Atoi(value)
			ts.Check(err)
			o.Padding = n
		case "model":
			o.Models = append(o.Models, matrix.Model{Name: "tiny-Q4_K_M", Aliases: []string{"tiny"}, Repo: "org/tiny", File: "tiny.gguf", Source: "org/tiny", Licence: "mit"})
		case "linked":
			o.Linked = true
		case "server":
			o.Programs = map[string]string{"llama-server": "#!/bin/sh\n" + value + "\n"}
		case "cpu": // cpu=x64:1:true,haswell:2:exit 3
			o.CPU = map[string]string{}
			for variant := range strings.SplitSeq(value, ",") {
				parts := strings.SplitN(variant, ":", 3)
				o.CPU[parts[0]] = parts[1] + " " + parts[2]
			}
		case "signed-by":
			signer = value
		case "client":
			o.Client = append(o.Client,
				fetchtest.Entry{Name: "LICENSE", Mode: 0o644, Body: []byte("MIT\n")},
				fetchtest.Entry{Name: "completions/llcuda-fetch.bash", Mode: 0o644, Body: []byte("complete\n")},
				fetchtest.Entry{Name: "llcuda-fetch", Mode: 0o755, Body: []byte(ts.ReadFile(value))})
		case "beside":
			o.Client = append(o.Client, fetchtest.Entry{Name: filepath.Base(value), Mode: 0o755, Body: []byte(ts.ReadFile(value))})
		default:
			ts.Fatalf("release: what is %q?", arg)
		}
	}
	r := fetchtest.New(t, o)
	if signer != "" {
		r.SignWith(t, releases[signer])
	}
	releases[args[0]] = r
	ts.Setenv(args[0], r.Dir)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".pub"), r.PublicKey(t), 0o644))
}

// writeModel writes a model of a few layers: gguf FILE.
func writeModel(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Dir(path), 0o777))
	f, err := os.Create(path)
	ts.Check(err)
	ts.Check(errors.Join(tinygguf.Write(f, tinygguf.Options{}), f.Close()))
}

// packaged builds llcuda-fetch as it is packaged with a release, in the place of the test's own: packaged TAG.
func packaged(ts *testscript.TestScript, _ bool, args []string) {
	program := ts.MkAbs("bin/llcuda-fetch")
	ts.Check(os.MkdirAll(filepath.Dir(program), 0o777))
	cmd := child(ts.Value("t").(testing.TB), "go", "build", "-o", program, "-tags", "grpcnotrace", "-ldflags", "-X github.com/waqasm86/llcuda-farm/manifests/fetch/fetchcli.release="+args[0], ".")
	out, err := cmd.CombinedOutput()
	if err != nil {
		ts.Fatalf("go build: %v\n%s", err, out)
	}
}

// point writes a release pointer: point FOLDER RELEASE NUMBER [signed-by=OTHER] [issued=-1h] [expires=1h]
// [withdrawn=TAG:REASON]. The times are from now.
func point(ts *testscript.TestScript, _ bool, args []string) {
	t, releases := ts.Value("t").(testing.TB), ts.Value("releases").(map[string]*fetchtest.Release)
	number, err := strconv.ParseInt(args[2], 10, 64)
	ts.Check(err)
	r := releases[args[1]]
	signer, p := r, r.Pointer(t, number)
	for _, arg := range args[3:] {
		key, value, _ := strings.Cut(arg, "=")
		if key == "signed-by" {
			signer = releases[value]
			continue
		}
		if key == "withdrawn" {
			tag, reason, _ := strings.Cut(value, ":")
			p.Withdrawn = append(p.Withdrawn, manifests.Withdrawal{Release: tag, Reason: reason})
			continue
		}
		after, err := time.ParseDuration(value)
		ts.Check(err)
		at := time.Now().UTC().Truncate(time.Second).Add(after)
		switch key {
		case "issued":
			p.Issued = at
		case "expires":
			p.Expires = at
		default:
			ts.Fatalf("point: what is %q?", arg)
		}
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o777))
	ts.Check(os.WriteFile(filepath.Join(dir, manifests.PointerName), signer.SignPointer(t, p), 0o644))
}

// serve serves a folder: serve VARIABLE FOLDER [fault]. Its address is in the variable.
func serve(ts *testscript.TestScript, _ bool, args []string) {
	var fault transfertest.Fault
	if len(args) > 2 {
		faults := map[string]transfertest.Fault{
			"drop": {Drop: 3000, Times: 6}, "stall": {Stall: 3000}, "busy": {Status: 503, Times: 2}, "gone": {Status: 500}, "flip": {Flip: true},
		}
		var ok bool
		if fault, ok = faults[args[2]]; !ok {
			ts.Fatalf("serve: there is no fault %q", args[2])
		}
	}
	s := transfertest.New(ts.Value("t").(testing.TB), ts.MkAbs(args[1]), fault)
	ts.Value("servers").(map[string]*transfertest.Server)[args[0]] = s
	ts.Setenv(args[0], s.URL)
}

// requests says how many requests a server had: requests VARIABLE N.
func requests(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	got := len(ts.Value("servers").(map[string]*transfertest.Server)[args[0]].Requests())
	if (got == want) == neg {
		ts.Fatalf("%s had %d requests", args[0], got)
	}
}

// exits runs a program and wants its exit code: exits CODE PROGRAM [argument...]. Whatever refuses names a way out, and
// whatever fails says of nothing that it is installed.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
	if stderr := ts.ReadFile("stderr"); got >= exitUntrusted && !strings.Contains(stderr, "\nhint: ") && !strings.Contains(stderr, `"hints":["`) {
		ts.Fatalf("exit code %d, and no hint", got)
	}
	if stdout := ts.ReadFile("stdout"); got != 0 && strings.Contains(stdout, "installed in") {
		ts.Fatalf("exit code %d, and it says that something is installed", got)
	}
}

// installs installs the release good, served at $url, as a machine does: installs HOST ROW THROUGH RUNTIME FOLDER. Its device
// code is run as THROUGH says, CUDA's libraries are the RUNTIME's, and FOLDER has the programs, which find the GPU.
func installs(ts *testscript.TestScript, _ bool, args []string) {
	host, bundle, through, runtime, folder := args[0], "llcuda-bins-"+args[1], args[2], "llcuda-cudart-"+args[3], args[4]
	as := []string{"--as-host", filepath.Join(ts.Getenv("HOSTS"), host+".json")}
	from := append([]string{"--mirror", ts.Getenv("url"), "--public-key", "good.pub"}, as...)
	client := func(args ...string) string {
		exits(ts, false, append([]string{"0", "llcuda-fetch"}, args...))
		return ts.ReadFile("stdout")
	}
	if planned := client(append([]string{"plan"}, from...)...); !strings.Contains(planned, "bundle     "+bundle+", by "+through+"\n") {
		ts.Fatalf("%s is not to get %s by %s", host, bundle, through)
	}
	client(append([]string{"install"}, from...)...)
	client(append([]string{"verify", "--public-key", "good.pub"}, as...)...)
	if listed := client(append(as, "run", "llama-server", "--list-devices")...); !strings.Contains(listed, "CUDA0") {
		ts.Fatalf("%s has no CUDA", host)
	}
	programs, err := filepath.Glob(ts.MkAbs("store/bundles/" + bundle + "-*/binaries/*/llama-server"))
	ts.Check(err)
	if len(programs) != 1 || filepath.Base(filepath.Dir(programs[0])) != folder {
		ts.Fatalf("the programs of %s are %q", bundle, programs)
	}
	for _, library := range []string{"libcublas", "libcudart"} {
		linked, err := filepath.EvalSymlinks(filepath.Join(filepath.Dir(programs[0]), "../../lib", library+".so."+strings.TrimPrefix(folder, "cuda")))
		ts.Check(err)
		if name := filepath.Base(filepath.Dir(filepath.Dir(linked))); !strings.HasPrefix(name, runtime+"-") {
			ts.Fatalf("%s of %s is of %s, not of %s", library, host, name, runtime)
		}
	}
}

// startHub runs a real Hub, and has the official client fill it: hub VARIABLE FOLDER. A repository of the Hub, org/NAME, is a
// folder of that folder. Its address is in the variable.
func startHub(ts *testscript.TestScript, _ bool, args []string) {
	t := ts.Value("t").(testing.TB)
	hub, official := hftest.Start(t), hftest.NewOfficial(t)
	hub.Set(hftest.Settings{LargeFrom: 16})
	root := ts.MkAbs(args[1])
	repositories, err := os.ReadDir(root)
	ts.Check(err)
	for _, repository := range repositories {
		repo, dir, files := "org/"+repository.Name(), filepath.Join(root, repository.Name()), map[string]string{}
		ts.Check(filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() {
				inside, _ := filepath.Rel(dir, path)
				files[filepath.ToSlash(inside)] = path
			}
			return err
		}))
		official.Do(hftest.Deed{Do: "create", Hub: hub.URL, Token: hftest.WriteToken, Repo: repo}, nil)
		official.Do(hftest.Deed{Do: "upload", Hub: hub.URL, Token: hftest.WriteToken, Repo: repo, Files: files}, nil)
	}
	ts.Setenv(args[0], hub.URL)
}

// holdLock keeps the store's lock for a while, as another process would: holdlock STORE SECONDS.
func holdLock(ts *testscript.TestScript, _ bool, args []string) {
	home := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(home, 0o755))
	ts.Check(os.WriteFile(filepath.Join(home, "llcuda-store"), []byte("llcuda-fetch keeps its installations in this folder, format 1\n"), 0o644))
	lock := filepath.Join(home, "lock")
	cmd := child(ts.Value("t").(testing.TB), "flock", lock, "sh", "-c", fmt.Sprintf(`echo '{"pid":4711,"command":"llcuda-fetch install","since":"2026-01-02T03:04:05Z"}' >%s; sleep %s`, lock, args[1]))
	ts.Check(cmd.Start())
	ts.Defer(func() { _ = cmd.Wait() })
	for range 100 {
		if data, _ := os.ReadFile(lock); len(data) > 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	ts.Fatalf("the lock was not taken")
}
