package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/client"
	"github.com/google/certificate-transparency-go/jsonclient"
	"github.com/google/certificate-transparency-go/tls"
)

// A certificateLog promises to log certificates: it signs timestamps, which is all that verifiers look at, and keeps
// nothing.
type certificateLog struct {
	url    string
	key    *ecdsa.PrivateKey
	public []byte // the key's PKIX form
	id     [sha256.Size]byte
}

func newCertificateLog() (*certificateLog, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	l := &certificateLog{key: key, public: public, id: sha256.Sum256(public)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /ct/v1/add-pre-chain", l.addPreChain)
	l.url, err = listen(mux)
	return l, err
}

// client is how Fulcio reaches the log.
func (l *certificateLog) client() (*client.LogClient, error) {
	key := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: l.public})
	return client.New(l.url, &http.Client{Timeout: readTimeout}, jsonclient.Options{PublicKey: string(key)})
}

func (l *certificateLog) addPreChain(w http.ResponseWriter, r *http.Request) {
	var request struct {
		Chain [][]byte `json:"chain"`
	}
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var chain []ct.ASN1Cert
	for _, certificate := range request.Chain {
		chain = append(chain, ct.ASN1Cert{Data: certificate})
	}
	now := uint64(time.Now().UnixMilli())
	signature, err := l.sign(chain, now)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	writeJSON(w, map[string]any{"sct_version": 0, "id": l.id[:], "timestamp": now, "extensions": "", "signature": signature})
}

func (l *certificateLog) sign(chain []ct.ASN1Cert, timestamp uint64) ([]byte, error) {
	leaf, err := ct.MerkleTreeLeafFromRawChain(chain, ct.PrecertLogEntryType, timestamp)
	if err != nil {
		return nil, err
	}
	promise := ct.SignedCertificateTimestamp{SCTVersion: ct.V1, LogID: ct.LogID{KeyID: l.id}, Timestamp: timestamp}
	input, err := ct.SerializeSCTSignatureInput(promise, ct.LogEntry{Leaf: *leaf})
	if err != nil {
		return nil, err
	}
	signed, err := tls.CreateSignature(*l.key, tls.SHA256, input)
	if err != nil {
		return nil, err
	}
	return tls.Marshal(signed)
}
