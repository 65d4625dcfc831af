package cli

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
)

// publicFlags name a release that the public can download.
type publicFlags struct {
	repo, server, tag string
	signedBy          trust
}

func (p *publicFlags) flags(cmd *cobra.Command) {
	p.addressFlags(cmd)
	p.signedBy.flags(cmd)
}

func (p *publicFlags) addressFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.tag, "release", "", "`tag` of the published release, such as v1.1.0-runtime")
	p.repositoryFlags(cmd)
}

func (p *publicFlags) repositoryFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.repo, "repo", manifests.Repository, "the GitHub `repository` that has the release")
	cmd.Flags().StringVar(&p.server, "server", cmp.Or(os.Getenv("GITHUB_SERVER_URL"), "https://github.com"), "`URL` of the GitHub that has the repository (GITHUB_SERVER_URL)")
}

// repoForm is an owner and a repository's name, as GitHub allows them.
var repoForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+$`)

func (p *publicFlags) check() error {
	switch server, err := url.Parse(p.server); {
	case p.tag == "":
		return console.Usage(errors.New("--release is missing"), "name the release, like --release v1.1.0-runtime")
	case !releaseName.MatchString(p.tag):
		return console.Usage(fmt.Errorf("--release %q: letters, digits and ._- only", p.tag), "like --release v1.1.0-runtime")
	case !repoForm.MatchString(p.repo):
		return console.Usage(fmt.Errorf("--repo %q is not owner/name", p.repo), "like --repo "+manifests.Repository)
	case err != nil || server.Host == "" || server.Scheme != "https" && server.Scheme != "http":
		return console.Usage(fmt.Errorf("--server %q is not a URL", p.server), "like --server https://github.com")
	}
	return nil
}

// folder is where the release's assets are downloaded from.
func (p *publicFlags) folder() string {
	return strings.TrimSuffix(p.server, "/") + "/" + p.repo + "/releases/download/" + url.PathEscape(p.tag) + "/"
}
