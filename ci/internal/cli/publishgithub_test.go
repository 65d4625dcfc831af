package cli

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/publisher/ghtest"
)

// githubCommands are the scripts' commands for a GitHub of their own:
//
//	github DIR        starts one, with a token, and makes a signed release folder whose key is DIR.pub
//	next DIR TAG SM…  makes another one with these bundles, which the same key signs
//	fault WORDS…      lets the named fault happen once
//	released          lists in released.txt what was released
//	notes TAG         writes the notes of a release to notes.md
func githubCommands(t *testing.T) map[string]func(*testscript.TestScript, bool, []string) {
	var mu sync.Mutex
	servers := map[string]*ghtest.Server{}
	made := map[string]*fetchtest.Release{}
	of := func(ts *testscript.TestScript) *ghtest.Server {
		mu.Lock()
		defer mu.Unlock()
		return servers[ts.Getenv("GITHUB_API_URL")]
	}
	faults := map[string]ghtest.Fault{
		"broken upload":   {On: ghtest.Upload, Name: "llcuda-bins-sm75.tar.gz", At: ghtest.Middle},
		"no rights":       {On: ghtest.Create, Status: 403, Message: "Resource not accessible by personal access token"},
		"expired":         {On: ghtest.Upload, Name: "manifest.json", Status: 401, Message: "Bad credentials"},
		"no list":         {On: ghtest.List, Status: 404, Message: "Not Found"},
		"broken download": {On: ghtest.Storage, Name: "llcuda-bins-sm75.tar.gz", At: ghtest.Middle},
	}
	return map[string]func(*testscript.TestScript, bool, []string){
		"github": func(ts *testscript.TestScript, _ bool, args []string) {
			server := ghtest.New(t, ghtest.Options{})
			release := fetchtest.New(t, fetchtest.Options{})
			mu.Lock()
			servers[server.APIURL], made[server.APIURL] = server, release
			mu.Unlock()
			ts.Setenv("GITHUB_API_URL", server.APIURL)
			ts.Setenv("GITHUB_TOKEN", server.Token)
			ts.Setenv("SERVER", server.URL)
			ts.Check(os.CopyFS(ts.MkAbs(args[0]), os.DirFS(release.Dir)))
			ts.Check(os.WriteFile(ts.MkAbs(args[0]+".pub"), release.PublicKey(t), 0o644))
		},
		"next": func(ts *testscript.TestScript, _ bool, args []string) {
			mu.Lock()
			first := made[ts.Getenv("GITHUB_API_URL")]
			mu.Unlock()
			options := fetchtest.Options{Tag: args[1]}
			for _, text := range args[2:] {
				sm, err := matrix.ParseSM(text)
				ts.Check(err)
				options.SMs = append(options.SMs, sm)
			}
			release := fetchtest.New(t, options)
			release.SignWith(t, first)
			ts.Check(os.CopyFS(ts.MkAbs(args[0]), os.DirFS(release.Dir)))
		},
		"notes": func(ts *testscript.TestScript, _ bool, args []string) {
			for _, release := range of(ts).Releases(ghtest.Repository) {
				if release.Tag == args[0] {
					ts.Check(os.WriteFile(ts.MkAbs("notes.md"), []byte(release.Notes), 0o644))
					return
				}
			}
			ts.Fatalf("there is no release %s", args[0])
		},
		"fault": func(ts *testscript.TestScript, _ bool, args []string) {
			fault, ok := faults[strings.Join(args, " ")]
			if !ok {
				ts.Fatalf("there is no such fault")
			}
			of(ts).Fail(fault)
		},
		"released": func(ts *testscript.TestScript, _ bool, args []string) {
			var lines []string
			for _, release := range of(ts).Releases(ghtest.Repository) {
				state := "public"
				if release.Draft {
					state = "draft"
				}
				for _, asset := range release.Assets {
					lines = append(lines, strings.Join([]string{release.Tag, state, asset.Name, asset.State}, " "))
				}
			}
			ts.Check(os.WriteFile(filepath.Join(ts.Getenv("WORK"), "released.txt"), []byte(strings.Join(lines, "\n")+"\n"), 0o644))
		},
	}
}
