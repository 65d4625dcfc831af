package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/archive"
)

// An ArchiveError is an archive whose digest holds and whose content is not what it must be. It is
// a security error: nothing of it was installed.
type ArchiveError struct {
	Name    string // the asset's
	Entry   string // the path inside; empty where it is the archive as a whole
	Problem string
}

func (e *ArchiveError) Error() string {
	if e.Entry == "" {
		return fmt.Sprintf("unpacking %s: %s", e.Name, e.Problem)
	}
	return fmt.Sprintf("unpacking %s: %q: %s", e.Name, e.Entry, e.Problem)
}

// refuse returns the first finding as an ArchiveError, nil where there is none.
func refuse(a manifests.Artifact, findings []Finding) error {
	if len(findings) == 0 {
		return nil
	}
	return &ArchiveError{Name: a.Name, Entry: findings[0].Path, Problem: findings[0].Detail}
}

// A Stage is an archive on its way into the store.
type Stage struct {
	locked   *Locked
	asset    manifests.Artifact
	dir      string // empty before Unpack
	contents *archive.Contents
}

// Stage begins to unpack an archive of the release.
func (l *Locked) Stage(a manifests.Artifact) (*Stage, error) {
	if a.Tar.Size > archive.MaxUnpacked {
		problem := fmt.Sprintf("the manifest says that it unpacks to %d bytes; at most %d are allowed", a.Tar.Size, int64(archive.MaxUnpacked))
		return nil, &ArchiveError{Name: a.Name, Problem: problem}
	}
	return &Stage{locked: l, asset: a}, nil
}

// Close removes what was not adopted.
func (s *Stage) Close() error {
	dir := s.dir
	s.dir = ""
	return os.RemoveAll(dir)
}

// unpacked is the folder that the archive's top folder becomes.
func (s *Stage) unpacked() string { return filepath.Join(s.dir, s.asset.Top()) }

// Unpack unpacks the archive's bytes, from the first on; called again, it starts over. It does not
// check the digest of these bytes; the caller must, before Adopt. An archive that package archive
// has a finding on is an *ArchiveError.
func (s *Stage) Unpack(ctx context.Context, r io.Reader) error {
	if err := s.Close(); err != nil {
		return err
	}
	var err error
	if s.dir, err = os.MkdirTemp(s.locked.path(stagingDir), s.asset.Top()+"-"); err != nil {
		return err
	}
	if err := os.Mkdir(s.unpacked(), 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(s.unpacked())
	if err != nil {
		return err
	}
	defer root.Close()
	s.contents, err = archive.Read(ctx, r, archive.Options{Format: s.asset.Format, Top: s.asset.Top(), Into: root, Tar: s.asset.Tar})
	var write *archive.WriteError
	if errors.As(err, &write) {
		return fmt.Errorf("unpacking %s: %w", s.asset.Name, err)
	}
	if err != nil {
		return err
	}
	return refuse(s.asset, s.contents.Findings)
}

// Adopt verifies that the unpacked files are those that the manifest and the bundle's own
// metadata.json list, and moves them to their place in the store, which Folder names. The caller
// has verified the digest of the archive. A bundle gets the links by which it finds the libraries
// of these names, once Link says where they are.
func (s *Stage) Adopt(runtimeNames []string) error {
	if err := refuse(s.asset, s.compare()); err != nil {
		return err
	}
	target := s.locked.path(folder(s.asset))
	if s.asset.Kind == manifests.KindBundle {
		if err := linkRuntime(s.unpacked(), target, runtimeNames); err != nil {
			return fmt.Errorf("linking %s: %w", s.asset.Name, err)
		}
	}
	// One call writes all of the file system's dirty pages: much faster than one fsync for each of
	// the files.
	dir, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close()); err != nil {
		return fmt.Errorf("writing %s to disk: %w", s.asset.Name, err)
	}
	if err := s.locked.put(s.unpacked(), target); err != nil {
		return err
	}
	return s.Close()
}

// compare compares what was unpacked with what the manifest and the bundle's own metadata.json say.
func (s *Stage) compare() []Finding {
	if s.asset.Kind == manifests.KindCUDART {
		return archive.CompareFiles(s.contents.Files, s.asset.Libraries)
	}
	meta, findings := s.contents.Bundle(s.asset.Stem())
	if meta == nil {
		return findings
	}
	return append(archive.CompareMetadata(*meta, s.asset), findings...)
}
