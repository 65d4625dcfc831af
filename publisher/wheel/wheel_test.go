package wheel

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

const (
	version = "3.0.0"
	info    = "llcuda-3.0.0.dist-info/"
	date    = (2026-1980)<<9 | 11<<5 | 26
)

// entry is a file of a wheel that is being made, and what is wrong with it.
type entry struct {
	name, data string
	mode       fs.FileMode

	flags, extra, localFlags, date uint16
	method                         uint16
	localName, comment             string
	crc                            uint32
	creator                        byte
	before                         string // lies before its header
}

// packed is a ZIP archive as Python's zipfile writes it, but for what the entries say.
func packed(entries []*entry, comment, gap string) []byte {
	var out, central bytes.Buffer
	le := binary.LittleEndian
	for _, e := range entries {
		var body bytes.Buffer
		w, _ := flate.NewWriter(&body, flate.BestCompression)
		w.Write([]byte(e.data))
		w.Close()
		out.WriteString(e.before)
		at := out.Len()
		crc := crc32.ChecksumIEEE([]byte(e.data)) ^ e.crc
		head := func(flags uint16, crc uint32, name string, extra uint16) []byte {
			b := le.AppendUint16(nil, 20)
			b = le.AppendUint16(b, flags)
			b = le.AppendUint16(b, 8^e.method)
			b = le.AppendUint16(b, 12<<11|30<<5)
			b = le.AppendUint16(b, e.date)
			b = le.AppendUint32(b, crc)
			b = le.AppendUint32(b, uint32(body.Len()))
			b = le.AppendUint32(b, uint32(len(e.data)))
			b = le.AppendUint16(b, uint16(len(name)))
			return le.AppendUint16(b, extra)
		}
		local := e.localName
		if local == "" {
			local = e.name
		}
		out.WriteString("PK\x03\x04")
		out.Write(head(e.flags|e.localFlags, crc, local, e.extra))
		out.WriteString(local)
		out.Write(make([]byte, e.extra))
		out.Write(body.Bytes())

		central.WriteString("PK\x01\x02")
		central.Write([]byte{20, 3 ^ e.creator})
		central.Write(head(e.flags, crc^e.crc, e.name, 0))
		central.Write(le.AppendUint16(nil, uint16(len(e.comment))))
		central.Write(make([]byte, 4))
		central.Write(le.AppendUint32(nil, uint32(e.mode)<<16))
		central.Write(le.AppendUint32(nil, uint32(at)))
		central.WriteString(e.name + e.comment)
	}
	out.WriteString(gap)
	at := out.Len()
	out.Write(central.Bytes())
	out.WriteString("PK\x05\x06\x00\x00\x00\x00")
	end := le.AppendUint16(le.AppendUint16(nil, uint16(len(entries))), uint16(len(entries)))
	end = le.AppendUint32(le.AppendUint32(end, uint32(central.Len())), uint32(at))
	out.Write(le.AppendUint16(end, uint16(len(comment))))
	out.WriteString(comment)
	return out.Bytes()
}

// archive is the client's, unpacked.
func archive() fstest.MapFS {
	return fstest.MapFS{
		"LICENSE":                             {Data: []byte("ours"), Mode: 0o644},
		"README.md":                           {Data: []byte("read"), Mode: 0o644},
		"completions/llcuda-fetch.bash":       {Data: []byte("complete"), Mode: 0o755},
		"licenses/example.org/module/LICENSE": {Data: []byte("theirs"), Mode: 0o644},
		"llcuda-fetch":                        {Data: []byte("client"), Mode: 0o755},
		"llcuda-probe":                        {Data: []byte("probe"), Mode: 0o755},
	}
}

const bill = `{"spdxVersion":"SPDX-2.3"}`

// parts are the files of a good wheel for a platform, without RECORD.
func parts(platform string) map[string]*entry {
	files := map[string]*entry{}
	add := func(name, data string, mode fs.FileMode) {
		files[name] = &entry{name: name, data: data, mode: mode, date: date}
	}
	add("llcuda/__init__.py", "import sys\n", 0o644)
	add(info+"licenses/LICENSE", "ours", 0o644)
	tags, texts, pure := "", "License-File: LICENSE\n", platform == PlatformAny
	for tag := range strings.SplitSeq(platform, ".") {
		tags += "Tag: py3-none-" + tag + "\n"
	}
	if !pure {
		add("llcuda/_bin/llcuda-fetch", "client", 0o755)
		add("llcuda/_bin/llcuda-probe", "probe", 0o755)
		add(info+"licenses/licenses/example.org/module/LICENSE", "theirs", 0o644)
		add(info+"sboms/llcuda-fetch-linux-amd64.spdx.json", bill, 0o644)
		texts += "License-File: licenses/example.org/module/LICENSE\n"
	}
	add(info+"METADATA", "Metadata-Version: 2.4\nName: llcuda\nVersion: "+version+"\nSummary: x\nLicense-Expression: MIT\n"+texts+
		"Requires-Python: >=3.10\nProvides-Extra: embeddings\nRequires-Dist: numpy; extra == 'embeddings'\nDescription-Content-Type: text/markdown\n\n# llcuda\n\nName: not a field\n", 0o644)
	add(info+"WHEEL", fmt.Sprintf("Wheel-Version: 1.0\nGenerator: hatchling 1.33.0\nRoot-Is-Purelib: %v\n%s", pure, tags), 0o644)
	return files
}

// made packs files with a RECORD of them.
func made(files map[string]*entry, record func(string) string) []byte {
	text := ""
	names := slices.Sorted(maps.Keys(files))
	for _, name := range names {
		sum := sha256.Sum256([]byte(files[name].data))
		text += fmt.Sprintf("%s,sha256=%s,%d\n", name, base64.RawURLEncoding.EncodeToString(sum[:]), len(files[name].data))
	}
	text += info + "RECORD,,\n"
	if record != nil {
		text = record(text)
	}
	var entries []*entry
	for _, name := range names {
		entries = append(entries, files[name])
	}
	return packed(append(entries, &entry{name: info + "RECORD", data: text, mode: 0o644, date: date}), "", "")
}

func nameOf(platform string) string { return "llcuda-" + version + "-py3-none-" + platform + ".whl" }

func TestCheckGood(t *testing.T) {
	for _, platform := range []string{PlatformAny, PlatformLinux} {
		for _, text := range [][]byte{nil, []byte(bill)} {
			if problems := Check(nameOf(platform), made(parts(platform), nil), Contents{Client: archive(), Bill: text}); len(problems) > 0 {
				t.Errorf("%s: %q", platform, problems)
			}
		}
	}
}

// Everything that an index, an installer or a person could stumble over. Those of archives are the rules by which the Python
// Package Index refuses uploads (https://docs.pypi.org/archives/), and those that leave two ways to read an archive.
func TestCheck(t *testing.T) {
	const init = "llcuda/__init__.py"
	edit := func(name, old, new string) func(map[string]*entry) {
		return func(files map[string]*entry) {
			if !strings.Contains(files[name].data, old) {
				t.Fatalf("%s has no %q", name, old)
			}
			files[name].data = strings.Replace(files[name].data, old, new, 1)
		}
	}
	set := func(name string, change func(*entry)) func(map[string]*entry) {
		return func(files map[string]*entry) { change(files[name]) }
	}
	another := func(name, data string, mode fs.FileMode) func(map[string]*entry) {
		return func(files map[string]*entry) { files[name] = &entry{name: name, data: data, mode: mode, date: date} }
	}
	for _, test := range []struct {
		name   string
		change func(map[string]*entry)
		record func(string) string
		within string
	}{
		{"data descriptor", set(init, func(e *entry) { e.flags = 8 }), nil, "no data descriptor"},
		{"data descriptor in the header alone", set(init, func(e *entry) { e.localFlags = 8 }), nil, "no data descriptor"},
		{"encrypted", set(init, func(e *entry) { e.flags = 1 }), nil, "no encryption"},
		{"extra field", set(init, func(e *entry) { e.extra = 4 }), nil, "extra field"},
		{"another name in the header", set(init, func(e *entry) { e.localName = "llcuda/__ouit__.py" }), nil, "another file's"},
		{"longer name in the header", set(init, func(e *entry) { e.localName = "llcuda/__init__2.py" }), nil, "extra field"},
		{"another method", set(init, func(e *entry) { e.method = 8 ^ 12 }), nil, "method 12"},
		{"another checksum in the header", set(init, func(e *entry) { e.crc = 1 }), nil, "another checksum"},
		{"no month", set(init, func(e *entry) { e.date = 0 }), nil, "its date is none"},
		{"February 30", set(init, func(e *entry) { e.date = 46<<9 | 2<<5 | 30 }), nil, "its date is none"},
		{"file comment", set(init, func(e *entry) { e.comment = "x" }), nil, "comment"},
		{"gap", set(init, func(e *entry) { e.before = "PK\x03\x04" }), nil, "does not follow"},
		{"made on another system", set(init, func(e *entry) { e.creator = 3 }), nil, "its mode is"},
		{"executable module", set(init, func(e *entry) { e.mode = 0o755 }), nil, "its mode is -rwxr-xr-x"},
		{"writable module", set(init, func(e *entry) { e.mode = 0o666 }), nil, "its mode is -rw-rw-rw-"},
		{"link", set(init, func(e *entry) { e.mode = 0o120777 }), nil, "its mode is"},
		{"program that cannot be run", set("llcuda/_bin/llcuda-fetch", func(e *entry) { e.mode = 0o644 }), nil, "its mode is -rw-r--r--"},
		{"way up", another("llcuda/../x.py", "", 0o644), nil, "not a plain name"},
		{"absolute", another("/x.py", "", 0o644), nil, "not a plain name"},
		{"backslash", another(`llcuda\x.py`, "", 0o644), nil, "not a plain name"},
		{"control character", another("llcuda/x\n.py", "", 0o644), nil, "not a plain name"},
		{"folder", another("llcuda/x/", "", 0o755), nil, "not a plain name"},
		{"name in two cases", another("llcuda/__INIT__.py", "", 0o644), nil, "is there beside"},

		{"not in RECORD", nil, func(text string) string { _, rest, _ := strings.Cut(text, "\n"); return rest }, "RECORD does not list"},
		{"not there", nil, func(text string) string { return "llcuda/x.py,sha256=x,1\n" + text }, "which is not there"},
		{"twice in RECORD", nil, func(text string) string { line, _, _ := strings.Cut(text, "\n"); return line + "\n" + text }, "twice"},
		{"another digest", nil, func(text string) string { return strings.Replace(text, "sha256=", "sha256=x", 1) }, "RECORD has"},
		{"md5", nil, func(text string) string { return strings.Replace(text, "sha256=", "md5=", 1) }, "RECORD has"},
		{"another size", nil, func(text string) string { return strings.Replace(text, ",11\n", ",12\n", 1) }, "RECORD has"},
		{"empty RECORD", nil, func(string) string { return "" }, "lists nothing"},
		{"RECORD of two fields", nil, func(text string) string { return strings.ReplaceAll(text, ",,", ",") }, "RECORD"},

		{"newer metadata", edit(info+"METADATA", "2.4", "2.5"), nil, `Metadata-Version ["2.5"]`},
		{"another name", edit(info+"METADATA", "Name: llcuda", "Name: llcuda2"), nil, `Name ["llcuda2"]`},
		{"another version", edit(info+"METADATA", "Version: 3.0.0", "Version: 3.0.1"), nil, `Version ["3.0.1"]`},
		{"older Python", edit(info+"METADATA", ">=3.10", ">=3.8"), nil, "Requires-Python"},
		{"no license", edit(info+"METADATA", "License-Expression: MIT\n", ""), nil, "no License-Expression"},
		{"license that is not listed", edit(info+"METADATA", "License-File: LICENSE\n", ""), nil, "License-File"},
		{"dependency", edit(info+"METADATA", "; extra == 'embeddings'", ""), nil, "needs numpy"},
		{"no METADATA", func(files map[string]*entry) { delete(files, info+"METADATA") }, nil, "METADATA says nothing"},
		{"another tag", edit(info+"WHEEL", "manylinux2014", "musllinux_1_2"), nil, "Tag"},
		{"pure", edit(info+"WHEEL", "false", "true"), nil, "Root-Is-Purelib"},

		{"another client", edit("llcuda/_bin/llcuda-fetch", "client", "Client"), nil, "llcuda/_bin/llcuda-fetch is not the file of llcuda-fetch-linux-amd64.tar.gz"},
		{"no probe", func(files map[string]*entry) { delete(files, "llcuda/_bin/llcuda-probe") }, nil, "llcuda/_bin/llcuda-probe is not there"},
		{"a program more", another("llcuda/_bin/other", "x", 0o755), nil, "has no place"},
		{"another's license", edit(info+"licenses/licenses/example.org/module/LICENSE", "theirs", "nobody's"), nil, "is not the file"},
		{"another bill", edit(info+"sboms/llcuda-fetch-linux-amd64.spdx.json", "2.3", "2.2"), nil, "is not the file"},
		{"no bill", func(files map[string]*entry) { delete(files, info+"sboms/llcuda-fetch-linux-amd64.spdx.json") }, nil, "spdx.json is not there"},
	} {
		t.Run(test.name, func(t *testing.T) {
			files := parts(PlatformLinux)
			if test.change != nil {
				test.change(files)
			}
			problems := Check(nameOf(PlatformLinux), made(files, test.record), Contents{Client: archive(), Bill: []byte(bill)})
			if !strings.Contains(strings.Join(problems, "\n"), test.within) || len(problems) == 0 {
				t.Errorf("found %q, want %q among it", problems, test.within)
			}
		})
	}
}

func TestCheckWhole(t *testing.T) {
	good := made(parts(PlatformAny), nil)
	var entries []*entry
	for _, e := range parts(PlatformAny) {
		entries = append(entries, e)
	}
	twice := append(slices.Clone(entries), entries[0])
	var goZip bytes.Buffer
	w := zip.NewWriter(&goZip)
	f, err := w.CreateHeader(&zip.FileHeader{Name: "llcuda/__init__.py", Method: zip.Deflate, Modified: time.Unix(1700000000, 0)})
	if err != nil {
		t.Fatal(err)
	}
	f.Write([]byte("x"))
	w.Close()
	big := parts(PlatformAny)
	noise := make([]byte, MaxSize)
	sum := sha256.Sum256(nil)
	for i := 0; i < len(noise); i += len(sum) {
		copy(noise[i:], sum[:])
		sum = sha256.Sum256(sum[:])
	}
	big["llcuda/noise.py"] = &entry{name: "llcuda/noise.py", data: string(noise), mode: 0o644, date: date}
	for _, test := range []struct {
		name, file string
		data       []byte
		within     string
	}{
		{"no archive", nameOf(PlatformAny), []byte("PK"), "not a ZIP archive"},
		{"cut off", nameOf(PlatformAny), good[:len(good)-1], "not a ZIP archive"},
		{"something behind", nameOf(PlatformAny), append(slices.Clone(good), 0), ""},
		{"archive comment", nameOf(PlatformAny), packed(entries, "x", ""), "comment"},
		{"gap before the list", nameOf(PlatformAny), packed(entries, "", "x"), "between the files and the list"},
		{"file twice", nameOf(PlatformAny), packed(twice, "", ""), "is there beside"},
		{"written by Go", nameOf(PlatformAny), goZip.Bytes(), "extra field"},
		{"too large", nameOf(PlatformAny), made(big, nil), "more than 10"},
		{"client in the wheel without", nameOf(PlatformAny), made(parts(PlatformLinux), nil), "has no place"},
		{"for another platform", nameOf("manylinux_2_17_aarch64"), good, "is not called"},
		{"for another Python", "llcuda-3.0.0-cp311-none-any.whl", good, "is not called"},
		{"another package", "other-3.0.0-py3-none-any.whl", good, "is not called"},
		{"with a build number", "llcuda-3.0.0-1-py3-none-any.whl", good, "is not called"},
		{"no version", "llcuda-x-py3-none-any.whl", good, "is not called"},
	} {
		problems := Check(test.file, test.data, Contents{Client: archive()})
		if !strings.Contains(strings.Join(problems, "\n"), test.within) || len(problems) == 0 {
			t.Errorf("%s: found %q, want %q among it", test.name, problems, test.within)
		}
	}
	without := archive()
	delete(without, "llcuda-fetch")
	if problems := Check(nameOf(PlatformLinux), made(parts(PlatformLinux), nil), Contents{Client: without}); len(problems) != 1 || !strings.Contains(problems[0], "no llcuda-fetch") {
		t.Errorf("an archive without the client: %q", problems)
	}
}
