package bundler

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// The layout of a bundle.
const (
	libraryDir  = "lib"
	licenseName = "LICENSE"
	noticeName  = "THIRD_PARTY_LICENSES.txt"
	cudaBackend = "libggml-cuda.so"
	cpuPrefix   = "libggml-cpu-"
	// backendLink leads from the programs' folder to libraryDir: llama.cpp looks for backends beside the
	// executable.
	backendLink = "../../lib/"
)

// A tree is what a bundle's tree holds. Nodes ascend by path.
type tree struct {
	toolkit    manifests.Toolkit
	programDir string // of the toolkit: "binaries/cuda12"
	fsys       fs.FS
	nodes      []*node
	at         map[string]*node
}

// A node is a file, folder or link of a tree.
type node struct {
	path string
	info fs.FileInfo
	link string // of a symbolic link
	elf  *ELF   // of an ELF file that could be read
	err  error  // of one that could not
}

func (n *node) isLink() bool    { return n.info.Mode()&fs.ModeSymlink != 0 }
func (n *node) isRegular() bool { return n.info.Mode().IsRegular() }

// inLibraries reports whether a node lies directly in lib.
func (n *node) inLibraries() bool { return path.Dir(n.path) == libraryDir }

// isBackend reports whether a node is one that llama.cpp loads by name at run time.
func (n *node) isBackend() bool { return n.inLibraries() && isBackendName(path.Base(n.path)) }

func isBackendName(name string) bool { return name == cudaBackend || cpuVariant(name) != "" }

// cpuVariant is "haswell" for libggml-cpu-haswell.so, and "" for what is not a CPU backend.
func cpuVariant(name string) string {
	rest, ok := strings.CutPrefix(name, cpuPrefix)
	if !ok {
		return ""
	}
	variant, ok := strings.CutSuffix(rest, ".so")
	if !ok {
		return ""
	}
	return variant
}

// readTree reads every name, mode and link of a tree, and every ELF file in it. It is the tree of a
// bundle made with the toolkit, or of that toolkit's runtime.
func readTree(fsys fs.FS, toolkit manifests.Toolkit) (*tree, error) {
	t := &tree{toolkit: toolkit, programDir: toolkit.ProgramsDir(), fsys: fsys, at: make(map[string]*node)}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name == "." {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		n := &node{path: name, info: info}
		switch {
		case n.isLink():
			if n.link, err = fs.ReadLink(fsys, name); err != nil {
				return err
			}
		case n.isRegular():
			if err := n.readELF(fsys); err != nil {
				return err
			}
		}
		t.nodes = append(t.nodes, n)
		t.at[name] = n
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the tree: %w", err)
	}
	slices.SortFunc(t.nodes, func(a, b *node) int { return strings.Compare(a.path, b.path) })
	return t, nil
}

// readELF reads the file if it is ELF. A damaged one is not an error here but a finding of the
// audit.
func (n *node) readELF(fsys fs.FS) error {
	f, err := fsys.Open(n.path)
	if err != nil {
		return err
	}
	defer f.Close()
	r, ok := f.(io.ReaderAt)
	if !ok {
		return fmt.Errorf("opening %s: the file system gives no random access", n.path)
	}
	var magic [4]byte
	if _, err := r.ReadAt(magic[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if string(magic[:]) == "\x7fELF" {
		n.elf, n.err = ReadELF(r)
	}
	return nil
}

// resolve follows links to a regular file; nil means that there is none. Only links that stay in
// the tree are followed.
func (t *tree) resolve(name string) *node {
	const maxLinks = 40 // Linux's own limit
	for range maxLinks {
		n := t.at[name]
		if n == nil || n.isRegular() {
			return n
		}
		if !n.isLink() || path.IsAbs(n.link) {
			return nil
		}
		name = path.Join(path.Dir(n.path), n.link)
	}
	return nil
}

// library is the file that the loader finds in lib under a SONAME.
func (t *tree) library(soname string) *node {
	if soname == "" || strings.Contains(soname, "/") {
		return nil
	}
	return t.resolve(path.Join(libraryDir, soname))
}

// closure is an ELF file and all libraries of the tree that are loaded with it.
func (t *tree) closure(root *node) []*node {
	loaded := []*node{root}
	for i := 0; i < len(loaded); i++ {
		for _, needed := range loaded[i].elf.Needed {
			if lib := t.library(needed); lib != nil && lib.elf != nil && !slices.Contains(loaded, lib) {
				loaded = append(loaded, lib)
			}
		}
	}
	return loaded
}

// programs are the names of a bundle's programs.
func programs() []string {
	return []string{"llama-bench", "llama-cli", "llama-quantize", "llama-server"}
}

// libraries are the stems (libllama.so, libllama.so.0, …) that every bundle has in libraryDir,
// beside CPU backends.
func libraries() []string {
	return []string{"libggml-base.so", cudaBackend, "libggml.so", "libllama.so", "libmtmd.so"}
}
