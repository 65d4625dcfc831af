package cli

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/hub"
	"github.com/waqasm86/llcuda-farm/manifests/gguf"
	"github.com/waqasm86/llcuda-farm/manifests/gguf/tinygguf"
	"github.com/waqasm86/llcuda-farm/publisher/hfhub"
	"github.com/waqasm86/llcuda-farm/publisher/hftest"
)

// The scripts publish to a real Hub what they bring from another repository of it.
func TestModelScripts(t *testing.T) {
	params := scripts(t, "testdata/hub")
	maps.Copy(params.Cmds, hubCommands(t))
	testscript.Run(t, params)
}

// hubCommands are the scripts' commands for a Hub of their own:
//
//	hub                       starts one, with a token, and a cache of its own
//	gguf FILE SEED            writes a small model, and sets SHA and SIZE
//	upload REPO FILE PATH     puts a file into a repository as another client would; sets COMMIT
//	trouble STAGE DO [STATUS] lets something go wrong: see hftest.Fault
//	held REPO                 lists in held.txt what a repository has, and how many commits
//	read REPO PATH FILE       downloads a file of a repository
//	pull REPO FILE            downloads a file as llcuda-fetch does, and checks it
//	trust TOKEN REPO          makes the repository trust any client that has the ID token
//	requests                  lists in requests.txt the requests to the Hub since the last time
//	expand FILE               makes FILE of FILE.in, with the script's variables in it
func hubCommands(t *testing.T) map[string]func(*testscript.TestScript, bool, []string) {
	var mu sync.Mutex
	hubs := map[string]*hftest.Hub{}
	of := func(ts *testscript.TestScript) *hftest.Hub {
		mu.Lock()
		defer mu.Unlock()
		return hubs[ts.Getenv("HF_ENDPOINT")]
	}
	return map[string]func(*testscript.TestScript, bool, []string){
		"hub": func(ts *testscript.TestScript, _ bool, _ []string) {
			server := hftest.Start(t)
			server.Set(hftest.Settings{LargeFrom: 1 << 20, PartsFrom: 2 << 20, PartSize: 1 << 20})
			mu.Lock()
			hubs[server.URL] = server
			mu.Unlock()
			ts.Setenv("HF_ENDPOINT", server.URL)
			ts.Setenv("HF_TOKEN", hftest.WriteToken)
			ts.Setenv("HF_HOME", filepath.Join(ts.Getenv("WORK"), "hf"))
		},
		"gguf": func(ts *testscript.TestScript, _ bool, args []string) {
			seed, err := strconv.ParseUint(args[1], 10, 64)
			ts.Check(err)
			file, err := os.Create(ts.MkAbs(args[0]))
			ts.Check(err)
			ts.Check(tinygguf.Write(file, tinygguf.Options{Seed: seed}))
			ts.Check(file.Close())
			data, err := os.ReadFile(ts.MkAbs(args[0]))
			ts.Check(err)
			ts.Setenv("SHA", fmt.Sprintf("%x", sha256.Sum256(data)))
			ts.Setenv("SIZE", fmt.Sprint(len(data)))
		},
		"upload": func(ts *testscript.TestScript, _ bool, args []string) {
			client := &hfhub.Client{Endpoint: ts.Getenv("HF_ENDPOINT"), Tokens: hfhub.StaticToken(hftest.WriteToken), FirstWait: time.Millisecond}
			files := []hfhub.File{{Path: args[2], Local: ts.MkAbs(args[1])}}
			done, err := client.Publish(context.Background(), args[0], func(context.Context, *hfhub.Head) ([]hfhub.File, error) { return files, nil }, hfhub.Options{})
			ts.Check(err)
			ts.Setenv("COMMIT", done.Commit)
			of(ts).Take()
		},
		"trouble": func(ts *testscript.TestScript, _ bool, args []string) {
			fault := hftest.Fault{Stage: args[0], Do: args[1]}
			if len(args) > 2 {
				var err error
				fault.Status, err = strconv.Atoi(args[2])
				ts.Check(err)
			}
			of(ts).Fail(fault)
		},
		"held": func(ts *testscript.TestScript, _ bool, args []string) {
			files, commits := of(ts).Files(args[0])
			lines := []string{fmt.Sprintf("%d commits", commits)}
			for _, path := range slices.Sorted(maps.Keys(files)) {
				lines = append(lines, fmt.Sprintf("%s %d %s", path, files[path].Size, files[path].SHA256))
			}
			ts.Check(os.WriteFile(ts.MkAbs("held.txt"), []byte(strings.Join(lines, "\n")+"\n"), 0o644))
		},
		"read": func(ts *testscript.TestScript, _ bool, args []string) {
			ts.Check(os.WriteFile(ts.MkAbs(args[2]), of(ts).Read(args[0], "main", args[1]), 0o644))
		},
		"pull": func(ts *testscript.TestScript, _ bool, args []string) {
			client := hub.Client{Cache: ts.MkAbs("pulled"), Endpoint: ts.Getenv("HF_ENDPOINT")}
			got, err := client.Download(context.Background(), hub.Ref{Repo: args[0], Path: args[1], Revision: "main"}, hub.Want{}, nil)
			ts.Check(err)
			ts.Check(hub.Verify(got.Path, hub.Want{}))
			header, err := gguf.Read(got.Path)
			ts.Check(err)
			if ngl, why := hub.Layers(header, []int{hub.Memory(header)}, 0); ngl < hub.AllLayers {
				ts.Fatalf("the page's GPU memory is not enough: %s", why)
			}
		},
		"trust": func(ts *testscript.TestScript, _ bool, args []string) {
			of(ts).Set(hftest.Settings{LargeFrom: 1 << 20, PartsFrom: 2 << 20, PartSize: 1 << 20, Publishers: map[string]string{args[0]: args[1]}})
		},
		"expand": func(ts *testscript.TestScript, _ bool, args []string) {
			data, err := os.ReadFile(ts.MkAbs(args[0] + ".in"))
			ts.Check(err)
			ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(os.Expand(string(data), ts.Getenv)), 0o644))
		},
		"requests": func(ts *testscript.TestScript, _ bool, _ []string) {
			var lines []string
			for _, r := range of(ts).Take() {
				lines = append(lines, r.Stage)
			}
			ts.Check(os.WriteFile(ts.MkAbs("requests.txt"), []byte(strings.Join(lines, "\n")+"\n"), 0o644))
		},
	}
}
