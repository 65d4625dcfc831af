package cosign_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
	"github.com/waqasm86/llcuda-farm/publisher"
	"github.com/waqasm86/llcuda-farm/publisher/cosign"
	"github.com/waqasm86/llcuda-farm/publisher/cosigntest"
)

// The tests wait for services, not for cores: a log of the second generation answers after a second.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

var sums = []byte(strings.Repeat("a", 64) + "  manifest.json\n")

// production is the policy of llcuda-fetch, with the stack's trusted root.
func production(t *testing.T, stack *cosigntest.Stack) sigverify.Policy {
	t.Helper()
	return sigverify.Policy{
		Issuer: manifests.SignerIssuer, Identity: manifests.SignerIdentity, Refs: sigverify.Tags,
		Repository: manifests.RepositoryURL, RepositoryID: manifests.RepositoryID, OwnerID: manifests.OwnerID,
		Runner: "github-hosted", TrustedRoot: cosigntest.Read(t, stack.TrustedRoot),
	}
}

func verify(t *testing.T, policy sigverify.Policy, content, bundle []byte) (sigverify.Signer, error) {
	t.Helper()
	verifier, err := sigverify.New(policy)
	if err != nil {
		t.Fatal(err)
	}
	return verifier.Verify(content, bundle)
}

func services(t *testing.T, config string) cosign.Services {
	t.Helper()
	found, err := cosign.ReadServices(cosigntest.Read(t, config), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func parse(t *testing.T, text string) cosign.Token {
	t.Helper()
	token, err := cosign.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// signed is a release's sums signed by a workflow.
func signed(t *testing.T, stack *cosigntest.Stack, config string, workflow cosigntest.Workflow) cosign.Signature {
	t.Helper()
	signature, err := cosign.Keyless(parse(t, stack.Token(t, workflow)), services(t, config)).SignFile(t.Context(), sums)
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

func TestWorkflow(t *testing.T) {
	t.Parallel()
	stack := cosigntest.Start(t)
	policy := production(t, stack)
	for _, test := range []struct {
		name     string
		workflow cosigntest.Workflow
		change   func(*sigverify.Policy)
		want     sigverify.Problem
	}{
		{name: "the release workflow"},
		{name: "its tag named", change: func(p *sigverify.Policy) { p.Identity, p.Refs = p.Identity+"@refs/tags/"+cosigntest.Tag, "" }},
		{name: "another workflow", workflow: cosigntest.Workflow{Path: ".github/workflows/ci.yml"}, want: sigverify.OtherSigner},
		{name: "another repository", workflow: cosigntest.Workflow{Repository: "evil/llcuda-farm"}, want: sigverify.OtherSigner},
		{name: "a repository that ends like it", workflow: cosigntest.Workflow{Repository: "evil-" + manifests.Repository}, want: sigverify.OtherSigner},
		{name: "a branch", workflow: cosigntest.Workflow{Ref: "refs/heads/main"}, want: sigverify.OtherSigner},
		{name: "another tag than the one named", workflow: cosigntest.Workflow{Ref: "refs/tags/v9"},
			change: func(p *sigverify.Policy) { p.Identity, p.Refs = p.Identity+"@refs/tags/"+cosigntest.Tag, "" }, want: sigverify.OtherSigner},
		{name: "another issuer", change: func(p *sigverify.Policy) { p.Issuer = "https://gitlab.com" }, want: sigverify.OtherSigner},
		{name: "a runner of somebody's own", workflow: cosigntest.Workflow{Runner: "self-hosted"}, want: sigverify.OtherSigner},
		{name: "a later repository of that name", workflow: cosigntest.Workflow{RepositoryID: "7"},
			change: func(p *sigverify.Policy) { p.RepositoryID = "1001" }, want: sigverify.OtherSigner},
		{name: "a later owner of that name", workflow: cosigntest.Workflow{OwnerID: "7"},
			change: func(p *sigverify.Policy) { p.OwnerID = "2002" }, want: sigverify.OtherSigner},
		{name: "the public Sigstore's root", change: func(p *sigverify.Policy) { p.TrustedRoot = nil }, want: sigverify.Invalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			signature := signed(t, stack, stack.SigningConfig, test.workflow)
			if diff := cmp.Diff([]string{stack.RekorV1, stack.RekorV2}, signature.Logs); diff != "" || len(signature.Missed) > 0 {
				t.Errorf("logs (-want +got):\n%s%v", diff, signature.Missed)
			}
			policy := policy
			if test.change != nil {
				test.change(&policy)
			}
			signer, err := verify(t, policy, sums, signature.Bundle)
			wantProblem(t, err, test.want)
			if test.want == "" && (signer.Issuer != manifests.SignerIssuer || signer.Identity != manifests.SignerIdentity+"@refs/tags/"+cosigntest.Tag) {
				t.Errorf("signed by %+v", signer)
			}
		})
	}
	t.Run("another Sigstore", func(t *testing.T) {
		t.Parallel()
		policy := policy
		policy.TrustedRoot = cosigntest.Read(t, cosigntest.Start(t).TrustedRoot)
		_, err := verify(t, policy, sums, signed(t, stack, stack.SigningConfig, cosigntest.Workflow{}).Bundle)
		wantProblem(t, err, sigverify.Invalid)
	})
	t.Run("another file", func(t *testing.T) {
		t.Parallel()
		_, err := verify(t, policy, append(sums, 'x'), signed(t, stack, stack.SigningConfig, cosigntest.Workflow{}).Bundle)
		wantProblem(t, err, sigverify.OtherFile)
	})
}

func wantProblem(t *testing.T, err error, want sigverify.Problem) {
	t.Helper()
	var refused *sigverify.SignatureError
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && (!errors.As(err, &refused) || refused.Problem != want):
		t.Errorf("got %v, want a signature error of kind %q", err, want)
	}
}

func TestRefusedToken(t *testing.T) {
	t.Parallel()
	stack := cosigntest.Start(t)
	for name, text := range map[string]string{
		"for somebody else":    stack.Token(t, cosigntest.Workflow{Audience: "https://huggingface.co"}),
		"of an unknown issuer": stack.Token(t, cosigntest.Workflow{Issuer: "https://evil.example"}),
		"of another Sigstore":  cosigntest.Start(t).Token(t, cosigntest.Workflow{}),
	} {
		t.Run(name, func(t *testing.T) {
			signature, err := cosign.Keyless(parse(t, text), services(t, stack.SigningConfig)).SignFile(t.Context(), sums)
			var refused *publisher.RefusedError
			if !errors.As(err, &refused) || refused.Hint() == "" || len(signature.Bundle) > 0 {
				t.Errorf("got %q, %v", signature.Bundle, err)
			}
			if strings.Contains(err.Error(), text) {
				t.Errorf("the error has the token in it: %v", err)
			}
		})
	}
	_, err := cosign.ParseToken(stack.Token(t, cosigntest.Workflow{Expires: time.Now().Add(-time.Minute)}))
	var refused *publisher.RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "expired at") {
		t.Errorf("an expired token: got %v", err)
	}
	for _, text := range []string{"", "a.b", "a.b.c", "a.!.c"} {
		if _, err := cosign.ParseToken(text); err == nil {
			t.Errorf("%q was taken for a token", text)
		}
	}
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	for claims, want := range map[string][2]string{
		`{"iss":"https://token.actions.githubusercontent.com","sub":"repo:a/b:ref:c","job_workflow_ref":"a/b/.github/workflows/c.yml@refs/tags/v1"}`: {
			"https://token.actions.githubusercontent.com", "https://github.com/a/b/.github/workflows/c.yml@refs/tags/v1"},
		`{"iss":"https://ghe.example/_services/token","job_workflow_ref":"a/b/.github/workflows/c.yml@refs/tags/v1"}`: {
			"https://ghe.example/_services/token", "https://ghe.example/a/b/.github/workflows/c.yml@refs/tags/v1"},
		`{"iss":"https://oauth2.sigstore.dev/auth","sub":"x","email":"a@example.org","federated_claims":{"connector_id":"https://github.com/login/oauth"}}`: {
			"https://github.com/login/oauth", "a@example.org"},
		`{"iss":"https://example.org","sub":"machine"}`: {"https://example.org", "machine"},
	} {
		issuer, identity := parse(t, "e30."+base64.RawURLEncoding.EncodeToString([]byte(claims))+".e30").Identity()
		if got := [2]string{issuer, identity}; got != want {
			t.Errorf("%s names %q, want %q", claims, got, want)
		}
	}
}

func TestAmbient(t *testing.T) {
	t.Parallel()
	stack := cosigntest.Start(t)
	env := stack.Runner(t, cosigntest.Workflow{})
	runner := cosign.Runner{RequestURL: env["ACTIONS_ID_TOKEN_REQUEST_URL"], RequestToken: env["ACTIONS_ID_TOKEN_REQUEST_TOKEN"]}
	token, err := cosign.Ambient(t.Context(), runner)
	if err != nil {
		t.Fatal(err)
	}
	issuer, identity := token.Identity()
	if issuer != manifests.SignerIssuer || identity != manifests.SignerIdentity+"@refs/tags/"+cosigntest.Tag {
		t.Errorf("the token is of %s, %s", issuer, identity)
	}
	signature, err := cosign.Keyless(token, services(t, stack.SigningConfig)).SignFile(t.Context(), sums)
	if err != nil {
		t.Fatal(err)
	}
	_, err = verify(t, production(t, stack), sums, signature.Bundle)
	wantProblem(t, err, "")

	runner.RequestToken = "another"
	_, err = cosign.Ambient(t.Context(), runner)
	var refused *publisher.RefusedError
	if !errors.As(err, &refused) || strings.Contains(err.Error(), "claims") {
		t.Errorf("a runner without permission: got %v", err)
	}
}

func TestInteractive(t *testing.T) {
	t.Parallel()
	stack := cosigntest.Start(t)
	var shown []string
	token, err := cosign.Interactive(t.Context(), services(t, stack.SigningConfig), func(line string) { shown = append(shown, line) })
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(shown, "\n"), "ABCD-EFGH") {
		t.Errorf("the code was not shown: %q", shown)
	}
	signature, err := cosign.Keyless(token, services(t, stack.SigningConfig)).SignFile(t.Context(), sums)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := verify(t, sigverify.Policy{Issuer: stack.Issuer, Identity: cosigntest.Email, TrustedRoot: cosigntest.Read(t, stack.TrustedRoot)}, sums, signature.Bundle)
	if err != nil || signer.Identity != cosigntest.Email {
		t.Errorf("signed by %+v, %v", signer, err)
	}
	_, err = verify(t, production(t, stack), sums, signature.Bundle)
	wantProblem(t, err, sigverify.OtherSigner)
}

func TestKey(t *testing.T) {
	t.Parallel()
	pkcs8 := func(key any, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	// The form that cosign generate-key-pair writes, by the library that it uses.
	locked, _, err := cryptoutils.GeneratePEMEncodedECDSAKeyPair(elliptic.P256(), func(bool) ([]byte, error) { return []byte("secret"), nil })
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, edErr := ed25519.GenerateKey(rand.Reader)
	for _, test := range []struct {
		name       string
		key        []byte
		passphrase []byte
		want       string // the hint, where there is an error
	}{
		{"P-256", pkcs8(ec, nil), nil, ""},
		{"P-256 in SEC 1", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}), nil, ""},
		{"P-384", pkcs8(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)), nil, ""},
		{"Ed25519", pkcs8(edKey, edErr), nil, ""},
		{"RSA", pkcs8(rsa.GenerateKey(rand.Reader, 2048)), nil, ""},
		{"cosign's", locked, []byte("secret"), ""},
		{"cosign's, no passphrase", locked, nil, "COSIGN_PASSWORD"},
		{"cosign's, another passphrase", locked, []byte("guess"), "COSIGN_PASSWORD"},
		{"no PEM", []byte("key"), nil, "openssl"},
		{"a public key", bytes.ReplaceAll(pkcs8(ec, nil), []byte("PRIVATE"), []byte("PUBLIC")), nil, "openssl"},
		{"nothing of a key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}), nil, "openssl"},
	} {
		t.Run(test.name, func(t *testing.T) {
			signer, err := cosign.WithKey(test.key, test.passphrase)
			if test.want != "" {
				var refused *cosign.KeyError
				if !errors.As(err, &refused) || !strings.Contains(refused.Hint(), test.want) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			public, err := signer.PublicKey()
			if err != nil {
				t.Fatal(err)
			}
			signature, err := signer.SignFile(t.Context(), sums)
			if err != nil {
				t.Fatal(err)
			}
			if by, err := verify(t, sigverify.Policy{PublicKey: public}, sums, signature.Bundle); err != nil || !by.Key {
				t.Errorf("signed by %+v, %v", by, err)
			}
			_, err = verify(t, sigverify.Policy{PublicKey: public}, append(sums, 'x'), signature.Bundle)
			if err == nil {
				t.Error("it signs another file as well")
			}
		})
	}
}

const statement = `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"a","digest":{"sha256":"` +
	"0000000000000000000000000000000000000000000000000000000000000000" +
	`"}}],"predicateType":"https://slsa.dev/provenance/v1","predicate":{}}`

func TestStatement(t *testing.T) {
	t.Parallel()
	stack := cosigntest.Start(t)
	signature, err := cosign.Keyless(parse(t, stack.Token(t, cosigntest.Workflow{})), services(t, stack.SigningConfig)).SignStatement(t.Context(), []byte(statement))
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := sigverify.New(production(t, stack))
	if err != nil {
		t.Fatal(err)
	}
	read, signer, err := verifier.VerifyStatement(signature.Bundle)
	if err != nil || string(read.Payload) != statement || signer.Ref != "refs/tags/"+cosigntest.Tag {
		t.Errorf("read %+v of %+v, %v", read, signer, err)
	}
	_, err = verifier.Verify([]byte(statement), signature.Bundle)
	wantProblem(t, err, sigverify.Malformed)

	var bundle map[string]any
	if err := json.Unmarshal(signature.Bundle, &bundle); err != nil {
		t.Fatal(err)
	}
	envelope := bundle["dsseEnvelope"].(map[string]any)
	envelope["payload"] = base64.StdEncoding.EncodeToString([]byte(strings.Replace(statement, `"a"`, `"b"`, 1)))
	tampered, err := json.Marshal(bundle)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = verifier.VerifyStatement(tampered)
	wantProblem(t, err, sigverify.Invalid)
}
