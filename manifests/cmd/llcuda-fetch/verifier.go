package main

import (
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchcli"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
)

// verifier is sigverify's as package fetch wants it.
type verifier struct{ *sigverify.Verifier }

// newVerifier makes the verifier for what the user trusts.
func newVerifier(t fetchcli.Trust) (fetch.Verifier, error) {
	v, err := sigverify.New(sigverify.Release(t.Issuer, t.Identity, t.TrustedRoot, t.PublicKey))
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
