package cli

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
)

// trust is whose signature over a release counts: the farm's own workflow's, unless the flags say otherwise. They are
// those of llcuda-fetch.
type trust struct{ issuer, identity, trustedRoot, key string }

func (t *trust) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.issuer, "issuer", "", "who must vouch for the signer: an `address` (default: GitHub Actions)")
	cmd.Flags().StringVar(&t.identity, "identity", "", "who must have signed: a workflow's `address`, or a whole identity with its @ (default: the farm's release workflow)")
	cmd.Flags().StringVar(&t.trustedRoot, "trusted-root", "", "`file` with the Sigstore trusted root to verify against (default: the public Sigstore's)")
	cmd.Flags().StringVar(&t.key, "public-key", "", "`file` with the public key of a private farm, in PEM")
}

// verifier is the client's own.
func (t *trust) verifier() (*sigverify.Verifier, error) {
	read := func(path string) ([]byte, error) {
		if path == "" {
			return nil, nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, &usageError{err, "give a file that can be read"}
		}
		return data, nil
	}
	root, err := read(t.trustedRoot)
	if err != nil {
		return nil, err
	}
	key, err := read(t.key)
	if err != nil {
		return nil, err
	}
	verifier, err := sigverify.New(sigverify.Release(t.issuer, t.identity, root, key))
	if err != nil {
		return nil, &usageError{err, ""}
	}
	return verifier, nil
}
