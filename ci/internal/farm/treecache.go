package farm

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
)

const (
	digestPrefix = "sha256:"
	unfinished   = "unfinished-" // begins the names of what is on its way into the cache
)

// treeCache keeps resolved trees by digest, and which commit gave which tree:
//
//	trees/<hex of the digest>/…
//	commits/<commit>.json
//	packages/<digest>.tgz
//	lock
//
// Everything in it appears by rename, so any number of processes may share one. Nothing in it is
// trusted: a tree is hashed again each time it is used, and a commit's record holds the commit
// itself, whose id is its hash and which names the git tree that the files must make. Only the
// build number cannot be checked so, which is why the pin has its own.
type treeCache struct {
	dir  string
	used *flock.Flock // shared by the processes that use the cache
}

// openTreeCache opens the cache, and removes what killed processes left unfinished if no other is
// at work there.
func openTreeCache(dir string) (*treeCache, error) {
	fail := func(err error) (*treeCache, error) { return nil, fmt.Errorf("opening the source cache: %w", err) }
	for _, name := range []string{"trees", "commits"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return fail(err)
		}
	}
	used := flock.New(filepath.Join(dir, "lock"))
	alone, err := used.TryLock()
	if err != nil {
		return fail(err)
	}
	if alone {
		left, err := filepath.Glob(filepath.Join(dir, unfinished+"*"))
		if err != nil {
			return fail(err)
		}
		for _, name := range left {
			if err := os.RemoveAll(name); err != nil {
				return fail(err)
			}
		}
	}
	if err := used.RLock(); err != nil { // waits for another's removal at most
		return fail(err)
	}
	return &treeCache{dir, used}, nil
}

func (c *treeCache) close() error { return c.used.Close() }

func (c *treeCache) path(digest string) string {
	return filepath.Join(c.dir, "trees", strings.TrimPrefix(digest, digestPrefix))
}

// packagePath is where the package of a digest is downloaded to. The next run finds there what an
// interrupted one brought.
func (c *treeCache) packagePath(digest string) (string, error) {
	dir := filepath.Join(c.dir, "packages")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("opening the source cache: %w", err)
	}
	transfer.RemoveStale(dir)
	return filepath.Join(dir, digest+".tgz"), nil
}

// stage makes an empty folder that is on the same file system as the cache.
func (c *treeCache) stage() (dir string, remove func(), err error) {
	dir, err = os.MkdirTemp(c.dir, unfinished)
	if err != nil {
		return "", nil, fmt.Errorf("opening the source cache: %w", err)
	}
	return dir, func() { os.RemoveAll(dir) }, nil
}

// has returns the sums of a tree that is in the cache and matches its name. A tree that was changed
// is removed.
func (c *treeCache) has(digest string) (treeSums, bool, error) {
	dir := c.path(digest)
	if _, err := os.Stat(dir); err != nil {
		return treeSums{}, false, nil
	}
	got, err := hashTree(dir)
	if err == nil && got.digest == digest {
		return got, true, nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return treeSums{}, false, fmt.Errorf("removing a changed tree from the source cache: %w", err)
	}
	return treeSums{}, false, nil
}

// adopt checks the tree in dir and moves it into the cache.
func (c *treeCache) adopt(dir string) (treeSums, error) {
	if err := checkTree(dir); err != nil {
		return treeSums{}, err
	}
	if err := normalise(dir); err != nil {
		return treeSums{}, err
	}
	sums, err := hashTree(dir)
	if err != nil {
		return treeSums{}, err
	}
	_, ok, err := c.has(sums.digest)
	if err != nil || ok {
		return sums, err
	}
	if err := os.Rename(dir, c.path(sums.digest)); err != nil {
		// Another process may have been first with the same tree.
		if _, ok, _ := c.has(sums.digest); ok {
			return sums, nil
		}
		return treeSums{}, fmt.Errorf("keeping the source tree: %w", err)
	}
	return sums, nil
}

// commitRecord is what the cache keeps about a commit, next to its tree.
type commitRecord struct {
	Digest     string            `json:"digest"`
	Build      int               `json:"build"`
	Object     []byte            `json:"object"`               // the commit, as git hashes it
	Submodules map[string]string `json:"submodules,omitempty"` // part of the git tree, without files here
}

func (c *treeCache) commitPath(commit string) string {
	return filepath.Join(c.dir, "commits", commit+".json")
}

// commit looks a commit up. A record that cannot be used counts as none, and so does one whose
// files are not the commit's: the tree is then fetched again.
func (c *treeCache) commit(commit string) (origin, bool, error) {
	text, err := os.ReadFile(c.commitPath(commit))
	if err != nil {
		return origin{}, false, nil
	}
	var rec commitRecord
	if err := json.Unmarshal(text, &rec); err != nil || !isDigest(rec.Digest) || gitID("commit", rec.Object) != commit {
		return origin{}, false, nil
	}
	sums, ok, err := c.has(rec.Digest)
	if err != nil || !ok {
		return origin{}, false, err
	}
	tree, date, err := readCommit(rec.Object)
	if err != nil || sums.gitTree(rec.Submodules) != tree {
		return origin{}, false, nil
	}
	return origin{sums: sums, commit: commit, tree: tree, build: rec.Build, date: date}, true, nil
}

func (c *treeCache) recordCommit(commit string, rec commitRecord) error {
	text, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(c.dir, unfinished)
	if err != nil {
		return fmt.Errorf("keeping the source tree: %w", err)
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), c.commitPath(commit))
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

// normalise sets the modes and times of every file of a tree to values that do not depend on where
// it came from, so that an engine sees equal trees as equal.
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
