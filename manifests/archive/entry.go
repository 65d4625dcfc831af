package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// readEntries reads what the tar lists.
func (a *reader) readEntries(t *tar.Reader) error {
	a.folders, a.seen, a.links = map[string]bool{".": true}, map[string]bool{}, map[string]string{}
	a.buffer = make([]byte, 256<<10)
	for count := 1; ; count++ {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("reading the tar: %w", err)
		}
		if count > MaxEntries {
			return fmt.Errorf("it has more than %d entries", MaxEntries)
		}
		if a.checkPlace(h) && a.checkHeader(h) && !a.refused() {
			if err := a.readEntry(h, t); err != nil {
				return err
			}
		}
		if a.refused() {
			return errRefused
		}
	}
	a.contents.Metadata = a.meta.Bytes()
	if !a.seen[a.Top] {
		a.add("", "there is no top folder %s", a.Top)
	} else if !a.seen[path.Join(a.Top, manifests.MetadataName)] {
		a.add(manifests.MetadataName, "it is missing")
	}
	if a.refused() {
		return errRefused
	}
	return a.writeLinks()
}

// checkPlace requires an entry to be in order and in the top folder, however its path is
// interpreted. It reports whether the entry may be read.
func (a *reader) checkPlace(h *tar.Header) bool {
	name := strings.TrimSuffix(h.Name, "/")
	switch depth := 1 + strings.Count(name, "/"); {
	case depth > MaxDepth:
		a.add(h.Name, "it lies %d folders deep, and at most %d are allowed", depth-1, MaxDepth-1)
		return false
	case !isLocal(name) || name != a.Top && !strings.HasPrefix(name, a.Top+"/"):
		a.add(h.Name, "it does not lie in the archive's folder %s", a.Top)
		return false
	case name == a.Top && h.Typeflag != tar.TypeDir:
		a.add(h.Name, "it is not a folder")
		return false
	case a.seen[name]:
		a.add(h.Name, "it is there twice")
		return false
	case !a.folders[path.Dir(name)]: // so that nothing is unpacked through a link
		a.add(h.Name, "its folder is not in the archive")
		return false
	case name < a.last:
		a.add(h.Name, "it comes after %s: names must ascend", shorten(a.last))
	}
	a.seen[name], a.last = true, name
	return true
}

// isLocal reports whether a path stays in the folder that it is relative to, and is in its shortest
// form.
func isLocal(name string) bool {
	return fs.ValidPath(name) && name != "." && !strings.ContainsAny(name, "\\\x00")
}

// checkHeader refuses headers that depend on who packed the archive, where and when. It reports
// whether the entry may be read.
func (a *reader) checkHeader(h *tar.Header) bool {
	if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" {
		a.add(h.Name, "its owner is %d:%d (%q, %q), and must be 0:0 without names", h.Uid, h.Gid, h.Uname, h.Gname)
	}
	if a.contents.Time.IsZero() {
		a.contents.Time = h.ModTime
	}
	if !h.ModTime.Equal(a.contents.Time) {
		a.add(h.Name, "its time is %d, and that of others %d", h.ModTime.Unix(), a.contents.Time.Unix())
	}
	// Nothing but a long name or target needs an extended header. Records of sparse files would
	// have archive/tar make up bytes that are not in the tar, without end.
	for record := range h.PAXRecords {
		if record != "path" && record != "linkpath" {
			a.add(h.Name, "it has the extended header %q; only path and linkpath are expected", record)
			return false
		}
	}
	if left := a.tar.left(); h.Size > left {
		a.add(h.Name, "it has %d bytes, and the tar has only %d left", h.Size, left)
		return false
	}
	return true
}

// The modes that an entry may have.
const (
	modeFile    = "0644"
	modeProgram = "0755"
	modeLink    = "0777"
)

// readEntry reads one entry, and writes it where Into says.
func (a *reader) readEntry(h *tar.Header, r io.Reader) error {
	name := strings.TrimPrefix(strings.TrimPrefix(strings.TrimSuffix(h.Name, "/"), a.Top), "/")
	mode := fmt.Sprintf("%#04o", h.Mode)
	wantMode := func(modes ...string) {
		for _, want := range modes {
			if mode == want {
				return
			}
		}
		a.add(h.Name, "its mode is %s, and must be %s", mode, strings.Join(modes, " or "))
	}
	switch h.Typeflag {
	case tar.TypeDir:
		wantMode(modeProgram)
		a.folders[strings.TrimSuffix(h.Name, "/")] = true
		if a.Into != nil && name != "" && !a.refused() {
			return a.conflict(h.Name, a.Into.Mkdir(name, 0o755))
		}
	case tar.TypeSymlink:
		wantMode(modeLink)
		target := h.Linkname
		if path.IsAbs(target) || target != path.Clean(target) || strings.Contains(target, `\`) || !isLocal(path.Join(path.Dir(name), target)) {
			a.add(h.Name, "the link to %q leaves the archive", target)
			return nil
		}
		a.links[name] = target
		a.contents.Files = append(a.contents.Files, manifests.File{Path: name, Mode: mode, Link: target})
	case tar.TypeReg:
		wantMode(modeFile, modeProgram)
		if name == manifests.MetadataName && h.Size > manifests.MaxSize {
			a.add(h.Name, "it has %d bytes, more than %d", h.Size, manifests.MaxSize)
		} else if !a.refused() {
			return a.readFile(h, r, name, mode)
		}
	default:
		a.add(h.Name, "it is neither a file nor a folder nor a link (type %q)", h.Typeflag)
	}
	return nil
}

// readFile reads a regular file.
func (a *reader) readFile(h *tar.Header, r io.Reader, name, mode string) error {
	to := io.Discard
	var f *os.File
	if a.Into != nil {
		var err error
		if f, err = a.Into.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err != nil {
			return a.conflict(h.Name, err)
		}
		to = localWriter{f}
	}
	if name == manifests.MetadataName {
		to = io.MultiWriter(to, &a.meta)
	}
	sum := NewDigester(to)
	_, err := io.CopyBuffer(sum, r, a.buffer)
	if f != nil {
		if err == nil {
			err = local(f.Chmod(fs.FileMode(h.Mode) & 0o755)) // whatever the umask is
		}
		err = errors.Join(err, local(f.Close()))
	}
	if err != nil {
		return err
	}
	digest := sum.Digest()
	a.contents.Files = append(a.contents.Files, manifests.File{Path: name, Size: digest.Size, Mode: mode, SHA256: digest.SHA256})
	return nil
}

// writeLinks makes the links, once all files are there: nothing is written through one.
func (a *reader) writeLinks() error {
	if a.Into == nil {
		return nil
	}
	for name, target := range a.links {
		if err := a.conflict(name, a.Into.Symlink(target, name)); err != nil {
			return err
		}
	}
	return nil
}

// conflict turns an error of making an entry into a finding, if the file system says that the entry
// cannot be there, and into this machine's if not.
func (a *reader) conflict(entry string, err error) error {
	for _, cause := range []error{syscall.EEXIST, syscall.ENOTDIR, syscall.EISDIR, syscall.ENAMETOOLONG, syscall.ELOOP} {
		if errors.Is(err, cause) {
			a.add(entry, "%v", cause)
			return nil
		}
	}
	return local(err)
}
