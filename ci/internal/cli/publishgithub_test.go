package cli

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/publisher/ghtest"
)

// githubCommands are the scripts' commands for a GitHub of their own:
//
//	github DIR    starts one, with a token, and makes a signed release folder whose key is DIR.pub
//	fault WORDS…  lets the named fault happen once
//	released      lists in released.txt what was released
func githubCommands(t *testing.T) map[string]func(*testscript.TestScript, bool, []string) {
	var mu sync.Mutex
	servers := map[string]*ghtest.Server{}
	of := func(ts *testscript.TestScript) *ghtest.Server {
		mu.Lock()
		defer mu.Unlock()
		return servers[ts.Getenv("GITHUB_API_URL")]
	}
	faults := map[string]ghtest.Fault{
		"broken upload":   {On: ghtest.Upload, Name: "llcuda-bins-sm75.tar.gz", At: ghtest.Middle},
		"no rights":       {On: ghtest.Create, Status: 403, Message: "Resource not accessible by personal access token"},
		"expired":         {On: ghtest.Upload, Name: "manifest.json", Status: 401, Message: "Bad credentials"},
		"broken download": {On: ghtest.Storage, Name: "llcuda-bins-sm75.tar.gz", At: ghtest.Middle},
	}
	return map[string]func(*testscript.TestScript, bool, []string){
		"github": func(ts *testscript.TestScript, _ bool, args []string) {
			server := ghtest.New(t, ghtest.Options{})
			mu.Lock()
			servers[server.APIURL] = server
			mu.Unlock()
			ts.Setenv("GITHUB_API_URL", server.APIURL)
			ts.Setenv("GITHUB_TOKEN", server.Token)
			ts.Setenv("SERVER", server.URL)
			release := fetchtest.New(t, fetchtest.Options{})
			ts.Check(os.CopyFS(ts.MkAbs(args[0]), os.DirFS(release.Dir)))
			ts.Check(os.WriteFile(ts.MkAbs(args[0]+".pub"), release.PublicKey(t), 0o644))
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
