package manifests_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
)

func pointer() manifests.Pointer {
	issued := time.Date(2026, 11, 25, 16, 0, 0, 0, time.UTC)
	return manifests.Pointer{Release: "v1.1.0-runtime", Manifest: hash("a"), Number: 7, Issued: issued, Expires: issued.Add(30 * 24 * time.Hour)}
}

func encodePointer(t testing.TB, p manifests.Pointer) []byte {
	t.Helper()
	data, err := manifests.EncodePointer(p)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestPointerRoundTrip(t *testing.T) {
	want := `{
  "_type": "https://in-toto.io/Statement/v1",
  "subject": [
    {
      "name": "manifest.json",
      "digest": {
        "sha256": "` + hash("a") + `"
      }
    }
  ],
  "predicateType": "https://github.com/waqasm86/llcuda-farm/release-pointer/v1",
  "predicate": {
    "release": "v1.1.0-runtime",
    "number": 7,
    "issued": "2026-11-25T16:00:00Z",
    "expires": "2026-12-25T16:00:00Z"
  }
}
`
	data := encodePointer(t, pointer())
	if diff := cmp.Diff(want, string(data)); diff != "" {
		t.Errorf("statement (-want +got):\n%s", diff)
	}
	got, err := manifests.DecodePointer(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(pointer(), got); diff != "" {
		t.Errorf("pointer (-want +got):\n%s", diff)
	}
}

func TestDecodePointerRefuses(t *testing.T) {
	good := string(encodePointer(t, pointer()))
	for name, test := range map[string]struct{ from, to, want string }{
		"another type of statement": {"Statement/v1", "Statement/v0.1", `_type: "https://in-toto.io/Statement/v0.1", want https://in-toto.io/Statement/v1`},
		"another predicate":         {"release-pointer/v1", "other/v1", "it is a statement of type"},
		"no predicate's type":       {"\"predicateType\": \"https://github.com/waqasm86/llcuda-farm/release-pointer/v1\",\n", "", "predicateType: missing"},
		"another subject":           {"manifest.json", "SHA256SUMS", "subject: want manifest.json alone"},
		"two subjects": {`"subject": [`, `"subject": [{"name": "manifest.json", "digest": {"sha256": "` + hash("b") + `"}},`,
			"subject: want manifest.json alone"},
		"another digest":       {`"sha256": "a`, `"sha256": "A`, "manifest: "},
		"one digest more":      {`"sha256": "`, `"sha512": "x", "sha256": "`, "subject[0].digest.sha512: unknown field"},
		"a folder as release":  {"v1.1.0-runtime", "../v1", "release: "},
		"number 0":             {"7", "0", "number: 0 is not between 1 and 1795622400, the seconds from 1970 to when it was issued"},
		"a negative number":    {"7", "-7", "number: -7 is not between"},
		"a number too large":   {"7", "1795622401", "number: 1795622401 is not between"},
		"a number without end": {"7", "9223372036854775807", "number: 9223372036854775807 is not between"},
		"a fraction":           {"7", "7.5", "predicate.number: want an integer"},
		"a number as text":     {"7", `"7"`, "predicate.number: want a number"},
		"half a second":        {"16:00:00Z", "16:00:00.5Z", "predicate.issued: "},
		"another zone":         {"16:00:00Z", "16:00:00+00:00", "predicate.issued: "},
		"a day alone":          {"2026-12-25T16:00:00Z", "2026-12-25", "predicate.expires: "},
		"a 13th month":         {"2026-12-25", "2026-13-25", "predicate.expires: "},
		"never good":           {"2026-12-25", "2026-11-25", "expires: 0s after it was issued"},
		"good for ever":        {"2026-12-25", "2936-12-25", "want more than nothing, and at most 8784h0m0s"},
		"a field more":         {`"number"`, `"colour": "red", "number"`, "predicate.colour: unknown field"},
		"nothing withdrawn":    {`"number"`, `"withdrawn": [], "number"`, "predicate.withdrawn: empty: leave it out"},
		"withdrawn, and how":   {`"number"`, `"withdrawn": [{"release": "v1"}], "number"`, "predicate.withdrawn[0].reason: missing"},
		"a field twice":        {`"number"`, `"number": 8, "number"`, "predicate.number: given twice"},
		"no number":            {"\"number\": 7,\n", "", "predicate.number: missing"},
		"something after it":   {"}\n}\n", "}\n}\n{}", "invalid character"},
		"too large":            {"{", "{" + strings.Repeat(" ", manifests.MaxPointerSize), "larger than 65536 bytes"},
		"nothing":              {good, "", "unexpected end"},
		"a list":               {good, "[]", "want an object"},
	} {
		changed := strings.Replace(good, test.from, test.to, 1)
		if changed == good {
			t.Errorf("%s: nothing was changed", name)
		}
		p, err := manifests.DecodePointer([]byte(changed))
		if err == nil || !strings.HasPrefix(err.Error(), "reading current.sigstore.json: ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %s", name, err, test.want)
		}
		if !p.Equal(manifests.Pointer{}) {
			t.Errorf("%s: it gave out %+v", name, p)
		}
	}
}

// A pointer of a version to come says so, whatever else is in it.
func TestPointerOfALaterVersion(t *testing.T) {
	data := bytes.Replace(encodePointer(t, pointer()), []byte("release-pointer/v1"), []byte("release-pointer/v2"), 1)
	data = bytes.Replace(data, []byte(`"number"`), []byte(`"serial"`), 1)
	_, err := manifests.DecodePointer(data)
	var newer *manifests.VersionError
	if !errors.As(err, &newer) || newer.Got != 2 {
		t.Errorf("got %v", err)
	}
}

// However high a number was set, by mistake or by a thief of the key, the farm continues with the
// next second's.
func TestNoNumberIsTheLast(t *testing.T) {
	highest := pointer()
	highest.Number = highest.Issued.Unix()
	seen, err := manifests.DecodePointer(encodePointer(t, highest))
	if err != nil {
		t.Fatal(err)
	}
	next := pointer()
	next.Issued = highest.Issued.Add(time.Second)
	next.Number = highest.Number + 1
	after, err := manifests.DecodePointer(encodePointer(t, next))
	if err != nil {
		t.Fatal(err)
	}
	if err := after.CheckAfter(seen); err != nil {
		t.Error(err)
	}
}

func TestEncodePointerRefuses(t *testing.T) {
	for name, change := range map[string]func(*manifests.Pointer){
		"no release":                    func(p *manifests.Pointer) { p.Release = "" },
		"no manifest":                   func(p *manifests.Pointer) { p.Manifest = "" },
		"no number":                     func(p *manifests.Pointer) { p.Number = 0 },
		"no times":                      func(p *manifests.Pointer) { p.Issued, p.Expires = time.Time{}, time.Time{} },
		"part of a second":              func(p *manifests.Pointer) { p.Issued = p.Issued.Add(1) },
		"another zone":                  func(p *manifests.Pointer) { p.Issued = p.Issued.In(time.FixedZone("x", 3600)) },
		"the current release withdrawn": func(p *manifests.Pointer) { p.Withdrawn = withdrawn(p.Release) },
		"withdrawn twice":               func(p *manifests.Pointer) { p.Withdrawn = withdrawn("v1.0.0", "v1.0.0") },
		"withdrawn in another order":    func(p *manifests.Pointer) { p.Withdrawn = withdrawn("v1.0.1", "v1.0.0") },
		"withdrawn, and no tag":         func(p *manifests.Pointer) { p.Withdrawn = withdrawn("../v1") },
		"withdrawn without a reason":    func(p *manifests.Pointer) { p.Withdrawn = []manifests.Withdrawal{{Release: "v1.0.0", Reason: "  "}} },
		"a reason of two lines": func(p *manifests.Pointer) {
			p.Withdrawn = []manifests.Withdrawal{{Release: "v1.0.0", Reason: "a\nb"}}
		},
		"a reason that rewrites the terminal": func(p *manifests.Pointer) {
			p.Withdrawn = []manifests.Withdrawal{{Release: "v1.0.0", Reason: "\x1b[2J"}}
		},
		"a long reason": func(p *manifests.Pointer) {
			p.Withdrawn = []manifests.Withdrawal{{Release: "v1.0.0", Reason: strings.Repeat("x", 301)}}
		},
		"too many withdrawn": func(p *manifests.Pointer) {
			for i := range manifests.MaxWithdrawn + 1 {
				p.Withdrawn = append(p.Withdrawn, withdrawn(fmt.Sprintf("v0.%03d", i))...)
			}
		},
		"the wrong way": func(p *manifests.Pointer) { p.Issued, p.Expires = p.Expires, p.Issued },
	} {
		p := pointer()
		change(&p)
		if data, err := manifests.EncodePointer(p); err == nil {
			t.Errorf("%s: it wrote %s", name, data)
		}
	}
}

// withdrawn are releases that were withdrawn, as they are given.
func withdrawn(releases ...string) []manifests.Withdrawal {
	var list []manifests.Withdrawal
	for _, release := range releases {
		list = append(list, manifests.Withdrawal{Release: release, Reason: "wrong results"})
	}
	return list
}

// As many as there may be, each as long as it may be, fit: in base64, beside 20 kB for certificate,
// logs and timestamp.
func TestWithdrawnFit(t *testing.T) {
	p := pointer()
	for i := range manifests.MaxWithdrawn {
		p.Withdrawn = append(p.Withdrawn, manifests.Withdrawal{Release: fmt.Sprintf("v0.%03d.%s", i, strings.Repeat("0", 90)), Reason: strings.Repeat("x", 300)})
	}
	data := encodePointer(t, p)
	if size := base64.StdEncoding.EncodedLen(len(data)); size > manifests.MaxPointerSize-20_000 {
		t.Errorf("it has %d bytes in base64", size)
	}
	got, err := manifests.DecodePointer(data)
	if diff := cmp.Diff(p, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if _, is := got.Withdrawal("v1.1.0-runtime"); is {
		t.Error("a release counts as withdrawn that is not")
	}
	var said *manifests.WithdrawnError
	if err := got.CheckWithdrawn(p.Withdrawn[7].Release); !errors.As(err, &said) || said.Instead != "v1.1.0-runtime" {
		t.Errorf("got %v", err)
	}
}

func TestPointerTime(t *testing.T) {
	p := pointer()
	for _, test := range []struct {
		name string
		now  time.Time
		want string
	}{
		{"in between", p.Issued.Add(time.Hour), ""},
		{"its first moment", p.Issued, ""},
		{"its last moment", p.Expires.Add(-time.Nanosecond), ""},
		{"its end", p.Expires, "release pointer 7 expired at 2026-12-25T16:00:00Z; the clock of this machine says 2026-12-25T16:00:00Z"},
		{"a year later", p.Expires.AddDate(1, 0, 0), "expired"},
		{"a clock hours behind", p.Issued.Add(-23 * time.Hour), ""},
		{"a clock days behind", p.Issued.Add(-48 * time.Hour), "was issued at 2026-11-25T16:00:00Z; the clock of this machine says 2026-11-23T16:00:00Z, which is before"},
		{"a clock in another zone", p.Expires.Add(-time.Second).In(time.FixedZone("x", 12*3600)), ""},
	} {
		err := p.CheckTime(test.now)
		var late *manifests.PointerTimeError
		switch {
		case test.want == "" && err != nil, test.want != "" && (!errors.As(err, &late) || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		case err != nil && !strings.Contains(late.Hint(), "--release v1.1.0-runtime"):
			t.Errorf("%s: the hint is %q", test.name, late.Hint())
		}
	}
}

func TestPointerOrder(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*manifests.Pointer)
		want   string
	}{
		{"the same", func(*manifests.Pointer) {}, ""},
		{"made anew", func(p *manifests.Pointer) { p.Number, p.Expires = 8, p.Expires.Add(time.Hour) }, ""},
		{"of an older release, by a greater number", func(p *manifests.Pointer) { p.Number, p.Release, p.Manifest = 9, "v1.0.0-runtime", hash("b") }, ""},
		{"a lower number", func(p *manifests.Pointer) { p.Number = 6 }, "release pointer 6 names v1.1.0-runtime (manifest aaaaaaaaaaaa), and pointer 7,"},
		{"a lower number of a newer release", func(p *manifests.Pointer) { p.Number, p.Release = 6, "v2.0.0-runtime" }, "release pointer 6 names v2.0.0-runtime"},
		{"another release by the same number", func(p *manifests.Pointer) { p.Release = "v1.2.0-runtime" }, "two release pointers have the number 7"},
		{"other withdrawn releases by the same number", func(p *manifests.Pointer) { p.Withdrawn = withdrawn("v1.0.0") }, "two release pointers have the number 7"},
		{"another manifest by the same number", func(p *manifests.Pointer) { p.Manifest = hash("b") }, "two release pointers have the number 7"},
	} {
		p := pointer()
		test.change(&p)
		err := p.CheckAfter(pointer())
		var back *manifests.PointerBackError
		if test.want == "" && err != nil || test.want != "" && (!errors.As(err, &back) || !strings.Contains(err.Error(), test.want) || back.Hint() == "") {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
	}
	if err := pointer().CheckRelease(hash("a")); err != nil {
		t.Error(err)
	}
	if err := pointer().CheckRelease(hash("b")); err == nil {
		t.Error("another manifest was taken")
	}
}

func TestCompareTags(t *testing.T) {
	for _, test := range []struct {
		a, b  string
		order int
		ok    bool
	}{
		{"v1.1.0-runtime", "v1.2.0-runtime", -1, true},
		{"v1.10.0-runtime", "v1.9.0-runtime", 1, true},
		{"v1.1.0-runtime", "v1.1.0-rc1", 0, false},
		{"v1.1", "v1.1.0-runtime", 0, false},
		{"nightly", "v1.1.0", 0, false},
		{"v1.1.0", "nightly", 0, false},
		{"1.2", "v1.1.9-x", 1, true},
	} {
		order, ok := manifests.CompareTags(test.a, test.b)
		if ok != test.ok || ok && order != test.order {
			t.Errorf("%s, %s: got %d, %v", test.a, test.b, order, ok)
		}
	}
}

func FuzzDecodePointer(f *testing.F) {
	f.Add(encodePointer(f, pointer()))
	f.Add([]byte(`{"predicateType":"https://github.com/waqasm86/llcuda-farm/release-pointer/v2"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := manifests.DecodePointer(data)
		if err != nil {
			if !p.Equal(manifests.Pointer{}) {
				t.Errorf("an error, and yet it gave out %+v", p)
			}
			return
		}
		again, err := manifests.DecodePointer(encodePointer(t, p))
		if err != nil || !again.Equal(p) {
			t.Errorf("%+v became %+v, %v", p, again, err)
		}
	})
}
