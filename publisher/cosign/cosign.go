// Package cosign signs the files of a release, the way that `cosign verify-blob` and package
// sigverify verify them.
//
// ci's commands call it. It takes the bytes of a file, or an in-toto statement, and returns a
// Sigstore bundle over them:
//
//	token + Services ──Keyless──▶ Signer ──SignFile, SignStatement──▶ Signature
//	private key      ──WithKey──▶ Signer
//
// A keyless signature is made with a key that lives for that one signature: Fulcio certifies it for
// the identity that an OIDC token proves, a timestamp authority says when, and the transparency
// logs keep it publicly. The token is that of a GitHub workflow (Ambient), one that the user has
// (ParseToken), or one that the user signs in for (Interactive). With the user's own key no service
// is contacted.
//
// The package verifies nothing, and does not decide whose signature counts: the caller verifies its
// own result with sigverify, as the client will, before publishing it. The package writes no files
// and keeps no secrets.
package cosign

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/encoding/protojson"
)

// A Signature is a Sigstore bundle and how it came about.
type Signature struct {
	// Bundle is the Sigstore bundle, in JSON.
	Bundle []byte
	// Logs are the addresses of the transparency logs that have the signature.
	Logs []string
	// Missed are the logs that should have it and did not take it, while another one did.
	Missed []error
}

// statementType is the payload type of an in-toto statement:
// https://github.com/in-toto/attestation.
const statementType = "application/vnd.in-toto+json"

// signTries bounds how often a signature is made again because a log has an equal one already.
const signTries = 3

// A Signer signs as one identity or with one key. It may be used by several goroutines at once.
type Signer struct {
	token    Token
	services Services
	key      sign.Keypair // nil: keyless
}

// Keyless signs as the identity that the token proves.
func Keyless(token Token, services Services) *Signer {
	return &Signer{token: token, services: services}
}

// WithKey signs with a private key in PEM: PKCS#8, EC or RSA, or the form that `cosign
// generate-key-pair` writes. The passphrase is for those that are encrypted.
func WithKey(pem, passphrase []byte) (*Signer, error) {
	key, err := readKey(pem, passphrase)
	if err != nil {
		return nil, err
	}
	return &Signer{key: key}, nil
}

// PublicKey is the public half, in PEM, of the key that the signer was given; nothing for a keyless
// signer.
func (s *Signer) PublicKey() ([]byte, error) {
	if s.key == nil {
		return nil, nil
	}
	pem, err := s.key.GetPublicKeyPem()
	return []byte(pem), err
}

// SignFile signs a file's content.
func (s *Signer) SignFile(ctx context.Context, content []byte) (Signature, error) {
	return s.sign(ctx, &sign.PlainData{Data: content})
}

// SignStatement signs an in-toto statement, in JSON.
func (s *Signer) SignStatement(ctx context.Context, statement []byte) (Signature, error) {
	return s.sign(ctx, &sign.DSSEData{Data: statement, PayloadType: statementType})
}

func (s *Signer) sign(ctx context.Context, content sign.Content) (signature Signature, err error) {
	for range signTries {
		signature, err = s.signOnce(ctx, content)
		if !errors.Is(err, errDuplicate) {
			break
		}
	}
	if err != nil {
		return Signature{}, fmt.Errorf("signing: %w", withoutAddress(err))
	}
	return signature, nil
}

func (s *Signer) signOnce(ctx context.Context, content sign.Content) (Signature, error) {
	if s.key != nil {
		return makeBundle(content, s.key, sign.BundleOptions{Context: ctx}, nil)
	}
	if err := s.token.check(); err != nil {
		return Signature{}, err
	}
	pair, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		return Signature{}, err
	}
	logs := &anyLog{logs: s.services.transparencyLogs(ctx)}
	return makeBundle(content, pair, sign.BundleOptions{
		Context:                    ctx,
		CertificateProvider:        s.services.certificateAuthority(ctx),
		CertificateProviderOptions: &sign.CertificateProviderOptions{IDToken: s.token.raw},
		TimestampAuthorities:       s.services.timestampAuthorities(ctx),
		TransparencyLogs:           []sign.Transparency{logs},
	}, logs)
}

func makeBundle(content sign.Content, key sign.Keypair, opts sign.BundleOptions, logs *anyLog) (Signature, error) {
	made, err := sign.Bundle(content, key, opts)
	if err != nil {
		return Signature{}, err
	}
	text, err := protojson.Marshal(made)
	if err != nil {
		return Signature{}, err
	}
	var bundle bytes.Buffer // protojson puts blanks where it likes
	if err := json.Compact(&bundle, text); err != nil {
		return Signature{}, err
	}
	bundle.WriteByte('\n')
	signature := Signature{Bundle: bundle.Bytes()}
	if logs != nil {
		signature.Logs, signature.Missed = logs.took, logs.missed
	}
	return signature, nil
}
