package sigverify

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"github.com/sigstore/sigstore-go/pkg/verify"
)

// statementType is the one version of in-toto's statements that is read:
// https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
const statementType = "https://in-toto.io/Statement/v1"

// A Statement is what an in-toto statement says of its subjects.
type Statement struct {
	// PredicateType says what the predicate means; the reader of the predicate knows the types.
	PredicateType string
	// Subjects are what the statement is about: at least one.
	Subjects []Subject
	// Predicate is a JSON object, byte for byte as it was signed.
	Predicate json.RawMessage
	// Payload is the whole statement, as it was signed, for readers of their own.
	Payload []byte
}

// A Subject is a file by its name and digest.
type Subject struct{ Name, SHA256 string }

var sha256Form = regexp.MustCompile(`^[0-9a-f]{64}$`)

// VerifyStatement verifies that a Sigstore bundle has an in-toto statement in a DSSE envelope whose signature counts,
// and returns what was signed. It compares neither subjects nor the predicate type with anything: the caller, which has
// the files, must do so, because the same signer signs more than one kind of statement. Its error is a *SignatureError.
func (v *Verifier) VerifyStatement(signed []byte) (Statement, Signer, error) {
	entity, err := read(signed)
	if err != nil {
		return Statement{}, Signer{}, &SignatureError{Malformed, err}
	}
	return v.verifyStatement(entity)
}

func (v *Verifier) verifyStatement(entity verify.SignedEntity) (Statement, Signer, error) {
	content, err := entity.SignatureContent()
	if err != nil {
		return Statement{}, Signer{}, &SignatureError{Malformed, err}
	}
	envelope := content.EnvelopeContent()
	if envelope == nil {
		return Statement{}, Signer{}, &SignatureError{Malformed, errors.New("it is over a file, not over a statement")}
	}
	statement, err := decodeStatement(envelope)
	if err != nil {
		return Statement{}, Signer{}, &SignatureError{Malformed, err}
	}
	// There is no artifact to give: the statement itself is what was signed, and it is in the bundle. sigstore-go calls
	// that unsafe because a caller may forget the subjects; to look for the first of them in the statement they were
	// read from would prove nothing more. What is read above is the payload against which the signature is verified
	// here.
	signer, err := v.verify(entity, verify.WithoutArtifactUnsafe())
	if err != nil {
		return Statement{}, Signer{}, err
	}
	return statement, signer, nil
}

func decodeStatement(envelope verify.EnvelopeContent) (Statement, error) {
	// This is the strict half of the reading: the type of the payload, no unknown and no duplicate field.
	strict, err := envelope.Statement()
	if err != nil {
		return Statement{}, err
	}
	if strict.GetType() != statementType {
		return Statement{}, fmt.Errorf("its statement is of type %q, not %s", strict.GetType(), statementType)
	}
	statement := Statement{PredicateType: strict.GetPredicateType()}
	for _, subject := range strict.GetSubject() {
		digest := subject.GetDigest()["sha256"]
		if !sha256Form.MatchString(digest) {
			return Statement{}, fmt.Errorf("its statement has no sha256 for %q", subject.GetName())
		}
		statement.Subjects = append(statement.Subjects, Subject{Name: subject.GetName(), SHA256: digest})
	}
	if len(statement.Subjects) == 0 {
		return Statement{}, errors.New("its statement is about nothing")
	}
	// And this the exact one: protobuf's own form of a predicate makes every number a float64.
	payload, err := envelope.RawEnvelope().DecodeB64Payload()
	if err != nil {
		return Statement{}, err
	}
	var raw struct {
		Predicate json.RawMessage `json:"predicate"`
	}
	if err := json.Unmarshal(payload, &raw); err != nil {
		return Statement{}, err
	}
	statement.Predicate, statement.Payload = raw.Predicate, payload
	return statement, nil
}
