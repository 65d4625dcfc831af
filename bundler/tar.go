package bundler

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/archive"
)

// A layout is the content of an archive: what writeTar turns into the same bytes wherever and
// whenever it is called.
type layout struct {
	top   string // the one top folder
	files []manifests.File
	fsys  fs.FS
	// described is metadata.json, which lies in the top folder but in no tree.
	described []byte
	epoch     time.Time
}

// writeTar writes the layout: names ascending, every folder before what is in it, owner 0:0, fixed
// modes, one time. Each file is hashed while it is written and compared with the list, so that a
// tree which changes meanwhile cannot be packed.
func (l layout) writeTar(ctx context.Context, w io.Writer) error {
	byPath := make(map[string]manifests.File)
	names := []string{path.Join(l.top, manifests.MetadataName)}
	folders := map[string]bool{l.top: true}
	for _, f := range l.files {
		name := path.Join(l.top, f.Path)
		byPath[name] = f
		names = append(names, name)
		for dir := path.Dir(name); !folders[dir]; dir = path.Dir(dir) {
			folders[dir] = true
		}
	}
	for dir := range folders {
		names = append(names, dir)
	}
	slices.Sort(names)
	tw := tar.NewWriter(w)
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		if f, listed := byPath[name]; listed {
			err = l.writeFile(ctx, tw, name, f)
		} else if folders[name] {
			err = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: l.epoch})
		} else {
			err = l.writeDescription(tw, name)
		}
		if err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
	}
	return tw.Close()
}

func (l layout) writeDescription(tw *tar.Writer, name string) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(l.described)), ModTime: l.epoch}
	if err := tw.WriteHeader(header); err != nil {
		return err
	}
	_, err := tw.Write(l.described)
	return err
}

func (l layout) writeFile(ctx context.Context, tw *tar.Writer, name string, f manifests.File) error {
	mode, err := strconv.ParseInt(f.Mode, 8, 64)
	if err != nil {
		return err
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: f.Size, ModTime: l.epoch}
	if f.Link != "" {
		header.Typeflag, header.Linkname = tar.TypeSymlink, f.Link
	}
	if err := tw.WriteHeader(header); err != nil {
		return err
	}
	if f.Link != "" {
		return nil
	}
	src, err := l.fsys.Open(f.Path)
	if err != nil {
		return err
	}
	defer src.Close()
	h := sha256.New()
	n, err := io.Copy(tw, io.TeeReader(archive.WithContext(ctx, src), h))
	if err != nil && n != f.Size {
		return err
	}
	if sum := hex.EncodeToString(h.Sum(nil)); err != nil || n != f.Size || sum != f.SHA256 {
		return &AuditError{Name: l.top, Findings: []Finding{{
			Rule: RuleMetadata, Path: f.Path,
			Detail: fmt.Sprintf("the file is changed: its %d bytes have sha256 %s, described were %d with %s", n, sum, f.Size, f.SHA256),
		}}}
	}
	return nil
}

// digestTar is the hash and size of the layout's tar, without keeping it.
func (l layout) digestTar(ctx context.Context) (manifests.Digest, error) {
	d := archive.NewDigester(io.Discard)
	if err := l.writeTar(ctx, d); err != nil {
		return manifests.Digest{}, err
	}
	return d.Digest(), nil
}
