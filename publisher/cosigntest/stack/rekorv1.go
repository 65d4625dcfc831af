package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
	openapi "github.com/go-openapi/runtime"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	_ "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1"         // an entry's form
	_ "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1" // an entry's form
	"github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// A rekorV1 is a log that speaks Rekor's first protocol. Rekor's own server needs a MySQL and Trillian; this one has its
// entries in memory, and checks, canonicalizes and signs them with Rekor's own packages.
type rekorV1 struct {
	url    string
	key    *ecdsa.PrivateKey
	signer signature.Signer
	id     [sha256.Size]byte

	mu     sync.Mutex
	leaves [][]byte                   // their hashes
	all    map[string]models.LogEntry // by UUID
}

// rekorTree is the number of the log's tree: it stands in checkpoints and in front of UUIDs.
const rekorTree = 1

func newRekorV1() (*rekorV1, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	signer, err := signature.LoadDefaultSigner(key)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	l := &rekorV1{key: key, signer: signer, id: sha256.Sum256(public), all: map[string]models.LogEntry{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/log/entries", l.create)
	mux.HandleFunc("GET /api/v1/log/entries/{uuid}", l.show)
	l.url, err = listen(mux)
	return l, err
}

func (l *rekorV1) create(w http.ResponseWriter, r *http.Request) {
	entry, uuid, added, err := l.add(r)
	switch {
	case err != nil:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(models.Error{Code: http.StatusBadRequest, Message: err.Error()})
	case !added:
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Location", "/api/v1/log/entries/"+uuid)
		w.WriteHeader(http.StatusConflict)
		json.NewEncoder(w).Encode(models.Error{Code: http.StatusConflict, Message: "an equivalent entry already exists"})
	default:
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Location", "/api/v1/log/entries/"+uuid)
		w.Header().Set("ETag", uuid)
		w.WriteHeader(http.StatusCreated)
		json.NewEncoder(w).Encode(entry)
	}
}

func (l *rekorV1) show(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	entry, ok := l.all[r.PathValue("uuid")]
	l.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	writeJSON(w, entry)
}

// add logs the entry that a request proposes. Its signature is verified on the way, by the entry's own type.
func (l *rekorV1) add(r *http.Request) (entry models.LogEntry, uuid string, added bool, err error) {
	proposed, err := models.UnmarshalProposedEntry(r.Body, openapi.JSONConsumer())
	if err != nil {
		return nil, "", false, err
	}
	checked, err := types.UnmarshalEntry(proposed)
	if err != nil {
		return nil, "", false, err
	}
	body, err := types.CanonicalizeEntry(r.Context(), checked)
	if err != nil {
		return nil, "", false, err
	}
	leaf := rfc6962.DefaultHasher.HashLeaf(body)
	uuid = fmt.Sprintf("%016x%x", rekorTree, leaf)

	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.all[uuid]; known {
		return nil, uuid, false, nil
	}
	index := int64(len(l.leaves))
	l.leaves = append(l.leaves, leaf)
	logged, err := l.prove(r.Context(), body, index)
	if err != nil {
		return nil, "", false, err
	}
	l.all[uuid] = models.LogEntry{uuid: logged}
	return l.all[uuid], uuid, true, nil
}

// prove is the newest entry with the promise and the proof that it is in the log.
func (l *rekorV1) prove(ctx context.Context, body []byte, index int64) (models.LogEntryAnon, error) {
	size := int64(len(l.leaves))
	hashes, root := inclusion(l.leaves, uint64(index))
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(index), uint64(size), l.leaves[index], hashes, root); err != nil {
		return models.LogEntryAnon{}, err
	}
	checkpoint, err := util.CreateAndSignCheckpoint(ctx, "127.0.0.1", rekorTree, uint64(size), root, l.signer)
	if err != nil {
		return models.LogEntryAnon{}, err
	}
	now := time.Now().Unix()
	text := base64.StdEncoding.EncodeToString(body)
	id := hex.EncodeToString(l.id[:])
	promised, err := json.Marshal(map[string]any{"body": text, "integratedTime": now, "logIndex": index, "logID": id})
	if err != nil {
		return models.LogEntryAnon{}, err
	}
	canonical, err := jsoncanonicalizer.Transform(promised)
	if err != nil {
		return models.LogEntryAnon{}, err
	}
	digest := sha256.Sum256(canonical)
	promise, err := ecdsa.SignASN1(rand.Reader, l.key, digest[:])
	if err != nil {
		return models.LogEntryAnon{}, err
	}
	path := []string{} // null is not a list to other clients
	for _, hash := range hashes {
		path = append(path, hex.EncodeToString(hash))
	}
	rootText, checkpointText := hex.EncodeToString(root), string(checkpoint)
	return models.LogEntryAnon{
		Body: text, IntegratedTime: &now, LogID: &id, LogIndex: &index,
		Verification: &models.LogEntryAnonVerification{
			SignedEntryTimestamp: promise,
			InclusionProof: &models.InclusionProof{
				Checkpoint: &checkpointText, Hashes: path, LogIndex: &index, RootHash: &rootText, TreeSize: &size,
			},
		},
	}, nil
}

// inclusion is the audit path of a leaf and the root of the tree (RFC 6962, section 2.1.1), from the leaf upward.
func inclusion(leaves [][]byte, index uint64) (path [][]byte, root []byte) {
	if len(leaves) == 1 {
		return nil, leaves[0]
	}
	split := 1 // the largest power of two below the number of leaves
	for split*2 < len(leaves) {
		split *= 2
	}
	if index < uint64(split) {
		path, left := inclusion(leaves[:split], index)
		_, right := inclusion(leaves[split:], 0)
		return append(path, right), rfc6962.DefaultHasher.HashChildren(left, right)
	}
	path, right := inclusion(leaves[split:], index-uint64(split))
	_, left := inclusion(leaves[:split], 0)
	return append(path, left), rfc6962.DefaultHasher.HashChildren(left, right)
}
