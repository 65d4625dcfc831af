package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
)

func manifestCommand(term *terminal) *cobra.Command {
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
			return dir.writeManifest(cmd.Context(), term, nil)
		},
	}
}

// existingDir is a folder that the user named.
func existingDir(name string) (releaseDir, error) {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir():
		return "", &usageError{fmt.Errorf("%s is not a folder", name), "give the folder that build wrote to"}
	case err != nil:
		return "", err
	}
	return releaseDir(name), nil
}
