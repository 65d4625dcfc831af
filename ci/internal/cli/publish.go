package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
)

func newPublishCommand(term *terminal) *cobra.Command {
	publish := &cobra.Command{
		Use:   "publish",
		Short: "Publish a finished release, models, or the Python package",
		Long: `Publish a finished release, models, or the Python package. After any failure, repeat
the command: it never sends or deletes again what already arrived complete and
correct.`,
		Example: `  go run ./ci publish github dist
  go run ./ci publish models --repo owner/llcuda-models
  go run ./ci publish pypi dist`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return console.Usage(errors.New("publish: what to publish is missing"), "go run ./"+cmd.CommandPath()+" --help lists what can be published")
		},
	}
	publish.AddCommand(newPublishGitHubCommand(term), newPublishModelsCommand(term), newPublishPyPICommand(term))
	return publish
}
