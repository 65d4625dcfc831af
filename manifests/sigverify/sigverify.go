// Package sigverify verifies the signatures of a farm, offline: that over a release's SHA256SUMS, and those on statements,
// as the release pointer and the provenance are.
//
// llcuda-fetch and the publisher call it. The input is a Policy that says whose signature counts, and the bytes of
// SHA256SUMS with those of SHA256SUMS.sigstore.json, or those of a Sigstore bundle with a statement in it. The output
// is the Signer, and the statement, or a *SignatureError that says why the signature does not count:
//
//	Policy ──New──▶ Verifier ──Verify(sums, bundle)──▶ Signer
//	                    └──VerifyStatement(bundle)──▶ Statement, Signer
//
// A keyless signature counts if all of this holds: its certificate was issued by the trusted root's CA and is in its
// certificate log (one SCT), the signature is in a transparency log, a log or a timestamp authority saw it while the
// certificate was valid, and the certificate names exactly the issuer and the identity of the policy, and the
// repository and kind of runner where the policy has them. Names are compared as wholes: a pattern that is not anchored
// takes evil/repository for repository. Where a policy leaves the ref open (Refs), the Signer says which it was, and a
// caller that knows the release compares it. A signature by key counts if it is that key's.
//
// The package never uses the network, never refreshes a trusted root, and never reads a file. It is the only one of
// the client's that links sigstore-go.
package sigverify

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

// GitHubActions is the issuer of the identities of GitHub's workflows:
// https://docs.github.com/en/actions/concepts/security/openid-connect
const GitHubActions = "https://token.actions.githubusercontent.com"

// Tags are the refs of tags.
const Tags = "refs/tags/"

// publicRoot is the trusted root of the public Sigstore, as the npm package @sigstore/tuf 4.0.2 carries it (seeds.json):
// Rekor v1 and the first shard of v2, Fulcio, its certificate logs, and the timestamp authority.
//
//go:embed trusted_root.json
var publicRoot []byte

// MaxSize bounds a Sigstore bundle, in bytes. One over SHA256SUMS has about 10 kB.
const MaxSize = 1 << 20

// A Policy says whose signature counts: that of an identity (Issuer and Identity), or that of PublicKey.
type Policy struct {
	// Issuer is who vouched for the identity: GitHubActions.
	Issuer string
	// Identity is the certificate's subject. With Refs it is a workflow's address without its ref:
	// "https://github.com/owner/name/.github/workflows/release.yml".
	Identity string
	// Refs is the beginning of the refs that the workflow may have run for, from the workflow as it was there: Tags.
	Refs string
	// Repository is "https://github.com/owner/name"; RepositoryID and OwnerID are GitHub's numbers for them, which a
	// later owner of the same names does not get. Each is compared if given.
	Repository, RepositoryID, OwnerID string
	// Runner is "github-hosted" or "self-hosted". It is compared if given.
	Runner string
	// TrustedRoot is a Sigstore trusted root, in JSON; the public Sigstore's where it is empty.
	TrustedRoot []byte

	// PublicKey is a key in PEM, for farms without Sigstore. It stands alone.
	PublicKey []byte
}

// A Signer is who signed.
type Signer struct {
	// Key reports whether the policy's key did. Then there is neither an identity nor a time.
	Key bool `json:"key"`
	// Issuer and Identity are the certificate's.
	Issuer   string `json:"issuer"`
	Identity string `json:"identity"`
	// Ref is what the workflow ran for, where the policy left that open: "refs/tags/v1.1.0-runtime".
	Ref string `json:"ref"`
	// Commit is the commit that the workflow ran for, and Run the address of that run.
	Commit string `json:"commit"`
	Run    string `json:"run"`
	// Time is the first that a log or a timestamp authority saw of the signature.
	Time time.Time `json:"time"`
}

// By is the signer for a person: the identity, or that it was a key.
func (s Signer) By() string {
	if s.Key {
		return "the key given"
	}
	return s.Identity
}

// Tag is the tag that the workflow ran for; empty where the signature does not tell. A branch is given as the whole ref,
// which is not a release's tag.
func (s Signer) Tag() string { return strings.TrimPrefix(s.Ref, Tags) }

// A Problem is the way in which a signature does not count.
type Problem string

const (
	// Malformed means that the input is not a Sigstore bundle over a file.
	Malformed Problem = "malformed"
	// OtherFile is a signature over another file.
	OtherFile Problem = "other file"
	// OtherSigner is a valid signature by an unknown signer, or for another release.
	OtherSigner Problem = "other signer"
	// Invalid is a signature that does not hold, or a certificate, log or time that the trusted root does not know.
	Invalid Problem = "invalid"
)

// A SignatureError is a signature that does not count. Nothing that it covers may be used, and trying again does not
// help.
type SignatureError struct {
	Problem Problem
	Err     error
}

func (e *SignatureError) Error() string { return "verifying the signature: " + e.Err.Error() }
func (e *SignatureError) Unwrap() error { return e.Err }

// Hint says what the problem may mean.
func (e *SignatureError) Hint() string {
	switch e.Problem {
	case OtherFile:
		return "SHA256SUMS or its signature was changed after signing, or a mirror mixes two releases"
	case OtherSigner:
		return "somebody else made this release, or it is the release of another tag; --identity and --issuer, or --public-key, say whose releases to trust"
	case Invalid:
		return "the signature may be forged, or newer than the trusted root of this program; --trusted-root gives it another one"
	}
	return "the signature file is damaged, or it is none"
}

// A Verifier verifies by one policy. It may be used by several goroutines at once.
type Verifier struct {
	verifier *verify.Verifier
	signer   verify.PolicyOption
	byKey    bool
	anyRef   string // the identity up to its ref, where the policy leaves the ref open
}

// New reads the policy. Its errors are of the policy, never of a signature.
func New(policy Policy) (*Verifier, error) {
	if len(policy.PublicKey) > 0 {
		return newByKey(policy)
	}
	if policy.Issuer == "" || policy.Identity == "" {
		return nil, errors.New("reading the signature policy: an issuer and an identity are needed, or a key")
	}
	identity, err := policy.identity()
	if err != nil {
		return nil, fmt.Errorf("reading the signature policy: %w", err)
	}
	material := policy.TrustedRoot
	if len(material) == 0 {
		material = publicRoot
	}
	trusted, err := root.NewTrustedRootFromJSON(material)
	if err != nil {
		return nil, fmt.Errorf("reading the trusted root: %w", err)
	}
	verifier, err := verify.NewVerifier(trusted,
		verify.WithSignedCertificateTimestamps(1), verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
	if err != nil {
		return nil, fmt.Errorf("reading the signature policy: %w", err)
	}
	v := &Verifier{verifier: verifier, signer: verify.WithCertificateIdentity(identity)}
	if policy.Refs != "" {
		v.anyRef = policy.Identity + "@"
	}
	return v, nil
}

func newByKey(policy Policy) (*Verifier, error) {
	if policy.Issuer != "" || policy.Identity != "" || len(policy.TrustedRoot) > 0 {
		return nil, errors.New("reading the signature policy: a key stands alone, without issuer, identity and trusted root")
	}
	public, err := cryptoutils.UnmarshalPEMToPublicKey(policy.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("reading the public key: %w", err)
	}
	key, err := signature.LoadDefaultVerifier(public)
	if err != nil {
		return nil, fmt.Errorf("reading the public key: %w", err)
	}
	// The policy has one key: the hint by which a bundle names its own key is not to be trusted.
	trusted := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) {
		return root.NewExpiringKey(key, time.Time{}, time.Time{}), nil
	})
	verifier, err := verify.NewVerifier(trusted, verify.WithNoObserverTimestamps())
	if err != nil {
		return nil, fmt.Errorf("reading the signature policy: %w", err)
	}
	return &Verifier{verifier: verifier, signer: verify.WithKey(), byKey: true}, nil
}

// identity is what the certificate must say.
func (p Policy) identity() (verify.CertificateIdentity, error) {
	subject := verify.SubjectAlternativeNameMatcher{SubjectAlternativeName: p.Identity}
	if p.Refs != "" {
		pattern, err := regexp.Compile("^" + regexp.QuoteMeta(p.Identity+"@"+p.Refs) + "[A-Za-z0-9._/-]+$")
		if err != nil {
			return verify.CertificateIdentity{}, err
		}
		subject = verify.SubjectAlternativeNameMatcher{Regexp: *pattern}
	}
	return verify.NewCertificateIdentity(subject, verify.IssuerMatcher{Issuer: p.Issuer}, certificate.Extensions{
		SourceRepositoryURI:             p.Repository,
		SourceRepositoryIdentifier:      p.RepositoryID,
		SourceRepositoryOwnerIdentifier: p.OwnerID,
		RunnerEnvironment:               p.Runner,
	})
}

// Verify verifies that a Sigstore bundle is a signature over the bytes of SHA256SUMS that counts. Its error is a
// *SignatureError.
func (v *Verifier) Verify(sums, signed []byte) (Signer, error) {
	entity, err := read(signed)
	if err != nil {
		return Signer{}, &SignatureError{Malformed, err}
	}
	content, err := entity.SignatureContent()
	if err != nil {
		return Signer{}, &SignatureError{Malformed, err}
	}
	message := content.MessageSignatureContent()
	if message == nil {
		return Signer{}, &SignatureError{Malformed, errors.New("it is over a statement, not over a file")}
	}
	// The digest in the bundle is not proof; it only makes for a better message.
	digest := sha256.Sum256(sums)
	if message.DigestAlgorithm() == "SHA2_256" && !bytes.Equal(message.Digest(), digest[:]) {
		return Signer{}, &SignatureError{OtherFile, fmt.Errorf("it is over a file with sha256 %x, not %x", message.Digest(), digest)}
	}
	return v.verify(entity, verify.WithArtifact(bytes.NewReader(sums)))
}

func read(signed []byte) (*bundle.Bundle, error) {
	if len(signed) > MaxSize {
		return nil, fmt.Errorf("it has more than %d bytes", MaxSize)
	}
	var entity bundle.Bundle
	if err := entity.UnmarshalJSON(signed); err != nil {
		return nil, err
	}
	return &entity, nil
}

// verify checks an entity against the policy, whatever it signs.
func (v *Verifier) verify(entity verify.SignedEntity, artifact verify.ArtifactPolicyOption) (Signer, error) {
	// By itself this is not proof of anything; it only gives a better message than the failure
	// below.
	if content, err := entity.VerificationContent(); err == nil {
		switch byKey := content.Certificate() == nil; {
		case byKey && !v.byKey:
			return Signer{}, &SignatureError{OtherSigner, errors.New("a key made it, and a workflow's is wanted")}
		case !byKey && v.byKey:
			return Signer{}, &SignatureError{OtherSigner, errors.New("it has a certificate, and the key's is wanted")}
		}
	}
	result, err := v.verifier.Verify(entity, verify.NewPolicy(artifact, v.signer))
	var identity *verify.ErrNoMatchingCertificateIdentity
	switch {
	case errors.As(err, &identity):
		return Signer{}, &SignatureError{OtherSigner, err}
	case err != nil:
		return Signer{}, &SignatureError{Invalid, err}
	case v.byKey:
		return Signer{Key: true}, nil
	case result.Signature == nil || result.Signature.Certificate == nil:
		return Signer{}, &SignatureError{Invalid, errors.New("it has no certificate")}
	}
	by := result.Signature.Certificate
	signer := Signer{Issuer: by.Issuer, Identity: by.SubjectAlternativeName, Commit: by.SourceRepositoryDigest, Run: by.RunInvocationURI}
	if v.anyRef != "" {
		// The workflow's ref and the ref that it ran for are separate: a workflow may be called for another
		// repository's tag.
		if signer.Ref = strings.TrimPrefix(signer.Identity, v.anyRef); by.SourceRepositoryRef != signer.Ref {
			return Signer{}, &SignatureError{OtherSigner, fmt.Errorf("the workflow of %s ran for %s", signer.Ref, by.SourceRepositoryRef)}
		}
	}
	for _, seen := range result.VerifiedTimestamps {
		if signer.Time.IsZero() || seen.Timestamp.Before(signer.Time) {
			signer.Time = seen.Timestamp.UTC()
		}
	}
	return signer, nil
}
