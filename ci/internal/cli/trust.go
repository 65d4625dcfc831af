package cli

import (
	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
)

// trust names the signer whose signature over a release is accepted: the farm's own workflow, unless
// the flags say otherwise. The flags are those of llcuda-fetch.
type trust struct{ issuer, identity, trustedRoot, key string }

func (t *trust) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.issuer, "issuer", "", "OIDC issuer `URL` of the signing certificate (default: GitHub Actions)")
	cmd.Flags().StringVar(&t.identity, "identity", "", "expected signer: a workflow `URL`, or a full identity including @ref (default: the farm's release workflow)")
	cmd.Flags().StringVar(&t.trustedRoot, "trusted-root", "", "`file` with the Sigstore trusted root to verify against (default: the public Sigstore's)")
	cmd.Flags().StringVar(&t.key, "public-key", "", "`file` with the public key of a private farm, in PEM")
}

// verifier is the client's own.
func (t *trust) verifier() (*sigverify.Verifier, error) {
	_, verifier, err := t.policy(sigverify.Release)
	return verifier, err
}

// policy is what must hold for one kind of signature, and the client's verifier of it.
func (t *trust) policy(kind policyFor) (sigverify.Policy, *sigverify.Verifier, error) {
	root, err := readOptional(t.trustedRoot)
	if err != nil {
		return sigverify.Policy{}, nil, err
	}
	key, err := readOptional(t.key)
	if err != nil {
		return sigverify.Policy{}, nil, err
	}
	policy := kind(t.issuer, t.identity, root, key)
	verifier, err := sigverify.New(policy)
	if err != nil {
		return sigverify.Policy{}, nil, console.Usage(err, "a public key stands alone, without --issuer, --identity and --trusted-root")
	}
	return policy, verifier, nil
}
