package cosign

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

// A KeyError is a key that cannot be used.
type KeyError struct {
	Err error
	way string
}

func (e *KeyError) Error() string { return "reading the private key: " + e.Err.Error() }
func (e *KeyError) Unwrap() error { return e.Err }

// Hint says the way out.
func (e *KeyError) Hint() string { return e.way }

const (
	wayKey      = "give a private key in PEM: openssl ecparam -name prime256v1 -genkey -noout makes one, and so does cosign generate-key-pair"
	wayPassword = "the key is encrypted: $COSIGN_PASSWORD has its passphrase"
)

// encrypted are the types of PEM that need a passphrase.
var encrypted = []string{"ENCRYPTED PRIVATE KEY", "ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY"}

func readKey(text, passphrase []byte) (*ownKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, &KeyError{errors.New("it is not PEM"), wayKey}
	}
	secret := slices.Contains(encrypted, block.Type)
	read, err := cryptoutils.UnmarshalPEMToPrivateKey(text, func(bool) ([]byte, error) {
		if passphrase == nil {
			return []byte{}, nil // nil would mean that nothing is encrypted
		}
		return passphrase, nil
	})
	switch {
	case err != nil && secret:
		return nil, &KeyError{err, wayPassword}
	case err != nil:
		return nil, &KeyError{err, wayKey}
	}
	private, ok := read.(crypto.Signer)
	if !ok {
		return nil, &KeyError{fmt.Errorf("a %T signs nothing", read), wayKey}
	}
	return newOwnKey(private)
}

// An ownKey is a key of the user's own, as sigstore-go wants it.
type ownKey struct {
	private crypto.Signer
	details signature.AlgorithmDetails
	hint    []byte
}

func newOwnKey(private crypto.Signer) (*ownKey, error) {
	details, err := signature.GetDefaultAlgorithmDetails(private.Public())
	if err != nil {
		return nil, &KeyError{err, wayKey}
	}
	public, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return nil, &KeyError{err, wayKey}
	}
	sum := sha256.Sum256(public)
	return &ownKey{private, details, []byte(base64.StdEncoding.EncodeToString(sum[:]))}, nil
}

func (k *ownKey) GetHashAlgorithm() protocommon.HashAlgorithm {
	if k.details.GetHashType() == crypto.Hash(0) {
		return protocommon.HashAlgorithm_SHA2_256
	}
	return k.details.GetProtoHashType()
}

func (k *ownKey) GetSigningAlgorithm() protocommon.PublicKeyDetails {
	return k.details.GetSignatureAlgorithm()
}

// GetHint is how bundles name the key: what sigstore-go gives a key that has no other name.
func (k *ownKey) GetHint() []byte { return k.hint }

func (k *ownKey) GetKeyAlgorithm() string {
	switch k.private.Public().(type) {
	case *ecdsa.PublicKey:
		return "ECDSA"
	case *rsa.PublicKey:
		return "RSA"
	case ed25519.PublicKey:
		return "ED25519"
	}
	return ""
}

func (k *ownKey) GetPublicKey() crypto.PublicKey { return k.private.Public() }

func (k *ownKey) GetPublicKeyPem() (string, error) {
	text, err := cryptoutils.MarshalPublicKeyToPEM(k.private.Public())
	return string(text), err
}

// SignData signs data's digest, and returns that as well. Ed25519 signs the data itself; the digest is then the one that
// bundles have for readers.
func (k *ownKey) SignData(_ context.Context, data []byte) (signed, digest []byte, err error) {
	hash := k.details.GetHashType()
	if hash == crypto.Hash(0) {
		sum := sha256.Sum256(data)
		signed, err = k.private.Sign(rand.Reader, data, hash)
		return signed, sum[:], err
	}
	h := hash.New()
	h.Write(data)
	digest = h.Sum(nil)
	signed, err = k.private.Sign(rand.Reader, digest, hash)
	return signed, digest, err
}
