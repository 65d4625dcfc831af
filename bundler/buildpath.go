package bundler

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
)

// A pathScan looks for absolute paths below some folders in any bytes: string tables, notes, device
// code. On the way it looks for marks, none longer than maxLeakPath.
type pathScan struct {
	prefixes []string
	found    map[string]*pathLeak
	marks    map[string]bool // whether each was found
}

// A pathLeak is how often a prefix was found, and the first path that has it.
type pathLeak struct {
	count int
	first string
}

const (
	scanChunk   = 1 << 20
	maxLeakPath = 200 // how much of a path is shown, and so how far a chunk must reach past a match
)

// scan reads r to its end.
func (s *pathScan) scan(r io.Reader) error {
	buf := make([]byte, 0, scanChunk+maxLeakPath+1)
	start := 0 // matches begin here or later; buf[:start] is context
	for {
		n, err := io.ReadFull(r, buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		atEnd := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !atEnd {
			return err
		}
		limit := len(buf)
		if !atEnd {
			limit = max(start, len(buf)-maxLeakPath)
		}
		for _, prefix := range s.prefixes {
			s.match(buf, start, limit, prefix)
		}
		for mark, found := range s.marks {
			s.marks[mark] = found || bytes.Contains(buf, []byte(mark))
		}
		if atEnd {
			return nil
		}
		const context = 2
		from := max(0, limit-context)
		start = limit - from
		buf = buf[:copy(buf, buf[from:])]
	}
}

// match counts the paths in buf that begin with a prefix, from start to before limit.
func (s *pathScan) match(buf []byte, start, limit int, prefix string) {
	for at := start; at < limit; {
		i := bytes.Index(buf[at:min(len(buf), limit+len(prefix)-1)], []byte(prefix))
		if i < 0 {
			return
		}
		at += i
		if beginsPath(buf, at) {
			leak := s.found[prefix]
			if leak == nil {
				leak = &pathLeak{first: pathAt(buf[at:])}
				s.found[prefix] = leak
			}
			leak.count++
		}
		at += len(prefix)
	}
}

// beginsPath reports whether an absolute path begins at an offset, as opposed to the middle of
// "ggml/src/x.c".
func beginsPath(buf []byte, at int) bool {
	if at == 0 || !isPathByte(buf[at-1]) {
		return true
	}
	return at >= 2 && buf[at-2] == '-' && strings.IndexByte("ILB", buf[at-1]) >= 0 // a recorded compiler option
}

func isPathByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("._-+/~$@%}", c) >= 0
}

func pathAt(buf []byte) string {
	end := bytes.IndexFunc(buf[:min(len(buf), maxLeakPath)], func(c rune) bool { return c <= ' ' || c > '~' || c == '"' })
	if end < 0 {
		end = min(len(buf), maxLeakPath)
	}
	return string(buf[:end])
}

// checkContents reads every file, and device code as it is when decompressed: for paths of the
// builder, and for libraries whose licenses the bundle must have.
func (a *audit) checkContents() error {
	texts, err := fs.ReadFile(a.fsys, noticeName)
	if err != nil {
		texts = nil // presence said so
	}
	for _, n := range a.nodes {
		if !n.isRegular() {
			continue
		}
		s := &pathScan{prefixes: a.rules.BuildPaths, found: make(map[string]*pathLeak), marks: make(map[string]bool)}
		if n.elf != nil {
			for _, library := range compiledIn {
				s.marks[library.mark] = false
			}
		}
		if err := a.scanFile(n, s); err != nil {
			return fmt.Errorf("reading %s: %w", n.path, err)
		}
		if texts != nil {
			a.checkNotices(n, s.marks, texts)
		}
		for _, prefix := range a.rules.BuildPaths {
			if leak := s.found[prefix]; leak != nil {
				more := ""
				if leak.count > 1 {
					more = fmt.Sprintf(" (%d times)", leak.count)
				}
				a.add(RuleBuildPath, n.path, "it names the build path %s%s; map it away with -ffile-prefix-map", leak.first, more)
			}
		}
	}
	return nil
}

// scanFile scans compressed device code decompressed, and the rest of the file as it is stored. Compressed bytes can look
// like a path that the code does not contain.
func (a *audit) scanFile(n *node, s *pathScan) error {
	f, err := a.fsys.Open(n.path)
	if err != nil {
		return err
	}
	defer f.Close()
	var compressed []DeviceCode
	if n.elf != nil {
		compressed = slices.DeleteFunc(slices.Clone(n.elf.DeviceCode), func(d DeviceCode) bool { return d.Compression == "" })
	}
	if len(compressed) == 0 {
		return s.scan(f)
	}
	file := f.(io.ReaderAt) // readELF found that it is one
	if err := s.scan(without(file, n.info.Size(), compressed)); err != nil {
		return err
	}
	for _, d := range compressed {
		if err := scanDeviceCode(file, d.FatbinEntry, s); err != nil {
			a.add(RuleDeviceCode, n.path, "%s for %s: %v; build it again", d.Kind, d.Name(), err)
			return nil
		}
	}
	return nil
}

// without reads a file with a zero byte in place of each piece of device code. It sorts the pieces.
func without(file io.ReaderAt, size int64, code []DeviceCode) io.Reader {
	slices.SortFunc(code, func(a, b DeviceCode) int { return cmp.Compare(a.Offset, b.Offset) })
	var parts []io.Reader
	at := int64(0)
	for _, d := range code {
		parts = append(parts, io.NewSectionReader(file, at, max(0, d.Offset-at)), strings.NewReader("\x00"))
		at = max(at, d.Offset+d.Size)
	}
	return io.MultiReader(append(parts, io.NewSectionReader(file, at, max(0, size-at)))...)
}

func scanDeviceCode(file io.ReaderAt, entry FatbinEntry, s *pathScan) error {
	payload, err := entry.Open(file)
	if err != nil {
		return err
	}
	defer payload.Close()
	return s.scan(payload)
}
