package manifests

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/matrix"
)

const (
	// MaxPointerSize bounds the release pointer, in bytes. One with two log entries and a timestamp
	// has about 15 kB.
	MaxPointerSize = 64 << 10
	// MaxPointerLife bounds how long a pointer counts, so that an attacker who had a signing key
	// for a day cannot keep machines at a release forever.
	MaxPointerLife = 366 * 24 * time.Hour
	// MaxClockLag is how much later than a machine's clock says a pointer may have been issued. A
	// clock that is further behind would take a pointer that expired long ago.
	MaxClockLag = 24 * time.Hour
)

const (
	// statementType and pointerType are names, not addresses: a fork keeps them, as it keeps
	// schema_version.
	statementType     = "https://in-toto.io/Statement/v1"
	pointerTypePrefix = "https://github.com/waqasm86/llcuda-farm/release-pointer/v"
	pointerType       = pointerTypePrefix + "1"
	pointerVersion    = 1

	// pointerTime is the one way to write a time in it: UTC, whole seconds.
	pointerTime = "2006-01-02T15:04:05Z"
)

// A Pointer says which release is the current one. It is renewed for every release, and
// before it expires.
type Pointer struct {
	// Release is the tag of the current release, and Manifest the sha256 of its manifest.json.
	Release, Manifest string
	// Number is greater in each pointer than in the one before, also in one that goes back to an
	// older release. It is at most the seconds from 1970 to Issued: so no mistake, and no thief of
	// a key, can use up the numbers. Whatever number a pointer had, one that is issued a second
	// later may have a greater one.
	Number int64
	// Issued and Expires are in UTC, in whole seconds. The pointer counts between them.
	Issued, Expires time.Time
	// Withdrawn are the releases that were withdrawn, ascending by tag. Later pointers keep them.
	Withdrawn []Withdrawal
}

// A Withdrawal is a release that was withdrawn: it should no longer be installed.
type Withdrawal struct {
	Release string `json:"release"`
	// Reason is one line for those who ask for the release by its tag, or have it installed.
	Reason string `json:"reason"`
}

const (
	// MaxWithdrawn and maxReason bound the withdrawn releases, so that with them a pointer stays
	// well below MaxPointerSize in a Sigstore bundle, which has it in base64.
	MaxWithdrawn = 60
	maxReason    = 300 // bytes
)

// Withdrawal reports whether a release was withdrawn, and why.
func (p Pointer) Withdrawal(release string) (Withdrawal, bool) {
	at := slices.IndexFunc(p.Withdrawn, func(w Withdrawal) bool { return w.Release == release })
	if at < 0 {
		return Withdrawal{}, false
	}
	return p.Withdrawn[at], true
}

// Equal reports whether two pointers say the same.
func (p Pointer) Equal(q Pointer) bool {
	return p.Release == q.Release && p.Manifest == q.Manifest && p.Number == q.Number &&
		p.Issued.Equal(q.Issued) && p.Expires.Equal(q.Expires) && slices.Equal(p.Withdrawn, q.Withdrawn)
}

// A pointerStatement is a pointer as it is signed: an in-toto statement about a manifest.json.
type pointerStatement struct {
	Type          string           `json:"_type"`
	Subject       []pointerSubject `json:"subject"`
	PredicateType string           `json:"predicateType"`
	Predicate     pointerPredicate `json:"predicate"`
}

type pointerSubject struct {
	Name   string        `json:"name"`
	Digest pointerDigest `json:"digest"`
}

type pointerDigest struct {
	SHA256 string `json:"sha256"`
}

type pointerPredicate struct {
	Release string `json:"release"`
	Number  int64  `json:"number"`
	Issued  string `json:"issued"`
	Expires string `json:"expires"`
	// Withdrawn is left out where there is none.
	Withdrawn []Withdrawal `json:"withdrawn,omitempty"`
}

// Check reports everything wrong with a pointer, as matrix.Problems. It looks at no clock.
func (p Pointer) Check() error {
	var problems matrix.Problems
	checkName(&problems, "release", p.Release)
	checkSHA256(&problems, "manifest", p.Manifest)
	if last := p.Issued.Unix(); p.Number < 1 || p.Number > last {
		problems.Addf("number", "%d is not between 1 and %d, the seconds from 1970 to when it was issued", p.Number, last)
	}
	for _, t := range []struct {
		at   string
		time time.Time
	}{{"issued", p.Issued}, {"expires", p.Expires}} {
		if t.time.Location() != time.UTC || t.time.Nanosecond() != 0 || t.time.Year() < 1970 || t.time.Year() > 9999 {
			problems.Addf(t.at, "%s is not in UTC and whole seconds", t.time)
		}
	}
	if life := p.Expires.Sub(p.Issued); life <= 0 || life > MaxPointerLife {
		problems.Addf("expires", "%s after it was issued; want more than nothing, and at most %s", life, MaxPointerLife)
	}
	p.checkWithdrawn(&problems)
	return problems.Err()
}

func (p Pointer) checkWithdrawn(problems *matrix.Problems) {
	if len(p.Withdrawn) > MaxWithdrawn {
		problems.Addf("withdrawn", "%d releases, and at most %d have room", len(p.Withdrawn), MaxWithdrawn)
		return
	}
	for i, w := range p.Withdrawn {
		at := fmt.Sprintf("withdrawn[%d]", i)
		checkName(problems, at+".release", w.Release)
		switch {
		case w.Release == p.Release:
			problems.Addf(at+".release", "%s is the current release, too", w.Release)
		case i > 0 && w.Release <= p.Withdrawn[i-1].Release:
			problems.Addf(at+".release", "%s does not come after %s", w.Release, p.Withdrawn[i-1].Release)
		}
		if strings.TrimSpace(w.Reason) == "" || len(w.Reason) > maxReason || !matrix.IsPrintable(w.Reason) {
			problems.Addf(at+".reason", "%q is not one line of 1 to %d bytes", shorten(w.Reason), maxReason)
		}
	}
}

// EncodePointer gives the statement to sign. It refuses a pointer that Check refuses.
func EncodePointer(p Pointer) ([]byte, error) {
	if err := p.Check(); err != nil {
		return nil, fmt.Errorf("writing %s: %w", PointerName, err)
	}
	return encode(pointerStatement{
		Type:          statementType,
		Subject:       []pointerSubject{{Name: ManifestName, Digest: pointerDigest{SHA256: p.Manifest}}},
		PredicateType: pointerType,
		Predicate:     pointerPredicate{Release: p.Release, Number: p.Number, Issued: p.Issued.Format(pointerTime), Expires: p.Expires.Format(pointerTime), Withdrawn: p.Withdrawn},
	})
}

// DecodePointer reads a statement whose signature was verified, and checks it. It looks at no
// clock.
func DecodePointer(statement []byte) (Pointer, error) {
	p, err := decodePointer(statement)
	var newer *VersionError
	if err == nil || errors.As(err, &newer) {
		return p, err
	}
	return Pointer{}, fmt.Errorf("reading %s: %w", PointerName, err)
}

func decodePointer(statement []byte) (Pointer, error) {
	if len(statement) > MaxPointerSize {
		return Pointer{}, fmt.Errorf("larger than %d bytes", MaxPointerSize)
	}
	root, err := parse(statement)
	if err != nil {
		return Pointer{}, err
	}
	for i, field := range root.fields {
		if field == "predicateType" {
			if err := checkPointerType(root.items[i].text); err != nil {
				return Pointer{}, err
			}
		}
	}
	var s pointerStatement
	var problems matrix.Problems
	bind(root, reflect.ValueOf(&s).Elem(), "", &problems)
	if s.Type != statementType {
		problems.Addf("_type", "%q, want %s", shorten(s.Type), statementType)
	}
	if len(s.Subject) != 1 || s.Subject[0].Name != ManifestName {
		problems.Addf("subject", "want %s alone", ManifestName)
	}
	if err := problems.Err(); err != nil {
		return Pointer{}, err
	}
	p := Pointer{Release: s.Predicate.Release, Manifest: s.Subject[0].Digest.SHA256, Number: s.Predicate.Number, Withdrawn: s.Predicate.Withdrawn}
	for _, t := range []struct {
		at, text string
		time     *time.Time
	}{{"predicate.issued", s.Predicate.Issued, &p.Issued}, {"predicate.expires", s.Predicate.Expires, &p.Expires}} {
		parsed, err := time.Parse(pointerTime, t.text)
		if err != nil || parsed.Format(pointerTime) != t.text { // Parse accepts fractions of a second that the layout does not have
			problems.Addf(t.at, "%q is not a time like %s", shorten(t.text), pointerTime)
		}
		*t.time = parsed
	}
	if err := problems.Err(); err != nil {
		return Pointer{}, err
	}
	return p, p.Check()
}

// checkPointerType tells another kind of statement from a pointer of a version that this program is
// too old for.
func checkPointerType(text string) error {
	if version, ok := strings.CutPrefix(text, pointerTypePrefix); ok {
		if got, err := strconv.Atoi(version); err == nil && got > pointerVersion {
			return &VersionError{Document: PointerName, Got: got, Known: pointerVersion}
		}
	}
	if text != pointerType {
		return fmt.Errorf("it is a statement of type %q, not %s", shorten(text), pointerType)
	}
	return nil
}

// A PointerTimeError is a pointer that does not count at this time: it expired, or was issued after
// it.
type PointerTimeError struct {
	Pointer Pointer
	Now     time.Time
}

func (e *PointerTimeError) Error() string {
	now := e.Now.UTC().Format(pointerTime)
	if e.Expired() {
		return fmt.Sprintf("release pointer %d expired at %s; the clock of this machine says %s", e.Pointer.Number, e.Pointer.Expires.Format(pointerTime), now)
	}
	return fmt.Sprintf("release pointer %d was issued at %s; the clock of this machine says %s, which is before", e.Pointer.Number, e.Pointer.Issued.Format(pointerTime), now)
}

// Expired reports whether the pointer has expired, as opposed to not being valid yet.
func (e *PointerTimeError) Expired() bool { return !e.Now.Before(e.Pointer.Expires) }

// Hint says what it may mean.
func (e *PointerTimeError) Hint() string {
	way := "; --release " + e.Pointer.Release + " installs the release that it names, whatever the time"
	if e.Expired() {
		return "the mirror is stale or withholds newer pointers, the farm is late to renew it, or this machine's clock is wrong" + way
	}
	return "correct this machine's clock: with a clock that is behind, a pointer that expired long ago would still be accepted" + way
}

// CheckTime reports whether the pointer counts now. Its error is a *PointerTimeError.
func (p Pointer) CheckTime(now time.Time) error {
	if !now.Before(p.Expires) || now.Add(MaxClockLag).Before(p.Issued) {
		return &PointerTimeError{Pointer: p, Now: now}
	}
	return nil
}

// A PointerBackError is a pointer older than one that was seen before, or another one of the same
// number.
type PointerBackError struct{ Seen, Offered Pointer }

func (e *PointerBackError) Error() string {
	if e.Seen.Number == e.Offered.Number {
		return fmt.Sprintf("two release pointers have the number %d: the one seen before names %s, this one %s", e.Seen.Number, e.Seen.named(), e.Offered.named())
	}
	return fmt.Sprintf("release pointer %d names %s, and pointer %d, which names %s, was seen before", e.Offered.Number, e.Offered.named(), e.Seen.Number, e.Seen.named())
}

// Hint says what it may mean.
func (e *PointerBackError) Hint() string {
	if e.Seen.Number == e.Offered.Number {
		return "the farm signed both, which must never happen: use neither, and ask its maintainers"
	}
	return "the mirror may be holding you at an old release; if it is only a cache that is minutes behind, try again later"
}

// A WithdrawnError is a release that was asked for by its tag and was withdrawn.
type WithdrawnError struct {
	Withdrawal
	// Instead is the release that the pointer names.
	Instead string
}

func (e *WithdrawnError) Error() string {
	return fmt.Sprintf("release %s was withdrawn: %s", e.Release, e.Reason)
}

// Hint says what to use instead.
func (e *WithdrawnError) Hint() string {
	return "--release " + e.Instead + " is the current release; --allow-withdrawn accepts " + e.Release + " anyway"
}

// CheckWithdrawn reports whether a release that was asked for was withdrawn. Its error is a
// *WithdrawnError.
func (p Pointer) CheckWithdrawn(release string) error {
	if w, withdrawn := p.Withdrawal(release); withdrawn {
		return &WithdrawnError{w, p.Release}
	}
	return nil
}

// named is the release of a pointer, as exactly as a person may want it.
func (p Pointer) named() string {
	const digits = 12
	return fmt.Sprintf("%s (manifest %.*s)", p.Release, digits, p.Manifest)
}

// CheckAfter reports whether the pointer may follow one that was seen before: one of a lower
// number, or itself. Its error is a *PointerBackError. A pointer that is only renewed has
// another number.
func (p Pointer) CheckAfter(seen Pointer) error {
	if p.Number < seen.Number || p.Number == seen.Number && (p.Release != seen.Release || p.Manifest != seen.Manifest || !slices.Equal(p.Withdrawn, seen.Withdrawn)) {
		return &PointerBackError{Seen: seen, Offered: p}
	}
	return nil
}

// CheckRelease reports whether a release is the one that the pointer names, by its manifest.json.
func (p Pointer) CheckRelease(manifestSHA256 string) error {
	if p.Manifest != manifestSHA256 {
		return fmt.Errorf("release pointer %d names %s with sha256 %s for its %s, and here is one with %s", p.Number, p.Release, p.Manifest, ManifestName, manifestSHA256)
	}
	return nil
}

// CompareTags orders the tags of releases by their numbers: "v1.2.0-runtime" comes after
// "v1.1.9-runtime". ok reports whether both have numbers, and different ones.
func CompareTags(a, b string) (order int, ok bool) {
	x, okX := tagNumbers(a)
	y, okY := tagNumbers(b)
	order = matrix.CompareVersions(x, y)
	return order, okX && okY && order != 0
}

// tagNumbers are the numbers of "v1.1.0-runtime".
func tagNumbers(tag string) (string, bool) {
	numbers, _, _ := strings.Cut(strings.TrimPrefix(tag, "v"), "-")
	return numbers, matrix.IsVersion(numbers)
}
