package farm

import (
	"archive/tar"
	"bufio"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// What a source tarball may unpack to: far above any llama.cpp tree, and well
// below what would fill a disk.
const (
	maxSourceBytes = 8 << 30
	maxSourceFiles = 500_000
)

// archiveCommit is how git archive records the commit, in the comment of the
// global header.
var archiveCommit = regexp.MustCompile(`^[0-9a-f]{40}$`)

// folder takes a tree from a folder.
func (r resolver) folder(ctx context.Context, dir string) (origin, error) {
	if err := checkTree(dir); err != nil {
		return origin{}, badTree(dir, err)
	}
	var names []string
	var tree origin
	var err error
	if isWorkTree(dir) {
		names, tree, err = workTree(ctx, dir)
	} else {
		names, err = filesUnder(dir)
		tree.warnings = buildsByHand(dir, names)
	}
	if err != nil {
		return origin{}, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return origin{}, err
	}
	defer root.Close()
	sums, err := hashFiles(root, names)
	if err != nil {
		return origin{}, badTree(dir, err)
	}
	if tree.tree != "" && sums.gitTree(tree.submodules) != tree.tree {
		// git calls it clean: files may be left out (sparse), or flagged as not to be looked at.
		tree.commit += dirty
	}
	tree.sums = sums
	if _, ok, err := r.cache.has(tree.sums.digest); ok || err != nil {
		return tree, err
	}
	stage, remove, err := r.cache.stage()
	if err != nil {
		return origin{}, err
	}
	defer remove()
	if err := copyFiles(ctx, root, stage, names); err != nil {
		return origin{}, err
	}
	sums, err = r.cache.adopt(stage)
	tree.sums = sums
	return tree, err
}

// buildsByHand warns of what cmake left in a plain folder: no git says that it is
// no part of the source.
func buildsByHand(dir string, names []string) []string {
	for _, name := range names {
		if path.Base(name) == "CMakeCache.txt" {
			return []string{fmt.Sprintf("%s holds a build made by hand (%s), whose files count as source; remove %s, or give a git clone",
				dir, name, cmp.Or(strings.TrimPrefix(path.Dir(name), "."), "it"))}
		}
	}
	return nil
}

// tarball takes a tree from a tar archive, compressed or not.
func (r resolver) tarball(ctx context.Context, file string) (origin, error) {
	stage, remove, err := r.cache.stage()
	if err != nil {
		return origin{}, err
	}
	defer remove()
	r.progress("unpacking " + filepath.Base(file))
	top, tree, err := unpackFile(ctx, file, stage)
	if err != nil {
		return origin{}, badTree(file, err)
	}
	sums, err := r.cache.adopt(top)
	if err != nil {
		return origin{}, badTree(file, err)
	}
	tree.sums, tree.tree = sums, sums.gitTree(nil)
	return tree, nil
}

// Unpack unpacks a tar archive, compressed or not, into an empty folder, and returns the one top folder in it.
func Unpack(ctx context.Context, file, dir string) (string, error) {
	top, _, err := unpackFile(ctx, file, dir)
	if err != nil {
		return "", fmt.Errorf("unpacking %s: %w", file, err)
	}
	return top, nil
}

func unpackFile(ctx context.Context, file, dir string) (top string, tree origin, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", origin{}, err
	}
	defer f.Close()
	stream, closeStream, err := decompress(f)
	if err != nil {
		return "", origin{}, err
	}
	defer closeStream()
	if tree, err = unpack(ctx, stream, dir); err != nil {
		return "", origin{}, err
	}
	top, err = singleFolder(dir)
	return top, tree, err
}

// badTree makes a tree that cannot be built the user's error.
func badTree(given string, err error) error {
	var wrong *notLlamaError
	var stray *strayError
	switch {
	case errors.As(err, &wrong):
		return &SourceError{Given: given, Problem: wrong.Error(), Hint: "give the top folder of a llama.cpp tree"}
	case errors.As(err, &stray):
		top, _, _ := strings.Cut(stray.name, "/")
		return &SourceError{Given: given, Problem: stray.Error(), Hint: "remove " + top + " if it is not part of the source, or give a git clone, of which only its own files count"}
	}
	return err
}

// decompress looks at the first bytes, not at the name.
func decompress(r io.Reader) (io.Reader, func(), error) {
	buffered := bufio.NewReaderSize(r, 1<<16)
	const longestMagic = 6
	magic, err := buffered.Peek(longestMagic)
	if err != nil {
		return nil, nil, fmt.Errorf("too short for an archive: %w", err)
	}
	switch {
	case string(magic[:2]) == "\x1f\x8b":
		z, err := gzip.NewReader(buffered)
		return z, func() {}, err
	case string(magic[:4]) == "\x28\xb5\x2f\xfd":
		z, err := zstd.NewReader(buffered)
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	case string(magic) == "\xfd7zXZ\x00":
		z, err := xz.NewReader(buffered)
		return z, func() {}, err
	}
	return buffered, func() {}, nil
}

// unpack writes a tar stream below dir. The root keeps every name and every
// write through a link inside it.
func unpack(ctx context.Context, stream io.Reader, dir string) (origin, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return origin{}, err
	}
	defer root.Close()
	var tree origin
	var files, bytes int64
	for reader := tar.NewReader(stream); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return tree, nil
		}
		if err != nil {
			return origin{}, fmt.Errorf("reading the tarball: %w", err)
		}
		if ctx.Err() != nil {
			return origin{}, ctx.Err()
		}
		if header.Typeflag == tar.TypeXGlobalHeader {
			if comment := header.PAXRecords["comment"]; archiveCommit.MatchString(comment) {
				tree.commit = comment
			}
			continue
		}
		files++
		bytes += header.Size
		if files > maxSourceFiles || bytes > maxSourceBytes {
			return origin{}, fmt.Errorf("unpacking the tarball: more than %d files or %d bytes", maxSourceFiles, int64(maxSourceBytes))
		}
		if header.Typeflag != tar.TypeDir {
			tree.date = max(tree.date, header.ModTime.Unix())
		}
		if err := unpackEntry(root, header, reader); err != nil {
			return origin{}, fmt.Errorf("unpacking %s: %w", header.Name, err)
		}
	}
}

func unpackEntry(root *os.Root, header *tar.Header, content io.Reader) error {
	name := path.Clean(header.Name)
	if !filepath.IsLocal(filepath.FromSlash(name)) {
		return errors.New("the name leaves the tree")
	}
	if header.Typeflag == tar.TypeDir {
		return root.MkdirAll(name, 0o755)
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeReg:
		mode := fs.FileMode(0o644)
		if header.Mode&0o100 != 0 {
			mode = 0o755
		}
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Close())
	case tar.TypeSymlink:
		if !staysInside(name, header.Linkname) {
			return &strayError{name, "a link that leaves the tree, to " + header.Linkname}
		}
		return root.Symlink(header.Linkname, name)
	case tar.TypeLink:
		return root.Link(path.Clean(header.Linkname), name)
	}
	return fmt.Errorf("an entry of type %q has no place in a source tree", header.Typeflag)
}

// singleFolder steps into the one top folder that most tarballs have.
func singleFolder(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	if len(entries) == 1 && entries[0].IsDir() {
		return filepath.Join(dir, entries[0].Name()), nil
	}
	return dir, nil
}

// filesUnder lists a plain folder's files and links, but for a .git.
func filesUnder(dir string) ([]string, error) {
	var names []string
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.Name() == ".git" && d.IsDir():
			return fs.SkipDir
		case !d.IsDir() && d.Name() != ".git":
			names = append(names, name)
		}
		return nil
	})
	return names, err
}

// copyFiles copies files and links to another folder.
func copyFiles(ctx context.Context, src *os.Root, to string, names []string) error {
	dst, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer dst.Close()
	for _, name := range names {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := copyFile(src, dst, name); err != nil {
			return fmt.Errorf("copying %s: %w", name, err)
		}
	}
	return nil
}

func copyFile(src, dst *os.Root, name string) error {
	info, err := src.Lstat(name)
	if err != nil {
		return err
	}
	if err := dst.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	switch {
	case info.Mode().Type() == fs.ModeSymlink:
		target, err := src.Readlink(name)
		if err != nil {
			return err
		}
		return dst.Symlink(target, name)
	case !info.Mode().IsRegular():
		return errors.New("neither a file nor a link")
	}
	in, err := src.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := dst.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm()|0o200)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// isGitBundle looks at a file's first line.
func isGitBundle(file string) (bool, error) {
	f, err := os.Open(file)
	if err != nil {
		return false, fmt.Errorf("reading source %s: %w", file, err)
	}
	defer f.Close()
	line, err := bufio.NewReader(io.LimitReader(f, 64)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("reading source %s: %w", file, err)
	}
	return strings.HasPrefix(line, "# v") && strings.HasSuffix(line, " git bundle\n"), nil
}
