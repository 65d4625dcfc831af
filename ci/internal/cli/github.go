package cli

import (
	"cmp"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/publisher/ghrelease"
)

// gitHubFlags name a repository on a GitHub.
type gitHubFlags struct{ repo, api string }

func (g *gitHubFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&g.repo, "repo", manifests.Repository, "the GitHub `repository`, owner/name")
	cmd.Flags().StringVar(&g.api, "api-url", "", "`URL` of the API of a GitHub Enterprise (default: GITHUB_API_URL, else that of GITHUB_SERVER_URL)")
}

// gitHubToken is the token from the environment; it may be empty.
func gitHubToken() string { return cmp.Or(os.Getenv("GITHUB_TOKEN"), os.Getenv("GH_TOKEN")) }

// store is the repository's releases, and the address of the server that has it. The store creates tags at the commit, or
// at the default branch's if it is empty.
func (g *gitHubFlags) store(commit string) (store *ghrelease.Store, server string, err error) {
	if !repoForm.MatchString(g.repo) {
		return nil, "", console.Usage(fmt.Errorf("--repo %q is not owner/name", g.repo), "like --repo "+manifests.Repository)
	}
	api := cmp.Or(g.api, os.Getenv("GITHUB_API_URL"))
	if api == "" && os.Getenv("GITHUB_SERVER_URL") != "" {
		if api, err = ghrelease.APIURLOf(os.Getenv("GITHUB_SERVER_URL")); err != nil {
			return nil, "", console.Usage(err, "GITHUB_SERVER_URL is like https://github.com")
		}
	}
	if server, err = ghrelease.ServerURLOf(api); err == nil {
		store, err = ghrelease.New(g.repo, ghrelease.Options{APIURL: api, Token: gitHubToken(), Commit: commit})
	}
	if err != nil {
		return nil, "", console.Usage(err, "--api-url is like https://HOST/api/v3")
	}
	return store, server, nil
}
