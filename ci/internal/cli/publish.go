package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

func publishCommand(term *terminal) *cobra.Command {
	publish := &cobra.Command{
		Use:   "publish",
		Short: "Bring a finished release to the public",
		Long: `Bring a finished release to the public. Whatever fails on the way, the same
command again goes on from there: what is whole and right on the other side is
never sent twice and never deleted.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return &usageError{errors.New("publish: what, and where to?"), "go run ./" + cmd.CommandPath() + " --help lists it"}
		},
	}
	publish.AddCommand(publishGitHubCommand(term), publishModelsCommand(term), publishPyPICommand(term))
	return publish
}
