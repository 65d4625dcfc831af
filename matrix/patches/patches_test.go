package patches

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

const header = `From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: A <a@example.org>
Date: Thu, 26 Nov 2026 09:00:00 +0000
Subject: [PATCH] ggml: mend it

It was broken.

Upstream: https://example.org/pull/1

`

// edit is a diff of one hunk of one file.
func edit(name, hunk string) string {
	return fmt.Sprintf("diff --git a/%[1]s b/%[1]s\nindex 1111111..2222222 100644\n--- a/%[1]s\n+++ b/%[1]s\n%[2]s", name, hunk)
}

const (
	hunkA = "@@ -2,3 +2,3 @@ int f() {\n two\n-three\n+THREE\n four\n"
	hunkB = "@@ -7,2 +7,3 @@\n seven\n+seven and a half\n eight\n"
	added = "diff --git a/src/new.c b/src/new.c\nnew file mode 100644\nindex 0000000..2222222\n--- /dev/null\n+++ b/src/new.c\n@@ -0,0 +1,2 @@\n+int x;\n+int y;\n"
)

const ten = "one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\nten\n"

func read(t *testing.T, text string) Patch {
	t.Helper()
	set, err := Read(fstest.MapFS{"0007-it.patch": {Data: []byte(header + text)}})
	if err != nil {
		t.Fatal(err)
	}
	return set[0]
}

func TestApply(t *testing.T) {
	two := edit("src/a.c", hunkA+hunkB)
	mended := strings.NewReplacer("three", "THREE", "seven\n", "seven\nseven and a half\n").Replace(ten)
	for _, test := range []struct {
		name  string
		patch string
		tree  map[string]string
		want  map[string]string
		err   string
	}{
		{"two hunks", two, map[string]string{"src/a.c": ten}, map[string]string{"src/a.c": mended}, ""},
		{"moved lines", two, map[string]string{"src/a.c": "zero\n" + strings.Replace(ten, "five\n", "five\nmore\nand more\n", 1)},
			map[string]string{"src/a.c": "zero\n" + strings.Replace(mended, "five\n", "five\nmore\nand more\n", 1)}, ""},
		{"another context", two, map[string]string{"src/a.c": strings.Replace(ten, "four", "4", 1)}, nil,
			"applying the patch 0007-it.patch: src/a.c, hunk 1 (@@ -2,3 +2,3 @@ int f() {): its lines are not in the file"},
		{"the second hunk only", two, map[string]string{"src/a.c": strings.Replace(ten, "eight", "8", 1)}, nil, "src/a.c, hunk 2 (@@ -7,2 +7,3 @@): its lines are not in the file"},
		{"two places", edit("src/a.c", hunkA), map[string]string{"src/a.c": ten + ten}, nil, "hunk 1 (@@ -2,3 +2,3 @@ int f() {): its lines are in the file 2 times"},
		{"a place within longer lines", edit("src/a.c", hunkA), map[string]string{"src/a.c": "not two\nthree\nfour\n"}, nil, "its lines are not in the file"},
		{"hunks in another order", two, map[string]string{"src/a.c": "seven\neight\ntwo\nthree\nfour\n"}, nil, "hunk 2 (@@ -7,2 +7,3 @@): its lines come before those of the hunk before it"},
		{"upstream has it", two, map[string]string{"src/a.c": mended}, nil, ErrUpstream.Error()},
		{"upstream has half of it", two, map[string]string{"src/a.c": strings.Replace(ten, "three", "THREE", 1)}, nil, "hunk 1"},
		{"no such file", two, map[string]string{"src/b.c": ten}, nil, "applying the patch 0007-it.patch: the source does not have src/a.c"},
		{"a new file and a change", added + edit("src/a.c", hunkA), map[string]string{"src/a.c": ten},
			map[string]string{"src/a.c": strings.Replace(ten, "three", "THREE", 1), "src/new.c": "int x;\nint y;\n"}, ""},
		{"a new file that is there", added, map[string]string{"src/new.c": "int z;\n"}, nil, "src/new.c, hunk 1 (@@ -0,0 +1,2 @@): the source has the file already"},
		{"a new file that upstream has", added, map[string]string{"src/new.c": "int x;\nint y;\n"}, nil, ErrUpstream.Error()},
		{"without the last newline", edit("src/a.c", "@@ -1,2 +1,2 @@\n one\n-two\n\\ No newline at end of file\n+TWO\n"),
			map[string]string{"src/a.c": "one\ntwo"}, map[string]string{"src/a.c": "one\nTWO\n"}, ""},
		{"the last line has a newline", edit("src/a.c", "@@ -1,2 +1,2 @@\n one\n-two\n\\ No newline at end of file\n+TWO\n"),
			map[string]string{"src/a.c": "one\ntwo\nthree\n"}, nil, "its lines are not in the file"},
		{"no context", edit("src/a.c", "@@ -1,0 +2 @@\n+more\n"), map[string]string{"src/a.c": ten}, nil, "its lines are not in the file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := read(t, test.patch).Apply(func(name string) ([]byte, error) {
				text, ok := test.tree[name]
				if !ok {
					return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
				}
				return []byte(text), nil
			})
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Fatalf("the error is %v, want %q", err, test.err)
			}
			var texts map[string]string
			for name, text := range got {
				if texts == nil {
					texts = map[string]string{}
				}
				texts[name] = string(text)
			}
			if diff := cmp.Diff(test.want, texts); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	good := edit("src/a.c", hunkA)
	for name, test := range map[string]struct {
		file, text, want string
	}{
		"a name without a number": {"fix.patch", header + good, "the name is not NNNN-name.patch"},
		"no header":               {"0001-a.patch", good, "its header does not say"},
		"no link":                 {"0001-a.patch", strings.Replace(header, "https://example.org/pull/1", "asked", 1) + good, "its header does not say"},
		"no reason":               {"0001-a.patch", strings.NewReplacer("It was broken.\n", "", "Upstream: ", "").Replace(header) + good, "its header does not say"},
		"no change":               {"0001-a.patch", header, "it changes no file"},
		"a cut hunk":              {"0001-a.patch", strings.TrimSuffix(header+good, " four\n"), "gitdiff"},
		"a path up":               {"0001-a.patch", header + edit("../a.c", hunkA), "is not a path in a source tree"},
		"a deletion":              {"0001-a.patch", header + "diff --git a/a.c b/a.c\ndeleted file mode 100644\n--- a/a.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n", "it deletes, renames"},
		"a rename":                {"0001-a.patch", header + "diff --git a/a.c b/b.c\nsimilarity index 100%\nrename from a.c\nrename to b.c\n", "it deletes, renames"},
		"a mode":                  {"0001-a.patch", header + "diff --git a/a.c b/a.c\nold mode 100644\nnew mode 100755\n", "it deletes, renames"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Read(fstest.MapFS{test.file: {Data: []byte(test.text)}})
			if err == nil || !strings.Contains(err.Error(), "reading the patch "+test.file) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %v, want %q", err, test.want)
			}
		})
	}
	_, err := Read(fstest.MapFS{"0001-a.patch": {Data: []byte(header + good)}, "0001-b.patch": {Data: []byte(header + good)}})
	if err == nil || !strings.Contains(err.Error(), "0001-a.patch has the same number") {
		t.Errorf("two of a number: %v", err)
	}
}

func TestErrorsSayWhatHelps(t *testing.T) {
	for _, err := range []error{&ConflictError{Patch: "0001-a.patch"}, &NotThereError{Patch: "0001-a.patch"}} {
		var hinted interface{ Hint() string }
		if !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), "matrix/patches/0001-a.patch") {
			t.Errorf("%T has no hint that names the file", err)
		}
	}
}

// A change has forms for trees whose lines differ; the forms are not patches of their own.
func TestForms(t *testing.T) {
	patch := func(old string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte(header + edit("src/a.c", "@@ -1 +1 @@\n-"+old+"\n+mended\n"))}
	}
	set, err := Read(fstest.MapFS{
		"0001-a.patch": patch("a"), "0001-a.b2.patch": patch("b"), "0001-a.b1.patch": patch("c"), "0002-b.patch": patch("d"),
	})
	if err != nil {
		t.Fatal(err)
	}
	var got [][]string
	for _, p := range set {
		var names []string
		for _, form := range p.Forms() {
			names = append(names, form.Name)
		}
		got = append(got, names)
	}
	if diff := cmp.Diff([][]string{{"0001-a.patch", "0001-a.b1.patch", "0001-a.b2.patch"}, {"0002-b.patch"}}, got); diff != "" {
		t.Error(diff)
	}
	for want, files := range map[string]fstest.MapFS{
		"there is no 0001-a.patch that it is another form of": {"0001-a.b1.patch": patch("a"), "0001-b.patch": patch("b")},
		"0001-a.patch has the same number":                    {"0001-a.patch": patch("a"), "0001-a.b1.patch": patch("b"), "0001-b.patch": patch("c")},
		"the name is not":                                     {"0001-a.b.1.patch": patch("a")},
	} {
		if _, err := Read(files); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %q", err, want)
		}
	}
}

// The set itself can be read, and is in order.
func TestDefault(t *testing.T) {
	set, err := Default()
	if err != nil || len(set) == 0 {
		t.Fatalf("%d patches: %v", len(set), err)
	}
	for i, p := range set {
		if i > 0 && set[i-1].Name >= p.Name || len(p.SHA256) != 64 {
			t.Errorf("%s, %s", p.Name, p.SHA256)
		}
	}
}
