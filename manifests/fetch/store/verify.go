package store

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/archive"
)

// A Finding is one thing that is wrong with an unpacked archive.
type Finding = archive.Finding

// Verify reads every file of an unpacked archive of the store and compares it with what the
// manifest and the archive's own metadata.json say. It returns what is wrong; an error means that
// the archive could not be read, and nothing can be said of it.
//
// The links to CUDA libraries that Link made may be there beside the bundle's own files, and the
// links to CPU variants that TryVariants left out may be gone.
func (s *Store) Verify(ctx context.Context, a manifests.Artifact, runtimeNames []string) ([]Finding, error) {
	dir := s.path(folder(a))
	found, err := readTree(ctx, dir)
	if err != nil {
		return nil, err
	}
	if a.Kind == manifests.KindCUDART {
		return archive.CompareFiles(found, a.Libraries), nil
	}
	damaged := func(detail string) ([]Finding, error) {
		return []Finding{{Rule: archive.RuleMetadata, Path: manifests.MetadataName, Detail: detail}}, nil
	}
	at := slices.IndexFunc(found, func(f manifests.File) bool { return f.Path == manifests.MetadataName })
	if at < 0 || found[at].SHA256 == "" || found[at].Size > manifests.MaxSize { // reading it may never end
		return damaged(fmt.Sprintf("it is not a file of at most %d bytes", manifests.MaxSize))
	}
	data, err := os.ReadFile(filepath.Join(dir, manifests.MetadataName))
	if err != nil {
		return damaged(err.Error())
	}
	meta, err := manifests.DecodeMetadata(bytes.NewReader(data))
	if err != nil {
		return damaged(err.Error())
	}
	if findings := archive.CompareMetadata(meta, a); len(findings) > 0 {
		return findings, nil
	}
	found = slices.DeleteFunc(archive.WithoutMetadata(found), func(f manifests.File) bool {
		return f.Path == leftOutName || isOurs(f, runtimeNames)
	})
	return archive.CompareFiles(found, withoutLeftOut(meta.Files, found, readLeftOut(dir))), nil
}

// readTree describes the files and links of a folder, ascending by path.
func readTree(ctx context.Context, dir string) ([]manifests.File, error) {
	var found []manifests.File
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		file, err := readFile(ctx, path, entry)
		if err != nil {
			return err
		}
		file.Path, err = filepath.Rel(dir, path)
		found = append(found, file)
		return err
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
	sum := archive.NewDigester(io.Discard)
	_, err = io.Copy(sum, archive.WithContext(ctx, f))
	digest := sum.Digest()
	return manifests.File{Size: digest.Size, Mode: fmt.Sprintf("%04o", info.Mode().Perm()), SHA256: digest.SHA256}, err
}
