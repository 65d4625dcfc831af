package bundler

import (
	"bytes"
)

// A notice is a license text that a bundle owes once its files hold certain code.
type notice struct {
	library string
	mark    string // in the mangled names of the library's code, which are strings of the binary: kernels are registered by name
	text    string // a line of the license
}

// compiledIn are the libraries that are headers of the toolkit: no file of theirs in a bundle tells
// that they are there.
var compiledIn = []notice{
	{"CUB", "N3cub", "(c) 2010-2011, Duane Merrill.  All rights reserved."},
	{"Thrust", "N6thrust", "Copyright 2008-2018 NVIDIA Corporation"},
	{"libcu++", "N4cuda3std", "Apache-2.0 with LLVM exception"},
}

// checkNotices compares the libraries found in a file with the license texts of the bundle.
func (a *audit) checkNotices(n *node, marks map[string]bool, texts []byte) {
	for _, library := range compiledIn {
		if marks[library.mark] && !bytes.Contains(texts, []byte(library.text)) {
			a.add(RuleNotice, n.path, "it holds code of %s, and %s lacks its licence, with the line %q; add what the toolkit's package says", library.library, noticeName, library.text)
		}
	}
	if n == a.library(openMPRuntime) && !bytes.Contains(texts, []byte("GCC RUNTIME LIBRARY EXCEPTION")) {
		a.add(RuleNotice, n.path, "%s lacks the GCC Runtime Library Exception, by which it may be passed on; add the compiler's copyright file", noticeName)
	}
}
