package release

import (
	"context"
	"fmt"

	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
	"github.com/waqasm86/llcuda-farm/publisher/cosign"
)

// A Credential is what to sign with, found before anything costs time.
type Credential struct {
	// Signer is asked for each signature, because a token may live shorter than a release takes.
	Signer func(context.Context) (*cosign.Signer, error)
	// Verifier is for the policy that the signatures must satisfy.
	Verifier *sigverify.Verifier
	Policy   sigverify.Policy
	// Issuer and Identity are those in the token; empty for a key.
	Issuer, Identity string
	// Signed is called with each signature that was made and verified, if it is not nil.
	Signed func(cosign.Signature)
}

// Expects refuses a signer that the policy does not accept for a tag, before anything goes into a
// public log.
func (c *Credential) Expects(tag string) error {
	want := c.Policy.Identity
	if c.Policy.Refs != "" {
		want += "@" + c.Policy.Refs + tag
	}
	if c.Identity == "" || len(c.Policy.PublicKey) > 0 || c.Identity == want && c.Issuer == c.Policy.Issuer {
		return nil
	}
	return failure.Refuse(
		fmt.Errorf("the token is that of %s, by %s; clients want %s, by %s", c.Identity, c.Issuer, want, c.Policy.Issuer),
		"releases are signed by the workflow that the tag runs; --identity and --issuer name another signer, whom every client must then name, too",
	)
}

// Sign makes a signature, and verifies it as clients do.
func (c *Credential) Sign(ctx context.Context, sign func(*cosign.Signer) (cosign.Signature, error), verify func(bundle []byte) error) ([]byte, error) {
	signer, err := c.Signer(ctx)
	if err != nil {
		return nil, err
	}
	signature, err := sign(signer)
	if err != nil {
		return nil, err
	}
	if err := verify(signature.Bundle); err != nil {
		return nil, failure.Refuse(fmt.Errorf("what was signed does not verify: %w", err), hintOf(err))
	}
	if c.Signed != nil {
		c.Signed(signature)
	}
	return signature.Bundle, nil
}
