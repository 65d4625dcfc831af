package cli

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/ci/internal/release"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
	"github.com/waqasm86/llcuda-farm/publisher/provenance"
)

func newSignCommand(term *terminal) *cobra.Command {
	var as signing
	cmd := &cobra.Command{
		Use:   "sign DIR",
		Short: "Sign a release: bills of materials, provenance, SHA256SUMS",
		Long: `Sign a release: bills of materials, provenance, SHA256SUMS.

Writes what is in each archive (NAME.spdx.json) and a signed statement of how all of
them were built, describes the folder again with these files, and signs SHA256SUMS.
It verifies every signature the way a client does before it writes it. A folder that
is already signed stays as it is. After an interruption, repeat the command.

In a GitHub workflow with the permission id-token: write, it signs as the workflow.
Elsewhere --sign-in signs as a person, --oidc-token as the identity in a token, and
--key with a key. Clients accept these signers only with the same --identity and
--issuer, or with the public key.`,
		Example: `  go run ./ci sign dist                   # in the release workflow
  go run ./ci sign dist --key farm.key    # a private farm`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := existingDir(args[0])
			if err != nil {
				return err
			}
			m, err := spec.Default()
			if err != nil {
				return fmt.Errorf("reading the matrix: %w", err)
			}
			c, err := as.open(cmd.Context(), term, sigverify.Release)
			if err != nil {
				return err
			}
			return signDir(cmd.Context(), term, dir, release.SignOptions{Credential: c, Pin: m.LlamaCPP})
		},
	}
	as.flags(cmd)
	return cmd
}

// signDir signs a folder and prints the outcome.
func signDir(ctx context.Context, term *terminal, dir release.Dir, opts release.SignOptions) error {
	opts.Run = builtBy(opts.Identity)
	opts.Removed = func(name string) {
		why := "there is no such archive"
		if name == manifests.SignatureName {
			why = "it signed other files than these"
		}
		term.Warnf("removed %s: %s", dir.Path(name), why)
	}
	signed, err := dir.Sign(ctx, opts)
	switch name := dir.Path(manifests.SignatureName); {
	case err != nil:
		return err
	case signed.Already:
		term.Printf("%s: release %s is signed already, by %s", name, signed.Release, signed.By)
	default:
		term.Printf("%s: release %s, %d assets, signed by %s", name, signed.Release, signed.Assets, signed.By)
	}
	return nil
}

// builtBy is the run of the workflow that signs: it is the one that built, or that collected what
// its jobs built.
func builtBy(identity string) provenance.Run {
	if !strings.Contains(identity, "/.github/workflows/") {
		return provenance.Run{}
	}
	run := provenance.Run{Builder: identity}
	if id := os.Getenv("GITHUB_RUN_ID"); id != "" {
		run.Invocation = fmt.Sprintf("%s/%s/actions/runs/%s/attempts/%s", cmp.Or(os.Getenv("GITHUB_SERVER_URL"), "https://github.com"),
			os.Getenv("GITHUB_REPOSITORY"), id, cmp.Or(os.Getenv("GITHUB_RUN_ATTEMPT"), "1"))
	}
	return run
}
