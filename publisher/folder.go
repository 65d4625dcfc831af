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
	"maps"
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
	// Sums and Signature are the bytes of SHA256SUMS and of the signature over it, which is not
	// verified yet. Signature is nil where the folder is not signed.
	Sums, Signature []byte
	// Files are all files to publish, in the order in which they may become public: the signature
	// is the last but one, SHA256SUMS the last.
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

// A Finding is one thing wrong with a release.
type Finding struct{ Name, Rule, Detail string }

// The rules for a folder.
const (
	RuleMissing = "missing" // SHA256SUMS or the manifest names a file that is not there
	RuleExtra   = "extra"   // a file that they do not name
	RuleChanged = "changed" // a file with another content than they say
	RuleFormat  = "format"  // one of the release's documents cannot be read, or is not written as it must be
)

// OpenFolder reads a release folder and compares every file with SHA256SUMS and manifest.json. A
// folder that is not one whole release is a *FolderError with all findings.
func OpenFolder(ctx context.Context, dir string) (*Folder, error) {
	i, err := InspectFolder(ctx, dir)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, &FolderError{Dir: dir, Err: err}
	}
	var wrong []error
	for _, f := range slices.Concat(i.Sums, i.Manifest) {
		wrong = append(wrong, fmt.Errorf("%s: %s", f.Name, f.Detail))
	}
	if len(wrong) > 0 {
		return nil, &FolderError{Dir: dir, Err: errors.Join(wrong...)}
	}
	return &i.Folder, nil
}

// An Inspection is a folder, and all that is wrong with it.
type Inspection struct {
	// Folder is what could be read: its Files are those that SHA256SUMS names and that are there,
	// and its Release is empty where manifest.json cannot be read.
	Folder Folder
	// Sums are the findings about SHA256SUMS and the files that it names, Manifest those about
	// manifest.json.
	Sums, Manifest []Finding

	dir     string
	present []string
	listed  map[string]string // the digests by name; nil where SHA256SUMS cannot be read
}

// Intact reports whether an asset is there with the bytes that are described, and SHA256SUMS names
// it.
func (i *Inspection) Intact(a manifests.Artifact) bool {
	return slices.ContainsFunc(i.Folder.Files, func(f File) bool {
		return f.Name == a.Name && f.Size == a.Size && f.SHA256 == a.SHA256 && f.SHA256 == i.listed[a.Name]
	})
}

// readLimit bounds how many files are hashed at once: each takes a core.
const readLimit = 4

// InspectFolder reads a release folder and compares its files with SHA256SUMS, and manifest.json
// with both. Folders in it, and files whose name begins with a dot, are not part of it. The error
// is what kept it from looking.
func InspectFolder(ctx context.Context, dir string) (*Inspection, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	i := &Inspection{dir: dir}
	for _, entry := range entries {
		if name := entry.Name(); !entry.IsDir() && !strings.HasPrefix(name, ".") {
			i.present = append(i.present, name)
		}
	}
	for _, step := range []func(context.Context) error{i.readSums, i.readFiles, i.readManifest} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return i, nil
}

// readDocument reads a file of the folder; nil where there is none.
func (i *Inspection) readDocument(name string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(i.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}

func (i *Inspection) readSums(context.Context) (err error) {
	add := func(rule, detail string) {
		i.Sums = append(i.Sums, Finding{manifests.SumsName, rule, detail})
	}
	if i.Folder.Signature, err = i.readDocument(manifests.SignatureName); err != nil {
		return err
	}
	if i.Folder.Sums, err = i.readDocument(manifests.SumsName); err != nil {
		return err
	}
	if i.Folder.Sums == nil {
		add(RuleMissing, "the release is not whole: go run ./ci manifest "+i.dir+" writes it")
		return nil
	}
	sums, err := manifests.DecodeSums(bytes.NewReader(i.Folder.Sums))
	if err != nil {
		add(RuleFormat, err.Error())
		return nil
	}
	i.listed = map[string]string{}
	for _, sum := range sums {
		i.listed[sum.Name] = sum.SHA256
	}
	return nil
}

// readFiles reads the files that SHA256SUMS names, and then itself and its signature.
func (i *Inspection) readFiles(ctx context.Context) error {
	if i.listed == nil {
		return nil
	}
	names := slices.Sorted(maps.Keys(i.listed))
	if i.Folder.Signed() {
		names = append(names, manifests.SignatureName)
	}
	names = append(names, manifests.SumsName)
	files := make([]File, len(names))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readLimit)
	for at, name := range names {
		group.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			path := filepath.Join(i.dir, name)
			info, err := os.Stat(path)
			if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
				return nil
			}
			if err == nil {
				files[at], err = fileOf(path)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for at, name := range names {
		want, listed := i.listed[name]
		switch f := files[at]; {
		case f.Name == "":
			i.Sums = append(i.Sums, Finding{name, RuleMissing, manifests.SumsName + " names it"})
			continue
		case listed && f.SHA256 != want:
			i.Sums = append(i.Sums, Finding{name, RuleChanged, fmt.Sprintf("sha256 is %s, %s says %s", f.SHA256, manifests.SumsName, want)})
		}
		i.Folder.Files = append(i.Folder.Files, files[at])
	}
	for _, name := range i.present {
		if !slices.Contains(names, name) { // a person who put it there expects it to be published
			i.Sums = append(i.Sums, Finding{name, RuleExtra, manifests.SumsName + " does not name it"})
		}
	}
	return nil
}

// readManifest reads manifest.json and compares it with the files and with SHA256SUMS.
func (i *Inspection) readManifest(context.Context) error {
	add := func(name, rule, format string, args ...any) {
		i.Manifest = append(i.Manifest, Finding{name, rule, fmt.Sprintf(format, args...)})
	}
	text, err := i.readDocument(manifests.ManifestName)
	if err != nil {
		return err
	}
	if text == nil {
		if i.listed[manifests.ManifestName] == "" {
			add(manifests.ManifestName, RuleMissing, "the release is not whole: go run ./ci manifest %s writes it", i.dir)
		}
		return nil
	}
	release, err := manifests.Decode(bytes.NewReader(text))
	if err != nil {
		add(manifests.ManifestName, RuleFormat, "%v", err)
		return nil
	}
	i.Folder.Release = release
	canonical, err := manifests.Encode(release)
	if err != nil {
		return err
	}
	if !bytes.Equal(text, canonical) {
		add(manifests.ManifestName, RuleFormat, "not in the canonical form: go run ./ci manifest %s writes it so", i.dir)
	}
	for _, asset := range release.Assets {
		sum, listed := i.listed[asset.Name]
		at := slices.IndexFunc(i.Folder.Files, func(f File) bool { return f.Name == asset.Name })
		switch {
		case !listed && !slices.Contains(i.present, asset.Name):
			add(asset.Name, RuleMissing, "%s names it", manifests.ManifestName)
		case listed && sum != asset.SHA256:
			add(asset.Name, RuleChanged, "%s has another sha256 than %s", manifests.ManifestName, manifests.SumsName)
		case at >= 0 && i.Folder.Files[at].SHA256 == asset.SHA256 && i.Folder.Files[at].Size != asset.Size:
			add(asset.Name, RuleChanged, "%s says that it has %d bytes, and it has %d", manifests.ManifestName, asset.Size, i.Folder.Files[at].Size)
		}
		if asset.URL != asset.Name {
			add(asset.Name, RuleFormat, "%s has it at %s: a release is one flat folder", manifests.ManifestName, asset.URL)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(i.listed)) {
		if _, named := release.Asset(name); !named && !manifests.IsDocument(name) {
			add(name, RuleExtra, "%s does not name it", manifests.ManifestName)
		}
	}
	return nil
}

// Signed reports whether there is a signature.
func (f *Folder) Signed() bool { return f.Signature != nil }

// Size is what all files have together, in bytes.
func (f *Folder) Size() int64 {
	var size int64
	for _, file := range f.Files {
		size += file.Size
	}
	return size
}

// open opens the file for one upload. Its reader never gives the last byte of a file that is not
// what it was.
func (f File) open() (io.ReadCloser, error) {
	r, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	return &sameFile{file: f, r: r, sum: sha256.New(), left: f.Size}, nil
}
