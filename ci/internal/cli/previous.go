package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/ci/internal/release"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
)

func newPreviousCommand(term *terminal) *cobra.Command {
	c := previousCommand{term: term}
	cmd := &cobra.Command{
		Use:   "previous TAG",
		Short: "Print the published release that a new one follows",
		Long: `Print the tag of the published release that a new one follows: the one with the
greatest version below that of TAG. The release notes say what changed since that
release, and release.yml compares the speed with it. Drafts and prereleases do not
count.

If there is none, it prints nothing and exits with 0. The token is GITHUB_TOKEN or
GH_TOKEN; a public repository needs none.`,
		Example: `  go run ./ci previous v1.2.0-runtime`,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args[0]) },
	}
	c.flags(cmd)
	return cmd
}

// A previousCommand is one previous command under way.
type previousCommand struct {
	gitHubFlags
	term *terminal
}

func (c *previousCommand) run(ctx context.Context, tag string) error {
	if !releaseName.MatchString(tag) {
		return console.Usage(fmt.Errorf("%q is not a tag: letters, digits and ._- only", tag), "like go run ./ci previous v1.2.0-runtime")
	}
	store, server, err := c.store("") // no tag is created
	if err != nil {
		return err
	}
	previous, err := release.Previous(ctx, tag, store.Published)
	switch {
	case err != nil:
		return err
	case previous == "":
		c.term.Notef("%s/%s has no published release before %s", server, c.repo, tag)
	default:
		c.term.Printf("%s", previous)
	}
	return nil
}
