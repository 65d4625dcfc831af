package fetchcli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/manifests/fetch"
)

const selfUpdate = "self-update"

func (a *app) selfUpdateCommand() *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:   selfUpdate,
		Short: "Replace this program with the newest release's",
		Long: `Replace this program with the newest release's.

The new program is downloaded and verified like a bundle, and tried before it
replaces this one. A release that is not newer is accepted only if --release names it.`,
		Example: `  llcuda-fetch self-update
  llcuda-fetch self-update --release v1.1.0-runtime`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			program, err := ownProgram()
			if err != nil {
				return err
			}
			c, err := a.client("self-update")
			if err != nil {
				return err
			}
			c.Resolved = a.term.tellVerified
			if err := a.takeFrom(c, from); err != nil {
				return err
			}
			done, err := c.SelfUpdate(cmd.Context(), program, a.release)
			if err != nil {
				return err
			}
			switch {
			case a.json:
				return a.print(done)
			case done.Already && a.release == "":
				a.term.printf("llcuda-fetch %s is the newest", done.To)
			case done.Already:
				a.term.printf("llcuda-fetch is already of release %s", done.To)
			default:
				a.term.printf("llcuda-fetch %s replaced %s: %s", done.To, done.From, shortPath(done.Path))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "a folder that export filled, or its URL")
	return cmd
}

// published is the release that the program came with; empty for one that no release has.
func published() string {
	if strings.HasSuffix(release, "-snapshot") {
		return ""
	}
	return release
}

// ownProgram is the program that runs.
func ownProgram() (fetch.Program, error) {
	const installer = "install.sh of a release installs one that can be updated"
	if published() == "" {
		return fetch.Program{}, &hinted{errors.New("this llcuda-fetch was built from source and belongs to no release, so it cannot be updated"), "build it again from newer source; " + installer}
	}
	path, err := os.Executable()
	if err != nil {
		return fetch.Program{}, &hinted{err, "is /proc mounted? " + installer}
	}
	runs, err := os.Stat("/proc/self/exe")
	if err != nil {
		return fetch.Program{}, err
	}
	there, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fetch.Program{}, err
	}
	if err != nil || !os.SameFile(there, runs) {
		return fetch.Program{}, &hinted{fmt.Errorf("the file of this program, %s, was removed or replaced since it started", path), "run it again"}
	}
	return fetch.Program{Path: path, Release: release}, nil
}

// noteNewer says once that a release has a newer client than this one. It is news only of releases that were verified.
func (a *app) noteNewer(r *fetch.Release) {
	if a.newerNoted || a.skipSignature || published() == "" || !r.Newer(published()) {
		return
	}
	a.newerNoted = true
	a.term.notef("note: llcuda-fetch %s is out (this is %s): llcuda-fetch self-update", r.Release.Release, published())
}
