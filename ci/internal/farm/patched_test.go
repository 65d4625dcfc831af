package farm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/matrix/patches"
)

// patchSet makes a set of one-line patches: name → file, old line, new line.
func patchSet(t *testing.T, edits map[string][3]string) []patches.Patch {
	t.Helper()
	files := fstest.MapFS{}
	for name, e := range edits {
		text := "From: A <a@example.org>\nSubject: [PATCH] mend it\n\nIt was broken: https://example.org/1\n\n" +
			"diff --git a/" + e[0] + " b/" + e[0] + "\n--- a/" + e[0] + "\n+++ b/" + e[0] + "\n@@ -1 +1 @@\n-" + e[1] + "\n+" + e[2] + "\n"
		files[name] = &fstest.MapFile{Data: []byte(text)}
	}
	set, err := patches.Read(files)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestPatchedSource(t *testing.T) {
	repo := t.TempDir()
	writeTree(t, repo, llamaTree())
	mustGit(t, repo, "init", "-q")
	mustGit(t, repo, "add", "-A")
	mustGit(t, repo, "commit", "-qm", "all")
	commit := mustGit(t, repo, "rev-parse", "HEAD")
	folder := t.TempDir()
	writeTree(t, folder, llamaTree())
	pin := matrix.LlamaPin{Repository: "file://" + repo, Ref: "master", Commit: commit, Tree: mustGit(t, repo, "rev-parse", "HEAD^{tree}")}
	mend := [3]string{"ggml/src/ggml.c", "int ggml;", "long ggml;"}
	again := [3]string{"ggml/src/ggml.c", "long ggml;", "long long ggml;"}

	for _, test := range []struct {
		name   string
		given  string
		edits  map[string][3]string
		want   []string // names of what was applied
		text   string   // of ggml/src/ggml.c
		word   string   // to the user
		failed string
	}{
		{"none", folder, nil, nil, "int ggml;\n", "", ""},
		{"a folder", folder, map[string][3]string{"0001-a.patch": mend}, []string{"0001-a.patch"}, "long ggml;\n", "", ""},
		{"the pin", "", map[string][3]string{"0001-a.patch": mend}, []string{"0001-a.patch"}, "long ggml;\n", "", ""},
		{"one after the other", "", map[string][3]string{"0001-a.patch": mend, "0002-b.patch": again}, []string{"0001-a.patch", "0002-b.patch"}, "long long ggml;\n", "", ""},
		{"upstream has it", "", map[string][3]string{"0001-a.patch": {"ggml/src/ggml.c", "short ggml;", "int ggml;"}}, nil, "int ggml;\n",
			"the patch 0001-a.patch is dropped: the source has these changes already", ""},
		{"a file that a folder lacks", folder, map[string][3]string{"0001-a.patch": {"ggml/src/amx.c", "a", "b"}, "0002-b.patch": mend}, []string{"0002-b.patch"}, "long ggml;\n",
			"the patch 0001-a.patch is left out: the source does not have ggml/src/amx.c", ""},
		{"a file that the pin lacks", "", map[string][3]string{"0001-a.patch": {"ggml/src/amx.c", "a", "b"}}, nil, "", "", "applying the patch 0001-a.patch: the source does not have ggml/src/amx.c"},
		{"the pin by its commit", "file://" + repo + "@" + commit, map[string][3]string{"0001-a.patch": {"ggml/src/amx.c", "a", "b"}}, nil, "", "", "does not have ggml/src/amx.c"},
		{"another form of it", folder, map[string][3]string{"0001-a.patch": {"ggml/src/ggml.c", "char ggml;", "x"}, "0001-a.b1.patch": {"ggml/src/amx.c", "a", "b"}, "0001-a.b2.patch": mend, "0002-b.patch": again},
			[]string{"0001-a.b2.patch", "0002-b.patch"}, "long long ggml;\n", "", ""},
		{"the first form that fits", folder, map[string][3]string{"0001-a.patch": mend, "0001-a.b1.patch": {"ggml/src/ggml.c", "int ggml;", "short ggml;"}}, []string{"0001-a.patch"}, "long ggml;\n", "", ""},
		{"upstream has another form", folder, map[string][3]string{"0001-a.patch": {"ggml/src/ggml.c", "char ggml;", "x"}, "0001-a.b1.patch": {"ggml/src/ggml.c", "short ggml;", "int ggml;"}}, nil, "int ggml;\n",
			"the patch 0001-a.patch is dropped: the source has these changes already", ""},
		{"no form applies", folder, map[string][3]string{"0001-a.patch": {"ggml/src/ggml.c", "char ggml;", "x"}, "0001-a.b1.patch": {"ggml/src/ggml.c", "short ggml;", "y"}}, nil, "", "", "applying the patch 0001-a.patch: ggml/src/ggml.c, hunk 1"},
		{"it does not apply", folder, map[string][3]string{"0001-a.patch": {"ggml/src/ggml.c", "char ggml;", "x"}}, nil, "", "", "applying the patch 0001-a.patch: ggml/src/ggml.c, hunk 1 (@@ -1,1 +1,1 @@): its lines are not in the file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cache := t.TempDir()
			var plain string
			for range 2 { // the second time from the cache
				var said []string
				src, err := ResolveSource(t.Context(), test.given, pin, patchSet(t, test.edits), cache, func(text string) { said = append(said, text) })
				if test.failed != "" {
					if err == nil || !strings.Contains(err.Error(), test.failed) {
						t.Fatalf("the error is %v, want %s", err, test.failed)
					}
					var hinted interface{ Hint() string }
					if !errors.As(err, &hinted) {
						t.Error("it has no hint")
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				var names []string
				for _, p := range src.Patches {
					names = append(names, p.Name)
				}
				if diff := cmp.Diff(test.want, names); diff != "" {
					t.Error(diff)
				}
				if text, err := os.ReadFile(filepath.Join(src.Dir, "ggml/src/ggml.c")); err != nil || string(text) != test.text {
					t.Errorf("the tree has %q, %v", text, err)
				}
				if len(src.Patches) > 0 { // the patched tree is not trusted either
					if err := os.WriteFile(filepath.Join(src.Dir, "ggml/src/ggml.c"), []byte("planted"), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				if info, err := os.Stat(filepath.Join(src.Dir, "scripts/run.sh")); err != nil || info.Mode().Perm() != 0o755 {
					t.Errorf("its script: %v %v", info, err)
				}
				if test.word != "" && !strings.Contains(strings.Join(said, "\n"), test.word) {
					t.Errorf("said %q, not %q", said, test.word)
				}
				if plain == "" {
					unpatched, err := ResolveSource(t.Context(), test.given, pin, nil, cache, nil)
					if err != nil {
						t.Fatal(err)
					}
					plain = unpatched.Digest
				}
				if src.Digest != plain {
					t.Errorf("the digest is %s, that of the tree as it came is %s", src.Digest, plain)
				}
			}
		})
	}
}
