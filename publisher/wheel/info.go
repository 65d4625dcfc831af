package wheel

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/textproto"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// metadataVersion is that of METADATA which has licenses by SPDX's names (PEP 639).
const metadataVersion = "2.4"

// programs is the folder of the client's programs in a wheel.
const programs = "llcuda/_bin/"

// clientProgram is the one that must be there.
const clientProgram = "llcuda-fetch"

// record checks RECORD against what is there: each file once, with its digest and its size.
func (c *checking) record() {
	name := c.info + "RECORD"
	rows, err := csv.NewReader(bytes.NewReader(c.files[name].data)).ReadAll()
	if err != nil || len(rows) == 0 {
		c.addf("%s lists nothing, or cannot be read: %v", name, err)
		return
	}
	listed := map[string]bool{}
	for _, row := range rows {
		if len(row) != 3 {
			c.addf("%s has a row of %d fields", name, len(row))
			return
		}
		f, ok := c.files[row[0]]
		sum := sha256.Sum256(f.data)
		want := []string{row[0], "sha256=" + base64.RawURLEncoding.EncodeToString(sum[:]), strconv.Itoa(len(f.data))}
		if row[0] == name {
			want = []string{name, "", ""}
		}
		switch {
		case !ok:
			c.addf("%s lists %s, which is not there", name, row[0])
		case listed[row[0]]:
			c.addf("%s lists %s twice", name, row[0])
		case !slices.Equal(row, want):
			c.addf("%s has %q for %s, and it is %q", name, row[1:], row[0], want[1:])
		}
		listed[row[0]] = true
	}
	for _, file := range slices.Sorted(maps.Keys(c.files)) {
		if !listed[file] {
			c.addf("%s does not list %s", name, file)
		}
	}
}

// header reads a document of fields, of which some come more than once.
func (c *checking) header(name string) textproto.MIMEHeader {
	fields, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(c.files[c.info+name].data))).ReadMIMEHeader()
	if err != nil && !errors.Is(err, io.EOF) || len(fields) == 0 {
		c.addf("%s%s says nothing, or cannot be read: %v", c.info, name, err)
		return textproto.MIMEHeader{}
	}
	return fields
}

// wants checks a field against its values.
func (c *checking) wants(name string, fields textproto.MIMEHeader, field string, want ...string) {
	if got := fields[textproto.CanonicalMIMEHeaderKey(field)]; !slices.Equal(got, want) {
		c.addf("%s%s has the %s %q, want %q", c.info, name, field, got, want)
	}
}

func (c *checking) tags() {
	const name = "WHEEL"
	var tags []string
	for platform := range strings.SplitSeq(c.platform, ".") {
		tags = append(tags, "py3-none-"+platform)
	}
	slices.Sort(tags)
	fields := c.header(name)
	slices.Sort(fields["Tag"]) // their order means nothing
	c.wants(name, fields, "Wheel-Version", "1.0")
	c.wants(name, fields, "Tag", tags...)
	c.wants(name, fields, "Root-Is-Purelib", strconv.FormatBool(c.platform == PlatformAny))
}

func (c *checking) metadata() {
	const name = "METADATA"
	fields := c.header(name)
	c.wants(name, fields, "Metadata-Version", metadataVersion)
	c.wants(name, fields, "Name", manifests.Distribution)
	c.wants(name, fields, "Version", c.version)
	c.wants(name, fields, "Requires-Python", ">=3.10")
	for _, field := range []string{"License-Expression", "Summary"} {
		if fields.Get(field) == "" {
			c.addf("%s%s has no %s", c.info, name, field)
		}
	}
	for _, needed := range fields["Requires-Dist"] {
		if !strings.Contains(needed, "extra ==") {
			c.addf("%s%s needs %s: what is not an extra comes with the package", c.info, name, needed)
		}
	}
	var texts []string
	for file := range c.files {
		if text, ok := strings.CutPrefix(file, c.info+"licenses/"); ok {
			texts = append(texts, text)
		}
	}
	slices.Sort(texts)
	c.wants(name, fields, "License-File", texts...)
}

// client checks what comes from the client's archive against it.
func (c *checking) client(contents Contents) {
	want := map[string]file{}
	bills := c.info + "sboms/"
	if c.platform == PlatformAny {
		own := c.info + "licenses/LICENSE"
		want[own] = file{0o644, c.files[own].data}
	} else if err := c.expected(contents, bills, want); err != nil {
		c.addf("reading %s: %v", Client(), err)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(c.files)) {
		f := c.files[name]
		expected, ok := want[name]
		mode := fs.FileMode(0o644)
		if ok {
			mode = expected.mode
		}
		carried := strings.HasPrefix(name, programs) || strings.HasPrefix(name, bills) || strings.HasPrefix(name, c.info+"licenses/")
		switch {
		case carried && !ok:
			c.addf("%s is there, and has no place in this wheel", name)
		case ok && !bytes.Equal(f.data, expected.data):
			c.addf("%s is not the file of %s", name, Client())
		case f.mode != mode:
			c.addf("%s: its mode is %v, want %v", name, f.mode, mode)
		}
		delete(want, name)
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		c.addf("%s is not there", name)
	}
}

// expected are the files of the archive by their names in the wheel.
func (c *checking) expected(contents Contents, bills string, want map[string]file) error {
	bill := bills + manifests.SBOMName(Client())
	want[bill] = file{0o644, contents.Bill}
	if contents.Bill == nil {
		want[bill] = file{0o644, c.files[bill].data}
	}
	err := fs.WalkDir(contents.Client, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		to, mode := "", fs.FileMode(0o644)
		switch {
		case path.Dir(name) == "." && info.Mode()&0o111 != 0:
			to, mode = programs+name, 0o755
		case strings.HasPrefix(name, "licenses/"), name == "LICENSE":
			to = c.info + "licenses/" + name
		default:
			return nil
		}
		data, err := fs.ReadFile(contents.Client, name)
		want[to] = file{mode, data}
		return err
	})
	if _, ok := want[programs+clientProgram]; err == nil && !ok {
		return fmt.Errorf("it has no %s", clientProgram)
	}
	return err
}
