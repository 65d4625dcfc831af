package cli

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/ci/internal/release"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
	"github.com/waqasm86/llcuda-farm/publisher/cosign"
)

// signing selects who signs: a key, or an OIDC identity.
type signing struct {
	key, token, config string
	signIn             bool
	signedBy           trust
}

func (s *signing) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.key, "key", "", "`file` with the private key of a private farm, in PEM; $COSIGN_PASSWORD is its passphrase")
	cmd.Flags().StringVar(&s.token, "oidc-token", "", "`file` with an OIDC token for the audience sigstore; - is standard input (default: $SIGSTORE_ID_TOKEN, or the workflow's own)")
	cmd.Flags().BoolVar(&s.signIn, "sign-in", false, "sign in as a person, with a code to enter in any browser")
	cmd.Flags().StringVar(&s.config, "signing-config", "", "`file` with a Sigstore signing config: the services to use (default: the public Sigstore's)")
	s.signedBy.flags(cmd)
}

// The variables that a GitHub job with the permission id-token: write has.
const (
	runnerURL   = "ACTIONS_ID_TOKEN_REQUEST_URL"
	runnerToken = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"
)

const waysToSign = "run it in a workflow with the permission id-token: write, or give --sign-in, --oidc-token FILE or --key FILE"

// A policyFor makes the policy of one kind of signature from what the user trusts:
// sigverify.Release is one.
type policyFor func(issuer, identity string, trustedRoot, publicKey []byte) sigverify.Policy

// open reads the key, or gets a token and reads which services to use.
func (s *signing) open(ctx context.Context, term *terminal, policy policyFor) (*release.Credential, error) {
	given := 0
	for _, is := range []bool{s.key != "", s.token != "", s.signIn} {
		if is {
			given++
		}
	}
	switch {
	case given > 1:
		return nil, console.Usage(errors.New("--key, --oidc-token and --sign-in exclude each other"), "give one of them")
	case s.key != "" && s.config != "":
		return nil, console.Usage(errors.New("--signing-config has no meaning with --key"), "leave --signing-config out: a key uses no services")
	case s.key == "" && s.signedBy.key != "":
		return nil, console.Usage(errors.New("--public-key has no meaning without --key"), "give the private key with --key, too")
	}
	if s.key != "" {
		return s.openKey(policy)
	}
	c := &release.Credential{Signed: logged(term)}
	var err error
	if c.Policy, c.Verifier, err = s.signedBy.policy(policy); err != nil {
		return nil, err
	}
	config, err := readOptional(s.config)
	if err != nil {
		return nil, err
	}
	services, err := cosign.ReadServices(config, time.Now())
	if err != nil {
		return nil, console.Usage(err, "--signing-config takes a Sigstore signing config, version 0.2")
	}
	get, err := s.tokens(ctx, term, services)
	if err != nil {
		return nil, err
	}
	first, err := get(ctx)
	if err != nil {
		return nil, err
	}
	c.Issuer, c.Identity = first.Identity()
	c.Signer = func(ctx context.Context) (*cosign.Signer, error) {
		token, err := get(ctx)
		if err != nil {
			return nil, err
		}
		return cosign.Keyless(token, services), nil
	}
	return c, nil
}

func (s *signing) openKey(policy policyFor) (*release.Credential, error) {
	private, err := readOptional(s.key)
	if err != nil {
		return nil, err
	}
	var passphrase []byte
	if text, ok := os.LookupEnv("COSIGN_PASSWORD"); ok {
		passphrase = []byte(text)
	}
	signer, err := cosign.WithKey(private, passphrase)
	if err != nil {
		return nil, console.Usage(err, hintFor(err))
	}
	public, err := signer.PublicKey()
	if err != nil {
		return nil, err
	}
	c := &release.Credential{Signer: func(context.Context) (*cosign.Signer, error) { return signer, nil }}
	if s.signedBy == (trust{}) {
		c.Policy = policy("", "", nil, public)
		c.Verifier, err = sigverify.New(c.Policy)
		return c, err
	}
	if c.Policy, c.Verifier, err = s.signedBy.policy(policy); err != nil {
		return nil, err
	}
	mine, _ := pem.Decode(public)
	if theirs, _ := pem.Decode(c.Policy.PublicKey); theirs == nil || !bytes.Equal(mine.Bytes, theirs.Bytes) {
		return nil, console.Usage(errors.New("--key is not the private key of the signer that --public-key, --issuer or --identity name"), "give both keys of one pair, or --key alone")
	}
	return c, nil
}

// tokens is where tokens come from. A runner gives one whenever it is asked; a person is asked
// once.
func (s *signing) tokens(ctx context.Context, term *terminal, services cosign.Services) (func(context.Context) (cosign.Token, error), error) {
	once := func(token cosign.Token, err error) (func(context.Context) (cosign.Token, error), error) {
		return func(context.Context) (cosign.Token, error) { return token, err }, err
	}
	text, fromEnv := os.LookupEnv("SIGSTORE_ID_TOKEN")
	switch {
	case s.signIn:
		return once(cosign.Interactive(ctx, services, func(line string) { term.Notef("sign in   %s", line) }))
	case s.token == "-":
		data, err := io.ReadAll(io.LimitReader(os.Stdin, maxToken))
		if err != nil {
			return nil, fmt.Errorf("reading the token: %w", err)
		}
		return once(cosign.ParseToken(string(data)))
	case s.token != "":
		data, err := readOptional(s.token)
		if err != nil {
			return nil, err
		}
		return once(cosign.ParseToken(string(data)))
	case fromEnv:
		return once(cosign.ParseToken(text))
	case os.Getenv(runnerURL) != "":
		runner := cosign.Runner{RequestURL: os.Getenv(runnerURL), RequestToken: os.Getenv(runnerToken)}
		return func(ctx context.Context) (cosign.Token, error) { return cosign.Ambient(ctx, runner) }, nil
	}
	return nil, console.Usage(errors.New("nothing to sign with: there is no token and no key"), waysToSign)
}

// logged prints where a signature was logged.
func logged(term *terminal) func(cosign.Signature) {
	return func(signature cosign.Signature) {
		for _, missed := range signature.Missed {
			term.Warnf("one log does not have the signature, another has: %v", missed)
		}
		if len(signature.Logs) > 0 {
			term.Notef("logged    %s", strings.Join(signature.Logs, ", "))
		}
	}
}

// maxToken bounds a token, in bytes.
const maxToken = 1 << 16

// readOptional reads a file that the user named; none where he named none.
func readOptional(name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, console.Usage(err, "give a file that can be read")
	}
	return data, nil
}
