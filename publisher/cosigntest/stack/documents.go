package main

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	prototrustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
)

// describe writes what clients need: the trusted root, and a signing config that has both logs.
func describe(dir string, urls addresses, certificates *certificateLog, first *rekorV1, second *rekorV2) error {
	since := time.Now().Add(-time.Minute)
	fulcio, err := fulcioChain(urls.Fulcio)
	if err != nil {
		return fmt.Errorf("reading Fulcio's chain: %w", err)
	}
	tsa, err := tsaChain(urls.TSA)
	if err != nil {
		return fmt.Errorf("reading the timestamp authority's chain: %w", err)
	}
	logs := map[string]*root.TransparencyLog{}
	for _, log := range []*root.TransparencyLog{
		{BaseURL: first.url, ID: first.id[:], PublicKey: first.key.Public(), SignatureHashFunc: crypto.SHA256},
		{BaseURL: second.url, ID: second.id, PublicKey: second.public, SignatureHashFunc: crypto.SHA512},
	} {
		log.ValidityPeriodStart, log.HashFunc = since, crypto.SHA256
		logs[hex.EncodeToString(log.ID)] = log
	}
	trusted, err := root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{&root.FulcioCertificateAuthority{
			Root: fulcio[len(fulcio)-1], Intermediates: fulcio[:len(fulcio)-1], ValidityPeriodStart: since, URI: urls.Fulcio,
		}},
		map[string]*root.TransparencyLog{hex.EncodeToString(certificates.id[:]): {
			BaseURL: certificates.url, ID: certificates.id[:], ValidityPeriodStart: since,
			HashFunc: crypto.SHA256, PublicKey: certificates.key.Public(), SignatureHashFunc: crypto.SHA256,
		}},
		[]root.TimestampingAuthority{&root.SigstoreTimestampingAuthority{
			Root: tsa[len(tsa)-1], Intermediates: tsa[1 : len(tsa)-1], Leaf: tsa[0], ValidityPeriodStart: since, URI: urls.TSA + timestampPath,
		}},
		logs)
	if err != nil {
		return err
	}
	service := func(url string, version uint32) root.Service {
		return root.Service{URL: url, MajorAPIVersion: version, ValidityPeriodStart: since, Operator: "test"}
	}
	anyOne := root.ServiceConfiguration{Selector: prototrustroot.ServiceSelector_ANY}
	signing, err := root.NewSigningConfig(root.SigningConfigMediaType02,
		[]root.Service{service(urls.Fulcio, 1)}, []root.Service{service(urls.Issuer, 1)},
		[]root.Service{service(urls.RekorV1, 1), service(urls.RekorV2, 2)}, anyOne,
		[]root.Service{service(urls.TSA+timestampPath, 1)}, anyOne)
	if err != nil {
		return err
	}
	return errors.Join(writeDocument(dir, "trusted_root.json", trusted), writeDocument(dir, "signing_config.json", signing))
}

func writeDocument(dir, name string, document json.Marshaler) error {
	text, err := document.MarshalJSON()
	if err != nil {
		return err
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, text, "", "  "); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), indented.Bytes(), 0o644)
}

func fulcioChain(url string) ([]*x509.Certificate, error) {
	text, err := get(url + "/api/v2/trustBundle")
	if err != nil {
		return nil, err
	}
	var bundle struct {
		Chains []struct {
			Certificates []string `json:"certificates"`
		} `json:"chains"`
	}
	if err := json.Unmarshal(text, &bundle); err != nil {
		return nil, err
	}
	if len(bundle.Chains) != 1 {
		return nil, fmt.Errorf("%d chains", len(bundle.Chains))
	}
	return certificatesIn([]byte(strings.Join(bundle.Chains[0].Certificates, "\n")))
}

func tsaChain(url string) ([]*x509.Certificate, error) {
	text, err := get(url + timestampPath + "/certchain")
	if err != nil {
		return nil, err
	}
	chain, err := certificatesIn(text)
	if err == nil && len(chain) < 2 {
		err = fmt.Errorf("%d certificates", len(chain))
	}
	return chain, err
}

func certificatesIn(text []byte) ([]*x509.Certificate, error) {
	var found []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		found = append(found, certificate)
	}
	if len(found) == 0 {
		return nil, errors.New("no certificate")
	}
	return found, nil
}
