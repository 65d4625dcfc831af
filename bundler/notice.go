package bundler

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// A notice is a licence text that a bundle owes once its files hold certain code.
type notice struct {
	library string
	mark    string // in the mangled names of the library's code, which are strings of the binary: kernels are registered by name
	text    string // a line of the licence
}

// compiledIn are the libraries that are headers of the toolkit: no file of theirs in a bundle tells that they are there.
var compiledIn = []notice{
	{"CUB", "N3cub", "(c) 2010-2011, Duane Merrill.  All rights reserved."},
	{"Thrust", "N6thrust", "Copyright 2008-2018 NVIDIA Corporation"},
	{"libcu++", "N4cuda3std", "Apache-2.0 with LLVM exception"},
}

// notices compares what the binaries hold with what the licence texts speak of.
func (a *audit) notices() error {
	texts, err := fs.ReadFile(a.fsys, noticeName)
	if err != nil {
		return nil // presence said so
	}
	for _, n := range a.nodes {
		if !n.isRegular() || n.elf == nil {
			continue
		}
		f, err := a.fsys.Open(n.path)
		if err != nil {
			return fmt.Errorf("looking for libraries in %s: %w", n.path, err)
		}
		found, err := marks(f, compiledIn)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("looking for libraries in %s: %w", n.path, err)
		}
		for i, notice := range compiledIn {
			if found[i] && !bytes.Contains(texts, []byte(notice.text)) {
				a.add(RuleNotice, n.path, "it holds code of %s, and %s lacks its licence, with the line %q; add what the toolkit's package says", notice.library, noticeName, notice.text)
			}
		}
	}
	if gomp := a.library(openMPRuntime); gomp != nil && !bytes.Contains(texts, []byte("GCC RUNTIME LIBRARY EXCEPTION")) {
		a.add(RuleNotice, gomp.path, "%s lacks the GCC Runtime Library Exception, by which it may be passed on; add the compiler's copyright file", noticeName)
	}
	return nil
}

// marks says of each notice whether its mark is in r.
func marks(r io.Reader, notices []notice) ([]bool, error) {
	const longest = 64 // of a mark, at least
	found := make([]bool, len(notices))
	buf := make([]byte, scanChunk+longest)
	kept := 0
	for {
		n, err := io.ReadFull(r, buf[kept:])
		part := buf[:kept+n]
		for i, notice := range notices {
			found[i] = found[i] || bytes.Contains(part, []byte(notice.mark))
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		kept = copy(buf, part[len(part)-longest:])
	}
}
