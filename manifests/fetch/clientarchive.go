package fetch

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
)

// maxClient bounds what a client's archive may hold, in bytes and in entries: it has 20 MB and 6.
const (
	maxClient        = 128 << 20
	maxClientEntries = 100
)

// unpackClient unpacks the programs in a client's archive, whose digest was verified, and returns
// their names: the files at its top that may be executed. License, README and completions are for
// packagers, and stay in the archive, as install.sh has it.
func unpackClient(name, archive, dir string) ([]string, error) {
	bad := func(entry, format string, args ...any) error {
		return &store.ArchiveError{Name: name, Entry: entry, Problem: fmt.Sprintf(format, args...)}
	}
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	unpacked, err := gzip.NewReader(f)
	if err != nil {
		return nil, bad("", "%v", err)
	}
	limited := &io.LimitedReader{R: unpacked, N: maxClient + 1}
	entries := tar.NewReader(limited)
	reason := func(err error) error {
		if limited.N <= 0 {
			return bad("", "it unpacks to more than %d bytes", maxClient)
		}
		return bad("", "%v", err)
	}
	var names []string
	seen := map[string]bool{}
	for {
		header, err := entries.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, reason(err)
		}
		entry := strings.TrimSuffix(header.Name, "/")
		mode := header.Mode & 0o7777
		isFile := header.Typeflag == tar.TypeReg
		switch {
		case entry == "" || entry != path.Clean(entry) || !filepath.IsLocal(entry) || strings.ContainsAny(entry, "\\\x00"):
			return nil, bad(header.Name, "it does not lie in the archive")
		case seen[entry]:
			return nil, bad(header.Name, "it is there twice")
		case len(seen) >= maxClientEntries:
			return nil, bad("", "it has more than %d entries", maxClientEntries)
		case !isFile && header.Typeflag != tar.TypeDir:
			return nil, bad(header.Name, "it is neither a file nor a folder (type %q)", header.Typeflag)
		case isFile && mode != 0o644 && mode != 0o755:
			return nil, bad(header.Name, "its mode is %04o; only 0644 and 0755 are expected", mode)
		}
		seen[entry] = true
		if !isFile || mode != 0o755 || strings.Contains(entry, "/") {
			continue
		}
		if header.Size == 0 {
			return nil, bad(header.Name, "it is a program of no bytes")
		}
		if err := writeProgram(filepath.Join(dir, entry), entries); err != nil {
			if limited.N <= 0 || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil, reason(err)
			}
			return nil, fmt.Errorf("unpacking %s: %w", name, err)
		}
		names = append(names, entry)
	}
	if _, err := io.Copy(io.Discard, limited); err != nil || limited.N <= 0 { // the tar's own end is not the archive's
		return nil, reason(err)
	}
	if !slices.Contains(names, programName) {
		return nil, bad("", "it holds no program %s", programName)
	}
	return names, os.Remove(archive)
}

// writeProgram writes a file that is on disk when it returns.
func writeProgram(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}
