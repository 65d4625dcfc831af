package publisher

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// A Folder is a release folder whose files are what its SHA256SUMS says.
type Folder struct {
	// Release is manifest.json.
	Release manifests.Release
	// Sums and Signature are the bytes of SHA256SUMS and of the signature over it, which nobody has verified yet.
	// Signature is nil where the folder is not signed.
	Sums, Signature []byte
	// Files are all files to publish, in the order in which they may become public: the signature is the last but one,
	// SHA256SUMS the last.
	Files []File
}

// A File is one file to publish.
type File struct {
	Name   string
	Size   int64
	SHA256 string // lower-case hex
	path   string
}

// fileOf reads a file for its size and digest.
func fileOf(path string) (File, error) {
	f := File{Name: filepath.Base(path), path: path}
	r, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer r.Close()
	sum := sha256.New()
	if f.Size, err = io.Copy(sum, r); err != nil {
		return File{}, fmt.Errorf("reading %s: %w", path, err)
	}
	f.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return f, nil
}

// A FolderError is a folder that is not one whole release.
type FolderError struct {
	Dir string
	Err error
}

func (e *FolderError) Error() string {
	return fmt.Sprintf("reading the release in %s: %v", e.Dir, e.Err)
}
func (e *FolderError) Unwrap() error { return e.Err }

// Hint says the way out.
func (e *FolderError) Hint() string {
	return "ci verify " + e.Dir + " says all that is wrong with it; ci manifest " + e.Dir + " describes the files anew, if they are the right ones"
}

// readLimit bounds how many files are hashed at once: each takes a core.
const readLimit = 4

// OpenFolder reads a release folder and holds every file to SHA256SUMS, and manifest.json to both. A folder that is
// not one whole release is a *FolderError. Folders in it, and files whose name begins with a dot, are no part of it.
func OpenFolder(ctx context.Context, dir string) (*Folder, error) {
	fail := func(err error) (*Folder, error) { return nil, &FolderError{Dir: dir, Err: err} }
	var f Folder
	var err error
	if f.Sums, err = os.ReadFile(filepath.Join(dir, manifests.SumsName)); err != nil {
		return fail(err)
	}
	sums, err := manifests.DecodeSums(bytes.NewReader(f.Sums))
	if err != nil {
		return fail(err)
	}
	own := []string{manifests.SumsName}
	f.Signature, err = os.ReadFile(filepath.Join(dir, manifests.SignatureName))
	switch {
	case err == nil:
		own = []string{manifests.SignatureName, manifests.SumsName}
	case !errors.Is(err, fs.ErrNotExist):
		return fail(err)
	}
	names := own
	for i := len(sums) - 1; i >= 0; i-- {
		names = append([]string{sums[i].Name}, names...)
	}
	f.Files = make([]File, len(names))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(readLimit)
	for i, name := range names {
		group.Go(func() (err error) {
			if groupCtx.Err() != nil {
				return groupCtx.Err()
			}
			f.Files[i], err = fileOf(filepath.Join(dir, name))
			return err
		})
	}
	if err := group.Wait(); ctx.Err() != nil {
		return nil, context.Cause(ctx)
	} else if err != nil {
		return fail(err)
	}
	for i, sum := range sums {
		if got := f.Files[i].SHA256; got != sum.SHA256 {
			return fail(fmt.Errorf("%s has sha256 %s, and %s says %s", sum.Name, got, manifests.SumsName, sum.SHA256))
		}
	}
	if err := f.readManifest(dir); err != nil {
		return fail(err)
	}
	if err := f.covers(dir, names); err != nil {
		return fail(err)
	}
	return &f, nil
}

// readManifest reads manifest.json and holds it to the files.
func (f *Folder) readManifest(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, manifests.ManifestName))
	if err != nil {
		return err
	}
	if f.Release, err = manifests.Decode(bytes.NewReader(text)); err != nil {
		return err
	}
	for _, asset := range f.Release.Assets {
		i := slices.IndexFunc(f.Files, func(file File) bool { return file.Name == asset.Name })
		switch {
		case i < 0:
			return fmt.Errorf("%s names %s, and %s does not", manifests.ManifestName, asset.Name, manifests.SumsName)
		case f.Files[i].Size != asset.Size || f.Files[i].SHA256 != asset.SHA256:
			return fmt.Errorf("%s is not the file that %s describes", asset.Name, manifests.ManifestName)
		case asset.URL != asset.Name:
			return fmt.Errorf("%s has %s at %s: a release is one flat folder", manifests.ManifestName, asset.Name, asset.URL)
		}
	}
	for _, file := range f.Files {
		if _, named := f.Release.Asset(file.Name); !named && !manifests.IsDocument(file.Name) {
			return fmt.Errorf("%s names %s, and %s does not", manifests.SumsName, file.Name, manifests.ManifestName)
		}
	}
	return nil
}

// covers reports files that would not be published: whoever put them there thinks that they are.
func (f *Folder) covers(dir string, names []string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if name := entry.Name(); !entry.IsDir() && !strings.HasPrefix(name, ".") && !slices.Contains(names, name) {
			return fmt.Errorf("%s is no part of the release: %s does not name it", name, manifests.SumsName)
		}
	}
	return nil
}

// Signed says whether there is a signature.
func (f *Folder) Signed() bool { return f.Signature != nil }

// Size is what all files have together, in bytes.
func (f *Folder) Size() int64 {
	var size int64
	for _, file := range f.Files {
		size += file.Size
	}
	return size
}

// open opens the file for one upload. Its reader never gives the last byte of a file that is not what it was.
func (f File) open() (io.ReadCloser, error) {
	r, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	return &sameFile{file: f, r: r, sum: sha256.New(), left: f.Size}, nil
}
