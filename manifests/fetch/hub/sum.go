package hub

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
)

// A sum is the files of one model as one download.
type sum struct {
	name   string
	size   int64   // of all files; negative where one is not known
	there  int64   // what was there before
	had    []int64 // what was there of each file
	parts  []int64 // what is still to come of each file
	began  bool
	source string
}

// sum looks at what of the files is there already.
func (c *Client) sum(name string, files []located) *sum {
	s := &sum{name: name}
	known := true
	for _, f := range files {
		size, there := f.cached.Size, f.cached.Size
		if f.remote != nil {
			size, there = f.remote.size, c.has(f)
		}
		known = known && size >= 0
		s.size += size
		s.there += there
		s.had = append(s.had, there)
		s.parts = append(s.parts, max(size-there, 0))
	}
	if !known {
		s.size = -1
	}
	return s
}

// has says how many bytes of a file are in the cache.
func (c *Client) has(f located) int64 {
	store := c.repository(f.Ref)
	for _, path := range []string{store.pointer(f.remote.commit, f.Ref.Path), store.blob(f.remote.etag)} {
		if info, err := os.Stat(path); err == nil && info.Size() == f.remote.size {
			return info.Size()
		}
	}
	if info, err := os.Stat(store.blob(f.remote.etag) + "." + ownPartial + ".incomplete"); err == nil {
		return min(info.Size(), max(f.remote.size, 0))
	}
	return 0
}

// fits reports whether the disk has room for all that is still to come.
func (s *sum) fits(folder string) error {
	var need int64
	for _, n := range s.parts {
		need += n
	}
	var disk unix.Statfs_t
	at := folder
	err := unix.Statfs(at, &disk)
	for ; errors.Is(err, fs.ErrNotExist) && at != filepath.Dir(at); err = unix.Statfs(at, &disk) {
		at = filepath.Dir(at)
	}
	// A file system that does not say what is free is asked by writing to it.
	if free := int64(disk.Bavail) * int64(disk.Bsize); err == nil && free < need {
		return &transfer.SpaceError{Path: folder, Need: need, Free: free}
	}
	return nil
}

// part makes the progress of file i that of all.
func (s *sum) part(i int, progress func(transfer.Progress)) func(transfer.Progress) {
	before := s.there // and what came of the files before this one
	for _, n := range s.parts[:i] {
		before += n
	}
	return func(p transfer.Progress) {
		if !s.began {
			s.began = true
			progress(transfer.Progress{Name: s.name, Done: s.there, Total: s.size, From: s.there}) // what an earlier run brought
		}
		if p.Source == "" {
			return // it is read again
		}
		s.source = p.Source
		done := before + max(0, p.Done-s.had[i])
		if s.size >= 0 && done >= s.size {
			return // said at the end, when the file is where it belongs
		}
		progress(transfer.Progress{Name: s.name, Done: done, Total: s.size, From: s.there, Source: p.Source})
	}
}
