package main

import (
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchcli"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
)

// verifier is sigverify's as package fetch wants it.
type verifier struct{ *sigverify.Verifier }

// newVerifier makes the verifier for what the user trusts. Of the farm's own workflow it also wants the repository and
// the kind of runner; of another signer only what the flags say.
func newVerifier(t fetchcli.Trust) (fetch.Verifier, error) {
	policy := sigverify.Policy{Issuer: t.Issuer, Identity: t.Identity, TrustedRoot: t.TrustedRoot, PublicKey: t.PublicKey}
	if t.Identity != "" && !strings.Contains(t.Identity, "@") {
		policy.Refs = sigverify.Tags
	}
	if t.Identity == manifests.SignerIdentity {
		policy.Repository, policy.RepositoryID, policy.OwnerID = manifests.RepositoryURL, manifests.RepositoryID, manifests.OwnerID
		policy.Runner = "github-hosted"
	}
	v, err := sigverify.New(policy)
	if err != nil {
		return nil, err
	}
	return verifier{v}, nil
}

// Verify implements fetch.Verifier.
func (v verifier) Verify(sums, signed []byte) (fetch.Signer, error) {
	signer, err := v.Verifier.Verify(sums, signed)
	if err != nil {
		return fetch.Signer{}, err
	}
	by := signer.Identity
	if signer.Key {
		by = "the key given"
	}
	return fetch.Signer{By: by, Tag: strings.TrimPrefix(signer.Ref, sigverify.Tags)}, nil
}
