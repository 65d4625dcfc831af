package farm

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const digestPrefix = "sha256:"

// treeCache keeps resolved trees by digest, and which commit gave which tree:
//
//	trees/<hex of the digest>/…
//	commits/<commit>.json
//
// Everything in it appears by rename, so any number of processes may share one,
// and a tree is hashed again each time it is used.
type treeCache struct{ dir string }

func openTreeCache(dir string) (*treeCache, error) {
	for _, name := range []string{"trees", "commits"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return nil, fmt.Errorf("opening the source cache: %w", err)
		}
	}
	return &treeCache{dir: dir}, nil
}

func (c *treeCache) path(digest string) string {
	return filepath.Join(c.dir, "trees", strings.TrimPrefix(digest, digestPrefix))
}

// stage makes an empty folder that is on the same file system as the cache.
func (c *treeCache) stage() (dir string, remove func(), err error) {
	dir, err = os.MkdirTemp(c.dir, "unfinished-")
	if err != nil {
		return "", nil, fmt.Errorf("opening the source cache: %w", err)
	}
	return dir, func() { os.RemoveAll(dir) }, nil
}

// has says whether the tree is there and is what its name says. A tree that
// somebody changed is removed.
func (c *treeCache) has(digest string) (bool, error) {
	dir := c.path(digest)
	if _, err := os.Stat(dir); err != nil {
		return false, nil
	}
	got, err := treeDigest(dir)
	if err == nil && got == digest {
		return true, nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return false, fmt.Errorf("removing a changed tree from the source cache: %w", err)
	}
	return false, nil
}

// adopt checks the tree in dir and moves it into the cache.
func (c *treeCache) adopt(dir string) (string, error) {
	if err := checkTree(dir); err != nil {
		return "", err
	}
	if err := normalise(dir); err != nil {
		return "", err
	}
	digest, err := treeDigest(dir)
	if err != nil {
		return "", err
	}
	ok, err := c.has(digest)
	if err != nil || ok {
		return digest, err
	}
	if err := os.Rename(dir, c.path(digest)); err != nil {
		// Another process may have been first with the same tree.
		if ok, _ := c.has(digest); ok {
			return digest, nil
		}
		return "", fmt.Errorf("keeping the source tree: %w", err)
	}
	return digest, nil
}

// commitRecord is what is kept of a commit beside its tree.
type commitRecord struct {
	Digest string `json:"digest"`
	Build  int    `json:"build"`
	Date   int64  `json:"date"`
}

func (c *treeCache) commitPath(commit string) string {
	return filepath.Join(c.dir, "commits", commit+".json")
}

// commit looks a commit up. A record that cannot be used counts as none: the
// tree is then fetched again.
func (c *treeCache) commit(commit string) (origin, bool, error) {
	text, err := os.ReadFile(c.commitPath(commit))
	if err != nil {
		return origin{}, false, nil
	}
	var rec commitRecord
	if err := json.Unmarshal(text, &rec); err != nil || !isDigest(rec.Digest) {
		return origin{}, false, nil
	}
	ok, err := c.has(rec.Digest)
	if err != nil || !ok {
		return origin{}, false, err
	}
	return origin{digest: rec.Digest, commit: commit, build: rec.Build, date: rec.Date}, true, nil
}

func (c *treeCache) recordCommit(o origin) error {
	text, err := json.Marshal(commitRecord{Digest: o.digest, Build: o.build, Date: o.date})
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(c.dir, "unfinished-")
	if err != nil {
		return fmt.Errorf("keeping the source tree: %w", err)
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), c.commitPath(o.commit))
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("keeping the source tree: %w", err)
	}
	return nil
}

func isDigest(s string) bool {
	raw, err := hex.DecodeString(strings.TrimPrefix(s, digestPrefix))
	return strings.HasPrefix(s, digestPrefix) && err == nil && len(raw) == sha256.Size
}

// normalise gives every file of a tree the modes and the time that do not depend
// on where it came from, so that an engine sees equal trees as equal.
func normalise(dir string) error {
	epoch := time.Unix(fallbackEpoch, 0)
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() == fs.ModeSymlink {
			return err
		}
		mode := fs.FileMode(0o755)
		if !d.IsDir() {
			info, err := d.Info()
			if err != nil {
				return err
			}
			if info.Mode()&0o100 == 0 {
				mode = 0o644
			}
		}
		if err := os.Chmod(name, mode); err != nil {
			return err
		}
		return os.Chtimes(name, epoch, epoch)
	})
}

// treeDigest hashes a tree: for every file and link, in the order of their
// slash paths, whether it is a link, an executable or a plain file, its length,
// and its bytes or target. Folders count only through what is in them. A link
// that leaves the tree and anything else than a file or link is an error.
func treeDigest(dir string) (string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
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
		return "", err
	}
	return digestOf(root, names)
}

// digestOf hashes the tree that consists of the named files and links.
func digestOf(root *os.Root, names []string) (string, error) {
	names = slices.Sorted(slices.Values(names))
	sum := sha256.New()
	for _, name := range names {
		if err := hashEntry(sum, root, name); err != nil {
			return "", err
		}
	}
	return digestPrefix + hex.EncodeToString(sum.Sum(nil)), nil
}

func hashEntry(w io.Writer, root *os.Root, name string) error {
	info, err := root.Lstat(name)
	if err != nil {
		return err
	}
	switch {
	case info.Mode().Type() == fs.ModeSymlink:
		target, err := root.Readlink(name)
		if err != nil {
			return err
		}
		if !staysInside(name, target) {
			return fmt.Errorf("the tree's link %s leaves it: %s", name, target)
		}
		fmt.Fprintf(w, "link %q %q\n", name, target)
		return nil
	case !info.Mode().IsRegular():
		return fmt.Errorf("the tree holds %s, which is neither a file nor a link", name)
	}
	kind := "file"
	if info.Mode()&0o100 != 0 {
		kind = "exec"
	}
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	fmt.Fprintf(w, "%s %q %d\n", kind, name, info.Size())
	n, err := io.Copy(w, f)
	if err == nil && n != info.Size() {
		err = fmt.Errorf("%s changed while it was read", name)
	}
	return err
}

// staysInside says whether the link at the slash path name points into its tree.
func staysInside(name, target string) bool {
	if path.IsAbs(target) || filepath.IsAbs(target) {
		return false
	}
	return filepath.IsLocal(filepath.FromSlash(path.Join(path.Dir(name), target)))
}
