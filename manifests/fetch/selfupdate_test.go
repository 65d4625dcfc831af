package fetch

import (
	"archive/tar"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
)

// An archive of the client holds programs at its top. Everything else is left in it or refused.
func TestUnpackClient(t *testing.T) {
	program := fetchtest.Entry{Name: "llcuda-fetch", Mode: 0o755, Body: []byte("program")}
	plain := func(name string) fetchtest.Entry {
		return fetchtest.Entry{Name: name, Mode: 0o644, Body: []byte("text")}
	}
	many := []fetchtest.Entry{program}
	for i := range maxClientEntries {
		many = append(many, plain("f"+strings.Repeat("x", i)))
	}
	for name, test := range map[string]struct {
		entries []fetchtest.Entry
		want    []string
		refused string
	}{
		"the program alone": {entries: []fetchtest.Entry{program}, want: []string{"llcuda-fetch"}},
		"with others beside it": {entries: []fetchtest.Entry{
			plain("LICENSE"), {Name: "completions", Mode: 0o755, Type: tar.TypeDir}, plain("completions/x.bash"),
			{Name: "completions/tool", Mode: 0o755, Body: []byte("x")}, program, {Name: "probe", Mode: 0o755, Body: []byte("x")},
		}, want: []string{"llcuda-fetch", "probe"}},
		"no program":              {entries: []fetchtest.Entry{plain("LICENSE")}, refused: "it holds no program llcuda-fetch"},
		"a program not to be run": {entries: []fetchtest.Entry{plain("llcuda-fetch")}, refused: "it holds no program llcuda-fetch"},
		"a program below":         {entries: []fetchtest.Entry{{Name: "bin/llcuda-fetch", Mode: 0o755, Body: []byte("x")}}, refused: "it holds no program"},
		"an empty program":        {entries: []fetchtest.Entry{{Name: "llcuda-fetch", Mode: 0o755}}, refused: "no bytes"},
		"a link for a program":    {entries: []fetchtest.Entry{{Name: "llcuda-fetch", Link: "/bin/sh"}}, refused: "neither a file nor a folder"},
		"a hard link":             {entries: []fetchtest.Entry{program, {Name: "probe", Link: "llcuda-fetch", Type: tar.TypeLink}}, refused: "neither a file nor a folder"},
		"a device":                {entries: []fetchtest.Entry{program, {Name: "probe", Type: tar.TypeChar}}, refused: "neither a file nor a folder"},
		"a path up":               {entries: []fetchtest.Entry{program, {Name: "../evil", Mode: 0o755, Body: []byte("x")}}, refused: "does not lie in the archive"},
		"an absolute path":        {entries: []fetchtest.Entry{program, {Name: "/tmp/evil", Mode: 0o755, Body: []byte("x")}}, refused: "does not lie in the archive"},
		"a detour":                {entries: []fetchtest.Entry{program, {Name: "x/../evil", Mode: 0o755, Body: []byte("x")}}, refused: "does not lie in the archive"},
		"twice":                   {entries: []fetchtest.Entry{program, program}, refused: "it is there twice"},
		"setuid":                  {entries: []fetchtest.Entry{program, {Name: "probe", Mode: 0o4755, Body: []byte("x")}}, refused: "its mode is 4755"},
		"writable by all":         {entries: []fetchtest.Entry{program, {Name: "probe", Mode: 0o777, Body: []byte("x")}}, refused: "its mode is 0777"},
		"too many":                {entries: many, refused: "more than 100 entries"},
		"a bomb":                  {entries: []fetchtest.Entry{program, {Name: "zeros", Mode: 0o644, Body: make([]byte, maxClient)}}, refused: "unpacks to more than"},
		"a bomb of a program":     {entries: []fetchtest.Entry{{Name: "llcuda-fetch", Mode: 0o755, Body: make([]byte, maxClient)}}, refused: "unpacks to more than"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			archive, made := filepath.Join(dir, "archive"), filepath.Join(dir, "new")
			write(t, archive, string(fetchtest.Compress(t, fetchtest.Tar(t, test.entries), manifests.FormatTarGz)))
			if err := os.Mkdir(made, 0o700); err != nil {
				t.Fatal(err)
			}
			got, err := unpackClient("client.tar.gz", archive, made)
			var refused *store.ArchiveError
			if test.refused != "" {
				if !errors.As(err, &refused) || !strings.Contains(err.Error(), test.refused) || Classify(err) != Untrusted {
					t.Errorf("got %v, want %q", err, test.refused)
				}
				if outside := names(t, dir); len(outside) != 2 {
					t.Errorf("beside the archive is %q", outside)
				}
				return
			}
			if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
				t.Errorf("%v\n%s", err, diff)
			}
			if diff := cmp.Diff(test.want, names(t, made)); diff != "" {
				t.Error(diff)
			}
		})
	}
	for name, data := range map[string]string{"no archive": "text", "cut off": string(fetchtest.Compress(t, fetchtest.Tar(t, []fetchtest.Entry{program}), manifests.FormatTarGz)[:60])} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "archive"), data)
			if _, err := unpackClient("client.tar.gz", filepath.Join(dir, "archive"), dir); Classify(err) != Untrusted {
				t.Errorf("got %v", err)
			}
		})
	}
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o755); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, entry := range entries {
		list = append(list, entry.Name())
	}
	return list
}

// content is what the files below a folder hold.
func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, name := range names(t, dir) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			data = []byte(err.Error())
		}
		all[name] = string(data)
	}
	return all
}

// A process that died at any step leaves, once the next one cleared up, all files old or all files
// new. The steps are those of exchange, up to the one named.
func TestClearUpdate(t *testing.T) {
	old := map[string]string{"client": "old", "probe": "old probe", "other": "not ours"}
	fresh := map[string]string{"client": "new", "probe": "new probe", "more": "new more", "other": "not ours"}
	rename := func(t *testing.T, dir, from, to string) {
		t.Helper()
		if err := os.Rename(filepath.Join(dir, updateDir, newDir, from), filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	backUpAll := func(t *testing.T, dir string) {
		t.Helper()
		if err := backUp(dir, filepath.Join(dir, updateDir), []string{"probe", "more"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name  string
		steps func(*testing.T, string)
		want  map[string]string
	}{
		{"nothing yet", func(*testing.T, string) {}, old},
		{"half a copy of an old file", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, updateDir, oldDir+"-", "probe"), "o")
		}, old},
		{"all is copied", backUpAll, old},
		{"one file is new", func(t *testing.T, dir string) {
			backUpAll(t, dir)
			rename(t, dir, "probe", "probe")
		}, old},
		{"two are", func(t *testing.T, dir string) {
			backUpAll(t, dir)
			rename(t, dir, "probe", "probe")
			rename(t, dir, "more", "more")
		}, old},
		{"the program is", func(t *testing.T, dir string) {
			backUpAll(t, dir)
			rename(t, dir, "probe", "probe")
			rename(t, dir, "more", "more")
			rename(t, dir, programName, "client")
		}, fresh},
		{"somebody else's folder", func(t *testing.T, dir string) {
			backUpAll(t, dir)
			write(t, filepath.Join(dir, updateDir, oldDir, "probe"), "evil")
			if os.Geteuid() == 0 {
				if err := os.Chown(filepath.Join(dir, updateDir), 65534, 65534); err != nil {
					t.Fatal(err)
				}
				return
			}
			if err := os.RemoveAll(filepath.Join(dir, updateDir)); err != nil { // only root can give one away
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, updateDir), "a file")
		}, old},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, data := range old {
				write(t, filepath.Join(dir, name), data)
			}
			for name, data := range map[string]string{programName: "new", "probe": "new probe", "more": "new more"} {
				write(t, filepath.Join(dir, updateDir, newDir, name), data)
			}
			test.steps(t, dir)
			for range 2 { // the second time there is nothing to do
				if err := clearUpdate(dir); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(test.want, content(t, dir)); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

// Where the program itself cannot be replaced, what lies beside it is not replaced either.
func TestExchangeAllOrNone(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "client")
	write(t, filepath.Join(program, "in the way"), "") // a folder gives way to no file
	write(t, filepath.Join(dir, "probe"), "old probe")
	for name, data := range map[string]string{programName: "new", "probe": "new probe", "more": "new more"} {
		write(t, filepath.Join(dir, updateDir, newDir, name), data)
	}
	before := content(t, dir)
	delete(before, updateDir)
	if err := exchange(program, filepath.Join(dir, updateDir), []string{programName, "more", "probe"}); err == nil {
		t.Fatal("it was replaced")
	}
	if got, err := os.ReadFile(filepath.Join(dir, "probe")); err != nil || string(got) != "new probe" {
		t.Fatalf("that was no test: %q, %v", got, err)
	}
	if err := clearUpdate(dir); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, content(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func TestWithoutUser(t *testing.T) {
	for address, want := range map[string]string{
		"https://name:secret@host/a@b/{release}": "https://host/a@b/{release}",
		"https://token@host":                     "https://host",
		"http://a:b@c@host:8080/?x@y":            "http://host:8080/?x@y",
		"https://host/a":                         "https://host/a",
		"file:///a@b/c":                          "file:///a@b/c",
		"/a@b/c":                                 "/a@b/c",
	} {
		if got := withoutUser(address); got != want {
			t.Errorf("%s: got %s, want %s", address, got, want)
		}
	}
}

func TestToRemember(t *testing.T) {
	t.Chdir("/usr")
	for _, test := range []struct{ given, want []string }{
		{nil, []string{}},
		{[]string{"default"}, []string{}},
		{[]string{"./default"}, []string{"/usr/default"}},
		{[]string{"https://n:p@host/{release}", "default"}, []string{"https://host/{release}", "default"}},
		{[]string{"../m/{release}/", "file:///a"}, []string{"/m/{release}", "file:///a"}},
	} {
		got, err := toRemember(test.given)
		if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
			t.Errorf("%q: %v\n%s", test.given, err, diff)
		}
	}
	for _, bad := range []string{"https://name:sec%ret@host/", "https://name:sec ret@host/", "http://host:p/secret"} {
		_, err := toRemember([]string{bad})
		if err == nil || Classify(err) != Usage || strings.Contains(err.Error(), "sec%ret") || strings.Contains(err.Error(), "sec ret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
