package sigverify

import (
	"cmp"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// Release is the policy for the signature over a release's SHA256SUMS. Its arguments are what a person trusts instead of
// the farm's own workflow, each of which may be empty: an issuer, an identity, a trusted root, or a public key, which
// stands alone. An identity without "@" is a workflow, which may run for any tag. Of the farm's own workflow the policy
// also wants the repository, its numbers where this program has them, and the kind of runner; of another signer only what was given.
func Release(issuer, identity string, trustedRoot, publicKey []byte) Policy {
	policy := Policy{Issuer: issuer, Identity: identity, TrustedRoot: trustedRoot, PublicKey: publicKey}
	if len(publicKey) > 0 {
		return policy
	}
	policy.Issuer, policy.Identity = cmp.Or(issuer, manifests.SignerIssuer), cmp.Or(identity, manifests.SignerIdentity)
	if !strings.Contains(policy.Identity, "@") {
		policy.Refs = Tags
	}
	if policy.Identity == manifests.SignerIdentity {
		policy.Repository, policy.RepositoryID, policy.OwnerID = manifests.RepositoryURL, manifests.RepositoryID, manifests.OwnerID
		policy.Runner = "github-hosted"
	}
	return policy
}

// Pointer returns the policy for release pointers. It goes with the policy for releases that Release returns for the
// same arguments. A key signs both. A workflow of GitHub's signs releases from a tag; the pointer is signed from the
// default branch, by the workflow of the same repository that manifests.PointerWorkflow names: a user who may push to
// the one decides what is on the other. An identity that is not a workflow signs both.
func Pointer(issuer, identity string, trustedRoot, publicKey []byte) Policy {
	policy := Release(issuer, identity, trustedRoot, publicKey)
	if workflows := strings.Index(policy.Identity, "/.github/workflows/"); workflows >= 0 {
		repository := policy.Identity[:workflows]
		policy.Identity, policy.Refs, policy.Repository = repository+"/"+manifests.PointerWorkflow, "", repository
	}
	return policy
}
