package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// Verify reads every file of an unpacked archive of the store and compares it with what the manifest and the archive's
// own metadata.json say. It returns what is wrong; an error is one of reading, where nothing can be said.
//
// The links to CUDA libraries that Link made may be there beside the bundle's own files, and the links to CPU variants
// that TryVariants left out may be gone.
func (s *Store) Verify(ctx context.Context, a manifests.Artifact, runtimeNames []string) ([]Finding, error) {
	dir := s.path(folder(a))
	found, err := readTree(ctx, dir)
	if err != nil {
		return nil, err
	}
	if a.Kind == manifests.KindCUDART {
		return compareFiles(a.Libraries, found, nil), nil
	}
	if f := found[manifests.MetadataName]; f.SHA256 == "" || f.Size > manifests.MaxSize { // reading it may never end
		return []Finding{{manifests.MetadataName, fmt.Sprintf("it is not a file of at most %d bytes", manifests.MaxSize)}}, nil
	}
	data, err := os.ReadFile(filepath.Join(dir, manifests.MetadataName))
	if err != nil {
		return []Finding{{manifests.MetadataName, err.Error()}}, nil
	}
	meta, err := manifests.DecodeMetadata(strings.NewReader(string(data)))
	if err == nil {
		err = agrees(meta, a)
	}
	if err != nil {
		return []Finding{{manifests.MetadataName, err.Error()}}, nil
	}
	delete(found, manifests.MetadataName)
	delete(found, leftOutName)
	return compareFiles(notLeftOut(meta.Files, found, leftOut(dir)), found, func(f manifests.File) bool { return isOurs(f, runtimeNames) }), nil
}

// readTree describes the files and links of a folder.
func readTree(ctx context.Context, dir string) (map[string]manifests.File, error) {
	found := map[string]manifests.File{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		file, err := readFile(ctx, path, entry)
		if err != nil {
			return err
		}
		file.Path = name
		found[name] = file
		return nil
	})
	return found, err
}

func readFile(ctx context.Context, path string, entry fs.DirEntry) (manifests.File, error) {
	if entry.Type()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(path)
		return manifests.File{Mode: "0777", Link: target}, err
	}
	if !entry.Type().IsRegular() {
		return manifests.File{Mode: entry.Type().String()}, nil // it is compared, and never opened: it may be a pipe
	}
	f, err := os.Open(path)
	if err != nil {
		return manifests.File{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return manifests.File{}, err
	}
	sum := sha256.New()
	n, err := io.Copy(sum, &contextReader{ctx, f})
	return manifests.File{Size: n, Mode: fmt.Sprintf("%04o", info.Mode().Perm()), SHA256: hex.EncodeToString(sum.Sum(nil))}, err
}

// FileDigest is the sha256 of a file, in hex.
func FileDigest(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, &contextReader{ctx, f}); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// A contextReader ends the reading of a large file with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
