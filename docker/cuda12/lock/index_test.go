package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// stanza is one package of a Packages file.
func stanza(name string, fields ...string) string {
	return "Package: " + name + "\nVersion: 1\nFilename: pool/" + name + ".deb\nSize: 1\nSHA256: 00\n" + strings.Join(fields, "\n") + "\n\n"
}

func TestClosure(t *testing.T) {
	packages := stanza("app", "Depends: libc6 (>= 2.36), awk", "Pre-Depends: loader:any") +
		stanza("libc6", "Depends: libgcc-s1 | libgcc1") +
		stanza("libgcc-s1", "Description: support", " Depends: not a field, but text") +
		stanza("gawk", "Provides: awk") +
		stanza("mawk", "Provides: awk (= 1), editor") +
		stanza("loader") +
		stanza("choice", "Depends: missing | mawk | gawk") +
		stanza("broken", "Depends: missing (>= 1)") +
		stanza("kernel") + stanza("kernel", "Depends: gawk")
	for name, test := range map[string]struct {
		wanted []string
		have   map[string]bool
		found  []string
		words  string // of the error
	}{
		"follows dependencies":              {[]string{"app"}, nil, []string{"app", "gawk", "libc6", "libgcc-s1", "loader"}, ""},
		"a wished provider decides":         {[]string{"app", "mawk"}, nil, []string{"app", "libc6", "libgcc-s1", "loader", "mawk"}, ""},
		"an installed provider decides":     {[]string{"app"}, map[string]bool{"mawk": true, "libc6": true}, []string{"app", "loader"}, ""},
		"first alternative that exists":     {[]string{"choice"}, nil, []string{"choice", "mawk"}, ""},
		"chosen alternative before a first": {[]string{"choice", "gawk"}, nil, []string{"choice", "gawk"}, ""},
		"no such package":                   {[]string{"nope"}, nil, nil, "resolving nope: no such package"},
		"a dependency nothing gives":        {[]string{"broken"}, nil, nil, `resolving broken: nothing gives "missing (>= 1)"`},
		"several versions":                  {[]string{"kernel"}, nil, nil, "resolving kernel: the index has several versions"},
	} {
		t.Run(name, func(t *testing.T) {
			x := newIndex()
			if err := x.read(strings.NewReader(packages)); err != nil {
				t.Fatal(err)
			}
			found, err := x.closure(test.wanted, test.have)
			if test.words != "" {
				if err == nil || !strings.Contains(err.Error(), test.words) {
					t.Errorf("error is %v, want one with %q", err, test.words)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, p := range found {
				names = append(names, p.name)
			}
			if diff := cmp.Diff(test.found, names); diff != "" {
				t.Errorf("closure (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadRefusesIncomplete(t *testing.T) {
	for name, text := range map[string]string{
		"no digest":       "Package: a\nVersion: 1\nFilename: a.deb\nSize: 1\n\n",
		"size no number":  "Package: a\nVersion: 1\nSize: many\n\n",
		"last has no end": "Package: a\nVersion: 1\n",
	} {
		t.Run(name, func(t *testing.T) {
			if err := newIndex().read(strings.NewReader(text)); err == nil {
				t.Error("no error")
			}
		})
	}
}
