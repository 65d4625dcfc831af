package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/ci/internal/release"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
)

func newManifestCommand(term *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "manifest DIR",
		Short: "Write manifest.json and SHA256SUMS for the bundles in a folder",
		Long: `Write manifest.json and SHA256SUMS for the bundles in a folder, which may have
been built on several machines. It reads everything from the archives, which must
belong to one release and one llama.cpp.`,
		Example: `  go run ./ci manifest dist`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := existingDir(args[0])
			if err != nil {
				return err
			}
			return describeDir(cmd.Context(), term, dir, nil)
		},
	}
}

// describeDir describes a folder and prints the outcome.
func describeDir(ctx context.Context, term *terminal, dir release.Dir, known *release.Ledger) error {
	says, err := dir.Describe(ctx, known)
	if says.SignatureRemoved {
		term.Warnf("removed %s: it signed other files than these", dir.Path(manifests.SignatureName))
	}
	if err != nil {
		return err
	}
	state := "not signed"
	if says.SignatureStays {
		state = "the signature stays"
	}
	term.Printf("%s: release %s, llama.cpp %s, %d assets; %s", dir.Path(manifests.ManifestName), says.Release.Release, says.Release.LlamaCPP.Version, len(says.Release.Assets), state)
	return nil
}

// existingDir is a folder that the user named.
func existingDir(name string) (release.Dir, error) {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir():
		return "", console.Usage(fmt.Errorf("%s is not a folder", name), "give the folder that build wrote to")
	case err != nil:
		return "", err
	}
	return release.Dir(name), nil
}
