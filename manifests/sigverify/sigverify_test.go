package sigverify

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/testing/data"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/encoding/protojson"
)

var sums = []byte(strings.Repeat("a", 64) + "  manifest.json\n")

// signed is a real bundle over content, and the key it was signed with.
func signed(t *testing.T, content sign.Content) (bundle, key []byte) {
	t.Helper()
	pair, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		t.Fatal(err)
	}
	made, err := sign.Bundle(content, pair, sign.BundleOptions{})
	if err != nil {
		t.Fatal(err)
	}
	bundle, err = protojson.Marshal(made)
	if err != nil {
		t.Fatal(err)
	}
	text, err := pair.GetPublicKeyPem()
	if err != nil {
		t.Fatal(err)
	}
	return bundle, []byte(text)
}

func otherKey(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func wantProblem(t *testing.T, err error, want Problem) {
	t.Helper()
	var refused *SignatureError
	if !errors.As(err, &refused) || refused.Problem != want {
		t.Errorf("got %v, want a signature error of kind %q", err, want)
	}
}

func TestKey(t *testing.T) {
	bundle, key := signed(t, &sign.PlainData{Data: sums})
	statement, statementKey := signed(t, &sign.DSSEData{Data: sums, PayloadType: "application/vnd.in-toto+json"})
	flipped := bytes.Replace(bundle, []byte(`"signature":`), []byte(`"signature": `), 1)
	at := bytes.Index(flipped, []byte(`"signature": "`)) + len(`"signature": "`) + 20
	if flipped[at] != 'A' { // one of base64's letters for another
		flipped[at] = 'A'
	} else {
		flipped[at] = 'B'
	}
	for _, test := range []struct {
		name              string
		sums, bundle, key []byte
		want              Problem
	}{
		{"its own", sums, bundle, key, ""},
		{"another key", sums, bundle, otherKey(t), Invalid},
		{"other sums", append([]byte("x"), sums...), bundle, key, OtherFile},
		{"no sums", nil, bundle, key, OtherFile},
		{"a changed signature", sums, flipped, key, Invalid},
		{"a statement over the sums", sums, statement, statementKey, Malformed},
		{"no bundle", sums, nil, key, Malformed},
		{"half a bundle", sums, bundle[:len(bundle)/2], key, Malformed},
		{"an empty bundle", sums, []byte("{}"), key, Malformed},
		{"too large", sums, append(bytes.Clone(bundle), bytes.Repeat([]byte(" "), MaxSize)...), key, Malformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			v, err := New(Policy{PublicKey: test.key})
			if err != nil {
				t.Fatal(err)
			}
			signer, err := v.Verify(test.sums, test.bundle)
			if test.want != "" {
				wantProblem(t, err, test.want)
				return
			}
			if err != nil || !signer.Key {
				t.Errorf("got %+v, %v", signer, err)
			}
		})
	}
}

// A digest that a bundle only claims does not count as proof.
func TestClaimedDigestIsNoProof(t *testing.T) {
	bundle, key := signed(t, &sign.PlainData{Data: []byte("another file")})
	honest, _ := signed(t, &sign.PlainData{Data: sums})
	digest := func(b []byte) []byte {
		entity, err := read(b)
		if err != nil {
			t.Fatal(err)
		}
		text, err := protojson.Marshal(entity.GetMessageSignature().GetMessageDigest())
		if err != nil {
			t.Fatal(err)
		}
		_, value, _ := bytes.Cut(bytes.ReplaceAll(text, []byte(" "), nil), []byte(`"digest":"`))
		value, _, _ = bytes.Cut(value, []byte(`"`))
		return value
	}
	lie := bytes.Replace(bundle, digest(bundle), digest(honest), 1)
	if bytes.Equal(lie, bundle) {
		t.Fatal("the digest was not replaced")
	}
	v, err := New(Policy{PublicKey: key})
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Verify(sums, lie)
	wantProblem(t, err, Invalid)
}

// What a workflow of GitHub's signed with the public Sigstore: the provenance of the npm package sigstore 2.0.0, which
// sigstore-go has among its own tests.
const (
	workflow   = "https://github.com/sigstore/sigstore-js/.github/workflows/release.yml"
	repository = "https://github.com/sigstore/sigstore-js"
	digest     = "46d4e2f74c4877316640000a6fdf8a8b59f1e0847667973e9859f774dd31b8f1e0937813b777fb66a2ac67d50540fe34640966eee9fc2ccca387082b4c85cd3c"
)

func TestWorkflow(t *testing.T) {
	trusted, err := data.TrustedRoot(t, "public-good.json").MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := data.TrustedRoot(t, "scaffolding.json").MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	good := Policy{Issuer: GitHubActions, Identity: workflow + "@refs/heads/main", Repository: repository,
		RepositoryID: "495574555", OwnerID: "71096353", Runner: "github-hosted", TrustedRoot: trusted}
	for _, test := range []struct {
		name   string
		change func(*Policy)
		digest string
		want   Problem
	}{
		{"its own", func(*Policy) {}, digest, ""},
		{"its own, by the root inside", func(p *Policy) { p.TrustedRoot = nil }, digest, ""},
		{"another file", func(*Policy) {}, strings.Replace(digest, "4", "5", 1), Invalid},
		{"another issuer", func(p *Policy) { p.Issuer = "https://accounts.google.com" }, digest, OtherSigner},
		{"another workflow", func(p *Policy) { p.Identity = strings.Replace(p.Identity, "release.yml", "other.yml", 1) }, digest, OtherSigner},
		{"a part of the identity", func(p *Policy) { p.Identity = workflow }, digest, OtherSigner},
		{"the identity as a pattern", func(p *Policy) { p.Identity = ".*" }, digest, OtherSigner},
		{"any branch", func(p *Policy) { p.Identity, p.Refs = workflow, "refs/heads/" }, digest, ""},
		{"any tag", func(p *Policy) { p.Identity, p.Refs = workflow, Tags }, digest, OtherSigner},
		{"any branch of a part of the identity", func(p *Policy) { p.Identity, p.Refs = workflow[1:], "refs/heads/" }, digest, OtherSigner},
		{"any branch of a pattern", func(p *Policy) { p.Identity, p.Refs = strings.Replace(workflow, "release", "rel.*", 1), "refs/heads/" }, digest, OtherSigner},
		{"any branch that begins so", func(p *Policy) { p.Identity, p.Refs = workflow, "refs/heads/main" }, digest, OtherSigner},
		{"another repository", func(p *Policy) { p.Repository += "x" }, digest, OtherSigner},
		{"another repository of that name", func(p *Policy) { p.RepositoryID = "1" }, digest, OtherSigner},
		{"another owner of that name", func(p *Policy) { p.OwnerID = "1" }, digest, OtherSigner},
		{"another kind of runner", func(p *Policy) { p.Runner = "self-hosted" }, digest, OtherSigner},
		{"another Sigstore", func(p *Policy) { p.TrustedRoot = elsewhere }, digest, Invalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			policy := good
			test.change(&policy)
			v, err := New(policy)
			if err != nil {
				t.Fatal(err)
			}
			sum, err := hex.DecodeString(test.digest)
			if err != nil {
				t.Fatal(err)
			}
			signer, err := v.verify(data.Bundle(t, "sigstore.js@2.0.0-provenance.sigstore.json"), verify.WithArtifactDigest("sha512", sum))
			if test.want != "" {
				wantProblem(t, err, test.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := Signer{Issuer: GitHubActions, Identity: workflow + "@refs/heads/main"}
			if policy.Refs != "" {
				want.Ref = "refs/heads/main"
			}
			got := Signer{Issuer: signer.Issuer, Identity: signer.Identity, Ref: signer.Ref}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("signer (-want +got):\n%s", diff)
			}
			if len(signer.Commit) != 40 || !strings.HasPrefix(signer.Run, repository+"/actions/runs/") || signer.Time.Before(time.Date(2023, 1, 1, 0, 0, 0, 0, time.UTC)) {
				t.Errorf("commit, run or time is missing: %+v", signer)
			}
		})
	}
}

// A signature by a key does not count as one by a workflow, and vice versa.
func TestKeyIsNoIdentity(t *testing.T) {
	trusted, err := data.TrustedRoot(t, "public-good.json").MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	bundle, key := signed(t, &sign.PlainData{Data: sums})
	byWorkflow, err := New(Policy{Issuer: GitHubActions, Identity: workflow, Refs: Tags, TrustedRoot: trusted})
	if err != nil {
		t.Fatal(err)
	}
	_, err = byWorkflow.Verify(sums, bundle)
	wantProblem(t, err, OtherSigner)

	byKey, err := New(Policy{PublicKey: key})
	if err != nil {
		t.Fatal(err)
	}
	sum, err := hex.DecodeString(digest)
	if err != nil {
		t.Fatal(err)
	}
	_, err = byKey.verify(data.Bundle(t, "sigstore.js@2.0.0-provenance.sigstore.json"), verify.WithArtifactDigest("sha512", sum))
	wantProblem(t, err, OtherSigner)
}

func TestNewRefusesHalfAPolicy(t *testing.T) {
	trusted, err := data.TrustedRoot(t, "public-good.json").MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	for name, policy := range map[string]Policy{
		"empty":              {},
		"no identity":        {Issuer: GitHubActions, TrustedRoot: trusted},
		"no issuer":          {Identity: workflow, TrustedRoot: trusted},
		"a root that is not": {Issuer: GitHubActions, Identity: workflow, TrustedRoot: []byte("{}")},
		"a key and more":     {PublicKey: otherKey(t), Issuer: GitHubActions},
		"a key that is not":  {PublicKey: []byte("-----BEGIN NOTHING-----")},
	} {
		if v, err := New(policy); err == nil {
			t.Errorf("%s: got a verifier: %+v", name, v)
		}
	}
}

func TestSignerInWords(t *testing.T) {
	const workflow = "https://github.com/o/r/.github/workflows/release.yml@"
	for _, test := range []struct {
		signer  Signer
		by, tag string
	}{
		{Signer{Key: true}, "the key given", ""},
		{Signer{Identity: workflow + Tags + "v1", Ref: Tags + "v1"}, workflow + Tags + "v1", "v1"},
		{Signer{Identity: workflow + "refs/heads/main", Ref: "refs/heads/main"}, workflow + "refs/heads/main", "refs/heads/main"}, // no release's tag
	} {
		if test.signer.By() != test.by || test.signer.Tag() != test.tag {
			t.Errorf("%+v: %q, %q", test.signer, test.signer.By(), test.signer.Tag())
		}
	}
}
