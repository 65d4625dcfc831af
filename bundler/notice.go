package bundler

import (
	"bytes"
	"slices"
	"strings"
)

// A notice is a license text that a bundle owes once its files hold certain code.
type notice struct {
	library string
	mark    string   // in the mangled names of the library's code, which are strings of the binary: kernels are registered by name
	texts   []string // a line of the license: as Debian's package of CUDA 12 has it, and as NVIDIA's own of CUDA 13 does
}

// compiledIn are the libraries that are headers of the toolkit: no file of theirs in a bundle tells
// that they are there.
var compiledIn = []notice{
	{"CUB", "N3cub", []string{"(c) 2010-2011, Duane Merrill.  All rights reserved."}},
	{"Thrust", "N6thrust", []string{"Copyright 2008-2018 NVIDIA Corporation", "Thrust is under the Apache Licence v2.0"}},
	{"libcu++", "N4cuda3std", []string{"Apache-2.0 with LLVM exception", "libcu++ is under the Apache License v2.0 with LLVM Exceptions"}},
}

// checkNotices compares the libraries found in a file with the license texts of the bundle.
func (a *audit) checkNotices(n *node, marks map[string]bool, texts []byte) {
	for _, library := range compiledIn {
		held := func(text string) bool { return bytes.Contains(texts, []byte(text)) }
		if marks[library.mark] && !slices.ContainsFunc(library.texts, held) {
			a.add(RuleNotice, n.path, "it holds code of %s, and %s lacks its licence, with the line \"%s\"; add what the toolkit's package says", library.library, noticeName, strings.Join(library.texts, `" or "`))
		}
	}
	if n == a.library(openMPRuntime) && !bytes.Contains(texts, []byte("GCC RUNTIME LIBRARY EXCEPTION")) {
		a.add(RuleNotice, n.path, "%s lacks the GCC Runtime Library Exception, by which it may be passed on; add the compiler's copyright file", noticeName)
	}
}
