package archive_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/archive"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
)

const top = "top/"

type entries = []fetchtest.Entry

func file(name string) fetchtest.Entry {
	return fetchtest.Entry{Name: name, Mode: 0o644, Body: []byte("text")}
}

func folder(name string) fetchtest.Entry {
	return fetchtest.Entry{Name: name, Mode: 0o755, Type: tar.TypeDir}
}

// good is what a valid archive holds, in order.
func good() entries {
	return entries{
		folder(top), file(top + "LICENSE"), folder(top + "bin/"),
		{Name: top + "bin/liba.so", Link: "../lib/liba.so"},
		{Name: top + "bin/run", Mode: 0o755, Body: []byte("#!/bin/sh\n")},
		folder(top + "lib/"), {Name: top + "lib/liba.so", Mode: 0o755, Body: []byte("library")},
		file(top + "metadata.json"),
	}
}

// read reads an archive into a folder of the test's own. It fails the test if anything is written
// that is not in the tar, or outside of the folder.
func read(t testing.TB, data []byte, o archive.Options, size int64) (*archive.Contents, string, error) {
	t.Helper()
	outside := t.TempDir()
	into := filepath.Join(outside, "a", "b")
	if err := os.MkdirAll(into, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(into)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	o.Into = root
	contents, err := archive.Read(t.Context(), bytes.NewReader(data), o)
	var written int64
	walk := func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if inside := strings.HasPrefix(path+"/", into+"/"); entry.Type().IsRegular() && inside {
			written += info.Size()
		} else if !inside && !strings.HasPrefix(into, path) {
			t.Errorf("written outside of the folder: %s", path)
		}
		return err
	}
	if err := filepath.WalkDir(outside, walk); err != nil {
		t.Fatal(err)
	}
	if written > size {
		t.Errorf("%d bytes were written, and the tar has %d", written, size)
	}
	return contents, into, err
}

func TestRead(t *testing.T) {
	data := fetchtest.Tar(t, good())
	want := manifests.Digest{SHA256: fetchtest.SHA256(data), Size: int64(len(data))}
	for _, format := range []string{manifests.FormatTarGz, manifests.FormatTarZst} {
		packed := fetchtest.Compress(t, data, format)
		contents, into, err := read(t, packed, archive.Options{Format: format, Top: "top", Tar: &want}, want.Size)
		if err != nil {
			t.Fatal(err)
		}
		var listed []manifests.File
		for _, e := range good() {
			name := strings.TrimPrefix(e.Name, top)
			switch {
			case e.Link != "":
				listed = append(listed, manifests.File{Path: name, Mode: "0777", Link: e.Link})
			case e.Type == 0:
				listed = append(listed, manifests.File{Path: name, Mode: fmt.Sprintf("%04o", e.Mode), Size: int64(len(e.Body)), SHA256: fetchtest.SHA256(e.Body)})
			}
		}
		if diff := cmp.Diff(&archive.Contents{Tar: want, Time: contents.Time, Files: listed, Metadata: []byte("text")}, contents); diff != "" {
			t.Errorf("%s (-want +got):\n%s", format, diff)
		}
		if data, err := os.ReadFile(filepath.Join(into, "bin/liba.so")); err != nil || string(data) != "library" { // through its link
			t.Errorf("%s: %q, %v", format, data, err)
		}
		if info, err := os.Stat(filepath.Join(into, "bin/run")); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v", format, info, err)
		}
		if again, err := archive.DigestTar(bytes.NewReader(packed), format, want.Size); err != nil || again != want {
			t.Errorf("%s: %v, %v", format, again, err)
		}
		if _, err := archive.DigestTar(bytes.NewReader(packed), format, want.Size-1); err == nil {
			t.Errorf("%s: a tar over the limit has a digest", format)
		}
	}
}

// A forged archive for each rule. The attacker may also have written the manifest: its digests are
// those of the forgery.
func TestForgedArchives(t *testing.T) {
	add := func(more ...fetchtest.Entry) func(entries) entries {
		return func(list entries) entries { return fetchtest.Arrange("top", append(list, more...)) }
	}
	change := func(name string, edit func(*fetchtest.Entry)) func(entries) entries {
		return func(list entries) entries {
			edit(&list[slices.IndexFunc(list, func(e fetchtest.Entry) bool { return e.Name == top+name })])
			return list
		}
	}
	header := func(name string, patch func(block []byte)) func(entries) entries {
		return change(name, func(e *fetchtest.Entry) { e.Patch = patch })
	}
	link := func(name, target string) fetchtest.Entry {
		return fetchtest.Entry{Name: top + name, Link: target, Type: tar.TypeSymlink, Mode: 0o777}
	}
	records := func(body string, pax map[string]string) func(entries) entries {
		return change("LICENSE", func(e *fetchtest.Entry) { e.Body, e.PAX = []byte(body), pax })
	}
	const whole, notLocal, leaves, extended = "", "does not lie in the archive's folder top", "leaves the archive", "it has the extended header"
	for name, test := range map[string]struct {
		edit        func(entries) entries
		entry, want string // of the first finding
	}{
		"absolute path":             {add(file("/tmp/llcuda-evil")), "/tmp/llcuda-evil", notLocal},
		"path up":                   {add(file(top + "../../evil")), top + "../../evil", notLocal},
		"path up inside":            {add(file(top + "lib/../../evil")), top + "lib/../../evil", notLocal},
		"another top":               {add(file("evil")), "evil", notLocal},
		"a top like ours":           {add(file("topx/evil")), "topx/evil", notLocal},
		"backslashes":               {add(file(top + `..\evil`)), top + `..\evil`, notLocal},
		"not in shortest form":      {add(file(top + "lib//evil")), top + "lib//evil", notLocal},
		"a name that is not UTF-8":  {header("LICENSE", func(b []byte) { b[len(top)] = 0xff }), top + "\xffICENSE", notLocal},
		"top is a file":             {func(entries) entries { return entries{file("top")} }, "top", "it is not a folder"},
		"no top folder":             {func(l entries) entries { return l[1:] }, top + "LICENSE", "its folder is not in the archive"},
		"nothing at all":            {func(entries) entries { return nil }, "", "there is no top folder top"},
		"no folder":                 {func(l entries) entries { return slices.Delete(l, 2, 3) }, top + "bin/liba.so", "its folder is not in the archive"},
		"a folder after its file":   {func(l entries) entries { l[1], l[0] = l[0], l[1]; return l }, top + "LICENSE", "its folder is not in the archive"},
		"file through a link":       {add(link("libx", "lib"), file(top+"libx/evil")), top + "libx/evil", "its folder is not in the archive"},
		"file below a file":         {add(file(top + "LICENSE/evil")), top + "LICENSE/evil", "its folder is not in the archive"},
		"the same twice":            {add(file(top + "LICENSE")), top + "LICENSE", "it is there twice"},
		"a folder over a file":      {add(folder(top + "LICENSE/")), top + "LICENSE/", "it is there twice"},
		"another order":             {func(l entries) entries { l[3], l[4] = l[4], l[3]; return l }, top + "bin/liba.so", "names must ascend"},
		"no metadata":               {func(l entries) entries { return l[:len(l)-1] }, "metadata.json", "it is missing"},
		"metadata without end":      {change("metadata.json", func(e *fetchtest.Entry) { e.Body = make([]byte, manifests.MaxSize+1) }), top + "metadata.json", "more than 4194304"},
		"link up":                   {add(link("lib/evil", "../../evil")), top + "lib/evil", leaves},
		"link to root":              {add(link("lib/evil", "/etc/passwd")), top + "lib/evil", leaves},
		"link to the top":           {add(link("lib/evil", "..")), top + "lib/evil", leaves},
		"link with backslashes":     {add(link("lib/evil", `..\..\evil`)), top + "lib/evil", leaves},
		"link not in shortest form": {add(link("lib/evil", "./liba.so")), top + "lib/evil", leaves},
		"empty link":                {add(link("lib/evil", "")), top + "lib/evil", leaves},
		"hard link":                 {add(fetchtest.Entry{Name: top + "lib/evil", Link: top + "LICENSE", Type: tar.TypeLink}), top + "lib/evil", "neither a file"},
		"device":                    {add(fetchtest.Entry{Name: top + "lib/evil", Type: tar.TypeChar}), top + "lib/evil", "neither a file"},
		"pipe":                      {add(fetchtest.Entry{Name: top + "lib/evil", Type: tar.TypeFifo}), top + "lib/evil", "neither a file"},
		"setuid":                    {change("bin/run", func(e *fetchtest.Entry) { e.Mode = 0o4755 }), top + "bin/run", "its mode is 04755, and must be 0644 or 0755"},
		"world-writable":            {change("LICENSE", func(e *fetchtest.Entry) { e.Mode = 0o666 }), top + "LICENSE", "its mode is 0666"},
		"folder for one user":       {change("lib/", func(e *fetchtest.Entry) { e.Mode = 0o700 }), top + "lib/", "its mode is 0700, and must be 0755"},
		"link's mode":               {header("bin/liba.so", func(b []byte) { copy(b[100:], "0000755\x00") }), top + "bin/liba.so", "its mode is 0755, and must be 0777"},
		"owner":                     {header("LICENSE", func(b []byte) { copy(b[108:], "0001750\x00") }), top + "LICENSE", "its owner is 1000:0"},
		"group":                     {header("LICENSE", func(b []byte) { copy(b[116:], "0001750\x00") }), top + "LICENSE", "its owner is 0:1000"},
		"owner's name":              {header("LICENSE", func(b []byte) { copy(b[265:], "builder") }), top + "LICENSE", `("builder", "")`},
		"time":                      {header("lib/", func(b []byte) { copy(b[136:], "00000000001\x00") }), top + "lib/", "its time is 1"},
		"comment":                   {records("text", map[string]string{"comment": "x"}), top + "LICENSE", extended},
		"capabilities":              {records("text", map[string]string{"SCHILY.xattr.security.capability": "\x01"}), top + "LICENSE", extended},
		"sparse, 1.0": {records("1\n67108864\n0\n"+strings.Repeat("\x00", 499), map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
			"GNU.sparse.name": top + "LICENSE", "GNU.sparse.realsize": "67108864"}), top + "LICENSE", extended},
		"sparse, 0.1": {records("", map[string]string{"GNU.sparse.size": "67108864", "GNU.sparse.numblocks": "1", "GNU.sparse.map": "67108864,0"}), top + "LICENSE", extended},
		"sparse, 0.0": {records("", map[string]string{"GNU.sparse.size": "67108864", "GNU.sparse.numblocks": "0", "GNU.sparse.map": ""}), top + "LICENSE", extended},
		"sparse, old": {header("LICENSE", func(b []byte) {
			b[156] = tar.TypeGNUSparse
			copy(b[257:], "ustar  \x00")
			copy(b[386:], "00400000000\x0000000000000\x00") // where the data continues, and how much there is
			copy(b[483:], "00400000000\x00")
		}), top + "LICENSE", "the tar has only"},
		"larger than the tar": {header("LICENSE", func(b []byte) { copy(b[124:], "00400000000\x00") }), top + "LICENSE", "the tar has only"},
		"negative size":       {header("LICENSE", func(b []byte) { copy(b[124:136], strings.Repeat("\xff", 12)) }), whole, "invalid tar header"},
		"too many entries": {func(l entries) entries {
			return append(l, slices.Repeat(entries{file(top + "zzz")}, archive.MaxEntries)...)
		}, top + "zzz", "it is there twice"},
		"folders without end":      {add(file(top + strings.Repeat("x/", 1000) + "x")), top + strings.Repeat("x/", 32), "it lies 32 folders deep, and at most 31 are allowed"},
		"a name without an end":    {add(file(top + strings.Repeat("x", 256))), top + strings.Repeat("x", 256), "name too long"},
		"a message without an end": {add(file(top + strings.Repeat("x/", 30) + strings.Repeat("x", 9000))), (top + strings.Repeat("x/", 30) + strings.Repeat("x", 9000))[:300] + "…", "name too long"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := fetchtest.Tar(t, test.edit(good()))
			digest := manifests.Digest{SHA256: fetchtest.SHA256(data), Size: int64(len(data))}
			for _, format := range []string{manifests.FormatTarGz, manifests.FormatTarZst} {
				packed := fetchtest.Compress(t, data, format)
				contents, _, err := read(t, packed, archive.Options{Format: format, Top: "top", Tar: &digest}, digest.Size)
				if err != nil {
					t.Fatal(err)
				}
				if found := contents.Findings; len(found) == 0 || found[0].Path != test.entry || !strings.Contains(found[0].Detail, test.want) || found[0].Rule != archive.RuleArchive {
					t.Errorf("%s: %v, want %s: %s", format, found, test.entry, test.want)
				}
				all, _, err := read(t, packed, archive.Options{Format: format, Top: "top", All: true}, digest.Size)
				if err != nil || len(all.Findings) == 0 {
					t.Errorf("%s, all: %v, %v", format, all, err)
				}
			}
		})
	}
}

// Entries are counted whether or not they may be read, so what is found wrong with them is bounded,
// too.
func TestTooManyEntries(t *testing.T) {
	list := append(good(), slices.Repeat(entries{file(top + "metadata.json")}, 2*archive.MaxEntries)...)
	packed := fetchtest.Compress(t, fetchtest.Tar(t, list), manifests.FormatTarGz)
	contents, _, err := read(t, packed, archive.Options{Format: manifests.FormatTarGz, Top: "top", All: true}, 1<<20)
	if err != nil || len(contents.Findings) > archive.MaxEntries || !strings.Contains(contents.Findings[len(contents.Findings)-1].Detail, "it has more than 4096 entries") {
		t.Errorf("%v, %v", contents, err)
	}
}

// All findings are named where they are asked for, and what is safe is read.
func TestAllFindings(t *testing.T) {
	list := good()
	list[1].Mode = 0o666
	list[3].Link = "/etc/passwd"
	list[5].PAX = map[string]string{"comment": "x"} // a folder that is not made, and a file in it
	contents, into, err := read(t, fetchtest.Compress(t, fetchtest.Tar(t, list), manifests.FormatTarGz), archive.Options{Format: manifests.FormatTarGz, Top: "top", All: true}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, f := range contents.Findings {
		paths = append(paths, f.Path)
	}
	if diff := cmp.Diff([]string{top + "LICENSE", top + "bin/liba.so", top + "lib/", top + "lib/liba.so"}, paths); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(filepath.Join(into, "bin/run")); err != nil {
		t.Error(err)
	}
}

func TestCompareFiles(t *testing.T) {
	listed := []manifests.File{
		{Path: "a", Size: 1, Mode: "0644", SHA256: "aa"},
		{Path: "b", Mode: "0777", Link: "a"},
		{Path: "c", Size: 3, Mode: "0755", SHA256: "cc"},
	}
	for name, test := range map[string]struct {
		edit func([]manifests.File) []manifests.File
		want string
	}{
		"the same":          {func(l []manifests.File) []manifests.File { return l }, ""},
		"without a digest":  {func(l []manifests.File) []manifests.File { l[0].SHA256 = ""; return l }, ""},
		"missing":           {func(l []manifests.File) []manifests.File { return l[1:] }, "a: metadata: it is missing"},
		"extra":             {func(l []manifests.File) []manifests.File { return append(l, manifests.File{Path: "aa"}) }, "aa: metadata: it is not one of the files"},
		"digest":            {func(l []manifests.File) []manifests.File { l[0].SHA256 = "bb"; return l }, "a: metadata: its sha256 is bb, and must be aa"},
		"size":              {func(l []manifests.File) []manifests.File { l[2].Size = 4; return l }, "c: metadata: it has 4 bytes, and must have 3"},
		"mode":              {func(l []manifests.File) []manifests.File { l[2].Mode = "0644"; return l }, "c: metadata: its mode is 0644, and must be 0755"},
		"link":              {func(l []manifests.File) []manifests.File { l[1].Link = "c"; return l }, `b: metadata: it links to "c", and must to "a"`},
		"a file for a link": {func(l []manifests.File) []manifests.File { l[1] = manifests.File{Path: "b", SHA256: "aa"}; return l }, `b: metadata: it links to "", and must to "a"`},
		"a pipe for a file": {func(l []manifests.File) []manifests.File {
			l[0] = manifests.File{Path: "a", Size: 1, Mode: "p---------"}
			return l
		}, "a: metadata: its mode is p---------, and must be 0644"},
		"in ascending order": {func(l []manifests.File) []manifests.File { return []manifests.File{l[1], {Path: "0"}} }, "0: metadata: it is not one of the files a: metadata: it is missing c: metadata: it is missing"},
	} {
		var got []string
		for _, f := range archive.CompareFiles(test.edit(slices.Clone(listed)), listed) {
			got = append(got, f.String())
		}
		if diff := cmp.Diff(test.want, strings.Join(got, " ")); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// Whatever an archive says, nothing is written outside the folder, and no more bytes than the tar
// has.
func FuzzRead(f *testing.F) {
	const name = top + "a"
	f.Add(name, "x", byte(tar.TypeReg), int64(0o644), []byte("00000000005"), "comment", "x", []byte("hello"), false)
	f.Add(top+"../../a", "../..", byte(tar.TypeSymlink), int64(0o777), []byte{}, "path", "x", []byte{}, true)
	f.Add(name, "", byte(tar.TypeReg), int64(0o644), []byte{}, "GNU.sparse.size", "67108864", []byte{}, true)
	f.Add(name, "", byte(tar.TypeReg), int64(0o644), []byte("00400000000"), "comment", "x", []byte("hello"), true)
	f.Add(name, "", byte(tar.TypeXGlobalHeader), int64(0o644), []byte{}, "size", "67108864", []byte{}, false)
	f.Fuzz(func(t *testing.T, name, link string, kind byte, mode int64, size []byte, record, value string, body []byte, all bool) {
		e := fetchtest.Entry{Name: name, Link: link, Type: kind, Mode: mode, Body: body, PAX: map[string]string{record: value}}
		e.Patch = func(block []byte) { copy(block[124:136], size) }
		data, err := fetchtest.MakeTar(entries{folder(top), e, e})
		if err != nil {
			return
		}
		o := archive.Options{Format: manifests.FormatTarGz, Top: "top", All: all}
		contents, _, err := read(t, fetchtest.Compress(t, data, manifests.FormatTarGz), o, int64(len(data)))
		if err != nil || len(contents.Findings) == 0 { // there is no metadata.json
			t.Errorf("%v, %v", contents, err)
		}
	})
}
