package wheel

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"io"
	"io/fs"
	"path"
	"regexp"
	"strings"
)

// A file is one in a wheel.
type file struct {
	mode fs.FileMode
	data []byte
}

// The ZIP format's numbers that are needed here: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
const (
	localHeader    = "PK\x03\x04"
	centralHeader  = "PK\x01\x02"
	localSize      = 30 // bytes before the name
	endSize        = 22 // bytes of the end of the central directory, without a comment
	flagUTF8       = 0x800
	creatorUnix    = 3
	maxUnpacked    = 200 << 20
	earliestYear   = 1980
	latestYear     = 2107
	bytesOfVersion = 8
)

// nameChars are those of names in a wheel: no file system and no installer takes them for anything else.
var nameChars = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_.][A-Za-z0-9._+-]*)*$`)

// archive reads the files. What an index or an installer may not accept, or what may be read in more than one way, is a
// problem: that is so for everything but plain entries one after another.
func (c *checking) archive(data []byte) {
	r, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		c.addf("it is not a ZIP archive: %v", err)
		return
	}
	if r.Comment != "" {
		c.addf("the archive has a comment")
	}
	c.files = map[string]file{}
	folded := map[string]string{}
	at := int64(0)
	unpacked := uint64(0)
	for _, f := range r.File {
		if !nameChars.MatchString(f.Name) || path.Clean(f.Name) != f.Name || f.NonUTF8 {
			c.addf("%q is not a plain name of a file", f.Name)
			return
		}
		if before, ok := folded[strings.ToLower(f.Name)]; ok {
			c.addf("%s is there beside %s", f.Name, before)
		}
		folded[strings.ToLower(f.Name)] = f.Name
		next, ok := c.entry(data, f, at)
		if !ok {
			return
		}
		at = next
		if unpacked += f.UncompressedSize64; unpacked > maxUnpacked {
			c.addf("it unpacks to more than %d bytes", maxUnpacked)
			return
		}
		content, err := read(f)
		if err != nil {
			c.addf("%s: %v", f.Name, err)
			return
		}
		c.files[f.Name] = file{f.Mode(), content}
	}
	if !bytes.HasPrefix(data[at:], []byte(centralHeader)) {
		c.addf("something lies between the files and the list of them")
	}
	if end := len(data) - endSize; end < 0 || string(data[end:end+4]) != "PK\x05\x06" {
		c.addf("the archive does not end where the list of files does")
	}
}

// entry checks a file against its local header, which lies where the previous entry ended, and returns where this one
// ends.
func (c *checking) entry(data []byte, f *zip.File, at int64) (int64, bool) {
	start, err := f.DataOffset()
	if err != nil {
		c.addf("%s: %v", f.Name, err)
		return 0, false
	}
	end := start + int64(f.CompressedSize64)
	if start != at+localSize+int64(len(f.Name)) || end > int64(len(data)) {
		c.addf("%s: its header has an extra field, or does not follow the file before", f.Name)
		return 0, false
	}
	header := data[at:start]
	flags := binary.LittleEndian.Uint16(header[6:])
	switch {
	case string(header[:4]) != localHeader || string(header[localSize:]) != f.Name:
		c.addf("%s: its header is another file's", f.Name)
	case flags != f.Flags || flags&^flagUTF8 != 0:
		c.addf("%s: its flags are %#x and %#x: it may have no data descriptor and no encryption", f.Name, flags, f.Flags)
	case binary.LittleEndian.Uint16(header[8:]) != f.Method || f.Method != zip.Store && f.Method != zip.Deflate:
		c.addf("%s: it is compressed by method %d", f.Name, f.Method)
	case binary.LittleEndian.Uint32(header[14:]) != f.CRC32,
		uint64(binary.LittleEndian.Uint32(header[18:])) != f.CompressedSize64,
		uint64(binary.LittleEndian.Uint32(header[22:])) != f.UncompressedSize64:
		c.addf("%s: its header has another checksum or size than the list of files", f.Name)
	case !bytes.Equal(header[10:14], binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(nil, f.ModifiedTime), f.ModifiedDate)):
		c.addf("%s: its header has another date than the list of files", f.Name)
	case len(f.Extra) > 0 || f.Comment != "":
		c.addf("%s: it has an extra field or a comment", f.Name)
	case !validDate(f):
		c.addf("%s: its date is none", f.Name)
	case f.CreatorVersion>>bytesOfVersion != creatorUnix || !f.Mode().IsRegular() || f.Mode() != 0o644 && f.Mode() != 0o755:
		c.addf("%s: its mode is %v, want -rw-r--r-- or -rwxr-xr-x", f.Name, f.Mode())
	default:
		return end, true
	}
	return end, false
}

// validDate reports whether an MS-DOS date is valid: a zero date has month 0.
func validDate(f *zip.File) bool {
	year, month, day := int(f.ModifiedDate>>9)+earliestYear, int(f.ModifiedDate>>5&15), int(f.ModifiedDate&31)
	hour, minute, second := int(f.ModifiedTime>>11), int(f.ModifiedTime>>5&63), int(f.ModifiedTime&31)*2
	t := f.Modified
	return year <= latestYear && month >= 1 && month <= 12 && day >= 1 &&
		t.Year() == year && int(t.Month()) == month && t.Day() == day && t.Hour() == hour && t.Minute() == minute && t.Second() == second
}

func read(f *zip.File) ([]byte, error) {
	r, err := f.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, maxUnpacked))
}
