package farm

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// treeSums is what a tree's files hash to, in the farm's way and in git's.
type treeSums struct {
	digest string
	blobs  []gitEntry // ascending by path
}

// A gitEntry is one file, link or submodule as git's tree objects have it.
type gitEntry struct {
	path string // slash-separated
	mode string
	id   [sha1.Size]byte
}

// The modes of git's tree objects.
const (
	gitFile      = "100644"
	gitExec      = "100755"
	gitLink      = "120000"
	gitFolder    = "40000"
	gitSubmodule = "160000"
)

// with is what the sums of the tree would be with some of its files changed or added; digest is left out.
func (s treeSums) with(changed map[string][]byte) treeSums {
	blobs := slices.Clone(s.blobs)
	for _, name := range slices.Sorted(maps.Keys(changed)) {
		hash := newGitHash("blob", int64(len(changed[name])))
		hash.Write(changed[name])
		at, found := slices.BinarySearchFunc(blobs, name, func(b gitEntry, name string) int { return strings.Compare(b.path, name) })
		if !found {
			blobs = slices.Insert(blobs, at, gitEntry{path: name, mode: gitFile})
		}
		blobs[at].id = [sha1.Size]byte(hash.Sum(nil))
	}
	return treeSums{blobs: blobs}
}

// hashTree hashes the tree that a folder is: all files and links in it.
func hashTree(dir string) (treeSums, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return treeSums{}, err
	}
	defer root.Close()
	var names []string
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		return treeSums{}, err
	}
	return hashFiles(root, names)
}

// hashFiles hashes the tree that consists of the named files and links.
//
// The farm's digest takes for every one of them, in the order of their slash
// paths, whether it is a link, an executable or a plain file, its length, and its
// bytes or target. Folders count only through what is in them. A link that leaves
// the tree, and anything other than a file or link, is a *strayError.
func hashFiles(root *os.Root, names []string) (treeSums, error) {
	names = slices.Sorted(slices.Values(names))
	all := sha256.New()
	blobs := make([]gitEntry, 0, len(names))
	for _, name := range names {
		blob, err := hashEntry(all, root, name)
		if err != nil {
			return treeSums{}, err
		}
		blobs = append(blobs, blob)
	}
	return treeSums{digestPrefix + hex.EncodeToString(all.Sum(nil)), blobs}, nil
}

func hashEntry(all io.Writer, root *os.Root, name string) (gitEntry, error) {
	info, err := root.Lstat(name)
	if err != nil {
		return gitEntry{}, err
	}
	switch {
	case info.Mode().Type() == fs.ModeSymlink:
		target, err := root.Readlink(name)
		if err != nil {
			return gitEntry{}, err
		}
		if !staysInside(name, target) {
			return gitEntry{}, &strayError{name, "a link that leaves the tree, to " + target}
		}
		fmt.Fprintf(all, "link %q %q\n", name, target)
		blob := newGitHash("blob", int64(len(target)))
		io.WriteString(blob, target)
		return gitEntry{name, gitLink, [sha1.Size]byte(blob.Sum(nil))}, nil
	case !info.Mode().IsRegular():
		return gitEntry{}, &strayError{name, "neither a file nor a link"}
	}
	kind, mode := "file", gitFile
	if info.Mode()&0o100 != 0 {
		kind, mode = "exec", gitExec
	}
	f, err := root.Open(name)
	if err != nil {
		return gitEntry{}, err
	}
	defer f.Close()
	fmt.Fprintf(all, "%s %q %d\n", kind, name, info.Size())
	blob := newGitHash("blob", info.Size())
	n, err := io.Copy(io.MultiWriter(all, blob), f)
	if err == nil && n != info.Size() {
		err = fmt.Errorf("%s changed while it was read", name)
	}
	return gitEntry{name, mode, [sha1.Size]byte(blob.Sum(nil))}, err
}

// A strayError is what no source tree may hold.
type strayError struct{ name, what string }

func (e *strayError) Error() string { return fmt.Sprintf("the tree's %s is %s", e.name, e.what) }

// staysInside reports whether the link at the slash path name points into its tree.
func staysInside(name, target string) bool {
	if path.IsAbs(target) || filepath.IsAbs(target) {
		return false
	}
	return filepath.IsLocal(filepath.FromSlash(path.Join(path.Dir(name), target)))
}

// gitTree is the id of git's tree object for the files and the given submodules
// (path to commit).
func (s treeSums) gitTree(submodules map[string]string) string {
	entries := slices.Clone(s.blobs)
	for name, commit := range submodules {
		id, err := hex.DecodeString(commit)
		if err != nil || len(id) != sha1.Size {
			return "" // no tree has it
		}
		entries = append(entries, gitEntry{name, gitSubmodule, [sha1.Size]byte(id)})
	}
	id := treeID(entries)
	return hex.EncodeToString(id[:])
}

// treeID hashes entries, whose paths are relative to the tree, in git's way.
func treeID(entries []gitEntry) [sha1.Size]byte {
	var here []gitEntry
	below := map[string][]gitEntry{}
	for _, e := range entries {
		if folder, rest, ok := strings.Cut(e.path, "/"); ok {
			below[folder] = append(below[folder], gitEntry{rest, e.mode, e.id})
		} else {
			here = append(here, e)
		}
	}
	for folder, inside := range below {
		here = append(here, gitEntry{folder, gitFolder, treeID(inside)})
	}
	// git sorts a folder as if its name ended with a slash.
	sorted := func(e gitEntry) string {
		if e.mode == gitFolder {
			return e.path + "/"
		}
		return e.path
	}
	slices.SortFunc(here, func(a, b gitEntry) int { return strings.Compare(sorted(a), sorted(b)) })
	var object bytes.Buffer
	for _, e := range here {
		fmt.Fprintf(&object, "%s %s\x00%s", e.mode, e.path, e.id[:])
	}
	sum := newGitHash("tree", int64(object.Len()))
	sum.Write(object.Bytes())
	return [sha1.Size]byte(sum.Sum(nil))
}

// newGitHash begins the hash of a git object.
func newGitHash(kind string, size int64) hash.Hash {
	sum := sha1.New()
	fmt.Fprintf(sum, "%s %d\x00", kind, size)
	return sum
}

// gitID is the id of a git object.
func gitID(kind string, object []byte) string {
	sum := newGitHash(kind, int64(len(object)))
	sum.Write(object)
	return hex.EncodeToString(sum.Sum(nil))
}

// readCommit reads the tree and the date, in Unix seconds, out of a commit object.
func readCommit(object []byte) (tree string, date int64, err error) {
	header, _, _ := bytes.Cut(object, []byte("\n\n"))
	for line := range strings.Lines(string(header)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch fields := strings.Fields(value); {
		case key == "tree" && tree == "":
			tree = value
		case key == "committer" && len(fields) >= 2: // NAME <MAIL> SECONDS ZONE
			if date, err = strconv.ParseInt(fields[len(fields)-2], 10, 64); err != nil {
				return "", 0, fmt.Errorf("reading the commit's date: %w", err)
			}
		}
	}
	if tree == "" {
		return "", 0, fmt.Errorf("reading a commit: it names no tree")
	}
	return tree, date, nil
}
