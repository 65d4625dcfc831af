package cli

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/ci/internal/trial"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
)

func newTryCommand(term *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "try BUNDLE",
		Short: "Run a bundle's CPU variants on this machine and compare what they compute",
		Long: `Run a bundle's CPU variants on this machine and compare what they compute: every
variant that this CPU can run, on a small generated model, with the plainest one.

BUNDLE is an archive, or the folder that one was unpacked into. build does the same
with each host half on the engine's CPU; use try for another CPU. It needs no engine,
GPU or network.`,
		Example: `  go run ./ci try dist/llcuda-bins-sm75.tar.zst`,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return tryBundle(cmd.Context(), term, args[0]) },
	}
}

func tryBundle(ctx context.Context, term *terminal, bundle string) error {
	info, err := os.Stat(bundle)
	if err != nil {
		return console.Usage(fmt.Errorf("trying a bundle: %w", err), "give a bundle's archive, or the folder that it was unpacked into")
	}
	if !info.IsDir() {
		dir, remove, err := bundler.Scratch(ctx, "", "try")
		if err != nil {
			return err
		}
		defer remove()
		if bundle, err = farm.Unpack(ctx, bundle, dir); err != nil {
			return err
		}
	}
	report, err := trial.Run(ctx, bundle, func(r trial.Result) { term.Printf("%s", r) })
	if err != nil {
		return err
	}
	return report.Err()
}
