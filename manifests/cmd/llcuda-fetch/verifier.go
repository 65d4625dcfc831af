package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"

	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchcli"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
)

// verifier is sigverify's as package fetch wants it: one for releases and one for the release pointer.
type verifier struct {
	release, pointer *sigverify.Verifier
	key              string // an ID of the key, where there is one
}

// newVerifier makes the verifiers for what the user trusts.
func newVerifier(t fetchcli.Trust) (fetchcli.Verifier, error) {
	release, err := sigverify.New(sigverify.Release(t.Issuer, t.Identity, t.TrustedRoot, t.PublicKey))
	if err != nil {
		return nil, err
	}
	pointer, err := sigverify.New(sigverify.Pointer(t.Issuer, t.Identity, t.TrustedRoot, t.PublicKey))
	if err != nil {
		return nil, err
	}
	v := &verifier{release: release, pointer: pointer}
	if block, _ := pem.Decode(t.PublicKey); block != nil {
		sum := sha256.Sum256(block.Bytes)
		v.key = "key sha256:" + hex.EncodeToString(sum[:])
	}
	return v, nil
}

// Verify implements fetch.Verifier.
func (v *verifier) Verify(sums, signed []byte) (fetch.Signer, error) {
	signer, err := v.release.Verify(sums, signed)
	if err != nil {
		return fetch.Signer{}, err
	}
	return v.signer(signer), nil
}

// VerifyPointer implements fetch.PointerVerifier.
func (v *verifier) VerifyPointer(signed []byte) ([]byte, fetch.Signer, error) {
	statement, signer, err := v.pointer.VerifyStatement(signed)
	if err != nil {
		return nil, fetch.Signer{}, err
	}
	return statement.Payload, v.signer(signer), nil
}

func (v *verifier) signer(s sigverify.Signer) fetch.Signer {
	id := s.Issuer + " " + s.Identity
	if s.Key {
		id = v.key
	}
	return fetch.Signer{By: s.By(), ID: id, Tag: s.Tag(), Commit: s.Commit}
}
