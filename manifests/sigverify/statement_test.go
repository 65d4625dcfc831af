package sigverify

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/testing/data"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

const inToto = "application/vnd.in-toto+json"

var (
	statement = `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"manifest.json","digest":{"sha256":"` +
		strings.Repeat("a", 64) + `"}}],"predicateType":"https://example.com/pointer/v1","predicate":{"number":9007199254740993}}`
	wantStatement = Statement{
		PredicateType: "https://example.com/pointer/v1",
		Subjects:      []Subject{{"manifest.json", strings.Repeat("a", 64)}},
		Predicate:     []byte(`{"number":9007199254740993}`),
		Payload:       []byte(statement),
	}
)

func TestStatementByKey(t *testing.T) {
	dsse := func(payload, payloadType string) func(*testing.T) ([]byte, []byte) {
		return func(t *testing.T) ([]byte, []byte) {
			return signed(t, &sign.DSSEData{Data: []byte(payload), PayloadType: payloadType})
		}
	}
	changed := func(from, to string) func(*testing.T) ([]byte, []byte) {
		return dsse(strings.Replace(statement, from, to, 1), inToto)
	}
	for _, test := range []struct {
		name string
		made func(*testing.T) (bundle, key []byte)
		want Problem
	}{
		{"its own", dsse(statement, inToto), ""},
		{"another key", func(t *testing.T) ([]byte, []byte) {
			bundle, _ := dsse(statement, inToto)(t)
			return bundle, otherKey(t)
		}, Invalid},
		{"another payload", func(t *testing.T) ([]byte, []byte) {
			bundle, key := dsse(statement, inToto)(t)
			other := strings.Replace(statement, "aaaa", "bbbb", 1)
			encode := base64.StdEncoding.EncodeToString
			lie := bytes.Replace(bundle, []byte(encode([]byte(statement))), []byte(encode([]byte(other))), 1)
			if bytes.Equal(lie, bundle) {
				t.Fatal("the payload was not replaced")
			}
			return lie, key
		}, Invalid},
		{"the type of the payload changed afterwards", func(t *testing.T) ([]byte, []byte) {
			bundle, key := dsse(statement, "text/plain")(t)
			return bytes.Replace(bundle, []byte("text/plain"), []byte(inToto), 1), key
		}, Invalid},
		{"another type of payload", dsse(statement, "text/plain"), Malformed},
		{"a file", func(t *testing.T) ([]byte, []byte) { return signed(t, &sign.PlainData{Data: []byte(statement)}) }, Malformed},
		{"the bytes that a statement's signature is over, as a file", func(t *testing.T) ([]byte, []byte) {
			return signed(t, &sign.PlainData{Data: []byte("DSSEv1 28 " + inToto + " 1 {}")})
		}, Malformed},
		{"another version of statements", changed("Statement/v1", "Statement/v0.1"), Malformed},
		{"no subject", changed(`{"name":"manifest.json","digest":{"sha256":"`+strings.Repeat("a", 64)+`"}}`, ""), Malformed},
		{"another kind of digest", changed("sha256", "sha512"), Malformed},
		{"half a digest", changed("aaaa", ""), Malformed},
		{"an upper-case digest", changed("aaaa", "AAAA"), Malformed},
		{"an unknown field", changed(`"predicate":`, `"more":1,"predicate":`), Malformed},
		{"a predicate in another case", changed(`"predicate":`, `"Predicate":{},"predicate":`), Malformed},
		{"two predicates", changed(`"predicate":`, `"predicate":{},"predicate":`), Malformed},
		{"a predicate that is not an object", changed(`{"number":9007199254740993}`, `7`), Malformed},
		{"something after it", dsse(statement+"{}", inToto), Malformed},
		{"no JSON", dsse("statement", inToto), Malformed},
		{"no bundle", func(t *testing.T) ([]byte, []byte) { return nil, otherKey(t) }, Malformed},
		{"too large", func(t *testing.T) ([]byte, []byte) {
			bundle, key := dsse(statement, inToto)(t)
			return append(bundle, bytes.Repeat([]byte(" "), MaxSize)...), key
		}, Malformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			bundle, key := test.made(t)
			v, err := New(Policy{PublicKey: key})
			if err != nil {
				t.Fatal(err)
			}
			got, signer, err := v.VerifyStatement(bundle)
			if test.want != "" {
				wantProblem(t, err, test.want)
				if diff := cmp.Diff(Statement{}, got); diff != "" {
					t.Errorf("what does not count was given out:\n%s", diff)
				}
				return
			}
			if err != nil || !signer.Key {
				t.Fatalf("got %+v, %v", signer, err)
			}
			if diff := cmp.Diff(wantStatement, got); diff != "" {
				t.Errorf("statement (-want +got):\n%s", diff)
			}
		})
	}
}

// Keyless, on a Sigstore in memory. It issues no SCTs, so the verifier here asks for none; TestWorkflow has the whole one.
func TestStatementByWorkflow(t *testing.T) {
	const identity = "https://github.com/owner/name/.github/workflows/pointer.yml@refs/heads/main"
	sigstore, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, identity, issuer string
		by                     *ca.VirtualSigstore
		want                   Problem
	}{
		{"its own", identity, GitHubActions, sigstore, ""},
		{"on another branch", strings.Replace(identity, "main", "main2", 1), GitHubActions, sigstore, OtherSigner},
		{"on a tag of that name", strings.Replace(identity, "heads", "tags", 1), GitHubActions, sigstore, OtherSigner},
		{"another workflow", strings.Replace(identity, "pointer", "release", 1), GitHubActions, sigstore, OtherSigner},
		{"another issuer", identity, "https://example.com", sigstore, OtherSigner},
		{"another Sigstore", identity, GitHubActions, elsewhere, Invalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			entity, err := test.by.Attest(test.identity, test.issuer, []byte(statement))
			if err != nil {
				t.Fatal(err)
			}
			policy := Policy{Issuer: GitHubActions, Identity: identity}
			wanted, err := policy.identity()
			if err != nil {
				t.Fatal(err)
			}
			verifier, err := verify.NewVerifier(sigstore, verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
			if err != nil {
				t.Fatal(err)
			}
			v := &Verifier{verifier: verifier, signer: verify.WithCertificateIdentity(wanted)}
			got, signer, err := v.verifyStatement(entity)
			if test.want != "" {
				wantProblem(t, err, test.want)
				return
			}
			if err != nil || signer.Identity != identity || signer.Time.IsZero() {
				t.Fatalf("got %+v, %v", signer, err)
			}
			if diff := cmp.Diff(wantStatement, got); diff != "" {
				t.Errorf("statement (-want +got):\n%s", diff)
			}
		})
	}
}

// A validly signed statement from another project: it has no sha256, and is of no use here.
func TestStatementWithoutSHA256(t *testing.T) {
	v, err := New(Policy{Issuer: GitHubActions, Identity: workflow + "@refs/heads/main"})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = v.verifyStatement(data.Bundle(t, "sigstore.js@2.0.0-provenance.sigstore.json"))
	wantProblem(t, err, Malformed)
	if err == nil || !strings.Contains(err.Error(), "pkg:npm/sigstore@2.0.0") {
		t.Errorf("got %v", err)
	}
}
